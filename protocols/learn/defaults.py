"""The plans that measurements led to, and what a proposal takes where it says nothing else.

All numbers are from docs/learning-measurements.md, measured on a tiny mixture of experts with four
learners; a larger model will want its own rate.
"""

from itertools import pairwise

from protocols.plan import MILLE, Phase, Plan

RATE = 4000
"""AdamW's, in millionths. Dense training of the tiny model was best at it, of 2, 3, 4, 8 and 16
thousandths, and so was ours."""
ZONE = 150
"""Ternary's dead zone: about 1.1 bits a value, each way."""
FALL = (875, 625, 375, 125)
"""Thousandths of the rate while it falls, in equal parts."""


def flat(steps: int, inner: int, zone: int = ZONE) -> tuple[Phase, ...]:
    """The full rate for `inner` steps, of which a round has `steps`."""
    return (Phase(inner // steps, steps, "ternary", "ternary", MILLE, zone),)


def falling(steps: int, inner: int, zone: int = ZONE) -> tuple[Phase, ...]:
    """The same, while the rate falls in equal parts."""
    ends = [inner * at // steps // len(FALL) for at in range(len(FALL) + 1)]
    parts = [stop - start for start, stop in pairwise(ends)]
    return tuple(
        Phase(rounds, steps, "ternary", "ternary", rate, zone)
        for rounds, rate in zip(parts, FALL, strict=True)
    )


def plan(phases: tuple[Phase, ...], group_bytes: int = 2 << 20) -> Plan:
    """With everything else as measured."""
    return Plan(
        phases=phases,
        group_bytes=group_bytes,
        batch=8,
        context=64,
        rate=RATE,
        decay=100,
        outer_rate=MILLE,
        outer_momentum=0,
        learners=4,
        patience_ms=30_000,
    )


DEFAULT = plan((*flat(4, 900, 120), Phase(1, 15, "ternary", "ternary", MILLE, 145)))
"""From random weights often, then seldom, and for ever at the full rate: before what is learned is
to be used, a training is cooled by another plan (`falling`)."""
