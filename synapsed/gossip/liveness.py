"""Heartbeats among peers: a stream to each neighbour that stays, and a frame on it now and then.

Each side opens a stream of its own to tell the other; so a stream is only ever written or only
ever read, and a connection on which one of them breaks gets a new one.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence

import trio

from protocols.effects import Send
from protocols.gossip.heartbeat import MAX_ADDR, MAX_ADDRS, MAX_FRAME, MAX_TTL, PROTOCOL, Counters
from protocols.gossip.liveness import (
    DEFAULT_INTERVAL,
    Flush,
    Hearsay,
    Learned,
    Leave,
    Liveness,
    NeighbourDown,
    NeighbourUp,
    Refresh,
    Tick,
)
from protocols.peerid import peer_id_text
from protocols.ratelimit import TokenBucket
from synapsed.driver import Driver
from synapsed.keys import verify
from synapsed.net.errors import NetError
from synapsed.ports import Identity, Net, Stream
from synapsed.process import supervise

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds: how late our own heartbeat, or somebody's end, may be."""
FLUSH_SHARE = 0.2
"""Of the interval, between two frames to one neighbour: at the usual 5 s and 20 neighbours 20
writes a second, 0.5 % of a core. With three hops between two daemons, who comes is then known
everywhere within 3 s. Where many are alive and the interval is longer, so is this ..."""
FLUSH_LATEST = 5.0
"""... up to here, in seconds."""
MAX_FRAMES = 32
"""Frames at a time: a full list (4,096) for a neighbour that is new."""
FRAME_RATE, FRAME_BURST = 8.0, 64.0
"""Frames a second read from one neighbour: eight times what it should send."""
REOPEN_AFTER, REOPEN_LATEST = 1.0, 60.0
"""Seconds until a broken stream is opened again, doubling."""
GOODBYE_SECONDS = 0.3
"""To tell everybody that we stop: SIGTERM must end the daemon within two seconds."""


class LivenessService:
    """One daemon's list of live peers, driven. Everything here runs in the trio thread."""

    def __init__(
        self,
        net: Net,
        identity: Identity,
        network: str,
        emit: supervise.Emit,
        *,
        agent: str,
        interval: float = DEFAULT_INTERVAL,
        counters: Callable[[], Counters] = lambda: Counters(held=0, free=0, upload=0),
        learned: Callable[[bytes, Sequence[str]], None] = lambda _peer, _addrs: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.liveness = Liveness(
            network, identity.public_key, identity.sign, verify, agent=agent, interval=interval
        )
        """For its queries only: events go through this service."""
        self._net = net
        self._counters = counters
        self._learned = learned
        self._clock = clock
        self._tick_every = min(TICK, interval * FLUSH_SHARE)
        self._links: dict[bytes, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._telling: set[bytes] = set()
        self._flush_now = trio.Event()
        self._frames: dict[bytes, TokenBucket] = {}
        self._hearing = trio.Lock()
        self._driver = Driver("liveness", tables={}, emit=emit, blame=net.blame)
        self._driver.on(Learned, lambda effect: self._learned(effect.peer, effect.addrs))
        net.on_peer(self._connected, self._disconnected)
        net.serve(PROTOCOL, self._read, 2)

    # -- queries -----------------------------------------------------------------------------------

    def alive(self) -> list[bytes]:
        """Peer ids of the daemons alive now, ourselves too, in order."""
        return self.liveness.alive(self._clock())

    def is_alive(self, peer: bytes) -> bool:
        """Whether a heartbeat of this peer's is in force."""
        return self.liveness.is_alive(peer, self._clock())

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part until cancelled; `leave` first, to be missed at once and not after the ttl."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._driver.run)
                for peer in self._net.peers():  # who was quicker than we
                    self._connected(peer.id)
                await self._tick()
        finally:
            self._nursery = None
            self._links.clear()

    async def leave(self) -> None:
        """Say goodbye to all neighbours; waits for GOODBYE_SECONDS at most."""
        self._driver.submit(self.liveness.handle(Leave(), self._clock()))
        self._flush_now.set()
        with trio.move_on_after(GOODBYE_SECONDS):
            while self._telling:
                await trio.sleep(GOODBYE_SECONDS / 30)

    async def _tick(self) -> None:
        while True:
            addrs = [addr for addr in self._net.addrs() if len(addr) <= MAX_ADDR][:MAX_ADDRS]
            self.liveness.handle(Refresh(tuple(addrs), self._counters()), self._clock())
            self._driver.submit(self.liveness.handle(Tick(), self._clock()))
            await trio.sleep(self._tick_every)

    # -- telling -----------------------------------------------------------------------------------

    def _connected(self, peer: bytes) -> None:
        if self._nursery is not None and peer not in self._links:
            self._links[peer] = trio.CancelScope()
            self._nursery.start_soon(self._link, peer, self._links[peer])

    def _disconnected(self, peer: bytes) -> None:
        self._frames.pop(peer, None)
        if (scope := self._links.pop(peer, None)) is not None:
            scope.cancel()

    async def _link(self, peer: bytes, scope: trio.CancelScope) -> None:
        """Keep a stream to a connected peer, and tell it what it has not shown us."""
        wait = REOPEN_AFTER
        with scope:
            while True:
                try:
                    async with self._net.open_stream(peer, PROTOCOL) as stream:
                        wait = REOPEN_AFTER
                        await self._tell(stream)
                except NetError as error:
                    # A peer that is just starting may not speak this yet; another kind of
                    # node never will, and is asked once a minute.
                    log.debug("heartbeats to %s: %s", peer_id_text(peer), error)
                await trio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
                wait = min(2 * wait, REOPEN_LATEST)

    async def _tell(self, stream: Stream) -> None:
        peer = stream.peer
        self.liveness.handle(NeighbourUp(peer), self._clock())
        self._telling.add(peer)
        try:
            while not self._flush_now.is_set():
                await self._flush(stream)
                pause = min(self.liveness.interval() * FLUSH_SHARE, FLUSH_LATEST)
                with trio.move_on_after(pause):
                    await self._flush_now.wait()
            await self._flush(stream)
            self._telling.discard(peer)
            await trio.sleep_forever()  # we are leaving: the stream ends with the connection
        finally:
            self._telling.discard(peer)
            self.liveness.handle(NeighbourDown(peer), self._clock())

    async def _flush(self, stream: Stream) -> None:
        for _ in range(MAX_FRAMES):
            effects = self.liveness.handle(Flush(stream.peer), self._clock())
            if not effects:
                return
            for effect in effects:
                assert isinstance(effect, Send)
                await stream.write_frame(effect.data)

    # -- listening ---------------------------------------------------------------------------------

    async def _read(self, stream: Stream) -> None:
        bucket = self._frames.setdefault(stream.peer, TokenBucket(FRAME_RATE, FRAME_BURST))
        while True:
            frame = await stream.read_frame(MAX_FRAME, timeout=MAX_TTL / 1000)
            # One frame at a time, and a turn of the loop after each: a full one takes 13 ms, and
            # sixty neighbours who come at once would else make it one stall of a second.
            async with self._hearing:
                effects = self.liveness.handle(Hearsay(stream.peer, frame), self._clock())
                self._driver.submit(effects)
                await trio.lowlevel.checkpoint()
            # Who sends more is read more slowly, and in the end held up by its own window.
            while wait := bucket.take(1, trio.current_time()):
                await trio.sleep(wait)
