"""A client of synapsed's wire that keeps no rule: TCP, multistream, Noise XX and Yamux by hand.

It shares no code with the daemon, so that neither side's guards hide the other's holes.
Sources: https://github.com/libp2p/specs/tree/master/noise (handshake and payload),
https://github.com/hashicorp/yamux/blob/master/spec.md (frames).
"""

import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nacl.signing
import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import (  # type: ignore[import-untyped]  # ships no types
    Keypair,
    NoiseConnection,
)

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
PATIENCE_S = 5.0
"""For an answer that a healthy daemon gives in milliseconds."""
GOODBYE_S = 0.3
"""For the daemon to close its side, once we have closed ours."""

_sources = itertools.count()
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, trio.TooSlowError)
"""What it looks like when the daemon has had enough of us."""


def varint(value: int) -> bytes:
    """An unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field: bytes are length-delimited, ints varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def multistream(protocol: str) -> bytes:
    """A multistream-select line."""
    return varint(len(protocol) + 1) + protocol.encode() + b"\n"


HELLO = multistream("/multistream/1.0.0")


def yamux(kind: int, flags: int, stream: int, length: int, version: int = 0) -> bytes:
    """A Yamux frame's header."""
    return struct.pack(">BBHII", version, kind, flags, stream, length)


async def dial(host: str, port: int, source: str | None = None) -> trio.SocketStream:
    """A TCP connection, each from another loopback address unless `source` is given."""
    number = next(_sources)
    sock = trio.socket.socket()
    try:
        await sock.bind((source or f"127.79.{number // 250 % 250}.{number % 250 + 1}", 0))
        with trio.fail_after(PATIENCE_S):
            await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class Plain:
    """Exact reads on a TCP stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes; EOFError."""
        while len(self._rest) < count:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._rest += data
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    async def read_line(self) -> bytes:
        """One multistream line, without its length."""
        return await self.read((await self.read(1))[0])

    async def agree(self, protocol: str) -> None:
        """Multistream-select as the dialler; EOFError where it is refused."""
        await self.stream.send_all(HELLO + multistream(protocol))
        await self.read_line()
        if await self.read_line() != protocol.encode() + b"\n":
            raise EOFError(f"{protocol} refused")


class Secure(Plain):
    """A Noise channel: what is read and written is encrypted."""

    def __init__(self, stream: trio.SocketStream, network: str) -> None:
        super().__init__(stream)
        self.key = nacl.signing.SigningKey.generate()
        self._static = X25519PrivateKey.generate()
        self._noise = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        self._noise.set_prologue(b"synapse:" + network.encode())
        raw = self._static.private_bytes_raw()
        self._noise.set_keypair_from_private_bytes(Keypair.STATIC, raw)
        self._noise.set_as_initiator()
        self._noise.start_handshake()
        self._plain = Plain(stream)
        self.turn = trio.Lock()

    @property
    def public_key(self) -> bytes:
        """Our identity as libp2p's protobuf."""
        return field(1, 1) + field(2, bytes(self.key.verify_key))

    @property
    def peer_id(self) -> bytes:
        """The identity multihash of our key."""
        return bytes((0, len(self.public_key))) + self.public_key

    async def handshake(self) -> None:
        """Noise XX as the initiator, with a valid libp2p payload."""
        await self._plain.agree("/noise")
        await self._send_message(self._noise.write_message())
        length = int.from_bytes(await self._plain.read(2), "big")
        message = await self._plain.read(length)
        try:
            self._noise.read_message(message)
        except InvalidTag as error:
            raise EOFError("of another network") from error
        static = self._static.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        signature = self.key.sign(b"noise-libp2p-static-key:" + static).signature
        payload = field(1, self.public_key) + field(2, signature)
        await self._send_message(self._noise.write_message(payload))

    async def _send_message(self, message: bytes) -> None:
        await self.stream.send_all(struct.pack(">H", len(message)) + message)

    async def write(self, data: bytes) -> None:
        """Send `data`, in as many Noise messages as it takes."""
        async with self.turn:
            for at in range(0, len(data), 65519):
                await self._send_message(self._noise.encrypt(data[at : at + 65519]))

    async def read(self, count: int) -> bytes:
        """Exactly `count` decrypted bytes."""
        while len(self._rest) < count:
            length = int.from_bytes(await self._plain.read(2), "big")
            self._rest += self._noise.decrypt(await self._plain.read(length))
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    async def agree(self, protocol: str) -> None:
        """Multistream-select inside the channel."""
        await self.write(HELLO + multistream(protocol))
        await self.read_line()
        if await self.read_line() != protocol.encode() + b"\n":
            raise EOFError(f"{protocol} refused")


class Session:
    """A Yamux session: streams are opened by hand, and whatever comes is read and forgotten."""

    def __init__(self, secure: Secure) -> None:
        self.secure = secure
        self._ids = itertools.count(1, 2)

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        with trio.fail_after(PATIENCE_S):
            await self.secure.write(data)

    async def open(self, protocol: str, data: bytes = b"", flags: int = 0) -> int:
        """A stream that asks for `protocol` and sends `data` behind, waiting for nothing."""
        number = next(self._ids)
        body = HELLO + multistream(protocol) + data
        await self.raw(yamux(DATA, SYN | flags, number, len(body)) + body)
        return number

    async def send(self, stream: int, data: bytes, flags: int = 0) -> None:
        """More on a stream."""
        await self.raw(yamux(DATA, flags, stream, len(data)) + data)

    async def drain(self) -> None:
        """Read what the daemon sends, for ever, and give window back so that it never waits."""
        while True:
            kind, _, stream, length = struct.unpack(">xBHII", await self.secure.read(12))
            if kind == DATA and length:
                await self.secure.read(length)
                await self.secure.write(yamux(WINDOW_UPDATE, 0, stream, length))
            elif kind == PING:
                await self.secure.write(yamux(PING, ACK, 0, length))


@asynccontextmanager
async def open_session(host: str, port: int, network: str) -> AsyncIterator[Session]:
    """A session past the handshake, drained while the block runs.

    Raises one of GONE where we are not let in. When the daemon ends it later, so does the block.
    """
    async with await dial(host, port) as stream:
        secure = Secure(stream, network)
        with trio.fail_after(PATIENCE_S):
            await secure.handshake()
            await secure.agree("/yamux/1.0.0")
        session = Session(secure)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.drain)
                yield session
                # Let it read all that we sent before it finds us gone.
                async with secure.turn:
                    await stream.send_eof()
                await trio.sleep(GOODBYE_S)  # the end of its side ends this, too
                nursery.cancel_scope.cancel()
        except* GONE:
            pass
