"""Looking for peers until there are enough, and again whenever there are too few.

Sources, in this order: bootstrap addresses; the peer book, best first, where everything ends up
that is remembered, or learned from heartbeats, gossip, mDNS and the DHT; and when the book has
nobody left to dial, the DHT is asked. A bootstrap that does not answer is told of, and dialled
again for ever with growing pauses.
"""

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from protocols.gossip.peerscore import DIAL_BACKOFF, MAX_DIAL_BACKOFF
from protocols.peerid import peer_id_text
from synapsed.net.addresses import Address, parse
from synapsed.net.connection import Connection
from synapsed.net.errors import AddressError, PeerUnreachableError
from synapsed.net.switch import Switch
from synapsed.process.supervise import guard

log = logging.getLogger(__name__)

HUNGRY_TICK = 1.0
"""Seconds between looks while there are too few peers."""

CONTENT_TICK = 10.0
"""Seconds between looks while there are enough, or nobody is left to ask."""

MAX_DIALS = 8
"""Dials at a time: each waits up to 15 s for a machine that is switched off."""

ASK_INTERVAL = 60.0
"""Seconds between questions to the DHT: a lookup costs twenty streams."""

JITTER = 0.25
"""Share by which pauses vary, so that a thousand daemons do not come back in one second."""


class Bootstrap:
    """One bootstrap address, and when to dial it next."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.peer = address.peer
        self.reached = False
        self.failures = 0
        self.next_dial = 0.0

    def failed(self, now: float) -> float:
        """It did not answer; returns the seconds until the next dial."""
        self.failures += 1
        pause = min(MAX_DIAL_BACKOFF, DIAL_BACKOFF * 2.0 ** min(self.failures - 1, 16))
        pause *= 1 + JITTER * random.random()  # noqa: S311 - spreads load, hides nothing
        self.next_dial = now + pause
        return pause

    def answered(self, peer: bytes) -> None:
        """It is there."""
        self.peer, self.reached, self.failures, self.next_dial = peer, True, 0, 0.0


class Discovery:
    """Keeps `target_peers` live connections. `ask` (the DHT) may put more peers into the book."""

    def __init__(self, switch: Switch, ask: Callable[[], Awaitable[None]] | None = None) -> None:
        self._switch = switch
        self._ask = ask
        self._asked = -ASK_INTERVAL
        self._wake = trio.Event()
        self._limit = trio.CapacityLimiter(MAX_DIALS)
        self._dialling: set[bytes] = set()
        self._satisfied: bool | None = None
        self.bootstraps: list[Bootstrap] = []
        for text in switch.settings.bootstrap:
            address = parse(text)
            if address.peer != switch.own:
                self.bootstraps.append(Bootstrap(address))
        switch.on_disconnected.append(self._on_disconnected)

    def _on_disconnected(self, conn: Connection) -> None:
        if conn.dialled and conn.was_brief:
            for entry in self.bootstraps:
                if entry.peer == conn.peer:
                    self._failed(entry, f"it hung up at once: {conn.muxed_conn.why_closed}")
        self.wake()

    def wake(self) -> None:
        """Look again now: somebody went, or somebody new is known."""
        self._wake.set()

    @property
    def lacking(self) -> int:
        """How many peers are missing."""
        return max(0, self._switch.settings.target_peers - len(self._switch.all_connections()))

    async def run(self) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._tell()
                busy = self._dial_bootstraps(nursery)
                if self.lacking:
                    busy = self._dial_remembered(nursery) or busy
                    if not busy:
                        self._ask_around(nursery)
                hungry = self.lacking and (busy or self._dialling)
                pause = HUNGRY_TICK if hungry else CONTENT_TICK
                self._wake = trio.Event()
                with trio.move_on_after(min(pause, self._until_bootstrap())):
                    await self._wake.wait()
                    await trio.sleep(0.05)  # many go at once: look once

    def _tell(self) -> None:
        satisfied = not self.lacking
        if satisfied is not self._satisfied:
            self._satisfied = satisfied
            self._switch.emit(
                "discovery.satisfied" if satisfied else "discovery.looking",
                peers=len(self._switch.all_connections()),
                target=self._switch.settings.target_peers,
            )

    # -- bootstraps

    def _due(self, entry: Bootstrap) -> bool:
        if entry.peer is not None and self._switch.connection(entry.peer) is not None:
            return False
        return bool(self.lacking) or not entry.reached

    def _until_bootstrap(self) -> float:
        now = trio.current_time()
        waits = [entry.next_dial - now for entry in self.bootstraps if self._due(entry)]
        return max(0.1, min(waits, default=CONTENT_TICK))

    def _dial_bootstraps(self, nursery: trio.Nursery) -> bool:
        now = trio.current_time()
        due = [b for b in self.bootstraps if self._due(b) and b.next_dial <= now]
        for entry in due:
            entry.next_dial = now + MAX_DIAL_BACKOFF  # until this dial has ended
            nursery.start_soon(self._dial_bootstrap, entry)
        return bool(due)

    async def _dial_bootstrap(self, entry: Bootstrap) -> None:
        try:
            async with self._limit:
                conn = await self._switch.dial(entry.address)
        except (PeerUnreachableError, AddressError) as error:
            self._failed(entry, error.message)
        else:
            entry.answered(conn.peer)
            self._switch.emit(
                "bootstrap.reached", addr=str(entry.address), peer=peer_id_text(conn.peer)
            )
        self.wake()

    def _failed(self, entry: Bootstrap, why: str) -> None:
        pause = entry.failed(trio.current_time())
        self._switch.emit(
            "bootstrap.unreachable",
            addr=str(entry.address),
            why=why,
            failures=entry.failures,
            again_in=round(pause, 1),
        )

    # -- everybody else

    def _dial_remembered(self, nursery: trio.Nursery) -> bool:
        switch = self._switch
        taken = {conn.peer for conn in switch.all_connections()} | self._dialling | {switch.own}
        room = self.lacking - len(self._dialling)
        found = switch.book.to_dial(taken, max(0, room))
        for peer, addrs in found:
            self._dialling.add(peer)
            nursery.start_soon(self._dial, peer, addrs)
        return bool(found)

    async def _dial(self, peer: bytes, addrs: tuple[str, ...]) -> None:
        with guard("a dial", self._switch.emit):
            try:
                await self._dial_one_of(peer, addrs)
            finally:
                self._dialling.discard(peer)
                self.wake()

    async def _dial_one_of(self, peer: bytes, addrs: tuple[str, ...]) -> None:
        # Addresses of the local network first: they answer, or fail, at once.
        parsed = sorted((parse(text) for text in addrs), key=lambda a: not a.is_local)
        async with self._limit:
            for address in parsed:
                try:
                    await self._switch.dial(address)
                except (PeerUnreachableError, AddressError) as error:
                    log.debug("cannot reach %s: %s", address, error)
                else:
                    return
        self._switch.book.dial_failed(peer)

    def _ask_around(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        if self._ask is not None and now - self._asked >= ASK_INTERVAL:
            self._asked = now
            nursery.start_soon(self._ask_and_wake, self._ask)

    async def _ask_and_wake(self, ask: Callable[[], Awaitable[None]]) -> None:
        with guard("the DHT", self._switch.emit):
            await ask()
        self.wake()
