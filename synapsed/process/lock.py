"""One daemon per data folder: a lock that the kernel lets go of when its holder dies.

The file stays behind on purpose; only the flock on it means anything, so a crash leaves nothing
to clean up and a stale pid in it deceives nobody.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from protocols.errors import RefusedError
from synapsed.paths import PathError


class LockHeldError(RefusedError):
    """Another daemon runs on this data."""

    code = "already-running"


class Lock:
    """Held from `with` to its end, or to the death of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        """Take it. Raises LockHeldError, which names the holder, or PathError."""
        # O_CLOEXEC: a worker that outlives us must not keep the lock.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise PathError(
                f"cannot open the lock {self._path}: {error.strerror}",
                remedy="it must be a plain file that the daemon's user can write",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _pid_in(self._fd)
            os.close(self._fd)
            raise LockHeldError(
                f"{f'process {holder}' if holder else 'another process'} already runs on "
                f"{self._path.parent}",
                remedy="stop it first, or give this one a folder of its own with --home",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def holder(path: Path) -> int | None:
    """The pid of the daemon that holds the lock at `path`; None if nobody does.

    Read from the kernel's own list: trying the lock would refuse a daemon that starts just now.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:  # 7: FLOCK  ADVISORY  WRITE 2133 fe:00:656402 0 EOF
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def _pid_in(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None
