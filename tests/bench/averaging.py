"""Four of our daemons' training, each a process: real machines, disks, signatures and sockets.

Only the worker is another one: it computes with the worker's own code in a thread, but instead of
training it waits, and hands out noise as pseudo-gradient, new in each round. So a round here
is all that a round is but its training: encoding, claims, deltas to the primary and to the other
two replicas, their log, aggregating, the result to everybody, and applying it.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import trio
from torch import Tensor

from protocols.learn.partition import Group
from protocols.learn.replica_ports import ReplicaSettings
from protocols.ledger.entries import Member
from protocols.plan import Phase, Plan
from protocols.realm import Realm
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed.compute import wire
from synapsed.computeworker import feedback, groups
from synapsed.computeworker import rounds as work
from synapsed.computeworker.files import ModelFiles, write_blob
from synapsed.keys import Identity
from synapsed.models import import_model
from synapsed.net import MemoryTable, NetSettings, PeerBook, open_net
from synapsed.net.errors import NetError
from synapsed.store import Store
from synapsed.training.ground import Drawn, Ground, Terms
from synapsed.training.materials import Materials
from synapsed.training.service import TrainingService, TrainingSettings
from synapsed.training.study import Course
from tests.bench.peers import FORK, QUOTA

PEERS = 4
REALM = Realm("bench", bytes(32))
OPENED = 1000
"""Index of the entry that opened the training: behind all births."""
WAIT_S = 300.0
TICK_S = 2.0


def values(seed: int, elements: int, tensors: int) -> list[Tensor]:
    """A peer's tensors, as averaging_hivemind.py has them."""
    found = []
    for number in range(tensors):
        common = torch.randn(elements, generator=torch.Generator().manual_seed(number))
        own = torch.randn(elements, generator=torch.Generator().manual_seed(1000 * seed + number))
        found.append((common + own) * 1e-3)
    return found


def write_model(folder: Path, elements: int, tensors: int) -> Path:
    """A model of zeros, of so many tensors."""
    folder.mkdir(parents=True)
    names = [(f"layer.{number:02}", "F32", [elements]) for number in range(tensors)]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(make_safetensors_header(names))
        file.write(bytes(4 * elements * tensors))
    (folder / "config.json").write_text('{"model_type": "noise"}')
    return folder


