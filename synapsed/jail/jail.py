"""The jail as the daemon and its tools use it: compile a module, get room, call it.

    jail = Jail(folder, events.emit, allow_weaker=False)
    module = await jail.compile(wasm, ModuleLimits())
    batch = Batch.new(slot, context, rows, jail.room(slot.words(rows) * 8))
    ...                              # fill its columns in
    called = await jail.call(module, batch, slot.limits)
    batch.answer("keep")

One worker runs all calls, one after another. An instance of a module is kept for a while, so
whatever a call leaves in its memory the next one finds: what a module makes of that is its own
affair, and `upgrade check` compares it with a fresh instance. Nothing crosses between modules.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from protocols.slots.abi import WASM_PAGE, WORD, Batch, Limits
from protocols.slots.wasm_module import ModuleLimits, inspect
from synapsed.jail import compiling, wire
from synapsed.jail.arena import Arena
from synapsed.jail.cache import Cache
from synapsed.jail.errors import (
    JailDiedError,
    JailError,
    JailRestingError,
    ModuleTrapError,
    NotCompiledError,
    TrapKind,
    WeakJailError,
)
from synapsed.jail.layers import Layers, detect
from synapsed.jail.worker import CALL_CPU_S, Worker

log = logging.getLogger(__name__)

MAX_LOADED = 16
"""Modules that a worker holds: incumbent, candidate and two former ones of four slots."""
RESTS_S = (0.0, 0.2, 1.0, 5.0, 30.0)
"""Before a worker is started after so many deaths in a row; the last one for all further ones."""
CALM_S = 60.0
"""A worker that lived so long ends the row."""

_TRAPS: dict[str, TrapKind] = {
    "trap": "trap",
    "fuel": "fuel",
    "deadline": "deadline",
    "memory": "memory",
    "answer": "answer",
}


class Called(msgspec.Struct, frozen=True):
    """What a call took, within the worker: fuel, which is the same everywhere, and seconds of
    processor time."""

    fuel: int
    seconds: float


class Jail:
    """Where foreign modules are compiled and run."""

    def __init__(
        self,
        folder: Path,
        emit: Callable[..., None],
        *,
        allow_weaker: bool,
        layers: Layers | None = None,
    ) -> None:
        self.layers = detect() if layers is None else layers
        self._allow_weaker = allow_weaker
        self._emit = emit
        self._cache = Cache(folder, compiling.VERSION)
        self._arena = Arena()
        self._worker: Worker | None = None
        self._turn = trio.Lock()
        self._compiling = trio.CapacityLimiter(1)
        self._deaths = 0
        self._began = 0.0
        self._rest_until = 0.0

    def check_layers(self) -> None:
        """Raise WeakJailError where a layer is missing and the owner did not accept that."""
        if self.layers.missing and not self._allow_weaker:
            raise WeakJailError(self.layers.missing)

    async def compile(self, module: bytes, limits: ModuleLimits) -> bytes:
        """The module's hash, once its native code is in the cache. Raises ModuleRefusedError,
        which is final; JailError, which is not; WeakJailError; OSError where the disk is full."""
        self.check_layers()
        name = hashlib.sha256(module).digest()
        await trio.to_thread.run_sync(inspect, module, limits)
        if self.has(name):
            return name
        async with self._compiling:
            try:
                code = await compiling.compile_module(module, self.layers)
            except OSError as error:
                raise _cannot_start(error) from error
        await trio.to_thread.run_sync(self._cache.put, name, code)
        return name

    async def wat(self, text: bytes) -> bytes:
        """The module that a text stands for. Raises ModuleRefusedError, WeakJailError."""
        self.check_layers()
        async with self._compiling:
            return await compiling.translate(text, self.layers)

    def has(self, module: bytes) -> bool:
        """Whether a module was compiled here."""
        return self._cache.has(module)

    def forget(self, module: bytes) -> None:
        """Remove a module's native code from the cache."""
        self._cache.forget(module)

    def room(self, size: int) -> memoryview:
        """Memory for a block that the worker reads where it is, given back when nothing looks at
        it any more. Where the shared memory is full it is ordinary memory, and copied once more."""
        found = self._arena.room(size)
        return memoryview(bytearray(size)) if found is None else found

    async def call(
        self,
        module: bytes,
        batch: Batch,
        limits: Limits,
        *,
        fresh: bool = False,
        seconds: float = CALL_CPU_S,
    ) -> Called:
        """Have a module fill a batch's answer in, in a `fresh` instance if asked for. Raises
        ModuleTrapError, NotCompiledError, JailDiedError, JailRestingError, WeakJailError; the
        batch's answer is then undefined."""
        size = batch.block.nbytes
        at = self._arena.place(batch.block)
        if at is None:
            return await self._call_elsewhere(module, batch, limits, fresh, seconds)
        place = at, size, WORD * sum(len(batch.output(each.name)) for each in batch.slot.outputs)
        fuel, memory = limits.fuel_of(batch.total_rows), limits.memory_pages * WASM_PAGE
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            worker = await self._ready(module)
            reply = await worker.call(module, place, fuel, memory, fresh=fresh, seconds=seconds)
        except JailDiedError as error:
            self._died(error)
            raise
        except trio.Cancelled:
            # It may still be writing into the room, which is about to be somebody else's.
            self.close()
            raise
        finally:
            self._turn.release()
        if isinstance(reply, wire.Failed):
            kind = _TRAPS.get(reply.kind)
            if kind is None:
                raise JailError(f"the jail's worker refused a call: {reply.text}")
            raise ModuleTrapError(kind, module, reply.text)
        return Called(min(reply.fuel, fuel), reply.nanoseconds / 1e9)

    async def run(self) -> None:
        """Keep the worker until cancelled; then none is left."""
        try:
            await trio.sleep_forever()
        finally:
            self.close()

    def close(self) -> None:
        """End the worker, if there is one. Blocks for some milliseconds."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def _call_elsewhere(
        self, module: bytes, batch: Batch, limits: Limits, fresh: bool, seconds: float
    ) -> Called:
        room = self._arena.room(batch.block.nbytes)
        if room is None:
            raise JailRestingError(
                "the jail's shared memory is full", remedy="fewer operations at once"
            )
        room[:] = batch.block.cast("B")
        twin = Batch(batch.slot, room)
        called = await self.call(module, twin, limits, fresh=fresh, seconds=seconds)
        for each in batch.slot.outputs:
            batch.output(each.name)[:] = twin.output(each.name)
        return called

    async def _ready(self, module: bytes) -> Worker:
        """A worker that has the module loaded."""
        self.check_layers()
        worker = self._worker
        if worker is not None and worker.child.gone():  # between two calls: no module's doing
            self.close()
            worker = None
        if worker is None:
            worker = await self._start()
        if module in worker.loaded:
            worker.loaded[module] = worker.loaded.pop(module)
            return worker
        code = await trio.to_thread.run_sync(self._cache.get, module)
        if len(worker.loaded) >= MAX_LOADED:
            await worker.drop(next(iter(worker.loaded)))
        reply = await worker.load(module, code)
        if isinstance(reply, wire.Failed):
            self._cache.forget(module)
            raise NotCompiledError(module, f"it fits this machine no more: {reply.text}")
        return worker

    async def _start(self) -> Worker:
        now = time.monotonic()
        if now < self._rest_until:
            raise JailRestingError(
                f"{self._deaths} workers died in a row; the next starts in "
                f"{self._rest_until - now:.1f} s"
            )
        try:
            self._worker = worker = Worker(self._arena, self.layers)
        except OSError as error:
            raise _cannot_start(error) from error
        self._began = now
        await worker.started()
        self._emit("jail.started", pid=worker.child.pid)
        return worker

    def _died(self, error: JailDiedError) -> None:
        self.close()
        now = time.monotonic()
        self._deaths = 1 if now - self._began > CALM_S else self._deaths + 1
        self._rest_until = now + RESTS_S[min(self._deaths - 1, len(RESTS_S) - 1)]
        module = error.module.hex() if error.module else ""
        log.warning("%s", error)
        self._emit("jail.died", module=module, deaths=self._deaths)


def _cannot_start(error: OSError) -> JailError:
    return JailError(
        f"no process can be started for the jail: {error.strerror}",
        remedy="`synapsectl doctor` looks at memory, processes and open files",
    )
