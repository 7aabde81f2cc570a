"""Making room for the owner: what is held for others gives way, the least worth first.

Whoever does work of the owner's claims the room that it needs (`Evictor.room`). Where that is not
there, repairs for others are ended, and of all that is here for others alone (models/spare.py)
goes what the slot `eviction` says is worth least, until there is enough and no further. Where all
of it would not be enough, nothing goes. What went is announced no more at once.

The rules are kept here, whatever the slot answers: it only orders what may go.
"""

import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec
import trio

from protocols.cid import cid_text
from protocols.slots.abi import MAX_ROWS
from protocols.slots.eviction import CANDIDATES, HEADERS, MOST_PPM, NAME, SLOT, TILES, WORTH, choose
from protocols.transfer.copies import count_copies
from synapsed.holdings.elsewhere import Elsewhere
from synapsed.holdings.replicas import Changed, Claim, Replicas
from synapsed.holdings.uses import Uses
from synapsed.models.spare import Gone, Spare, let_go, spares
from synapsed.process.supervise import Emit
from synapsed.slots import NATIVE_SLOTS, Operation, Slots
from synapsed.store import Runs, Store
from synapsed.store.collect import ManifestDamagedError

ROUNDS = 3
"""Evictions for one need: what was to go may be pinned or pulled while we decide."""
SLACK, SLACK_SHIFT = 1 << 20, 10
"""Bytes freed beyond the need, and a part of it (1/1024): for manifests of experts."""
REGRET_SECONDS = 600.0
"""After an eviction it is looked at what of it is here again: a repair's longest back-off. The
slot's goal names this time."""
SAVE_SECONDS = 60.0
"""Between two savings of what was used."""


class _Due(msgspec.Struct, frozen=True):
    """An eviction to be looked back at."""

    operation: Operation
    need: int
    freed: int
    leaves: Mapping[bytes, Runs]


class Room:
    """The room of one piece of the owner's work."""

    def __init__(self, claim: Claim, make: Callable[[Claim, int], Awaitable[None]]) -> None:
        self._claim = claim
        self._make = make

    async def make(self, need: int) -> None:
        """See to it that `need` bytes fit, and that nothing for others takes their place until
        they are used. Raises QuotaExceededError."""
        await self._make(self._claim, need)

    def make_from_thread(self, need: int) -> None:
        """The same, from a thread that trio started."""
        trio.from_thread.run(self.make, need)


