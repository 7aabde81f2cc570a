"""The node's identity: one Ed25519 key, made once, readable by its owner only.

The only user of pynacl. The seed never leaves this module except to libp2p's Noise, which must
sign with it; neither logs nor `repr` show it.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import nacl.bindings
import nacl.exceptions
import nacl.signing

from protocols.errors import SynapseError
from protocols.peerid import peer_id_of, peer_id_text

SEED_LENGTH = 32
_HEADLINE = "synapsed identity 1: whoever has this file is this node. Keep it 0600; back it up."
_MAX_FILE = 1024
"""Bytes: four times what we write."""


class IdentityError(SynapseError):
    """The identity on disk cannot be used."""

    code = "bad-identity"


class IdentityMissingError(IdentityError):
    """There is no identity yet."""

    code = "no-identity"


class Identity:
    """A key pair and the peer id that is derived from it."""

    __slots__ = ("_key", "peer_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        """From the 32-byte seed of RFC 8032."""
        self._key = nacl.signing.SigningKey(seed)
        self.public_key = bytes(self._key.verify_key)
        self.peer_id = peer_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.text})"

    @property
    def text(self) -> str:
        """The peer id as people see it (`12D3KooW...`)."""
        return peer_id_text(self.peer_id)

    @property
    def seed(self) -> bytes:
        """The secret 32 bytes; for libp2p's key pair and for nothing else."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._key.sign(message).signature


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`. Never raises."""
    if len(signature) != nacl.bindings.crypto_sign_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True


def load(path: Path) -> Identity:
    """The identity in `path`; IdentityMissingError, or IdentityError where it cannot be trusted."""
    try:
        # O_NOFOLLOW and fstat: what is checked is what is read. O_NONBLOCK: a pipe cannot hold us.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise IdentityMissingError(
            f"there is no identity at {path}", remedy="`synapsed init` makes one"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"cannot open the identity {path}: {error.strerror}",
            remedy="it must be a plain file of the user who runs the daemon",
        ) from error
    try:
        _check_mode(path, os.fstat(fd))
        data = os.read(fd, _MAX_FILE)
    finally:
        os.close(fd)
    return _parse(path, data)


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IdentityError(f"the identity {path} is not a plain file", remedy="move it away")
    if status.st_uid != os.geteuid():
        raise IdentityError(
            f"the identity {path} belongs to user {status.st_uid}, not to us ({os.geteuid()})",
            remedy=f"run the daemon as its owner, or `chown` {path}",
        )
    if status.st_mode & 0o077:
        raise IdentityError(
            f"the identity {path} can be reached by others (mode {status.st_mode & 0o777:04o})",
            remedy=f"chmod 600 {path}; if others may have read it, move it away and init anew",
        )


def _parse(path: Path, data: bytes) -> Identity:
    lines = data.decode("ascii", errors="replace").split("\n")
    fields = dict(line.partition(" ")[::2] for line in lines[1:] if line)
    try:
        seed = bytes.fromhex(fields.get("seed", ""))
    except ValueError:
        seed = b""
    if lines[0] != _HEADLINE or set(fields) != {"peer", "seed"} or len(seed) != SEED_LENGTH:
        raise IdentityError(
            f"the identity {path} is damaged: {len(data)} bytes that are not a synapsed identity",
            remedy="put your backup in its place, or move it away and `synapsed init` a new one",
        )
    identity = Identity(seed)
    if identity.text != fields["peer"]:
        raise IdentityError(
            f"the identity {path} is damaged: its seed does not make the peer id it names",
            remedy="put your backup in its place, or move it away and `synapsed init` a new one",
        )
    return identity


def create(path: Path, random: Callable[[int], bytes] = os.urandom) -> Identity:
    """A new identity at `path`, whole or not at all.

    FileExistsError if something is there already; IdentityError if it cannot be written.
    """
    identity = Identity(random(SEED_LENGTH))
    text = f"{_HEADLINE}\npeer {identity.text}\nseed {identity.seed.hex()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(path, text.encode(), part=path.with_name(f".{path.name}.{random(8).hex()}"))
    except FileExistsError:
        raise
    except OSError as error:
        raise IdentityError(
            f"cannot write the identity {path}: {error.strerror}",
            remedy="it needs a folder of ours, on a file system with modes and hard links",
        ) from error
    return identity


def _write_once(path: Path, data: bytes, part: Path) -> None:
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces an identity that appeared meanwhile.
        os.link(part, path)
    finally:
        part.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_or_create(path: Path) -> tuple[Identity, bool]:
    """The identity at `path`, and whether it was made just now."""
    try:
        return load(path), False
    except IdentityMissingError:
        try:
            return create(path), True
        except FileExistsError:  # another init was quicker: its identity is the identity
            return load(path), False
