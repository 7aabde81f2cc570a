"""The worker's process: started fresh, or forked by a server that has torch imported already.

Importing torch and transformers takes 3 s and 250 MB of private memory. One daemon on a machine
pays that once, when it first computes something. Many daemons on one machine (simnet) share a
*compute server*, `python -m synapsed.computeworker serve SOCKET`, which forks a worker for each
connection in some milliseconds; the worker's memory is shared with it until it is written to.

Either way the node has a socket and a pidfd, and the worker ends when its socket closes.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import trio

from synapsed.compute.environment import environment
from synapsed.compute.errors import DiedError
from synapsed.compute.wire import SOCKET_FD

MAX_LAST_WORDS = 2000
"""Bytes that are read of what a dead worker had to say."""
FOR_THE_NODE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a terminal or systemd sends to all of a service's processes: the node ends its
worker in its own time."""


class Process:
    """A running worker: a socket to speak to it, and a handle on its process."""

    def __init__(self, sock: socket.socket, words: int | None) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._words = words
        self.pid = 0
        self._pidfd: int | None = None
        self._ours = False

    def adopt(self, pid: int, *, ours: bool) -> None:
        """Take a handle on the process. Raises DiedError where it has ended already."""
        self.pid, self._ours = pid, ours
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise DiedError(f"the compute worker ended at once: {error.strerror}") from error

    def kill(self) -> None:
        """At once; its end comes a little later."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(OSError):  # one that we cannot name yet sees this, and ends
            self.socket.shutdown(socket.SHUT_RDWR)

    async def ended(self) -> None:
        """Wait until it is gone."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)

    def story(self) -> str:
        """How it ended, for people; after its end, once."""
        how = "its process is gone"
        if self._ours and self.pid:
            with contextlib.suppress(ChildProcessError):
                _, raw = os.waitpid(self.pid, 0)
                status = os.waitstatus_to_exitcode(raw)
                by_signal = f"ended by {signal.Signals(-status).name}" if status < 0 else ""
                how = by_signal or f"ended with {status}"
            self._ours = False
        if self._words is None:
            return how
        size = os.fstat(self._words).st_size
        words = os.pread(self._words, MAX_LAST_WORDS, max(0, size - MAX_LAST_WORDS))
        text = words.decode(errors="replace").strip()
        return f"{how}: {text}" if text else how

    def close(self) -> None:
        """Kill it if need be, wait for that, and forget it. Blocks for as long as the kernel
        takes to give its memory back."""
        self.kill()
        self.story()
        self.socket.close()
        for fd in (self._pidfd, self._words):
            if fd is not None:
                os.close(fd)
        self._pidfd = self._words = None


def start_fresh(threads: int) -> Process:
    """A process of our own. It must be the thread of the event loop that starts it, because it
    dies with the thread that started it. Raises DiedError."""
    ours, theirs = socket.socketpair()
    words = os.memfd_create("compute-stderr", os.MFD_CLOEXEC)
    process = Process(ours, words)
    null, spare = os.devnull, max(theirs.fileno(), words, SOCKET_FD) + 1
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), spare),  # SOCKET_FD may be the other's number
        (os.POSIX_SPAWN_DUP2, words, 1),
        (os.POSIX_SPAWN_DUP2, words, 2),
        (os.POSIX_SPAWN_DUP2, spare, SOCKET_FD),
        (os.POSIX_SPAWN_CLOSE, spare),
    ]
    command = [sys.executable, "-I", "-m", "synapsed.computeworker", "work", str(os.getpid())]
    try:
        with theirs:
            pid = os.posix_spawn(
                command[0],
                command,
                environment(threads),
                file_actions=actions,
                setsigmask=FOR_THE_NODE,
                setsigdef=(signal.SIGPIPE,),
            )
        process.adopt(pid, ours=True)
    except OSError as error:
        process.close()
        raise DiedError(f"the compute worker cannot be started: {error.strerror}") from error
    except DiedError:
        process.close()
        raise
    return process


def start_forked(server: Path) -> Process:
    """One that the compute server at `server` forks; its pid comes with its first words. Raises
    DiedError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(server))
    except OSError as error:
        sock.close()
        raise DiedError(
            f"no compute server answers at {server}: {error.strerror}",
            remedy="start it, or set compute.server to nothing: then a worker is started fresh",
        ) from error
    return Process(sock, None)
