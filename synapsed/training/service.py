"""Training among peers: every model that the ledger has learn, as far as this daemon takes part.

    ledger    which models, by which plan, and who serves which group      (ground.py)
    Lineage   one model: its groups here, its learner                      (lineage.py)
    Host      a group of which this daemon is one of three replicas        (host.py)
    Study     a learner                                                    (study.py)
    Links     messages;  Exchange: blobs                                   (links.py, exchange.py)

On disk, under <home>/training: records.db has logs, records, chains and what was joined; a folder
for each lineage has its blobs and versions (blobs.py). Both are synced before anything that
depends on them is said; a daemon that was killed comes up with what it had said that it has.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import trio

from protocols.cid import cid_text
from protocols.errors import LimitError, MalformedError, SynapseError
from protocols.gossip.peerscore import Fault
from protocols.learn import messages, replica_messages
from protocols.learn.replica_birth import MARGIN_MS, Birth
from protocols.learn.replica_ports import BIRTH, TABLE, ReplicaSettings, Ticked
from protocols.peerid import peer_id_text
from synapsed.keys import verify
from synapsed.ports import Identity, Net
from synapsed.process import supervise
from synapsed.store.db import Change, CorruptDatabaseError, Database, set_aside
from synapsed.store.errors import disk_errors
from synapsed.training.blobs import Blobs
from synapsed.training.errors import NoTrainingError
from synapsed.training.exchange import Exchange, Grant, Role, Traffic, at_once
from synapsed.training.ground import Ground, Place, Places
from synapsed.training.lineage import Lineage
from synapsed.training.links import TILE, Links
from synapsed.training.materials import Materials
from synapsed.training.post import Computing, Post
from synapsed.training.said import TalkSaid
from synapsed.training.way import RoundTrip, no_round_trip

log = logging.getLogger(__name__)

PLACES = "learn-places"
"""Of the records' database: the epochs' members (ground.py)."""
MAX_ATTENDED, MAX_OF_ONE = 2048, 256
"""Tasks that messages began (blobs on their way, mostly), of all peers and of one: a claim of 64
groups begins 64, and their rounds' results as many. Beyond, what comes is dropped, and said again
by its sender."""


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The [training] section."""

    serve: bool = True
    disk: int = 20 << 30
    replicas: ReplicaSettings = ReplicaSettings()
    margin_ms: int = MARGIN_MS
    """By which clocks may be wrong (replica_birth.py)."""
    audit_one_in: int | None = None
    """One in so many of regions' sums is recomputed here; None: as audit.odds has it."""


