"""Writing so that a crash at any instant leaves the old or the new, never half of either.

Order (Pillai et al., OSDI 2014): write aside, fsync the file, rename, fsync the folder.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from protocols.errors import MalformedError, RefusedError
from synapsed.store.errors import DiskFullError, disk_errors

Bytes = bytes | bytearray | memoryview


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: Bytes, offset: int) -> None:
    """pwrite all of `data`; the kernel may take less at a time."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


def sync_data(path: Path) -> None:
    """Make the bytes of a file durable, whichever descriptor wrote them."""
    with disk_errors(path, "saving"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def check_free(path: Path, need: int) -> None:
    """Raise DiskFullError where the file system of `path` has less than `need` bytes free."""
    with disk_errors(path, "looking at"):
        free = shutil.disk_usage(path).free
    if need > free:
        raise DiskFullError(
            f"{need} bytes are needed at {path} and {free} are free",
            remedy="free space there, or use another file system",
        )


def write_new(
    path: Path, parts: Iterable[Bytes], size: int | None = None, *, durable: bool = True
) -> None:
    """Write a file that must not exist yet, and make its bytes (not its name) durable.

    Where `size` is given the file has that size, sparse behind the bytes.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        at = 0
        for part in parts:
            write_all(fd, part, at)
            at += len(part)
        if size is not None:
            os.ftruncate(fd, size)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def aside(tmp: Path) -> Path:
    """A fresh name in the folder of unfinished work, which is emptied on opening."""
    return tmp / secrets.token_hex(12)


def write_atomic(path: Path, data: Bytes, tmp: Path, *, durable: bool = True) -> None:
    """Replace or create `path`, durably if asked; `tmp` is a folder on the same file system."""
    new = aside(tmp)
    with disk_errors(path, "writing"):
        try:
            write_new(new, [data], durable=durable)
            os.rename(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        if durable:
            fsync_dir(path.parent)


class Source:
    """A file to be read from its start to its end, which must not change meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path, "opening"):
            # Not blocking: a pipe would hang, and is refused just below.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            state = os.fstat(self._fd)
        self.size = state.st_size
        if not stat.S_ISREG(state.st_mode):
            os.close(self._fd)
            raise RefusedError(f"{path} is not a file")

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop). Raises DiskError, or MalformedError where they are no more."""
        parts = []
        with disk_errors(self._path, "reading"):
            while start < stop and (part := os.pread(self._fd, stop - start, start)):
                parts.append(part)
                start += len(part)
        if start < stop:
            raise MalformedError(
                f"{self._path} became shorter while it was read", remedy="try again"
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)
