"""What a council member's check may take, and what of it says nothing about the thing checked."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from protocols.errors import NotHeldError, SynapseError
from synapsed.authoring.question import CheckFailedError
from synapsed.compute.errors import ComputeError


@contextmanager
def within(seconds: float, error: type[SynapseError]) -> Iterator[None]:
    """Raise `error` where it takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as late:
        raise error(f"it took longer than {seconds / 60:.0f} minutes") from late


@contextmanager
def cannot_tell(what: str) -> Iterator[None]:
    """What goes wrong here, and not with what is checked, is no verdict: CheckFailedError."""
    try:
        yield
    except (ComputeError, NotHeldError) as error:
        raise CheckFailedError(f"it cannot be {what} here: {error.message}") from error
