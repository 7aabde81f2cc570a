"""Streams to peers that may not be connected yet.

The net keeps a handful of connections; a pull, a probe or a ping may need a peer outside of it.
What is dialled here stays connected as long as the net finds it worth keeping.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from protocols.peerid import peer_id_text
from synapsed.net import AddressError, Net, PeerUnreachableError, Stream
from synapsed.transfer.serve import MAX_STREAMS_PER_PEER

DIAL_SECONDS = 10.0
"""For all addresses of one peer: a handshake over a satellite link takes 5."""
MAX_STREAMS = MAX_STREAMS_PER_PEER - 2
"""That we open to one peer: with more it would reset some, and we would hold that against it.
Two are left for those that it has not yet seen us end."""


class Reach:
    """`open_stream` as the net has it, after dialling where that is needed."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._dialling: dict[bytes, trio.Event] = {}
        self._open: Counter[bytes] = Counter()

    @asynccontextmanager
    async def open_stream(self, peer: bytes, protocol: str) -> AsyncIterator[Stream]:
        """A stream to `peer`. Raises PeerUnreachableError and what the net raises."""
        await self.connect(peer)
        if self._open[peer] >= MAX_STREAMS:
            raise self._unreachable(peer, f"{MAX_STREAMS} streams to it are open")
        self._open[peer] += 1
        try:
            async with self._net.open_stream(peer, protocol) as stream:
                yield stream
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def connect(self, peer: bytes) -> None:
        """Be connected to `peer` at one of the addresses that are known; PeerUnreachableError."""
        while self._net.peer(peer) is None:
            if (other := self._dialling.get(peer)) is not None:
                await other.wait()
                if self._net.peer(peer) is None:
                    raise self._unreachable(peer, "another dial failed")
                return
            self._dialling[peer] = trio.Event()
            try:
                with trio.move_on_after(DIAL_SECONDS):
                    await self._dial(peer)
                    return
                raise self._unreachable(peer, f"no answer within {DIAL_SECONDS:.0f} s")
            finally:
                self._dialling.pop(peer).set()

    async def _dial(self, peer: bytes) -> None:
        why = "no address is known"
        for addr in self._net.book.record(peer).addrs:
            try:
                await self._net.connect(addr)
            except (PeerUnreachableError, AddressError) as error:
                why = error.message
            else:
                return
        raise self._unreachable(peer, why)

    @staticmethod
    def _unreachable(peer: bytes, why: str) -> PeerUnreachableError:
        return PeerUnreachableError(f"{peer_id_text(peer)} cannot be reached: {why}")
