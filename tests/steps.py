"""How much is done in one go, counted and not timed: a busy machine changes no count."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import pytest
import trio
import trio.abc
import trio.lowlevel

P = ParamSpec("P")
R = TypeVar("R")


class Passes(trio.abc.Instrument):
    """Pieces of one kind of work: how many in all, and the most in one pass of the event loop.

    What is done in a pass is what a newcomer to the loop waits for.
    """

    def __init__(self) -> None:
        self.total = 0
        self.most = 0
        self._now = 0

    def after_io_wait(self, timeout: float) -> None:
        self._now = 0

    def piece(self) -> None:
        self.total += 1
        self._now += 1
        self.most = max(self.most, self._now)

    def counted(self, work: Callable[P, R]) -> Callable[P, R]:
        """`work`, each call of which is a piece."""

        def counting(*args: P.args, **kwargs: P.kwargs) -> R:
            self.piece()
            return work(*args, **kwargs)

        return counting

    @contextmanager
    def watching(self) -> Iterator["Passes"]:
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            trio.lowlevel.remove_instrument(self)


@contextmanager
def each_line(see: Callable[[], None]) -> Iterator[None]:
    """Call `see` for each line that this thread runs in functions called from here on."""

    def trace(_frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            see()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def at_most(lines: int) -> Iterator[None]:
    """Fail as soon as more lines of Python than that are run: a loop over what somebody only
    claims is ended there."""
    run = 0

    def see() -> None:
        nonlocal run
        run += 1
        if run > lines:
            pytest.fail(f"more than {lines} lines were run")

    with each_line(see):
        yield
