"""One run of synapsectl in a process forked from one that has its imports.

The same `main()` as the installed command, with its own argv, environment and file descriptors,
and without 0.3 s of imports each. tests/test_cli_*.py start `python -m` too, where that matters.
"""

import gc
import multiprocessing
import os
import sys
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

_PRELOAD = [
    "tests.cli_child",
    "synapsed.cli.main",
    "synapsed.cli.output",
    "synapsed.control.client",
]

_PATIENCE_S = 60.0

_POLLING = threading.Lock()
"""Held around all that reads how a process ended. `start()` looks after every other process of
ours too, and a second reader of the one exit code finds the pipe empty, which multiprocessing
takes for an exit code of 255; after `close()` the pipe's number may be somebody else's."""


class Files(NamedTuple):
    """What the process reads and writes."""

    stdin: Path
    stdout: Path
    stderr: Path


def run(arguments: list[str], env: dict[str, str], stdin: bytes) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `synapsectl ARGUMENTS`. Threads may call it at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        files = Files(*(Path(folder) / name for name in Files._fields))
        files.stdin.write_bytes(stdin)
        process = context.Process(target=_child, args=(arguments, env, files))
        with _POLLING:
            process.start()
        # Not join(): it reads the exit code, and nobody may hold the lock for as long as it waits.
        if not wait([process.sentinel], _PATIENCE_S):
            process.kill()
            wait([process.sentinel])
        with _POLLING:
            code = process.exitcode
            process.close()
        return code, files.stdout.read_text(), files.stderr.read_text()


def _child(arguments: list[str], env: dict[str, str], files: Files) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(files):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags, 0o600), number)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        mode = "r" if number == 0 else "w"
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    sys.argv = ["synapsectl", *arguments]
    gc.freeze()
    from synapsed.cli.main import main

    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
