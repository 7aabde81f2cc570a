"""The two places that may catch any Exception: background tasks, and handlers of what came in.

A daemon must outlive its own bugs. What is caught here is logged, with its traceback once per
kind, counted, and told as an event; cancellation and interrupts pass through.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import trio

from protocols.errors import SynapseError

E = TypeVar("E", bound=BaseException)

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.5
"""Before the first restart: a transient fault is over by then."""

LONGEST_DELAY_S = 60.0
"""Between later restarts, doubling up to this: a broken task costs one traceback a minute."""

MAX_KINDS = 512
"""Kinds of failure remembered as already traced. A kind names a line of code, so peers cannot
invent them; beyond this, tracebacks repeat."""


class Emit(Protocol):
    """`EventBus.emit`."""

    def __call__(self, kind: str, /, **fields: Any) -> None: ...


_seen: dict[tuple[str, str, str], int] = {}


async def supervise(
    name: str, task: Callable[[], Awaitable[None]], emit: Emit, *, restart: bool = True
) -> None:
    """Run `task` until it returns; where it fails, report that and, at will, start it again."""
    delay = FIRST_DELAY_S
    while True:
        began = trio.current_time()
        try:
            await task()
        except* Exception as group:  # noqa: BLE001 - one of the two supervisors
            _report(name, group, emit, "task.failed")
        else:
            return
        if not restart:
            return
        if trio.current_time() - began > LONGEST_DELAY_S:
            delay = FIRST_DELAY_S
        await trio.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY_S)


@contextmanager
def guard(name: str, emit: Emit) -> Iterator[None]:
    """Whatever a handler raises inside ends here: its peer's stream dies, the daemon does not."""
    try:
        yield
    except* Exception as group:  # noqa: BLE001 - the other one
        _report(name, group, emit, "handler.failed")


def _report(name: str, group: ExceptionGroup[Exception], emit: Emit, event: str) -> None:
    for error in leaves(group):
        kind = (name, type(error).__name__, _place(error))
        times = _seen.get(kind, 0) + 1
        if len(_seen) >= MAX_KINDS and kind not in _seen:
            _seen.clear()
        _seen[kind] = times
        if isinstance(error, SynapseError):
            log.warning("%s: %s", name, error)
        elif times == 1:
            log.error("%s failed", name, exc_info=error)
        else:
            log.warning("%s failed again (%d): %s at %s", name, times, *kind[1:])
        emit(event, name=name, error=kind[1], message=str(error)[:500], at=kind[2], times=times)


def leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    """The exceptions in a group of groups, without the groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
