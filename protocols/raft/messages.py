"""What members of a council say to each other (`/synapse/council/1.0.0`).

    Append      leader to member: a batch of entries, ending at a mark
    Signed      member to leader: its ack or certificate-ack
    Certified   anybody: a certificate, of acks or (then it is ratified) of certificate-acks
    Suspicion   to all: the leader has had its time
    TimedOut    to all: a signed time-out, and the certificate that it names
    TimedOuts   to whoever is behind: a quorum of time-outs, so that the term has begun
    Opened      leader to all, and to whoever is behind: how a term opened
    Fetch       to any member: the entries from a place downwards
    Fetched     the answer

A frame is laid out as in packing.py; payloads stand behind the message. The messages are lists
that begin with a number, not maps: a few thousand a second pass through each member. Nothing
here is signed as a whole; what matters carries the signatures of council.py.
"""

from collections.abc import Sequence
from typing import Annotated

import libipld
import msgspec

from protocols.errors import LimitError, MalformedError, NotCanonicalError
from protocols.ledger.chain import Head, Header, Index
from protocols.ledger.council import (
    MAX_SEATS,
    Certificate,
    Opening,
    Signature,
    SignedTimeOut,
    Statement,
    Term,
)
from protocols.packing import cut

PROTOCOL = "/synapse/council/1.0.0"

MAX_MESSAGE = 64 << 10
"""Bytes before the payloads: 256 headers of 120 bytes, or an opening by 64 seats (14 KB)."""
MAX_BATCH = 256
"""Entries of one batch: 15 ms of verifying signatures, so that nothing else waits for long."""
MAX_BATCH_BYTES = 512 << 10
"""Of its payloads: 0.4 s on a home uplink of 10 Mbit/s."""
MAX_FETCHED = 256
"""Entries in one answer."""
MAX_FRAME = 4 + MAX_MESSAGE + MAX_BATCH_BYTES

_HEAD = 4

Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_BATCH_BYTES)]
Lengths = Annotated[list[Length], msgspec.Meta(max_length=MAX_BATCH)]


class Append(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=1
):
    """Entries that follow `prev`. The last is a mark, and `signature` the leader's ack of it."""

    epoch: Index
    term: Term
    prev: Head
    signature: Signature
    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Signed(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=2
):
    """The sender's ack or certificate-ack."""

    said: Statement
    signature: Signature


class Certified(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=3
):
    """A certificate."""

    certificate: Certificate


class Suspicion(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=4
):
    """The sender has waited long enough in `term`; it has ratified up to `ratified`."""

    epoch: Index
    term: Term
    ratified: Index


class TimedOut(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=5
):
    """A time-out, and the certificate that it names."""

    signed: SignedTimeOut
    certificate: Certificate


class TimedOuts(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=6
):
    """Time-outs of one term by a quorum."""

    time_outs: Annotated[list[SignedTimeOut], msgspec.Meta(min_length=1, max_length=MAX_SEATS)]


class Opened(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=7
):
    """How a term opened."""

    opening: Opening


class Fetch(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=8
):
    """Asks for the entry at `top` and those before it, down to the one after `above`."""

    epoch: Index
    top: Head
    above: Index


class Fetched(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag_field="t", tag=9
):
    """Entries from the highest down, each the one that the header before it names as `prev`."""

    epoch: Index
    headers: Annotated[list[Header], msgspec.Meta(min_length=1, max_length=MAX_FETCHED)]
    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=MAX_FETCHED)]


Message = Append | Signed | Certified | Suspicion | TimedOut | TimedOuts | Opened | Fetch | Fetched

_KINDS: dict[object, type[Message]] = {
    1: Append,
    2: Signed,
    3: Certified,
    4: Suspicion,
    5: TimedOut,
    6: TimedOuts,
    7: Opened,
    8: Fetch,
    9: Fetched,
}


def epoch_of(message: Message) -> int:
    """Which epoch's council a message is about."""
    match message:
        case Signed():
            return message.said.epoch
        case Certified():
            return message.certificate.said.epoch
        case TimedOut():
            return message.signed.said.epoch
        case TimedOuts():
            return message.time_outs[0].said.epoch
        case Opened():
            return message.opening.epoch
        case Append() | Suspicion() | Fetch() | Fetched():
            return message.epoch


def pack(message: Message, parts: Sequence[bytes] = ()) -> bytes:
    """One frame of `message` and the payloads whose lengths it states."""
    # Messages hold lists and no tuples, so they need no copying as codec.encode does it.
    encoded = libipld.encode_dag_cbor(msgspec.to_builtins(message, builtin_types=(bytes,)))
    return b"".join((len(encoded).to_bytes(_HEAD, "big"), encoded, *parts))


def unpack(frame: bytes) -> tuple[Message, list[bytes]]:
    """The message in a frame, and its payloads. Raises LimitError or MalformedError."""
    if len(frame) > MAX_FRAME:
        raise LimitError(f"a frame of {len(frame)} bytes where {MAX_FRAME} are allowed")
    end = _HEAD + int.from_bytes(frame[:_HEAD], "big")
    if len(frame) < end or end > _HEAD + MAX_MESSAGE:
        raise MalformedError("a frame that is shorter than its message, or a message too long")
    try:
        plain = libipld.decode_dag_cbor(frame[_HEAD:end])
        if libipld.encode_dag_cbor(plain) != frame[_HEAD:end]:
            raise NotCanonicalError("not the canonical encoding of its value")
        # By the tag first: msgspec takes a union apart anew in each call, 5 us.
        kind = _KINDS[plain[0]] if isinstance(plain, list) and plain else Signed
        message = msgspec.convert(plain, kind, builtin_types=(bytes,))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        # msgspec.ValidationError is a ValueError; the others are tags that are no tags.
        raise MalformedError(f"not a message between members: {error}") from error
    lengths = message.lengths if isinstance(message, Append | Fetched) else ()
    return message, cut(frame[end:], lengths)
