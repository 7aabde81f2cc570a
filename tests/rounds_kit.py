"""A group's rounds on three replicas, with a log that is a list and can be held back."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from protocols.learn.claims import (
    Claim,
    Endorsement,
    Input,
    Made,
    Record,
    Round,
    Sum,
    claim_message,
    round_message,
)
from protocols.learn.messages import Blob, Push, Said
from protocols.learn.replica_ports import Term
from protocols.learn.round_ports import (
    Advance,
    Aggregate,
    Aggregated,
    Committed,
    Event,
    Followed,
    Heard,
    Led,
    NotAggregated,
    Propose,
    RoundsSettings,
    Say,
    State,
)
from protocols.learn.rounds import Rounds
from protocols.plan import Phase, Plan
from protocols.realm import Realm
from simnet.virtual.keys import Key, Keys

REALM = Realm("test", bytes(32))
MODEL = b"\x01\x55\x12\x20" + hashlib.sha256(b"model").digest()
GENESIS = hashlib.sha256(b"version 0").digest()
PLAN = Plan(
    phases=(Phase(1 << 20, 15, "ternary", "ternary"),),
    group_bytes=1 << 20,
    batch=8,
    context=64,
    rate=1000,
    decay=0,
    outer_rate=700,
    outer_momentum=500,
    learners=4,
    patience_ms=1000,
)
SIZE = 1000
T = TypeVar("T", Claim, Sum)


def digest_of(*parts: object) -> bytes:
    """A name for bytes that do not matter."""
    return hashlib.sha256(repr(parts).encode()).digest()


def claim_of(key: Key, number: int, base: bytes, *, groups: Sequence[int] = (0,), tag: object = 0):
    """What a learner signs of these groups' round."""
    made = tuple(Made(g, number, base, digest_of(key.peer, g, number, tag), SIZE) for g in groups)
    claim = Claim(model=MODEL, learner=key.peer, steps=15, made=made, signature=bytes(64))
    return sealed(key, claim)


def sum_of(key: Key, claims: Sequence[Claim], group: int = 0) -> Sum:
    """A region's sum of these."""
    its = {claim.learner: made for claim in claims for made in claim.made if made.group == group}
    first = next(iter(its.values()))
    made = Made(group, first.number, first.base, digest_of("sum", sorted(its)), SIZE)
    inputs = tuple(Input(who, one.digest, 0) for who, one in sorted(its.items()))
    unsigned = Sum(model=MODEL, aggregator=key.peer, made=made, inputs=inputs, signature=bytes(64))
    return sealed(key, unsigned)


def sealed(key: Key, said: T) -> T:
    """With its signature."""
    return msgspec.structs.replace(said, signature=key.sign(claim_message(REALM, said)))


def record_of(
    keys: Sequence[Key], number: int, parent: bytes, *, group: int = 0, inputs=(), epoch: int = 1
) -> Record:
    """A committed round, as replicas with these keys endorse it."""
    head = digest_of("head", group, number, parent)
    result = digest_of("result", group, number)
    decided = Round(
        model=MODEL,
        group=group,
        number=number,
        epoch=epoch,
        parent=parent,
        head=head,
        result=result,
        size=SIZE,
        inputs=tuple(inputs),
    )
    message = round_message(REALM, decided)
    by = tuple(Endorsement(key.peer, key.sign(message)) for key in keys)
    return Record(round=decided, by=by)


