"""Signed envelopes: any changed byte, other domain or other key is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from protocols.envelope import MAX_ENVELOPE, domain, open_envelope, seal
from protocols.errors import LimitError, MalformedError, NotCanonicalError, SignatureError
from protocols.peerid import peer_id_of

KEY = SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)
HERE = domain("testnet", "announcement")
TYPE = b"/synapse/announcement"


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def test_what_is_sealed_opens_and_names_its_issuer() -> None:
    opened = open_envelope(seal(HERE, TYPE, b"hello", PUBLIC, sign), HERE, TYPE, verify)
    assert opened.payload == b"hello"
    assert opened.issuer == peer_id_of(PUBLIC)


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    sealed = bytearray(seal(HERE, TYPE, b"hello", PUBLIC, sign))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedError):
        open_envelope(bytes(sealed), HERE, TYPE, verify)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises((MalformedError, LimitError)):
        open_envelope(data, HERE, TYPE, verify)


def test_a_signature_of_one_network_or_use_is_none_of_another() -> None:
    sealed = seal(HERE, TYPE, b"hello", PUBLIC, sign)
    for where in (domain("other", "announcement"), domain("testnet", "heartbeat")):
        with pytest.raises(SignatureError):
            open_envelope(sealed, where, TYPE, verify)
    with pytest.raises(MalformedError):
        open_envelope(sealed, HERE, b"/synapse/heartbeat", verify)


def test_size_padding_and_tails_are_refused() -> None:
    sealed = seal(HERE, TYPE, b"hello", PUBLIC, sign)
    with pytest.raises(LimitError):
        open_envelope(bytes(MAX_ENVELOPE + 1), HERE, TYPE, verify)
    with pytest.raises(MalformedError):
        open_envelope(sealed + b"\x00", HERE, TYPE, verify)
    # the same length written in two bytes
    padded = sealed[:1] + bytes((sealed[1] | 0x80, 0)) + sealed[2:]
    with pytest.raises(NotCanonicalError):
        open_envelope(padded, HERE, TYPE, verify)
