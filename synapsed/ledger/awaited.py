"""Waiting for somebody to offer what could not be had: an announcement is news worth a look."""

from collections.abc import Iterable

import trio

SOON_S = 1.0
"""From an announcement to the look: several come together, and its issuer must be dialled."""


class Awaited:
    """`offered` wakes those who wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, set[trio.Event]] = {}

    def offered(self, cid: bytes) -> None:
        """Somebody announces it now. Must be told of every such announcement; never waits."""
        for event in self._waiting.get(cid, ()):
            event.set()

    async def any_of(self, cids: Iterable[bytes], seconds: float) -> bool:
        """Wait so long, or until one of these is offered; whether one was."""
        wanted, event = tuple(cids), trio.Event()
        for cid in wanted:
            self._waiting.setdefault(cid, set()).add(event)
        try:
            with trio.move_on_after(seconds):
                await event.wait()
        finally:
            for cid in wanted:
                self._waiting[cid].discard(event)
                if not self._waiting[cid]:
                    del self._waiting[cid]
        if event.is_set():
            await trio.sleep(SOON_S)
        return event.is_set()
