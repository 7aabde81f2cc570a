"""Daemons that train, in one process: real machines, disks and signatures; nets of pipes, a toy in
place of the worker, and a ledger that says what the test wants."""

import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from protocols.learn.replica_ports import BIRTH, TABLE, ReplicaSettings
from protocols.ledger.entries import Member
from protocols.plan import Phase, Plan
from protocols.realm import Realm
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed.keys import Identity
from synapsed.models import import_model
from synapsed.store import Store
from synapsed.training.ground import Drawn, Ground, Terms
from synapsed.training.lineage import Lineage
from synapsed.training.materials import Materials
from synapsed.training.places import place_by_ledger
from synapsed.training.service import TrainingService, TrainingSettings
from synapsed.training.study import Course
from tests.pipes import PipeNet
from tests.training_toy import ToyCompute

QUOTA = 1 << 30
REALM = Realm("test", bytes(32))
GROUP_BYTES = 64 << 10
ELEMENTS = 9000
"""Of each tensor: two of them are more than GROUP_BYTES, so each is a group."""
BEAT_MS = 100
TICK_S = 0.1
OPENED = 1000
"""Index of the entry that opened the training: behind the births of all daemons."""


def plan(**fields: Any) -> Plan:
    """Two learners, dense and fp32, as quick as can be."""
    defaults: dict[str, Any] = {
        "phases": (Phase(1 << 20, 4, "fp32", "fp32"),),
        "group_bytes": GROUP_BYTES,
        "batch": 1,
        "context": 8,
        "rate": 1000,
        "decay": 0,
        "outer_rate": 1000,
        "outer_momentum": 0,
        "learners": 2,
        "patience_ms": 1000,
    }
    return Plan(**defaults | fields)


def write_model_folder(folder: Path, tensors: int = 3) -> Path:
    """A model of F32 tensors."""
    folder.mkdir(parents=True)
    names = [(f"layer.{number}", "F32", [ELEMENTS]) for number in range(tensors)]
    header = make_safetensors_header(names)
    (folder / "model.safetensors").write_bytes(header + bytes(4 * ELEMENTS * tensors))
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"}))
    return folder


class NoFetch:
    """Every daemon of these tests holds the model."""

    async def pull(self, cid: bytes, part: object = None) -> object:
        await trio.lowlevel.checkpoint()
        return None


class Daemon:
    """One daemon's training, which can be killed and come up again."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.identity = Identity(hashlib.sha256(b"daemon %d" % number).digest())
        self.folder = world.folder / f"daemon-{number}"
        self.events: list[dict[str, Any]] = []
        self.compute = ToyCompute()
        self.store: Store | None = None
        self.service: TrainingService | None = None
        self.net: PipeNet | None = None
        self._scope: trio.CancelScope | None = None

    @property
    def id(self) -> bytes:
        return self.identity.peer_id

    def emit(self, kind: str, /, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})
        self.world.stirred()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    async def start(self) -> None:
        """Come up with what the disk has."""
        began = trio.Event()
        self.world.nursery.start_soon(self._run, began)
        await began.wait()

    async def _run(self, began: trio.Event) -> None:
        self.store = Store.open(self.folder / "store", QUOTA)
        if not self.store.has_block(self.world.model):
            imported = import_model(self.store, self.world.source)
            assert imported.cid == self.world.model
        service: TrainingService | None = None
        self._scope = trio.CancelScope()
        with self._scope:
            async with trio.open_nursery() as nursery:
                self.net = PipeNet(self.id, nursery)
                self.compute = ToyCompute()
                self.compute.missing = self.number in self.world.missing
                service = self.service = TrainingService(
                    self.folder / "training",
                    self.net,
                    self._connect,
                    self.identity,
                    self.emit,
                    materials=Materials(self.store, NoFetch()),
                    compute=self.compute,
                    place=place_by_ledger,
                    can_lead=lambda: not self.compute.missing and not self.compute.paused,
                    round_trip=self._round_trip,
                    settings=TrainingSettings(
                        replicas=ReplicaSettings(beat_ms=BEAT_MS),
                        margin_ms=0,
                        audit_one_in=self.world.one_in,
                    ),
                )
                for other in self.world.daemons:
                    if other is not self and other.net is not None:
                        self.net.connect(other.net)
                self.service.follow(self.world.ground())
                nursery.start_soon(self.service.run)
                began.set()
                await trio.sleep(math.inf)
        assert service is not None
        service.close()
        if self.service is service:
            self.service = None

    async def _round_trip(self, peer: bytes, _dial: bool) -> float | None:
        await trio.lowlevel.checkpoint()
        return self.world.round_trip(self.id, peer)

    async def _connect(self, peer: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def pause(self) -> None:
        """The owner wants the machine for something else."""
        await self.compute.pause()
        assert self.service is not None
        self.service.able(False)

    def resume(self) -> None:
        self.compute.resume()
        assert self.service is not None
        self.service.able(True)

    def kill(self) -> None:
        """At once: what was not saved is lost."""
        assert self.net is not None
        for other in self.world.daemons:
            if other is not self and other.net is not None:
                self.net.disconnect(other.net)
        self.net = None
        assert self._scope is not None
        self._scope.cancel()
        assert self.store is not None
        self.store.close()

    @property
    def lineage(self) -> Lineage:
        assert self.service is not None
        return self.service.lineage(self.world.model)

    def join(self) -> None:
        """Learn."""
        self.lineage.join(Course(data=str(self.folder), seed=self.world.daemons.index(self)))

    @property
    def cut(self) -> bool:
        """Whether it knows the model's groups."""
        found = self.service.lineages.get(self.world.model) if self.service is not None else None
        return found is not None and found.cutting is not None and self.born

    @property
    def born(self) -> bool:
        """Whether its disk has a birth (replica_birth.py): epochs that begin later are served."""
        found = None if self.service is None else self.service.records.table(TABLE).get(BIRTH)
        return found is not None

    @property
    def learns(self) -> bool:
        return self.service is not None and self.lineage.course is not None

    def leads(self, group: int = 0) -> bool:
        """Whether it is the group's primary."""
        if self.service is None or self.world.model not in self.service.lineages:
            return False
        host = self.lineage.hosts.get(group)
        return host is not None and host.rounds.leading

    def hosts(self, group: int = 0) -> bool:
        """Whether it is one of the group's replicas."""
        if self.service is None or self.world.model not in self.service.lineages:
            return False
        return group in self.lineage.hosts

    def rounds(self, group: int = 0) -> int:
        """How many are committed, as far as this daemon has them."""
        if not self.cut:
            return 0
        chain = self.lineage.chains[group] if self.lineage.chains else None
        return chain.number if chain is not None and chain.ready else 0


