"""Announced adapters: which suit this machine, and holding copies of the best for others.

The slot `adapter_ranking` scores all that the catalog knows, for what is here: the owner sees them
in this order, and from the first of them on the daemon looks for one that lacks copies, whose base
model is here, and that fits what may be held for others (replicas.py). Whose turn it is to take one
says rendezvous among those who hold its base, so that not all of them do.

Rules of this file, whatever the slot answers:
1. One adapter at a time, never one that the owner took back, nor one whose base is not here.
2. What is taken is pinned as REPLICA, announced, and given up when its base goes.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec
import trio

from protocols.cid import cid_text
from protocols.errors import LimitError, MismatchError, SynapseError
from protocols.gossip.announcement import AdapterBody
from protocols.gossip.shelf import Entry
from protocols.manifest import AdapterManifest
from protocols.rendezvous import rank
from protocols.slots.abi import MAX_ROWS
from protocols.slots.adapter_ranking import ADAPTERS, MILLE, NAME, SCORE, SLOT
from synapsed.control.drafts import adapter_body
from synapsed.gossip.catalog import CatalogService
from synapsed.holdings.elsewhere import Elsewhere
from synapsed.holdings.replicas import Replicas
from synapsed.holdings.uses import Clock, wall_clock
from synapsed.models import model_state
from synapsed.process.supervise import Emit
from synapsed.slots import NATIVE_SLOTS, Operation, Slots
from synapsed.store import Store
from synapsed.store.reasons import FOR_OTHERS, REPLICA
from synapsed.transfer.limits import Room
from synapsed.transfer.pull import Puller

log = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
"""Between two looks for an adapter to hold: an announcement has got around, and its holders are
seen to be alive or not."""
STEP_SECONDS = 60.0
"""For which those further down the ranking of an adapter's takers wait: a large one's fetch."""
MANIFEST_BYTES = 64 << 10
"""Beyond an adapter's announced size: its manifest, header and hashes."""
FAILED_SECONDS = 1800.0
"""Until an adapter that could not be fetched is tried again."""


class NotAsSaidError(MismatchError):
    """An adapter whose manifest says something else than its announcement."""

    code = "not-as-announced"


class Ranked(msgspec.Struct, frozen=True):
    """One announced adapter. `base` is how much of its base model is here, in thousandths."""

    body: AdapterBody
    score: int
    base: int
    held: bool

    @property
    def cid(self) -> bytes:
        """Of its manifest."""
        return self.body.adapter


class _Facts(msgspec.Struct):
    """What the catalog and the disk say of one adapter."""

    body: AdapterBody
    issued: int
    issuers: set[bytes]
    base: int = 0
    owned: bool = False
    held: bool = False
    author: bytes | None = None