def open_records(path: Path, emit: supervise.Emit) -> Database:
    """The records' database. One that is damaged is moved aside: what it had promised is lost, so
    this daemon's replicas take no part until the next epoch (CONSENSUS.md, rule 4). StoreError."""
    with disk_errors(path, "opening"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return Database(path)
    except CorruptDatabaseError as error:
        kept = set_aside(path)
        emit("training.lost", path=str(path), kept=str(kept), why=error.message)
        return Database(path)


class TrainingService:
    """One daemon's. Everything here runs in the trio thread."""

    def __init__(
        self,
        folder: Path,
        net: Net,
        connect: Callable[[bytes], Awaitable[None]],
        identity: Identity,
        emit: supervise.Emit,
        *,
        materials: Materials,
        compute: Computing,
        place: Place,
        settings: TrainingSettings | None = None,
        grant: Grant = at_once,
        can_lead: Callable[[], bool] = lambda: True,
        round_trip: RoundTrip = no_round_trip,
    ) -> None:
        """`connect` dials a peer or raises NetError; `can_lead` says whether the worker computes.

        Raises StoreError.
        """
        self.settings = settings or TrainingSettings()
        self.traffic = Traffic()
        self.lineages: dict[bytes, Lineage] = {}
        self.ground: Ground | None = None
        self.first_look: Callable[[], Awaitable[None]] | None = None
        """Tells us once of what the ledger says already, when that is loaded: `follow` is told of
        changes, and after a restart there may be none for a while."""
        self.records = open_records(folder / "records.db", emit)
        self.exchange = Exchange(net, connect, self.traffic, grant)
        self.exchange.on_missing = self._missing
        self.exchange.role_of = self._role_of
        self.links = Links(net, connect, self._fellow, self.traffic)
        net.on_peer(lambda _peer: None, self._lost)
        self.places = Places(self.records.table(PLACES), place)
        birth = self.records.table(TABLE).get(BIRTH)
        self._birth = Birth({} if birth is None else {BIRTH: birth}, self.settings.margin_ms)
        self._folder = folder
        self._identity = identity
        self._materials = materials
        self._compute = compute
        self._emit = emit
        self._blame = net.blame
        self._can_lead = can_lead
        self._round_trip = round_trip
        self._nursery: trio.Nursery | None = None
        self._attending: Counter[bytes] = Counter()
        self._scopes: dict[bytes, trio.CancelScope] = {}

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self.records.close()

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part until cancelled. May be run again after it has failed."""
        self._scopes.clear()
        self.lineages.clear()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.links.run)
                nursery.start_soon(self._hear)
                if self.first_look is not None:
                    nursery.start_soon(self.first_look)
                if self.ground is not None:
                    self.follow(self.ground)
        finally:
            self._nursery = None

    def follow(self, ground: Ground) -> None:
        """What the ledger says now. Must be told after every change of the ledger."""
        before, self.ground = self.ground, ground
        changed = [self.places.note(drawn) for drawn in (*ground.past, ground.drawn)]
        self._be_born(ground)
        if self._nursery is None:
            return
        for lineage, terms in ground.trainings.items():
            found = self.lineages.get(lineage)
            if found is None:
                self._begin(lineage)
            elif found.terms.plan != terms.plan:
                self._anew(lineage)
            elif any(changed) or before is None or before.trainings.get(lineage) != terms:
                found.turn(terms)
        for one in self.lineages.values():
            one.exclude(ground.excluded)
        if before is None or before.tick_ms != ground.tick_ms or before.index != ground.index:
            for one in self.lineages.values():
                one.tick(ground.index, ground.tick_ms)

    def _begin(self, lineage: bytes) -> None:
        """Take part in a training that is new here."""
        assert self._nursery is not None
        assert self.ground is not None
        blobs = Blobs(self._folder / cid_text(lineage), self.settings.disk)
        self.exchange.shelves[lineage] = blobs
        post = Post(
            lineage=lineage,
            realm=self.ground.realm,
            identity=self._identity,
            verify=verify,
            blobs=blobs,
            records=self.records,
            links=self.links,
            exchange=self.exchange,
            compute=self._compute,
            emit=self._emit,
            blame=self._blame,
            spawn=self._spawn,
            attend=self._attend,
            now=now_ms,
            deliver=self._deliver_soon,
        )
        one = self.lineages[lineage] = Lineage(
            post,
            self.ground.trainings[lineage],
            self.places,
            self._materials,
            self.settings.replicas,
            serve=self.settings.serve,
            born=self._born,
            can_lead=self._can_lead,
            round_trip=self._round_trip,
            audit_one_in=self.settings.audit_one_in,
        )
        one.tick(self.ground.index, self.ground.tick_ms)
        scope = self._scopes[lineage] = trio.CancelScope()
        self._nursery.start_soon(self._take_part, one, scope)

    async def _take_part(self, one: Lineage, scope: trio.CancelScope) -> None:
        with scope:
            await one.run()

    def _anew(self, lineage: bytes) -> None:
        """Another plan: everything about a lineage begins again from its disk."""
        self._scopes.pop(lineage).cancel()
        self._emit("training.replanned", model=cid_text(lineage))
        self._begin(lineage)

    def _be_born(self, ground: Ground) -> None:
        """Find out since when this disk remembers everything, once."""
        if self._birth.index is not None:
            return
        ticked = Ticked(ground.index, ground.tick_ms, int(time.time() * 1000))
        saves = self._birth.ticked(ticked)
        if saves:
            self.records.save([Change(save.table, save.key, save.value) for save in saves])
            for lineage in self.lineages.values():
                lineage.stir()

    def _born(self) -> int | None:
        return self._birth.index

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._guarded, work, arguments)

    async def _guarded(
        self, work: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        with supervise.guard("training", self._emit):
            await work(*arguments)

    def _attend(
        self, peer: bytes, work: Callable[..., Awaitable[None]], *arguments: object
    ) -> bool:
        busy = self._attending[peer] >= MAX_OF_ONE or self._attending.total() >= MAX_ATTENDED
        if not busy:
            self._attending[peer] += 1
            self._spawn(self._attended, peer, work, arguments)
        return not busy

    async def _attended(
        self, peer: bytes, work: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await work(*arguments)
        finally:
            self._attending[peer] -= 1
            if not self._attending[peer]:
                del self._attending[peer]

    def _lost(self, peer: bytes) -> None:
        for lineage in self.lineages.values():
            lineage.lost(peer)

    def _missing(self, model: bytes, root: bytes) -> None:
        lineage = self.lineages.get(model)
        if lineage is not None:
            lineage.wanted_version(root)

    def _role_of(self, model: bytes, name: bytes) -> Role:
        lineage = self.lineages.get(model)
        return "replica" if lineage is None else lineage.role_of(name)

    # -- messages ----------------------------------------------------------------------------------

    async def _hear(self) -> None:
        while True:
            peer, protocol, frame = await self.links.hear()
            began = time.thread_time()
            try:
                self._heard(peer, protocol, frame)
            except (MalformedError, LimitError) as error:
                self._blame(peer, Fault.MALFORMED, f"{protocol}: {error}")
            except SynapseError as error:
                log.warning("training: %s", error)
            self.links.charge(peer, time.thread_time() - began)
            await trio.lowlevel.checkpoint()

    def _heard(self, peer: bytes, protocol: str, frame: bytes) -> None:
        if protocol == TILE:
            self.traffic.roles["in", "replica"] += len(frame)
            group = replica_messages.group_of(frame)
            lineage = self.lineages.get(group.model)
            if lineage is not None:
                lineage.frame(peer, group.number, frame)
        else:
            message = messages.unpack(frame)
            self.traffic.roles["in", _role_for(message)] += len(frame)
            self._deliver(peer, message)

    def _deliver(self, peer: bytes, message: messages.Said) -> None:
        model, _ = messages.group_of(message)
        lineage = self.lineages.get(model)
        if lineage is not None:
            lineage.hear(peer, message)

    def _deliver_soon(self, peer: bytes, message: messages.Said) -> None:
        """What we say to ourselves is heard when this turn is over."""
        self._spawn(self._deliver_later, peer, message)

    async def _deliver_later(self, peer: bytes, message: messages.Said) -> None:
        await trio.lowlevel.checkpoint()
        self._deliver(peer, message)

    def _fellow(self, peer: bytes) -> bool:
        return any(lineage.fellow(peer) for lineage in self.lineages.values())

    # -- the owner ---------------------------------------------------------------------------------

    def lineage(self, lineage: bytes) -> Lineage:
        """One that the ledger has. NoTrainingError."""
        found = self.lineages.get(lineage)
        if found is None:
            raise NoTrainingError(
                f"the ledger has no training of {cid_text(lineage)}",
                remedy="propose one, and wait until it is accepted",
            )
        return found

    def able(self, can_lead: bool) -> None:
        """The worker can compute, or (while it is paused) not."""
        for lineage in self.lineages.values():
            lineage.able(can_lead)


def _role_for(message: messages.Said) -> Role:
    """For what we are that a message came to us; where it may be for several, the likeliest."""
    if isinstance(message, _TO_LEARNERS):
        return "learner"
    if isinstance(message, _TO_AGGREGATORS):
        return "aggregator"
    return "aggregator" if isinstance(message, messages.Push) and message.relay else "replica"


_TO_LEARNERS = (messages.Acked, messages.Refused, messages.Held, messages.Here, messages.Records)
_TO_AGGREGATORS = (messages.Prove, messages.Proof, messages.Accuse)


def now_ms() -> int:
    """Milliseconds that never go back, and go on while the machine sleeps: so does a lease, and a
    group that was replaced meanwhile must not be served for some seconds more by whoever wakes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def talks(traffic: Traffic) -> list[TalkSaid]:
    """With whom, by falling bytes."""
    found = [
        TalkSaid(peer=peer_id_text(peer), bytes_in=each["in"], bytes_out=each["out"])
        for peer, each in traffic.talked.items()
    ]
    return sorted(found, key=lambda talk: -(talk.bytes_in + talk.bytes_out))


def byte_counts(traffic: Traffic) -> Mapping[str, int]:
    """Payload bytes as one flat table: `in.blob`, `out./synapse/learn/1.0.0`."""
    return {f"{way}.{kind}": size for (way, kind), size in sorted(traffic.bytes.items())}
