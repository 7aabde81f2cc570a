"""Streams as the rest of the daemon has them: exact reads, frames, time-outs, typed errors.

A frame is a big-endian u32 length and so many bytes. Every operation has a time-out; a stream
on which one was missed is reset, because nobody knows any more where in it the peer is.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import msgspec
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from protocols.errors import LimitError, MalformedError
from protocols.gossip.peerscore import Fault
from protocols.peerid import peer_id_text
from synapsed.net import negotiate
from synapsed.net.connection import Connection
from synapsed.net.errors import (
    PeerUnreachableError,
    ProtocolUnsupportedError,
    StreamClosedError,
    TimedOutError,
)
from synapsed.net.muxstream import MuxedStream
from synapsed.net.switch import Switch

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 30.0
"""Seconds for one read or write that states no other: a slow disk behind a slow link."""

DEFAULT_STREAMS_PER_PEER = 8
"""Streams of one protocol that one peer may have open to us."""

MAX_FRAME = 1 << 20
"""Bytes of the largest frame that may be asked for."""


class Stream:
    """One stream to `peer`. `timeout` (seconds) holds for each read and write."""

    def __init__(
        self,
        muxed: MuxedStream,
        peer: bytes,
        protocol: str,
        *,
        local: bool,
        messages: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """`messages` counts frames by (in or out, protocol)."""
        self._muxed = muxed
        self._messages = Counter() if messages is None else messages
        self.peer = peer
        self.protocol = protocol
        self.local = local
        """Whether the peer is on this machine or network."""
        self.timeout = DEFAULT_TIMEOUT

    def __repr__(self) -> str:
        return f"<{self.protocol} with {peer_id_text(self.peer)}>"

    async def read_into(self, target: memoryview, *, timeout: float | None = None) -> None:
        """Fill `target`. Raises StreamClosedError, TimedOutError."""
        with self._bounded(timeout):
            have = await self._muxed.read_into(target)
        if have < len(target):
            raise StreamClosedError(f"{self!r} ended after {have} of {len(target)} bytes")

    async def read_exactly(self, count: int, *, timeout: float | None = None) -> bytearray:
        """Exactly `count` bytes. Raises StreamClosedError, TimedOutError."""
        data = bytearray(count)
        with memoryview(data) as view:
            await self.read_into(view, timeout=timeout)
        return data

    async def read_some(self, most: int, *, timeout: float | None = None) -> bytes:
        """Between 1 and `most` bytes, as many as are there; b"" at the end."""
        with self._bounded(timeout):
            try:
                return await self._muxed.read(most)
            except MuxedStreamEOF:
                return b""

    async def read_frame(self, limit: int = MAX_FRAME, *, timeout: float | None = None) -> bytes:
        """The next frame. StreamClosedError is `clean` where the peer ended between two frames.

        Raises LimitError for one of more than `limit` bytes, TimedOutError.
        """
        seconds = self.timeout if timeout is None else timeout
        header = bytearray(4)
        # One scope for both reads: entering one costs as much as a small frame itself.
        with self._bounded(seconds) as scope:
            with memoryview(header) as view:
                have = await self._muxed.read_into(view)
            if have < len(header):
                raise StreamClosedError(f"{self!r} ended", clean=not have)
            length = int.from_bytes(header, "big")
            if length > limit:
                raise LimitError(
                    f"a frame of {length} bytes on {self!r}, where {limit} are allowed"
                )
            scope.deadline = trio.current_time() + seconds
            body = bytearray(length)
            with memoryview(body) as view:
                have = await self._muxed.read_into(view)
            if have < length:
                raise StreamClosedError(f"{self!r} ended after {have} of {length} bytes")
        self._messages["in", self.protocol] += 1
        return bytes(body)

    async def write(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> None:
        """Send `data`; when it returns the buffer may be reused. StreamClosedError, TimedOutError.

        The time-out holds for each MiB of it.
        """
        view = memoryview(data).cast("B")
        for at in range(0, len(view), MAX_FRAME):
            with self._bounded(timeout):
                await self._muxed.write(view[at : at + MAX_FRAME])

    async def write_frame(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> None:
        """Send one frame."""
        await self.write_frames((data,), timeout=timeout)

    async def write_frames(
        self,
        frames: Sequence[bytes | bytearray | memoryview],
        *,
        timeout: float | None = None,
    ) -> None:
        """Send frames in one write: small ones share a record, and a turn of the writer."""
        parts = [part for data in frames for part in (len(data).to_bytes(4, "big"), data)]
        await self.write(b"".join(parts), timeout=timeout)
        self._messages["out", self.protocol] += len(frames)

    def hurry(self) -> None:
        """What is written here goes before what waits on the connection's other streams."""
        self._muxed.urgent = True

    async def close_write(self) -> None:
        """Say that we send no more; reading goes on."""
        with self._bounded(None):
            await self._muxed.close()

    def reset(self) -> None:
        """End it at once, both ways."""
        self._muxed.abort("reset by us")

    def abandon(self) -> None:
        """End it politely: what was written arrives, what still comes is dropped."""
        self._muxed.abandon()

    @contextmanager
    def _bounded(self, timeout: float | None) -> Iterator[trio.CancelScope]:
        seconds = self.timeout if timeout is None else timeout
        try:
            with trio.fail_after(seconds) as scope:
                yield scope
        except trio.TooSlowError as error:
            self.reset()
            raise TimedOutError(f"{self!r}: nothing moved for {seconds:g} s") from error
        except MuxedStreamEOF as error:
            raise StreamClosedError(f"{self!r} ended", clean=True) from error
        except MuxedStreamError as error:
            raise StreamClosedError(f"{self!r}: {error}") from error


