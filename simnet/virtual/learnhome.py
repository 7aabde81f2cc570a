"""One home of a wide world in which many learn (learnwan.py): all its machines, and their driver.

What the daemon's driver does in trio happens here on the heap: messages are packed and unpacked,
blobs are fetched before a machine hears of them, work takes its time. Disks do not fail here
(tiledaemon.py has those for a group's log).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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
from protocols.learn.regions import Regions
from protocols.learn.round_ports import Heard as Told
from protocols.learn.round_ports import (
    Say,
    Tick,
)
from simnet.virtual.dice import dice
from simnet.virtual.keys import Key
from simnet.virtual.learncase import EPOCH, WORK_S
from simnet.virtual.learnseat import Seat
from simnet.virtual.learnshelf import Shelf

if TYPE_CHECKING:
    from simnet.virtual.learnwan import Wan

TICK_S = 10.0
"""Of the ledger."""
PROBE_S = 60.0
"""Between two looks at the round trips."""
RINGS = 100
"""Wakes of one daemon in one millisecond: more is a machine that does nothing when it is woken."""


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
        self.shelf = Shelf(wan, number)
        self.places: dict[int, Seat] = {}
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
            odds=lambda entry: odds(
                case.learners, entry.of, own=entry.learner == self.aggregated_by
            ),
        )
        for group in groups:
            if self.me in wan.seats(group, EPOCH):
                self.places[group] = Seat(self, group)

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
            if not self.regions.is_known(peer):
                self.probe(peer)
        return self.regions.nearest(peers)

    # -- time ---------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """ms."""
        return int(self.wan.heap.now * 1000)

    def start(self) -> None:
        """Everything begins."""
        for seat in self.places.values():
            seat.start()
        self.tick()
        self.look_around()
        versions = {group: (0, self.wan.genesis(group)) for group in self.learner.groups}
        self.tell_learner(Resumed(versions))

    def tick(self) -> None:
        """The ledger's."""
        for seat in self.places.values():
            seat.tick()
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

    def wake(self, name: str, when: int | None, then: Callable[[], None]) -> None:
        """Ring for a machine of ours when it wants to be woken."""
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
        self.wake("learner", self.learner.next_wake, lambda: self.tell_learner(Tick()))

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
        self.wake("aggregator", machine.next_wake(self.now), lambda: self.tell_aggregator(Tick()))

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
        self.wake("audit", self.audit.next_wake, lambda: self.tell_audit(Tick()))

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
                assert decided.result in self.shelf.here
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
            made[group] = self.shelf.make(size, "delta", self.number, self._life, group, seq)
            self.mine.add(made[group].digest)
        self.encoded += 1
        self._later(WORK_S, Encoded(seq, made))

    def _combine(self, asked: Combine) -> None:
        self.shelf.need(part.blob for part in asked.parts)
        size = self.wan.sizes.sum(asked.group, asked.number, len(asked.parts))
        blob = self.shelf.make(size, "sum", asked.group, asked.parts)
        left = self.shelf.make(size, "left", asked.group, asked.parts)
        event = Combined(asked.ticket, blob, left=left)
        self.wan.heap.after(WORK_S, self.tell_aggregator, event)

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
        self.shelf.fetch(peer, blobs_of(message), lambda: self._hand_on(peer, message))

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
                    self.places[group].tell(told)
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
                self.places[group].tell(told)
