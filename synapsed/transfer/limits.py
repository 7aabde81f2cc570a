"""How fast model bytes may leave and whose turn it is; how fast, and how many, may arrive.

`Uploads` shares one rate between peers by deficit round robin (Shreedhar and Varghese 1996): each
peer that waits gets a chunk in its turn, however many streams it has open. It can be changed, and
paused, while transfers run; a rate of 0 is no limit.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import trio

from protocols.errors import LimitError, RefusedError
from protocols.ratelimit import TokenBucket

CHUNK = 256 << 10
"""Bytes sent in one turn: a sub-tile."""
MIN_CHUNK = 16 << 10
CHUNKS_PER_SECOND = 8
"""At low rates turns are smaller than CHUNK, so that nobody waits seconds for the others'."""
MIN_WAIT = 0.001
"""Seconds: shorter waits for tokens can be lost in the clock's last digits, and spin."""
BURST_SECONDS = 0.1
"""Of the rate may go out at once: below what a router's buffer adds to a phone call."""
MAX_UPLOADS = 64
"""Peers served at a time; each holds a sub-tile's worth of buffers."""
MIN_SHARE = 32 << 10
"""Bytes per second that a peer is promised before another is let in: with less, a sub-tile takes
longer than pullers wait (protocols/transfer/schedule.py, FIRST_TIMEOUT)."""


class Downloads:
    """How many model bytes a second are asked for, by all pulls together; 0 is no limit.

    What is asked for comes as quickly as it can, and then nothing is asked for until it is paid:
    so no stream waits half way, whatever the limit.
    """

    def __init__(self, rate: int = 0) -> None:
        """`rate` in bytes per second."""
        self._rate = rate
        self._bucket = self._new_bucket()

    @property
    def rate(self) -> int:
        """Bytes per second; 0 is no limit."""
        return self._rate

    def set_rate(self, rate: int) -> None:
        """Change the limit, for pulls that run as well."""
        self._rate = rate
        self._bucket = self._new_bucket()

    def _new_bucket(self) -> TokenBucket:
        return TokenBucket(self._rate, 1)

    @property
    def spent(self) -> bool:
        """Whether nothing more may be asked for just now."""
        return self._rate > 0 and self._bucket.available(trio.current_time()) < 1

    def ask(self, size: int) -> None:
        """So many bytes are asked for. Not while it is `spent`."""
        if self._rate:
            self._bucket.take(size, trio.current_time())


class UploadsPausedError(RefusedError):
    """The owner has paused uploads."""

    code = "paused"


class NoRoomError(LimitError):
    """A pull for others would take more of the store than it may."""

    code = "no-room-for-others"


class Room:
    """Bytes that a pull may add to the store; what it takes is gone."""

    def __init__(self, size: int) -> None:
        self.left = size

    def check(self, size: int) -> None:
        """Raise NoRoomError where `size` bytes do not fit."""
        if size > self.left:
            raise NoRoomError(
                f"{size} bytes where {self.left} may be held for others",
                remedy="more fit when store.quota is raised",
            )

    def take(self, size: int) -> None:
        """Use `size` bytes of it. NoRoomError."""
        self.check(size)
        self.left -= size


class _Ticket(msgspec.Struct, eq=False):
    size: int
    granted: trio.Event


class _Lane(msgspec.Struct, eq=False):
    """One waiting peer: its tickets, what it may still send in its turn, and whether that began."""

    tickets: deque[_Ticket]
    deficit: int = 0
    begun: bool = False


class Uploads:
    """The upload limit of the whole daemon; `run` must be running wherever it is limited."""

    def __init__(self, rate: int = 0) -> None:
        """`rate` in bytes per second."""
        self._rate = rate
        self._bucket = self._new_bucket()
        self._lanes: dict[bytes, _Lane] = {}
        self._ring: deque[bytes] = deque()
        self._serving: Counter[bytes] = Counter()
        self._changed = trio.Event()
        self.paused = False
        self.sent = 0
        """Bytes that were granted since the start."""

    @property
    def rate(self) -> int:
        """Bytes per second; 0 is no limit."""
        return self._rate

    def set_rate(self, rate: int) -> None:
        """Change the limit, for transfers that run as well."""
        self._rate = rate
        self._bucket = self._new_bucket()
        self._changed.set()

    def pause(self) -> None:
        """Refuse whatever is asked, and who waits for a turn, until `resume`."""
        self.paused = True
        for lane in self._lanes.values():
            for ticket in lane.tickets:
                ticket.granted.set()
            lane.tickets.clear()

    def resume(self) -> None:
        """Go on."""
        self.paused = False

    def chunk(self) -> int:
        """Bytes to ask for in one `grant`."""
        if not self._rate:
            return CHUNK
        return max(MIN_CHUNK, min(CHUNK, self._rate // CHUNKS_PER_SECOND))

    @contextmanager
    def serving(self, peer: bytes) -> Iterator[bool]:
        """A request of `peer` is being served; False where too many peers are already."""
        room = MAX_UPLOADS
        if self._rate:
            room = max(1, min(room, self._rate // MIN_SHARE))
        free = peer in self._serving or len(self._serving) < room
        if free:
            self._serving[peer] += 1
        try:
            yield free
        finally:
            if free:
                self._serving[peer] -= 1
                if not self._serving[peer]:
                    del self._serving[peer]

    async def grant(self, peer: bytes, size: int) -> None:
        """Wait until `peer` may be sent `size` bytes (at most CHUNK). UploadsPausedError."""
        if self._rate and not self.paused:
            ticket = _Ticket(size, trio.Event())
            lane = self._lanes.get(peer)
            if lane is None:
                lane = self._lanes[peer] = _Lane(deque())
                self._ring.append(peer)
            lane.tickets.append(ticket)
            self._changed.set()
            try:
                await ticket.granted.wait()
            except trio.Cancelled:
                if not ticket.granted.is_set():
                    lane.tickets.remove(ticket)
                raise
        if self.paused:
            raise UploadsPausedError("uploads are paused", remedy="synapsectl resume")
        self.sent += size

    async def run(self) -> None:
        """Hand out the turns, until cancelled."""
        while True:
            self._changed = trio.Event()
            wait = self._hand_out()
            with trio.move_on_after(wait):
                await self._changed.wait()

    def _hand_out(self) -> float:
        """Grant what may go now; the seconds until more may."""
        while self._ring:
            lane = self._lanes[self._ring[0]]
            if not lane.tickets:
                # Who waits for nothing saves nothing up.
                del self._lanes[self._ring.popleft()]
                continue
            if not lane.begun:
                lane.begun = True
                lane.deficit += self.chunk()
            size = lane.tickets[0].size
            if lane.deficit < size:
                lane.begun = False
                self._ring.rotate(-1)
                continue
            wait = self._bucket.take(size, trio.current_time()) if self._rate else 0.0
            if wait:
                return max(wait, MIN_WAIT)
            lane.deficit -= size
            lane.tickets.popleft().granted.set()
        return float("inf")

    def _new_bucket(self) -> TokenBucket:
        return _bucket(self._rate)


def _bucket(rate: int) -> TokenBucket:
    return TokenBucket(rate, max(MIN_CHUNK, rate * BURST_SECONDS))
