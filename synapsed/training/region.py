"""Regions: the aggregator that this daemon may be, the one that it learns through, and the checks.

    Aggregator  sums its region's deltas, and passes rounds on    (protocols/learn/aggregator.py)
    Way         who is near, by measured round trips               (way.py)
    Audit       recomputes sums of others, drawn at random        (protocols/learn/audit.py)

Driven as hosts and learners are: blobs are brought here before a machine hears of them, saves are
synced before what depends on them is sent, the worker's part is a task whose end is an event.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf

import trio

from protocols.effects import Blame, Emit, Save
from protocols.errors import MalformedError, SynapseError
from protocols.learn import aggregator_ports, audit, messages
from protocols.learn.aggregator import Aggregator
from protocols.learn.audit import Audit, Caught, Recompute, Recomputed, Recorded, check_proof
from protocols.learn.claims import Input, Record, Sum, check_record
from protocols.learn.partition import Group
from protocols.learn.regions import candidates
from protocols.learn.round_ports import WATCH_MS, Heard, Release, Say, Tick
from protocols.peerid import peer_id_text
from protocols.plan import Plan
from synapsed.store.db import Change
from synapsed.training.ground import Places
from synapsed.training.post import Post
from synapsed.training.summing import Summing
from synapsed.training.way import RoundTrip, Way

log = logging.getLogger(__name__)

MAX_SUMS = 4096
"""Sums whose signed word is remembered, for checkpoints: whose work is in them."""

MAX_STAGED = 1 << 16
"""Sums that one aggregator may have us fetch ahead of the log in an epoch: one a second for a day,
as it could push as many itself; what the log does not bring is swept within minutes."""
MAX_HEADER = 64
"""Bytes of a delta's header; fp32 has no more beside its values."""


class Region:
    """One lineage's. `run` it; `hear` what comes; `way` says whom our own deltas go to."""

    def __init__(
        self,
        post: Post,
        plan: Plan,
        groups: Sequence[Group],
        places: Places,
        seats: Callable[[int, int], tuple[bytes, ...]],
        *,
        round_trip: RoundTrip,
        able: Callable[[], bool] = lambda: True,
        one_in: int | None = None,
    ) -> None:
        self.sums: dict[bytes, Sum] = {}
        """What was signed of regions' sums, by digest."""
        self.excluded: frozenset[bytes] = frozenset()
        """Who is no aggregator, by the ledger."""
        self.on_wrong_sum: Callable[[messages.Proof, Record], None] = lambda _proof, _record: None
        """Called with what condemns an aggregator: its sum's proof, and who took it."""
        self._post = post
        self._plan = plan
        self._groups = groups
        self._places = places
        self._seats = seats
        self._poked = trio.Event()
        self.way = Way(
            post,
            round_trip,
            groups=[group.number for group in groups],
            candidates=lambda: self.candidates,
            replicas=self._replicas,
            caught=lambda: self.audit.caught,
        )
        largest = max(group.elements for group in groups)
        self.aggregator = Aggregator(
            aggregator_ports.AggregatorSettings(
                realm=post.realm,
                model=post.lineage,
                plan=plan,
                me=post.me,
                groups=tuple(group.number for group in groups),
                max_delta=4 * largest + MAX_HEADER,
                nearest=self.way.nearest,
                able=able,
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
            odds=self._odds if one_in is None else lambda _entry: one_in,
        )
        self._held: dict[bytes, int] = {}
        """Blobs that somebody may ask for, and until when."""
        self._staged: Counter[bytes] = Counter()
        """Sums that aggregators had us fetch in this epoch."""
        self._served_at: int | None = None
        self._summing = Summing(post, plan, groups)
        rows = dict(post.records.table(aggregator_ports.TABLE).items(post.lineage))
        for event in aggregator_ports.restored(rows):
            self.aggregator.handle(event, post.now())
            self._hold(blob.digest for blob in messages.blobs_of(event.kept.proof))

    def _replicas(self, group: int) -> Sequence[bytes]:
        return self.aggregator.primaries.replicas(group)

    def _odds(self, entry: Input) -> int:
        """One in so many sums like this one is for us to recompute."""
        drawn = self._places.drawn(self._places.epoch)
        members = 1 if drawn is None else len(drawn.members)
        return audit.odds(members, entry.of, own=entry.learner == self.way.aggregator)

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve a region, and find ours, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms)
            nursery.start_soon(self.way.run)

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
                case Caught():
                    self._caught(effect)
                case Emit(kind, fields):
                    self._post.tell(kind.replace("learn.", "training.", 1), **fields)
                case Blame(peer, fault, why):
                    self._post.blame(peer, fault, why)
                case _:
                    raise TypeError(f"an effect that nobody performs: {effect!r}")
        self._poked.set()

    def _caught(self, found: Caught) -> None:
        log.warning("%s summed wrongly, or gives no proof", peer_id_text(found.aggregator))
        self._post.tell(
            "training.caught",
            aggregator=peer_id_text(found.aggregator),
            proven=found.proof is not None,
            why=found.why,
        )
        if found.proof is not None and found.record is not None:
            self.on_wrong_sum(found.proof, found.record)
        self.way.look()

    def may_aggregate(self, peer: bytes) -> bool:
        """Whether its sums are taken: a candidate of this epoch that nobody has caught."""
        return peer not in self.audit.caught and peer in self.candidates

    def exclude(self, excluded: frozenset[bytes]) -> None:
        """What the ledger says of who has no office."""
        if excluded != self.excluded:
            self.excluded = excluded
            self.way.look()

    @property
    def candidates(self) -> list[bytes]:
        """Who may aggregate in this epoch, the first choice first."""
        drawn = self._places.drawn(self._places.epoch)
        if drawn is None:
            return []
        members = [it.identity for it in drawn.members if it.identity not in self.excluded]
        return candidates(drawn.beacon, self._post.lineage, members)

    def turn(self, epoch: int) -> None:
        """The ledger has a new epoch."""
        self.aggregator.primaries.epoch = epoch
        self.audit.turn(epoch)
        self._staged.clear()
        self.way.look()

    @property
    def needed(self) -> set[bytes]:
        """Blobs that somebody may ask for: sums, what they are made of, and rounds passed on."""
        now = self._post.now()
        self._held = {digest: until for digest, until in self._held.items() if until > now}
        return set(self._held)

    def holds(self, digest: bytes) -> bool:
        """Whether a blob is here because of our region."""
        return digest in self._held

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
        if blobs:
            # At once: a busy disk may take seconds, and whoever is silent is left.
            number = next(one.number for one in made if one.digest in blobs)
            held = messages.Held(model=self._post.lineage, number=number, digests=tuple(blobs))
            self._post.say(peer, held)
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
            made = await self._summing.combined(wanted)
            self._hold([made.blob.digest, *([made.left.digest] if made.left is not None else [])])
            inputs = len(wanted.parts)
            self._post.tell(
                "training.summed", group=wanted.group, number=wanted.number, inputs=inputs
            )
            answer = made
        except SynapseError as error:
            log.warning("aggregating: %s", error)
        finally:
            self._tell(answer)

    async def _recompute(self, wanted: Recompute) -> None:
        same = await self._summing.is_right(wanted)
        told = {"group": wanted.group, "number": wanted.number, "same": same}
        self._post.tell("training.audited", **told)
        self._tell_audit(Recomputed(wanted.blob.digest, same))
