"""What a world of learnwan.py is made of: its plan, its size, and how many bytes things take."""

from typing import NamedTuple, Protocol

from protocols.plan import Plan

EPOCH = 1
BEGAN_MS = 1_800_000_000_000
WORK_S = 0.05
"""To encode, apply, sum or aggregate: a group of 4 MiB takes less."""


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
