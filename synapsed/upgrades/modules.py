"""The modules that may run here: fetched by name, looked at, compiled before they are needed.

What is wanted is what the ledger names: in force, about to be, and the last ones before. Of each
the manifest is pinned, so that `gc` leaves it alone and others find it here; whatever the ledger
names no more is let go. A module is fetched from anybody, and believed by its SHA-256, which is
what was voted on.

A fetch that fails is tried again for as long as the module is wanted, and is told once.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import msgspec
import trio

from protocols.changes import MAX_MODULE
from protocols.errors import MalformedError, SynapseError
from protocols.manifest import FileRef, UpgradeManifest
from protocols.slots.wasm_module import ModuleLimits, ModuleRefusedError
from synapsed.process import supervise
from synapsed.store import Store
from synapsed.store.errors import disk_errors
from synapsed.store.reasons import UPGRADE
from synapsed.transfer.limits import Room
from synapsed.transfer.pull import Puller
from synapsed.transfer.sources import Sources

log = logging.getLogger(__name__)

MAX_SOURCE = 4 << 20
"""Bytes of a source archive: four times the largest module."""
MAX_FETCH = MAX_MODULE + MAX_SOURCE + (1 << 20)
"""Bytes that are fetched for one upgrade, whatever its manifest claims."""
FETCH_SECONDS = 120.0
"""For one try: 6 MB at 0.5 Mbit/s."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds between two tries, doubling: who has it comes up within a minute or is away for long."""
RESTORE_SECONDS = 20.0
"""That a daemon's start waits for modules: all of four slots, where the cache was lost. What is not
ready then comes later, as a late module does."""
AT_ONCE = 2
"""Fetches and compilations under way: a compiler takes a core and up to 1 GB."""


class MixedUpError(MalformedError):
    """A module, its manifest and the ratified record that do not belong together."""

    code = "upgrade-mixed-up"


class Wanted(msgspec.Struct, frozen=True):
    """A module as the ledger names it."""

    slot: str
    abi: int
    version: int
    module: bytes
    """SHA-256 of its bytes."""
    size: int
    manifest: bytes

    @property
    def key(self) -> "Key":
        """What it is known by."""
        return self.slot, self.module


Key = tuple[str, bytes]
"""A slot and a module: the same bytes may be fit for one slot and unfit for another."""


class Compiler(Protocol):
    """What compiles (synapsed.jail.jail.Jail)."""

    async def compile(self, module: bytes, limits: ModuleLimits, /) -> bytes: ...

    def forget(self, module: bytes, /) -> None: ...


class Space(Protocol):
    """Room for one fetch."""

    async def make(self, need: int, /) -> None: ...


class MakesRoom(Protocol):
    """What makes room in the store (synapsed.holdings.eviction.Evictor)."""

    def room(self) -> AbstractContextManager[Space]: ...


