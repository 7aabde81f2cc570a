"""Computing, as the node does it: ask, and await the answer.

    compute = Compute(events.emit, ComputeSettings())
    nursery.start_soon(compute.run)
    opened = await compute.open_model(cid, files)
    async with compute.generate(cid, "To be, or", tokens=100) as pieces:
        async for piece in pieces: ...
    await compute.pause()        # the process and all that it held are gone, within a second

The worker starts with the first request and lives until `pause`, the end of `run` or a fault. What
it had open is gone then: requests about it raise UnloadedError, and whoever asks opens it again.
Every method raises ComputeError (errors.py). A request whose caller is cancelled is cancelled in
the worker, too, between two layers or tokens.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import trio

from protocols.learn.plan import Phase, Plan
from synapsed.compute import wire
from synapsed.compute.environment import NEEDED
from synapsed.compute.errors import (
    ComputeError,
    DiedError,
    NotInstalledError,
    PausedError,
    RestingError,
)
from synapsed.compute.process import Process, start_forked, start_fresh
from synapsed.compute.worker import Replies, Worker

log = logging.getLogger(__name__)

START_S = 120.0
"""Until a worker is ready: 3 s on an idle machine, a minute where eight start on two cores."""
GRACE_S = 0.3
"""From `pause` to SIGKILL: for a driver to let go of the card in its own way. With what the kernel
needs to free the memory, it stays within the second that was promised."""
RESTS_S = (0.0, 1.0, 5.0, 30.0, 300.0)
"""Before a worker is started after so many deaths in a row; the last one for all further ones."""
CALM_S = 120.0
"""A worker that lived so long ends the row."""

State = Literal["off", "starting", "running", "paused", "resting"]
R = TypeVar("R", bound=msgspec.Struct)
Emit = Callable[..., None]


class ComputeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the machine may be used. 0 and empty: the worker decides."""

    threads: int = 0
    """Of the processor; 0: half the cores, at least 1."""
    memory: int = 0
    """Bytes of the card, or of private memory where there is none; 0: as much as there is."""
    device: str = ""
    """`cpu`, `cuda`, `cuda:1`; empty: the first card if there is one."""
    server: Path | None = None
    """Socket of a compute server that forks workers; None: start them fresh (process.py)."""


class ComputeStatus(msgspec.Struct, frozen=True):
    """For people."""

    state: State
    pid: int = 0
    deaths: int = 0
    """In a row."""
    last_death: str = ""


class Pieces:
    """A text while it is generated."""

    def __init__(self, worker: Worker, replies: Replies) -> None:
        self._worker = worker
        self._replies = replies

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> str:
        reply = await self._worker.next(self._replies)
        if not isinstance(reply, wire.Piece):
            raise StopAsyncIteration
        return reply.text


