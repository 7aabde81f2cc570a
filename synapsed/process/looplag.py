"""How long the event loop keeps everyone waiting.

A trio instrument: each pass of the loop runs the ready tasks between two waits for I/O, and
the length of a pass is what a newcomer to the loop waits at most. Costs two clock reads a pass
and no wake-ups of its own.
"""

import time
from collections import deque

import trio.abc

WINDOW = 4096
"""Passes that the quantiles look back on: seconds under load, minutes when idle."""

NOTABLE_S = 0.001
"""Shorter passes are not kept: an idle loop would wash the long ones out of the window."""


class LoopLag(trio.abc.Instrument):
    """Quantiles of the recent notable passes, and the longest since `reset`, in milliseconds."""

    def __init__(self) -> None:
        self._woke = time.perf_counter()
        self._passes: deque[float] = deque(maxlen=WINDOW)
        self._longest = 0.0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        self._woke = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        lag = time.perf_counter() - self._woke
        if lag >= NOTABLE_S:
            self._passes.append(lag)
            self._longest = max(self._longest, lag)

    def reset(self) -> None:
        """Forget what was seen: the next reading is of what comes after."""
        self._passes.clear()
        self._longest = 0.0

    def read(self) -> dict[str, float]:
        """`{"p50": ms, "p99": ms, "max": ms}`; zeros where no pass was notable."""
        ordered = sorted(self._passes)

        def quantile(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

        return {
            "p50": round(quantile(0.50) * 1e3, 3),
            "p99": round(quantile(0.99) * 1e3, 3),
            "max": round(self._longest * 1e3, 3),
        }
