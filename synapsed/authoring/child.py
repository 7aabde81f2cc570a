"""Starting a process that dies with this one, and waiting for its end."""

import os
import signal
import subprocess
from collections.abc import Sequence

import trio


class Child:
    """A process in a session of its own."""

    def __init__(
        self, command: Sequence[str | bytes], given: int, said: int, complained: int
    ) -> None:
        """Start it with these descriptors as its standard ones. Blocks for some milliseconds: it
        must be the event loop's thread that does it, because a child which asks to die with its
        parent dies with the thread that started it, and trio's other threads come and go."""
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, stdin=given, stdout=said, stderr=complained, start_new_session=True
        )

        self.gone = False
        """Whether it has ended. Its number stays its own until it was stopped."""
        self.status: int | None = None
        """What it ended with, once it was stopped."""

    async def ended(self) -> None:
        """Wait until it has."""
        if self.gone:
            return
        fd = os.pidfd_open(self._process.pid)
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
        self.gone = True

    async def stop(self) -> None:
        """Kill it and what it left in its group, which a clean end leaves behind as well."""
        if self.status is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self.ended()
            self.status = self._process.wait()
