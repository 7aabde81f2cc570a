"""Background tasks and handlers: what they raise ends nothing but themselves."""

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.errors import SynapseError
from synapsed.process import supervise as module
from synapsed.process.supervise import FIRST_DELAY_S, LONGEST_DELAY_S, guard, supervise


class Told:
    """Events, as `EventBus.emit` would get them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, /, **fields: Any) -> None:
        self.events.append((kind, fields))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(module, "_seen", {})
    return Told()


def failing(times: int, error: Exception, starts: list[float]) -> Callable[[], Awaitable[None]]:
    async def task() -> None:
        starts.append(trio.current_time())
        if len(starts) <= times:
            raise error

    return task


async def test_restarts_with_growing_delays_until_it_returns(
    told: Told, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[float] = []
    await supervise("eater", failing(10, KeyError("x"), starts), told)
    delays = [round(b - a, 6) for a, b in itertools.pairwise(starts)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert delays[0] == FIRST_DELAY_S
    assert delays[-1] == LONGEST_DELAY_S
    assert [fields["times"] for _, fields in told.events] == list(range(1, 11))
    kind, fields = told.events[0]
    assert kind == "task.failed"
    assert (fields["name"], fields["error"], fields["message"]) == ("eater", "KeyError", "'x'")
    assert fields["at"].startswith("tests.test_daemon_supervise:")
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1  # once per kind
    assert len(caplog.records) == 10


async def test_a_long_good_run_forgives(told: Told, autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def task() -> None:
        starts.append(trio.current_time())
        if len(starts) == 5:
            return
        if len(starts) == 4:
            await trio.sleep(LONGEST_DELAY_S + 1)
        raise ValueError

    await supervise("slow", task, told)
    assert starts[4] - starts[3] == pytest.approx(LONGEST_DELAY_S + 1 + FIRST_DELAY_S)


async def test_no_restart(told: Told) -> None:
    starts: list[float] = []
    await supervise("once", failing(9, ValueError("x"), starts), told, restart=False)
    assert len(starts) == len(told.events) == 1


async def test_cancellation_passes_through_even_beside_a_failure(told: Told) -> None:
    async def task() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on the way out")

    with trio.move_on_after(0) as scope:
        await supervise("task", task, told)
    assert scope.cancelled_caught
    assert [fields["error"] for _, fields in told.events] == ["ValueError"]


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_is_not_caught(fatal: type[BaseException], told: Told) -> None:
    async def handler() -> None:
        with guard("handler", told):
            raise fatal

    with pytest.raises(fatal):
        await handler()
    assert told.events == []


async def test_a_handler_that_fails_is_told_and_over(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    async def inner() -> None:
        raise RuntimeError("boom")

    with guard("handler /synapse/blocks/1.0.0", told):
        async with trio.open_nursery() as nursery:  # a group in a group
            async with trio.open_nursery() as nested:
                nested.start_soon(inner)
            nursery.start_soon(trio.sleep, 0)
    assert [(kind, fields["error"]) for kind, fields in told.events] == [
        ("handler.failed", "RuntimeError")
    ]
    assert "boom" in caplog.text


async def test_a_typed_error_gets_no_traceback(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def handler() -> None:
        raise SynapseError("no such thing", remedy="ask another")

    with guard("handler", told):
        handler()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert not caplog.records[0].exc_info
    assert "no such thing (ask another)" in caplog.text


async def test_the_memory_of_kinds_is_bounded(told: Told) -> None:
    for n in range(3 * module.MAX_KINDS):
        with guard(f"handler {n}", told):
            raise ValueError(n)
    assert len(module._seen) <= module.MAX_KINDS
    assert len(told.events) == 3 * module.MAX_KINDS
