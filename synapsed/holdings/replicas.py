"""What we keep for others: how much of the store that may be, and when it is let go of.

Anybody may announce any model, and every daemon watches over the copies of those that it hears
of. So all that is fetched without the owner's asking is bounded here, and collected here:

    headers of models that are watched     MAX_WATCHED bytes in all, MAX_LEARN of one model;
                                           pinned as WATCHED, collected when nobody announces
                                           the model any more or others are watched instead
    tiles of models that lack copies       SHARE of the quota, with all that is here for others;
                                           pinned as REPLICA once there is some

What the owner has removed is declined: no repair brings it back until the owner wants it again.
What the owner needs the room for goes before all of it: a `Claim` keeps room free of what comes
for others, and eviction.py makes it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from protocols.errors import SynapseError
from protocols.manifest import files
from synapsed.models import forget_watched
from synapsed.ports import Table
from synapsed.store import Store
from synapsed.store.reasons import FOR_OTHERS, REPLICA, WATCHED
from synapsed.transfer.errors import StoppedError
from synapsed.transfer.limits import Room

SHARE = 0.5
"""Of the quota: the owner always finds the other half free of strangers' models."""
MAX_WATCHED = 96 << 20
"""Bytes of manifests, headers and section nodes, which take three times as much memory: the
headers of five models of a trillion parameters."""
MAX_LEARN = 24 << 20
"""Of one model: 163 files and 91,000 tensors have 16 MiB."""
LOOK_SECONDS = 5.0
"""Between two counts of what is here for others, while what is held changes."""


class Changed(Protocol):
    """Is told of a model of which there is more here than there was (Shards.changed)."""

    def __call__(self, model: bytes, *, at_once: bool = False) -> None: ...


class Claim:
    """Room that work of the owner's needs and has not used yet."""

    def __init__(self) -> None:
        self._need = 0
        self._then = 0

    def left(self, used: int) -> int:
        """Bytes of it, where the store has `used` now. What others wrote meanwhile counts as
        ours: who comes last in a crowd asks again."""
        return max(0, self._need - max(0, used - self._then))

    def raise_to(self, need: int, used: int) -> None:
        """At least so many bytes are needed from now on."""
        self._need, self._then = max(need, self.left(used)), used


