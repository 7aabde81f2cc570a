"""Putting the parts of one daemon's training together, and having it follow the ledger."""

from collections.abc import Callable
from importlib.util import find_spec

from protocols.learn.replica_ports import ReplicaSettings
from synapsed.compute.compute import Compute
from synapsed.compute.environment import NEEDED
from synapsed.config.options import Config
from synapsed.ledger.service import LedgerService
from synapsed.net import Net
from synapsed.paths import Paths
from synapsed.ports import Identity
from synapsed.process import supervise
from synapsed.reach import Reach
from synapsed.store import Store
from synapsed.training.ground import Ground, Replicas, ground_of
from synapsed.training.materials import Materials
from synapsed.training.places import place_by_ledger
from synapsed.training.service import TrainingService, TrainingSettings
from synapsed.training.way import RoundTrip
from synapsed.transfer.limits import Uploads
from synapsed.transfer.pull import Puller


def compose(
    config: Config,
    paths: Paths,
    identity: Identity,
    *,
    net: Net,
    reach: Reach,
    store: Store,
    puller: Puller,
    uploads: Uploads,
    ledger: LedgerService,
    compute: Compute,
    emit: supervise.Emit,
) -> TrainingService:
    """The service, which follows `ledger`. Raises StoreError."""
    wishes = config.training
    service = TrainingService(
        paths.training,
        net,
        reach.connect,
        identity,
        emit,
        materials=Materials(store, puller),
        compute=compute,
        place=place_by_ledger,
        settings=TrainingSettings(
            serve=wishes.serve,
            disk=int(wishes.disk),
            replicas=ReplicaSettings(beat_ms=max(1, int(float(wishes.beat) * 1000))),
            margin_ms=int(float(wishes.clocks) * 1000),
        ),
        grant=uploads.grant,
        can_lead=lambda: not compute.paused and is_installed(),
        round_trip=pinged(net, reach),
    )
    changed = follower(ledger, service)
    ledger.on_changed.append(changed)

    async def look() -> None:
        await ledger.wait_loaded()
        changed()

    service.first_look = look
    return service


def pinged(net: Net, reach: Reach) -> RoundTrip:
    """Round trips by pings of our own: the book's averages are half a minute behind a link."""

    async def round_trip(peer: bytes, dial: bool) -> float | None:
        if dial:
            await reach.connect(peer)
        elif net.peer(peer) is None:
            return None
        return await net.ping(peer)

    return round_trip


def is_installed() -> bool:
    """Whether what computing needs is there."""
    return all(find_spec(name) is not None for name in NEEDED)


def follower(ledger: LedgerService, service: TrainingService) -> Callable[[], None]:
    """What tells the service of the ledger. Most entries say nothing of training, and what is
    looked at is replaced, never written to: then only the time is new."""
    seen: tuple[object, ...] = ()
    ground: Ground | None = None

    def changed() -> None:
        nonlocal seen, ground
        if not ledger.loaded:
            return
        state = ledger.ledger
        now = (state.council, state.members, state.trainings, state.exclusions)
        if ground is None or any(old is not new for old, new in zip(seen, now, strict=True)):
            seen, ground = now, ground_of(state)
        else:
            ground = Ground(
                realm=ground.realm,
                index=state.head.index,
                tick_ms=state.time,
                drawn=ground.drawn,
                past=ground.past,
                trainings=ground.trainings,
                excluded=ground.excluded,
            )
        service.follow(ground)

    return changed


def replicas_of(service: TrainingService) -> Callable[[bytes, int, int], tuple[Replicas, ...]]:
    """Who serves each group of a lineage in an epoch, for whoever checks rounds (proof.py)."""
    return service.places.groups
