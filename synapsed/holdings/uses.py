"""How much of each file others were given, and when last: what an eviction goes by.

Counted in memory, saved now and then: a crash loses a minute of it, which no decision hangs on.
"""

import time
from collections.abc import Callable, Collection

import msgspec
import trio

from synapsed.ports import Table

Clock = Callable[[], float]
"""Unix seconds."""
wall_clock: Clock = time.time


class Use(msgspec.Struct, array_like=True):
    """Of one file. Times in Unix seconds."""

    since: float
    """When we saw first that some of it is here."""
    last: float
    """When some of it was given last, or else came."""
    given: int
    """Bytes, since then."""


class Uses:
    """By file root."""

    def __init__(self, table: Table, clock: Clock = wall_clock) -> None:
        self._table = table
        self._clock = clock
        self._uses: dict[bytes, Use] = {}
        self._unsaved: set[bytes] = set()
        for root, data in table.items():
            try:
                self._uses[root] = msgspec.msgpack.decode(data, type=Use)
            except msgspec.DecodeError:
                continue  # counted anew

    def now(self) -> float:
        """The time that its times are by."""
        return self._clock()

    def gave(self, root: bytes, count: int) -> None:
        """Others were given so many bytes of a file."""
        use = self.of(root)
        use.given += count
        use.last = self._clock()
        self._unsaved.add(root)

    def of(self, root: bytes) -> Use:
        """What is known of a file; it counts from now on where nothing is."""
        now = self._clock()
        use = self._uses.get(root)
        if use is None or use.last > now:  # or the clock was set back: its times say nothing
            use = self._uses[root] = Use(now, now, use.given if use is not None else 0)
            self._unsaved.add(root)
        return use

    async def save(self, held: Collection[bytes]) -> None:
        """Put on disk what has changed, and forget all files but these."""
        for root in held:
            self.of(root)
        gone = self._uses.keys() - set(held)
        for root in gone:
            del self._uses[root]
        saving, self._unsaved = self._unsaved, set()
        rows = {root: msgspec.msgpack.encode(self._uses[root]) for root in saving - gone}

        def put() -> None:
            for root in gone:
                self._table.delete(root)
            for root, data in rows.items():
                self._table.put(root, data)

        await trio.to_thread.run_sync(put)