class World:
    """Some daemons and a ledger."""

    def __init__(self, folder: Path, nursery: trio.Nursery, plan_: Plan, tensors: int) -> None:
        self.folder = folder
        self.nursery = nursery
        self.plan = plan_
        self.tensors = tensors
        self.source = write_model_folder(folder / "source", tensors)
        maker = Store.open(folder / "maker", QUOTA)
        self.model = import_model(maker, self.source).cid
        maker.close()
        self.daemons: list[Daemon] = []
        self.epoch = 1
        self.members: list[bytes] = []
        self.index = OPENED - 10
        self.missing: Sequence[int] = ()
        self.one_in = 8
        """Sums that one daemon recomputes."""
        self.round_trip: Callable[[bytes, bytes], float | None] = lambda _one, _other: None
        """Seconds between two daemons; None: nobody measures, and there are no regions."""
        self._drawn: list[Drawn] = []
        self._stir = trio.Event()

    def stirred(self) -> None:
        self._stir.set()

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until `condition` holds, looking whenever anything was told."""
        with trio.fail_after(seconds):
            while not condition():
                self._stir = trio.Event()
                with trio.move_on_after(0.05):
                    await self._stir.wait()

    def ground(self) -> Ground:
        """What the ledger says."""
        if not self._drawn or self._drawn[-1].epoch < self.epoch:
            beacon = hashlib.sha256(b"epoch %d" % self.epoch).digest()
            members = tuple(Member(who, 1, 0) for who in sorted(self.members))
            self._drawn.append(Drawn(self.epoch, beacon, members, self.index, now_unix()))
        terms = Terms(plan=self.plan, head=self.model, opened=OPENED, opened_ms=0, first=1)
        return Ground(
            realm=REALM,
            index=self.index,
            tick_ms=now_unix(),
            drawn=self._drawn[-1],
            past=tuple(self._drawn[:-1]),
            trainings={self.model: terms},
        )

    def tell(self) -> None:
        """Everybody hears what the ledger says now."""
        self.index += 1
        for daemon in self.daemons:
            if daemon.service is not None:
                daemon.service.follow(self.ground())

    async def tick(self) -> None:
        """A council ratifies ticks, whatever else happens."""
        while True:
            await trio.sleep(TICK_S)
            self.tell()

    def primary(self, group: int = 0) -> Daemon | None:
        """Who leads a group, if anybody does."""
        found = [daemon for daemon in self.daemons if daemon.leads(group)]
        return found[0] if len(found) == 1 else None

    def heads_said(self, group: int, number: int) -> list[bytes]:
        """The version after so many rounds, as each daemon that has got so far has it."""
        running = [daemon for daemon in self.daemons if daemon.cut]
        records = [daemon.lineage.chains[group].record(number - 1) for daemon in running]
        return [record.round.head for record in records if record is not None]

    async def heads(self, group: int, number: int) -> set[bytes]:
        """The versions after so many rounds, of two daemons at least."""
        await self.until(lambda: len(self.heads_said(group, number)) > 1)
        return set(self.heads_said(group, number))

    async def came(self, rounds: int, *daemons: Daemon) -> None:
        """Wait until these have so many rounds of every group."""
        groups = range(self.tensors)
        await self.until(
            lambda: all(daemon.rounds(group) >= rounds for daemon in daemons for group in groups)
        )

    def turn(self, members: Sequence[Daemon]) -> None:
        """A new epoch, of these members."""
        self.epoch += 1
        self.index = max(self.index, OPENED) + 1
        self.members = [daemon.id for daemon in members]
        self.tell()


def now_unix() -> int:
    """Milliseconds."""
    import time

    return int(time.time() * 1000)


@asynccontextmanager
async def world(
    folder: Path,
    daemons: int = 4,
    tensors: int = 2,
    one_in: int = 8,
    missing: Sequence[int] = (),
    **fields: Any,
) -> AsyncIterator[World]:
    """So many daemons, all of them members, none a learner yet; those in `missing` lack torch."""
    async with trio.open_nursery() as nursery:
        made = World(folder, nursery, plan(**fields), tensors)
        made.one_in, made.missing = one_in, missing
        made.daemons = [Daemon(made, number) for number in range(daemons)]
        made.members = [daemon.id for daemon in made.daemons]
        for daemon in made.daemons:
            await daemon.start()
        nursery.start_soon(made.tick)
        await made.until(lambda: all(daemon.cut for daemon in made.daemons))
        yield made
        nursery.cancel_scope.cancel()
