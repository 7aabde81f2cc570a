"""Running a compiler in a cell: see cell.py for what it may do there."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from protocols.errors import LimitError, RefusedError
from synapsed.authoring.cell import EXIT_WEAK, Spec
from synapsed.authoring.child import Child
from synapsed.authoring.tools import Tool

PATIENCE_S = 60.0
"""For one build: the slowest example takes two seconds, zig's first one ten."""
MAX_WRITTEN = 512 << 20
"""Bytes in the folder of one build: zig's cache is the largest, 20 MB."""
MAX_LOG = 64 << 10
LOOK_S = 0.25


class WeakCellError(RefusedError):
    """The kernel lacks what keeps a compiler in."""

    code = "weak-jail"


class BuildFailedError(RefusedError):
    """The compiler did not accept the source; the message is what it said."""

    code = "build-failed"


class BuildLimitError(LimitError):
    """A build that takes too long or writes too much."""

    code = "build-limit"


async def run(
    tool: Tool,
    options: Sequence[str],
    work: Path,
    *,
    allow_weaker: bool = False,
    patience: float = PATIENCE_S,
) -> str:
    """Run the tool in `work`, the one folder that it can write; what it said. Raises WeakCellError,
    BuildFailedError, BuildLimitError."""
    private = work / ".cell"
    private.mkdir()
    spec = Spec(
        command=(*tool.command, *options),
        environment={
            "PATH": tool.path,
            "HOME": ".cell",
            "TMPDIR": str(private),
            "LC_ALL": "C",
            "SOURCE_DATE_EPOCH": "0",
            "OPENSSL_CONF": "/dev/null",  # node reads it before anything else
            "ZIG_GLOBAL_CACHE_DIR": ".cell/zig",
            "ZIG_LOCAL_CACHE_DIR": ".cell/zig",
        },
        work=str(work),
        folders=tool.folders,
        allow_weaker=allow_weaker,
    )
    log = private / "log"
    with log.open("wb") as out:
        child = Child(
            [sys.executable, "-I", "-m", "synapsed.authoring.cell", msgspec.json.encode(spec)],
            subprocess.DEVNULL,
            out.fileno(),
            out.fileno(),
        )
        status = await _attended(child, work, patience)
    with log.open("rb") as said:
        text = said.read(MAX_LOG).decode(errors="replace").strip()
    if status == EXIT_WEAK and text.startswith("this kernel lacks"):
        raise WeakCellError(
            f"a foreign source is not compiled here: {text.splitlines()[0]}",
            remedy="a newer kernel, or --allow-weaker-jail for a source that you trust",
        )
    if status != 0:
        ended = f"{tool.said} ended with {status}" if status > 0 else f"{tool.said} was killed"
        raise BuildFailedError(f"{ended}:\n{text}" if text else ended)
    return text


async def _attended(child: Child, work: Path, patience: float) -> int:
    """Its exit status; over its limits, or when we are cancelled, its whole group is killed."""
    try:
        with trio.fail_after(patience):
            while not child.gone:
                with trio.move_on_after(LOOK_S):
                    await child.ended()
                await _bound(work)
    except trio.TooSlowError as error:
        raise BuildLimitError(f"the build took more than {patience:.0f} s") from error
    finally:
        await child.stop()
    assert child.status is not None
    return child.status


async def _bound(work: Path) -> None:
    if await trio.to_thread.run_sync(_written, work) > MAX_WRITTEN:
        raise BuildLimitError(f"the build wrote more than {MAX_WRITTEN >> 20} MiB")


def _written(folder: Path) -> int:
    """Bytes of all files below; what vanishes meanwhile counts nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
