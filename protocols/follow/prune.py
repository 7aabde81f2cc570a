"""Forgetting entries below a ratified checkpoint, where the owner allows it.

Two records would be needed at once, so there is one that says both how far entries may be missing
and how far they are surely gone: it is saved before the first is deleted and after the last, so
that a crash in between neither loses an entry that should be there nor leaves any behind.
"""

from protocols.codec import Message, decode, encode
from protocols.effects import Save
from protocols.errors import MalformedError
from protocols.follow.chain import Effects
from protocols.follow.load import PRUNED_KEY, Reader
from protocols.follow.log import TABLE, EntryLog, entry_key
from protocols.ledger.chain import Index
from protocols.records import DamagedRecordError, guarded, unguarded

STEP = 256
"""Entries deleted at one event: 2 ms."""
MAX_RECORD = 64


class Pruned(Message, frozen=True, array_like=True):
    """Entries below `base` may be missing, those below `gone` are."""

    base: Index
    gone: Index


def read_pruned(read: Reader) -> Pruned:
    """What was pruned, as the disk has it; DamagedRecordError."""
    record = read.get(PRUNED_KEY)
    if record is None:
        return Pruned(base=1, gone=1)
    return decode(unguarded(TABLE, PRUNED_KEY, record), Pruned, MAX_RECORD)


def save_pruned(pruned: Pruned) -> Save:
    """Its record."""
    return Save(TABLE, PRUNED_KEY, guarded(TABLE, PRUNED_KEY, encode(pruned)))


class Pruner:
    """Deletes what may go, a little at each event."""

    __slots__ = ("_log", "_pruned")

    def __init__(self, log: EntryLog, read: Reader) -> None:
        self._log = log
        try:
            self._pruned = read_pruned(read)
        except MalformedError:
            self._pruned = Pruned(base=1, gone=1)

    @property
    def base(self) -> int:
        """Entries below it may be missing."""
        return self._pruned.base

    @property
    def busy(self) -> bool:
        """Whether there is more to delete."""
        return self._pruned.gone < self._pruned.base

    def to(self, base: int) -> Effects:
        """Entries below `base` are needed no longer."""
        if base <= self._pruned.base:
            return []
        try:
            self._log.prune(base)
        except DamagedRecordError:
            return []  # a hash that is still needed: it is found again when it is asked for
        self._pruned = Pruned(base=base, gone=self._pruned.gone)
        return [save_pruned(self._pruned)]

    def step(self) -> Effects:
        """Delete some of them."""
        if not self.busy:
            return []
        base, gone = self._pruned.base, self._pruned.gone
        stop = min(base, gone + STEP)
        self._pruned = Pruned(base=base, gone=stop)
        effects: Effects = [Save(TABLE, entry_key(index), None) for index in range(gone, stop)]
        if stop == base:
            effects.append(save_pruned(self._pruned))
        return effects
