"""One home of a wide world in which many learn (learnwan.py): all its machines, and their driver.

What the daemon's driver does in trio happens here on the heap: messages are packed and unpacked,
blobs are fetched before a machine hears of them, work takes its time. Disks do not fail here
(tiledaemon.py has those for a group's log).
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from protocols.effects import Blame, Emit, Save, Send
from protocols.learn.aggregator import Aggregator
from protocols.learn.aggregator_ports import AggregatorSettings, Combine, Combined
from protocols.learn.audit import Audit, Recompute, Recomputed, Recorded, odds
from protocols.learn.claims import MAX_DELTA, Claim
from protocols.learn.learner import Learner
from protocols.learn.learner_ports import (
    Applied,
    Apply,
    CatchUp,
    CaughtUp,
    Encode,
    Encoded,
    LearnerSettings,
    Resumed,
    Routed,
    Silent,
    Train,
    Trained,
)
from protocols.learn.messages import (
    Acked,
    Ask,
    Blob,
    Endorse,
    Held,
    Here,
    Proof,
    Prove,
    Push,
    Records,
    Refused,
    Said,
    Watch,
    Where,
    blobs_of,
    group_of,
    pack,
    unpack,
)
from protocols.learn.plan import Plan
from protocols.learn.regions import Regions
from protocols.learn.replica import Replica
from protocols.learn.replica_ports import Blob as LogBlob
from protocols.learn.replica_ports import (
    Committed,
    Declined,
    Fetch,
    Following,
    GroupId,
    Heard,
    Installed,
    Leading,
    Propose,
    ReplicaSettings,
    Seats,
    Stored,
    Ticked,
)
from protocols.learn.replica_ports import Tick as ReplicaTick
from protocols.learn.round_ports import (
    Advance,
    Aggregate,
    Aggregated,
    Followed,
    Led,
    Part,
    Release,
    RoundsSettings,
    Say,
    Tick,
)
from protocols.learn.round_ports import Committed as Folded
from protocols.learn.round_ports import Declined as NotTaken
from protocols.learn.round_ports import Heard as Told
from protocols.learn.round_ports import Propose as Offer
from protocols.learn.rounds import Rounds
from simnet.virtual.dice import dice
from simnet.virtual.keys import Key

if TYPE_CHECKING:
    from simnet.virtual.learnwan import Wan

EPOCH = 1
BEGAN_MS = 1_800_000_000_000
TICK_S = 10.0
"""Of the ledger."""
PROBE_S = 60.0
"""Between two looks at the round trips."""
WORK_S = 0.05
"""To encode, apply, sum or aggregate: a group of 4 MiB takes less."""
RINGS = 100
"""Wakes of one daemon in one millisecond: more is a machine that does nothing when it is woken."""
PULL_S = 20.0
"""Until a blob that did not come is asked for again."""
BLOB_ASK = 80
"""Bytes of a question for a blob, and of the answer before it."""


class Sizes(Protocol):
    """How many bytes things take, as real codecs make them."""

    def delta(self, group: int, number: int, learner: int) -> int:
        """A learner's."""

    def sum(self, group: int, number: int, learners: int) -> int:
        """A region's, of so many."""

    def result(self, group: int, number: int) -> int:
        """A round's."""


class WanCase(NamedTuple):
    """What a run is made of."""

    plan: Plan
    learners: int = 100
    regions: int = 5
    groups: int = 4
    aggregators: bool = True
    step_s: float = 1.0
    """Of one inner step, give or take `spread`."""
    spread: float = 0.05
    seed: int = 1


class Place:
    """One replica of one group, and its rounds."""

    def __init__(self, replica: Replica, rounds: Rounds) -> None:
        self.replica = replica
        self.rounds = rounds
        self.waking: dict[str, int] = {}


