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

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from protocols.plan import Phase, Plan
from synapsed.compute import wire
from synapsed.compute.keeper import Keeper
from synapsed.compute.worker import Replies, Worker


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


class Compute(Keeper):
    """The worker, whenever there is one; `run`, `pause` and `resume` are the keeper's."""

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


def _files(files: Sequence[tuple[str, Path]]) -> tuple[wire.ModelFile, ...]:
    return tuple(wire.ModelFile(name, str(path)) for name, path in files)


def _given(inputs: Sequence[tuple[Path, int]]) -> tuple[wire.Given, ...]:
    return tuple(wire.Given(str(path), weight) for path, weight in inputs)
