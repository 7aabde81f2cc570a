"""Messages a second, counted from real messages over a real window (contract A10)."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

WINDOW_S = 10.0
"""Long enough that one heartbeat round is no spike, short enough to watch by eye."""

BUCKET_S = 0.25
"""The window moves in these steps; its length is known exactly all the same."""

Direction = Literal["in", "out"]


class MessageMeter:
    """Counts messages by direction and kind; `rate()` is over the last ten seconds.

    Source of the rate: buckets of a quarter second. The window runs from the start of the
    oldest bucket that is kept (or of the meter) to now, so nothing is estimated.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._buckets: deque[list[int]] = deque()
        self.totals: dict[tuple[Direction, str], int] = {}

    def count(self, direction: Direction, kind: str, messages: int = 1) -> None:
        """`messages` of `kind` (a topic's or a stream protocol's short name) went in or out."""
        key = (direction, kind)
        self.totals[key] = self.totals.get(key, 0) + messages
        index = int(self._clock() / BUCKET_S)
        if self._buckets and self._buckets[-1][0] == index:
            self._buckets[-1][1] += messages
        else:
            self._buckets.append([index, messages])
            self._forget(index)

    def rate(self) -> float:
        """Messages a second, both directions, over the window."""
        now = self._clock()
        oldest = self._forget(int(now / BUCKET_S))
        length = now - max(self._started, oldest * BUCKET_S)
        return sum(count for _, count in self._buckets) / length if length > 0 else 0.0

    def _forget(self, newest: int) -> int:
        """Drop what has left the window; the index of the oldest bucket inside it."""
        oldest = newest - int(WINDOW_S / BUCKET_S) + 1
        while self._buckets and self._buckets[0][0] < oldest:
            self._buckets.popleft()
        return oldest
