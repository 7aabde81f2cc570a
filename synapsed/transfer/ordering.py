"""A pull's use of the slot `tile_assignment`: one operation, from the first order to the speed."""

import logging

import trio

from protocols.slots.tile_assignment import NAME
from protocols.transfer.pullorder import ANSWER_SECONDS
from protocols.transfer.schedule import Schedule
from synapsed.slots import NATIVE, NATIVE_SLOTS, Operation, Slots

log = logging.getLogger(__name__)

MEASURED_BYTES = 1 << 18
MEASURED_SECONDS = 2.0
"""A pull of less, in less time, says nothing of who was asked for what."""


class Orders:
    """Answers what a schedule wants to know."""

    def __init__(self, slots: Slots) -> None:
        self._operation: Operation = slots.operation(NAME)
        self._answering = self._operation
        self._since: float | None = None

    def begin(self) -> None:
        """Leaves are asked for from now on."""
        self._since = trio.current_time()

    async def bring(self, schedule: Schedule) -> bool:
        """Bring the order of chunks up to date where it is time for that and nobody does it.
        Whether others may have asked meanwhile, by the order of before."""
        batch = schedule.wants_order(trio.current_time(), self._answering.batch)
        if batch is None:
            return False
        try:
            with trio.move_on_after(ANSWER_SECONDS) as scope:
                await self._answering.call(batch)
            if not scope.cancelled_caught:
                schedule.ordered(batch)
                return self._answering.version != NATIVE
            log.warning("the order of a pull was not answered in time: the reference has it")
            self._answering = NATIVE_SLOTS.operation(NAME)
            return False
        finally:
            schedule.unanswered(batch)

    def ended(self, fetched: int) -> None:
        """The pull has ended, however, with so many bytes that came: the slot's goal is speed."""
        if self._since is None:
            return
        seconds = trio.current_time() - self._since
        if fetched >= MEASURED_BYTES or seconds >= MEASURED_SECONDS:
            self._operation.achieved(int(fetched / max(seconds, 0.001)))
