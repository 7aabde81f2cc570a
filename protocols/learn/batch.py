"""Batches: a region's deltas of one group and round, until they are one sum."""

from collections.abc import Iterator
from typing import Literal

from protocols.codec import encode
from protocols.learn.aggregator_ports import MAX_LATE, MAX_PARKED
from protocols.learn.claims import Claim, Input, Made, Sum
from protocols.learn.grace import Arrivals, grace_of, learned
from protocols.learn.messages import MAX_MESSAGE, MAX_PROVEN
from protocols.learn.round_ports import MAX_FAN_IN
from protocols.learn.roundlog import Spread
from protocols.ledger.council import PeerId
from protocols.plan import Plan

PROOF_ROOM = MAX_MESSAGE - (64 << 10)
"""Bytes of claims in one batch: with the sum itself they must fit into one Proof."""

State = Literal["open", "combining", "sent", "done"]


class Turn:
    """How a group's round comes in, in all its batches: late ones count, too."""

    def __init__(self, number: int, before: "Turn | None") -> None:
        self.number = number
        self.arrivals = Arrivals()
        self.learners: set[PeerId] = set()
        self.expected: frozenset[PeerId] = frozenset()
        """Whoever came in the round before."""
        self.spread = Spread()
        if before is not None:
            self.expected = frozenset(before.learners)
            sample = before.arrivals.sample()
            self.spread = before.spread if sample is None else learned(before.spread, sample)


class Batch:
    """Claims of distinct learners, all from one base."""

    def __init__(self, group: int, number: int, base: bytes, part: int, arrivals: Arrivals) -> None:
        self.group = group
        self.number = number
        self.base = base
        self.part = part
        """The first of the round, or one of those that came after it was sent."""
        self.state: State = "open"
        self.claims: dict[PeerId, tuple[Claim, Made]] = {}
        self.arrivals = arrivals
        """Of the round: those of its other batches, too."""
        self.opened_at: int | None = None
        self.said: Sum | Claim | None = None
        """What went to the primary: of one learner alone its own claim, as it is."""
        self.before: Sum | None = None
        """The sum whose `left` is carried into this one."""
        self.to: bytes | None = None
        self.at = 0
        self.tries = 0
        self._size = 0

    @property
    def digest(self) -> bytes | None:
        """Of what went to the primary."""
        if isinstance(self.said, Sum):
            return self.said.made.digest
        for _, made in self.claims.values() if self.said is not None else ():
            return made.digest
        return None

    @property
    def is_open(self) -> bool:
        """Whether it has something, and waits for more."""
        return self.state == "open" and bool(self.claims)

    def has_room(self, claim: Claim) -> bool:
        """For one more."""
        if len(self.claims) >= min(MAX_FAN_IN, MAX_PROVEN):
            return False
        return self._size + len(encode(claim)) <= PROOF_ROOM

    def add(self, claim: Claim, made: Made, now_ms: int) -> None:
        """One more."""
        self.claims[claim.learner] = (claim, made)
        self._size += len(encode(claim))
        self.arrivals.came(now_ms, 1)
        if self.opened_at is None:
            self.opened_at = now_ms

    def without(self, learners: tuple[bytes, ...]) -> list[tuple[bytes, Made]]:
        """Open it again without these; who they were."""
        gone = [(it, self.claims.pop(it)[1]) for it in learners if it in self.claims]
        self.state, self.said = "open", None
        return gone

    def inputs(self) -> tuple[Input, ...]:
        """As the sum names them: by rising learner."""
        return tuple(
            Input(learner, made.digest, 0) for learner, (_, made) in sorted(self.claims.items())
        )

    def due(self, plan: Plan, spread: Spread, expected: frozenset[bytes], now_ms: int) -> int:
        """When it is summed, as things stand: at once when all who came last time are there, else
        a grace after half of them were."""
        arrivals = self.arrivals
        if arrivals.quorum_at is None and 2 * len(self.claims) >= len(expected):
            arrivals.quorum_at = now_ms
        if self.part == 0 and expected and expected <= self.claims.keys():
            return now_ms
        if arrivals.quorum_at is None:
            # Fewer than half came: those who are there wait no longer than for anybody.
            return (arrivals.last_at or now_ms) + plan.patience_ms
        began = arrivals.quorum_at if self.part == 0 else (self.opened_at or now_ms)
        return began + grace_of(plan, spread)


class Batches:
    """All that are under way, and how each group's newest round comes in."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._all: list[Batch] = []
        self._turns: dict[int, Turn] = {}

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(self._all))

    def of_round(self, made: Made) -> list[Batch]:
        """Those of its group and round."""
        return [it for it in self._all if (it.group, it.number) == (made.group, made.number)]

    def open(self, made: Made) -> Batch | None:
        """The one that takes such a delta now."""
        return next(
            (it for it in self.of_round(made) if it.base == made.base and it.state == "open"), None
        )

    def has_room(self, claim: Claim, made: Made) -> bool:
        """For this delta, in a batch that is there or in one more."""
        mine = self.of_round(made)
        if any(claim.learner in batch.claims for batch in mine):
            return True
        batch = self.open(made)
        if batch is not None:
            return batch.has_room(claim)
        return len(mine) < MAX_LATE and len(self._all) < MAX_PARKED

    def take(self, claim: Claim, made: Made, now_ms: int) -> Batch | None:
        """Put it where it belongs; the batch that has one of this learner and round already."""
        mine = self.of_round(made)
        known = next((batch for batch in mine if claim.learner in batch.claims), None)
        if known is not None:
            return known
        turn = self._turn_of(made)
        batch = self.open(made)
        if batch is None:
            batch = Batch(made.group, made.number, made.base, len(mine), turn.arrivals)
            self._all.append(batch)
        batch.add(claim, made, now_ms)
        turn.learners.add(claim.learner)
        return None

    def _turn_of(self, made: Made) -> Turn:
        """The group's newest round, with what the one before it taught."""
        turn = self._turns.get(made.group)
        if turn is None or turn.number < made.number:
            turn = self._turns[made.group] = Turn(made.number, turn)
        return turn

    def due(self, batch: Batch, now_ms: int) -> int:
        """When it is summed, as things stand."""
        turn = self._turns[batch.group]
        return batch.due(self._plan, turn.spread, turn.expected, now_ms)

    def sent(self, group: int, digest: bytes) -> Batch | None:
        """The one whose sum, or only delta, is with the primary."""
        found = (it for it in self._all if it.state == "sent" and it.group == group)
        return next((it for it in found if it.digest == digest), None)

    def remove(self, batch: Batch) -> None:
        """It is over."""
        self._all.remove(batch)

    def forget(self, group: int, floor: int) -> None:
        """What is done of rounds before that one."""
        self._all = [
            it for it in self._all if it.group != group or it.number >= floor or it.state != "done"
        ]
