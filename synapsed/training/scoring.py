"""Two models on the same drawn windows of a text: by how much the second is better.

One pair at a time: the two keys are the same for all.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from protocols.errors import MalformedError
from protocols.learn.proof import interval, nanonats, sample
from protocols.ledger.entries import Interval
from synapsed.compute.errors import BadModelError
from synapsed.compute.wire import Losses, Opened

PARENT, CHILD = b"proof parent", b"proof child"
"""What the two go by in the compute worker; whatever else it has open stays."""

Files = Sequence[tuple[str, Path]]


class BrokenModelError(MalformedError):
    """A checkpoint that makes no model, though its parent does."""

    code = "broken-checkpoint"


class Evaluator(Protocol):
    """What is asked of the compute worker. Raises ComputeError."""

    async def open_model(self, key: bytes, files: Files) -> Opened:
        """Map a model's files."""

    async def close_model(self, key: bytes) -> None:
        """Forget a model."""

    async def evaluate(
        self, key: bytes, data: Path, context: int, windows: Sequence[int]
    ) -> Losses:
        """Nats a token of each window; how many there are."""


class Text(NamedTuple):
    """What is evaluated by: a file, and the tokens of its windows."""

    path: Path
    context: int


class Pair(NamedTuple):
    """A parent and its child, as files."""

    parent: Files
    child: Files


async def windows_of(compute: Evaluator, pair: Pair, text: Text) -> int:
    """How many windows a text has, as the parent reads it, which stays open."""
    await _open(compute, PARENT, pair.parent)
    return (await compute.evaluate(PARENT, text.path, text.context, ())).windows


async def compare(
    compute: Evaluator, pair: Pair, text: Text, *, windows: int, seed: bytes
) -> Interval:
    """By how much the child is better on `windows` of the text, drawn by `seed`.

    Raises TooFewWindowsError, BrokenModelError; ComputeError, which says nothing about the child.
    """
    count = await windows_of(compute, pair, text)
    drawn = sample(seed, windows, count)
    before = await _losses(compute, PARENT, text, drawn)
    try:
        await _open(compute, CHILD, pair.child)
        after = await _losses(compute, CHILD, text, drawn)
    except BadModelError as error:
        raise BrokenModelError(f"the child makes no model: {error.message}") from error
    # A quarter of a second of Python for 512 windows: not on the loop's time.
    work = partial(interval, nanonats(before), nanonats(after), seed)
    return await trio.to_thread.run_sync(work)


async def _open(compute: Evaluator, key: bytes, files: Files) -> None:
    """What a pair before left open goes first."""
    await compute.close_model(key)
    await compute.open_model(key, files)


async def _losses(
    compute: Evaluator, key: bytes, text: Text, drawn: Sequence[int]
) -> tuple[float, ...]:
    found = await compute.evaluate(key, text.path, text.context, drawn)
    await compute.close_model(key)
    return found.losses
