"""Proof of learning: whether a checkpoint is better than its parent, from losses on drawn windows.

A member evaluates both on the same windows of the evaluation set. The differences of their losses,
window by window, are a sample of those of the whole set; their interval says how much better the
child is on that. It holds where the interval's lower end is at or above the training's margin.

Two intervals at 99 % a side are made, and the wider end of each is taken:

    Student's t               right for normal differences, and for symmetric heavy tails
    the studentised bootstrap right for skewed ones, where t accepts what is mostly a little better
                              and seldom much worse (P. Hall, "The Bootstrap and Edgeworth
                              Expansion", 1992, section 3.5)

A pair that is equal on the whole set, by chance better or worse on each window, is thus taken for
better by at least nothing in 0.8 to 1.1 % of draws for normal, Laplace and t3 differences with 32,
64 and 128 windows, in 1.3 % where one window in twenty is much worse, and in 2.5 to 3.8 % for a
log-normal tail on the bad side (4,000 draws each); by at least a margin above zero in fewer. What
no sample shows, harm on fewer windows than are drawn, no interval does either.

All numbers here are integers, so that whoever has the same losses has the same interval. Losses
are not the same on all machines: sums of floats in another order differ by some 10^-6 nats, far
less than an interval is wide. So verdicts are compared by their intervals and never by bits, and
a checkpoint at the very margin may be judged differently by honest members.
"""

import math
from collections.abc import Iterable, Sequence

from protocols.changes import MIN_WINDOWS
from protocols.draw import Draw
from protocols.errors import MalformedError
from protocols.ledger.entries import MAX_GAIN, NO_INTERVAL, Interval

NANO = 1_000_000_000
PER_MILLIONTH = 1000
MAX_LOSS = 1000 * NANO
"""A loss above 1,000 nats a token counts as that: a broken model's may be infinite."""
RESAMPLES = 1999
"""Of the bootstrap: the hundredth part of so many and one is a whole number, 20."""
TAIL = 100
"""One in so many on each side."""
MAX_PICKS = 1 << 20
"""Of all resamples together, two seconds of one core; above it there are fewer, as with so many
windows the two intervals are the same."""
MIN_RESAMPLES = 299
_HALF = 32
_MASK = (1 << _HALF) - 1
_BEYOND = 1 << 62
"""A resample whose values are all alike is as far from the mean as can be."""


class TooFewWindowsError(MalformedError):
    """An evaluation set with fewer windows than are to be drawn, or losses that are too few."""

    code = "too-few-windows"


def sample(seed: bytes, windows: int, of: int) -> list[int]:
    """Which windows of an evaluation set that has `of` of them: rising. TooFewWindowsError.

    Source: R. Floyd's sampling (J. Bentley, "Programming pearls", CACM 1987).
    """
    if not MIN_WINDOWS <= windows <= of:
        raise TooFewWindowsError(
            f"{windows} windows cannot be drawn from an evaluation set of {of}",
            remedy=f"at least {MIN_WINDOWS} must be there: use a larger evaluation set",
        )
    draw = Draw(seed)
    chosen: set[int] = set()
    for last in range(of - windows, of):
        number = draw.integer(0, last)
        chosen.add(last if number in chosen else number)
    return sorted(chosen)


def nanonats(losses: Iterable[float]) -> list[int]:
    """Losses as whole numbers; what is no number, or too large, as the largest."""
    return [
        round(loss * NANO) if 0 <= loss < MAX_LOSS / NANO else (0 if loss < 0 else MAX_LOSS)
        for loss in losses
    ]


def interval(parent: Sequence[int], child: Sequence[int], seed: bytes) -> Interval:
    """How much better the child is, from both models' losses (billionths of a nat) on the same
    windows. TooFewWindowsError."""
    if len(parent) != len(child) or len(parent) < MIN_WINDOWS:
        raise TooFewWindowsError(f"{len(parent)} and {len(child)} windows: an interval needs more")
    gains = [before - after for before, after in zip(parent, child, strict=True)]
    count, total = len(gains), sum(gains)
    squares = sum(gain * gain for gain in gains)
    spread = math.isqrt((count * squares - total * total) // (count - 1))
    below, above = _quantiles(gains, seed) if spread else (0, 0)
    student = _student(count - 1)
    # In units of 1/count: the mean is `total`, its standard error `spread`.
    low = total - max(student, above) * spread // PER_MILLIONTH
    high = total + max(student, -below) * spread // PER_MILLIONTH
    unit = count * PER_MILLIONTH
    found = Interval(_bounded(low // unit), _bounded(total // unit), _bounded(-(-high // unit)))
    return found if found != NO_INTERVAL else NO_INTERVAL


def holds(found: Interval, margin: int) -> bool:
    """Whether a checkpoint is better by at least `margin`, millionths of a nat."""
    return found != NO_INTERVAL and found.low >= margin


def overfits(probe: Interval) -> bool:
    """Whether a checkpoint is worse on text of a member's own, which nobody could train on.

    The evaluation set is public: who trains on it improves there. A member that keeps a private
    text looks whether the child lost on that what it gained there.
    """
    return probe.high < 0


def _bounded(millionths: int) -> int:
    return max(-MAX_GAIN, min(MAX_GAIN, millionths))


def _student(freedom: int) -> int:
    """Thousandths: the 99 % quantile of Student's t, by its expansion in 1/freedom (Fisher and
    Cornish, 1960): within 0.001 from 31 degrees of freedom on."""
    return 2326 + -(-3729 // freedom) + -(-5720 // (freedom * freedom))


def _quantiles(gains: Sequence[int], seed: bytes) -> tuple[int, int]:
    """The lower and the upper 1 % quantile, in thousandths, of the studentised mean of resamples.

    `gains` are not all alike.
    """
    count, total = len(gains), sum(gains)
    resamples = max(MIN_RESAMPLES, min(RESAMPLES, MAX_PICKS // count))
    draw = Draw(b"resample" + seed)
    found = []
    for _ in range(resamples):
        picked = _pick(draw, gains)
        off = sum(picked) - total
        inner = count * sum(gain * gain for gain in picked) - (off + total) ** 2
        error = math.isqrt(inner // (count - 1))
        found.append(off * 1000 // error if error else (off > 0) * _BEYOND - (off < 0) * _BEYOND)
    found.sort()
    cut = max(1, (resamples + 1) // TAIL)
    return found[cut - 1], found[-cut]


def _pick(draw: Draw, gains: Sequence[int]) -> list[int]:
    """As many of them, each any of them: two indices from each number that is drawn."""
    count = len(gains)
    picked = []
    for _ in range((count + 1) // 2):
        word = draw.word()
        picked.append(gains[(word >> _HALF) * count >> _HALF])
        picked.append(gains[(word & _MASK) * count >> _HALF])
    return picked[:count]
