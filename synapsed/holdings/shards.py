"""Announcing what we hold of each model, while it grows and when it shrinks.

Whoever changes what is held says `changed(model)`; one task looks at what is there and announces
it, at most once in SETTLE_SECONDS, since each announcement costs every daemon some CPU.
What must be known sooner is asked for: pullers poll each other (protocols/tensors/blocks.py, Have).

Only what is pinned is announced, whole or in part. The headers of models that we watch over are
here too, and if everybody announced those, no model would ever vanish.
"""

import logging
from collections.abc import Callable, Iterable

import trio

from protocols.cid import cid_text
from protocols.errors import LimitError, SynapseError
from protocols.gossip.announcement import ShardBody, clip_runs
from synapsed.models import held_tiles, promised
from synapsed.store import Store

log = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0
"""Between two announcements of one model that is being pulled."""

Announce = Callable[[ShardBody], None]
Withdraw = Callable[[bytes], None]
"""Of a model; nothing happens where nothing was announced."""


class Shards:
    """Our own shard announcements. `run` is a task."""

    def __init__(
        self,
        store: Store,
        announce: Announce,
        withdraw: Withdraw,
        wanted: Callable[[bytes], bool],
        *,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        """`wanted` tells whether a model is being collected, so that nothing held is still said."""
        self._store = store
        self._announce = announce
        self._withdraw = withdraw
        self._wanted = wanted
        self._settle = settle
        self._due: dict[bytes, float] = {}
        self._said: dict[bytes, tuple[tuple[int, int], ...] | None] = {}
        self._look_at_all = False
        self._wake = trio.Event()

    def changed(self, model: bytes, *, at_once: bool = False) -> None:
        """What is held of `model` is not what it was; `at_once` for its first and last byte."""
        when = trio.current_time() + (0.0 if at_once else self._settle)
        self._due[model] = min(when, self._due.get(model, when))
        self._wake.set()

    def all_changed(self, said: Iterable[bytes] = ()) -> None:
        """Look at every model again: at the start, after a scrub or a collection.

        `said` are models that an earlier run of the daemon announced.
        """
        for model in {*said, *self._said}:
            self.changed(model, at_once=True)
        self._look_at_all = True
        self._wake.set()

    async def run(self) -> None:
        """Announce what is due, until cancelled."""
        while True:
            self._wake = trio.Event()
            if self._look_at_all:
                self._look_at_all = False
                for model in sorted(await trio.to_thread.run_sync(promised, self._store)):
                    self.changed(model, at_once=True)
            now = trio.current_time()
            for model in [model for model, when in self._due.items() if when <= now]:
                del self._due[model]
                tiles = await trio.to_thread.run_sync(self._tiles, model)
                self._say(model, tiles)
            with trio.move_on_at(min(self._due.values(), default=float("inf"))):
                await self._wake.wait()

    def _tiles(self, model: bytes) -> tuple[tuple[int, int], ...]:
        try:
            runs = held_tiles(self._store, model) if model in promised(self._store) else []
        except SynapseError:
            return ()  # its manifest is not here (any more)
        return clip_runs((start, start + count) for start, count in runs)

    def _say(self, model: bytes, tiles: tuple[tuple[int, int], ...]) -> None:
        saying = tiles if tiles or self._wanted(model) else None
        if saying is not None:
            # Said again even if it is the same: after a restart the catalog knows best.
            try:
                self._announce(ShardBody(model=model, tiles=saying))
            except LimitError as error:
                log.warning("model %s is not announced: %s", cid_text(model), error)
        elif self._said.get(model, ()) is not None:
            self._withdraw(model)
        self._said[model] = saying