class Trio:
    """Three of them. Effects are performed at once; `held` keeps proposals from the log."""

    def __init__(self, plan: Plan = PLAN, *, epoch: int = 1) -> None:
        self.keys = Keys(1)
        self.plan = plan
        self.now = 1000
        self.seats = [self.keys.new(f"replica {number}") for number in range(3)]
        self.learners = [self.keys.new(f"learner {number}") for number in range(16)]
        self.log: list[bytes] = []
        self.held = False
        self._committing = False
        self.proposed: list[Propose] = []
        self.said: list[tuple[bytes, bytes, Said]] = []
        """(from, to, message) to whoever is no replica."""
        self.effects: list[object] = []
        """All others."""
        self.by: list[tuple[int, object]] = []
        """The same, with whose they are."""
        self.records: dict[int, Record] = {}
        self.aggregating: Aggregate | None = None
        self.answers = True
        """Whether the primary's Aggregate is answered at once."""
        self.unable: set[int] = set()
        """Replicas whose workers answer nothing."""
        self.waiting: dict[int, Aggregate] = {}
        """What those were asked last."""
        self.unusable: set[bytes] = set()
        """Inputs that no worker can use."""
        self.lies: dict[int, Callable[[Aggregated], Aggregated]] = {}
        """What a replica's worker makes of the truth."""
        self.deaf: set[bytes] = set()
        self.leader: int | None = None
        self.rounds = [self.new(number, epoch) for number in range(3)]

    def new(self, number: int, epoch: int = 1, **more: Callable[..., object]) -> Rounds:
        """A replica that knows nothing yet."""
        settings = RoundsSettings(
            realm=REALM,
            model=MODEL,
            group=0,
            plan=self.plan,
            genesis=GENESIS,
            me=self.seats[number].peer,
            epoch=epoch,
            replicas=tuple(key.peer for key in self.seats),
            max_delta=10 * SIZE,
            **more,
        )
        sign, verify = self.seats[number].sign, self.keys.verify
        return Rounds(settings, sign, verify, lambda _: None, self.now)

    def epoch(self, number: int) -> None:
        """The ledger has a new one, with the same three."""
        self.leader = None
        for rounds in self.rounds:
            rounds.turn(msgspec.structs.replace(rounds._set, epoch=number), self.now)

    def lead(self, number: int, term: int = 3) -> None:
        """That replica is the primary from now on."""
        self.leader = number
        for other, rounds in enumerate(self.rounds):
            its = Term(1, term)
            primary = self.seats[number].peer
            event: Event = Led(its) if other == number else Followed(its, primary)
            self.do(other, rounds, event)

    def restart(self, number: int) -> None:
        """Its memory is gone; its log is not."""
        rounds = self.rounds[number] = self.new(number)
        for index, body in enumerate(self.log, 1):
            self.do(number, rounds, Committed(body, None, index))

    def do(self, number: int, rounds: Rounds, event: Event) -> None:
        """One event, and what follows from it."""
        for effect in rounds.handle(event, self.now):
            self.perform(number, effect)

    def at(self, number: int, event: Event) -> None:
        """The same, by number."""
        self.do(number, self.rounds[number], event)

    def perform(self, number: int, effect: object) -> None:
        """What one of them wants."""
        match effect:
            case Propose():
                self.proposed.append(effect)
                if not self.held:
                    self.commit()
            case Say(peer, message):
                self._say(number, peer, message)
            case Aggregate(judging=True):
                self.waiting[number] = effect
                if number not in self.unable:
                    self.judge(number)
            case Aggregate():
                self.aggregating = effect
                if self.answers:
                    self.aggregate()
            case _:
                self.effects.append(effect)
                self.by.append((number, effect))

    def _say(self, number: int, peer: bytes, message: Said) -> None:
        mine = self.seats[number].peer
        for other, key in enumerate(self.seats):
            if key.peer == peer:
                if peer not in self.deaf and mine not in self.deaf:
                    self.at(other, Heard(mine, message))
                return
        self.said.append((mine, peer, message))

    def commit(self) -> None:
        """What was proposed is committed, everywhere, in one order."""
        if self._committing:
            return
        self._committing = True
        while self.proposed:
            proposed = self.proposed.pop(0)
            self.log.append(proposed.body)
            writer = None if self.leader is None else self.seats[self.leader].peer
            for number, rounds in enumerate(self.rounds):
                tag = proposed.tag if number == self.leader else None
                self.do(number, rounds, Committed(proposed.body, tag, len(self.log), writer))
        self._committing = False

    def aggregate(self) -> None:
        """The primary's worker answers."""
        asked = self.aggregating
        assert asked is not None
        assert self.leader is not None
        self.aggregating = None
        self.at(self.leader, self.worked(self.leader, asked))

    def judge(self, number: int) -> None:
        """Another's does, of what it was asked last."""
        self.at(number, self.worked(number, self.waiting.pop(number)))

    def worked(self, number: int, asked: Aggregate) -> Event:
        """What a replica's worker makes of inputs: a function of what it is given, or a lie."""
        good = tuple(part for part in asked.parts if part.blob.digest not in self.unusable)
        bad = tuple(part.blob.digest for part in asked.parts if part not in good)
        if not good:
            return NotAggregated(asked.ticket, "none is a delta", bad)
        of = (asked.number, asked.base, good, asked.before)
        made = Aggregated(
            asked.ticket,
            Blob(digest_of("result", *of), SIZE),
            digest_of("head", *of),
            tuple(1000 // len(good) if part in good else 0 for part in asked.parts),
            bad,
            asked.before,
            State(digest_of("state", *of), SIZE),
        )
        return self.lies.get(number, lambda same: same)(made)

    def push(self, said: Claim | Sum, to: int | None = None, *, by: bytes | None = None) -> None:
        """A learner's delta, or a sum, comes."""
        if by is None:
            by = said.learner if isinstance(said, Claim) else said.aggregator
        number = self.leader if to is None else to
        assert number is not None
        groups = (0,)
        self.at(number, Heard(by, Push(said=said, groups=groups)))

    def claim(self, learner: int, number: int | None = None, **more: object) -> Claim:
        """Of the open round, where no other is said."""
        log = self.rounds[self.leader or 0].log
        if number is None:
            number = log.number
        base = log.head if number == log.number else (log.before or b"")
        return claim_of(self.learners[learner], number, base, **more)

    def to(self, key: Key, kind: type) -> list[Said]:
        """What somebody was told, of one kind."""
        return [m for _, to, m in self.said if to == key.peer and isinstance(m, kind)]

    def advanced(self) -> list[Round]:
        """Rounds that were committed, by each replica that says so."""
        return [effect.round for effect in self.effects if isinstance(effect, Advance)]
