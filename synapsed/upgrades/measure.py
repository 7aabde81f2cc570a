"""What one daemon measured of an upgrade in one stage: the goal of operations that ran on the
candidate against those that ran on the incumbent, in the same hours on the same machine.

A coin says which version an operation runs on, so whatever else makes operations differ (the size
of a model, the hour, the peers) falls on both sides alike. What is reported is the difference of
the two means as a part of the incumbent's, positive where the candidate is better.
"""

import msgspec

from protocols.ledger.entries import MAX_GAIN
from protocols.slots.abi import Goal

PPM = 1_000_000


class Side(msgspec.Struct):
    """The operations of one version whose goal is known."""

    count: int = 0
    total: int = 0

    def add(self, value: int) -> None:
        """One more."""
        self.count += 1
        self.total += value


class Trial(msgspec.Struct):
    """The figures of one stage of one upgrade."""

    proposal: bytes
    permille: int
    incumbent: Side = msgspec.field(default_factory=Side)
    candidate: Side = msgspec.field(default_factory=Side)
    calls: int = 0
    """Of the candidate, in service or in the shadow."""
    traps: int = 0
    compared: int = 0
    """Calls in the shadow that both answered."""
    disagreements: int = 0
    """... not alike."""
    candidate_fuel: int = 0
    incumbent_fuel: int = 0
    """On the same batches; 0 where the incumbent is native."""
    dropped: int = 0
    """Batches that the shadow had no time for."""
    reported: int = 0
    """Measurements that were submitted."""
    reported_pairs: int = 0
    """... the last one of so many pairs."""
    failed: bool = False
    """Whether it was reported as failed or refused: then nothing more is measured."""

    @property
    def pairs(self) -> int:
        """Operations that can be set against each other; in the shadow, calls."""
        return min(self.incumbent.count, self.candidate.count) if self.permille else self.compared

    def gain(self, goal: Goal) -> int:
        """In millionths of the incumbent's mean; positive where the candidate is better."""
        old, new = self.incumbent, self.candidate
        if not old.count or not new.count:
            return 0
        # Both means times both counts: whole numbers, whatever the counts are.
        was, now = old.total * new.count, new.total * old.count
        better = now - was if goal.higher_is_better else was - now
        if not was:
            return MAX_GAIN * ((better > 0) - (better < 0))
        return max(-MAX_GAIN, min(MAX_GAIN, better * PPM // abs(was)))

    def fuel_ratio(self) -> int:
        """The candidate's fuel in thousandths of the incumbent's; 0 where that is native."""
        return 1000 * self.candidate_fuel // self.incumbent_fuel if self.incumbent_fuel else 0
