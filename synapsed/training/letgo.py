"""Checkpoints that this daemon wrote and that nothing needs any more: each is a whole model.

One is kept while its proposal is on its way or open (members fetch it here), and while it is the
head of its training or the one before. Then it is unpinned: `gc` takes it, unless the owner pinned
or pulled it too. The rounds behind it stay: the next checkpoint's begin where they end.
"""

import time
from collections.abc import Callable

from protocols.changes import CheckpointChange
from protocols.ledger.state import State
from synapsed.store import Store
from synapsed.store.reasons import CHECKPOINT

ON_ITS_WAY_S = 3600.0
"""From when a checkpoint is first seen here: a submission waits for the council no longer."""
HEADS = 2
"""Of a training's chain that are kept: the head, and what it was measured against."""


class LetGo:
    """`look` now and then."""

    def __init__(
        self, store: Store, state: Callable[[], State], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._state = state
        self._clock = clock
        self._seen: dict[bytes, float] = {}

    def look(self) -> list[bytes]:
        """Unpin what nothing needs; which."""
        pinned = {pin.cid for pin in self._store.pins() if pin.reason == CHECKPOINT}
        now = self._clock()
        self._seen = {cid: self._seen.get(cid, now) for cid in pinned}
        needed = needed_by(self._state()) if pinned else set()
        gone = [cid for cid in sorted(pinned - needed) if now >= self._seen[cid] + ON_ITS_WAY_S]
        for cid in gone:
            self._store.unpin(cid, CHECKPOINT)
        return gone


def needed_by(state: State) -> set[bytes]:
    """Checkpoints that the ledger has to do with now."""
    changes = [each.terms.manifest.change for each in state.open.values()]
    open_ = {each.manifest for each in changes if isinstance(each, CheckpointChange)}
    heads = {
        one.manifest for training in state.trainings.values() for one in training.chain[-HEADS:]
    }
    return open_ | heads
