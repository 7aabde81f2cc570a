"""Daemons' transfer layers joined in memory: real stores, pullers and servers, streams of bytes.

A `Node` serves what its store holds and may pull; `World.nodes` reach each other by name. What a
node answers can be bent (`Node.bend`), to make liars of the real server.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import trio

from protocols.errors import LimitError, MalformedError
from protocols.gossip.peerscore import Fault
from protocols.peerid import peer_id_of
from protocols.tensors.blocks import PROTOCOL, FetchRequest, Request, decode_request
from synapsed.net.errors import PeerUnreachableError, StreamClosedError, TimedOutError
from synapsed.store import Store
from synapsed.transfer.limits import Uploads
from synapsed.transfer.pull import Puller
from synapsed.transfer.serve import BlockServer
from synapsed.transfer.sources import FixedSources, Source

QUOTA = 1 << 30
WINDOW = 1 << 20
"""Bytes under way in one direction of a stream."""


class End:
    """One end of a stream in memory."""

    def __init__(self, peer: bytes, *, local: bool) -> None:
        self.peer = peer
        self.local = local
        self.other: End = self
        self.moved = 0
        self._bytes = bytearray()
        self._closed = False
        self._change = trio.Event()

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()

    @contextmanager
    def _bounded(self, timeout: float | None) -> Iterator[None]:
        with trio.move_on_after(30.0 if timeout is None else timeout) as scope:
            yield
        if scope.cancelled_caught:
            self.reset()
            raise TimedOutError("nothing moved")

    async def read_into(self, target: memoryview, *, timeout: float | None = None) -> None:
        at = 0
        with self._bounded(timeout):
            await trio.lowlevel.checkpoint()
            while at < len(target):
                count = min(len(target) - at, len(self._bytes))
                target[at : at + count] = self._bytes[:count]
                del self._bytes[:count]
                at += count
                if count:
                    self.other._changed()
                elif self._closed:
                    raise StreamClosedError("the stream ended", clean=not at)
                else:
                    await self._change.wait()

    async def read_exactly(self, count: int, *, timeout: float | None = None) -> bytearray:
        data = bytearray(count)
        await self.read_into(memoryview(data), timeout=timeout)
        return data

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        length = int.from_bytes(await self.read_exactly(4, timeout=timeout), "big")
        assert length <= limit
        return bytes(await self.read_exactly(length, timeout=timeout))

    async def write(self, data: bytes | memoryview, *, timeout: float | None = None) -> None:
        with self._bounded(timeout):
            await trio.lowlevel.checkpoint()
            for at in range(0, len(data), WINDOW):
                while len(self.other._bytes) >= WINDOW and not self._closed:
                    await self._change.wait()
                if self._closed:
                    raise StreamClosedError("the stream is closed")
                self.other._bytes += data[at : at + WINDOW]
                self.other._changed()
        self.moved += len(data)

    async def write_frame(self, data: bytes, *, timeout: float | None = None) -> None:
        await self.write(len(data).to_bytes(4, "big") + data, timeout=timeout)

    def finish(self) -> None:
        """No more will be written here; what was written can still be read."""
        self.other._closed = True
        self.other._changed()

    def reset(self) -> None:
        for end in (self, self.other):
            end._closed = True
            end._changed()


def pair(a: bytes, b: bytes, *, local: bool) -> tuple[End, End]:
    """The ends that `a` and `b` have of one stream."""
    one, two = End(b, local=local), End(a, local=local)
    one.other, two.other = two, one
    return one, two


Bend = Callable[["Node", End, Request], Awaitable[bool]]
"""Called with each request; True where it was answered (or not) in its own way."""


class Bent:
    """A server's end whose requests pass through a Bend first."""

    def __init__(self, node: "Node", end: End) -> None:
        self._node, self._end = node, end

    def __getattr__(self, name: str) -> object:
        return getattr(self._end, name)

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        while True:
            frame = await self._end.read_frame(limit, timeout=timeout)
            try:
                request = decode_request(frame)
            except (MalformedError, LimitError):
                return frame
            if isinstance(request, FetchRequest):
                self._node.asked.append(request)
            if self._node.bend is None or not await self._node.bend(self._node, self._end, request):
                return frame


class Node:
    """One daemon's transfer layer."""

    def __init__(self, world: "World", number: int, folder: Path, *, far: bool, quota: int) -> None:
        self.name = peer_id_of(bytes([number]) * 32)
        self.far = far
        self.world = world
        self.store = Store.open(folder / f"node{number}", quota)
        self.uploads = Uploads()
        self.blamed: list[tuple[bytes, Fault]] = []
        self.sources = FixedSources([])
        self.puller = Puller(self.name, self.store, self, self.sources, blame=self.blame)
        self.server = BlockServer(self.store, self.uploads, self.puller, self.blame)
        self.bend: Bend | None = None
        self.bent: list[Request] = []
        """Requests that were answered by a lie, or not at all."""
        self.asked: list[FetchRequest] = []
        self.reachable = True
        self.ends: list[End] = []
        world.nursery.start_soon(self.uploads.run)

    def blame(self, peer: bytes, fault: Fault, why: str) -> None:
        assert why
        self.blamed.append((peer, fault))

    def knows(self, *nodes: "Node") -> None:
        """Where this node looks for whatever it pulls."""
        self.sources.sources = [Source(node.name) for node in nodes]

    @property
    def sent_leaves(self) -> int:
        """Leaves that others asked this node for."""
        return sum(request.hi - request.lo for request in self.asked)

    @asynccontextmanager
    async def open_stream(self, peer: bytes, protocol: str) -> AsyncIterator[End]:
        """What the net does: a stream to a node that is there."""
        assert protocol == PROTOCOL
        other = self.world.nodes[peer]
        if not other.reachable:
            raise PeerUnreachableError("not connected")
        ours, theirs = pair(self.name, peer, local=not (self.far or other.far))
        other.ends.append(theirs)
        self.world.nursery.start_soon(other._serve, theirs)
        try:
            yield ours
        finally:
            ours.reset()

    async def _serve(self, end: End) -> None:
        with suppress(StreamClosedError):
            await self.server.handle(Bent(self, end))  # type: ignore[arg-type]
        end.finish()

    def cut(self) -> None:
        """The node is gone: its streams end, and nobody reaches it."""
        self.reachable = False
        for end in self.ends:
            end.reset()


class World(msgspec.Struct, eq=False):
    """All nodes of a test."""

    folder: Path
    nursery: trio.Nursery
    nodes: dict[bytes, Node] = {}

    def node(self, *, far: bool = False, quota: int = QUOTA) -> Node:
        """A new daemon; `far` is one that is not on the local network."""
        node = Node(self, len(self.nodes) + 1, self.folder, far=far, quota=quota)
        self.nodes[node.name] = node
        return node


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A world that ends with the block."""
    async with trio.open_nursery() as nursery:
        made = World(folder, nursery)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            for node in made.nodes.values():
                node.store.close()