class Evictor:
    """Makes room in one store. `run` is a task."""

    def __init__(
        self,
        store: Store,
        replicas: Replicas,
        elsewhere: Elsewhere,
        uses: Uses,
        *,
        wanted: int,
        changed: Changed,
        tell: Emit,
        slots: Slots = NATIVE_SLOTS,
        regret: float = REGRET_SECONDS,
    ) -> None:
        """`wanted` are the copies that each tile should have in the network."""
        self.on_gone: list[Callable[[Iterable[bytes]], None]] = []
        """Called with the content ids of which something went. Must not wait."""
        self._store = store
        self._replicas = replicas
        self._elsewhere = elsewhere
        self._uses = uses
        self._slots = slots
        self._wanted = wanted
        self._changed = changed
        self._tell = tell
        self._regret = regret
        self._lock = trio.Lock()
        self._due: list[tuple[float, int, _Due]] = []
        self._numbers = itertools.count()
        self._wake = trio.Event()

    # -- what the owner's work asks for ------------------------------------------------------

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for one piece of work, for as long as that lasts."""
        with self._replicas.claim() as claim:
            yield Room(claim, self._make)

    async def fit(self) -> None:
        """Come down to the quota, which may have been lowered, as far as that goes."""
        # Where what the owner has pinned cannot be read, nothing may go.
        with suppress(ManifestDamagedError):
            async with self._lock:
                await self._free(0)

    async def _make(self, claim: Claim, need: int) -> None:
        async with self._lock:
            quota = self._store.quota
            claim.raise_to(need, quota.used)
            await self._free(need)
            claim.raise_to(need, quota.used)  # what went is not what the owner has used
            quota.check_room(need)

    async def _free(self, need: int) -> None:
        """Evict until what is claimed fits, or it turns out that this cannot be."""
        for _ in range(ROUNDS):
            if self._short(need) <= 0:
                return
            await self._replicas.halt()
            if self._short(need) > 0 and not await self._evict(self._short(need)):
                return

    def _short(self, need: int) -> int:
        """Bytes by which the quota is exceeded when all that is claimed has come."""
        quota = self._store.quota
        return quota.used + max(need, self._replicas.claimed) - quota.limit

    # -- one eviction ------------------------------------------------------------------------

    async def _evict(self, short: int) -> bool:
        """Let go of `short` bytes and a little more; whether anything went."""
        found = (await trio.to_thread.run_sync(spares, self._store))[:MAX_ROWS]
        total = sum(spare.size for spare in found)
        if total < short:
            return False
        need = min(short + SLACK + (short >> SLACK_SHIFT), total)
        operation = self._slots.operation(NAME)
        batch = operation.batch(self._context(need), (len(found),))
        for name, values in self._columns(found).items():
            batch.fill(CANDIDATES, name, values)
        await operation.call(batch)
        picked = choose(batch.answer(WORTH), [spare.size for spare in found], need)
        gone = await trio.to_thread.run_sync(let_go, self._store, [found[at] for at in picked])
        self._say(gone)
        due = _Due(operation, need, gone.size, gone.leaves)
        heapq.heappush(self._due, (trio.current_time() + self._regret, next(self._numbers), due))
        self._wake.set()
        return bool(gone.sizes)

    def _context(self, need: int) -> dict[str, int]:
        quota = self._store.quota
        values = {"need": need, "wanted": self._wanted, "used": quota.used, "quota": quota.limit}
        return {each.name: each.clamp(values[each.name]) for each in SLOT.context}

    def _columns(self, found: Sequence[Spare]) -> dict[str, list[int]]:
        """What is known of each candidate, within the columns' bounds."""
        models = list(dict.fromkeys(spare.model for spare in found))
        views = {model: _Model(model, self._elsewhere) for model in models}
        numbers = {model: number for number, model in enumerate(models)}
        rows = [
            {"model": numbers[spare.model], "bytes": spare.size}
            | views[spare.model].row(spare)
            | self._row_of_use(spare)
            for spare in found
        ]
        columns = SLOT.tables[0].columns
        return {each.name: [each.clamp(row[each.name]) for row in rows] for each in columns}

    def _row_of_use(self, spare: Spare) -> dict[str, int]:
        """What others were given of it: of each file, its part of what they were given of that."""
        now = self._uses.now()
        given, since, last = 0, now, now if spare.watched else 0.0
        for root, leaves in spare.leaves.items():
            held, use = self._store.file(root), self._uses.of(root)
            if held is not None and held.held_bytes:
                given += use.given * held.bytes_of(leaves) // held.held_bytes
            since, last = min(since, use.since), max(last, use.last)
        return {"served": given, "idle": int(now - last), "age": int(now - since)}

    def _say(self, gone: Gone) -> None:
        """Announce what is left, and tell the owner what went."""
        for model in gone.forgotten:
            self._replicas.forgot(model)
            self._elsewhere.forgot(model)
        for model in gone.fewer:
            self._changed(model, at_once=True)
        for model, size in gone.sizes.items():
            self._tell("replication.evicted", model=cid_text(model), bytes=size)
        for hear in self.on_gone:
            hear(gone.sizes)

    # -- looking back ------------------------------------------------------------------------

    async def run(self) -> None:
        """Save what is used, and look back at evictions, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_now_and_then)
            while True:
                self._wake = trio.Event()
                while self._due and self._due[0][0] <= trio.current_time():
                    await self._look_back(heapq.heappop(self._due)[2])
                with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                    await self._wake.wait()

    async def _look_back(self, due: _Due) -> None:
        again = await trio.to_thread.run_sync(self._here_again, due.leaves)
        vain = max(0, due.freed - due.need) + again
        due.operation.achieved(min(MOST_PPM, vain * 1_000_000 // due.need))

    def _here_again(self, leaves: Mapping[bytes, Runs]) -> int:
        size = 0
        for root, runs in leaves.items():
            held = self._store.file(root)
            if held is not None:
                have = held.have
                size += held.bytes_of(Runs(part for run in runs for part in have.within(*run)))
        return size

    async def _save_now_and_then(self) -> None:
        while True:
            await self._uses.save({held.root for held in self._store.files()})
            await trio.sleep(SAVE_SECONDS)


class _Model:
    """What others have of one model, or of an adapter that is held for them."""

    def __init__(self, model: bytes, elsewhere: Elsewhere) -> None:
        self._copies = elsewhere.copies(model)
        holdings = elsewhere.holders(model)
        self._announced = count_copies(holdings, len(self._copies))
        peers = [it.peer for it in holdings] or list(elsewhere.offering(model))
        self._peers = len(peers)
        self._rate = sum(elsewhere.rate(peer) for peer in peers)

    def row(self, spare: Spare) -> dict[str, int]:
        """Copies, holders and their rate."""
        if spare.watched:
            copies, holders = min(self._copies, default=0), self._peers
        elif spare.whole:
            # Nobody probes who has an adapter: its holders' word is all there is.
            copies = holders = self._peers
        else:
            tiles = slice(spare.tiles.start, spare.tiles.stop)
            copies = min(self._copies[tiles], default=0)
            holders = min(self._announced[tiles], default=0)
        kind = HEADERS if spare.watched else TILES
        return {"kind": kind, "copies": copies, "holders": holders, "rate": self._rate}
