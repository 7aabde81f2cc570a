"""Daemons' ledgers in one process, joined by pipes, each with a ledger.db of its own."""

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from protocols.council.participant import Settled
from protocols.effects import Save
from protocols.follow import log as followlog
from protocols.follow.chain import Advanced
from protocols.follow.follower import Follower, Start
from protocols.ledger.council import Instant
from protocols.ledger.entries import Body, Note
from protocols.ledger.signing import submit
from synapsed.keys import Identity, verify
from synapsed.ledger import genesis
from synapsed.ledger.genesis import Member
from synapsed.ledger.service import Founded, LedgerService
from synapsed.ledger.store import LedgerStore, open_ledger_store
from synapsed.net.errors import PeerUnreachableError
from synapsed.process.events import EventBus
from tests.pipes import PipeNet

NETWORK = "test"
NOW = 1_795_000_000.0
"""Unix time when trio's virtual clock shows 0."""


def clock() -> float:
    return NOW + trio.current_time()


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def seed(number: int) -> Any:
    """A source of bytes from which a ledger.db makes its seat key, the same in every run."""
    return lambda count: (b"seat" + bytes((number,))).ljust(count, b".")


class Daemon:
    """One daemon's ledger; `start` and `stop` it as often as you like."""

    def __init__(self, number: int, folder: Path, payload: bytes, world: "World") -> None:
        self.number = number
        self.identity = identity(number)
        self.path = folder / f"{number}" / "ledger.db"
        self.payload = payload
        self.world = world
        self.bus = EventBus()
        self.events: list[Any] = []
        self.bus.observe(self.events.append)
        self.ratified: dict[int, bytes] = {}
        self.settled: list[Settled] = []
        self.news = trio.Event()
        self.scope = trio.CancelScope()
        self.up = False
        self.keep_store = False
        self.seed = number
        self.willing = False

    async def start(self) -> None:
        self.net = PipeNet(self.identity.peer_id, self.world.nursery)
        store = open_ledger_store(self.path, self.bus.emit, seed(self.seed))
        self.service = LedgerService(
            self.net,
            self.dial,
            self.identity,
            Founded(self.payload, store),
            self.bus.emit,
            willing=self.willing,
            clock=clock,
        )
        self.service.on_advanced.append(self._advanced)
        self.service.on_settled.append(self.settled.append)
        self.scope = trio.CancelScope()
        await self.world.nursery.start(self._run)
        self.up = True
        for other in self.world.daemons:
            if other is not self and other.up:
                self.net.connect(other.net)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            task_status.started()
            await self.service.run()
        if not self.keep_store:
            self.service.store.close()

    async def restart_service(self) -> None:
        """As its supervisor does where it failed: run again, on the same net and store."""
        scope, self.scope = self.scope, trio.CancelScope()
        self.keep_store = True
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        self.keep_store = False
        await self.world.nursery.start(self._run)

    @contextmanager
    def opened(self) -> Iterator[LedgerStore]:
        """Its ledger.db, while it is down."""
        store = open_ledger_store(self.path, self.bus.emit, seed(self.seed))
        try:
            yield store
        finally:
            store.close()

    async def stop(self) -> None:
        self.up = False
        self.scope.cancel()
        for other, _ in list(self.net.joined.values()):
            self.net.disconnect(other)
        await trio.testing.wait_all_tasks_blocked()

    async def dial(self, peer: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if peer not in self.net.joined:
            raise PeerUnreachableError("not now")

    def _advanced(self, news: Advanced) -> None:
        for index, payload in enumerate(news.payloads, news.first):
            assert self.ratified.get(index, payload) == payload
            self.ratified[index] = payload
        self.news.set()
        self.news = trio.Event()

    @property
    def head(self) -> int:
        return self.service.ledger.head.index

    async def reaches(self, index: int) -> None:
        while self.head < index:
            await self.news.wait()

    async def has(self, payload: bytes) -> int:
        """Wait until it is ratified here; its index."""
        while True:
            for index, found in self.ratified.items():
                if found == payload:
                    return index
            await self.news.wait()

    def note(self, text: str) -> bytes:
        return self.signed(Note(text=text))

    def signed(self, body: Body) -> bytes:
        expires = self.service.ledger.time + 10 * 60 * 1000
        peer = self.identity.peer_id
        return submit(
            self.service.ledger.realm, peer, body, expires=expires, sign=self.identity.sign
        )

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class World:
    def __init__(self, folder: Path, nursery: trio.Nursery, members: int, **params: Any) -> None:
        self.nursery = nursery
        self.folder = folder
        self.payload = self.founding(folder, members, **params)
        self.daemons: list[Daemon] = []

    @staticmethod
    def founding(
        folder: Path,
        members: int,
        created: int = int(NOW * 1000),
        humans: Mapping[str, bytes] | None = None,
        **params: int,
    ) -> bytes:
        """A genesis; `params` have two underscores where their names have a dot."""
        founders = []
        for number in range(1, members + 1):
            with World.opened_at(folder, number) as store:
                founders.append(Member(identity(number).peer_id, store.key.public_key))
        given = {"work.bits": 0, "quota.newcomer": 1 << 30, "council.tick_ms": 400} | {
            name.replace("__", "."): value for name, value in params.items()
        }
        return genesis.compose(NETWORK, founders, humans or {}, given, created)

    @staticmethod
    @contextmanager
    def opened_at(folder: Path, number: int) -> Iterator[LedgerStore]:
        store = open_ledger_store(folder / f"{number}" / "ledger.db", _quiet, seed(number))
        try:
            yield store
        finally:
            store.close()

    @staticmethod
    def begin(payload: bytes, store: LedgerStore) -> list[Save]:
        """What a follower saves when it begins."""
        follower = Follower(
            NETWORK, payload, identity(1).peer_id, verify, read=store.table(followlog.TABLE)
        )
        effects = follower.handle(Start(), Instant(0.0, 0))
        return [effect for effect in effects if isinstance(effect, Save)]

    def add(self) -> Daemon:
        daemon = Daemon(len(self.daemons) + 1, self.folder, self.payload, self)
        self.daemons.append(daemon)
        return daemon

    def same(self) -> None:
        """No two daemons have ratified different entries at one index."""
        for one, other in itertools.combinations(self.daemons, 2):
            for index in one.ratified.keys() & other.ratified.keys():
                assert one.ratified[index] == other.ratified[index]


@asynccontextmanager
async def world(
    folder: Path, members: int = 4, others: int = 0, **params: Any
) -> AsyncIterator[World]:
    """So many daemons of a founding council, and others, all connected."""
    async with trio.open_nursery() as nursery:
        made = World(folder, nursery, members, **params)
        for number in range(members + others):
            daemon = made.add()
            daemon.willing = number < members
            await daemon.start()
        yield made
        made.same()
        nursery.cancel_scope.cancel()


def _quiet(_kind: str, **_fields: object) -> None:
    """Nobody listens."""
