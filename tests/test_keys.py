"""The identity: made once, kept safe, believed only when whole (contract A1)."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.envelope import domain, open_envelope, seal
from protocols.peerid import public_key_of
from synapsed import keys
from synapsed.keys import Identity, IdentityError, IdentityMissingError, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "identity.key"


def test_made_once_and_the_same_after_a_restart(path: Path) -> None:
    made, new = keys.load_or_create(path)
    assert new
    again, new = keys.load_or_create(path)
    assert not new
    assert (again.peer_id, again.seed) == (made.peer_id, made.seed)
    assert made.peer_id[-32:] == made.public_key == public_key_of(made.peer_id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["identity.key"]


def test_0600_under_any_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        keys.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_vector_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    identity = Identity(seed)
    assert identity.public_key.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert identity.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_it_seals_what_others_can_open() -> None:
    identity = Identity(bytes(range(32)))
    where = domain("test", "announcement")
    sealed = seal(where, b"type", b"payload", identity.public_key, identity.sign)
    assert open_envelope(sealed, where, b"type", verify).issuer == identity.peer_id


def test_it_is_the_identity_that_libp2p_derives() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    identity = Identity(bytes(range(32)))
    pair = create_new_key_pair(identity.seed)
    assert ID.from_pubkey(pair.public_key).to_bytes() == identity.peer_id
    assert verify(identity.public_key, b"m", pair.private_key.sign(b"m"))


def test_the_seed_shows_nowhere(path: Path) -> None:
    identity, _ = keys.load_or_create(path)
    for text in (repr(identity), str(identity), f"{identity}"):
        assert identity.seed.hex() not in text
        assert identity.text in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    keys.create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"{mode:04o}.*chmod 600"):
        keys.load(path)


def test_missing(path: Path) -> None:
    with pytest.raises(IdentityMissingError, match="synapsed init"):
        keys.load(path)


def test_links_and_folders_are_refused(path: Path) -> None:
    keys.create(path)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(IdentityError, match="cannot open"):
        keys.load(link)
    with pytest.raises(IdentityError, match="not a plain file"):
        keys.load(path.parent)
    os.mkfifo(path.with_name("pipe"), 0o600)
    with pytest.raises(IdentityError, match="not a plain file"):
        keys.load(path.with_name("pipe"))


def test_damage_is_refused_and_never_replaced(path: Path) -> None:
    identity = keys.create(path)
    whole = path.read_bytes()
    swapped = whole.replace(identity.seed.hex().encode(), bytes(32).hex().encode())
    for bad in (
        b"",
        b"\n",
        whole[:-5],
        whole[:100],
        swapped,
        whole + b"more x\n",
        whole * 20,
        b"\xff",
    ):
        path.write_bytes(bad)
        with pytest.raises(IdentityError, match="damaged"):
            keys.load_or_create(path)
        assert path.read_bytes() == bad


@given(st.integers(0, 210), st.integers(1, 255))
def test_one_changed_byte_never_makes_another_identity(at: int, flip: int) -> None:
    identity = Identity(bytes(range(32)))
    text = f"{keys._HEADLINE}\npeer {identity.text}\nseed {identity.seed.hex()}\n".encode()
    bad = bytearray(text)
    bad[at] ^= flip
    with contextlib.suppress(IdentityError):  # a digit's case may change, and nothing with it
        assert keys._parse(Path("x"), bytes(bad)).peer_id == identity.peer_id


def test_create_never_overwrites(path: Path) -> None:
    keys.create(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        keys.create(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["identity.key"]


def test_a_crash_before_the_link_leaves_no_identity(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(IdentityError, match="No space left"):
        keys.create(path)
    assert os.listdir(path.parent) == []


def test_many_at_once_agree(path: Path) -> None:
    found: list[tuple[Identity, bool]] = []
    threads = [
        threading.Thread(target=lambda: found.append(keys.load_or_create(path))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identity.peer_id for identity, _ in found}) == 1
    assert sum(new for _, new in found) == 1


@given(st.binary(max_size=80), st.binary(max_size=200), st.binary(max_size=80))
def test_verify_never_raises(key: bytes, message: bytes, signature: bytes) -> None:
    assert verify(key, message, signature) is False


@given(st.integers(0, 63), st.integers(1, 255), st.binary(max_size=50))
def test_a_changed_signature_is_refused(at: int, flip: int, message: bytes) -> None:
    identity = Identity(bytes(range(32)))
    signature = bytearray(identity.sign(message))
    assert verify(identity.public_key, message, bytes(signature))
    signature[at] ^= flip
    assert not verify(identity.public_key, message, bytes(signature))
    assert not verify(identity.public_key, message + b"x", identity.sign(message))


def test_small_order_keys_sign_nothing() -> None:
    for key in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"):
        for signature in (bytes(64), key + bytes(32)):
            assert not verify(key, b"anything", signature)
