"""The loop's lag is that of the task that held it."""

import time

import trio

from synapsed.process.looplag import LoopLag


def test_a_task_that_holds_the_loop_is_measured() -> None:
    lag = LoopLag()

    async def hold() -> None:
        await trio.lowlevel.checkpoint()
        time.sleep(0.05)  # what a careless handler does
        await trio.sleep(0)

    trio.run(hold, instruments=[lag])
    assert lag.read()["max"] >= 50
    lag.reset()
    assert lag.read() == {"p50": 0.0, "p99": 0.0, "max": 0.0}
