"""Token buckets: how much of something may happen, with the time as an argument.

One bucket serves everything here that has a rate: messages of an issuer, gossip of a neighbour,
bytes of an upload. What is larger than the bucket is let through when the bucket is full, and
paid for afterwards, so that a limit below one message's size slows instead of stopping.
"""

import math


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up; it begins full.

    Times are seconds of any clock. Where it is set back nothing is earned, and time goes on from
    there: a rate does not stand still for the hours by which a wall clock was corrected.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        if not (rate >= 0 and burst > 0):
            raise ValueError("a token bucket needs a rate >= 0 and a burst > 0")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = -math.inf

    def available(self, now: float) -> float:
        """Tokens there are at `now`: negative while a large take is being paid for."""
        if now > self._at:
            # From -inf the first call finds the bucket full, whatever its rate.
            earned = math.inf if self._at == -math.inf else (now - self._at) * self.rate
            self._tokens = min(self.burst, self._tokens + earned)
        self._at = now
        return self._tokens

    def take(self, n: float, now: float) -> float:
        """Take `n` tokens and return 0.0; or take none and return the seconds until it could.

        `n` above `burst` is taken from a full bucket and leaves a debt. The wait is infinite
        where the rate is 0.
        """
        have = self.available(now)
        lacking = min(n, self.burst) - have
        if lacking <= 0:
            self._tokens -= n
            return 0.0
        return lacking / self.rate if self.rate else math.inf

    def change(self, rate: float, burst: float, now: float) -> None:
        """Go on with another rate and burst: what was earned until `now` is kept."""
        self.available(now)
        self.rate = rate
        self.burst = burst
        self._tokens = min(self._tokens, burst)
