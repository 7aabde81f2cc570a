"""Finding a shorter failure: fewer episodes, less time, the same broken check.

Delta debugging (A. Zeller, R. Hildebrandt, "Simplifying and isolating failure-inducing input",
IEEE TSE 28, 2002) over the numbers of a plan's episodes, then halving of the time.
"""

from collections.abc import Callable, Sequence

Fails = Callable[[frozenset[int], float], bool]
"""(episodes that are dropped, seconds) -> whether the run still breaks the same check."""

SHORTEST_S = 1.0
FINENESS = 0.05
"""The share of the time below which no shorter run is looked for."""


def shrink(
    numbers: Sequence[int], seconds: float, fails: Fails, say: Callable[[str], None]
) -> tuple[frozenset[int], float]:
    """What can be dropped, and in how much time it still fails. Ends: each step makes less."""
    everything = frozenset(numbers)
    kept = list(numbers)
    while True:
        before = len(kept), seconds
        seconds = _shorter(everything - frozenset(kept), seconds, fails)
        kept = _fewer(everything, kept, seconds, fails)
        say(f"{len(kept)} of {len(numbers)} episodes, {seconds:.1f} s")
        if (len(kept), seconds) == before:
            return everything - frozenset(kept), seconds


def _fewer(everything: frozenset[int], kept: list[int], seconds: float, fails: Fails) -> list[int]:
    parts = 2
    while kept:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if fails(everything - frozenset(rest), seconds):
                kept, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                return kept
            parts = min(len(kept), 2 * parts)
    return kept


def _shorter(dropped: frozenset[int], seconds: float, fails: Fails) -> float:
    low, high = 0.0, seconds
    while high - low > max(SHORTEST_S, FINENESS * high):
        middle = (low + high) / 2
        if fails(dropped, middle):
            high = middle
        else:
            low = middle
    return high
