"""Making the control socket's file: ours alone, and never in the place of somebody else's.

Rule 1: the folder belongs to us, and nobody else may write in it.
Rule 2: the file is 0600 from its first moment; whoever connects is asked for its credentials.
Rule 3: what a dead daemon left is replaced; a listening socket, a file that is no socket, or
        one of another owner is refused.
"""

import os
import socket
import stat
import struct
from pathlib import Path
from typing import ClassVar, Protocol

from protocols.errors import RefusedError
from synapsed.control.problems import ConflictError

BACKLOG = 64
"""Connections that wait to be accepted: more than the clients of one owner."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class SocketNotOursError(RefusedError):
    """What is at the socket's place is not a socket, or not ours."""

    code: ClassVar[str] = "socket-not-ours"


class BoundSocket:
    """A listening Unix socket; `close` removes its file if it is still the same one."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self.listener = listener
        self.path = path
        self._identity = _identity(path)

    def close(self) -> None:
        """Stop listening and take the file away."""
        self.listener.close()
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def bind(path: Path) -> BoundSocket:
    """Listen at `path`. SocketNotOursError, or ConflictError where another daemon listens."""
    _check_folder(path.parent)
    _clear_the_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file takes the mode of the unbound socket: there is no moment of 0755.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SocketNotOursError(
            f"cannot listen at {path}: {error.strerror or error}",
            remedy="choose another place with socket in [control]",
        ) from error
    return BoundSocket(listener, path)


class _HasOptions(Protocol):
    """A socket of the standard library's or trio's."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_uid(connection: _HasOptions) -> int:
    """The user id of the process that connected, from the kernel."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise SocketNotOursError(
            f"cannot use the folder {folder} for the control socket: {error.strerror}",
            remedy="choose another place with socket in [control]",
        ) from error
    if found.st_uid != os.geteuid():
        raise SocketNotOursError(
            f"the control socket's folder {folder} belongs to user {found.st_uid}",
            remedy="choose a folder of your own with socket in [control]",
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise SocketNotOursError(
            f"others may write in the control socket's folder {folder}",
            remedy=f"chmod 700 {folder}",
        )


def _clear_the_way(path: Path) -> None:
    """Remove a dead daemon's socket; refuse anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketNotOursError(
            f"{path} exists and is not a socket",
            remedy="move it away, or choose another place with socket in [control]",
        )
    if found.st_uid != os.geteuid():
        raise SocketNotOursError(
            f"the socket {path} belongs to user {found.st_uid}",
            remedy="choose another place with socket in [control]",
        )
    if _is_alive(path):
        raise ConflictError(
            f"another program listens at {path}",
            remedy="stop the other daemon, or choose another place with socket in [control]",
        )
    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True  # listening, and its backlog is full
    return True
