"""One node: its parts put together, and run until it is told to stop.

    store ── catalog ─┐            gossip, reconciliation
      │      liveness ├── net      heartbeats
      │      puller ──┘            streams of blocks, both ways
      ├───── shards                what we announce
      ├───── replicator, replicas  what is repaired, and how much of it is kept for others
      ├───── evictor, adapters     what of it gives way to the owner, and which adapters are held
      └───── ledger, in_force      what the network decides, where a genesis is here, and what of
      │                            it holds here
      ├───── compute, training     models that learn: groups that we serve, and what we learn
      └───── board, upgrades       which version of each slot answers, and how it comes here

Read next: driver.py for how a protocol's machine is carried out, parts.py for the list of parts,
overview.py and library.py for what the control socket asks of them.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import trio

from protocols.gossip.heartbeat import Counters
from protocols.slots.closed_list import SLOTS
from protocols.tensors import blocks
from protocols.transfer import replication
from synapsed.authoring.verdict import check_apart
from synapsed.compute.compute import Compute
from synapsed.compute.keeper import ComputeSettings
from synapsed.config.inforce import InForce
from synapsed.config.options import Config, Loaded
from synapsed.control.meters import MessageMeter
from synapsed.control.server import serve_control
from synapsed.gossip.catalog import CatalogService
from synapsed.gossip.liveness import LivenessService
from synapsed.holdings.adapters import Adapters
from synapsed.holdings.elsewhere import Network
from synapsed.holdings.eviction import Evictor
from synapsed.holdings.replicas import Declined, Replicas
from synapsed.holdings.replicator import Replicator
from synapsed.holdings.shards import Shards
from synapsed.holdings.sources import CatalogSources
from synapsed.holdings.uses import Uses
from synapsed.jail.jail import Jail
from synapsed.keys import Identity, verify
from synapsed.ledger.examiner import Examiner
from synapsed.ledger.service import Founded, LedgerService, open_founded
from synapsed.net import Net, NetSettings, PeerBook, open_net
from synapsed.owner.overview import AGENT, Overview
from synapsed.owner.upgrading import Upgrading
from synapsed.parts import Parts
from synapsed.paths import Paths
from synapsed.process.events import Event, EventBus
from synapsed.process.looplag import LoopLag
from synapsed.process.supervise import Emit, supervise
from synapsed.process.tally import Tally
from synapsed.reach import Reach
from synapsed.store import Store
from synapsed.store.errors import disk_errors
from synapsed.training import compose as training_of
from synapsed.training.judge import Judge
from synapsed.training.owner import Training
from synapsed.training.proof import Proof
from synapsed.training.service import TrainingService
from synapsed.training.tally import TrainingTally
from synapsed.transfer.limits import Uploads
from synapsed.transfer.pull import Puller
from synapsed.transfer.serve import MAX_STREAMS_PER_PEER, BlockServer
from synapsed.upgrades import compose as upgrades_of
from synapsed.upgrades.board import Board
from synapsed.upgrades.modules import RESTORE_SECONDS
from synapsed.upgrades.service import UpgradeService
from synapsed.upgrades.soundness import Soundness

log = logging.getLogger(__name__)

MEASURE_SECONDS = 60.0
"""Between two readings of the round trips: an epoch needs one, and takes a day."""
METER_SECONDS = 1.0
"""Between two readings of the message counts: a tenth of the window that rates are over."""


class Facade(Overview, Upgrading, Training):
    """NodeApi: what the control socket asks of a node."""


async def run_node(
    loaded: Loaded,
    paths: Paths,
    identity: Identity,
    *,
    ready: Callable[[], None],
    stop: trio.Event,
    beside: Callable[[Parts], Awaitable[None]] | None = None,
) -> None:
    """Run a node until `stop`; `ready` is called when it listens and can be asked.

    `beside` runs next to its services (benches make their load there). Raises StoreError,
    GenesisError, WrongGenesisError, ListenError, AddressError, SocketNotOursError.
    """
    bus = EventBus()
    bus.settle()
    tally = Tally(bus)
    lag = LoopLag()
    trio.lowlevel.add_instrument(lag)
    config = loaded.config
    with ExitStack() as stack:
        opened = Store.open(paths.store, int(config.store.quota), on_event=bus.emit)
        store = stack.enter_context(closing(opened))
        founded = open_founded(config.network, paths, bus.emit)
        if founded is not None:
            stack.enter_context(closing(founded.store))
        book = PeerBook(store.table("peers", durable=False))
        board = Board(SLOTS, bus.emit)
        async with open_net(
            net_settings(config), identity, config.network, book, bus.emit, slots=board
        ) as net:
            parts = compose(
                loaded,
                paths,
                identity,
                bus=bus,
                store=store,
                net=net,
                tally=tally,
                lag=lag,
                board=board,
                founded=founded,
            )
            if parts.training is not None:
                stack.enter_context(closing(parts.training))
            await _run(parts, ready, stop, beside)


def net_settings(config: Config) -> NetSettings:
    """The [net] section, as the net has it."""
    net = config.net
    return NetSettings(
        listen=net.listen,
        announce=net.announce,
        dial_from=net.dial_from,
        bootstrap=net.bootstrap,
        mdns=net.mdns,
        dht=net.dht,
        target_peers=net.target_peers,
        max_connections=net.max_connections,
        score_seconds=float(net.score_interval),
    )


def compose(
    loaded: Loaded,
    paths: Paths,
    identity: Identity,
    *,
    bus: EventBus,
    store: Store,
    net: Net,
    tally: Tally,
    lag: LoopLag,
    board: Board,
    founded: Founded | None,
) -> Parts:
    """Put the parts together; nothing runs yet."""
    config = loaded.config
    reach = Reach(net)
    uploads = Uploads(int(config.limits.upload))
    catalog = CatalogService(
        net, identity, config.network, store.table("catalog", durable=False), bus.emit
    )
    liveness = LivenessService(
        net,
        identity,
        config.network,
        bus.emit,
        agent=AGENT,
        interval=float(config.liveness.interval),
        counters=lambda: _counters(config, store, uploads, puller, replicas),
        learned=net.learned,
    )
    sources = CatalogSources(catalog, net, liveness.is_alive)
    puller = Puller(
        identity.peer_id,
        store,
        reach,
        sources,
        blame=net.blame,
        credit=net.book.transferred,
        slots=board,
    )
    shards = _shards(store, catalog, puller)
    replicas = Replicas(store, Declined(store.table("declined")), shards.changed)
    replicator = Replicator(
        identity.peer_id,
        _replication_settings(config),
        puller,
        replicas,
        holders=catalog.catalog.holders,
        room=lambda: _room(liveness),
        blame=net.blame,
        tell=bus.emit,
    )
    rates = {"limits.upload": uploads.set_rate, "limits.download": puller.downloads.set_rate}
    puller.downloads.set_rate(int(config.limits.download))
    in_force = InForce(loaded, lambda name, value: rates[name](value))
    ledger = None
    if founded is not None:
        ledger = LedgerService(
            net,
            reach.connect,
            identity,
            founded,
            bus.emit,
            willing=config.council.willing,
            keep_all=config.ledger.keep == "all",
        )
    elsewhere = Network(net, catalog, liveness, replicator)
    uses = Uses(store.table("uses", durable=False))
    wanted = _replication_settings(config)
    evictor = Evictor(
        store,
        replicas,
        elsewhere,
        uses,
        wanted=wanted.copies,
        changed=shards.changed,
        tell=bus.emit,
        slots=board,
    )
    adapters = Adapters(
        store,
        catalog,
        puller,
        replicas,
        elsewhere,
        me=identity.peer_id,
        wanted=wanted.copies,
        hold=wanted.hold,
        reputation=lambda: {} if ledger is None else ledger.ledger.reputation,
        tell=bus.emit,
        slots=board,
    )
    evictor.on_gone.append(adapters.gone)
    jail, upgrades = None, None
    if ledger is not None:
        with disk_errors(paths.jail, "preparing the jail in"):
            jail = Jail(paths.jail, bus.emit, allow_weaker=config.upgrades.allow_weaker_jail)
        upgrades = upgrades_of.compose(
            config,
            paths,
            identity,
            store=store,
            puller=puller,
            evictor=evictor,
            ledger=ledger,
            board=board,
            jail=jail,
            emit=bus.emit,
        )
    compute = _compute(config, bus.emit)
    training = None
    if ledger is not None:
        training = training_of.compose(
            config,
            paths,
            identity,
            net=net,
            reach=reach,
            store=store,
            puller=puller,
            uploads=uploads,
            ledger=ledger,
            compute=compute,
            emit=bus.emit,
        )
    learned = TrainingTally()
    bus.observe(learned.heard)
    proof = _proof(config, paths, store, puller, compute, ledger=ledger, training=training)
    judge = _judge(paths, store, puller, compute, ledger=ledger, training=training)
    examiner = _examiner(config, store, puller, ledger, tell=bus.emit, proof=proof, judge=judge)
    return Parts(
        loaded=loaded,
        paths=paths,
        identity=identity,
        started=time.time(),
        bus=bus,
        tally=tally,
        meter=MessageMeter(),
        lag=lag,
        store=store,
        net=net,
        reach=reach,
        catalog=catalog,
        liveness=liveness,
        uploads=uploads,
        puller=puller,
        pulls=trio.CapacityLimiter(config.limits.max_pulls),
        shards=shards,
        replicas=replicas,
        replicator=replicator,
        uses=uses,
        evictor=evictor,
        adapters=adapters,
        in_force=in_force,
        examiner=examiner,
        board=board,
        ledger=ledger,
        jail=jail,
        compute=compute,
        training=training,
        learned=learned,
        upgrades=upgrades,
    )


def _compute(config: Config, emit: Emit) -> Compute:
    wishes = config.compute
    settings = ComputeSettings(
        threads=wishes.threads,
        memory=int(wishes.memory),
        device=wishes.device,
        server=Path(wishes.server) if wishes.server else None,
    )
    return Compute(emit, settings)


def _proof(
    config: Config,
    paths: Paths,
    store: Store,
    puller: Puller,
    compute: Compute,
    *,
    ledger: LedgerService | None,
    training: TrainingService | None,
) -> Proof | None:
    """What evaluates checkpoints, where a council could ask for it."""
    if ledger is None or training is None:
        return None
    scratch = paths.training / "proof"
    with disk_errors(scratch, "preparing"):
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Proof(
        store,
        puller,
        compute,
        lambda: ledger.ledger,
        replicas=training.places.groups,
        verify=verify,
        scratch=scratch,
        probe=Path(config.training.probe) if config.training.probe else None,
    )


def _judge(
    paths: Paths,
    store: Store,
    puller: Puller,
    compute: Compute,
    *,
    ledger: LedgerService | None,
    training: TrainingService | None,
) -> Judge | None:
    """What recomputes what somebody is accused of, where a council could ask for it."""
    if ledger is None or training is None:
        return None
    scratch = paths.training / "cases"
    with disk_errors(scratch, "preparing"):
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Judge(
        store,
        puller,
        compute,
        lambda: ledger.ledger,
        replicas=training.places.groups,
        verify=verify,
        scratch=scratch,
    )


def _examiner(
    config: Config,
    store: Store,
    puller: Puller,
    ledger: LedgerService | None,
    *,
    tell: Emit,
    proof: Proof | None,
    judge: Judge | None,
) -> Examiner:
    if ledger is None:
        return Examiner(puller, _nobody)
    check = partial(check_apart, allow_weaker=config.upgrades.allow_weaker_jail)
    soundness = Soundness(store, puller, lambda: ledger.ledger, check)
    return Examiner(puller, ledger.examined, soundness, tell, proof, judge=judge)


def _counters(
    config: Config, store: Store, uploads: Uploads, puller: Puller, replicas: Replicas
) -> Counters:
    """What our heartbeats say of us: no room for others where we would not repair."""
    repairs = _replication_settings(config).hold and not puller.paused
    free = replicas.free if repairs else 0
    return Counters(held=store.quota.used, free=free, upload=uploads.rate)


def _room(liveness: LivenessService) -> dict[bytes, int]:
    """What each live daemon, this one too, says it may still hold for others."""
    return {
        peer.heartbeat.issuer: peer.heartbeat.counters.free
        for peer in liveness.liveness.peers(time.time())
    }


def _replication_settings(config: Config) -> replication.Settings:
    wishes = config.replication
    return replication.Settings(
        copies=wishes.copies,
        hold=wishes.hold and wishes.repair,
        probe_interval=float(wishes.probe_interval),
    )


def _shards(store: Store, catalog: CatalogService, puller: Puller) -> Shards:
    def withdraw(model: bytes) -> None:
        if catalog.catalog.own("shard", model) is not None:
            catalog.withdraw("shard", model)

    return Shards(store, catalog.announce, withdraw, wanted=puller.is_pulling)


async def _run(
    parts: Parts,
    ready: Callable[[], None],
    stop: trio.Event,
    beside: Callable[[Parts], Awaitable[None]] | None,
) -> None:
    """Run all services until `stop`, then say goodbye."""
    parts.catalog.on_changed.append(lambda kind, subject: _catalog_changed(parts, kind, subject))
    parts.bus.observe(lambda event: _store_changed(parts, event))
    server = BlockServer(
        parts.store, parts.uploads, parts.puller, parts.net.blame, gave=parts.uses.gave
    )
    parts.net.serve(blocks.PROTOCOL, server.handle, MAX_STREAMS_PER_PEER)
    services: dict[str, Callable[[], Awaitable[None]]] = {
        "catalog": parts.catalog.run,
        "liveness": parts.liveness.run,
        "uploads": parts.uploads.run,
        "shards": parts.shards.run,
        "replicas": parts.replicas.run,
        "replicator": parts.replicator.run,
        "evictor": parts.evictor.run,
        "adapters": parts.adapters.run,
        "meter": lambda: _meter(parts),
        "compute": parts.compute.run,
    }
    if parts.ledger is not None:
        services |= _ledger_services(parts, parts.ledger)
    if parts.training is not None:
        services["training"] = parts.training.run
    if parts.upgrades is not None and parts.jail is not None:
        services |= {"upgrades": parts.upgrades.run, "jail": parts.jail.run}
    if beside is not None:
        services["beside"] = lambda: beside(parts)
    async with trio.open_nursery() as nursery:
        if parts.ledger is not None and parts.upgrades is not None:
            first = services.pop("ledger")
            nursery.start_soon(supervise, "ledger", first, parts.bus.emit)
            await _unless(stop, partial(_restore, parts.ledger, parts.upgrades))
        for name, run in services.items():
            nursery.start_soon(supervise, name, run, parts.bus.emit)
        await parts.catalog.restored()
        me = parts.identity.peer_id
        parts.shards.all_changed(
            entry.subject for entry in parts.catalog.catalog.entries("shard") if entry.issuer == me
        )
        socket = parts.paths.socket_at(parts.loaded.config.control.socket)
        facade = Facade(parts)
        await nursery.start(serve_control, facade, socket)
        nursery.start_soon(supervise, "checkpoints", facade.propose_by_itself, parts.bus.emit)
        nursery.start_soon(supervise, "accusations", facade.accuse_by_itself, parts.bus.emit)
        ready()
        await stop.wait()
        parts.compute.closing()
        await parts.liveness.leave()
        nursery.cancel_scope.cancel()


async def _restore(ledger: LedgerService, upgrades: UpgradeService) -> None:
    """Have what the ledger says answer from the first call on."""
    with trio.move_on_after(RESTORE_SECONDS):
        await ledger.wait_loaded()
    await upgrades.restore()


async def _unless(stop: trio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, and leave it undone when `stop` comes first."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await work()
        nursery.cancel_scope.cancel()


def _ledger_services(
    parts: Parts, ledger: LedgerService
) -> dict[str, Callable[[], Awaitable[None]]]:
    """What runs where a genesis is here."""

    def changed() -> None:
        parts.in_force.advanced(ledger.ledger)
        favourites = frozenset(seat.identity for seat in ledger.ledger.council.seats)
        parts.net.book.favourites = favourites if ledger.machine.seat is not None else frozenset()

    changed()
    ledger.on_changed.append(changed)
    ledger.on_examine.append(parts.examiner.ask)

    async def measure() -> None:
        while True:
            ledger.measured(_round_trips(parts))
            await trio.sleep(MEASURE_SECONDS)

    return {"ledger": ledger.run, "examiner": parts.examiner.run, "round-trips": measure}


def _round_trips(parts: Parts) -> dict[bytes, int]:
    """Milliseconds to each peer that we are connected to, as pings have found."""
    return {
        peer.id: max(1, round(peer.rtt * 1e3)) for peer in parts.net.peers() if peer.rtt is not None
    }


def _nobody(_proposal: bytes, _holds: bool) -> None:
    """Without a ledger nobody asks."""


def _catalog_changed(parts: Parts, kind: str, subject: bytes) -> None:
    if kind == "shard":
        parts.replicator.holders_changed(subject)
    parts.examiner.offered(subject)


async def _meter(parts: Parts) -> None:
    """Carry the net's counts of messages into the meter that the owner reads."""
    seen: dict[tuple[str, str], int] = {}
    while True:
        totals = parts.net.messages
        for (direction, kind), count in totals.items():
            new = count - seen.get((direction, kind), 0)
            if new:
                parts.meter.count("in" if direction == "in" else "out", kind, new)
        seen = totals
        await trio.sleep(METER_SECONDS)


def _store_changed(parts: Parts, event: Event) -> None:
    if event.kind == "store.damaged":  # less is here than we have announced
        parts.shards.all_changed()
