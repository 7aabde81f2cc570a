"""The attacks of the bench `hostile`: everything bad that can be sent to a daemon.

Each answers how many frames it tried: an RPC, a stream's content, a handshake, a Yamux frame,
a request at the control socket.
"""

import math
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import libipld
import trio

from protocols.envelope import domain, seal
from simnet.addresses import home_ip
from simnet.daemon import Daemon
from synapsed.keys import Identity
from tests.bench.attacker import (
    DATA,
    FIN,
    GO_AWAY,
    GONE,
    HELLO,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Plain,
    Secure,
    Session,
    dial,
    field,
    multistream,
    open_session,
    varint,
    yamux,
)

NETWORK = "hostile"
TOPICS = [f"/synapse/{NETWORK}/{kind}/1" for kind in ("shard", "adapter", "kernel", "proposal")]
PUBSUB = ("/meshsub/1.1.0", "/meshsub/1.0.0")
STREAMS = (
    "/synapse/blocks/1.0.0",
    "/synapse/heartbeat/1.0.0",
    "/synapse/reconcile/1.0.0",
    "/ipfs/id/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/ipfs/ping/1.0.0",
    "/ipfs/kad/1.0.0",
    *PUBSUB,
)

RPC_BYTES = 128 << 10  # the largest RPC that a daemon takes; floods stay within it
RPC_MESSAGES = 32

Draw = random.Random
Attack = Callable[["Target", Draw, float], Awaitable[int]]
"""(target, randomness, share of its full size) -> frames tried."""


class Target:
    """The daemon under attack."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.host = home_ip(daemon.index)
        self.port = daemon.port

    async def tcp(self) -> trio.SocketStream:
        """A bare connection."""
        return await dial(self.host, self.port)

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A session behind valid handshakes, by a new identity."""
        return open_session(self.host, self.port, NETWORK)


async def many(count: int, share: float, limit: int, one: Callable[[int], Awaitable[int]]) -> int:
    """`share` of `one(0) ... one(count - 1)`, `limit` at a time; the sum of what they tried."""
    turn = trio.CapacityLimiter(limit)
    tried = 0

    async def run(number: int) -> None:
        nonlocal tried
        async with turn:
            found = await one(number)
        tried += found

    async with trio.open_nursery() as nursery:
        for number in range(math.ceil(count * share)):
            nursery.start_soon(run, number)
    return tried


# -- below the handshake ----------------------------------------------------------------------


async def garbage_tcp(target: Target, draw: Draw, share: float) -> int:
    """Connections that say nonsense, something of another protocol, half a thing, or nothing."""
    starts = (
        lambda: draw.randbytes(draw.randrange(1, 4000)),
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: bytes.fromhex("16030100a5010000a10303") + draw.randbytes(160),
        lambda: HELLO[: draw.randrange(len(HELLO))],
        lambda: varint(draw.randrange(1, 1 << 31)) + draw.randbytes(100),
        lambda: varint(1 << 30) + bytes(2 << 20),  # a line of a gigabyte
        lambda: varint(1 << 60) + draw.randbytes(100),
        lambda: HELLO + multistream("/tls/1.0.0") * draw.randrange(1, 200),
        lambda: HELLO + b"\xff" * 2000,
        lambda: b"",
    )

    async def one(number: int) -> int:
        try:
            async with await target.tcp() as stream:
                await stream.send_all(starts[number % len(starts)]())
                with trio.move_on_after(0.05):
                    await stream.receive_some()
        except GONE:
            pass
        return 1

    return await many(600, share, 16, one)


async def broken_noise(target: Target, draw: Draw, share: float) -> int:
    """Handshakes that go wrong at every message: garbage, cut, too long, of another network."""

    async def one(number: int) -> int:
        try:
            async with await target.tcp() as stream:
                with trio.move_on_after(1.0):
                    await _one_broken_noise(stream, draw, number % 6)
        except GONE:
            pass
        return 1

    return await many(300, share, 8, one)


async def _one_broken_noise(stream: trio.SocketStream, draw: Draw, how: int) -> None:
    plain = Plain(stream)
    if how == 5:
        await Secure(stream, "another-network").handshake()
        await plain.read(1)
    await plain.agree("/noise")
    if how == 0:
        await stream.send_all(struct.pack(">H", 32) + draw.randbytes(32))
    elif how == 1:
        await stream.send_all(struct.pack(">H", 65535) + draw.randbytes(65535))
    elif how == 2:
        await stream.send_all(struct.pack(">H", 32) + draw.randbytes(10))
    elif how == 3:
        await stream.send_all(struct.pack(">H", 0) * 50)
    else:
        await stream.send_all(struct.pack(">H", 32) + bytes(32))  # a point of small order
    for _ in range(2):
        length = int.from_bytes(await plain.read(2), "big")
        await plain.read(length)
        await stream.send_all(struct.pack(">H", 200) + draw.randbytes(200))


