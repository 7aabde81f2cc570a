"""multistream-select, both sides of it, in one round trip where that is possible.

py-libp2p's reads it byte by byte through all its layers, puts no limit on a line (a stranger who
says "one gigabyte" before any handshake makes it ask the system for that much memory) or on how
often a peer may ask, and a name that is not UTF-8 raises through to the host. The dialler sends
its header and its first proposal at once; any implementation answers them one after the other.
Source: https://github.com/multiformats/multistream-select
"""

from collections.abc import Container, Sequence
from typing import Protocol

from libp2p.io.abc import ReadWriteCloser
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from protocols.errors import MalformedError
from synapsed.net.errors import ProtocolUnsupportedError, StreamClosedError
from synapsed.net.muxstream import MuxedStream

HEADER = "/multistream/1.0.0"
REFUSAL = "na"

MAX_LINE = 1024
"""Bytes of one line; the longest protocol id in use has 60."""

MAX_PROPOSALS = 16
"""Proposals on one stream: gossipsub's dialler has six versions to offer."""

TIMEOUT = 10.0
"""Seconds for a negotiation: two round trips on the worst of links."""


class Wire(Protocol):
    """What a negotiation is held on."""

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes and not one more: what follows belongs to somebody else."""

    async def write(self, data: bytes) -> None:
        """Send."""

    def has_more(self) -> bool:
        """Whether the peer has said more already."""


class OnStream:
    """A negotiation on a multiplexed stream."""

    def __init__(self, stream: MuxedStream) -> None:
        self._stream = stream
        self.write = stream.write

    async def read_exactly(self, count: int) -> bytes:
        """Raises MuxedStreamEOF at the end."""
        if await self._stream.wait_for(count) < count:
            raise MuxedStreamEOF("the peer ended the stream in its negotiation")
        return await self._stream.read(count)

    def has_more(self) -> bool:
        """Whether bytes are waiting."""
        return bool(self._stream.received)


class OnConnection:
    """A negotiation on a connection that is not multiplexed yet."""

    def __init__(self, conn: ReadWriteCloser) -> None:
        self._conn = conn
        self.write = conn.write

    async def read_exactly(self, count: int) -> bytes:
        """Raises StreamClosedError at the end."""
        data = b""
        while len(data) < count:
            more = await self._conn.read(count - len(data))
            if not more:
                raise StreamClosedError("the peer went away in its negotiation")
            data += more
        return data

    def has_more(self) -> bool:
        """Never known here."""
        return False


def line(text: str) -> bytes:
    """A line as it is sent: its length as a varint, the text, a line feed."""
    data = text.encode() + b"\n"
    length = len(data)
    prefix = bytes((length,)) if length < 0x80 else bytes((length & 0x7F | 0x80, length >> 7))
    return prefix + data


async def _read_line(wire: Wire) -> str:
    length = (await wire.read_exactly(1))[0]
    if length >= 0x80:
        length = length & 0x7F | (await wire.read_exactly(1))[0] << 7
    if not 0 < length <= MAX_LINE:
        raise MalformedError(f"a negotiation line of {length} bytes")
    data = await wire.read_exactly(length)
    if not data.endswith(b"\n"):
        raise MalformedError("a negotiation line without its end")
    try:
        return data[:-1].decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a negotiation line that is not text") from error


async def propose(wire: Wire, protocols: Sequence[str]) -> str:
    """The first of `protocols` that the peer speaks.

    Raises ProtocolUnsupportedError, MalformedError, and what the wire raises.
    """
    await wire.write(line(HEADER) + line(protocols[0]))
    if await _read_line(wire) != HEADER:
        raise MalformedError("the peer does not speak multistream-select 1.0.0")
    for at, protocol in enumerate(protocols):
        if at:
            await wire.write(line(protocol))
        answer = await _read_line(wire)
        if answer == protocol:
            return protocol
        if answer != REFUSAL:
            raise MalformedError("the peer agrees to what was not proposed")
    raise ProtocolUnsupportedError(f"the peer does not speak {' or '.join(protocols)}")


async def agree(wire: Wire, known: Container[str]) -> str:
    """The first of the peer's proposals that is `known`. Raises as `propose` does."""
    if await _read_line(wire) != HEADER:
        raise MalformedError("the peer does not speak multistream-select 1.0.0")
    pending = line(HEADER)
    for _ in range(MAX_PROPOSALS):
        if pending and not wire.has_more():
            await wire.write(pending)
            pending = b""
        protocol = await _read_line(wire)
        if protocol in known:
            await wire.write(pending + line(protocol))
            return protocol
        await wire.write(pending + line(REFUSAL))
        pending = b""
    raise MalformedError(f"{MAX_PROPOSALS} proposals and none that we know")
