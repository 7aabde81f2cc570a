"""A message with raw parts behind it, in one frame.

    u32 (big-endian) length of the message ‖ the message ‖ the parts, one after another

The message states the parts' lengths. So large or arbitrary bytes (envelopes) stand beside
the DAG-CBOR and not inside it (rule 3 of codec.py).
"""

from collections.abc import Sequence
from typing import TypeVar

from protocols.codec import Message, decode, encode
from protocols.errors import MalformedError

M = TypeVar("M", bound=Message)

_HEAD = 4


def pack(message: Message, parts: Sequence[bytes]) -> bytes:
    """One frame of `message` and the parts whose lengths it states."""
    encoded = encode(message)
    return b"".join((len(encoded).to_bytes(_HEAD, "big"), encoded, *parts))


def unpack(frame: bytes, kind: type[M], limit: int) -> tuple[M, bytes]:
    """The message (of at most `limit` bytes) and what follows it. Raises as `decode` does."""
    length = int.from_bytes(frame[:_HEAD], "big")
    if len(frame) < _HEAD + length:
        raise MalformedError("a frame is shorter than the message in it")
    message = decode(frame[_HEAD : _HEAD + length], kind, limit)
    return message, frame[_HEAD + length :]


def cut(raw: bytes, lengths: Sequence[int]) -> list[bytes]:
    """The parts of `raw`; MalformedError unless the lengths say exactly all of it."""
    if sum(lengths) != len(raw):
        raise MalformedError("the parts of a frame are not as long as its message says")
    parts: list[bytes] = []
    at = 0
    for length in lengths:
        parts.append(raw[at : at + length])
        at += length
    return parts
