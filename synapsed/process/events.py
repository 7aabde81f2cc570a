"""The daemon's own events: what `synapsectl events --follow` and the logs show.

Readers are bounded: a slow one loses the oldest events and is told how many.
"""

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import trio

log = logging.getLogger(__name__)

READER_BACKLOG = 1024
"""Events kept for one slow reader: a minute of a busy swarm, 200 KB."""


NOTABLE = frozenset(
    {
        "bootstrap.reached",
        "checkpoint.ratified",
        "council.epoch",
        "council.leader",
        "council.new-key",
        "council.seated",
        "council.unseated",
        "discovery.looking",
        "discovery.satisfied",
        "human-key.changed",
        "ledger.caught-up",
        "ledger.loaded",
        "model.imported",
        "model.removed",
        "parameter.changed",
        "peer.banned",
        "proposal.closed",
        "proposal.examined",
        "proposal.opened",
        "pull.done",
        "pull.failed",
        "pull.started",
        "replication.adapter",
        "replication.evicted",
        "replication.repaired",
        "replication.restored",
        "replication.short",
        "store.file-recovered",
        "store.recovered",
        "training.opened",
        "upgrade.accepted",
        "upgrade.asking",
        "upgrade.in-force",
        "upgrade.mode",
        "upgrade.rolled-back",
        "upgrade.said",
        "upgrade.settled",
        "upgrade.switched",
    }
)
"""Kinds that the log shows at its usual level: a few dozen lines on a quiet day."""

ALARMING = frozenset(
    {
        "bootstrap.unreachable",
        "council.damaged",
        "council.guilt",
        "council.lost-state",
        "ledger.damaged",
        "ledger.fork",
        "ledger.lost",
        "ledger.seat-lost",
        "ledger.stopped",
        "ledger.wrong-genesis",
        "store.damaged",
        "store.database-lost",
        "store.failed",
        "store.file-lost",
        "store.quota-warning",
        "store.scrub-found",
        "upgrade.late",
        "upgrade.not-fetched",
        "upgrade.not-recorded",
        "upgrade.not-run",
        "upgrade.quarantined",
        "upgrade.trapped",
    }
)
"""Kinds that are warnings in the log: something that the owner may have to see to."""


def _level(kind: str) -> int:
    if kind in ALARMING:
        return logging.WARNING
    return logging.INFO if kind in NOTABLE else logging.DEBUG


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
    """Fan-out of events to observers, readers, counters and the log."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._readers: list[EventReader] = []
        self._observers: list[Callable[[Event], None]] = []
        self._home: trio.lowlevel.TrioToken | None = None
        self.counts: dict[str, int] = {}

    def settle(self) -> None:
        """Deliver in this trio run from now on, also what other threads emit."""
        self._home = trio.lowlevel.current_trio_token()

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with each event, in order. It must not wait."""
        self._observers.append(observer)

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Tell everyone, from any thread. Never blocks, never fails."""
        event = Event(at=self._clock(), kind=kind, fields=fields)
        if self._home is None or self._home is _here():
            self._deliver(event)
            return
        with suppress(trio.RunFinishedError):
            self._home.run_sync_soon(self._deliver, event)

    def _deliver(self, event: Event) -> None:
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        log.log(_level(event.kind), event.kind, extra={"fields": event.fields})
        for observer in self._observers:
            observer(event)
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


def _here() -> trio.lowlevel.TrioToken | None:
    """The trio run of this thread, if it is in one."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None
