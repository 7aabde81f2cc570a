"""Ed25519 keys: the node's identity, and the keys with which people approve what is risky.

Each is made once and readable by its owner only (keyfile.py). This is the only user of pynacl.
No seed leaves this module except to libp2p's Noise, which must sign with it; neither logs nor
`repr` show it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import nacl.bindings
import nacl.exceptions
import nacl.signing

from protocols.errors import SynapseError
from protocols.keytext import key_text
from protocols.peerid import peer_id_of, peer_id_text
from synapsed import keyfile

SEED_LENGTH = keyfile.SEED_LENGTH

_HEADLINE = "synapsed identity 1: whoever has this file is this node. Keep it 0600; back it up."
_HUMAN_HEADLINE = "synapsed human key 1: whoever has this file approves as you. Keep it offline."


class IdentityError(SynapseError):
    """The identity on disk cannot be used."""

    code = "bad-identity"


class IdentityMissingError(IdentityError):
    """There is no identity yet."""

    code = "no-identity"


class HumanKeyError(SynapseError):
    """A human key's file cannot be used."""

    code = "bad-human-key"


class HumanKeyMissingError(HumanKeyError):
    """There is no such file."""

    code = "no-human-key"


class Key:
    """A key pair."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes) -> None:
        """From the 32-byte seed of RFC 8032."""
        self._key = nacl.signing.SigningKey(seed)
        self.public_key = bytes(self._key.verify_key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text})"

    @property
    def text(self) -> str:
        """The public key as people see it (`z6Mk...`)."""
        return key_text(self.public_key)

    @property
    def seed(self) -> bytes:
        """The secret 32 bytes; for what keeps a key or must sign with it, and for nothing else."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._key.sign(message).signature


class Identity(Key):
    """A node's key pair and the peer id that is derived from it."""

    __slots__ = ("peer_id",)

    def __init__(self, seed: bytes) -> None:
        """From the 32-byte seed of RFC 8032."""
        super().__init__(seed)
        self.peer_id = peer_id_of(self.public_key)

    @property
    def text(self) -> str:
        """The peer id as people see it (`12D3KooW...`)."""
        return peer_id_text(self.peer_id)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`. Never raises."""
    if len(signature) != nacl.bindings.crypto_sign_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True


_IDENTITY = keyfile.Form(
    what="identity",
    headline=_HEADLINE,
    field="peer",
    error=IdentityError,
    missing=IdentityMissingError,
    how_to_make="`synapsed init` makes one",
    how_to_mend="put your backup in its place, or move it away and `synapsed init` a new one",
)
_HUMAN = keyfile.Form(
    what="human key",
    headline=_HUMAN_HEADLINE,
    field="key",
    error=HumanKeyError,
    missing=HumanKeyMissingError,
    how_to_make="`synapsectl human new FILE` makes one",
    how_to_mend="put your backup in its place, or make a new key and propose to add it",
)


def load(path: Path) -> Identity:
    """The identity in `path`; IdentityMissingError, or IdentityError where it cannot be trusted."""
    return _parse(path, keyfile.read(_IDENTITY, path))


def _parse(path: Path, data: bytes) -> Identity:
    return Identity(keyfile.parse(_IDENTITY, path, data, lambda seed: Identity(seed).text))


def create(path: Path, random: Callable[[int], bytes] = os.urandom) -> Identity:
    """A new identity at `path`, whole or not at all.

    FileExistsError if something is there already; IdentityError if it cannot be written.
    """
    identity = Identity(random(SEED_LENGTH))
    data = keyfile.text(_IDENTITY, identity.text, identity.seed)
    keyfile.write(_IDENTITY, path, data, random)
    return identity


def load_or_create(path: Path) -> tuple[Identity, bool]:
    """The identity at `path`, and whether it was made just now."""
    try:
        return load(path), False
    except IdentityMissingError:
        try:
            return create(path), True
        except FileExistsError:  # another init was quicker: its identity is the identity
            return load(path), False


def load_human(path: Path) -> Key:
    """The human key in `path`; HumanKeyMissingError, HumanKeyError."""
    data = keyfile.read(_HUMAN, path)
    return Key(keyfile.parse(_HUMAN, path, data, lambda seed: Key(seed).text))


def create_human(path: Path, random: Callable[[int], bytes] = os.urandom) -> Key:
    """A new human key at `path`. HumanKeyError: something is there, or it cannot be written."""
    key = Key(random(SEED_LENGTH))
    try:
        keyfile.write(_HUMAN, path, keyfile.text(_HUMAN, key.text, key.seed), random)
    except FileExistsError as error:
        raise HumanKeyError(
            f"{path} is there already, and a key is never replaced", remedy="name a new file"
        ) from error
    return key
