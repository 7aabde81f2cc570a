"""Compiled modules on disk, each under a MAC by a key that never leaves this machine.

The runtime checks nothing of native code that it is given, so only what our own compiler wrote is
ever loaded: a file that was damaged, swapped or put there by somebody is not.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from synapsed.jail.errors import NotCompiledError

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
"""Of all files: a hundred modules of the largest size that is allowed, thousands of usual ones."""
KEY_BYTES = 32
_MAC = 32
STALE_S = 600.0
"""After which a file that is being written is nobody's any more."""


class Cache:
    """One folder of compiled modules, for one version of the runtime."""

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._version = version
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # whoever made it: who can write here can have code loaded
        _sweep(folder)
        self._key = _key(folder / "mac.key")

    def put(self, module: bytes, code: bytes) -> None:
        """Keep a module's code, and drop those that were used longest ago beyond MAX_BYTES."""
        path = self._path(module)
        with _written(path, self._mac(path.name, code), code) as fresh:
            fresh.replace(path)
        self._trim(path)

    def get(self, module: bytes) -> bytes:
        """A module's code, as it was put there. Raises NotCompiledError."""
        path = self._path(module)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotCompiledError(module, "it never was, or long ago") from None
        except OSError as error:
            raise NotCompiledError(module, f"{path}: {error.strerror}") from error
        mac, code = data[:_MAC], data[_MAC:]
        if not hmac.compare_digest(mac, self._mac(path.name, code)):
            log.warning("%s is not what our compiler wrote there: removed", path)
            self.forget(module)
            raise NotCompiledError(module, "its compiled form was changed by somebody")
        with contextlib.suppress(OSError):
            os.utime(path)
        return code

    def has(self, module: bytes) -> bool:
        """Whether a file is there; `get` tells whether it is good."""
        return self._path(module).exists()

    def forget(self, module: bytes) -> None:
        """Remove a module's code."""
        self._path(module).unlink(missing_ok=True)

    def _path(self, module: bytes) -> Path:
        return self._folder / f"{module.hex()}-{self._version}.cwasm"

    def _mac(self, name: str, code: bytes) -> bytes:
        """Over the name, too: a good file under another module's name is a bad one."""
        keyed = hmac.new(self._key, name.encode() + b"\0", hashlib.sha256)
        keyed.update(code)
        return keyed.digest()

    def _trim(self, keep: Path) -> None:
        """Other versions' files go first: nothing will load them again."""
        files = []
        for path in self._folder.glob("*.cwasm"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # forgotten meanwhile
            ours = path.stem.endswith(f"-{self._version}")
            files.append((ours, status.st_mtime, path, status.st_size))
        total = sum(size for *_, size in files)
        for _, _, path, size in sorted(files):
            if total > MAX_BYTES and path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _key(path: Path) -> bytes:
    """The key, made where there is none or a broken one: what it authenticated is then lost."""
    if len(found := _secret(path)) == KEY_BYTES:
        return found
    path.unlink(missing_ok=True)
    made = secrets.token_bytes(KEY_BYTES)
    with _written(path, made) as fresh, contextlib.suppress(FileExistsError):
        os.link(fresh, path)  # unless another process was quicker: then the key is its
    return _secret(path) or made


def _secret(path: Path) -> bytes:
    """What a file of ours holds that nobody else could read or write; b"" of any other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            log.warning("%s could be read by others: a new key is made", path)
            return b""
        return file.read(KEY_BYTES + 1)


def _sweep(folder: Path) -> None:
    """Take away what a crash left half written."""
    for path in folder.glob("*.new"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - STALE_S:
                path.unlink()


@contextlib.contextmanager
def _written(path: Path, *parts: bytes) -> Iterator[Path]:
    """A file beside `path` with these bytes safely on disk; gone afterwards, under this name."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        with open(fresh, "wb", opener=_private) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
