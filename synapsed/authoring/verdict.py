"""A council member's look at a module: the check in a process of its own, behind everything else.

The check is some seconds of Python, which would hold up an event loop and everything that shares
its interpreter. What it says follows from the module, the incumbent and the seed alone, so that
honest members say the same; time, which does not, is not taken.
"""

import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
import trio

from protocols.errors import SynapseError
from synapsed.authoring import check
from synapsed.authoring.child import Child
from synapsed.authoring.differ import KILLS
from synapsed.authoring.question import Checked, CheckFailedError, Question
from synapsed.jail.jail import Jail

PATIENCE_S = 600.0
"""For one check, which takes four seconds on an idle core and has the lowest priority."""
MAX_REPLY = 1 << 20
"""Bytes: a dozen findings, each of some lines."""
MAX_WORDS = 16 << 10
NICE = 15
_PR_SET_PDEATHSIG = 1


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """It came to no end."""

    message: str
    remedy: str


class Found(msgspec.Struct, tag="found", frozen=True):
    """It did."""

    checked: Checked


class Asked(msgspec.Struct, frozen=True):
    """What the process is given on its standard input."""

    question: Question
    allow_weaker: bool
    parent: int
    folder: str
    """For the jail. It is the asker's: who is killed leaves its folders behind."""


async def check_apart(question: Question, *, allow_weaker: bool = False) -> Checked:
    """Try a module in a process of its own. Raises CheckFailedError, which says nothing about the
    module: ask again later."""
    try:
        with tempfile.TemporaryDirectory(prefix="synapsed-check-") as folder:
            asked = Asked(question, allow_weaker, os.getpid(), folder)
            found = await _once(asked)
            if any(finding.code == KILLS for finding in found.findings):
                # The worker may have been killed from without: only a module does that twice.
                found = await _once(asked)
    except OSError as error:
        raise CheckFailedError(f"the check could not be started: {error.strerror}") from error
    return found


async def _once(asked: Asked) -> Checked:
    given, said, complained = (os.memfd_create("check", os.MFD_CLOEXEC) for _ in range(3))
    try:
        os.pwrite(given, msgspec.msgpack.encode(asked), 0)
        child = Child(
            [sys.executable, "-I", "-m", "synapsed.authoring.verdict"], given, said, complained
        )
        try:
            with trio.fail_after(PATIENCE_S):
                await child.ended()
        finally:
            await child.stop()
        words = os.pread(complained, MAX_WORDS, 0)
        return _reply(os.pread(said, MAX_REPLY, 0), child.status, words)
    except trio.TooSlowError as error:
        raise CheckFailedError(f"the check took more than {PATIENCE_S:.0f} s") from error
    finally:
        for fd in (given, said, complained):
            os.close(fd)


def _reply(said: bytes, status: int | None, words: bytes) -> Checked:
    try:
        reply: Failed | Found = msgspec.msgpack.decode(said, type=Failed | Found)
    except msgspec.DecodeError as error:
        lines = words.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else "it said nothing"
        raise CheckFailedError(f"the check's process ended with {status}: {why}") from error
    if isinstance(reply, Failed):
        raise CheckFailedError(reply.message, remedy=reply.remedy)
    return reply.checked


async def _answer(asked: Asked) -> Failed | Found:
    jail = Jail(Path(asked.folder), _tell_nobody, allow_weaker=asked.allow_weaker)
    try:
        return Found(await check.check(asked.question, jail))
    except SynapseError as error:
        return Failed(error.message, error.remedy)
    finally:
        jail.close()


def _tell_nobody(kind: str, **fields: object) -> None:
    """Deaths of the worker are findings here, not events."""


def main() -> None:
    """Answer the one question on standard input."""
    asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Asked)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != asked.parent:
        return
    os.nice(NICE)
    reply = trio.run(_answer, asked)
    sys.stdout.buffer.write(msgspec.msgpack.encode(reply))


if __name__ == "__main__":
    main()
