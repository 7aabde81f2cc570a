"""Peer ids: the identity multihash of a libp2p-encoded Ed25519 public key.

So the key is in the name, and a signature is checked against the name alone.
Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

import libipld

from protocols.errors import MalformedError

PUBLIC_KEY_LENGTH = 32
# protobuf PublicKey{Type = 1 (Ed25519), Data = 32 bytes}
_KEY_PREFIX = b"\x08\x01\x12\x20"
# identity multihash: code 0, length 36
_ID_PREFIX = bytes((0, len(_KEY_PREFIX) + PUBLIC_KEY_LENGTH)) + _KEY_PREFIX
PEER_ID_LENGTH = len(_ID_PREFIX) + PUBLIC_KEY_LENGTH


def encode_public_key(public_key: bytes) -> bytes:
    """libp2p's protobuf of an Ed25519 public key (36 bytes)."""
    if len(public_key) != PUBLIC_KEY_LENGTH:
        raise MalformedError("an Ed25519 public key has 32 bytes")
    return _KEY_PREFIX + public_key


def decode_public_key(encoded: bytes) -> bytes:
    """The 32 bytes in libp2p's protobuf of an Ed25519 public key."""
    if len(encoded) != PEER_ID_LENGTH - 2 or not encoded.startswith(_KEY_PREFIX):
        raise MalformedError("only Ed25519 keys are spoken here")
    return encoded[len(_KEY_PREFIX) :]


def peer_id_of(public_key: bytes) -> bytes:
    """The peer id (38 bytes) of an Ed25519 public key (32 bytes)."""
    return _ID_PREFIX[:2] + encode_public_key(public_key)


def public_key_of(peer_id: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) that a peer id names."""
    if len(peer_id) != PEER_ID_LENGTH or not peer_id.startswith(_ID_PREFIX):
        raise MalformedError("not the peer id of an Ed25519 key")
    return peer_id[len(_ID_PREFIX) :]


def peer_id_text(peer_id: bytes) -> str:
    """Base58 text of a peer id (`12D3KooW...`)."""
    text: str = libipld.encode_multibase("z", peer_id)
    return text[1:]


def parse_peer_id(text: str) -> bytes:
    """The peer id that base58 `text` names; MalformedError if it names none."""
    try:
        _, value = libipld.decode_multibase("z" + text)
    except ValueError as error:
        raise MalformedError(f"{text[:80]!r} is not a peer id") from error
    peer_id = bytes(value)
    public_key_of(peer_id)
    return peer_id
