"""One stream of the multiplexer, and the budget that all streams share.

A stream's frames are sent by the connection's one writer, which asks it for bytes (`take`); what
the peer sends is put into it by the connection's one reader (`on_...`). See muxer.py.
"""

from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

from synapsed.net.wire import WireError

if TYPE_CHECKING:
    from synapsed.net.muxer import Muxer

INITIAL_WINDOW = 256 * 1024
"""Bytes that either side may send on a new stream: the specification's constant."""

MAX_WINDOW = 4 << 20
"""Bytes that a window may grow to: 100 ms of round trip at 40 MB/s."""

GROWTH_BUDGET = 24 << 20
"""Bytes by which all windows together may exceed the initial one: six pulls at full window."""

UNREAD_BUDGET = 48 << 20
"""Bytes that may wait unread in the whole process: the growth above, and 96 fresh streams."""

READS_PER_TURN = 16
"""Reads of what has already arrived before other tasks get their turn: 0.1 ms of small frames."""

WINDOW = 1
"""Yamux's frame type of window updates; they carry the flags of a stream's life, too."""

SYN, ACK, FIN, RST = 1, 2, 4, 8


class ViolationError(WireError):
    """The peer broke the protocol's rules, or our limits."""


class BufferBudget:
    """One limit on the bytes that all peers together have sent and nobody has read yet.

    Windows may grow only while their growth fits the budget; a peer that still overruns it (many
    streams at the initial window) is found as the one with the most unread bytes, and cut.
    """

    def __init__(self, unread: int = UNREAD_BUDGET, growth: int = GROWTH_BUDGET) -> None:
        self.limit = unread
        self.unread = 0
        self._growth = growth
        self._muxers: set[Muxer] = set()

    def join(self, muxer: "Muxer") -> None:
        """Count this connection."""
        self._muxers.add(muxer)

    def leave(self, muxer: "Muxer") -> None:
        """The connection is over."""
        self._muxers.discard(muxer)

    def grow(self, more: int) -> bool:
        """Whether a window may grow by `more`."""
        if more > self._growth:
            return False
        self._growth -= more
        return True

    def shrink(self, less: int) -> None:
        """A grown window is gone."""
        self._growth += less

    def enforce(self) -> None:
        """Over the limit, cut the connection that has most unread bytes."""
        if self.unread > self.limit:
            greediest = max(self._muxers, key=lambda muxer: muxer.unread)
            greediest.cut("too many unread bytes")