class Waiting:
    """The compute worker's API, on noise. `go` lets the next round begin."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        self.waits = trio.Event()
        """The last round is applied, and the next one is waited for."""
        self.go = trio.Event()
        self.busy = 0.0
        self._noise = noise
        self._groups: list[Group] = []
        self._base: list[groups.Values] = []
        self._left: list[feedback.Feedback] = []
        self._plan: Plan | None = None
        self.round = -1
        """From 0: in each the tensors are others, by one place, so that nothing repeats itself."""

    async def _thread(self, work: Any, *arguments: object) -> Any:
        began = time.monotonic()
        try:
            return await trio.to_thread.run_sync(partial(work, *arguments))
        finally:
            self.busy += time.monotonic() - began

    async def make_versions(
        self, files: Any, group_bytes: int, numbers: Sequence[int], out: Path
    ) -> Any:
        asked = wire.Cut(0, model_files(files), group_bytes, tuple(numbers), str(out))
        return await self._thread(work.make_versions, asked, passage)

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
    ) -> Any:
        given = tuple(wire.Given(str(path), weight) for path, weight in inputs)
        asked = wire.Aggregate(0, plan, number, group, str(base), str(state or ""), given, str(out))
        return await self._thread(work.aggregate, asked, passage)

    async def advance(self, group: int, base: Path, links: Any, out: Path) -> Any:
        parts = tuple(wire.Link(str(path), head) for path, head in links)
        asked = wire.Advance(0, group, str(base), parts, str(out))
        return await self._thread(work.advance, asked, passage)

    async def load_training(
        self, key: bytes, files: Any, versions: Any, data: Path, plan: Plan, **_: object
    ) -> wire.Loaded:
        found = ModelFiles(model_files(files))
        self._plan = plan
        self._groups = groups.cut(found.headers(), plan.group_bytes)
        self._base = [groups.values_of_model(group, found) for group in self._groups]
        sizes = [[tile.count for tile in group.tiles] for group in self._groups]
        self._left = [feedback.Feedback.nothing(each) for each in sizes]
        return wire.Loaded(0, tuple(self.heads()), 0, 1)

    def heads(self) -> list[bytes]:
        """What everybody must have, to the bit."""
        pairs = zip(self._groups, self._base, strict=True)
        return [groups.head_of(group.tiles, base) for group, base in pairs]

    def flat(self) -> Tensor:
        """All values."""
        return torch.cat([value for base in self._base for value in base])

    async def train(self, key: bytes, steps: int, *_: object, **_more: object) -> wire.Trained:
        assert self._plan is not None
        if 2 * steps > self._plan.phase_of(0).steps:  # not those that are done ahead
            self.round += 1
            self.waits.set()
            await self.go.wait()
            self.go = trio.Event()
        return wire.Trained(0, (1.0,) * steps, steps, 0.0, steps)

    async def encode(
        self, key: bytes, numbers: Sequence[int], phase: Phase, folder: Path
    ) -> dict[int, wire.Blob]:
        return await self._thread(self._encode, numbers, phase, folder)

    def _encode(self, numbers: Sequence[int], phase: Phase, folder: Path) -> dict[int, wire.Blob]:
        chosen = feedback.settings_of(phase)
        rolled = [*self._noise[self.round :], *self._noise[: self.round]]
        found = {}
        for number in numbers:
            before = sum(len(group.tiles) for group in self._groups[:number])
            noise = rolled[before : before + len(self._groups[number].tiles)]
            found[number] = write_blob(
                str(folder), [self._left[number].encode(phase.up, noise, chosen)]
            )
        return found

    async def apply(self, key: bytes, group: int, result: Path, head: bytes) -> None:
        await self._thread(self._apply, group, result, head)

    def _apply(self, group: int, result: Path, head: bytes) -> None:
        tiles, base = self._groups[group].tiles, self._base[group]
        self._base[group] = groups.advanced(tiles, base, str(result), head)

    async def take_back(self, key: bytes, numbers: Sequence[int]) -> None:
        raise AssertionError("no delta of this bench is refused")

    async def replace(self, key: bytes, version: object) -> None:
        raise AssertionError("nobody of this bench was away")

    async def combine(self, *_: object) -> Any:
        raise AssertionError("this bench has no aggregators")

    async def same(self, *_: object) -> bool:
        raise AssertionError("this bench has no aggregators")

    async def write_model(self, *_: object) -> None:
        raise AssertionError("this bench has no checkpoints")

    async def save_training(self, key: bytes, path: Path) -> None:
        path.write_bytes(b"")

    async def close_training(self, key: bytes) -> None:
        await trio.lowlevel.checkpoint()


def model_files(files: Sequence[tuple[str, Path]]) -> tuple[wire.ModelFile, ...]:
    return tuple(wire.ModelFile(name, str(path)) for name, path in files)


def passage() -> None:
    """Nobody generates meanwhile."""


def in_turn(back: Sequence[Drawn], keys: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Each peer is the primary of every fourth group."""
    who = [each.identity for each in back[0].members]
    return [tuple(who[(at + i) % PEERS] for i in range(3)) for at in range(len(keys))]