async def hostile_yamux(target: Target, draw: Draw, share: float) -> int:
    """Frames that break Yamux's rules, in sessions that got so far honestly."""

    async def one(_: int) -> int:
        tried = 0
        try:
            async with target.session() as session:
                for _ in range(4):
                    await session.raw(_bad_frame(draw))
                    tried += 1
        except GONE:
            tried += 1
        return tried

    return await many(700, share, 4, one)


def _bad_frame(draw: Draw) -> bytes:
    stream = draw.choice((0, 1, 2, 3, 7, 0xFFFFFFFF, draw.randrange(1 << 32)))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: draw.randbytes(12),
        lambda: yamux(DATA, 0, stream, 64) + draw.randbytes(64),  # on no stream
        lambda: yamux(DATA, SYN, stream, 0xFFFFFFFF) + draw.randbytes(1000),
        lambda: yamux(WINDOW_UPDATE, 0, stream, 0xFFFFFFFF),
        lambda: yamux(WINDOW_UPDATE, SYN | FIN | RST, stream, 1),
        lambda: yamux(9, 0xFFFF, stream, 10) + bytes(10),
        lambda: yamux(DATA, SYN, stream, 0, version=7),
        lambda: yamux(PING, SYN, draw.randrange(1 << 32), 3),
        lambda: yamux(GO_AWAY, 0, 0, draw.randrange(5)),
        lambda: b"".join(yamux(WINDOW_UPDATE, SYN, 2 * i + 101, 0) for i in range(100)),
    )
    return draw.choice(kinds)()


# -- gossip -----------------------------------------------------------------------------------


def _rpc(rpc: bytes) -> bytes:
    return varint(len(rpc)) + rpc


def _message(draw: Draw, topic: str, data: bytes, *, author: bytes, signature: bytes) -> bytes:
    """A pubsub message as libp2p's StrictSign wants it, with whatever signature."""
    return field(
        2,
        field(1, author)
        + field(2, data)
        + field(3, draw.randbytes(8))
        + field(4, topic.encode())
        + field(5, signature),
    )


def _bad_rpc(draw: Draw, author: bytes) -> bytes:
    topic = draw.choice(TOPICS)
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: _rpc(b"\xff" * draw.randrange(1, 300)),
        lambda: _rpc(draw.randbytes(draw.randrange(1, 2000))),
        lambda: varint(1 << draw.randrange(20, 60)) + draw.randbytes(64),
        lambda: _rpc(field(1, field(1, 1) + field(2, draw.randbytes(300)))),
        lambda: _rpc(b"".join(field(1, field(1, 1) + field(2, b"t%d" % i)) for i in range(500))),
        lambda: _rpc(field(3, field(1, field(1, topic.encode()) + field(2, b"\xff" * 40)) * 100)),
        lambda: _rpc(field(3, field(2, field(1, draw.randbytes(30))) * 300)),
        lambda: _rpc(field(3, field(3, field(1, draw.randbytes(40))) * 300)),
        lambda: _rpc(field(3, field(4, field(1, b"no such topic") + field(3, 1 << 60)) * 100)),
        lambda: _rpc(field(2, b"")),
        lambda: _rpc(field(2, field(2, b"no author, no number") + field(4, topic.encode()))),
        lambda: _rpc(_message(draw, topic, b"junk", author=b"not a peer", signature=b"short")),
        lambda: _rpc(
            _message(draw, topic, draw.randbytes(500), author=author, signature=draw.randbytes(64))
        ),
        lambda: _rpc(field(6, draw.randbytes(200))),  # a signed peer record that is none
    )
    return draw.choice(kinds)()


async def malformed_rpcs(target: Target, draw: Draw, share: float) -> int:
    """Pubsub RPCs of every wrong shape, on every pubsub protocol."""

    async def one(number: int) -> int:
        tried = 0
        protocol = PUBSUB[number % len(PUBSUB)]
        try:
            async with target.session() as session:
                for _ in range(2):
                    stream = await session.open(protocol)
                    for _ in range(2):
                        await session.send(stream, _bad_rpc(draw, session.secure.peer_id))
                        tried += 1
        except GONE:
            tried += 1
        return tried

    return await many(800, share, 4, one)


