"""Snapshots: the ledger's state at a ratified checkpoint, so that not all entries are needed.

A `checkpoint` entry states the digest of the state before it. Whoever holds the links from the
genesis knows the council that ratified the entry, and so the digest; then any peer may bring the
state, in parts, and a flipped bit of it shows.
"""

from typing import Annotated

import msgspec

from protocols.codec import Message
from protocols.follow.messages import MAX_PART, MAX_STATE, Snapshot
from protocols.ledger.chain import Header
from protocols.ledger.proof import ProofError
from protocols.packing import cut, pack, unpack

MAX_HEAD = 512
"""Bytes of a record's message: a header and two lengths."""

_PREFIX = b"\xa2\x64kind\x6acheckpoint"
"""How the one encoding of a checkpoint entry begins: a map of two, the shorter key first."""


def is_checkpoint(payload: bytes) -> bool:
    """Whether an entry is a checkpoint, without decoding it."""
    return payload.startswith(_PREFIX)


class Checkpoint(msgspec.Struct, frozen=True):
    """A ratified checkpoint entry and the state before it."""

    header: Header
    payload: bytes
    state: bytes


class _Record(Message, frozen=True, array_like=True):
    header: Header
    lengths: tuple[
        Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0, le=MAX_STATE)]
    ]


def snapshot_key(index: int) -> bytes:
    """Of the record of the state at the checkpoint entry of this index."""
    return b"s" + index.to_bytes(8, "big")


def pack_checkpoint(found: Checkpoint) -> bytes:
    """For a record."""
    lengths = (len(found.payload), len(found.state))
    return pack(_Record(header=found.header, lengths=lengths), (found.payload, found.state))


def unpack_checkpoint(data: bytes) -> Checkpoint:
    """From a record. Raises MalformedError, LimitError."""
    record, raw = unpack(data, _Record, MAX_HEAD)
    payload, state = cut(raw, record.lengths)
    return Checkpoint(record.header, payload, state)


class Download:
    """The parts of one state as they come, from whichever peer."""

    def __init__(self, first: Snapshot) -> None:
        self.header = first.header
        self.size = first.size
        self._parts: dict[int, bytes] = {}

    @property
    def missing(self) -> int | None:
        """The offset of the first part that lacks; None where all is there."""
        for offset in range(0, self.size, MAX_PART):
            if offset not in self._parts:
                return offset
        return None

    def add(self, part: Snapshot, data: bytes) -> None:
        """A part arrived. Raises ProofError where it does not belong to this state."""
        wanted = min(MAX_PART, self.size - part.offset)
        if part.header != self.header or part.size != self.size:
            raise ProofError("a part of another state than the one that was asked for")
        if part.offset % MAX_PART or len(data) != wanted:
            raise ProofError("a part of a state that is not where parts begin, or not whole")
        self._parts.setdefault(part.offset, data)

    def state(self) -> bytes:
        """All of it."""
        return b"".join(self._parts[offset] for offset in sorted(self._parts))
