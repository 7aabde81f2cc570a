"""What the tests of the net share: nodes of ours, bare py-libp2p hosts, and waiting for things.

A bare host is py-libp2p as it comes, but for the Noise prologue (without which no node of ours
talks to it): the tests of guards show each defect on one, and then its absence on ours.
"""

import os
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from protocols.gossip.validation import Verdict
from protocols.peerid import parse_peer_id
from synapsed.keys import Identity
from synapsed.net import MemoryTable, Net, NetSettings, PeerBook, open_net
from synapsed.net.addresses import parse
from synapsed.net.handshake import Handshaker, open_tcp, prologue
from synapsed.net.host import key_pair_of
from synapsed.net.wire import MAX_PLAINTEXT, NoiseWire, WireError, sealed_size
from synapsed.slots import NATIVE_SLOTS, Slots

NETWORK = "lab"
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
TOPIC = "/synapse/lab/shard/1"
PATIENCE = 60.0
"""Seconds that a test waits for what must come: machines of tests are shared, and stand still."""


class Node:
    """One node of ours, its events, and what it was delivered."""

    def __init__(self, net: Net, events: list[dict[str, Any]], book: PeerBook) -> None:
        self.net = net
        self.events = events
        self.book = book
        self.got: list[bytes] = []
        self.arrived = trio.Event()

    @property
    def id(self) -> bytes:
        return self.net.peer_id

    @property
    def addr(self) -> str:
        return self.net.addrs()[0]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    async def gets(self, expected: list[bytes]) -> None:
        """Wait until exactly these messages have been delivered, in whatever order."""
        await until(lambda: sorted(self.got) == sorted(expected))

    def subscribe(
        self,
        topic: str = TOPIC,
        validate: Callable[[bytes, bytes], Verdict] = lambda _peer, _data: Verdict.ACCEPT,
    ) -> None:
        async def deliver(_peer: bytes, data: bytes) -> None:
            self.got.append(data)

        self.net.subscribe(topic, validate, deliver)


@asynccontextmanager
async def node(
    *,
    seed: bytes | None = None,
    network: str = NETWORK,
    book: PeerBook | None = None,
    slots: Slots = NATIVE_SLOTS,
    **settings: Any,
) -> AsyncIterator[Node]:
    """One node. It looks for nobody (target 0 peers) unless told otherwise."""
    events: list[dict[str, Any]] = []

    def emit(kind: str, /, **fields: Any) -> None:
        events.append({"kind": kind, **fields})

    chosen = NetSettings(**{"listen": LOOPBACK, "target_peers": 0, **settings})
    book = PeerBook(MemoryTable()) if book is None else book
    identity = Identity(seed or os.urandom(32))
    async with open_net(chosen, identity, network, book, emit, slots=slots) as net:
        yield Node(net, events, book)


@asynccontextmanager
async def nodes(count: int, **settings: Any) -> AsyncIterator[list[Node]]:
    """Several nodes, not connected to each other."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node(**settings)) for _ in range(count)]


async def until(
    condition: Callable[[], object], seconds: float = PATIENCE, pause: float = 0.01
) -> None:
    """Wait until `condition` holds; trio.TooSlowError if it does not in time."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(pause)


async def holds(condition: Callable[[], object], seconds: float) -> None:
    """Assert that `condition` holds all the time for `seconds`."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        assert condition()
        await trio.sleep(0.02)


async def join(one: Node, other: Node) -> None:
    """Connect two nodes, and wait until both know that both are on the topic."""
    await one.net.connect(other.addr)
    await until(
        lambda: one.id in subscribers(other.net, TOPIC) and other.id in subscribers(one.net, TOPIC)
    )


@contextmanager
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The modules that call trio.sleep meanwhile: who sleeps before it goes on is slow everywhere,
    and a clock need not be asked."""
    slept: set[str] = set()
    sleep = trio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            slept.add(sys._getframe(1).f_globals["__name__"])
        await sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(trio, "sleep", noted)
        yield slept


def subscribers(net: Net, topic: str) -> set[bytes]:
    """The peers that a node knows to be on a topic."""
    return {peer.to_bytes() for peer in net._gossip._pubsub.peer_topics.get(topic, set())}


# -- bare py-libp2p


