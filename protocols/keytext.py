"""Keys as people see them: `z6Mk...`, so that nobody takes a seat's or a person's for a peer id.

The multibase base58btc text of the multicodec ed25519-pub and the key's 32 bytes, as `did:key`
writes it. Source: https://w3c-ccg.github.io/did-key-spec/ (Ed25519).
"""

import libipld

from protocols.errors import MalformedError
from protocols.peerid import PUBLIC_KEY_LENGTH

_ED25519_PUB = b"\xed\x01"


class BadKeyError(MalformedError):
    """Text that is no Ed25519 public key."""

    code = "bad-key"


def key_text(key: bytes) -> str:
    """The text of an Ed25519 public key (32 bytes)."""
    if len(key) != PUBLIC_KEY_LENGTH:
        raise BadKeyError(f"an Ed25519 public key has {PUBLIC_KEY_LENGTH} bytes, not {len(key)}")
    text: str = libipld.encode_multibase("z", _ED25519_PUB + key)
    return text


def parse_key(text: str) -> bytes:
    """The key that `text` names; BadKeyError if it names none."""
    try:
        base, value = libipld.decode_multibase(text)
    except ValueError as error:
        raise BadKeyError(f"{text[:80]!r} is not a key (z6Mk...)") from error
    data = bytes(value)
    length = len(_ED25519_PUB) + PUBLIC_KEY_LENGTH
    if base != "z" or not data.startswith(_ED25519_PUB) or len(data) != length:
        raise BadKeyError(f"{text[:80]!r} is not an Ed25519 key (z6Mk...)")
    return data[len(_ED25519_PUB) :]
