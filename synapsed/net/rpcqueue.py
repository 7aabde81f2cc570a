"""RPCs on their way to one neighbour: encoded once, sent together, bounded."""

from collections import deque

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from synapsed.net.frames import varint_frame

MAX_FRAMES = 1024
"""RPCs that wait for one neighbour; one that reads nothing loses gossip, not our memory."""

MAX_BYTES = 2 << 20
"""Bytes that wait for one neighbour."""


def frame_of(rpc: rpc_pb2.RPC) -> bytes:
    """An RPC as it goes on the wire: a varint length and the message."""
    return varint_frame(rpc.SerializeToString())


class RpcFrames(RpcQueue):
    """An RpcQueue of encoded frames. Where it is full the newest is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._some = trio.Event()

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:  # noqa: ARG002 - base's
        """Queue an RPC. False if it was dropped."""
        return self.push_frame(frame_of(rpc))

    def push_frame(self, frame: bytes) -> bool:
        """Queue an encoded RPC: the same bytes may go to many neighbours. False if dropped."""
        if len(self._frames) >= MAX_FRAMES or self._bytes + len(frame) > MAX_BYTES:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self._some.set()
        return True

    async def next_frames(self) -> bytes:
        """Everything that waits, joined; waits until there is something."""
        while not self._frames:
            self._some = trio.Event()
            await self._some.wait()
        joined = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        return joined
