"""What all learners of one model do: a plan, proposed and voted on like any change.

A plan is a list of phases. In each, a learner does `steps` AdamW steps of its own from the round's
base and sends what they changed (the pseudo-gradient), encoded by `up`; the primary's result comes
back encoded by `down`. With one step a round there is nothing local: the gradient itself is sent,
and AdamW runs at the primary. Early rounds synchronise often and finely, late ones seldom and
coarsely: from random weights every coarse codec diverges.
Source of the outer step: DiLoCo (arXiv 2311.08105), Nesterov momentum on pseudo-gradients.
"""

import hashlib
from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from protocols.codec import encode
from protocols.errors import MalformedError

MILLE, MILLION = 1000, 1_000_000
MAX_PHASES = 16
MAX_STEPS = 500
"""Inner steps a round: DiLoCo's own experiments go to 2,000 on far larger models; beyond some
hundred the replicas of small ones drift apart."""
MAX_ROUNDS = 1 << 31
MIN_GROUP_BYTES, MAX_GROUP_BYTES = 64 << 10, 1 << 30
MAX_ZONE = 1000
"""Ten times the mean absolute value: of a normal distribution nothing is left."""
MAX_BATCH = 4096
MAX_LEARNERS = 4096
MIN_PATIENCE_MS, MAX_PATIENCE_MS = 100, 86_400_000
MAX_CONTEXT = 1 << 17

CodecName = Literal["fp32", "int8", "two-bit", "ternary", "one-bit", "top-k", "low-rank"]
DownName = Literal["fp32", "int8", "two-bit", "ternary", "one-bit"]
"""Of a result: decoded elementwise, because everybody must end with the same bits."""


class BadPlanError(MalformedError):
    """A plan whose parts contradict each other."""

    code = "bad-plan"


class Phase(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """So many rounds alike; the last phase goes on for ever, whatever it says."""

    rounds: Annotated[int, msgspec.Meta(ge=1, lt=MAX_ROUNDS)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
    up: CodecName
    down: DownName
    rate: Annotated[int, msgspec.Meta(ge=0, le=MILLE)] = MILLE
    """Of the plan's rate, in thousandths: rates fall before what is learned is to be used."""
    zone: Annotated[int, msgspec.Meta(ge=0, le=MAX_ZONE)] = 0
    """Ternary's dead zone, both ways, in hundredths of a block's mean absolute value; 0 is the
    codec's own. A wider one sends fewer values of each delta, and error feedback the rest later."""


class Plan(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How one model is trained."""

    phases: Annotated[tuple[Phase, ...], msgspec.Meta(min_length=1, max_length=MAX_PHASES)]
    group_bytes: Annotated[int, msgspec.Meta(ge=MIN_GROUP_BYTES, le=MAX_GROUP_BYTES)]
    """fp32 values of one tile group at most, in bytes, unless one tile alone is larger."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
    """Sequences of one inner step."""
    context: Annotated[int, msgspec.Meta(ge=2, le=MAX_CONTEXT)]
    """Tokens of a sequence."""
    rate: Annotated[int, msgspec.Meta(ge=0, le=MILLION)]
    """AdamW's learning rate, in millionths."""
    decay: Annotated[int, msgspec.Meta(ge=0, le=MILLE)]
    """AdamW's weight decay, in thousandths."""
    outer_rate: Annotated[int, msgspec.Meta(ge=0, le=10 * MILLE)]
    """Of the outer step, in thousandths."""
    outer_momentum: Annotated[int, msgspec.Meta(ge=0, lt=MILLE)]
    """Nesterov's, in thousandths; 0 is plain averaging."""
    learners: Annotated[int, msgspec.Meta(ge=1, le=MAX_LEARNERS)]
    """Deltas that a round waits for at least (fewer where fewer were there in the last one)."""
    patience_ms: Annotated[int, msgspec.Meta(ge=MIN_PATIENCE_MS, le=MAX_PATIENCE_MS)]
    """The longest that a round waits after its quorum, whoever is missing."""

    def phase_of(self, number: int) -> Phase:
        """That of round `number`, counted from 0."""
        for phase in self.phases[:-1]:
            if number < phase.rounds:
                return phase
            number -= phase.rounds
        return self.phases[-1]

    def rate_of(self, number: int) -> float:
        """AdamW's learning rate in round `number`."""
        return self.rate * self.phase_of(number).rate / (MILLION * MILLE)

    def __post_init__(self) -> None:
        if self.phases[0].up in ("top-k", "low-rank") and self.phases[0].steps == 1:
            raise BadPlanError("a plan that sends single gradients by a codec that loses most")


@lru_cache(maxsize=64)
def plan_digest(plan: Plan) -> bytes:
    """What a round names the plan by that it was made by: plans are replaced while rounds go on."""
    return hashlib.sha256(encode(plan)).digest()
