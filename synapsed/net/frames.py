"""libp2p's own framing: a protobuf behind its length as an unsigned varint."""

from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from protocols.errors import MalformedError
from synapsed.net.muxstream import MuxedStream

_MAX_SHIFT = 21
"""Bits of the fourth and last byte of a length: nothing we read is longer than 256 MiB."""


def varint_frame(data: bytes) -> bytes:
    """`data` behind its length."""
    length = len(data)
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + data


async def read_varint_frame(stream: MuxedStream, limit: int) -> bytes:
    """The next frame. Raises MuxedStreamEOF at the end, MalformedError above `limit` bytes."""
    length = shift = 0
    while True:
        byte = (await _take(stream, 1))[0]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > _MAX_SHIFT:
            raise MalformedError("a frame's length that is too long")
    if length > limit:
        raise MalformedError(f"a frame of {length} bytes where {limit} are allowed")
    return await _take(stream, length)


async def _take(stream: MuxedStream, count: int) -> bytes:
    data = bytearray(count)
    with memoryview(data) as view:
        if await stream.read_into(view) < count:
            raise MuxedStreamEOF("the peer ended the stream")
    return bytes(data)