class Declined:
    """The models that the owner removed, in memory and on disk."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._cids = {cid for cid, _ in table.items()}

    def __contains__(self, cid: object) -> bool:
        return cid in self._cids

    async def add(self, cid: bytes) -> None:
        """Take no more of it for others, from now on."""
        self._cids.add(cid)
        await trio.to_thread.run_sync(self._table.put, cid, b"")

    async def discard(self, cid: bytes) -> None:
        """The owner wants it again."""
        if cid in self._cids:
            self._cids.discard(cid)
            await trio.to_thread.run_sync(self._table.delete, cid)


class Replicas:
    """Holds for others, in bounds. `run` is a task."""

    def __init__(self, store: Store, declined: Declined, changed: Changed) -> None:
        self._store = store
        self._changed = changed
        self.declined = declined
        self._for_others = 0
        self._used_then = math.nan
        self._learned: dict[bytes, int] = {}
        self._reserved = 0
        self._claims: list[Claim] = []
        self._repairs: set[trio.CancelScope] = set()
        self._repair_ended = trio.Event()

    @property
    def claimed(self) -> int:
        """Bytes that work of the owner's will still take."""
        return sum(claim.left(self._store.quota.used) for claim in self._claims)

    @contextmanager
    def claim(self) -> Iterator[Claim]:
        """Room for work of the owner's, for as long as that lasts."""
        claim = Claim()
        self._claims.append(claim)
        try:
            yield claim
        finally:
            self._claims.remove(claim)

    @property
    def for_others(self) -> int:
        """Bytes that are here for others alone, when it was last counted."""
        return self._for_others

    @property
    def free(self) -> int:
        """Bytes that may still be taken for others."""
        quota = self._store.quota
        # What came since the last count may be the owner's; until we look it is not counted so.
        since = 0 if math.isnan(self._used_then) else max(0, quota.used - int(self._used_then))
        share = int(quota.limit * SHARE) - self._for_others - since
        return max(0, min(share, quota.limit - quota.used - self.claimed))

    async def run(self) -> None:
        """Count what is here for others, again and again, until cancelled."""
        self._learned |= await trio.to_thread.run_sync(self._count_watched)
        while True:
            if self._store.quota.used != self._used_then:
                await self._look()
            await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        def count() -> tuple[int, int]:
            used = self._store.quota.used
            pins = self._store.pins()
            owners = {pin.cid for pin in pins if pin.reason not in FOR_OTHERS}
            return used, max(0, used - self._store.reached_bytes(owners))

        try:
            self._used_then, self._for_others = await trio.to_thread.run_sync(count)
        except SynapseError:
            return  # a pinned manifest is damaged: what was counted before still bounds us

    def _count_watched(self) -> dict[bytes, int]:
        return {pin.cid: self._cost(pin.cid) for pin in self._store.pins() if pin.reason == WATCHED}

    def _cost(self, model: bytes) -> int:
        """Bytes of a manifest, and of the headers and section nodes of its files."""
        manifest = self._store.manifest_of(model)
        helds = [self._store.file(ref.root) for ref in files(manifest)] if manifest else []
        shapes = sum(len(held.header) + 32 * len(held.nodes) for held in helds if held is not None)
        return self._store.block_size(model) + shapes

    # -- what is watched --------------------------------------------------------------------

    @contextmanager
    def learning(self, model: bytes) -> Iterator[Room]:
        """Room for the manifest and headers of a model that is to be watched."""
        taken = sum(self._learned.values()) + self._reserved
        size = max(0, min(MAX_LEARN, MAX_WATCHED - taken, self.free))
        self._reserved += size
        room = Room(size)
        try:
            yield room
        finally:
            self._reserved -= size
            self._learned[model] = self._learned.get(model, 0) + size - room.left

    async def watch(self, model: bytes) -> None:
        """Keep what will be learned of a model."""
        await trio.to_thread.run_sync(self._store.pin, model, WATCHED)

    async def forget(self, model: bytes) -> None:
        """Let go of what was learned of a model; of what is kept for other reasons, nothing."""
        await trio.to_thread.run_sync(forget_watched, self._store, model)
        self.forgot(model)

    def forgot(self, model: bytes) -> None:
        """What was learned of a model is gone."""
        self._learned.pop(model, None)

    def watched(self) -> list[bytes]:
        """The models of which something was learned, in this run of the daemon or before."""
        return sorted(self._learned)

    # -- what is held -----------------------------------------------------------------------

    @contextmanager
    def repairing(self) -> Iterator[Room]:
        """Room for one repair. StoppedError where the owner needs it."""
        with trio.CancelScope() as scope:
            self._repairs.add(scope)
            try:
                yield Room(self.free)
            finally:
                self._repairs.discard(scope)
                self._repair_ended.set()
        if scope.cancelled_caught:
            raise StoppedError("the owner needs the room")

    async def halt(self) -> None:
        """End the repairs that are running; what they brought is on record then."""
        while self._repairs:
            self._repair_ended = trio.Event()
            for scope in self._repairs:
                scope.cancel()
            await self._repair_ended.wait()

    def declines(self, model: bytes) -> bool:
        """Whether the owner does not want it here."""
        return model in self.declined

    async def hold(self, model: bytes) -> None:
        """A repair brought some of a model: it is kept and announced, unless it was removed."""
        if model in self.declined:
            return
        await trio.to_thread.run_sync(self._store.pin, model, REPLICA)
        if model in self.declined:  # meanwhile
            await trio.to_thread.run_sync(self._store.unpin, model, REPLICA)
            return
        # At once: others in the ranking begin as well where they see nobody at work.
        self._changed(model, at_once=True)

    def more(self, model: bytes) -> None:
        """Still more of it."""
        if model not in self.declined:
            self._changed(model)
