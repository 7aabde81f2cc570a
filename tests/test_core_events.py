"""Events reach every reader; a slow reader loses the oldest and is told how many."""

import trio
import trio.testing

from synapsed.process.events import READER_BACKLOG, EventBus


async def test_every_reader_hears_everything_in_order() -> None:
    bus = EventBus(clock=lambda: 7.0)
    with bus.subscribe() as one, bus.subscribe() as two:
        bus.emit("a.b", n=1)
        bus.emit("a.c", n=2)
        for reader in (one, two):
            assert [(await reader.next()).kind for _ in range(2)] == ["a.b", "a.c"]
    assert bus.counts == {"a.b": 1, "a.c": 1}


async def test_a_slow_reader_is_bounded_and_told_what_it_lost() -> None:
    bus = EventBus()
    with bus.subscribe() as reader:
        for n in range(READER_BACKLOG + 5):
            bus.emit("tick", n=n)
        first = await reader.next()
        assert (first.kind, first.fields) == ("events.lost", {"count": 5})
        assert (await reader.next()).fields == {"n": 5}


async def test_a_waiting_reader_wakes() -> None:
    bus = EventBus()
    with bus.subscribe() as reader:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with trio.fail_after(60):
                    assert (await reader.next()).kind == "later"

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bus.emit("later")


async def test_a_reader_that_left_is_forgotten() -> None:
    bus = EventBus()
    with bus.subscribe() as reader:
        pass
    bus.emit("gone")
    with trio.move_on_after(0) as scope:
        await reader.next()
    assert scope.cancelled_caught
