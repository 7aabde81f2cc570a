"""Keys as people see them, and the files in which people keep them."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.keytext import BadKeyError, key_text, parse_key
from protocols.peerid import peer_id_of, peer_id_text
from synapsed import keys
from synapsed.keys import HumanKeyError, HumanKeyMissingError, Key, verify


def test_the_first_vector_of_did_key() -> None:
    """https://w3c-ccg.github.io/did-key-spec/#ed25519-x25519: the seed of zeros."""
    assert Key(bytes(32)).text == "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"


@given(st.binary(min_size=32, max_size=32))
def test_text_and_back(key: bytes) -> None:
    text = key_text(key)
    assert parse_key(text) == key
    assert text.startswith("z6Mk")
    assert len(text) == 48
    with pytest.raises(BadKeyError):
        parse_key(peer_id_text(peer_id_of(key)))


@given(st.text(max_size=60))
def test_other_text_is_refused(text: str) -> None:
    try:
        found = parse_key(text)
    except BadKeyError:
        return
    assert key_text(found) == text


@pytest.mark.parametrize("length", [0, 31, 33])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(BadKeyError, match="32 bytes"):
        key_text(bytes(length))


def test_a_human_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "alice.key"
    before = os.umask(0)
    try:
        made = keys.create_human(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = keys.load_human(path)
    assert again.public_key == made.public_key
    assert verify(made.public_key, b"message", again.sign(b"message"))
    with pytest.raises(HumanKeyError, match="never replaced"):
        keys.create_human(path)
    assert os.listdir(path.parent) == ["alice.key"]
    assert made.seed.hex() not in repr(made)


def test_what_is_no_human_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    with pytest.raises(HumanKeyMissingError, match="human new"):
        keys.load_human(path)
    keys.create_human(path)
    path.chmod(0o640)
    with pytest.raises(HumanKeyError, match=r"0640.*chmod 600"):
        keys.load_human(path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HumanKeyError, match="damaged"):
        keys.load_human(path)
    identity = tmp_path / "identity.key"
    keys.create(identity)
    with pytest.raises(HumanKeyError, match="not a synapsed human key"):
        keys.load_human(identity)
