"""A TCP proxy before every daemon: it gives links their weather and counts what passes.

Rules of this file:
1. Bytes are never lost, altered or reordered on a connection; they come late, or it ends.
2. The weather is asked at every chunk, so that a change takes effect at once.
3. The daemon behind sees the dialler's own address: the proxy dials from it.
"""

import math
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from trio.socket import SocketType

from simnet.addresses import home_ip, index_of, proxy_ip
from simnet.weather import Cut, Link, Weather

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings these stubs, and mypy prefers them

CHUNK = 256 << 10
"""Bytes read at once: larger reads gained nothing in throughput on loopback."""

LINE_LIMIT = 16 << 20
"""Bytes under way on one delayed direction: 0.3 s at 50 MB/s; then the sender waits, as for a
full TCP window."""

BACKLOG = 128
"""Connections that wait to be accepted: every daemon of a scenario may dial one at once."""

RESET = struct.pack("ii", 1, 0)  # linger on, for no time: close() sends a reset


class Changes:
    """Wakes everyone who waits for the weather to change."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """The weather has changed."""
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self) -> None:
        """Return at the next change."""
        await self._event.wait()


class Direction:
    """One way of one connection: read, wait as the weather says, write."""

    def __init__(self, fabric: "Fabric", link: Link, source: SocketType, sink: SocketType) -> None:
        self._fabric = fabric
        self._link = link
        self._source = source
        self._sink = sink
        self._line: deque[tuple[float, bytes]] = deque()
        self._under_way = 0  # bytes in the line, the chunk being written included
        self._stirred = Changes()
        self._last_due = 0.0

    async def run(self) -> None:
        """Carry bytes until the sender ends its half. Raises OSError where either end broke."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_line)
            await self._read()

    async def _read(self) -> None:
        weather = self._fabric.weather
        view = memoryview(bytearray(CHUNK))
        while True:
            await self._fabric.passable(self._link)
            count = await self._source.recv_into(view, weather.chunk(self._link, CHUNK))
            wait = weather.wait_for(self._link, count, trio.current_time()) if count else 0.0
            if wait:
                await trio.sleep(wait)
            late = weather.lateness(self._link)
            if count and not (late or self._under_way or weather.stalled(self._link)):
                await self._send(view[:count])
                continue
            self._last_due = max(self._last_due, trio.current_time() + late)
            await self._put(self._last_due, bytes(view[:count]))
            if not count:
                return

    async def _put(self, due: float, data: bytes) -> None:
        """Put a chunk in the line; b"" is the end of the stream and travels it too."""
        while self._under_way > LINE_LIMIT:
            await self._stirred.wait()
        self._under_way += len(data)
        self._line.append((due, data))
        self._stirred.tell()

    async def _write_line(self) -> None:
        while True:
            while not self._line:
                await self._stirred.wait()
            due, data = self._line.popleft()
            await trio.sleep_until(due)
            await self._fabric.passable(self._link)
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await self._send(memoryview(data))
            self._under_way -= len(data)
            self._stirred.tell()

    async def _send(self, view: memoryview) -> None:
        sent = 0
        while sent < len(view):
            sent += await self._sink.send(view[sent:])
        self._fabric.weather.moved[self._link] += len(view)


class Connection:
    """A dialler, a daemon, and the two ways between them."""

    def __init__(self, fabric: "Fabric", link: Link, client: SocketType) -> None:
        self.link = link
        self._fabric = fabric
        self._client = client
        self._server = trio.socket.socket()
        self._scope = trio.CancelScope()

    def reset(self, why: str) -> None:
        """End it now, by a reset on both sides; `why` is counted."""
        self._fabric.weather.faults[why] += 1
        for end in (self._client, self._server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._scope.cancel()

    async def run(self, ip: str) -> None:
        """Carry until both ends are done, one breaks, or the weather ends it."""
        with self._client, self._server, self._scope:
            try:
                await self._fabric.passable(self.link)
                await self._reach(ip)
                await self._carry()
            except* OSError:
                # One end broke, or nobody listens behind us; the other learns it by a reset.
                self.reset("broken")

    async def _reach(self, ip: str) -> None:
        dialler, index = self.link
        assert index is not None
        if dialler is not None:
            await self._server.bind((ip, 0))
        await self._server.connect((home_ip(index), self._fabric.port))
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def _carry(self) -> None:
        there, back = self.link, (self.link[1], self.link[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reset_now_and_then)
            async with trio.open_nursery() as ways:
                ways.start_soon(Direction(self._fabric, there, self._client, self._server).run)
                ways.start_soon(Direction(self._fabric, back, self._server, self._client).run)
            nursery.cancel_scope.cancel()

    async def _reset_now_and_then(self) -> None:
        weather = self._fabric.weather
        while True:
            mean = weather.shape(self.link).reset_every
            patience = weather.random.expovariate(1 / mean) if mean else math.inf
            with trio.move_on_after(patience) as scope:
                await self._fabric.changes.wait()
            if scope.cancelled_caught:
                self.reset("random-reset")


class Fabric:
    """The proxies of one world, and the weather that they share."""

    def __init__(self, weather: Weather, port: int) -> None:
        self.weather = weather
        self.port = port
        self.changes = Changes()
        self._live: set[Connection] = set()

    def change(self, alter: Callable[[Weather], None]) -> None:
        """Alter the weather; connections that a partition cuts by reset end now."""
        alter(self.weather)
        self.changes.tell()
        for connection in list(self._live):
            if self.weather.cut(connection.link) is Cut.RESET:
                connection.reset("partition-reset")

    def reset_all(self, node: int) -> None:
        """Reset every connection of `node`."""
        for connection in list(self._live):
            if node in connection.link:
                connection.reset("reset")

    def connections(self, node: int) -> int:
        """Open connections of `node` through the fabric."""
        return sum(node in connection.link for connection in self._live)

    async def passable(self, link: Link) -> None:
        """Return once bytes may pass on `link`."""
        if self.weather.stalled(link):
            self.weather.faults["stall"] += 1
        while self.weather.stalled(link):
            await self.changes.wait()

    async def serve(
        self, index: int, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Stand before daemon `index` until cancelled."""
        with trio.socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await listener.bind((proxy_ip(index), self.port))
            listener.listen(BACKLOG)
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    client, (ip, *_) = await listener.accept()
                    nursery.start_soon(self._admit, client, ip, index)

    async def _admit(self, client: SocketType, ip: str, index: int) -> None:
        connection = Connection(self, (index_of(ip), index), client)
        if self.weather.cut(connection.link) is Cut.RESET:
            connection.reset("refused")
        self._live.add(connection)
        try:
            await connection.run(ip)
        finally:
            self._live.remove(connection)
