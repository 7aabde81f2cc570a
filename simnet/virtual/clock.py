"""A node's clock: it starts somewhere, runs a little fast or slow, and may be set wrong."""

from protocols.ledger.council import Instant

BEGAN_MS = 1_800_000_000_000
"""What an exact clock shows when a world begins, in ms since 1970: 2027-01-15 08:00 UTC."""

NUDGE = 1e-6
"""Seconds that an alarm comes late, so that no rounding lets it come early."""


class Clock:
    """`rate` is how fast it runs (1.0: exactly); `skew_ms` how wrong its time of day is."""

    __slots__ = ("_base", "_since", "rate", "skew_ms")

    def __init__(self) -> None:
        self._base = 0.0
        self._since = 0.0
        self.rate = 1.0
        self.skew_ms = 0

    def instant(self, now: float) -> Instant:
        """What it shows at the world's time `now`."""
        mono = self._base + (now - self._since) * self.rate
        return Instant(mono, BEGAN_MS + int(now * 1000) + self.skew_ms)

    def when(self, mono: float) -> float:
        """The world's time at which it will show `mono`."""
        return self._since + (mono - self._base) / self.rate + NUDGE

    def drift(self, now: float, rate: float) -> None:
        """Let it run at `rate` from now on; what it shows does not jump."""
        self._base, self._since = self.instant(now).mono, now
        self.rate = rate

    def reboot(self, now: float) -> None:
        """A monotonic clock counts from the machine's start."""
        self._base, self._since = 0.0, now
