"""Which version of a slot answers a call, and what happens where it cannot.

The ledger says what is in force, the owner and the quarantine take modules out of it, and a coin
says which of two versions an operation of a stage runs on. What comes out of that is a Line for
each slot. A call that one version cannot answer the next one does, and the last one is native:
there is always an answer.
"""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.ledger.rollout import REFERENCE, Version, coin
from protocols.slots.abi import WORD, Batch, Limits, Slot
from synapsed.jail.errors import JailError
from synapsed.process import supervise


class Trying(msgspec.Struct, frozen=True):
    """An upgrade under way, as it concerns this daemon."""

    candidate: Version
    permille: int
    of_eight: int
    """Operations that are the candidate's; 0 where it runs beside the incumbent, whose answer is
    used."""


class Line(msgspec.Struct, frozen=True):
    """What answers calls of one slot now."""

    slot: Slot
    steady: tuple[Version, ...]
    """Beside a candidate: the version in force, and what answers where that cannot. The last is
    native."""
    trying: Trying | None = None

    @property
    def incumbent(self) -> Version:
        """What answers first, beside a candidate."""
        return self.steady[0]

    def has(self, version: Version) -> bool:
        """Whether a version's bytes may answer."""
        trying = () if self.trying is None else (self.trying.candidate,)
        return any(each.module == version.module for each in (*self.steady, *trying))


class Called(Protocol):
    """How a call went (synapsed.jail.Called)."""

    @property
    def fuel(self) -> int: ...


class Jail(Protocol):
    """What runs modules (synapsed.jail.Jail)."""

    def room(self, size: int) -> memoryview: ...

    async def call(self, module: bytes, batch: Batch, limits: Limits) -> Called: ...


class Outcome(NamedTuple):
    """One call, as it went."""

    line: Line
    batch: Batch
    answered: Version
    fuel: int
    """0 where the native one answered."""


class Watcher(Protocol):
    """Who is told how calls and operations went."""

    def failed(self, line: Line, version: Version, error: SynapseError) -> None:
        """A version could not answer a call."""

    def called(self, outcome: Outcome) -> None:
        """A call was answered; the batch may be read until this returns."""

    def achieved(self, line: Line, *, candidate: bool, value: int) -> None:
        """An operation's goal is known, of an upgrade that is tried."""


def _nobody(_kind: str, /, **_fields: object) -> None:
    """For a board that nobody watches."""


class Board:
    """The daemon's Slots (synapsed/slots.py): operations on whatever is in force. Native alone,
    until somebody who follows a ledger says otherwise."""

    def __init__(self, slots: Mapping[str, Slot], emit: supervise.Emit = _nobody) -> None:
        self._emit = emit
        self.lines = {name: Line(slot, (REFERENCE,)) for name, slot in slots.items()}
        self.jail: Jail | None = None
        self.watcher: Watcher | None = None

    def operation(self, slot: str, name: bytes = b"") -> "BoardOperation":
        """One use of a slot, on a version that stays the same while it can answer."""
        line = self.lines[slot]
        trying = line.trying
        tossed = trying is not None and coin(
            trying.candidate.proposal, name or secrets.token_bytes(16), trying.of_eight
        )
        return BoardOperation(self, line, on_candidate=tossed)

    def guarded(self) -> AbstractContextManager[None]:
        """For what a watcher does: whoever has an answer is not to be troubled by it."""
        return supervise.guard("upgrades", self._emit)

    async def answer(self, line: Line, version: Version, batch: Batch) -> int:
        """Have one version fill the answer in; the fuel that it took. Raises the jail's errors."""
        if version.native or self.jail is None:
            line.slot.reference(batch)
            return 0
        limits = Limits(*msgspec.structs.astuple(version.limits))
        try:
            return (await self.jail.call(version.module, batch, limits)).fuel
        except OSError as error:
            raise JailError(
                f"the jail has trouble with the system: {error}",
                remedy="`synapsed doctor` looks at processes, memory and open files",
            ) from error


class BoardOperation:
    """See synapsed.slots.Operation."""

    def __init__(self, board: Board, line: Line, *, on_candidate: bool) -> None:
        self._board = board
        self._line = line
        self._on_candidate = on_candidate
        self._chain = line.steady
        if on_candidate and line.trying is not None:
            self._chain = (line.trying.candidate, *line.steady)
        self._mixed = False
        """Whether the version that was chosen left a call to another."""
        self.version = self._chain[0].number

    def batch(self, context: Mapping[str, int], rows: Sequence[int]) -> Batch:
        """Where a module will answer, the memory is the jail's, and nothing is copied."""
        slot, jail = self._line.slot, self._board.jail
        room = None
        if jail is not None and not self._chain[0].native:
            room = jail.room(slot.words(rows) * WORD)
        return Batch.new(slot, context, rows, room)

    async def call(self, batch: Batch) -> None:
        """Fill the answer in. Raises nothing but Cancelled."""
        board, watcher = self._board, self._board.watcher
        for version in self._chain:
            # The owner's word and a quarantine hold at once, also in the midst of an operation.
            if version is not REFERENCE and not board.lines[self._line.slot.name].has(version):
                self._mixed = True
                continue
            try:
                fuel = await board.answer(self._line, version, batch)
            except trio.Cancelled:
                self._mixed = True  # whoever would not wait for it goes on with something else
                raise
            except SynapseError as error:
                self._mixed = True
                if watcher is not None:
                    with board.guarded():
                        watcher.failed(self._line, version, error)
                continue
            self.version = version.number
            if watcher is not None:
                with board.guarded():
                    watcher.called(Outcome(self._line, batch, version, fuel))
            return

    def achieved(self, value: int) -> None:
        """What two versions had a hand in says nothing of either."""
        watcher = self._board.watcher
        if watcher is not None and self._line.trying is not None and not self._mixed:
            with self._board.guarded():
                watcher.achieved(self._line, candidate=self._on_candidate, value=value)
        self._mixed = True
