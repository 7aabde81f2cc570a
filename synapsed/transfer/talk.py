"""One conversation of the blocks protocol over a stream, from the asking side.

What a peer sends is bytes of the announced length here; callers verify it.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from protocols.codec import encode
from protocols.errors import LimitError, MalformedError
from protocols.tensors.blocks import MAX_ANSWER, Answer, Refusal, Request, decode_answer
from synapsed.transfer.errors import PeerRefusedError

A = TypeVar("A")


class Stream(Protocol):
    """What the conversation needs of a stream (synapsed.net.streams); time-outs are seconds."""

    peer: bytes
    local: bool
    """Whether the peer is on this machine or network."""

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        """The next [u32 length][bytes]."""

    async def read_into(self, target: memoryview, *, timeout: float | None = None) -> None:
        """Fill `target`."""

    async def read_exactly(self, count: int, *, timeout: float | None = None) -> bytearray:
        """Exactly `count` bytes."""

    async def write_frame(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send [u32 length][bytes]."""

    async def write(self, data: memoryview, *, timeout: float | None = None) -> None:
        """Send all of it; the buffer may be reused afterwards."""

    def reset(self) -> None:
        """End it at once."""


class Streams(Protocol):
    """What the transfer needs of the net."""

    def open_stream(self, peer: bytes, protocol: str) -> AbstractAsyncContextManager[Stream]:
        """A new stream, ended with its block. Raises NetError."""


class Talk:
    """Requests and answers on one stream; whoever sends several at once keeps their order."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def send(self, request: Request) -> None:
        """Send a request without waiting for its answer. Raises NetError."""
        await self.stream.write_frame(encode(request))

    async def answer(self, kind: type[A], timeout: float) -> A:
        """The next answer, which must be of `kind`.

        Raises PeerRefusedError, NetError (TimedOutError after `timeout` seconds),
        MalformedError, LimitError. What follows the answer is the caller's to read.
        """
        answer: Answer = decode_answer(await self.stream.read_frame(MAX_ANSWER, timeout=timeout))
        if isinstance(answer, Refusal):
            raise PeerRefusedError(answer)
        if not isinstance(answer, kind):
            raise MalformedError(f"a {type(answer).__name__} where a {kind.__name__} was due")
        return answer

    async def raw(self, count: int, most: int, timeout: float) -> bytes:
        """`count` raw bytes that an answer announced. LimitError where they are above `most`."""
        if count > most:
            raise LimitError(f"{count} bytes announced where {most} are allowed")
        return bytes(await self.stream.read_exactly(count, timeout=timeout))