class Modules:
    """`want` what the ledger names; `run` brings it here."""

    def __init__(
        self,
        store: Store,
        puller: Puller,
        compiler: Compiler,
        emit: supervise.Emit,
        *,
        sources: Sources | None = None,
        evictor: MakesRoom | None = None,
    ) -> None:
        """`sources` are who is asked, where not whom any pull asks; `evictor` has what is held for
        others give way."""
        self.on_ready: Callable[[Wanted], None] = lambda _wanted: None
        """Called when a module can run. Must not wait."""
        self.on_unfit: Callable[[Wanted, SynapseError], None] = lambda _wanted, _error: None
        """Called when a module's bytes never will, and why. Must not wait."""
        self._store = store
        self._puller = puller
        self._compiler = compiler
        self._emit = emit
        self._sources = sources
        self._evictor = evictor
        self._wanted: dict[Key, Wanted] = {}
        self._pinned: frozenset[bytes] = frozenset()
        self.ready: set[Key] = set()
        self.late: dict[Key, SynapseError] = {}
        """Why what is wanted is not here; of what is being fetched, nothing yet."""
        self._unfit: set[Key] = set()
        self._under_way: dict[Key, trio.CancelScope] = {}
        self._places = trio.CapacityLimiter(AT_ONCE)
        self._wake = trio.Event()

    def want(self, wanted: Mapping[Key, Wanted]) -> None:
        """From now on these, and no others."""
        if wanted == self._wanted:
            return
        for module in {module for _, module in self._wanted} - {module for _, module in wanted}:
            with suppress(OSError):  # the cache has a bound of its own
                self._compiler.forget(module)
        self._wanted = dict(wanted)
        for key in [key for key in self._under_way if key not in wanted]:
            self._under_way[key].cancel()
        for known in (self.ready, self._unfit):
            known.intersection_update(wanted)
        self.late = {key: why for key, why in self.late.items() if key in wanted}
        self._wake.set()

    def again(self, key: Key) -> None:
        """What was compiled is gone."""
        self.ready.discard(key)
        self._wake.set()

    async def restore(self) -> None:
        """Compile what is here already: from the cache, that takes milliseconds. `on_ready` is not
        called: whoever awaits this looks at all of it then."""
        with trio.move_on_after(RESTORE_SECONDS):
            for wanted in list(self._wanted.values()):
                try:
                    await self._compiled(wanted)
                    self._have(wanted)
                except SynapseError as error:
                    log.info("%s version %d is not ready: %s", wanted.slot, wanted.version, error)

    async def prepare(self, wanted: Wanted) -> None:
        """Compile what is here for somebody who wants to try it, whatever the ledger names. Raises
        MixedUpError, ModuleRefusedError, NotHeldError, and what the jail does."""
        async with self._places:
            await self._compiled(wanted)

    async def run(self) -> None:
        """Bring what is wanted, until cancelled."""
        self._under_way.clear()
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                await self._pin()
                for key, wanted in self._wanted.items():
                    if key not in self.ready | self._unfit | self._under_way.keys():
                        self._under_way[key] = trio.CancelScope()
                        nursery.start_soon(self._bring, wanted, self._under_way[key])
                await self._wake.wait()

    async def _pin(self) -> None:
        cids = frozenset(wanted.manifest for wanted in self._wanted.values())
        if cids == self._pinned:
            return

        def pin() -> None:
            with self._store.saving():
                for cid in cids:
                    self._store.pin(cid, UPGRADE)
                for pinned in self._store.pins():
                    if pinned.reason == UPGRADE and pinned.cid not in cids:
                        self._store.unpin(pinned.cid, UPGRADE)

        try:
            await trio.to_thread.run_sync(pin)
        except SynapseError as error:
            log.warning("upgrades are not pinned: %s", error)
            self._emit("store.failed", name="upgrades", error=error.code, message=error.message)
        else:
            self._pinned = cids

    # -- one module --------------------------------------------------------------------------------

    async def _bring(self, wanted: Wanted, scope: trio.CancelScope) -> None:
        delay = FIRST_DELAY
        try:
            with scope:
                while not await self._try(wanted):
                    await trio.sleep(delay)
                    delay = min(2 * delay, LONGEST_DELAY)
        finally:
            del self._under_way[wanted.key]
            self._wake.set()

    async def _try(self, wanted: Wanted) -> bool:
        """False where another try may do better."""
        try:
            async with self._places:
                await self._fetch(wanted)
                await self._compiled(wanted)
        except (MixedUpError, ModuleRefusedError) as error:
            self._unfit.add(wanted.key)
            self.on_unfit(wanted, error)
        except SynapseError as error:
            self._is_late(wanted, error)
            return False
        else:
            if self._have(wanted):
                self.on_ready(wanted)
        return True

    async def _fetch(self, wanted: Wanted) -> None:
        try:
            with trio.fail_after(FETCH_SECONDS), self._room() as make_room:
                await self._puller.pull(
                    wanted.manifest,
                    sources=self._sources,
                    room=Room(MAX_FETCH),
                    make_room=make_room,
                )
        except trio.TooSlowError:
            raise LateError(
                f"version {wanted.version} of {wanted.slot} did not arrive within"
                f" {FETCH_SECONDS:.0f} s",
                remedy="it is tried again; `synapsectl peers` shows whether anybody is there",
            ) from None

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], Awaitable[None]] | None]:
        if self._evictor is None:
            yield None
            return
        with self._evictor.room() as room:
            yield room.make

    async def _compiled(self, wanted: Wanted) -> None:
        data = await trio.to_thread.run_sync(read_module, self._store, wanted)
        with disk_errors(self._store.root, "keeping a compiled module beside"):
            await self._compiler.compile(data, ModuleLimits())

    def _have(self, wanted: Wanted) -> bool:
        """Whether it is wanted still, and so is ready now."""
        if self._wanted.get(wanted.key) != wanted:
            return False
        self.ready.add(wanted.key)
        self.late.pop(wanted.key, None)
        return True

    def _is_late(self, wanted: Wanted, error: SynapseError) -> None:
        before = self.late.get(wanted.key)
        self.late[wanted.key] = error
        if before is None or before.code != error.code:
            log.warning("version %d of %s is not here: %s", wanted.version, wanted.slot, error)
            self._emit(
                "upgrade.not-fetched",
                slot=wanted.slot,
                version=wanted.version,
                module=wanted.module.hex(),
                error=error.code,
                message=error.message,
            )


class LateError(SynapseError):
    """A module that has not arrived."""

    code = "upgrade-late"


def read_module(store: Store, wanted: Wanted) -> bytes:
    """The bytes of a module that is here. Raises MixedUpError where manifest, bytes and record do
    not belong together, NotHeldError, DamagedError."""
    manifest = upgrade_manifest(store, wanted.manifest)
    said = (manifest.slot, manifest.abi, manifest.module_hash)
    if said != (wanted.slot, wanted.abi, wanted.module):
        raise MixedUpError(
            f"the manifest is of {said[0]}, ABI {said[1]}, module {said[2].hex()[:16]}, and what"
            f" was ratified of {wanted.slot}, ABI {wanted.abi}, module {wanted.module.hex()[:16]}"
        )
    if manifest.module.size != wanted.size:
        raise MixedUpError(
            f"a module of {manifest.module.size} bytes where {wanted.size} were ratified"
        )
    return checked(read_file(store, manifest.module), wanted.module, "the module")


def upgrade_manifest(store: Store, cid: bytes) -> UpgradeManifest:
    """The manifest of an upgrade that is here. Raises MixedUpError, NotHeldError."""
    manifest = store.manifest_of(cid)
    if isinstance(manifest, UpgradeManifest):
        return manifest
    store.get_block(cid)  # raises where nothing is here
    raise MixedUpError("what was ratified as an upgrade's manifest is none")


def read_file(store: Store, ref: FileRef) -> bytes:
    """All bytes of a small file that is here. Raises NotHeldError, DamagedError."""
    held = store.file_of(ref)
    if held is None:
        raise LateError(f"{ref.path} is not here")
    return held.read(0, held.layout.leaf_count)


def checked(data: bytes, digest: bytes, what: str) -> bytes:
    """`data`. Raises MixedUpError where it is not what `digest` names."""
    if hashlib.sha256(data).digest() != digest:
        raise MixedUpError(f"{what} does not bear the hash that was ratified")
    return data