class Home:
    """One daemon."""

    def __init__(self, wan: "Wan", number: int) -> None:
        self.wan = wan
        self.number = number
        self.key: Key = wan.keys[number]
        self.me = self.key.peer
        case = wan.case
        rng = dice(case.seed, f"home {number}")
        self.step_s = case.step_s * rng.uniform(1 - case.spread, 1 + case.spread)
        self._rng = rng
        self.blobs: set[bytes] = set()
        self._holders: dict[bytes, bytes] = {}
        """Who offered last what we pull."""
        self._pulling: dict[bytes, list[Callable[[], None]]] = {}
        self.places: dict[int, Place] = {}
        self.regions = Regions(self.me)
        self.ranked: list[bytes] = []
        self.up = True
        self.rounds_done = 0
        self.aggregated_by: bytes | None = None
        self.audited = 0
        self._life = 0
        self.stopped = False
        """It trains no more."""
        self.encoded = 0
        self.given_back = 0
        self.mine: set[bytes] = set()
        """Deltas that it made."""
        self._rung, self._rang_at = 0, 0
        self._wakes: dict[str, int] = {}
        common: dict[str, Any] = {
            "realm": wan.realm,
            "model": wan.model,
            "plan": case.plan,
            "me": self.me,
        }
        groups = tuple(range(case.groups))
        self._settings = LearnerSettings(**common, groups=groups)
        self.learner = self._learner()
        self.aggregator: Aggregator | None = None
        if case.aggregators and self.me in wan.candidates:
            self.aggregator = Aggregator(
                AggregatorSettings(
                    **common,
                    groups=groups,
                    max_delta=MAX_DELTA,
                    nearest=self._nearest,
                ),
                wan.seats,
                self.key.sign,
                wan.verify,
                EPOCH,
            )
        self.audit = Audit(
            realm=wan.realm,
            model=wan.model,
            plan=case.plan,
            me=self.me,
            verify=wan.verify,
            odds=lambda peer: odds(case.learners, own=peer == self.aggregated_by),
        )
        for group in groups:
            if self.me in wan.seats(group, EPOCH):
                self.places[group] = self._place(group)

    def _learner(self) -> Learner:
        return Learner(self._settings, self.wan.seats, self.key.sign, self.wan.verify, EPOCH)

    def kill_learner(self) -> None:
        """Its process is killed and starts again: what it sent it has forgotten."""
        old, self.learner = self.learner, self._learner()
        self._life += 1
        versions = {group: (it.number, it.head) for group, it in old.groups.items()}
        self.tell_learner(Resumed(versions))
        self.tell_learner(Routed(self.aggregated_by))

    def _later(self, seconds: float, event: object) -> None:
        """What the worker answers, to whoever asked."""
        life = self._life

        def answered() -> None:
            if self._life == life:
                self.tell_learner(event)

        self.wan.heap.after(seconds, answered)

    def _nearest(self, peers: Sequence[bytes]) -> bytes | None:
        for peer in peers:
            if peer not in self.regions.known:
                self.probe(peer)
        return self.regions.nearest(peers)

    def _place(self, group: int) -> Place:
        wan, replicas = self.wan, self.wan.seats(group, EPOCH)
        seats = Seats(EPOCH, (replicas[0], replicas[1], replicas[2]), 1, BEGAN_MS)
        replica = Replica(
            settings=ReplicaSettings(),
            me=self.me,
            group=GroupId(wan.model, group),
            seats=(seats,),
            first=EPOCH,
            born=0,
            saved={},
            can_lead=True,
        )
        settings = RoundsSettings(
            realm=wan.realm,
            model=wan.model,
            group=group,
            plan=wan.case.plan,
            genesis=wan.genesis(group),
            me=self.me,
            epoch=EPOCH,
            replicas=replicas,
            max_delta=MAX_DELTA,
        )
        rounds = Rounds(settings, self.key.sign, wan.verify, lambda _: None, self.now)
        return Place(replica, rounds)

    # -- time ---------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """ms."""
        return int(self.wan.heap.now * 1000)

    def start(self) -> None:
        """Everything begins."""
        for group, place in self.places.items():
            self.log_did(group, place.replica.start(self.now))
        self.tick()
        self.look_around()
        versions = {group: (0, self.wan.genesis(group)) for group in self.learner.groups}
        self.tell_learner(Resumed(versions))

    def tick(self) -> None:
        """The ledger's."""
        unix = BEGAN_MS + self.now
        for group, place in self.places.items():
            event = Ticked(2 + self.now // 1000, unix, unix)
            self.log_did(group, place.replica.handle(event, self.now))
        self.wan.heap.after(TICK_S, self.tick)

    def look_around(self, *, again: bool = True) -> None:
        """Measure, and choose whom to send to."""
        wan = self.wan
        if wan.case.aggregators:
            primaries = {
                group: primary
                for group in self.learner.groups
                if (primary := self.learner.primaries.of(group)) is not None
            }
            for peer in self.regions.to_measure(wan.candidates, primaries.values()):
                self.probe(peer)
            self._route(primaries)
            if again:
                wan.heap.after(PROBE_S, self.look_around)

    def probe(self, peer: bytes) -> None:
        """One ping."""
        rtt = self.wan.links.rtt_ms(self.number, self.wan.number_of[peer])
        self.regions.measured(peer, int(rtt * 1000 * self._rng.uniform(1.0, 1.1)))

    def _route(self, primaries: dict[int, bytes]) -> None:
        route = self.regions.route(self.wan.candidates, primaries, self.now)
        self.aggregated_by = route.aggregator
        self.tell_learner(Routed(route.aggregator))

    def _wake(self, name: str, when: int | None, then: Callable[[], None]) -> None:
        if when is None or self._wakes.get(name) == when:
            return
        self._wakes[name] = when

        def ring() -> None:
            if self._wakes.get(name) == when:
                del self._wakes[name]
                self._rung = self._rung + 1 if self.now == self._rang_at else 0
                self._rang_at = self.now
                assert self._rung < RINGS, f"{name} of {self.number} wants to be woken without end"
                then()

        self.wan.heap.at(max(when, self.now) / 1000 + 1e-6, ring)

    # -- machines -----------------------------------------------------------------------------

    def tell_learner(self, event: object) -> None:
        """An event of its machine."""
        for effect in self.learner.handle(event, self.now):  # type: ignore[arg-type]
            self._learner_does(effect)
        self._wake("learner", self.learner.next_wake, lambda: self.tell_learner(Tick()))

    def tell_aggregator(self, event: object) -> None:
        """An event of its machine."""
        machine = self.aggregator
        assert machine is not None
        for effect in machine.handle(event, self.now):  # type: ignore[arg-type]
            match effect:
                case Say(peer, message):
                    self.say(peer, message)
                case Combine():
                    self._combine(effect)
                case _:
                    pass
        self._wake("aggregator", machine.next_wake(self.now), lambda: self.tell_aggregator(Tick()))

    def tell_audit(self, event: object) -> None:
        """An event of its machine."""
        for effect in self.audit.handle(event, self.now):  # type: ignore[arg-type]
            match effect:
                case Say(peer, message):
                    self.say(peer, message)
                case Recompute(blob=blob):
                    self.audited += 1
                    event = Recomputed(blob.digest, True)
                    self.wan.heap.after(WORK_S, self.tell_audit, event)
                case _:
                    self.wan.wrong.append(f"an honest aggregator is accused: {effect!r:.200}")
        self._wake("audit", self.audit.next_wake, lambda: self.tell_audit(Tick()))

    def tell_rounds(self, group: int, event: object) -> None:
        """An event of a group's machine."""
        place = self.places[group]
        for effect in place.rounds.handle(event, self.now):  # type: ignore[arg-type]
            self._rounds_do(group, effect)
        self._wake(
            f"rounds {group}", place.rounds.next_wake, lambda: self.tell_rounds(group, Tick())
        )

    def log_did(self, group: int, effects: Iterable[object]) -> None:
        """What a replica's log wants."""
        place = self.places[group]
        for effect in effects:
            match effect:
                case Send(peer, _, data):
                    self._send_log(group, peer, data)
                case Fetch(peer, blobs):
                    self._fetch(peer, blobs, partial(self._stored, group, blobs))
                case Committed(_, body, _, tag):
                    self.tell_rounds(group, Folded(body, tag))
                case Declined(tag, _):
                    self.tell_rounds(group, NotTaken(tag))
                case Leading(term):
                    self.tell_rounds(group, Led(term))
                case Following(term, primary):
                    self.tell_rounds(group, Followed(term, primary))
                case Installed():
                    self.wan.wrong.append("a snapshot where nothing was lost")
                case Blame():
                    self.wan.wrong.append(f"blamed: {effect.why}")
                case _:
                    pass
        replica = place.replica
        self._wake(
            f"log {group}",
            replica.next_wake,
            lambda: self.log_did(group, replica.handle(ReplicaTick(), self.now)),
        )

    def _stored(self, group: int, blobs: tuple[object, ...]) -> None:
        digests = tuple(blob.digest for blob in blobs)  # type: ignore[attr-defined]
        self.log_did(group, self.places[group].replica.handle(Stored(digests), self.now))

    def _send_log(self, group: int, peer: bytes, data: bytes) -> None:
        target = self.wan.home(peer)
        kind = "heartbeats" if len(data) < 160 else "log"

        def arrived() -> None:
            replica = target.places[group].replica
            target.log_did(group, replica.handle(Heard(self.me, data), target.now))

        self.wan.links.send(self.number, target.number, len(data), kind, arrived)

    def _rounds_do(self, group: int, effect: object) -> None:
        match effect:
            case Say(peer, message):
                self.say(peer, message)
            case Offer(body, blobs, tag):
                event = Propose(body, tuple(LogBlob(blob.digest, blob.size) for blob in blobs), tag)
                self.log_did(group, self.places[group].replica.handle(event, self.now))
            case Aggregate():
                self._aggregate(group, effect)
            case Advance(decided, _):
                self.wan.decided(group, decided)
            case Emit() | Save() | Release():
                pass
            case Blame():
                self.wan.wrong.append(f"blamed: {effect.why}")

    def _learner_does(self, effect: object) -> None:
        heap = self.wan.heap
        match effect:
            case Say(peer, message):
                self.say(peer, message)
            case Train() if self.stopped:
                pass
            case Train(seq=seq, steps=steps):
                self._later(steps * self.step_s, Trained(seq))
            case Encode(seq=seq, groups=groups):
                self._encode(seq, groups)
            case Apply(decided):
                assert decided.result in self.blobs
                event = Applied(decided.group, decided.number, decided.head)
                self._later(WORK_S, event)
                self.rounds_done += decided.group == 0
            case CatchUp(group, number, head):
                self._later(1.0, CaughtUp(group, number, head))
                self.wan.wrong.append("a version was fetched whole")
            case Silent(aggregator):
                self.regions.leave_out(aggregator, self.now)
                heap.after(0.0, self.look_again)
            case _:
                self.given_back += type(effect).__name__ == "GiveBack"

    def look_again(self) -> None:
        """Choose anew, at once."""
        primaries = {
            group: primary
            for group in self.learner.groups
            if (primary := self.learner.primaries.of(group)) is not None
        }
        self._route(primaries)

    # -- what the worker would do -------------------------------------------------------------

    def _encode(self, seq: int, groups: tuple[int, ...]) -> None:
        made: dict[int, Blob] = {}
        for group in groups:
            number = self.learner.groups[group].number
            size = self.wan.sizes.delta(group, number, self.number)
            made[group] = self._made(size, "delta", self.number, self._life, group, seq)
            self.mine.add(made[group].digest)
        self.encoded += 1
        self._later(WORK_S, Encoded(seq, made))

    def _made(self, size: int, *of: object) -> Blob:
        blob = Blob(hashlib.sha256(repr(of).encode()).digest(), size)
        self.blobs.add(blob.digest)
        return blob

    def _combine(self, asked: Combine) -> None:
        self._need(asked.parts)
        size = self.wan.sizes.sum(asked.group, asked.number, len(asked.parts))
        blob = self._made(size, "sum", asked.group, asked.parts)
        left = self._made(size, "left", asked.group, asked.parts)
        event = Combined(asked.ticket, blob, left=left)
        self.wan.heap.after(WORK_S, self.tell_aggregator, event)

    def _aggregate(self, group: int, asked: Aggregate) -> None:
        self._need(asked.parts)
        blob = self._made(
            self.wan.sizes.result(group, asked.number), "result", asked.base, asked.parts
        )
        head = hashlib.sha256(asked.base + blob.digest).digest()
        shares = tuple(1000 // len(asked.parts) for _ in asked.parts)
        event = Aggregated(asked.ticket, blob, head, shares)
        self.wan.heap.after(WORK_S, self.tell_rounds, group, event)

    def _need(self, parts: tuple[Part, ...]) -> None:
        for part in parts:
            assert part.blob.digest in self.blobs

    # -- messages -----------------------------------------------------------------------------

    def say(self, peer: bytes, message: Said) -> None:
        """To another daemon, or ourselves."""
        target = self.wan.home(peer)
        self.wan.said(message)
        frame = pack(message)
        kind = type(message).__name__.lower()
        self.wan.links.send(
            self.number, target.number, len(frame), kind, lambda: target.heard(self.me, frame)
        )

    def heard(self, peer: bytes, frame: bytes) -> None:
        """A frame: fetch what it names, and hand it to whose it is."""
        message = unpack(frame)
        if isinstance(message, Push) and not self._screened(peer, message):
            return
        if isinstance(message, Proof) and not self.audit.wants(peer, message, accused=False):
            return
        self._fetch(peer, blobs_of(message), lambda: self._hand_on(peer, message))

    def _screened(self, peer: bytes, push: Push) -> bool:
        if push.relay:
            refused = [] if self.aggregator is None else self._screen_sums(peer, push)
        else:
            mine = [self.places[group].rounds for group in push.groups if group in self.places]
            refused = [no for it in mine if (no := it.screen(peer, push)) is not None]
        for one in refused:
            self.say(peer, one)
        return not refused

    def _screen_sums(self, peer: bytes, push: Push) -> list[Refused]:
        assert self.aggregator is not None
        return self.aggregator.screen(peer, push, self.now)

    def _fetch(self, peer: bytes, blobs: Iterable[object], then: Callable[[], None]) -> None:
        lacking = [it for it in blobs if it.digest not in self.blobs]  # type: ignore[attr-defined]
        if not lacking:
            then()
            return
        left = len(lacking)

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then()

        for blob in lacking:
            waiting = self._pulling.setdefault(blob.digest, [])  # type: ignore[attr-defined]
            waiting.append(one)
            self._holders[blob.digest] = peer  # type: ignore[attr-defined]
            if len(waiting) == 1:
                self._pull(blob)  # type: ignore[arg-type]

    def _pull(self, blob: Blob) -> None:
        links, source = self.wan.links, self.wan.home(self._holders[blob.digest])

        def asked() -> None:
            assert blob.digest in source.blobs, "asked for what is not there"
            links.send(source.number, self.number, BLOB_ASK + blob.size, "blobs", arrived)

        def arrived() -> None:
            self.blobs.add(blob.digest)
            for waiting in self._pulling.pop(blob.digest, ()):
                waiting()

        def again() -> None:
            if blob.digest in self._pulling:
                self._pull(blob)

        links.send(self.number, source.number, BLOB_ASK, "asks", asked)
        self.wan.heap.after(PULL_S, again)

    def _hand_on(self, peer: bytes, message: Said) -> None:
        told = Told(peer, message)
        group = group_of(message)[1]
        match message:
            case Push(said=Claim(), relay=True):
                self._to_aggregator(told)
            case Push(groups=groups):
                self._to_rounds(groups, told)
            case Watch():
                self._to_rounds(tuple(self.places), told)
                self._to_aggregator(told)
            case Endorse() | Where() | Ask():
                if group in self.places:
                    self.tell_rounds(group, told)
                else:
                    self._to_aggregator(told)
            case Acked() | Held() | Refused() | Records() | Here():
                self.wan.heard(self, message)
                self.tell_learner(told)
                self._to_aggregator(told)
                if isinstance(message, Records):
                    self._to_rounds((message.group,), told)
                    for record in message.records:
                        self.tell_audit(Recorded(record))
            case Prove():
                self._to_aggregator(told)
            case Proof():
                self.tell_audit(told)
            case _:
                pass  # a Stage: it was fetched

    def _to_aggregator(self, told: Told) -> None:
        if self.aggregator is not None:
            self.tell_aggregator(told)

    def _to_rounds(self, groups: tuple[int, ...], told: Told) -> None:
        for group in groups:
            if group in self.places:
                self.tell_rounds(group, told)