class Adapters:
    """Ranks and holds adapters. `run` is a task."""

    def __init__(
        self,
        store: Store,
        catalog: CatalogService,
        puller: Puller,
        replicas: Replicas,
        elsewhere: Elsewhere,
        *,
        me: bytes,
        wanted: int,
        hold: bool,
        reputation: Callable[[], Mapping[bytes, int]],
        tell: Emit,
        slots: Slots = NATIVE_SLOTS,
        clock: Clock = wall_clock,
    ) -> None:
        """`hold`: whether copies are held for others at all, `wanted` of each in the network."""
        self._me = me
        self._store = store
        self._catalog = catalog
        self._puller = puller
        self._replicas = replicas
        self._elsewhere = elsewhere
        self._wanted = wanted
        self._hold = hold
        self._reputation = reputation
        self._tell = tell
        self._slots = slots
        self._clock = clock
        self._shown: tuple[Operation, dict[bytes, int]] | None = None
        self._seen: dict[bytes, float] = {}
        self._failed: dict[bytes, float] = {}

    # -- ranking -----------------------------------------------------------------------------

    async def ranked(self, *, shown: bool = False) -> list[Ranked]:
        """All adapters, the best first; `shown` to the owner, who may then choose one."""
        facts = self._announced()
        await trio.to_thread.run_sync(self._look_at_disk, facts)
        found = list(facts.items())[:MAX_ROWS]
        operation = self._slots.operation(NAME)
        batch = operation.batch(self._context(), (len(found),))
        for name, values in self._columns([it for _, it in found]).items():
            batch.fill(ADAPTERS, name, values)
        await operation.call(batch)
        scores = batch.answer(SCORE)
        ranked = [
            Ranked(it.body, score, it.base, it.held)
            for (_, it), score in zip(found, scores, strict=True)
        ]
        ranked.sort(key=lambda one: (-one.score, one.cid))
        if shown:
            places = {one.cid: place for place, one in enumerate(ranked, 1)}
            self._shown = operation, places
        return ranked

    def chosen(self, adapter: bytes) -> None:
        """The owner has an adapter fetched: the list that it was last shown is judged by that."""
        if self._shown is None:
            return
        operation, places = self._shown
        if adapter in places:
            self._shown = None
            operation.achieved(places[adapter])

    def _announced(self) -> dict[bytes, _Facts]:
        """The adapters of the catalog. Of what holders say of one, the oldest word counts."""
        found: dict[bytes, _Facts] = {}
        for entry in self._catalog.catalog.entries("adapter"):
            said = entry.announcement
            assert isinstance(said.body, AdapterBody)
            facts = found.setdefault(entry.subject, _Facts(said.body, said.issued, set()))
            facts.issuers.add(entry.issuer)
            if said.issued < facts.issued:
                facts.body, facts.issued = said.body, said.issued
        return found

    def _look_at_disk(self, facts: Mapping[bytes, _Facts]) -> None:
        """What is here of them, and of their base models. For a thread."""
        owned = {pin.cid for pin in self._store.pins() if pin.reason not in FOR_OTHERS}
        bases: dict[bytes, int] = {}
        for cid, it in facts.items():
            manifest = self._manifest(cid)
            if manifest is not None:
                it.body, it.author = adapter_body(cid, manifest), manifest.author
                held = self._store.file_of(manifest.file)
                it.held = held is not None and held.complete
            base = it.body.base
            if base not in bases:
                bases[base] = self._part_here(base)
            it.base, it.owned = bases[base], base in owned

    def _manifest(self, cid: bytes) -> AdapterManifest | None:
        manifest = self._store.manifest_of(cid) if self._store.has_block(cid) else None
        return manifest if isinstance(manifest, AdapterManifest) else None

    def _part_here(self, model: bytes) -> int:
        """Of a model, in thousandths; headers alone are nothing."""
        if not self._store.has_block(model):
            return 0
        with suppress(SynapseError):
            state = model_state(self._store, model)
            return MILLE * state.held // max(1, state.size)
        return 0

    def _context(self) -> dict[str, int]:
        quota = self._store.quota
        values = {
            "free": quota.limit - quota.used + self._replicas.for_others,
            "spare": self._replicas.free,
            "wanted": self._wanted,
        }
        return {each.name: each.clamp(values[each.name]) for each in SLOT.context}

    def _columns(self, facts: Sequence[_Facts]) -> dict[str, list[int]]:
        now = int(self._clock() * 1000)
        reputation = self._reputation()
        rows = [
            {
                "base": it.base,
                "owned": int(it.owned),
                "bytes": it.body.size,
                "rank": it.body.rank,
                "holders": self._holders(it),
                "reputation": max(
                    reputation.get(peer, 0)
                    for peer in ([it.author] if it.author is not None else it.issuers)
                ),
                "age": (now - it.issued) // 1000,
                "held": int(it.held),
                "own": int(self._me in it.issuers),
            }
            for it in facts
        ]
        columns = SLOT.tables[0].columns
        return {each.name: [each.clamp(row[each.name]) for row in rows] for each in columns}

    def _holders(self, facts: _Facts) -> int:
        return len(self._elsewhere.offering(facts.body.adapter)) + (self._me in facts.issuers)

    # -- holding -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Hold copies, until cancelled."""
        await self._catalog.restored()
        await self._tidy()
        while True:
            await trio.sleep(ROUND_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Give up what is of no use here any more, and take one adapter, if one wants taking."""
        ranked = await self.ranked()
        for one in ranked:
            if one.held and not one.base:
                await self.let_go(one.cid)
        if not self._hold or self._puller.paused:
            return
        for one in ranked:
            if self._is_wanted(one):
                await self._take(one)
                return

    def _is_wanted(self, one: Ranked) -> bool:
        now = trio.current_time()
        if one.held or not one.base or self._replicas.declines(one.cid):
            return False
        if one.body.size + MANIFEST_BYTES > self._replicas.free:
            return False
        if now < self._failed.get(one.cid, -float("inf")):
            return False
        have = self._elsewhere.offering(one.cid)
        lacking = self._wanted - len(have)
        if lacking <= 0 or not have:
            self._seen.pop(one.cid, None)
            return False
        takers = {it.peer for it in self._elsewhere.holders(one.body.base)} - set(have)
        place = rank(one.cid, [(peer, 1) for peer in takers | {self._me}]).index(self._me)
        return now >= self._seen.setdefault(one.cid, now) + STEP_SECONDS * (place // lacking)

    async def _take(self, one: Ranked) -> None:
        """Fetch one as a copy for others."""
        cid = one.cid
        await trio.to_thread.run_sync(self._store.pin, cid, REPLICA)
        try:
            with self._replicas.repairing() as free:
                room = Room(min(free.left, one.body.size + MANIFEST_BYTES))
                report = await self._puller.pull(cid, room=room)
            manifest = await trio.to_thread.run_sync(self._manifest, cid)
            if manifest is None or manifest.base != one.body.base:
                raise NotAsSaidError(f"{cid_text(cid)} is not the adapter that it is announced as")
        except SynapseError as error:
            self._failed[cid] = trio.current_time() + FAILED_SECONDS
            await self.let_go(cid)
            self._tell("replication.adapter-failed", adapter=cid_text(cid), why=error.message)
            return
        self._announce(cid, manifest)
        self._tell("replication.adapter", adapter=cid_text(cid), bytes=report.fetched)

    def _announce(self, cid: bytes, manifest: AdapterManifest) -> None:
        try:
            self._catalog.announce(adapter_body(cid, manifest))
        except LimitError as error:
            log.warning("adapter %s is not announced: %s", cid_text(cid), error)

    async def let_go(self, cid: bytes) -> None:
        """Hold an adapter for others no more; what the owner wants of it stays."""
        await trio.to_thread.run_sync(self._collect, cid)
        self.gone([cid])

    async def decline(self, cid: bytes) -> None:
        """The owner took our announcement back: if it is held for others, it is no more."""
        if (cid, REPLICA) in self._store.pins():
            await self._replicas.declined.add(cid)
            await self.let_go(cid)

    def _collect(self, cid: bytes) -> None:
        if self._store.unpin(cid, REPLICA):
            manifest = self._manifest(cid)
            roots = [manifest.file.root] if manifest is not None else []
            self._store.gc(only=[cid, *roots])

    def gone(self, cids: Iterable[bytes]) -> None:
        """Of these there is less here now: what we announced of adapters is taken back."""
        for cid in cids:
            entry = self._own(cid)
            if entry is not None and entry.live and self._manifest(cid) is None:
                self._catalog.withdraw("adapter", cid)

    def _own(self, cid: bytes) -> Entry | None:
        return self._catalog.catalog.own("adapter", cid)

    async def _tidy(self) -> None:
        """After a start: what a crash left announced, and is not here, is taken back."""
        entries = self._catalog.catalog.entries("adapter")
        self.gone([entry.subject for entry in entries if entry.issuer == self._me])
