"""Frames between daemons on streams that stay: what the council and its followers speak over.

Each side opens a stream of its own to tell the other, one for each protocol, so a stream is only
ever written or only ever read. A frame that cannot be sent is lost, sooner or later: what is sent
here is sent again by who sent it, until it is answered.

    out  a bounded queue for each (peer, protocol), and a task that dials, opens and writes
    in   a bounded queue for each stream; the service takes from them in turn, members first

Nothing that a peer does, or does not do, holds up what another one sends or is sent.
"""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from math import inf

import trio

from protocols.peerid import peer_id_text
from synapsed.net.errors import NetError
from synapsed.ports import Net, Stream

log = logging.getLogger(__name__)

MAX_WAITING = 4 << 20
"""Bytes that wait for one stream; beyond, the oldest are lost. Sixteen pipelined batches of the
largest size, and more than what a peer has not asked for again by then."""
MAX_FRAMES = 4096
"""Frames that wait for one stream: small ones cost memory, too."""
WRITE_BYTES = 256 << 10
"""Of waiting frames that are written at once: a few records, and one turn of the writer."""
WRITE_SECONDS = 10.0
"""For one write. A peer that reads nothing for so long is stopped or gone; what waits is lost."""
REOPEN_AFTER, REOPEN_LATEST = 0.25, 4.0
"""Seconds until a broken stream is opened again, doubling: a member that comes back must be heard
within a time-out or two, and a dial that fails costs both sides a few packets."""
STEADY_SECONDS = 10.0
"""A stream that lived so long begins the doubling anew; one whose peer takes the connection and
hangs up (it has banned us, or has no room) does not."""
HASTY = 3
"""Waits in a row that a new connection may cut short: where both sides dial at once one of the two
is dropped, and a peer that hangs up is not worth more. A wait to its end makes up for one."""
IDLE_SECONDS = 300.0
"""A stream on which nothing was sent for so long is given up, and so is one that we read."""
LANE_FRAMES, LANE_BYTES = 64, 2 << 20
"""Frames and bytes of one stream that wait to be handled; its reader waits beyond, and then the
peer, by the stream's window."""
OTHERS_TURN = 4
"""One turn in so many is not an urgent peer's, so that a member that always has something to say
keeps nobody else from being heard."""
STREAMS_PER_PEER = 2
"""Of one protocol: the second one is a new connection's, while the old one is not yet missed."""


class Link:
    """What one peer is to be sent on one protocol."""

    def __init__(self, peer: bytes, protocol: str) -> None:
        self.peer, self.protocol = peer, protocol
        self.lost = 0
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self.retry = trio.Event()

    def push(self, frame: bytes) -> None:
        """Send `frame` when its turn comes."""
        self._frames.append(frame)
        self._bytes += len(frame)
        while self._bytes > MAX_WAITING or len(self._frames) > MAX_FRAMES:
            self._bytes -= len(self._frames.popleft())
            self.lost += 1
        self._wake.set()

    async def some(self) -> bool:
        """Wait until there is something to send; False where that takes too long."""
        if self._frames:
            return True
        with trio.move_on_after(IDLE_SECONDS):
            while not self._frames:
                self._wake = trio.Event()
                await self._wake.wait()
        return bool(self._frames)

    def take(self) -> list[bytes]:
        """Frames to write at once; at least one, if there is one."""
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0]) <= WRITE_BYTES):
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return taken

    def put_back(self, frames: list[bytes]) -> None:
        """They could not be written: first in the queue again."""
        self._frames.extendleft(reversed(frames))
        self._bytes += sum(len(frame) for frame in frames)


class Lane:
    """What came on one stream and has not been handled yet."""

    def __init__(self, peer: bytes, protocol: str) -> None:
        self.peer, self.protocol = peer, protocol
        self.frames: deque[bytes] = deque()
        self.bytes = 0
        self.queued = False
        self._moved = trio.Event()

    @property
    def full(self) -> bool:
        """Whether its reader waits."""
        return len(self.frames) >= LANE_FRAMES or self.bytes >= LANE_BYTES

    def pop(self) -> bytes:
        """The oldest frame."""
        frame = self.frames.popleft()
        self.bytes -= len(frame)
        self._moved.set()
        return frame

    async def room(self) -> None:
        """Wait while it is full."""
        while self.full:
            self._moved = trio.Event()
            await self._moved.wait()


