"""Regions: the aggregator that this daemon may be, the one that it learns through, and the checks.

    Aggregator  sums its region's deltas, and passes rounds on    (protocols/learn/aggregator.py)
    Regions     who is near, by measured round trips              (protocols/learn/regions.py)
    Audit       recomputes sums of others, drawn at random        (protocols/learn/audit.py)

Driven as hosts and learners are: blobs are brought here before a machine hears of them, saves are
synced before what depends on them is sent, the worker's part is a task whose end is an event.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path

import trio

from protocols.effects import Blame, Emit, Save
from protocols.errors import MalformedError, SynapseError
from protocols.learn import aggregator_ports, audit, messages
from protocols.learn.aggregator import Aggregator
from protocols.learn.audit import Audit, Caught, Recompute, Recomputed, Recorded, check_proof
from protocols.learn.claims import Record, Sum, check_record
from protocols.learn.partition import Group, version_header
from protocols.learn.plan import Plan
from protocols.learn.regions import Regions, candidates
from protocols.learn.round_ports import WATCH_MS, Heard, Part, Release, Say, Tick
from protocols.peerid import peer_id_text
from synapsed.compute import wire
from synapsed.store.db import Change
from synapsed.training.ground import Places
from synapsed.training.post import Post

log = logging.getLogger(__name__)

ROUTE_S = 5.0
"""Between two looks at who is near: an epoch has one answer, unless somebody dies."""
MEASURE_AT_ONCE = 8
"""Peers whose round trip is measured in one look, each by one ping."""
MAX_SUMS = 4096
"""Sums whose signed word is remembered, for checkpoints: whose work is in them."""

MAX_STAGED = 1 << 16
"""Sums that one aggregator may have us fetch ahead of the log in an epoch: one a second for a day,
as it could push as many itself; what the log does not bring is swept within minutes."""
MAX_HEADER = 64
"""Bytes of a delta's header; fp32 has no more beside its values."""

RoundTrip = Callable[[bytes], Awaitable[float | None]]
"""Seconds to a peer, dialled if need be; None where it does not answer."""


async def no_round_trip(_peer: bytes) -> float | None:
    """Where nobody measures: everybody goes straight to the primary."""
    await trio.lowlevel.checkpoint()
    return None


