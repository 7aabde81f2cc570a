"""Virtual time: one heap of what is still to happen."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Heap:
    """Events in order of time; those of one moment in the order in which they were scheduled."""

    __slots__ = ("_order", "_queue", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        """How many have happened."""
        self._order = count()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` happen at `when`, or now where that has passed."""
        now = self.now
        heappush(self._queue, (when if when > now else now, next(self._order), call, args))

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` happen in `seconds`."""
        heappush(self._queue, (self.now + seconds, next(self._order), call, args))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Let everything happen up to `until`, or until `stop` says so."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, call, args = heappop(queue)
            self.events += 1
            call(*args)
            if stop is not None and stop():
                return
        self.now = until
