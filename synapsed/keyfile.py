"""Files that hold one secret key: made once, whole or not at all, for their owner alone.

HEADLINE               what it is, and how to treat it
FIELD PUBLIC           the public part, so that damage is noticed
seed HEX               the 32 bytes of RFC 8032
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from protocols.errors import SynapseError

SEED_LENGTH = 32
_MAX_FILE = 1024
"""Bytes: four times what we write."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of key file, and the words for what is wrong with one."""

    what: str
    """"identity", "human key": it stands behind "the"."""
    headline: str
    field: str
    error: type[SynapseError]
    missing: type[SynapseError]
    how_to_make: str
    how_to_mend: str


def read(form: Form, path: Path) -> bytes:
    """The bytes of a key file that only its owner can have written or read."""
    try:
        # O_NOFOLLOW and fstat: what is checked is what is read. O_NONBLOCK: a pipe cannot hold us.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise form.missing(f"there is no {form.what} at {path}", remedy=form.how_to_make) from error
    except OSError as error:
        raise form.error(
            f"cannot open the {form.what} {path}: {error.strerror}",
            remedy="it must be a plain file of the user who uses it",
        ) from error
    try:
        _check_mode(form, path, os.fstat(fd))
        return os.read(fd, _MAX_FILE)
    finally:
        os.close(fd)


def _check_mode(form: Form, path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise form.error(f"the {form.what} {path} is not a plain file", remedy="move it away")
    if status.st_uid != os.geteuid():
        raise form.error(
            f"the {form.what} {path} belongs to user {status.st_uid}, not to us ({os.geteuid()})",
            remedy=f"use it as its owner, or `chown` {path}",
        )
    if status.st_mode & 0o077:
        raise form.error(
            f"the {form.what} {path} can be reached by others (mode {status.st_mode & 0o777:04o})",
            remedy=f"chmod 600 {path}; if others may have read it, move it away and make a new one",
        )


def parse(form: Form, path: Path, data: bytes, public: Callable[[bytes], str]) -> bytes:
    """The seed in a key file's bytes; `public` gives the text of a seed's public part."""
    lines = data.decode("ascii", errors="replace").split("\n")
    fields = dict(line.partition(" ")[::2] for line in lines[1:] if line)
    try:
        seed = bytes.fromhex(fields.get("seed", ""))
    except ValueError:
        seed = b""
    whole = set(fields) == {form.field, "seed"} and len(seed) == SEED_LENGTH
    if lines[0] != form.headline or not whole:
        raise form.error(
            f"the {form.what} {path} is damaged: "
            f"{len(data)} bytes that are not a synapsed {form.what}",
            remedy=form.how_to_mend,
        )
    if public(seed) != fields[form.field]:
        raise form.error(
            f"the {form.what} {path} is damaged: its seed does not make the {form.field} "
            "that it names",
            remedy=form.how_to_mend,
        )
    return seed


def text(form: Form, public: str, seed: bytes) -> bytes:
    """What a key file holds."""
    return f"{form.headline}\n{form.field} {public}\nseed {seed.hex()}\n".encode()


def write(form: Form, path: Path, data: bytes, random: Callable[[int], bytes]) -> None:
    """Put a new key file at `path`, whole or not at all.

    FileExistsError if something is there already; `form.error` if it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(path, data, part=path.with_name(f".{path.name}.{random(8).hex()}"))
    except FileExistsError:
        raise
    except OSError as error:
        raise form.error(
            f"cannot write the {form.what} {path}: {error.strerror}",
            remedy="it needs a folder of ours, on a file system with modes and hard links",
        ) from error


def _write_once(path: Path, data: bytes, part: Path) -> None:
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a key that appeared meanwhile.
        os.link(part, path)
    finally:
        part.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