class LabNoise(NoiseTransport):
    """py-libp2p's Noise, with the prologue of a network."""

    def __init__(self, seed: bytes, network: str) -> None:
        key_pair = create_new_key_pair(seed)
        super().__init__(key_pair, new_x25519_key_pair().private_key)
        self._prologue = prologue(network)

    def get_pattern(self) -> IPattern:
        return PatternXX(
            self.local_peer, self.libp2p_privkey, self.noise_privkey, prologue=self._prologue
        )


@asynccontextmanager
async def bare_host(
    seed: bytes | None = None,
    network: str = NETWORK,
    config: ConnectionConfig | None = None,
) -> AsyncIterator[BasicHost]:
    """py-libp2p's own host, listening on loopback."""
    seed = seed or os.urandom(32)
    host = new_host(
        key_pair=create_new_key_pair(seed),
        sec_opt={TProtocol(NOISE): LabNoise(seed, network)},
        connection_config=config,
    )
    assert isinstance(host, BasicHost)
    async with host.run([Multiaddr(LOOPBACK[0])]):
        yield host
        await host.close()


@asynccontextmanager
async def bare_pubsub(seed: bytes | None = None, **options: Any) -> AsyncIterator[Pubsub]:
    """py-libp2p's own pubsub on a host of its own; `options` go to GossipSub."""
    async with bare_host(seed) as host:
        router = GossipSub(
            [TProtocol("/meshsub/1.1.0")], 6, 5, 12, **{"heartbeat_interval": 1, **options}
        )
        pubsub = Pubsub(host, router)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            yield pubsub


def bare_addr(host: BasicHost) -> str:
    return str(host.get_addrs()[0])


def bare_id(host: BasicHost) -> bytes:
    return parse_peer_id(str(host.get_id()))


async def bare_connect(host: BasicHost, addr: str) -> None:
    """Dial from a bare host."""
    await host.connect(info_from_p2p_addr(Multiaddr(addr)))


# -- a peer that keeps no rules

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
STILL_THERE = 0x7E57
"""The number of our own pings."""


def frame(
    kind: int, flags: int, stream: int, value: int, body: bytes = b"", version: int = 0
) -> bytes:
    return struct.pack("!BBHII", version, kind, flags, stream, value) + body


class Raw:
    """A peer that has done the handshake and keeps no further rule."""

    def __init__(self, wire: NoiseWire) -> None:
        self.wire = wire

    async def send(self, plain: bytes) -> None:
        for at in range(0, len(plain), MAX_PLAINTEXT):
            part = memoryview(plain)[at : at + MAX_PLAINTEXT]
            out = memoryview(bytearray(sealed_size(len(part))))
            self.wire.seal_into(part, out)
            await self.wire.send(out)

    async def is_cut(self) -> bool:
        """Whether the other side ends the connection; it has time to."""
        with trio.move_on_after(PATIENCE), suppress(WireError):
            while True:
                await self.wire.receive()
        return not await self.answers()

    async def answers(self) -> bool:
        """Whether the other side answers a ping: it has handled all that was sent before."""
        try:
            await self.send(frame(PING, SYN, 0, STILL_THERE))
        except WireError:
            return False
        return await self.hears(frame(PING, ACK, 0, STILL_THERE), PATIENCE)

    async def hears(self, word: bytes, seconds: float) -> bool:
        """Whether `word` occurs in what the other side says within `seconds`."""
        said = b""
        with trio.move_on_after(seconds), suppress(WireError):
            while word not in said:
                said += b"".join(await self.wire.receive())
        return word in said

    async def open_streams(self, count: int, body: bytes = b"") -> None:
        """`count` streams at once, each with `body`."""
        opened = b"".join(frame(WINDOW, SYN, 2 * n + 1, 0) for n in range(count))
        with suppress(WireError):
            await self.send(opened)
            if body:
                for n in range(count):
                    await self.send(frame(DATA, 0, 2 * n + 1, len(body), body))


@asynccontextmanager
async def raw(addr: str, seed: bytes | None = None) -> AsyncIterator[Raw]:
    """A connection to `addr` whose frames the test makes by itself."""
    address = parse(addr)
    handshaker = Handshaker(key_pair_of(seed or os.urandom(32)), NETWORK)
    wire, _peer = await handshaker.dial(await open_tcp(address, ""), address.peer)
    try:
        yield Raw(wire)
    finally:
        await wire.aclose()
