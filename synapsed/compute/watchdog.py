"""Whether a worker still lives: one that is dead is seen by its socket, one that hangs is not.

A thread of the worker does nothing but take requests, so it answers a Beat at once, however long
a step is and however many requests wait. And what is under way gives a sign of life between any
two pieces of work (computeworker/gate.py): a card that was lost leaves a request in the driver for
ever, while that thread still answers.

Neither bound is one on a step, a round or a request: those may take as long as they take.
"""

import trio

from synapsed.compute import wire
from synapsed.compute.errors import ComputeError
from synapsed.compute.worker import Worker

BEAT_S = 5.0
"""Between two beats, and for the answer to one."""
MISSED = 12
"""Beats in a row without an answer after which a worker hangs: a minute, which a machine that
swaps may need. They are counted, and not the seconds, because we may be the one who slept."""
STUCK_S = 1800.0
"""For one piece of work: half a layer on a batch, a group of an encoding, a file that is read. What
was measured is below a second; a slow disk that is asked for a large model may take minutes."""


async def hanging(worker: Worker) -> str:
    """Returns once a worker hangs: how it does."""
    missed = 0
    while missed < MISSED:
        alive: wire.Alive | None = None
        with trio.move_on_after(BEAT_S):
            alive = await _beat(worker)
        if alive is None:
            missed += 1
            continue
        missed = 0
        if alive.still_s > STUCK_S:
            return f"nothing moves in it for {alive.still_s / 60:.0f} minutes"
        await trio.sleep(BEAT_S)
    return f"{MISSED} beats in {MISSED * BEAT_S:.0f} s were not answered"


async def _beat(worker: Worker) -> wire.Alive | None:
    request = wire.Beat(worker.number())
    try:
        async with worker.asked(request) as replies:
            reply = await worker.next(replies)
    except ComputeError:  # it ends, which others see to
        await trio.sleep_forever()
    return reply if isinstance(reply, wire.Alive) else None