async def signature_flood(target: Target, draw: Draw, share: float) -> int:
    """Messages with signatures that do not verify, as many and as large as the limits allow."""
    body = draw.randbytes(RPC_BYTES // RPC_MESSAGES - 300)

    async def one(_: int) -> int:
        tried = 0
        try:
            async with target.session() as session:
                stream = await session.open("/meshsub/1.1.0")
                for _ in range(4):
                    rpc = b"".join(
                        _message(
                            draw,
                            draw.choice(TOPICS),
                            body,
                            author=session.secure.peer_id,
                            signature=draw.randbytes(64),
                        )
                        for _ in range(RPC_MESSAGES)
                    )
                    await session.send(stream, _rpc(rpc))
                    tried += RPC_MESSAGES
                await trio.sleep(0.2)
        except GONE:
            pass
        return tried

    return await many(40, share, 4, one)


async def envelope_flood(target: Target, draw: Draw, share: float) -> int:
    """Well-signed pubsub messages whose announcements are not: wrong key, domain, bytes, type."""

    async def one(_: int) -> int:
        tried = 0
        try:
            async with target.session() as session:
                stream = await session.open("/meshsub/1.1.0")
                for _ in range(4):
                    await session.send(stream, _rpc(_bad_announcement(session, draw)))
                    tried += 1
                await trio.sleep(0.1)
        except GONE:
            tried += 1
        return tried

    return await many(200, share, 4, one)


def _bad_announcement(session: Session, draw: Draw) -> bytes:
    key, topic = session.secure.key, draw.choice(TOPICS)
    identity = Identity(bytes(key))
    where = domain(draw.choice((NETWORK, "other")), draw.choice(("announcement", "ballot")))
    payload = libipld.encode_dag_cbor({"kind": "shard", "seq": draw.randrange(1 << 40)})
    data = seal(where, b"/synapse/announcement", payload, identity.public_key, identity.sign)
    data = draw.choice((data, data[:-1] + b"\0", data[: draw.randrange(len(data))], payload, b""))
    fields = (
        field(1, session.secure.peer_id)
        + field(2, data)
        + field(3, draw.randbytes(8))
        + field(4, topic.encode())
    )
    signature = key.sign(b"libp2p-pubsub:" + fields).signature
    return field(2, fields + field(5, signature) + field(6, session.secure.public_key))


# -- streams ----------------------------------------------------------------------------------


async def random_streams(target: Target, draw: Draw, share: float) -> int:
    """Random, cut, huge and well-formed-but-wrong content on every protocol there is."""

    async def one(number: int) -> int:
        tried = 0
        protocol = STREAMS[number % len(STREAMS)]
        try:
            async with target.session() as session:
                for _ in range(4):
                    stream = await session.open(protocol, _stream_content(draw))
                    tried += 1
                    if draw.random() < 0.5:
                        await session.send(stream, b"", draw.choice((FIN, RST)))
        except GONE:
            tried += 1
        return tried

    return await many(70 * len(STREAMS), share, 4, one)


def _stream_content(draw: Draw) -> bytes:
    def framed(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    def cbor(value: object) -> bytes:
        return bytes(libipld.encode_dag_cbor(value))

    asks: list[object] = [
        {"ask": "block", "cid": draw.randbytes(36)},
        {"ask": "fetch", "root": bytes(32), "lo": 5, "hi": 1},
        {"ask": "fetch", "root": draw.randbytes(32), "lo": 0, "hi": 1 << 31},
        {"ask": "leaves", "root": bytes(32), "sections": [[0, 1 << 31]] * 1000},
        {"ask": "have", "roots": [draw.randbytes(32)] * 64},
        {"ask": "prove", "root": bytes(32), "leaf": -1},
        {"ask": "no such thing"},
        [[[[[[[[]]]]]]]],
        "text",
    ]
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: draw.randbytes(draw.randrange(1, 3000)),
        lambda: framed(draw.randbytes(draw.randrange(1, 3000))),
        lambda: struct.pack(">I", draw.randrange(1 << 20, 1 << 32)) + draw.randbytes(100),
        lambda: framed(cbor(draw.choice(asks))),
        lambda: framed(b"\x81" * 2000),  # lists in lists
        lambda: framed(b"\x9f" * 100),  # indefinite lengths
        lambda: framed(b"\x9b" + b"\xff" * 8),  # a list of 2^64 items
        lambda: varint(draw.randrange(1 << 40)) + draw.randbytes(50),
        lambda: field(1, draw.randbytes(200)) + field(4, 1 << 62),
        lambda: b"",
    )
    return draw.choice(kinds)()


async def stream_floods(target: Target, _draw: Draw, share: float) -> int:
    """Hundreds of streams at once that are opened, filled as far as the window goes, and left."""

    async def one(number: int) -> int:
        tried = 0
        try:
            async with target.session() as session:
                for _ in range(200):
                    protocol = STREAMS[number % len(STREAMS)]
                    await session.open(protocol, struct.pack(">I", 60_000) + bytes(16_000))
                    tried += 1
        except GONE:
            tried += 1
        return tried

    return await many(12, share, 4, one)


ATTACKS: tuple[Attack, ...] = (
    garbage_tcp,
    broken_noise,
    hostile_yamux,
    malformed_rpcs,
    signature_flood,
    envelope_flood,
    random_streams,
    stream_floods,
)
