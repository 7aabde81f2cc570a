"""Canonical DAG-CBOR for everything that is signed, hashed or sent.

Rules of this file:
1. One value has one encoding: what does not re-encode to the same bytes is refused.
2. Types carry the limits; unknown fields are refused.
3. Bytes in messages are content ids, 32-byte hashes and keys only. libipld writes bytes that
   read as a CID as links (tag 42) and reads links as bytes; both sides of that are ours, and
   large or arbitrary bytes follow a message raw instead of standing in it.
"""

from typing import TypeVar

import libipld
import msgspec

from protocols.errors import LimitError, MalformedError, NotCanonicalError

T = TypeVar("T")

MAX_BLOCK = 1 << 20
"""Bytes of the largest DAG-CBOR block: a manifest of 4,000 files; IPLD tools expect <= 1 MiB."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every message and manifest."""


def encode(value: object) -> bytes:
    """Canonical DAG-CBOR of a Message (or of plain maps, lists, ints, text, bytes)."""
    # Through MessagePack, which makes lists of tuples: four times as fast as walking through them.
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    return bytes(libipld.encode_dag_cbor(plain))


def decode_plain(data: bytes, limit: int = MAX_BLOCK) -> object:
    """Plain values of canonical DAG-CBOR. Raises LimitError, MalformedError, NotCanonicalError."""
    if len(data) > limit:
        raise LimitError(f"{len(data)} bytes of DAG-CBOR where {limit} are allowed")
    try:
        plain = libipld.decode_dag_cbor(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not DAG-CBOR: {error}") from error
    if libipld.encode_dag_cbor(plain) != data:
        raise NotCanonicalError("not the canonical encoding of its value")
    return plain


def decode(data: bytes, kind: type[T], limit: int = MAX_BLOCK) -> T:
    """A value of type `kind` from canonical DAG-CBOR of at most `limit` bytes."""
    plain = decode_plain(data, limit)
    try:
        return msgspec.convert(plain, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a valid {getattr(kind, '__name__', kind)}: {error}") from error
