"""The driver: in order, nothing said that could not be saved, and nothing stops it."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.errors import LimitError
from synapsed.driver import BACKLOG, PERFORM_TIMEOUT, SAVE_AGAIN, Driver
from synapsed.process.events import EventBus
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
            with trio.fail_after(60):
                await stage.driver.keep_up()
            stage.driver.submit([Send(b"p", "x", str(n).encode())])
        await stage.driver.settle()
        assert len(stage.trace) == 3 * BACKLOG
        nursery.cancel_scope.cancel()


class Ledger:
    """A store that takes lists of saves whole, or refuses them."""

    def __init__(self, trace: list[Any]) -> None:
        self.trace = trace
        self.full = False

    def save(self, saves: Sequence[Save], durable: bool) -> None:
        if self.full:
            raise DiskFullError("no room", remedy="free some")
        self.trace.append(([save.key for save in saves], durable))


async def test_saves_that_stand_together_are_one_transaction() -> None:
    async with trio.open_nursery() as nursery:
        trace: list[Any] = []
        driver = Driver(
            "test",
            tables={},
            emit=EventBus().emit,
            blame=lambda *_: None,
            save_together=Ledger(trace).save,
        )
        driver.on(Send, lambda send: trace.append(send.data))
        nursery.start_soon(driver.run)
        one, two, three = (Save("t", key, b"v") for key in (b"1", b"2", b"3"))
        driver.submit([one, two, Send(b"p", "x", b"first"), three, Send(b"p", "x", b"second")])
        driver.submit([one, Send(b"p", "x", b"third"), two, Emit("e", {})])
        await driver.settle()
        assert trace == [
            ([b"1", b"2"], True),
            b"first",
            ([b"3"], True),
            b"second",
            ([b"1"], True),
            b"third",
            ([b"2"], False),  # nothing that leaves depends on it
        ]
        nursery.cancel_scope.cancel()


async def test_nothing_behind_a_transaction_is_done_until_the_disk_has_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        trace: list[Any] = []
        bus, ledger = EventBus(), Ledger(trace)
        ledger.full = True
        driver = Driver(
            "test",
            tables={},
            emit=bus.emit,
            blame=lambda *_: None,
            save_together=ledger.save,
        )
        driver.on(Send, lambda send: trace.append(send.data))
        nursery.start_soon(driver.run)
        driver.submit([Save("t", b"1", b"v"), Send(b"p", "x", b"signed")])
        driver.submit([Send(b"p", "x", b"later"), Emit("e", {})])
        await trio.sleep(10 * SAVE_AGAIN)
        assert trace == []
        assert "free some" in driver.stalled
        assert bus.counts == {"store.failed": 1}
        ledger.full = False
        await driver.settle()
        assert trace == [([b"1"], True), b"signed", b"later"]
        assert bus.counts == {"store.failed": 1, "store.recovered": 1, "e": 1}
        assert driver.stalled == ""
        nursery.cancel_scope.cancel()


async def test_what_was_saved_earlier_is_synced_before_anything_is_sent_later() -> None:
    """A lock that a machine saved while it had nothing to say, and the signature resting on it."""
    async with trio.open_nursery() as nursery:
        trace: list[Any] = []
        driver = Driver(
            "test",
            tables={},
            emit=EventBus().emit,
            blame=lambda *_: None,
            save_together=Ledger(trace).save,
        )
        driver.on(Send, lambda send: trace.append(send.data))
        driver.on(Publish, lambda publish: trace.append(publish.data))
        nursery.start_soon(driver.run)
        one, two = Save("t", b"1", b"v"), Save("t", b"2", b"v")
        driver.submit([one])
        driver.submit([Emit("e", {}), two])
        driver.submit([Send(b"p", "x", b"signed"), Send(b"p", "x", b"more")])
        driver.submit([one, Blame(b"p", "f", "w")])
        driver.submit([Publish("k", b"said"), two])
        driver.submit([two, Send(b"p", "x", b"again")])
        driver.submit([Send(b"p", "x", b"nothing new")])
        await driver.settle()
        assert trace == [
            ([b"1"], False),
            ([b"2"], False),
            ([], True),
            b"signed",
            b"more",
            ([b"1"], False),
            ([], True),
            b"said",
            ([b"2"], False),
            ([b"2"], True),
            b"again",
            b"nothing new",
        ]
        nursery.cancel_scope.cancel()
