"""Inference first: while somebody generates, everything else stands still.

Whoever wants to generate *wishes*, from the moment that the request arrives until the last token.
Whatever else computes passes the gate between any two pieces of work (a layer forward, a layer
backward, a group of an encoding) and waits there while there is a wish. So the longest piece is
the longest that somebody waits; `stretch` measures it always, not only when somebody does.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.2
"""How often one who stands still looks whether it is wanted any more."""


class CancelledError(Exception):
    """Nobody waits for this any more."""


class Task:
    """What a lane does for one request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.cancelled = False
        self.seen: float | None = None
        """When it last gave a sign of life, by `clock`; None before it began."""

    def check(self) -> None:
        """Live on. Raise CancelledError if nobody waits for it any more."""
        self.seen = self._clock()
        if self.cancelled:
            raise CancelledError


class Gate:
    """Counts wishes, and stops all others. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wishes = 0
        self._since = 0.0
        self._free = threading.Event()
        self._free.set()
        self.yields = 0
        """Times that something stood still."""
        self.yield_s = 0.0
        """The longest from a wish until it did."""
        self.stretch_s = 0.0
        """The longest between two passes of one piece of work."""
        self.still_s = 0.0
        """Seconds of standing still, in all."""

    def wish(self) -> None:
        """Somebody wants to generate."""
        with self._lock:
            self._wishes += 1
            if self._wishes == 1:
                self._since = self._clock()
                self._free.clear()

    def fulfilled(self) -> None:
        """One wish less."""
        with self._lock:
            self._wishes -= 1
            if not self._wishes:
                self._free.set()

    @contextmanager
    def wished(self) -> Iterator[None]:
        """`wish` and `fulfilled` around something."""
        self.wish()
        try:
            yield
        finally:
            self.fulfilled()

    @property
    def closed(self) -> bool:
        """Whether others stand still now."""
        return not self._free.is_set()

    def _stand_still(self, task: Task) -> None:
        began = self._clock()
        with self._lock:
            self.yields += 1
            self.yield_s = max(self.yield_s, began - self._since)
        while not self._free.wait(LOOK_S):
            task.check()
        with self._lock:
            self.still_s += self._clock() - began

    def passage(self, task: Task) -> "Passage":
        """The way through for one piece of work after another of a task."""
        return Passage(self, task)


class Passage:
    """One task's passes. Called, it returns when the task may go on."""

    def __init__(self, gate: Gate, task: Task) -> None:
        self._gate = gate
        self._task = task
        self._last = gate._clock()

    def __call__(self) -> None:
        """Wait while somebody generates. Raises CancelledError."""
        gate = self._gate
        now = gate._clock()
        gate.stretch_s = max(gate.stretch_s, now - self._last)
        self._task.check()
        while gate.closed:
            gate._stand_still(self._task)
        self._task.check()
        self._last = gate._clock()