class Region:
    """One lineage's. `run` it; `hear` what comes; `on_route` is told of each other route."""

    def __init__(
        self,
        post: Post,
        plan: Plan,
        groups: Sequence[Group],
        places: Places,
        seats: Callable[[int, int], tuple[bytes, ...]],
        *,
        round_trip: RoundTrip,
        one_in: int | None = None,
    ) -> None:
        self.on_route: Callable[[bytes | None], None] = lambda _aggregator: None
        self.primaries: Callable[[], Mapping[int, bytes]] = dict
        """Who leads each group, as the learner knows."""
        self.sums: dict[bytes, Sum] = {}
        """What was signed of regions' sums, by digest."""
        self.aggregator_of_ours: bytes | None = None
        self._post = post
        self._plan = plan
        self._groups = groups
        self._places = places
        self._seats = seats
        self._round_trip = round_trip
        self._regions = Regions(post.me)
        self._poked = trio.Event()
        self._look_now = trio.Event()
        largest = max(group.elements for group in groups)
        self.aggregator = Aggregator(
            aggregator_ports.AggregatorSettings(
                realm=post.realm,
                model=post.lineage,
                plan=plan,
                me=post.me,
                groups=tuple(group.number for group in groups),
                max_delta=4 * largest + MAX_HEADER,
                nearest=self._regions.nearest,
            ),
            seats,
            post.identity.sign,
            post.verify,
            places.epoch,
        )
        self.audit = Audit(
            realm=post.realm,
            model=post.lineage,
            plan=plan,
            me=post.me,
            verify=post.verify,
            odds=self._odds if one_in is None else lambda _aggregator: one_in,
        )
        self._held: dict[bytes, int] = {}
        """Blobs that somebody may ask for, and until when."""
        self._staged: Counter[bytes] = Counter()
        """Sums that aggregators had us fetch in this epoch."""
        self._served_at: int | None = None
        rows = dict(post.records.table(aggregator_ports.TABLE).items(post.lineage))
        for event in aggregator_ports.restored(rows):
            self.aggregator.handle(event, post.now())
            self._hold(blob.digest for blob in messages.blobs_of(event.kept.proof))

    def _odds(self, aggregator: bytes) -> int:
        """One in so many of its sums is for us to recompute."""
        drawn = self._places.drawn(self._places.epoch)
        members = 1 if drawn is None else len(drawn.members)
        return audit.odds(members, own=aggregator == self.aggregator_of_ours)

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve a region, and find ours, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms)
            nursery.start_soon(self._find_way)

    async def _alarms(self) -> None:
        while True:
            self._poked = trio.Event()
            now = self._post.now()
            wakes = (self.aggregator.next_wake(now), self.audit.next_wake)
            due = min((at for at in wakes if at is not None), default=None)
            with trio.move_on_after(inf if due is None else max(0.0, (due - now) / 1000)):
                await self._poked.wait()
            now = self._post.now()
            wakes = (self.aggregator.next_wake(now), self.audit.next_wake)
            if wakes[0] is not None and wakes[0] <= now:
                self._tell(Tick())
            if wakes[1] is not None and wakes[1] <= now:
                self._tell_audit(Tick())
            await trio.lowlevel.checkpoint()

    def _tell(self, event: aggregator_ports.Event) -> None:
        self._perform(self.aggregator.handle(event, self._post.now()))

    def _tell_audit(self, event: audit.Event) -> None:
        self._perform(self.audit.handle(event, self._post.now()))

    def _perform(self, effects: Sequence[object]) -> None:
        saves = [effect for effect in effects if isinstance(effect, Save)]
        if saves:
            self._post.records.save([Change(it.table, it.key, it.value) for it in saves])
        for effect in effects:
            match effect:
                case Save():
                    pass  # above, before anything of this list is sent
                case Release(digests):
                    for digest in digests:
                        self._held.pop(digest, None)
                case Say(peer, message):
                    self._post.say(peer, message)
                case aggregator_ports.Combine():
                    self._post.spawn(self._combine, effect)
                case Recompute():
                    self._post.spawn(self._recompute, effect)
                case Caught(aggregator):
                    self._caught(aggregator)
                case Emit(kind, fields):
                    self._post.tell(kind.replace("learn.", "training.", 1), **fields)
                case Blame(peer, fault, why):
                    self._post.blame(peer, fault, why)
                case _:
                    raise TypeError(f"an effect that nobody performs: {effect!r}")
        self._poked.set()

    def _caught(self, aggregator: bytes) -> None:
        log.warning("%s summed wrongly, or gives no proof", peer_id_text(aggregator))
        self._post.tell("training.caught", aggregator=peer_id_text(aggregator))
        self._look_now.set()

    def may_aggregate(self, peer: bytes) -> bool:
        """Whether its sums are taken: a candidate of this epoch that nobody has caught."""
        return peer not in self.audit.caught and peer in self.candidates

    @property
    def candidates(self) -> list[bytes]:
        """Who may aggregate in this epoch, the first choice first."""
        drawn = self._places.drawn(self._places.epoch)
        if drawn is None:
            return []
        members = [member.identity for member in drawn.members]
        return candidates(drawn.beacon, self._post.lineage, members)

    def turn(self, epoch: int) -> None:
        """The ledger has a new epoch."""
        self.aggregator.primaries.epoch = epoch
        self._staged.clear()
        self._look_now.set()

    @property
    def needed(self) -> set[bytes]:
        """Blobs that somebody may ask for: sums, what they are made of, and rounds passed on."""
        now = self._post.now()
        self._held = {digest: until for digest, until in self._held.items() if until > now}
        return set(self._held)

    def _hold(self, digests: Iterable[bytes]) -> None:
        until = self._post.now() + aggregator_ports.KEEP_MS
        self._held.update(dict.fromkeys(digests, until))

    @property
    def serves(self) -> bool:
        """Whether learners came to us lately: else rounds need not be brought here to pass on."""
        at = self._served_at
        return at is not None and self._post.now() < at + WATCH_MS

    async def staged(self, peer: bytes, said: messages.Stage) -> None:
        """A sum that our log will bring: fetched now, from near by. Kept as what just came."""
        largest = 4 * self._groups[said.group].elements + MAX_HEADER
        room = self._staged[peer] < MAX_STAGED
        if not self.may_aggregate(peer) or said.blob.size > largest or not room:
            return
        self._staged[peer] += 1
        blobs = {said.blob.digest: said.blob.size}
        try:
            await self._post.exchange.fetch(peer, self._post.lineage, blobs)
        except SynapseError as error:
            log.debug("staging: %s", error)

    # -- messages ----------------------------------------------------------------------------------

    def hear(self, peer: bytes, message: messages.Said) -> None:
        """What came for an aggregator, or an auditor. Raises MalformedError."""
        match message:
            case messages.Push():
                self._served_at = self._post.now()
                self._post.attend(peer, self._pushed, peer, message)
            case messages.Records():
                if self.serves:
                    self._post.attend(peer, self._records, peer, message)
            case messages.Watch():
                self._served_at = self._post.now()
                self._tell(Heard(peer, message))
            case messages.Proof() | messages.Accuse():
                self._post.attend(peer, self._proven, peer, message)
            case _:
                self._tell(Heard(peer, message))

    async def _pushed(self, peer: bytes, push: messages.Push) -> None:
        refused = self.aggregator.screen(peer, push, self._post.now())
        no = {one.group for one in refused}
        made = push.said.made if not isinstance(push.said, Sum) else ()
        blobs = {
            one.digest: one.size for one in made if one.group in push.groups and one.group not in no
        }
        try:
            await self._post.exchange.fetch(peer, self._post.lineage, blobs)
        except SynapseError as error:
            log.debug("aggregating: %s", error)
        else:
            self._hold(blobs)
            self._tell(Heard(peer, push))

    async def _records(self, peer: bytes, said: messages.Records) -> None:
        """Rounds to pass on, with their results."""
        try:
            for record in said.records:
                self._check(record)
                decided = record.round
                blobs = {decided.result: decided.size}
                await self._post.exchange.fetch(peer, self._post.lineage, blobs)
                self._hold(blobs)
        except MalformedError as error:
            self._post.blame(peer, "malformed", f"learning: {error}")
        except SynapseError as error:
            log.debug("aggregating: %s", error)
        else:
            self._tell(Heard(peer, said))

    def _check(self, record: Record) -> None:
        decided = record.round
        replicas = self._seats(decided.group, decided.epoch)
        check_record(self._post.realm, record, replicas, self._post.verify)

    def recorded(self, record: Record) -> None:
        """A round has a record, here: some of its sums are to be recomputed."""
        self.audit.friends = tuple(self._seats(record.round.group, record.round.epoch))
        self._tell_audit(Recorded(record))

    async def _proven(self, peer: bytes, message: messages.Proof | messages.Accuse) -> None:
        proof = message if isinstance(message, messages.Proof) else message.proof
        accused = isinstance(message, messages.Accuse)
        if not self.audit.wants(peer, proof, accused=accused):
            return
        try:
            check_proof(self._post.realm, proof, self._post.verify)
            blobs = {blob.digest: blob.size for blob in messages.blobs_of(message)}
            await self._post.exchange.fetch(peer, self._post.lineage, blobs)
        except MalformedError:
            pass  # the machine says what follows from that
        except SynapseError as error:
            log.debug("auditing: %s", error)
            return
        self._tell_audit(Heard(peer, message))

    def note_sum(self, said: Sum) -> None:
        """A sum that went into a round of ours: whose work it is."""
        if len(self.sums) >= MAX_SUMS:
            del self.sums[next(iter(self.sums))]
        self.sums[said.made.digest] = said

    # -- the worker --------------------------------------------------------------------------------

    async def _combine(self, wanted: aggregator_ports.Combine) -> None:
        answer: aggregator_ports.Event = aggregator_ports.NotCombined(wanted.ticket)
        try:
            answer = await self._make_sum(wanted)
        except SynapseError as error:
            log.warning("aggregating: %s", error)
        finally:
            self._tell(answer)

    async def _make_sum(self, wanted: aggregator_ports.Combine) -> aggregator_ports.Combined:
        blobs = self._post.blobs
        made = await self._sum(wanted.group, wanted.number, wanted.parts, wanted.carry)
        digest = await trio.to_thread.run_sync(blobs.take, Path(made.delta.path))
        left = await trio.to_thread.run_sync(blobs.take, Path(made.left.path))
        self._hold([digest, left])
        self._post.tell(
            "training.summed", group=wanted.group, number=wanted.number, inputs=len(wanted.parts)
        )
        return aggregator_ports.Combined(
            wanted.ticket,
            messages.Blob(digest, blobs.size(digest)),
            tuple(wanted.parts[index].source for index in made.bad),
            messages.Blob(left, blobs.size(left)),
        )

    async def _sum(
        self, group: int, number: int, parts: Sequence[Part], carry: messages.Blob | None
    ) -> wire.Combined:
        blobs = self._post.blobs
        return await self._post.compute.combine(
            self._plan,
            number,
            self._blank(group),
            [(blobs.path(part.blob.digest), part.weight) for part in parts],
            self._out,
            carry=None if carry is None else blobs.path(carry.digest),
        )

    def _blank(self, group: int) -> Path:
        """A version's file without values, which takes no room: it says what tiles there are."""
        path = self._out / f"blank-{group}"
        if not path.exists():
            header = version_header(self._groups[group].tiles)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + self._groups[group].bytes)
        return path

    @property
    def _out(self) -> Path:
        return self._post.blobs.folder / "tmp" / "region"

    async def _recompute(self, wanted: Recompute) -> None:
        same: bool | None = None
        try:
            made = await self._sum(wanted.group, wanted.number, wanted.parts, wanted.carry)
            same = not made.bad and await self._same(wanted.group, made.delta, wanted.blob)
            if same and wanted.left is not None:
                same = await self._same(wanted.group, made.left, wanted.left)
            for path in (made.delta.path, made.left.path):
                Path(path).unlink(missing_ok=True)
        except SynapseError as error:
            log.info("auditing: %s", error)
        told = {"group": wanted.group, "number": wanted.number, "same": same}
        self._post.tell("training.audited", **told)
        self._tell_audit(Recomputed(wanted.blob.digest, same))

    async def _same(self, group: int, made: wire.Blob, said: messages.Blob) -> bool:
        """By hash, or by value: the same values may be packed in other bytes."""
        if made.digest == said.digest:
            return True
        path = self._post.blobs.path(said.digest)
        return await self._post.compute.same(self._blank(group), Path(made.path), path)

    # -- our way -----------------------------------------------------------------------------------

    async def _find_way(self) -> None:
        while True:
            self._look_now = trio.Event()
            await self._measure()
            self._route()
            with trio.move_on_after(ROUTE_S):
                await self._look_now.wait()

    async def _measure(self) -> None:
        ranked, primaries = self.candidates, self.primaries()
        if not primaries:
            return  # nothing is learned here
        fellows = [
            peer for group in primaries for peer in self.aggregator.primaries.replicas(group)
        ]
        wanted = self._regions.to_measure(ranked, [*primaries.values(), *fellows])
        async with trio.open_nursery() as nursery:
            for peer in wanted[:MEASURE_AT_ONCE]:
                nursery.start_soon(self._ping, peer)

    async def _ping(self, peer: bytes) -> None:
        try:
            seconds = await self._round_trip(peer)
        except SynapseError:
            return
        if seconds is not None:
            self._regions.measured(peer, int(seconds * 1e6))

    def _route(self) -> None:
        primaries = self.primaries()
        if not primaries:
            return
        route = self._regions.route(
            self.candidates, primaries, self._post.now(), tuple(self.audit.caught)
        )
        if route.aggregator != self.aggregator_of_ours:
            self.aggregator_of_ours = route.aggregator
            self._post.tell(
                "training.routed",
                aggregator="" if route.aggregator is None else peer_id_text(route.aggregator),
                rtt_ms=None if route.rtt_us is None else round(route.rtt_us / 1e3, 3),
                primary_ms=None if route.primary_us is None else round(route.primary_us / 1e3, 3),
            )
        self.on_route(route.aggregator)

    def look(self) -> None:
        """Find our way now: something is learned here."""
        self._look_now.set()

    def silent(self, aggregator: bytes) -> None:
        """It did not answer in time: another is taken for a while."""
        self._regions.leave_out(aggregator, self._post.now())
        self._look_now.set()
