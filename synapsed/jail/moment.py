"""Looking whether something has come, for a moment that is shorter than the event loop's turn."""

import os
import select
import time

MOMENT_S = 0.0002
"""That a call blocks the event loop before it waits as others do: a batch of 10,000 rows, with its
way there and back, takes 0.11 ms, and the event loop's turn would add a fifth to that."""


def soon_readable(fd: int) -> bool:
    """Whether there is something to read, within a moment. Asked again and again: an idle machine
    takes longer to wake who sleeps than most calls take; who else wants the core has it meanwhile.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    until = time.perf_counter() + MOMENT_S
    while not poll.poll(0):
        if time.perf_counter() > until:
            return False
        os.sched_yield()
    return True


def readable(fd: int) -> bool:
    """Whether there is something to read already."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
