"""What the three replicas of a group say to each other (`/synapse/tile/1.0.0`).

    Ask       a candidate to the replicas of its epoch and, until that is established, of those
              before: promise me this term
    Promise   its answer: promised, and how far the log goes
    Stale     to whoever speaks in a term below the one that was promised
    Pull      a candidate to whoever has the best log: what comes after this index
    Append    a primary to its followers, or the answer to Pull: entries; without any, a heartbeat
    Install   the same for a snapshot, where the entries are gone
    Report    a follower to its primary: how far it has the log on disk
    Resign    a primary that cannot go on: do not wait for its time-out
    Leave     whoever was replica before: does this epoch serve, may I forget?
    Retire    the answer: it does

A frame is laid out as in packing.py: bodies and states stand behind the message. Nothing is signed:
streams are authenticated, and a group trusts its three not to lie (they may crash; rounds are
signed by two of them, and recomputed by others).
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from protocols.codec import decode_plain, encode
from protocols.errors import LimitError, MalformedError
from protocols.learn.replica_ports import (
    MAX_BODY,
    MAX_ENTRY_BLOBS,
    MAX_STATE,
    MAX_STATE_BLOBS,
    Blob,
    Entry,
    Epoch,
    GroupId,
    Index,
    Snapshot,
    Term,
)
from protocols.packing import cut

PROTOCOL = "/synapse/tile/1.0.0"

MAX_ENTRIES = 64
"""Of one Append."""
MAX_MESSAGE = 128 << 10
"""Bytes before the bodies: 2,048 blobs of 42 bytes."""
MAX_PARTS = 512 << 10
"""Bytes of bodies, or of one state."""
MAX_FRAME = 4 + MAX_MESSAGE + MAX_PARTS

_HEAD = 4


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Messages are arrays that begin with a number."""


class Ask(_Row, frozen=True, tag_field="t", tag=1):
    """Promise to refuse every lower term."""

    term: Term


class Promise(_Row, frozen=True, tag_field="t", tag=2):
    """Rule 1: it is on disk. What its sender has, with the term of whom it last followed."""

    term: Term
    accepted: Term
    length: Index
    forced: Epoch
    """The last epoch that this log began by force; 0: none."""
    born: Index
    """Its disk remembers all that it said since this index of the ledger: it speaks for the epochs
    that began later, and for no other (rule 4)."""


class Stale(_Row, frozen=True, tag_field="t", tag=3):
    """`term` was promised: yours is lower."""

    term: Term


class Pull(_Row, frozen=True, tag_field="t", tag=4):
    """Send the log that you promised `term` with, from `after` + 1."""

    term: Term
    after: Index


class Described(_Row, frozen=True):
    """An entry without its body."""

    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_BODY)]
    blobs: Annotated[tuple[Blob, ...], msgspec.Meta(max_length=MAX_ENTRY_BLOBS)]


class Append(_Row, frozen=True, tag_field="t", tag=5):
    """Entries from `prev` + 1 on."""

    term: Term
    source: Term
    """The term of the log that this one was taken over from: who has that term's has a part of
    the same log (rule 2)."""
    start: Index
    """Up to which that goes: a follower acknowledges nothing of `term` before it has all of it."""
    forced: Epoch
    """As in Promise: whoever last followed a primary of an epoch before has to begin from nothing,
    because what it has as committed may be gone."""
    committed: Index
    prev: Index
    entries: Annotated[tuple[Described, ...], msgspec.Meta(max_length=MAX_ENTRIES)]


class Install(_Row, frozen=True, tag_field="t", tag=6):
    """A snapshot; its state follows raw."""

    term: Term
    source: Term
    start: Index
    forced: Epoch
    index: Index
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_STATE)]
    blobs: Annotated[tuple[Blob, ...], msgspec.Meta(max_length=MAX_STATE_BLOBS)]


class Report(_Row, frozen=True, tag_field="t", tag=7):
    """To the primary of `term`."""

    term: Term
    ready: bool
    """Whether its sender has all up to `start`, and follows: only then do its lengths count."""
    length: Index
    """Up to which it has entries and their blobs on disk, as this primary's."""
    got: Index
    """Up to which it has entries that wait for their blobs: send what follows."""


class Resign(_Row, frozen=True, tag_field="t", tag=8):
    """The primary of `term` goes."""

    term: Term


class Leave(_Row, frozen=True, tag_field="t", tag=9):
    """Of one of an older group: is `epoch` established?"""

    epoch: Epoch


class Retire(_Row, frozen=True, tag_field="t", tag=10):
    """`epoch` is established: whoever is not in its group, or a later one's, may forget it."""

    epoch: Epoch


Message = Ask | Promise | Stale | Pull | Append | Install | Report | Resign | Leave | Retire

_KINDS: dict[object, type[Message]] = {
    1: Ask,
    2: Promise,
    3: Stale,
    4: Pull,
    5: Append,
    6: Install,
    7: Report,
    8: Resign,
    9: Leave,
    10: Retire,
}


def pack(group: GroupId, message: Message, parts: Sequence[bytes] = ()) -> bytes:
    """A frame of `message` with the bodies, or the state, whose lengths it states."""
    said = encode([group.model, group.number, msgspec.to_builtins(message, builtin_types=(bytes,))])
    return b"".join((len(said).to_bytes(_HEAD, "big"), said, *parts))


def unpack(frame: bytes) -> tuple[GroupId, Message, list[bytes]]:
    """Raises LimitError or MalformedError (of which NotCanonicalError is one)."""
    if len(frame) > MAX_FRAME:
        raise LimitError(f"a frame of {len(frame)} bytes where {MAX_FRAME} are allowed")
    end = _HEAD + int.from_bytes(frame[:_HEAD], "big")
    if len(frame) < end or end > _HEAD + MAX_MESSAGE:
        raise MalformedError("a frame that is shorter than its message, or a message too long")
    plain = decode_plain(frame[_HEAD:end], MAX_MESSAGE)
    try:
        model, number, said = _three(plain)
        group = msgspec.convert({"model": model, "number": number}, GroupId, builtin_types=(bytes,))
        message = msgspec.convert(said, _KINDS[said[0]], builtin_types=(bytes,))
    except (ValueError, LookupError, TypeError) as error:
        # msgspec.ValidationError is a ValueError; the others are lists that are no messages.
        raise MalformedError(f"not a message between replicas: {error}") from error
    return group, message, cut(frame[end:], lengths_of(message))


def _three(plain: object) -> list[Any]:
    if not isinstance(plain, list) or len(plain) != 3 or not isinstance(plain[2], list):
        raise MalformedError("not a group and a message")
    return plain


def group_of(frame: bytes) -> GroupId:
    """Whom a frame is for. Raises as `unpack` does."""
    return unpack(frame)[0]


def lengths_of(message: Message) -> tuple[int, ...]:
    """Of the parts behind it."""
    if isinstance(message, Append):
        return tuple(each.length for each in message.entries)
    return (message.length,) if isinstance(message, Install) else ()


def described(entries: Sequence[Entry]) -> tuple[Described, ...]:
    """What an Append says of them; their bodies are its parts."""
    return tuple(Described(len(entry.body), entry.blobs) for entry in entries)


def entries_of(message: Append, parts: Sequence[bytes]) -> list[Entry]:
    """What an Append brought."""
    return [Entry(body, said.blobs) for said, body in zip(message.entries, parts, strict=True)]


def snapshot_of(message: Install, parts: Sequence[bytes]) -> Snapshot:
    """What an Install brought."""
    return Snapshot(message.index, parts[0], message.blobs)
