"""Running an upgrade beside what answers: on the same batches, with nobody waiting for it.

Batches that were answered are copied into a short queue. One task runs the candidate on each copy,
and compares. Where it falls behind, batches are dropped: what is shown is a sample.
"""

from collections import deque
from collections.abc import Callable

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.ledger.rollout import Version
from protocols.slots.abi import Batch
from synapsed.upgrades.board import Board, Line, Outcome
from synapsed.upgrades.strikes import weight

MAX_WAITING = 4
"""Batches: of the largest, 32 MB."""


class Compared(msgspec.Struct, frozen=True):
    """A candidate's call beside the incumbent's."""

    line: Line
    version: Version
    alike: bool
    fuel: int
    incumbent_fuel: int


class Shadow:
    """`offer` what was answered; `run` compares."""

    def __init__(
        self,
        board: Board,
        compared: Callable[[Compared], None],
        failed: Callable[[Line, Version, SynapseError], None],
        dropped: Callable[[Line], None],
    ) -> None:
        self._board = board
        self._compared = compared
        self._failed = failed
        self._dropped = dropped
        self._waiting: deque[Outcome] = deque()
        self._wake = trio.Event()

    def offer(self, outcome: Outcome) -> None:
        """Have the candidate answer it, too, if there is time."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped(outcome.line)
            return
        self._waiting.append(outcome._replace(batch=outcome.batch.copy()))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self._waiting:
                await self.compare(self._waiting.popleft())
            self._wake = trio.Event()
            await self._wake.wait()

    async def compare(self, outcome: Outcome) -> bool:
        """Run the candidate on what the incumbent answered. False where it could not, and it was
        not the candidate's doing."""
        line, answered = outcome.line, outcome.batch
        trying = self._board.lines[line.slot.name].trying
        if trying is None:  # it is over
            return True
        version, batch = trying.candidate, answered.copy()
        try:
            fuel = await self._board.answer(line, version, batch)
        except SynapseError as error:
            self._failed(line, version, error)
            return bool(weight(error, version.module))
        self._compared(Compared(line, version, alike(batch, answered), fuel, outcome.fuel))
        return True


def alike(one: Batch, other: Batch) -> bool:
    """Whether the daemon would do the same on both answers."""
    if one.answers_like(other):
        return True
    return all(one.answer(each.name) == other.answer(each.name) for each in one.slot.outputs)
