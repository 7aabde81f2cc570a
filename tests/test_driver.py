"""The driver: in order, nothing said that could not be saved, and nothing stops it."""

from typing import Any

import pytest
import trio
import trio.testing

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.errors import LimitError
from synapsed.driver import BACKLOG, PERFORM_TIMEOUT, Driver
from synapsed.events import EventBus
from synapsed.store.errors import DiskFullError
from tests.pipes import MemoryTable


class Stage:
    """A driver whose effects leave a trace."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.trace: list[Any] = []
        self.bus = EventBus()
        self.table = Traced(self.trace)
        self.driver = Driver(
            "test",
            tables={"t": self.table},
            emit=self.bus.emit,
            blame=lambda peer, fault, why: self.trace.append(("blame", peer, fault, why)),
        )
        self.driver.on(Publish, self.publish)
        self.driver.on(Send, lambda send: self.trace.append(("send", send.data)))
        nursery.start_soon(self.driver.run)

    async def publish(self, publish: Publish) -> None:
        await trio.lowlevel.checkpoint()
        if publish.data == b"too much":
            raise LimitError("too much")
        if publish.data == b"stuck":
            await trio.sleep_forever()
        self.trace.append(("publish", publish.data))


class Traced(MemoryTable):
    def __init__(self, trace: list[Any]) -> None:
        super().__init__()
        self.trace = trace
        self.full = False

    def put(self, key: bytes, value: bytes) -> None:
        if self.full:
            raise DiskFullError("no room", remedy="free some")
        self.trace.append(("save", key))
        super().put(key, value)


async def test_effects_are_performed_in_order() -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        for n in range(100):
            name = str(n).encode()
            stage.driver.submit([Save("t", name, name), Publish("k", name)])
            stage.driver.submit([Send(b"p", "proto", name), Blame(b"p", "f", "w")])
        await stage.driver.settle()
        expected = []
        for n in range(100):
            name = str(n).encode()
            expected += [("save", name), ("publish", name), ("send", name)]
            expected += [("blame", b"p", "f", "w")]
        assert stage.trace == expected
        stage.driver.submit([Save("t", b"1", None), Emit("e", {"x": 1})])
        await stage.driver.settle()
        assert b"1" not in stage.table
        assert stage.bus.counts == {"e": 1}
        nursery.cancel_scope.cancel()


async def test_settling_with_nothing_to_do_returns() -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        stage.driver.submit([])
        await stage.driver.settle()
        nursery.cancel_scope.cancel()


async def test_what_was_not_saved_does_not_leave() -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        stage.table.full = True
        stage.driver.submit(
            [
                Emit("e", {}),
                Save("t", b"k", b"v"),
                Publish("k", b"x"),
                Send(b"p", "q", b"x"),
                Blame(b"p", "f", "w"),
            ]
        )
        stage.driver.submit([Publish("k", b"unrelated")])
        await stage.driver.settle()
        assert stage.trace == [("blame", b"p", "f", "w"), ("publish", b"unrelated")]
        assert stage.bus.counts == {"e": 1, "store.failed": 1}
        nursery.cancel_scope.cancel()


async def test_one_that_fails_or_hangs_does_not_stop_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        for data in (b"too much", b"stuck", b"fine"):
            stage.driver.submit([Publish("k", data)])
        await stage.driver.settle()
        assert stage.trace == [("publish", b"fine")]
        assert trio.current_time() == pytest.approx(PERFORM_TIMEOUT, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_others_get_their_turn() -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        stage.driver.submit([Save("t", str(n).encode(), b"v") for n in range(1000)])
        turns = 0
        while len(stage.trace) < 1000:
            turns += 1
            await trio.lowlevel.checkpoint()
        assert turns > 20
        nursery.cancel_scope.cancel()


async def test_who_brings_more_than_is_carried_out_is_held_up() -> None:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        stage.driver.submit([Publish("k", b"stuck")])
        await trio.testing.wait_all_tasks_blocked()
        for n in range(BACKLOG + 1):
            await stage.driver.keep_up()
            stage.driver.submit([Send(b"p", "x", str(n).encode())])
        with trio.move_on_after(0.05) as waited:
            await stage.driver.keep_up()
        assert waited.cancelled_caught
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        for n in range(3 * BACKLOG):
            with trio.fail_after(5):
                await stage.driver.keep_up()
            stage.driver.submit([Send(b"p", "x", str(n).encode())])
        await stage.driver.settle()
        assert len(stage.trace) == 3 * BACKLOG
        nursery.cancel_scope.cancel()
