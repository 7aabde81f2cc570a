"""The daemon's own events: what `synapsectl events --follow` and the logs show.

Readers are bounded: a slow one loses the oldest events and is told how many.
"""

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import trio

log = logging.getLogger(__name__)

READER_BACKLOG = 1024
"""Events kept for one slow reader: a minute of a busy swarm, 200 KB."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened: `kind` is dotted (`peer.connected`), `fields` are JSON values."""

    at: float
    kind: str
    fields: dict[str, Any]


class EventReader:
    """One subscriber's bounded queue."""

    def __init__(self) -> None:
        self._queue: deque[Event] = deque()
        self._wake = trio.Event()
        self.lost = 0

    def push(self, event: Event) -> None:
        if len(self._queue) >= READER_BACKLOG:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(event)
        self._wake.set()

    async def next(self) -> Event:
        """The next event; an `events.lost` one first where some were dropped."""
        while not self._queue:
            self._wake = trio.Event()
            await self._wake.wait()
        if self.lost:
            lost, self.lost = self.lost, 0
            return Event(at=self._queue[0].at, kind="events.lost", fields={"count": lost})
        return self._queue.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            yield await self.next()


class EventBus:
    """Fan-out of events to readers, counters and the log."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._readers: list[EventReader] = []
        self.counts: dict[str, int] = {}

    def emit(self, kind: str, **fields: Any) -> None:
        """Tell everyone. Never blocks, never fails."""
        event = Event(at=self._clock(), kind=kind, fields=fields)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        log.debug(kind, extra={"fields": fields})
        for reader in self._readers:
            reader.push(event)

    @contextmanager
    def subscribe(self) -> Iterator[EventReader]:
        """A reader of everything emitted while the block runs."""
        reader = EventReader()
        self._readers.append(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)