class Compute:
    """The worker, whenever there is one."""

    def __init__(self, emit: Emit, settings: ComputeSettings | None = None) -> None:
        self.settings = settings or ComputeSettings()
        self._emit = emit
        self._nursery: trio.Nursery | None = None
        self._running = trio.Event()
        self._worker: Worker | None = None
        self._paused = False
        self._deaths = 0
        self._last_death = ""
        self._began = 0.0
        self._rest_until = 0.0

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the worker until cancelled; then none is left."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._running.set()
                await trio.sleep_forever()
        finally:
            self._nursery, self._running = None, trio.Event()

    def status(self) -> ComputeStatus:
        """What the worker is up to."""
        worker = self._worker
        state: State = "off"
        if self._paused:
            state = "paused"
        elif worker is not None:
            state = "running" if worker.settled.is_set() else "starting"
        elif time.monotonic() < self._rest_until:
            state = "resting"
        pid = worker.process.pid if worker else 0
        return ComputeStatus(state, pid, self._deaths, self._last_death)

    @property
    def paused(self) -> bool:
        """Whether the owner wants the machine for something else."""
        return self._paused

    async def pause(self) -> None:
        """End the worker, and with it all that it holds of the card, within a second. Requests
        that are under way raise PausedError, and so do all others until `resume`."""
        self._paused = True
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end(PausedError())
            worker.tell(wire.Stop(worker.number()))
            with trio.move_on_after(GRACE_S):
                await worker.over.wait()
            worker.process.kill()
            await worker.over.wait()
        self._emit("compute.paused")

    def resume(self) -> None:
        """Compute again; the worker starts with the next request."""
        if self._paused:
            self._paused = False
            self._deaths, self._rest_until = 0, 0.0
            self._emit("compute.resumed")

    async def look(self) -> wire.Seen | None:
        """What the worker is doing; None where there is none, which starts none."""
        worker = self._worker
        if worker is None or not worker.settled.is_set():
            return None
        return await self._ask_of(worker, wire.Look(worker.number()), wire.Seen)

    # -- models --------------------------------------------------------------------------------

    async def new_model(self, kind: str, folder: Path, seed: int) -> None:
        """Write a model with fresh weights (`tiny-moe`) to a folder that is made."""
        worker = await self._ready()
        request = wire.NewModel(worker.number(), kind, str(folder), seed)
        await self._ask_of(worker, request, wire.Done)

    async def open_model(self, key: bytes, files: Sequence[tuple[str, Path]]) -> wire.Opened:
        """Map a model's files, (name in the manifest, path), for `generate` and `evaluate`. Opening
        what is open already costs nothing."""
        worker = await self._ready()
        request = wire.OpenModel(worker.number(), key, _files(files))
        return await self._ask_of(worker, request, wire.Opened)

    async def close_model(self, key: bytes) -> None:
        """Forget a model; one that is not open is no error."""
        worker = await self._ready()
        await self._ask_of(worker, wire.CloseModel(worker.number(), key), wire.Done)

    @asynccontextmanager
    async def generate(
        self, key: bytes, prompt: str, *, tokens: int = 200, temperature: float = 0.8, seed: int = 0
    ) -> AsyncIterator["Pieces"]:
        """The pieces of the text that goes on from `prompt`, as they come. Training and evaluating
        stand still meanwhile. At temperature 0, always the likeliest token."""
        worker = await self._ready()
        request = wire.Generate(worker.number(), key, prompt, tokens, temperature, seed)
        async with worker.asked(request) as replies:
            yield Pieces(worker, replies)

    async def evaluate(
        self, key: bytes, data: Path, context: int, windows: Sequence[int]
    ) -> wire.Losses:
        """Mean nats per token of each window of a text file, by an open model or by the base of a
        loaded training. With no windows: how many there are."""
        worker = await self._ready()
        request = wire.Evaluate(worker.number(), key, str(data), context, tuple(windows))
        return await self._ask_of(worker, request, wire.Losses)

    # -- training ------------------------------------------------------------------------------

    async def load_training(
        self,
        key: bytes,
        files: Sequence[tuple[str, Path]],
        versions: Mapping[int, Path],
        data: Path,
        plan: Plan,
        *,
        seed: int,
        step: int = 0,
        state: Path | None = None,
    ) -> wire.Loaded:
        """Make the copy that is trained: a model's files, newer versions of some groups, and what
        `save_training` kept. What was loaded under that key is forgotten."""
        worker = await self._ready()
        request = wire.LoadTraining(
            worker.number(),
            key,
            _files(files),
            {group: str(path) for group, path in versions.items()},
            str(data),
            plan,
            seed,
            step,
            str(state or ""),
        )
        return await self._ask_of(worker, request, wire.Loaded)

    async def train(self, key: bytes, steps: int, phase: Phase) -> wire.Trained:
        """So many local steps of a phase; where its rounds have one step, a gradient and no step
        (wire.Train)."""
        worker = await self._ready()
        request = wire.Train(worker.number(), key, steps, phase)
        return await self._ask_of(worker, request, wire.Trained)

    async def encode(
        self, key: bytes, groups: Sequence[int], phase: Phase, folder: Path
    ) -> dict[int, wire.Blob]:
        """What training changed since each group's base, as deltas in `folder`, named by their
        hash. Training may go on before the results are there: `apply` keeps what came after."""
        worker = await self._ready()
        request = wire.Encode(worker.number(), key, tuple(groups), phase, str(folder))
        return (await self._ask_of(worker, request, wire.Encoded)).deltas

    async def take_back(self, key: bytes, groups: Sequence[int]) -> None:
        """Nobody took these groups' last deltas: what they said goes into the next ones."""
        worker = await self._ready()
        request = wire.TakeBack(worker.number(), key, tuple(groups))
        await self._ask_of(worker, request, wire.Done)

    async def apply(self, key: bytes, group: int, result: Path, head: bytes) -> None:
        """Move a group's base by a round's result. Raises BadHeadError, with nothing moved, where
        that does not make the version `head`."""
        worker = await self._ready()
        request = wire.Apply(worker.number(), key, group, str(result), head)
        await self._ask_of(worker, request, wire.Done)

    async def replace(self, key: bytes, version: wire.Version) -> None:
        """Move a group's base to a version that is on disk: after a long absence."""
        worker = await self._ready()
        await self._ask_of(worker, wire.Replace(worker.number(), key, version), wire.Done)

    async def save_training(self, key: bytes, path: Path) -> None:
        """Write AdamW's moments and the residuals to a file, whole or not at all."""
        worker = await self._ready()
        request = wire.SaveTraining(worker.number(), key, str(path))
        await self._ask_of(worker, request, wire.Done)

    async def close_training(self, key: bytes) -> None:
        """Forget a training; one that is not loaded is no error."""
        worker = await self._ready()
        await self._ask_of(worker, wire.CloseTraining(worker.number(), key), wire.Done)

    # -- groups on disk ------------------------------------------------------------------------

    async def make_versions(
        self, files: Sequence[tuple[str, Path]], group_bytes: int, groups: Sequence[int], out: Path
    ) -> tuple[wire.Version, ...]:
        """The first versions of groups: what a model's files hold, in fp32, in `out`, named by
        their heads."""
        worker = await self._ready()
        request = wire.Cut(worker.number(), _files(files), group_bytes, tuple(groups), str(out))
        return (await self._ask_of(worker, request, wire.Versions)).versions

    async def aggregate(
        self,
        plan: Plan,
        number: int,
        group: int,
        base: Path,
        *,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        state: Path | None = None,
    ) -> wire.Aggregated:
        """A round: result, outer state and next version in `out`. `inputs` are (path, learners
        behind it). The same bytes on every machine."""
        worker = await self._ready()
        request = wire.Aggregate(
            worker.number(),
            plan,
            number,
            group,
            str(base),
            str(state or ""),
            _given(inputs),
            str(out),
        )
        return await self._ask_of(worker, request, wire.Aggregated)

    async def combine(
        self,
        plan: Plan,
        number: int,
        base: Path,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        *,
        carry: Path | None = None,
    ) -> wire.Combined:
        """A region's deltas of one group as one delta, with what the sum before left out (`carry`).
        The same on every machine; `left` is the next one's `carry`."""
        worker = await self._ready()
        request = wire.Combine(
            worker.number(),
            plan,
            number,
            str(base),
            _given(inputs),
            str(carry or ""),
            str(out),
        )
        return await self._ask_of(worker, request, wire.Combined)

    async def check_delta(self, base: Path, delta: Path) -> None:
        """Raise BadDeltaError unless a stranger's delta decodes, to the last value, to the tiles
        that the version `base` has."""
        worker = await self._ready()
        request = wire.CheckDelta(worker.number(), str(base), str(delta))
        await self._ask_of(worker, request, wire.Done)

    async def same(self, base: Path, one: Path, other: Path) -> bool:
        """Whether two deltas of the group that the version `base` has say the same to the bit:
        their bytes may differ between versions of zstd."""
        worker = await self._ready()
        request = wire.Compare(worker.number(), str(base), str(one), str(other))
        return (await self._ask_of(worker, request, wire.Compared)).same

    async def advance(
        self, group: int, base: Path, links: Sequence[tuple[Path, bytes]], out: Path
    ) -> wire.Version:
        """The version after the results `links`, (result, head after it), in `out`. Raises
        BadHeadError at the first whose version is another."""
        worker = await self._ready()
        chain = tuple(wire.Link(str(path), head) for path, head in links)
        request = wire.Advance(worker.number(), group, str(base), chain, str(out))
        return (await self._ask_of(worker, request, wire.Versions)).versions[0]

    async def write_model(
        self,
        files: Sequence[tuple[str, Path]],
        group_bytes: int,
        versions: Mapping[int, Path],
        out: Path,
    ) -> None:
        """A checkpoint: the model's files again, with the versions' values in its own types."""
        worker = await self._ready()
        request = wire.WriteModel(
            worker.number(),
            _files(files),
            group_bytes,
            {group: str(path) for group, path in versions.items()},
            str(out),
        )
        await self._ask_of(worker, request, wire.Done)

    # -- the worker ----------------------------------------------------------------------------

    async def _ask_of(self, worker: Worker, request: wire.Request, kind: type[R]) -> R:
        async with worker.asked(request) as replies:
            reply = await worker.next(replies)
        if not isinstance(reply, kind):
            raise ComputeError(f"the compute worker answered {type(reply).__name__}")
        return reply

    async def _ready(self) -> Worker:
        """A worker that listens."""
        if self._paused:
            raise PausedError
        await self._running.wait()
        worker = self._worker or self._start()
        await worker.settled.wait()
        worker.check()
        return worker

    def _start(self) -> Worker:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise NotInstalledError(f"computing needs {', '.join(missing)}")
        now = time.monotonic()
        if now < self._rest_until:
            raise RestingError(
                f"{self._deaths} compute workers died in a row; the next starts in "
                f"{self._rest_until - now:.0f} s: {self._last_death}",
                remedy="`synapsectl doctor` looks at memory and at the card",
            )
        assert self._nursery is not None, "run() is running"
        self._worker, self._began = Worker(self._process()), now
        self._nursery.start_soon(self._keep, self._worker)
        return self._worker

    def _process(self) -> Process:
        server = self.settings.server
        return start_fresh(self.settings.threads or 1) if server is None else start_forked(server)

    async def _keep(self, worker: Worker) -> None:
        """Bring it up, move its bytes until it ends, and remember how it did."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduce, worker)
                await worker.run()
                nursery.cancel_scope.cancel()
            worker.process.kill()  # where it spoke nonsense
            await worker.process.ended()
            if worker.gone is None:
                self._died(worker)
        finally:
            if self._worker is worker:
                self._worker = None
            worker.end(DiedError("the daemon stops", remedy="start it again"))
            worker.process.close()
            worker.over.set()

    async def _introduce(self, worker: Worker) -> None:
        """Tell it what it may use, once it listens."""
        with trio.move_on_after(START_S):
            await worker.ready.wait()
        settings = self.settings
        request = wire.Settings(worker.number(), settings.threads, settings.memory, settings.device)
        try:
            if not worker.ready.is_set():
                raise DiedError("the compute worker did not get ready")
            await self._ask_of(worker, request, wire.Done)
        except ComputeError as error:
            worker.end(error)
            worker.process.kill()
            return
        self._emit("compute.started", pid=worker.process.pid)
        worker.settled.set()

    def _died(self, worker: Worker) -> None:
        now = time.monotonic()
        self._deaths = 1 if now - self._began > CALM_S else self._deaths + 1
        self._rest_until = now + RESTS_S[min(self._deaths - 1, len(RESTS_S) - 1)]
        self._last_death = worker.process.story()
        error = DiedError(f"the compute worker died: {self._last_death}")
        worker.end(error)
        log.warning("%s", error)
        self._emit("compute.died", deaths=self._deaths, how=self._last_death)


def _files(files: Sequence[tuple[str, Path]]) -> tuple[wire.ModelFile, ...]:
    return tuple(wire.ModelFile(name, str(path)) for name, path in files)


def _given(inputs: Sequence[tuple[Path, int]]) -> tuple[wire.Given, ...]:
    return tuple(wire.Given(str(path), weight) for path, weight in inputs)