Handler = Callable[[Stream], Awaitable[None]]


class _Service(msgspec.Struct):
    handler: Handler
    limit: int
    open: dict[bytes, int]


class Services:
    """The stream protocols that we speak, and the streams that we open."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._services: dict[str, _Service] = {}
        self.messages: Counter[tuple[str, str]] = Counter()
        """Frames by (in or out, protocol) since the start."""

    def __contains__(self, protocol: object) -> bool:
        return protocol in self._services

    def serve(self, protocol: str, handler: Handler, limit: int) -> None:
        """Answer streams of `protocol` with `handler`, at most `limit` of one peer at a time."""
        self._services[protocol] = _Service(handler, limit, {})

    async def handle(self, conn: Connection, muxed: MuxedStream, protocol: str) -> None:
        """Run the handler of one inbound stream; its errors end here."""
        service = self._services[protocol]
        peer = conn.peer
        if service.open.get(peer, 0) >= service.limit:
            muxed.abort("too many streams of this protocol")
            return
        service.open[peer] = service.open.get(peer, 0) + 1
        stream = Stream(muxed, peer, protocol, local=conn.address.is_local, messages=self.messages)
        try:
            await service.handler(stream)
        except (MalformedError, LimitError) as error:
            stream.reset()
            self._switch.blame(peer, Fault.MALFORMED, f"{protocol}: {error}")
        except (StreamClosedError, TimedOutError) as error:
            stream.reset()
            log.debug("%r: %s", stream, error)
        except BaseException:
            stream.reset()
            raise
        finally:
            service.open[peer] -= 1
            if not service.open[peer]:
                del service.open[peer]

    @asynccontextmanager
    async def open(self, peer: bytes, protocol: str, timeout: float) -> AsyncIterator[Stream]:
        """A stream of `protocol` to a connected peer, ended when the block is left."""
        conn = self._switch.connection(peer)
        if conn is None:
            raise PeerUnreachableError(f"not connected to {peer_id_text(peer)}")
        muxed = await self._open(conn, protocol, timeout)
        stream = Stream(muxed, peer, protocol, local=conn.address.is_local, messages=self.messages)
        try:
            yield stream
        except BaseException:
            stream.reset()
            raise
        else:
            stream.abandon()

    async def _open(self, conn: Connection, protocol: str, timeout: float) -> MuxedStream:
        text = peer_id_text(conn.peer)
        try:
            muxed = await conn.muxed_conn.open_stream()
        except MuxedStreamError as error:
            raise PeerUnreachableError(f"cannot open a stream to {text}: {error}") from error
        try:
            with trio.fail_after(timeout):
                await negotiate.propose(negotiate.OnStream(muxed), (protocol,))
        except trio.TooSlowError as error:
            muxed.abort("too slow")
            raise TimedOutError(f"{text} does not agree on {protocol} in {timeout:g} s") from error
        except MuxedStreamError as error:
            muxed.abort("refused")
            raise StreamClosedError(f"{text} refused a stream of {protocol}: {error}") from error
        except ProtocolUnsupportedError as error:
            muxed.abort("unsupported")
            raise ProtocolUnsupportedError(f"{text} does not speak {protocol}") from error
        except BaseException:
            muxed.abort("given up")
            raise
        return muxed
