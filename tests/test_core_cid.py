"""Content ids and peer ids: one form, both ways, and nothing else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.cid import DAG_CBOR, RAW, check_block, cid_of, cid_text, is_cid, parse_cid
from protocols.errors import MalformedError, MismatchError
from protocols.peerid import parse_peer_id, peer_id_of, peer_id_text, public_key_of


def test_a_known_block_has_its_known_name() -> None:
    # The empty raw block's CID is a constant of the IPLD world.
    assert cid_text(cid_of(b"", RAW)) == (
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    )


@given(st.binary(max_size=300), st.sampled_from([RAW, DAG_CBOR]))
def test_text_and_bytes_are_one_name(data: bytes, codec: int) -> None:
    cid = cid_of(data, codec)
    assert is_cid(cid)
    assert parse_cid(cid_text(cid)) == cid
    check_block(cid, data)


def test_a_block_that_is_not_what_its_name_says_is_refused() -> None:
    with pytest.raises(MismatchError):
        check_block(cid_of(b"one"), b"two")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bafy",
        "Qm" + "a" * 44,
        "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        # a CIDv1 of the identity hash, and one of sha2-512
        "bafkqaaa",
        "b" + "a" * 90,
        "\x00" * 59,
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_cid(text)


def test_a_block_under_a_foreign_hash_is_refused() -> None:
    with pytest.raises(MalformedError):
        check_block(b"\x01\x55\x13\x40" + hashlib.sha512(b"x").digest(), b"x")


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_name_their_key(key: bytes) -> None:
    peer = peer_id_of(key)
    assert public_key_of(peer) == key
    text = peer_id_text(peer)
    assert text.startswith("12D3KooW")
    assert parse_peer_id(text) == peer


@pytest.mark.parametrize("text", ["", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"])
def test_other_peer_ids_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_peer_id(text)
