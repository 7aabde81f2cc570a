"""Content ids: CIDv1 with sha2-256, of raw bytes or DAG-CBOR.

In memory a CID is its 36 bytes; people see base32 text (`bafy...`, `bafk...`).
Source: https://github.com/multiformats/cid
"""

import hashlib

import libipld

from protocols.errors import MalformedError, MismatchError

RAW = 0x55
DAG_CBOR = 0x71
_SHA2_256 = b"\x12\x20"  # multihash code, digest length
CID_LENGTH = 4 + hashlib.sha256().digest_size


def cid_of(data: bytes | memoryview, codec: int = DAG_CBOR) -> bytes:
    """The CID (36 bytes) of `data` under `codec` (RAW or DAG_CBOR)."""
    return bytes((1, codec)) + _SHA2_256 + hashlib.sha256(data).digest()


def is_cid(value: bytes) -> bool:
    """Whether `value` is a CID of the only form that we speak."""
    return (
        len(value) == CID_LENGTH
        and value[0] == 1
        and value[1] in (RAW, DAG_CBOR)
        and value[2:4] == _SHA2_256
    )


def cid_text(cid: bytes) -> str:
    """Base32 text of a CID."""
    text: str = libipld.encode_cid(cid)
    return text


def parse_cid(text: str) -> bytes:
    """The CID that `text` names. Raises MalformedError for anything but our one form."""
    # libipld answers bytes or a dict depending on the input; multibase is exact.
    try:
        _, value = libipld.decode_multibase(text)
    except ValueError as error:
        raise MalformedError(
            f"{text[:80]!r} is not a content id",
            remedy="a content id is base32 text that begins with bafy or bafk",
        ) from error
    cid = bytes(value)
    if not is_cid(cid):
        raise MalformedError(
            f"{text[:80]!r} is not a CIDv1 with sha2-256 over raw or dag-cbor",
            remedy="other hashes and codecs are not spoken here",
        )
    return cid


def check_block(cid: bytes, data: bytes | memoryview) -> None:
    """Raise MismatchError unless `data` hashes to `cid`."""
    if not is_cid(cid):
        raise MalformedError("a block's name is not a content id that we speak")
    if hashlib.sha256(data).digest() != cid[4:]:
        raise MismatchError(f"block {cid_text(cid)} does not hash to its name")
