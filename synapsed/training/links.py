"""Messages of training among daemons: frames on streams that stay (ledger/net.py), counted.

    /synapse/learn/1.0.0   learners, aggregators, replicas: protocols/learn/messages.py
    /synapse/tile/1.0.0    the three replicas of a group among each other: protocols/learn/replica

Everything here may be lost: whoever said something says it again until it is answered.
"""

from collections.abc import Awaitable, Callable

import trio

from protocols.learn import messages
from synapsed.ledger.net import CouncilNet
from synapsed.ledger.service import Costs
from synapsed.ports import Net
from synapsed.training.exchange import Role, Traffic

TILE = "/synapse/tile/1.0.0"
MAX_TILE = 1 << 20
"""Bytes of a frame among replicas: some hundred entries of a kilobyte."""
STRANGER_SHARE, STRANGER_BURST = 0.05, 1.0
"""Of a core, what a peer may cost that serves no group with us; and seconds of it at once: a claim
of a thousand deltas takes ten milliseconds, its signature a fifth of one."""
FELLOW_SHARE, FELLOW_BURST = 0.5, 5.0


class Links:
    """`run` it, then `say` and `hear`."""

    def __init__(
        self,
        net: Net,
        connect: Callable[[bytes], Awaitable[None]],
        fellow: Callable[[bytes], bool],
        traffic: Traffic,
    ) -> None:
        """`fellow` says whether a peer serves a group with us: those are heard first."""
        self._fellow = fellow
        self._traffic = traffic
        self._strangers = Costs(STRANGER_SHARE, STRANGER_BURST)
        self._fellows = Costs(FELLOW_SHARE, FELLOW_BURST)
        self._frames = CouncilNet(
            net,
            connect,
            {messages.PROTOCOL: messages.MAX_MESSAGE, TILE: MAX_TILE},
            fellow,
            self._pause,
        )

    async def run(self) -> None:
        """Carry frames until cancelled."""
        await self._frames.run()

    def say(self, peer: bytes, protocol: str, frame: bytes, role: Role = "replica") -> None:
        """Send a frame to a peer. Never waits; it may be lost."""
        self._traffic.count(peer, "out", protocol, len(frame), role)
        self._frames.send(peer, protocol, frame)

    async def hear(self) -> tuple[bytes, str, bytes]:
        """The next frame: (peer, protocol, bytes)."""
        while (found := self._frames.inbox.take()) is None:
            self._frames.inbox.arrived = trio.Event()
            await self._frames.inbox.arrived.wait()
        lane, frame = found
        self._traffic.count(lane.peer, "in", lane.protocol, len(frame))
        return lane.peer, lane.protocol, frame

    def charge(self, peer: bytes, seconds: float) -> None:
        """What a peer sent took so long: who costs too much is read more slowly."""
        self._costs(peer).charge(peer, seconds, trio.current_time())

    def _costs(self, peer: bytes) -> Costs:
        return self._fellows if self._fellow(peer) else self._strangers

    def _pause(self, peer: bytes) -> float:
        return self._costs(peer).pause(peer, trio.current_time())
