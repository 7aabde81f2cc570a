"""What is going to befall a world: drawn from the seed before anything runs.

A plan is a list of episodes, each with a beginning and an end. So a run can be repeated without
some of them, and `shrink` looks for the few that a failure needs.
"""

import random
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from simnet.virtual.dice import dice

Who = Literal["one", "some", "all", "leader", "victim", "newcomer", "world"]
Range = tuple[float, float]


class FaultSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of fault in a family: how often, on whom, for how long, how badly."""

    kind: str
    """A name in `faults.FAULTS`."""
    count: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]] = (1, 1)
    """Episodes in a run, from, to."""
    who: Who = "one"
    lasts: Range = (1.0, 10.0)
    """Seconds of each episode, from, to."""
    amount: Range = (0.0, 0.0)
    """What it means stands with each fault."""
    after: float = 0.0
    """Seconds from the start before the first may begin."""


class Episode(msgspec.Struct, frozen=True):
    """One fault, from `at` to `until`. `who` are node numbers; none: who leads at the time."""

    number: int
    kind: str
    at: float
    until: float
    who: tuple[int, ...]
    amount: float


class Cast(msgspec.Struct, frozen=True):
    """Whom faults may befall, by their node numbers."""

    members: tuple[int, ...]
    """Honest ones with a seat."""
    victims: tuple[int, ...] = ()
    """Members that may lose their memory: with the liars fewer than a third."""
    newcomers: tuple[int, ...] = ()
    """Without a seat at first."""
    twins: bool = False
    """Whether two share one identity."""

    def choose(self, who: Who, rng: random.Random) -> tuple[int, ...]:
        """Those that one episode befalls."""
        match who:
            case "one":
                return (rng.choice(self.members),)
            case "some":
                return tuple(sorted(rng.sample(self.members, rng.randint(1, len(self.members)))))
            case "all":
                return self.members
            case "victim":
                return (rng.choice(self.victims),) if self.victims else ()
            case "newcomer":
                return (rng.choice(self.newcomers),) if self.newcomers else ()
        return ()


def draw(seed: int, specs: Sequence[FaultSpec], cast: Cast, seconds: float) -> list[Episode]:
    """The episodes of one run, all over by `seconds`, in order of their beginnings."""
    drawn = []
    for place, spec in enumerate(specs):
        rng = dice(seed, "plan", place, spec.kind)
        for _ in range(rng.randint(*spec.count)):
            lasts = rng.uniform(*spec.lasts)
            # To the very end: healing finds a part of them under way.
            at = rng.uniform(spec.after, max(spec.after, seconds))
            who = cast.choose(spec.who, rng)
            amount = rng.uniform(*spec.amount)
            if who or spec.who in ("leader", "world"):
                drawn.append((at, min(at + lasts, seconds), spec.kind, who, amount))
    drawn.sort()
    return [Episode(number, *each_of(each)) for number, each in enumerate(drawn)]


def each_of(
    drawn: tuple[float, float, str, tuple[int, ...], float],
) -> tuple[str, float, float, tuple[int, ...], float]:
    """In an episode's order."""
    at, until, kind, who, amount = drawn
    return (kind, at, until, who, amount)


def without(plan: Sequence[Episode], dropped: Collection[int]) -> list[Episode]:
    """The plan without the episodes of those numbers; the others keep theirs."""
    return [episode for episode in plan if episode.number not in dropped]


def numbers_text(numbers: Collection[int]) -> str:
    """`0,3-5` for {0, 3, 4, 5}."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def parse_numbers(text: str) -> list[int]:
    """{0, 3, 4, 5} of `0,3-5`, in order. Raises ValueError."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        numbers.update(range(int(low), int(high or low) + 1))
    return sorted(numbers)
