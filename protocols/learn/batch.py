"""A region's deltas of one group and round, until they are one sum."""

from typing import Literal

from protocols.codec import encode
from protocols.learn.claims import Claim, Input, Made, Sum
from protocols.learn.grace import Arrivals, grace_of, learned
from protocols.learn.messages import MAX_MESSAGE, MAX_PROVEN
from protocols.learn.plan import Plan
from protocols.learn.round_ports import MAX_FAN_IN
from protocols.learn.roundlog import Spread
from protocols.ledger.council import PeerId

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
