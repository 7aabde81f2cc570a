"""Signed envelopes: who says it, in which domain, and what.

This is libp2p's Signed Envelope (RFC 0002), so any libp2p implementation opens it:

    message Envelope { PublicKey public_key = 1; bytes payload_type = 2;
                       bytes payload = 3; bytes signature = 5; }

signed over `len ‖ domain ‖ len ‖ payload_type ‖ len ‖ payload` (lengths as unsigned varints).
The domain names the network and the use (`/synapse/<network>/<use>/1`), so that a signature
made for one can never be shown as the other. The payload is canonical DAG-CBOR.
Source: https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md
"""

from collections.abc import Callable

import msgspec

from protocols.errors import LimitError, MalformedError, NotCanonicalError, SignatureError
from protocols.peerid import decode_public_key, encode_public_key, peer_id_of

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it verifies."""

MAX_ENVELOPE = 64 << 10
"""Bytes; half of the largest gossip RPC that peers accept from each other."""

SIGNATURE_LENGTH = 64
_FIELDS = (1, 2, 3, 5)
_LENGTH_DELIMITED = 2


class Opened(msgspec.Struct, frozen=True):
    """What a verified envelope says: the issuer's peer id, and the payload's bytes."""

    issuer: bytes
    payload: bytes


def domain(network: str, use: str) -> bytes:
    """The domain string of one use on one network."""
    return f"/synapse/{network}/{use}/1".encode()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedError("an envelope's length is cut off or too long")


def _signed_bytes(where: bytes, payload_type: bytes, payload: bytes) -> bytes:
    return b"".join(_varint(len(part)) + part for part in (where, payload_type, payload))


def _assemble(public_key: bytes, payload_type: bytes, payload: bytes, signature: bytes) -> bytes:
    values = (encode_public_key(public_key), payload_type, payload, signature)
    return b"".join(
        bytes((field << 3 | _LENGTH_DELIMITED,)) + _varint(len(value)) + value
        for field, value in zip(_FIELDS, values, strict=True)
    )


def seal(where: bytes, payload_type: bytes, payload: bytes, public_key: bytes, sign: Sign) -> bytes:
    """The envelope of `payload`, signed for the domain `where`."""
    signature = sign(_signed_bytes(where, payload_type, payload))
    return _assemble(public_key, payload_type, payload, signature)


def _parse(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    at = 0
    values: list[bytes] = []
    for field in _FIELDS:
        if at >= len(data) or data[at] != field << 3 | _LENGTH_DELIMITED:
            raise MalformedError(f"an envelope lacks field {field}, or has it out of order")
        length, at = _read_varint(data, at + 1)
        if at + length > len(data):
            raise MalformedError(f"an envelope's field {field} runs past its end")
        values.append(data[at : at + length])
        at += length
    if at != len(data):
        raise MalformedError("bytes after an envelope's end")
    key, payload_type, payload, signature = values
    return key, payload_type, payload, signature


def open_envelope(
    data: bytes, where: bytes, payload_type: bytes, verify: Verify, limit: int = MAX_ENVELOPE
) -> Opened:
    """What an envelope says, once its signature is verified.

    Raises LimitError, MalformedError, NotCanonicalError, or SignatureError.
    """
    if len(data) > limit:
        raise LimitError(f"an envelope of {len(data)} bytes where {limit} are allowed")
    key, stated_type, payload, signature = _parse(data)
    if stated_type != payload_type:
        raise MalformedError("an envelope of another payload type")
    public_key = decode_public_key(key)
    if _assemble(public_key, stated_type, payload, signature) != data:
        raise NotCanonicalError("an envelope with padded lengths")
    signed = _signed_bytes(where, payload_type, payload)
    if len(signature) != SIGNATURE_LENGTH or not verify(public_key, signed, signature):
        raise SignatureError("the envelope's signature does not verify for its domain")
    return Opened(issuer=peer_id_of(public_key), payload=payload)
