"""Yamux over a Noise wire: many streams on one connection, with a limit on everything.

It stands where py-libp2p's `Yamux` would and speaks the same `/yamux/1.0.0`. What that one leaves
open cannot be guarded from outside (FACTS-libp2p.md and tests/test_net_guards_muxer.py):

    inbound streams have no cap                      MAX_INBOUND, and a peer that insists is cut
    a peer may send beyond its window (a warning)    cut; all unread bytes have one budget
    a cancelled write leaves half a record behind    one task writes; callers only queue
    a full window is polled, and fails after 5 s     event-driven; callers bring their time-outs
    close() sleeps 0.1 s, twice                      it does not
    a frame of 64 KiB takes two Noise records        frames are cut to fit one

Rules of this file: only `_write_loop` touches the wire's sending side, only `_read_loop` its
receiving side; nothing that a peer sends makes either wait for anything but the socket.
Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

import logging
import struct
from collections import deque
from collections.abc import Callable

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from protocols.ratelimit import TokenBucket
from synapsed.net.muxstream import (
    ACK,
    FIN,
    MAX_WINDOW,
    RST,
    SYN,
    WINDOW,
    BufferBudget,
    MuxedStream,
    ViolationError,
)
from synapsed.net.wire import MAX_PLAINTEXT, NoiseWire, WireError, sealed_size

log = logging.getLogger(__name__)

PROTOCOL_ID = "/yamux/1.0.0"

MAX_INBOUND = 64
"""Streams that one peer may have open to us: six protocols of ours with up to eight each."""

STREAM_RATE, STREAM_BURST = 50.0, 300.0
"""Streams a second that one peer may open: each costs a negotiation, 0.3 ms."""

MAX_REFUSED = 4 * MAX_INBOUND
"""Streams refused for want of room after which the peer is not clumsy but hostile."""

MAX_OUTBOUND = 64
"""Streams that we have open to one peer: what the other side, with the same limit, accepts."""

MAX_CONTROL = 4096
"""Control frames waiting for a peer that does not read: 48 KiB, then it is cut."""

SMALL_FRAME = 1024
"""Bytes of body below which a frame costs us more than it brings."""

SMALL_RATE, SMALL_BURST = 10_000.0, 30_000.0
"""Small frames a second from one peer: at 2 us each 2 % of a core; gossip needs a hundred."""

PING_RATE, PING_BURST = 5.0, 50.0
"""Pings a second that we answer; implementations send one in 10 to 30 s."""

BATCH = 4
"""Records sealed before they are sent: 256 KiB, 0.1 ms of work."""

CLOSE_FLUSH = 0.1
"""Seconds that a closing connection has to get its last frames out."""

_DATA, _PING, _GO_AWAY = 0, 2, 3
_HEADER = struct.Struct("!BBHII")
_HEAD = _HEADER.size

_plain = bytearray(MAX_PLAINTEXT)
"""Where records are put together before they are sealed; never held across an await."""


class Muxer(IMuxedConn):
    """One connection. `start` runs it to its end; `on_stream` gets each stream the peer opens."""

    def __init__(
        self,
        wire: NoiseWire,
        peer_id: ID,
        *,
        initiator: bool,
        budget: BufferBudget,
        on_stream: Callable[[MuxedStream], None],
    ) -> None:
        self.peer_id = peer_id
        self.budget = budget
        self.wire = wire
        self.streams: dict[int, MuxedStream] = {}
        self.unread = 0
        self.why_closed = ""
        self.ended_by_peer = False
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self._initiator = initiator
        self._next_id = 1 if initiator else 2
        self._on_stream = on_stream
        self._inbound = self._refused = 0
        self._control: deque[bytes] = deque()
        self._ready: deque[MuxedStream] = deque()
        self._wake = trio.Event()
        self._flushed = trio.Event()
        self._closing = False
        self._scope = trio.CancelScope()
        self._head = b""
        self._body_left = 0
        self._body_stream: MuxedStream | None = None
        self._body_flags = 0
        self._ping_bucket = TokenBucket(PING_RATE, PING_BURST)
        self._small_bucket = TokenBucket(SMALL_RATE, SMALL_BURST)
        self._stream_bucket = TokenBucket(STREAM_RATE, STREAM_BURST)
        self._ping_nonce = 0
        self._pings: dict[int, tuple[float, trio.Event]] = {}
        self._rtt = 0.0

    # -- life

    async def start(self) -> None:
        """Run until the connection ends, for whatever reason; never raises because of a peer."""
        self.budget.join(self)
        self.event_started.set()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop)
                    await self._read_loop()
        finally:
            self._over()
            with trio.CancelScope(shield=True):
                await self.wire.aclose()
            self.event_closed.set()

    def _over(self) -> None:
        self._closing = True
        self.why_closed = self.why_closed or "closed"
        for stream in list(self.streams.values()):
            stream.die(f"the connection is over: {self.why_closed}")
        for _, event in self._pings.values():
            event.set()
        self.budget.leave(self)
        self._on_stream = MuxedStream.abandon  # drops the cycle with whoever made us
        self._ready.clear()
        self._flushed.set()

    def cut(self, why: str) -> None:
        """End the connection at once."""
        if not self.why_closed:
            log.debug("cutting %s: %s", self.peer_id, why)
            self.why_closed = why
        self._closing = True
        self._scope.cancel()

    async def close(self) -> None:
        """Say goodbye, and end the connection; takes CLOSE_FLUSH at most."""
        if not self._closing:
            self.why_closed = self.why_closed or "closed by us"
            self.control(_GO_AWAY, 0, 0, 0)
            self._closing = True
            self._kick()
            with trio.move_on_after(CLOSE_FLUSH) as scope:
                scope.shield = True
                await self._flushed.wait()
        self._scope.cancel()
        if self.event_started.is_set():
            with trio.CancelScope(shield=True):
                await self.event_closed.wait()

    # -- writing

    def control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queue a frame without a body; it goes out before any data."""
        if self._closing:
            return
        self._control.append(_HEADER.pack(0, kind, flags, stream_id, value))
        if len(self._control) > MAX_CONTROL:
            self.cut("it does not read what it makes us answer")
        self._kick()

    def ready(self, stream: MuxedStream) -> None:
        """The stream has something to send."""
        if not stream.queued:
            stream.queued = True
            if stream.urgent:
                self._ready.appendleft(stream)
            else:
                self._ready.append(stream)
            self._kick()

    def _kick(self) -> None:
        self._wake.set()

    async def _write_loop(self) -> None:
        sealed = memoryview(bytearray(BATCH * sealed_size(MAX_PLAINTEXT)))
        plain = memoryview(_plain)
        try:
            while True:
                size = 0
                for _ in range(BATCH):
                    filled = self._fill(_plain)
                    if not filled:
                        break
                    size += self.wire.seal_into(plain[:filled], sealed[size:])
                if size:
                    await self.wire.send(sealed[:size])
                elif self._closing:
                    self._flushed.set()
                    return
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
        except WireError as error:
            self.cut(str(error))

    def _fill(self, plain: bytearray) -> int:
        """Put frames into one record: control first, then the streams in turn."""
        at = 0
        while self._control and at + _HEAD <= MAX_PLAINTEXT:
            plain[at : at + _HEAD] = self._control.popleft()
            at += _HEAD
        while self._ready and MAX_PLAINTEXT - at > _HEAD:
            stream = self._ready.popleft()
            stream.queued = False
            body = stream.take(MAX_PLAINTEXT - at - _HEAD)
            if body is None:
                continue
            _HEADER.pack_into(plain, at, 0, _DATA, 0, stream.stream_id, len(body))
            at += _HEAD
            plain[at : at + len(body)] = body
            at += len(body)
            if stream.wants_to_send:
                self.ready(stream)
        return at

    # -- reading

    async def _read_loop(self) -> None:
        try:
            while True:
                small = 0
                for record in await self.wire.receive():
                    small += self._feed(record)
                if small and self._small_bucket.take(small, trio.current_time()):
                    raise ViolationError("it floods us with small frames")
                self.budget.enforce()
        except WireError as error:
            self.ended_by_peer = not (self._closing or isinstance(error, ViolationError))
            self.cut(str(error))

    def _feed(self, data: bytes) -> int:
        """Take one record; returns how many small frames began in it."""
        if self._head:
            data = self._head + data
            self._head = b""
        view = memoryview(data)
        at, end, small = 0, len(data), 0
        while at < end:
            if self._body_left:
                stop = min(end, at + self._body_left)
                if self._body_stream is not None:
                    self._body_stream.on_data(view[at:stop])
                self._body_left -= stop - at
                at = stop
                if not self._body_left and self._body_flags and self._body_stream is not None:
                    self._body_stream.on_end(self._body_flags)
                continue
            if end - at < _HEAD:
                self._head = data[at:]
                break
            version, kind, flags, stream_id, value = _HEADER.unpack_from(data, at)
            at += _HEAD
            small += kind != _DATA or value < SMALL_FRAME
            if version:
                raise ViolationError(f"yamux version {version}")
            self._on_frame(kind, flags, stream_id, value)
        return small

    def _on_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if kind == _PING:
            self._on_ping(flags, value)
        elif kind == _GO_AWAY:
            raise WireError("the peer said goodbye")
        elif kind > _GO_AWAY:
            raise ViolationError(f"yamux frame type {kind}")
        else:
            stream = self._open_inbound(stream_id) if flags & SYN else self.streams.get(stream_id)
            ends = flags & (FIN | RST)
            if kind == _DATA and value:
                self._on_body(stream, ends, value)
                return
            if stream is not None:
                if kind == WINDOW and value:
                    stream.on_window(value)
                if ends:
                    stream.on_end(ends)

    def _on_body(self, stream: MuxedStream | None, ends: int, length: int) -> None:
        if stream is not None:
            stream.on_body(length)
        elif length > MAX_WINDOW:
            raise ViolationError("a frame larger than any window")
        self._body_stream, self._body_flags, self._body_left = stream, ends, length

    def _open_inbound(self, stream_id: int) -> MuxedStream | None:
        if not stream_id or stream_id % 2 == self._next_id % 2 or stream_id in self.streams:
            raise ViolationError(f"it may not open stream {stream_id}")
        hasty = self._stream_bucket.take(1, trio.current_time()) > 0
        if hasty or self._inbound >= MAX_INBOUND:
            self._refused += 1
            if self._refused > MAX_REFUSED:
                raise ViolationError("it opens streams without end")
            self.control(WINDOW, RST, stream_id, 0)
            return None
        stream = MuxedStream(stream_id, self, inbound=True)
        self.streams[stream_id] = stream
        self._inbound += 1
        self.control(WINDOW, ACK, stream_id, 0)
        self._on_stream(stream)
        return stream

    def _on_ping(self, flags: int, nonce: int) -> None:
        now = trio.current_time()
        if flags & SYN:
            if self._ping_bucket.take(1, now):
                raise ViolationError("it pings without end")
            self.control(_PING, ACK, 0, nonce)
            return
        sent = self._pings.pop(nonce, None)
        if sent is not None:
            sample = now - sent[0]
            self._rtt = sample if not self._rtt else 0.875 * self._rtt + 0.125 * sample
            sent[1].set()

    # -- what the streams tell

    def read_by_user(self, count: int) -> None:
        """Somebody took (or dropped) bytes that had arrived."""
        self.unread -= count
        self.budget.unread -= count

    def forget(self, stream: MuxedStream) -> None:
        """The stream has ended on both sides."""
        if self.streams.pop(stream.stream_id, None) is not None:
            stream.shrink()
            self._inbound -= stream.inbound

    # -- what users ask for

    async def open_stream(self) -> MuxedStream:
        """A new stream to the peer."""
        await trio.lowlevel.checkpoint()
        if self._closing:
            raise MuxedStreamError(f"the connection is over: {self.why_closed}")
        if len(self.streams) - self._inbound >= MAX_OUTBOUND:
            raise MuxedStreamError(f"{MAX_OUTBOUND} streams to this peer are open already")
        stream = MuxedStream(self._next_id, self, inbound=False)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        self.control(WINDOW, SYN, stream.stream_id, 0)
        return stream

    async def ping(self) -> float:
        """One round trip in seconds. Waits for ever if none comes back; raises at the end."""
        self._ping_nonce = (self._ping_nonce + 1) & 0xFFFFFFFF
        nonce, event = self._ping_nonce, trio.Event()
        sent = trio.current_time()
        self._pings[nonce] = (sent, event)
        self.control(_PING, SYN, 0, nonce)
        try:
            await event.wait()
        finally:
            self._pings.pop(nonce, None)
        if self._closing:
            raise MuxedConnUnavailable(self.why_closed)
        return trio.current_time() - sent

    def rtt(self) -> float:
        """The smoothed round trip in seconds; 0.0 before the first ping came back."""
        return self._rtt

    def sweep(self) -> None:
        """Reset what was abandoned and never ended by the peer; called now and then."""
        for stream in list(self.streams.values()):
            if stream.abandoned:
                stream.abort("abandoned")

    async def accept_stream(self) -> IMuxedStream:
        """Of libp2p's interface; streams go to `on_stream` instead."""
        await self.event_closed.wait()
        raise MuxedConnUnavailable(self.why_closed)

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return self._initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._closing

    @property
    def is_closed(self) -> bool:
        """Whether the connection is over, or about to be."""
        return self._closing

    def get_remote_address(self) -> tuple[str, int]:
        """The remote end's host and port."""
        return self.wire.remote

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The remote end as libp2p has it."""
        host, port = self.wire.remote
        return [Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")]

    def get_connection_type(self) -> ConnectionType:
        """Always direct: no relays yet."""
        return ConnectionType.DIRECT
