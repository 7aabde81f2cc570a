"""The client's side of `synapsed.process.forkserver`: daemons that start in a tenth of a second.

The server ends its daemons when its input ends, and they end when it does: nothing outlives us,
not even when we are killed.
"""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from protocols.errors import SynapseError

FORK_SERVER = (sys.executable, "-m", "synapsed.process.forkserver")

HELLO_PATIENCE_S = 60.0
"""From start to `hello`: two seconds of imports on an idle machine, and this one may be busy."""

STOP_PATIENCE_S = 15.0
"""The server gives its daemons 5 s and then kills them."""


class ForkError(SynapseError):
    """The fork server did not do what was asked."""

    code = "fork-server"


class Forked:
    """One daemon: when it was ready, when it ended, and how."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.status: int | None = None  # negative: the signal that ended it
        self.ready_after = 0.0
        self.ready = trio.Event()
        self.ended = trio.Event()


class ForkServer:
    """A running fork server."""

    def __init__(self, process: trio.Process, on_exit: Callable[[Forked], None]) -> None:
        self._process = process
        self._on_exit = on_exit
        self._daemons: dict[str, Forked] = {}
        self._turn = trio.Lock()
        self._hello = trio.Event()

    async def spawn(self, name: str, home: Path, env: dict[str, str] | None = None) -> Forked:
        """Start a daemon in `home`; it is ready when its `ready` is set."""
        daemon = self._daemons[name] = Forked(name)
        await self._say({"op": "spawn", "id": name, "home": str(home), "env": env or {}})
        return daemon

    async def signal(self, daemon: Forked, number: str) -> None:
        """Send TERM, INT, KILL, STOP or CONT."""
        await self._say({"op": "signal", "id": daemon.name, "signal": number})

    async def _say(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        async with self._turn:
            await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """Take events until the server ends."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        raise ForkError("the fork server ended, and its daemons with it", remedy="see its log")

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        daemon = self._daemons.get(event.get("id", ""))
        if kind == "hello":
            self._hello.set()
        elif kind == "error" and not event["message"].endswith("is not running"):
            raise ForkError(f"the fork server says: {event['message']}")
        elif daemon is None:
            return
        elif kind == "started":
            daemon.pid = event["pid"]
        elif kind == "ready":
            daemon.ready_after = event["seconds"]
            daemon.ready.set()
        elif kind == "exited" and event["pid"] == daemon.pid:
            daemon.status = event["status"]
            daemon.ended.set()
            self._on_exit(daemon)

    async def wait_hello(self) -> None:
        """Return once daemons can be started; ForkError where that takes too long."""
        with trio.move_on_after(HELLO_PATIENCE_S) as patience:
            await self._hello.wait()
        if patience.cancelled_caught:
            raise ForkError(
                f"the fork server did not start within {HELLO_PATIENCE_S:.0f} s",
                remedy="run `python -m synapsed.process.forkserver` by hand to see why",
            )


@asynccontextmanager
async def open_fork_server(
    log: Path, on_exit: Callable[[Forked], None], command: Sequence[str] = FORK_SERVER
) -> AsyncIterator[ForkServer]:
    """A fork server whose own messages go to `log`; on leaving, all its daemons have ended."""
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    server = ForkServer(process, on_exit)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.listen)
            await server.wait_hello()
            yield server
            nursery.cancel_scope.cancel()
    finally:
        await _end(process)


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    with trio.CancelScope(shield=True):
        await process.stdin.aclose()
        with trio.move_on_after(STOP_PATIENCE_S):
            await process.wait()
        if process.returncode is None:
            process.kill()  # its daemons die with it
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()
