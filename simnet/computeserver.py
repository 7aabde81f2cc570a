"""One process that has imported torch, from which all daemons of a world fork their workers.

Eight daemons that each imported it would take five seconds of two cores and 250 MB, each.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import trio

from protocols.errors import SynapseError

COMMAND = (sys.executable, "-I", "-m", "synapsed.computeworker", "serve")
LYING = (sys.executable, "-m", "simnet.lyingcompute")
READY = b"ready"
READY_PATIENCE_S = 120.0
"""Three seconds of imports on an idle machine, and this one may be busy."""


class ComputeServerError(SynapseError):
    """The compute server did not start."""

    code = "compute-server"


@asynccontextmanager
async def compute_server(socket: Path, log: Path, *, lie: str = "") -> AsyncIterator[None]:
    """Have one listen at `socket` while the block runs; it ends with this process at the latest.
    Its workers tell a `lie`, if one is named (lyingcompute.py)."""
    command = [*LYING, lie] if lie else [*COMMAND]
    with log.open("wb") as errors:
        # Not trio's: the server dies with the thread that starts it, and those of trio end.
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, str(socket), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            assert process.stdout is not None
            await _ready(process.stdout, log)
            yield
        finally:
            process.kill()
            process.wait()


async def _ready(output: IO[bytes], log: Path) -> None:
    said = b""
    with trio.move_on_after(READY_PATIENCE_S):
        while READY not in said:
            await trio.lowlevel.wait_readable(output.fileno())
            more = os.read(output.fileno(), 4096)
            if not more:
                break
            said += more
    if READY not in said:
        words = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ComputeServerError(
            f"the compute server did not start: {' '.join(words) or 'it said nothing'}",
            remedy="`pip install 'synapsed[compute]'` brings what it needs",
        )