class Inbox:
    """The lanes, in turn: those of `urgent` peers before the others, mostly."""

    def __init__(self, urgent: Callable[[bytes], bool]) -> None:
        self._urgent = urgent
        self._first: deque[Lane] = deque()
        self._then: deque[Lane] = deque()
        self._turns = 0
        self.arrived = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._first or self._then)

    def put(self, lane: Lane, frame: bytes) -> None:
        """Queue a frame behind the others of its lane."""
        lane.frames.append(frame)
        lane.bytes += len(frame)
        if not lane.queued:
            lane.queued = True
            (self._first if self._urgent(lane.peer) else self._then).append(lane)
        self.arrived.set()

    def take(self) -> tuple[Lane, bytes] | None:
        """The next frame."""
        self._turns += 1
        first, then = self._first, self._then
        if self._turns % OTHERS_TURN == 0:
            first, then = then, first
        lanes = first or then
        if not lanes:
            return None
        lane = lanes.popleft()
        frame = lane.pop()
        if lane.frames:
            lanes.append(lane)
        else:
            lane.queued = False
        return lane, frame


class CouncilNet:
    """The streams of some protocols, with everybody. `run` it, then `send`, and read `inbox`."""

    def __init__(
        self,
        net: Net,
        connect: Callable[[bytes], Awaitable[None]],
        protocols: Mapping[str, int],
        urgent: Callable[[bytes], bool],
        pause: Callable[[bytes], float] = lambda _peer: 0.0,
    ) -> None:
        """`connect` dials a peer or raises NetError; `protocols` has the largest frame of each.

        What goes to or comes from an `urgent` peer goes first. Before the next frame of a peer
        is read, `pause` says how many seconds that must wait.
        """
        self._net = net
        self._connect = connect
        self._protocols = dict(protocols)
        self._urgent = urgent
        self._pause = pause
        self._links: dict[tuple[bytes, str], Link] = {}
        self._nursery: trio.Nursery | None = None
        self.inbox = Inbox(urgent)
        for protocol in self._protocols:
            net.serve(protocol, self._reader(protocol), STREAMS_PER_PEER)
        net.on_peer(self._connected, lambda _peer: None)

    def send(self, peer: bytes, protocol: str, frame: bytes) -> None:
        """Send `frame` to `peer`, connected or not; it may be lost. Never waits. What is sent
        before `run` has begun goes out when it does: a first word is not said twice."""
        link = self._links.get((peer, protocol))
        if link is None:
            link = self._links[peer, protocol] = Link(peer, protocol)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, link)
        link.push(frame)

    async def run(self) -> None:
        """Carry frames until cancelled."""
        async with trio.open_nursery() as nursery:
            for link in self._links.values():
                nursery.start_soon(self._keep, link)
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # at once: a nursery that ends takes no more tasks
                self._links.clear()

    # -- out ---------------------------------------------------------------------------------------

    def _connected(self, peer: bytes) -> None:
        for protocol in self._protocols:
            if (link := self._links.get((peer, protocol))) is not None:
                link.retry.set()

    async def _keep(self, link: Link) -> None:
        """Write what the link is given, until it is given nothing any more."""
        wait, hasty = REOPEN_AFTER, 0
        try:
            while await link.some():
                link.retry = trio.Event()
                opened = inf
                try:
                    await self._connect(link.peer)
                    async with self._net.open_stream(link.peer, link.protocol) as stream:
                        opened = trio.current_time()
                        if self._urgent(link.peer):
                            stream.hurry()
                        await self._write(link, stream)
                        return
                except NetError as error:
                    log.debug("%s to %s: %s", link.protocol, peer_id_text(link.peer), error)
                if trio.current_time() >= opened + STEADY_SECONDS:
                    wait, hasty = REOPEN_AFTER, 0
                news = trio.Event() if hasty >= HASTY else link.retry
                with trio.move_on_after(wait * random.uniform(0.75, 1.25)) as whole:  # noqa: S311
                    await news.wait()  # it is connected (again): no reason to wait longer
                hasty = max(0, hasty - 1) if whole.cancelled_caught else hasty + 1
                wait = min(2 * wait, REOPEN_LATEST)
        finally:
            self._links.pop((link.peer, link.protocol), None)

    async def _write(self, link: Link, stream: Stream) -> None:
        while await link.some():
            frames = link.take()
            try:
                await stream.write_frames(frames, timeout=WRITE_SECONDS)
            except NetError:
                link.put_back(frames)
                raise

    # -- in ----------------------------------------------------------------------------------------

    def _reader(self, protocol: str) -> Callable[[Stream], Awaitable[None]]:
        limit = self._protocols[protocol]

        async def read(stream: Stream) -> None:
            lane = Lane(stream.peer, protocol)
            while True:
                frame = await stream.read_frame(limit, timeout=2 * IDLE_SECONDS)
                self.inbox.put(lane, frame)
                await lane.room()
                while seconds := self._pause(stream.peer):
                    await trio.sleep(seconds)

        return read
