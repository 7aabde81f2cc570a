"""Time, told with an interval: machines are noisy, and a median of a few pairs is not.

Module and incumbent take turns on the same batch, so that whatever slows the machine down slows
both; each pair gives one ratio. The interval is the order statistics' one for the median: exact
for any distribution.
"""

import time
from math import comb
from statistics import median

from protocols.slots.abi import Batch
from synapsed.authoring.differ import Subject
from synapsed.authoring.question import Timing
from synapsed.authoring.sample import drawn

PAIRS = 41
ROWS = 1_000
CONFIDENCE = 0.99
SHORTEST_S = 1e-9
"""A clock may not have moved."""


def timing(seed: str, subject: Subject, incumbent: Subject | None) -> Timing:
    """How much longer calls of the module take than the incumbent's, or the reference's."""
    slot = subject.slot
    batch = slot.generate(drawn(seed, "timed"), ROWS)
    placed = subject.place(batch)

    def theirs() -> float:
        return incumbent.seconds(placed) if incumbent is not None else _reference(batch)

    ratios, taken = [], []
    for number in range(-2, PAIRS):  # two to warm up
        if number % 2:
            mine, other = subject.seconds(placed), theirs()
        else:
            other, mine = theirs(), subject.seconds(placed)
        if number >= 0:
            ratios.append(max(mine, SHORTEST_S) / max(other, SHORTEST_S))
            taken.append(mine)
    low, high = interval(ratios, CONFIDENCE)
    return Timing(
        pairs=PAIRS,
        ratio=round(median(ratios), 4),
        low=round(low, 4),
        high=round(high, 4),
        microseconds=round(median(taken) * 1e6, 1),
        rows=batch.total_rows,
    )


def _reference(batch: Batch) -> float:
    began = time.perf_counter()
    batch.slot.reference(batch)
    return time.perf_counter() - began


def interval(values: list[float], confidence: float) -> tuple[float, float]:
    """Between which two of the values the median lies, at least so surely: as many are cut off
    at either end as a fair coin thrown for each value leaves room for."""
    ordered = sorted(values)
    count, below, cut = len(ordered), 0.0, 0
    while cut < (count - 1) // 2:
        below += comb(count, cut) / 2**count
        if 2 * below > 1 - confidence:
            break
        cut += 1
    # With `cut` values dropped at either end, the chance to miss is that of at most cut-1 heads.
    return ordered[max(0, cut - 1)], ordered[count - max(1, cut)]