class MuxedStream(IMuxedStream):
    """One stream. It raises libp2p's errors, which libp2p's own layers expect."""

    def __init__(self, stream_id: int, conn: "Muxer", *, inbound: bool) -> None:
        self.stream_id = stream_id
        self.muxed_conn = self.conn = conn
        self.inbound = inbound
        self.received = bytearray()
        self.ended = False
        """The peer has sent its last byte."""
        self.finished = False
        """We have sent our last byte."""
        self.dead = ""
        """Why the stream was reset, if it was."""
        self._abandoned = False
        self._credit = INITIAL_WINDOW  # what the peer may still send
        self._window = INITIAL_WINDOW
        self._granted_at = 0.0
        self._want = 1
        self._arrival: trio.Event | None = None
        self._unyielded = 0
        self._send_window = INITIAL_WINDOW
        self._writing = trio.StrictFIFOLock()
        self._pending: memoryview | None = None
        self._taken: trio.Event | None = None
        self.queued = False
        """Whether the writer has this stream on its list."""
        self.urgent = False
        """Whether it goes before streams that are not: for little that others wait for."""

    # -- reading

    async def wait_for(self, count: int) -> int:
        """Wait until `count` bytes are there, or no more will come; returns how many are.

        Only up to half a window can be waited for. Raises MuxedStreamReset.
        """
        if len(self.received) >= count or self.ended or self.dead:
            # Who reads what is there already must let others run now and then.
            self._unyielded += 1
            if self._unyielded >= READS_PER_TURN:
                self._unyielded = 0
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
        while len(self.received) < count and not self.ended and not self.dead:
            self._unyielded = 0
            self._want = count
            self._arrival = trio.Event()
            await self._arrival.wait()
        if self.dead:
            raise MuxedStreamReset(self.dead)
        return len(self.received)

    async def read_into(self, target: memoryview) -> int:
        """Fill `target` from the stream; returns less than its length only at the end."""
        at, end = 0, len(target)
        while at < end:
            have = await self.wait_for(min(end - at, INITIAL_WINDOW // 2))
            if not have:
                break
            count = min(have, end - at)
            with memoryview(self.received) as view:
                target[at : at + count] = view[:count]
            self._consume(count)
            at += count
        return at

    async def read(self, n: int | None = -1) -> bytes:
        """Up to `n` bytes, as many as are there. MuxedStreamEOF at the end."""
        if not await self.wait_for(1):
            raise MuxedStreamEOF("the peer ended the stream")
        count = len(self.received) if n is None or n < 0 else min(n, len(self.received))
        data = bytes(memoryview(self.received)[:count])
        self._consume(count)
        return data

    def _consume(self, count: int) -> None:
        del self.received[:count]
        self.conn.read_by_user(count)
        if self.ended or self.dead:
            return
        room = self._window - len(self.received) - self._credit
        if room * 2 >= self._window:
            self._grant(room)

    def _grant(self, room: int) -> None:
        now = trio.current_time()
        # Half a window within four round trips: the window is what holds the peer back.
        if now - self._granted_at < max(4 * self.conn.rtt(), 0.01) and self._window < MAX_WINDOW:
            more = min(self._window, MAX_WINDOW - self._window)
            if self.conn.budget.grow(more):
                self._window += more
                room += more
        self._granted_at = now
        self._credit += room
        self.conn.control(WINDOW, 0, self.stream_id, room)

    def _wake_reader(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    # -- writing

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; returns when its last byte is sealed, so the caller may reuse it.

        A cancelled write resets the stream: how much of it went out cannot be known.
        """
        view = memoryview(data).cast("B")
        if not len(view):
            return
        async with self._writing:
            self._check_writable()
            self._pending = view
            self._taken = trio.Event()
            self.conn.ready(self)
            try:
                await self._taken.wait()
            finally:
                if self._pending is not None:
                    self._pending = None
                    self.abort("a write was abandoned half way")
        if self.dead:
            raise MuxedStreamReset(self.dead)

    def _check_writable(self) -> None:
        if self.dead:
            raise MuxedStreamReset(self.dead)
        if self.finished:
            raise MuxedStreamError("the stream is closed for writing")

    def take(self, room: int) -> memoryview | None:
        """What the writer may send now, at most `room` bytes; None while the window is shut."""
        pending = self._pending
        if pending is None or not self._send_window:
            return None
        count = min(room, self._send_window, len(pending))
        self._send_window -= count
        if count < len(pending):
            self._pending = pending[count:]
            return pending[:count]
        self._pending = None
        if self._taken is not None:
            self._taken.set()
        return pending

    @property
    def wants_to_send(self) -> bool:
        """Whether the writer has something to take."""
        return self._pending is not None and self._send_window > 0

    # -- ending

    async def close(self) -> None:
        """Say that we send no more. The peer may go on sending (a half-close)."""
        async with self._writing:
            self._finish()

    def _finish(self) -> None:
        if self.finished or self.dead:
            return
        self.finished = True
        self.conn.control(WINDOW, FIN, self.stream_id, 0)
        if self.ended:
            self.conn.forget(self)

    def abandon(self) -> None:
        """We are done with the stream: end our side, and drop what the peer may still send."""
        self._finish()
        self._abandoned = True
        self.conn.read_by_user(len(self.received))
        self.received.clear()

    @property
    def abandoned(self) -> bool:
        """Whether nobody of ours holds this stream any more."""
        return self._abandoned

    async def reset(self) -> None:
        """End both directions at once; what was not read yet is lost."""
        self.abort("reset by us")
        await trio.lowlevel.checkpoint()

    def abort(self, why: str) -> None:
        """`reset` for where nothing may wait."""
        if not self.dead and not (self.ended and self.finished):
            self.conn.control(WINDOW, RST, self.stream_id, 0)
        self.die(why)

    def die(self, why: str) -> None:
        """The stream is over, whoever ended it: wake everybody who waits."""
        self.dead = self.dead or why
        self._pending = None
        if self._taken is not None:
            self._taken.set()
        self._wake_reader()
        self.conn.read_by_user(len(self.received))
        self.received.clear()
        self.conn.forget(self)

    def shrink(self) -> None:
        """Give back what the window had grown by."""
        self.conn.budget.shrink(self._window - INITIAL_WINDOW)
        self._window = INITIAL_WINDOW

    # -- what the peer sent

    def on_body(self, length: int) -> None:
        """A frame announces `length` bytes."""
        if length > self._credit:
            raise ViolationError("the peer sent more than its window")
        self._credit -= length

    def on_data(self, data: memoryview) -> None:
        """Bytes arrived."""
        if self._abandoned or self.dead:
            return
        self.received += data
        self.conn.unread += len(data)
        self.conn.budget.unread += len(data)
        if len(self.received) >= self._want:
            self._wake_reader()

    def on_window(self, more: int) -> None:
        """The peer lets us send more."""
        self._send_window += more
        if self.wants_to_send:
            self.conn.ready(self)

    def on_end(self, flags: int) -> None:
        """The peer ended its side, or the stream."""
        if flags & RST:
            self.die("reset by the peer")
        elif flags & FIN and not self.ended:
            self.ended = True
            self._wake_reader()
            if self.finished:
                self.conn.forget(self)

    # -- what libp2p's interface asks for

    def set_deadline(self, ttl: int) -> None:
        """Not supported: callers bring their own time-outs."""
        raise NotImplementedError("yamux streams have no deadlines")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The remote end of the connection."""
        return self.conn.get_remote_address()

    async def __aenter__(self) -> "MuxedStream":
        return self
