"""How long a round still waits once it has its quorum.

    quorum    the plan's learners, or as many as the last round had, whichever is less
    grace     after the quorum: as long as it took, in former rounds, until nearly all were there

The grace is estimated as TCP estimates a time-out (V. Jacobson, "Congestion avoidance and
control", SIGCOMM 1988): a moving mean and mean deviation, here of the time from the quorum to the
delta with which nine of ten learners of that round had come, late ones counted. One straggler in
ten is not waited for: it is carried. A round in which everybody who was expected has come closes
at once, and none waits longer than the plan's patience.

Below its quorum a round waits until nothing has come for a *lull*: as long as two former rounds
took, and the patience. So a swarm that lost half of its learners goes on with the others.
"""

from protocols.learn.roundlog import MAX_LEARNERS, MAX_SPREAD_MS, Spread
from protocols.plan import Plan

NEARLY_ALL = 9, 10
"""Of a round's learners, whose arrival ends a sample."""
DEVIATIONS = 4
"""Jacobson's."""
MIN_GRACE_MS = 20
"""Below it, the scheduling of two cores decides and not the network."""
MAX_SAMPLES = 4096
"""Arrivals noted in one round."""
FIRST_LULL = 4
"""Patiences, where no round's length is known."""


def quorum_of(plan: Plan, last: int) -> int:
    """Learners that a round waits for; `last`: those of the round before, 0 where none was."""
    most = min(plan.learners, MAX_LEARNERS)
    return most if last == 0 else max(1, min(most, last))


def grace_of(plan: Plan, spread: Spread) -> int:
    """ms."""
    if spread.samples == 0:
        return plan.patience_ms
    wanted = spread.mean_ms + DEVIATIONS * spread.deviation_ms
    return min(plan.patience_ms, max(MIN_GRACE_MS, wanted))


def learned(spread: Spread, sample_ms: int) -> Spread:
    """With one sample more."""
    sample_ms = min(max(0, sample_ms), MAX_SPREAD_MS)
    if spread.samples == 0:
        return Spread(sample_ms, sample_ms // 2, 1)
    off = sample_ms - spread.mean_ms
    # Rounded towards the sample: by integer division alone, small differences would never count.
    mean = spread.mean_ms + (off // 8 if off < 0 else -(-off // 8))
    drift = abs(off) - spread.deviation_ms
    deviation = spread.deviation_ms + (drift // 4 if drift < 0 else -(-drift // 4))
    return Spread(mean, deviation, min(spread.samples + 1, 1 << 31))


class Arrivals:
    """When the deltas of one round came."""

    def __init__(self) -> None:
        self.quorum_at: int | None = None
        self.last_at: int | None = None
        self._came: list[tuple[int, int]] = []

    def came(self, now_ms: int, weight: int) -> None:
        """So many learners' work."""
        self.last_at = now_ms
        if len(self._came) < MAX_SAMPLES:
            self._came.append((now_ms, weight))

    def sample(self) -> int | None:
        """ms from the quorum until nearly all had come; None where there was no quorum."""
        if self.quorum_at is None or not self._came:
            return None
        part, of = NEARLY_ALL
        need = -(-sum(weight for _, weight in self._came) * part // of)
        for at, weight in sorted(self._came):
            need -= weight
            if need <= 0:
                return max(0, at - self.quorum_at)
        return None
