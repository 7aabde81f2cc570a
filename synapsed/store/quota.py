"""How much the store may hold, counted before it is written."""

import threading
from collections.abc import Callable

from synapsed.store.errors import QuotaExceededError

WARN_PERCENT = 90
"""Of the quota: late enough not to nag, early enough to act before a pull fails."""

OnEvent = Callable[..., None]
"""Called as on_event(kind, **fields), from whichever thread the store was called on."""


class Quota:
    """Bytes in use against a limit; charging is atomic between threads."""

    def __init__(self, limit: int, on_event: OnEvent) -> None:
        self._lock = threading.Lock()
        self._on_event = on_event
        self._limit = limit
        self._warned = False
        self.used = 0

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._lock:
            self._limit = limit
            warn = self._crossed()
        self._warn(warn)

    def check_room(self, need: int) -> None:
        """Raise QuotaExceededError where `need` more bytes do not fit."""
        if self.used + need > self._limit:
            raise QuotaExceededError(self.used, self._limit, need)

    def charge(self, need: int) -> None:
        """Count `need` bytes that are about to be written, or raise QuotaExceededError."""
        with self._lock:
            self.check_room(need)
            self.used += need
            warn = self._crossed()
        self._warn(warn)

    def refund(self, count: int) -> None:
        """Count `count` bytes as gone."""
        with self._lock:
            self.used -= count
            self._crossed()

    def found(self, count: int) -> None:
        """Count bytes that were already on disk, whatever the limit."""
        with self._lock:
            self.used += count
            warn = self._crossed()
        self._warn(warn)

    def _crossed(self) -> bool:
        above = self.used * 100 >= self._limit * WARN_PERCENT
        first, self._warned = above and not self._warned, above
        return first

    def _warn(self, warn: bool) -> None:
        if warn:
            self._on_event("store.quota-warning", used=self.used, quota=self._limit)
