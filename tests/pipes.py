"""Networks in memory: what synapsed.ports asks of a net, joined by pipes.

Gossip floods: what a validator accepts goes on to that daemon's neighbours.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from protocols.errors import LimitError, MalformedError
from protocols.gossip.validation import Verdict
from synapsed.net.errors import (
    PeerUnreachableError,
    ProtocolUnsupportedError,
    StreamClosedError,
    TimedOutError,
)


class PipePeer(msgspec.Struct, frozen=True):
    id: bytes
    direction: str


class PipeStream:
    """One end of a stream; frames are counted by the net that writes them."""

    def __init__(self, net: "PipeNet", peer: bytes, send: Any, receive: Any) -> None:
        self._net = net
        self.peer = peer
        self._send = send
        self._receive = receive

    def hurry(self) -> None:
        """A pipe has one stream."""

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        try:
            with trio.fail_after(timeout or 30):
                frame: bytes = await self._receive.receive()
        except trio.EndOfChannel as error:
            raise StreamClosedError("ended", clean=True) from error
        except trio.ClosedResourceError as error:
            raise StreamClosedError("closed by us") from error
        except trio.TooSlowError as error:
            raise TimedOutError("nothing came") from error
        if len(frame) > limit:
            raise LimitError("a frame too large")
        return frame

    async def write_frame(self, data: bytes, *, timeout: float | None = None) -> None:
        try:
            with trio.fail_after(timeout or 30):
                await self._send.send(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosedError("broken") from error
        except trio.TooSlowError as error:
            raise TimedOutError("nobody reads") from error
        self._net.sent += len(data)

    async def write_frames(self, frames: Sequence[bytes], *, timeout: float | None = None) -> None:
        for frame in frames:
            await self.write_frame(frame, timeout=timeout)

    def close(self) -> None:
        self._send.close()
        self._receive.close()


class PipeNet:
    """One daemon's network; `connect` joins two."""

    def __init__(self, peer_id: bytes, nursery: trio.Nursery) -> None:
        self.peer_id = peer_id
        self.nursery = nursery
        self.joined: dict[bytes, tuple[PipeNet, str]] = {}
        self.blamed: list[tuple[bytes, str, str]] = []
        self.sent = 0
        self.deaf = False
        self._streams: dict[bytes, list[PipeStream]] = {}
        self._handlers: dict[str, tuple[Callable[[Any], Awaitable[None]], int]] = {}
        self._open: dict[tuple[bytes, str], int] = {}
        self._callbacks: list[tuple[Callable[[bytes], None], Callable[[bytes], None]]] = []
        self._topics: dict[str, Callable[[bytes, bytes], Verdict]] = {}
        self._seen: set[tuple[str, bytes]] = set()

    def peer(self, peer_id: bytes) -> PipePeer | None:
        found = self.joined.get(peer_id)
        return None if found is None else PipePeer(peer_id, found[1])

    def peers(self) -> list[PipePeer]:
        return [PipePeer(peer_id, direction) for peer_id, (_, direction) in self.joined.items()]

    def addrs(self) -> list[str]:
        return [f"/ip4/127.0.0.1/tcp/{1 + self.peer_id[-1]}"]

    def on_peer(
        self, connected: Callable[[bytes], None], disconnected: Callable[[bytes], None]
    ) -> None:
        self._callbacks.append((connected, disconnected))

    def connect(self, other: "PipeNet") -> None:
        """As if we had dialled `other`."""
        for ours, theirs, direction in ((self, other, "outbound"), (other, self, "inbound")):
            ours.joined[theirs.peer_id] = (theirs, direction)
        for ours, theirs in ((self, other), (other, self)):
            for connected, _ in ours._callbacks:
                connected(theirs.peer_id)

    def disconnect(self, other: "PipeNet") -> None:
        for ours, theirs in ((self, other), (other, self)):
            ours.joined.pop(theirs.peer_id, None)
            for stream in ours._streams.pop(theirs.peer_id, []):
                stream.close()
            for _, disconnected in ours._callbacks:
                disconnected(theirs.peer_id)

    # -- streams

    def serve(
        self, protocol: str, handler: Callable[[Any], Awaitable[None]], max_streams_per_peer: int
    ) -> None:
        self._handlers[protocol] = (handler, max_streams_per_peer)

    @asynccontextmanager
    async def open_stream(self, peer: bytes, protocol: str) -> AsyncIterator[PipeStream]:
        await trio.lowlevel.checkpoint()
        if peer not in self.joined:
            raise PeerUnreachableError("not connected")
        other, _ = self.joined[peer]
        if protocol not in other._handlers:
            raise ProtocolUnsupportedError("not spoken")
        to_them = trio.open_memory_channel[bytes](math.inf)
        to_us = trio.open_memory_channel[bytes](math.inf)
        ours = PipeStream(self, peer, to_them[0], to_us[1])
        theirs = PipeStream(other, self.peer_id, to_us[0], to_them[1])
        self._streams.setdefault(peer, []).append(ours)
        other._streams.setdefault(self.peer_id, []).append(theirs)
        other.nursery.start_soon(other._handle, theirs, protocol)
        try:
            yield ours
        finally:
            ours.close()

    async def _handle(self, stream: PipeStream, protocol: str) -> None:
        handler, limit = self._handlers[protocol]
        key = (stream.peer, protocol)
        if self._open.get(key, 0) >= limit:
            stream.close()
            return
        self._open[key] = self._open.get(key, 0) + 1
        try:
            await handler(stream)
        except (MalformedError, LimitError) as error:
            self.blame(stream.peer, "malformed", str(error))
        except (StreamClosedError, TimedOutError):
            pass
        finally:
            stream.close()
            self._open[key] -= 1

    # -- gossip

    def subscribe(
        self,
        topic: str,
        validate: Callable[[bytes, bytes], Verdict],
        deliver: Callable[[bytes, bytes], Awaitable[None]],
    ) -> None:
        self._topics[topic] = validate

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._seen.add((topic, data))
        self._forward(topic, data)

    def _forward(self, topic: str, data: bytes) -> None:
        for other, _ in list(self.joined.values()):
            other._gossiped(self.peer_id, topic, data)

    def _gossiped(self, source: bytes, topic: str, data: bytes) -> None:
        if self.deaf or topic not in self._topics or (topic, data) in self._seen:
            return
        self._seen.add((topic, data))
        if self._topics[topic](source, data) is Verdict.ACCEPT:
            self._forward(topic, data)

    def blame(self, peer: bytes, fault: str, why: str) -> None:
        self.blamed.append((peer, fault, why))


class MemoryTable(dict[bytes, bytes]):
    """A table of the store."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)
