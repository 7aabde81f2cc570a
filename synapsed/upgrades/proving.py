"""Trying a candidate before a daemon says that it is ready: on what was recorded here.

So a daemon has a say, and sees a module trap, that has no traffic in the shadow stage.
"""

import logging
import secrets

import trio

from protocols.draw import Draw
from protocols.errors import SynapseError
from protocols.ledger.rollout import Rollout
from protocols.slots.abi import Batch, Slot
from synapsed.upgrades.board import Board, Outcome
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.strikes import weight
from synapsed.upgrades.watching import Watch

log = logging.getLogger(__name__)

BATCHES = 16
"""That a candidate is tried on ..."""
ROWS = 64
"""... of so many rows, where too few were recorded: a tenth of a second in all."""


AGAIN_S = 1.0
"""Until a call is tried again that was not answered, by nobody's fault: the jail rests."""


class Prover:
    """Tries one candidate at a time, with nobody waiting."""

    def __init__(self, board: Board, recorder: Recorder, watch: Watch) -> None:
        self._board = board
        self._recorder = recorder
        self._watch = watch
        self._proven: dict[str, bytes] = {}
        self._waiting: dict[str, Rollout] = {}
        self._wake = trio.Event()

    def prove(self, slot: str, rollout: Rollout) -> None:
        """A candidate is here, in its shadow stage."""
        if self._proven.get(slot) != rollout.proposal:
            self._proven[slot] = rollout.proposal
            self._waiting[slot] = rollout
            self._wake.set()

    def begin_anew(self) -> None:
        """Whatever was under way is to be tried again."""
        self._proven.clear()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake = trio.Event()
            while self._waiting:
                await self._prove(*self._waiting.popitem())
            await self._wake.wait()

    async def _prove(self, name: str, rollout: Rollout) -> None:
        samples = await trio.to_thread.run_sync(self._samples, self._board.lines[name].slot)
        while samples and self._is_tried(name, rollout):
            if await self._compare(name, samples[-1]):
                samples.pop()
            else:
                await trio.sleep(AGAIN_S)
        if self._is_tried(name, rollout):
            self._watch.say_ready(name, rollout)

    def _is_tried(self, name: str, rollout: Rollout) -> bool:
        """Whether it is not over, nor in quarantine."""
        trying = self._board.lines[name].trying
        return trying is not None and trying.candidate == rollout.candidate

    async def _compare(self, name: str, batch: Batch) -> bool:
        """False where the jail has trouble, which says nothing of the candidate."""
        line = self._board.lines[name]
        try:
            fuel = await self._board.answer(line, line.incumbent, batch)
        except SynapseError as error:
            self._watch.failed(line, line.incumbent, error)
            return bool(weight(error, line.incumbent.module))  # once is enough for a strike
        return await self._watch.shadow.compare(Outcome(line, batch, line.incumbent, fuel))

    def _samples(self, slot: Slot) -> list[Batch]:
        found = []
        try:
            found = [batch for _, batch in self._recorder.batches(slot)][-BATCHES:]
        except SynapseError as error:
            log.warning("recorded batches of %s cannot be read: %s", slot.name, error)
        while len(found) < BATCHES:
            found.append(slot.generate(Draw(secrets.token_bytes(16)), ROWS))
        return found