class Averager:
    """One process: its methods are called by the parent, over a pipe."""

    def __init__(self, folder: Path, number: int, elements: int, tensors: int) -> None:
        self.identity = identity(number)
        self.folder = folder
        self.noise = values(number, elements, tensors)
        self.compute = Waiting(self.noise)
        self.service: TrainingService | None = None

    async def run(self, pipe: Connection, source: Path, plan: Plan) -> None:
        store = Store.open(self.folder / "store", QUOTA)
        model = import_model(store, source).cid
        settings = NetSettings(listen=("/ip4/127.0.0.1/tcp/0",), target_peers=PEERS)
        book = PeerBook(MemoryTable())
        async with open_net(settings, self.identity, "bench", book, quiet) as net:
            pipe.send(net.addrs()[0])
            for addr in await listen(pipe):
                await net.connect(addr)

            async def connect(peer: bytes) -> None:
                if net.peer(peer) is None:
                    raise NetError("all are connected from the beginning")

            self.service = TrainingService(
                self.folder / "training",
                net,
                connect,
                self.identity,
                quiet,
                materials=Materials(store, NoFetch()),
                compute=self.compute,
                place=in_turn,
                settings=TrainingSettings(replicas=ReplicaSettings(), margin_ms=0),
            )
            self.service.follow(ground(model, plan, OPENED - 2))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.service.run)
                while model not in self.service.lineages:
                    await trio.sleep(0.05)
                nursery.start_soon(self._tick, model, plan)
                self.service.lineage(model).join(Course(data=str(source)))
                await self._rounds(pipe)
                nursery.cancel_scope.cancel()
        os._exit(0)

    async def _tick(self, model: bytes, plan: Plan) -> None:
        """The ledger goes on: a primary whose ledger is old steps down."""
        assert self.service is not None
        for index in range(OPENED - 1, 1 << 31):
            self.service.follow(ground(model, plan, index))
            await trio.sleep(TICK_S)

    async def _rounds(self, pipe: Connection) -> None:
        """A round for each `True` that comes; the heads and values at the end."""
        while True:
            with trio.fail_after(WAIT_S):
                await self.compute.waits.wait()
            pipe.send(self.compute.busy)
            if not await listen(pipe):
                break
            self.compute.waits = trio.Event()
            self.compute.busy = 0.0
            self.compute.go.set()
        assert self.service is not None
        pipe.send((self.compute.heads(), dict(self.service.traffic.bytes)))
        pipe.send(self.compute.flat().numpy().tobytes())


class NoFetch:
    """Everybody has the model."""

    async def pull(self, cid: bytes, part: object = None) -> object:
        await trio.lowlevel.checkpoint()
        return None


def identity(number: int) -> Identity:
    return Identity(hashlib.sha256(b"averager %d" % number).digest())


def ground(model: bytes, plan: Plan, index: int) -> Ground:
    """What the ledger would say after entry `index`."""
    members = tuple(Member(identity(number).peer_id, 1, 0) for number in range(PEERS))
    terms = Terms(plan=plan, head=model, opened=OPENED, opened_ms=0, first=1)
    drawn = Drawn(1, bytes(32), members, OPENED - 10)
    return Ground(
        realm=REALM,
        index=index,
        tick_ms=int(time.time() * 1000),
        drawn=drawn,
        past=(),
        trainings={model: terms},
    )


def quiet(kind: str, /, **fields: object) -> None:
    """Nobody watches, unless asked to."""
    if os.environ.get("BENCH_EVENTS"):
        print(kind, fields, flush=True)


async def listen(pipe: Connection) -> Any:
    return await trio.to_thread.run_sync(pipe.recv, abandon_on_cancel=True)


def _main(
    pipe: Connection, folder: Path, number: int, shape: tuple[int, int], rest: tuple[Any, ...]
) -> None:
    os.setsid()  # as a daemon has it, and hivemind's peers: schedulers share cores by sessions
    torch.set_num_threads(1)
    trio.run(Averager(folder, number, *shape).run, pipe, *rest)


class Swarm:
    """The parent's handle of the four."""

    def __init__(self, folder: Path, elements: int, tensors: int, plan: Plan) -> None:
        source = write_model(folder / "source", elements, tensors)
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(PEERS):
            ours, theirs = FORK.Pipe()
            home = folder / str(number)
            home.mkdir()
            arguments = (theirs, home, number, (elements, tensors), (source, plan))
            process = FORK.Process(target=_main, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        addrs = [pipe.recv() for pipe in self._pipes]
        for number, pipe in enumerate(self._pipes):
            pipe.send(addrs[:number])

    def ready(self) -> list[float]:
        """Wait until all wait for a round; seconds that each computed in the last one."""
        return [pipe.recv() for pipe in self._pipes]

    def go(self) -> float:
        """One round: seconds until the last has applied it."""
        began = time.monotonic()
        for pipe in self._pipes:
            pipe.send(True)
        self.busy = self.ready()
        return time.monotonic() - began

    def end(self) -> tuple[list[list[bytes]], list[dict[tuple[str, str], int]], Tensor]:
        """Everybody's heads and traffic, and the values of the first."""
        for pipe in self._pipes:
            pipe.send(False)
        said = [pipe.recv() for pipe in self._pipes]
        flat, *_ = [pipe.recv() for pipe in self._pipes]
        for process in self._processes:
            process.join(10)
        values = torch.frombuffer(bytearray(flat), dtype=torch.float32)
        return [heads for heads, _ in said], [traffic for _, traffic in said], values
