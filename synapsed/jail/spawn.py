"""Starting a child of the jail, and learning how it ended."""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import trio

from synapsed.jail.errors import JailDiedError
from synapsed.jail.moment import readable
from synapsed.jail.wire import IN_FD, OUT_FD, SOCKET_FD

MAX_LAST_WORDS = 2000
"""Bytes that are read of what a dead child had to say."""
FOR_THE_NODE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a terminal or systemd sends to all of a service's processes. A child does not hear
them: the node ends it in its own time, and a module is not blamed for a shutdown."""
_CPU_CLOCK = 2
"""With a process' number above it, the clock of its processor time (what clock_getcpuclockid(3)
gives, which Python does not have)."""


class Child:
    """One process, whose pid is its own until it has been waited for."""

    def __init__(self, arguments: list[str], fds: tuple[int, int, int]) -> None:
        """Start `python -I` with `arguments` and these descriptors as SOCKET, IN and OUT, with an
        empty environment. Blocks for a few milliseconds: it must be the thread of the event loop
        that does it, because the child dies with the thread that started it. Raises JailDiedError
        or, where this process may have no more descriptors, OSError."""
        self._words = os.memfd_create("jail-stderr", os.MFD_CLOEXEC)
        wanted = {1: self._words, 2: self._words}
        wanted |= dict(zip((SOCKET_FD, IN_FD, OUT_FD), fds, strict=True))
        spare = max(wanted.values()) + 1  # first moved out of the way of one another
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        for at, fd in wanted.items():
            actions.append((os.POSIX_SPAWN_DUP2, fd, spare + at))
        for at in wanted:
            actions.append((os.POSIX_SPAWN_DUP2, spare + at, at))
            actions.append((os.POSIX_SPAWN_CLOSE, spare + at))
        command = [sys.executable, "-I", *arguments, str(os.getpid())]
        try:
            self.pid = os.posix_spawn(
                command[0],
                command,
                {},
                file_actions=actions,
                setsigmask=FOR_THE_NODE,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU),
            )
        except OSError as error:
            os.close(self._words)
            raise JailDiedError(None, f"it cannot be started: {error.strerror}") from error
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._words)
            raise
        self.status: int | None = None
        self.peak = 0
        """Bytes of memory that it used at most, once it has ended."""
        self.cpu_s = 0.0

    def kill(self) -> None:
        """At once; its end comes a little later."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until it is gone."""
        if self.status is None:
            with suppress(trio.ClosedResourceError):  # somebody else has reaped it meanwhile
                await trio.lowlevel.wait_readable(self._pidfd)
            self.reap()

    def spent(self) -> float:
        """Seconds of processor time until now, of all its threads."""
        if self.status is not None:
            return self.cpu_s
        return time.clock_gettime((~self.pid << 3) | _CPU_CLOCK)

    def gone(self) -> bool:
        """Whether it has ended, as far as anybody can tell without waiting."""
        return self.status is not None or readable(self._pidfd)

    async def stop(self) -> None:
        """Kill it and wait for that: what it held takes a while to be given back."""
        self.kill()
        with trio.CancelScope(shield=True):
            await self.ended()

    def reap(self) -> None:
        """Take its end, blocking until it comes, unless that has been done."""
        if self.status is not None:
            return
        _, status, usage = os.wait4(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        self.peak = usage.ru_maxrss << 10
        self.cpu_s = usage.ru_utime + usage.ru_stime
        trio.lowlevel.notify_closing(self._pidfd)  # another task may wait for the same end
        os.close(self._pidfd)

    def story(self) -> str:
        """How it ended."""
        status = self.status
        words = ""
        if self._words >= 0:
            words = os.pread(self._words, MAX_LAST_WORDS, 0).decode(errors="replace").strip()
        if status is not None and status < 0:
            how = f"ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with {status}"
        return f"{how}: {words}" if words else how

    def close(self) -> None:
        """Forget it, after its end; more than once does no harm."""
        if self._words >= 0:
            os.close(self._words)
            self._words = -1


def pair() -> tuple[socket.socket, socket.socket]:
    """The node's end, which does not block, and the child's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs
