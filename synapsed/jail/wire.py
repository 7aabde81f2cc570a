"""What the node and the jail's worker say to each other: length-prefixed msgpack on a socket.

The worker is not trusted once foreign code has run in it, so the node takes its words through
strict types and narrow bounds, and never a file descriptor.
"""

import os
import struct
from typing import Annotated

import msgspec

HEAD = struct.Struct("<I")
"""Before each message: its length."""
MAX_MESSAGE = 4096
"""Bytes of one message: a call is 90, and a reason is cut to MAX_TEXT."""
MAX_TEXT = 400

SOCKET_FD, IN_FD, OUT_FD = 3, 4, 5
"""A child's descriptors. IN is what it reads: the module, the text, or the arena. OUT is where a
compiler writes what it made, and where the runner's ticker waits for the node's alarm."""

MAX_ARTEFACT = 64 << 20
"""Bytes of a compiled module: sixteen times what 1 MiB of ordinary code becomes."""

Word = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class Load(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Take a compiled module of `size` bytes; its descriptor travels with this message."""

    number: Word
    module: bytes
    size: Word


class Drop(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Forget a module."""

    number: Word
    module: bytes


class Call(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Run a module on the `size` bytes at `at` of the arena, whose last `answer` bytes it fills."""

    number: Word
    module: bytes
    at: Word
    size: Word
    answer: Word
    fuel: Word
    memory: Word
    """Bytes that its linear memory may grow to."""
    fresh: bool
    """In an instance that nothing has run in before."""


class Ready(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """It is locked in and listens."""


class Done(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """What was asked for is done; a call took `fuel` and `nanoseconds` of processor time."""

    number: Word
    fuel: Word = 0
    nanoseconds: Word = 0


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """It cannot be done, and nothing is broken."""

    number: Word
    kind: Annotated[str, msgspec.Meta(max_length=16)]
    text: Text


Request = Load | Drop | Call
Reply = Ready | Done | Failed

_encoder = msgspec.msgpack.Encoder()
requests = msgspec.msgpack.Decoder(Request)
replies = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """A message as it travels."""
    body = _encoder.encode(message)
    return HEAD.pack(len(body)) + body


IF_SPENT, NOW = 0, 1
_ALARM = struct.Struct("<QQB")
ALARM_SIZE = _ALARM.size


def alarm(number: int, kind: int, seconds: float) -> bytes:
    """Stop the call of that number: NOW, or IF_SPENT so many seconds of processor time."""
    return _ALARM.pack(number, int(seconds * 1e9), kind)


def read_alarm(data: bytes) -> tuple[int, int, int]:
    """The number, the nanoseconds that it may spend, and the kind."""
    number, nanoseconds, kind = _ALARM.unpack(data)
    return number, nanoseconds, kind


def say(message: Reply) -> None:
    """A child's words to the node: written, because its filter knows no other way to send."""
    rest = memoryview(frame(message))
    while rest:
        rest = rest[os.write(SOCKET_FD, rest) :]
