"""A world: its daemons, its links, its models, and everything that was seen of them."""

import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.errors import SynapseError
from simnet import councils
from simnet.addresses import claim_port
from simnet.computeserver import compute_server
from simnet.councilrecord import CouncilRecord
from simnet.daemon import Daemon, Life
from simnet.forks import FORK_SERVER, Forked, ForkServer, open_fork_server
from simnet.learnparts import MakeModel
from simnet.learnrecord import LearnRecord
from simnet.learnregionparts import Gathered, LieInSums
from simnet.learnregions import TRAINING
from simnet.liars import Liar
from simnet.models import model_folder, size_of
from simnet.proxy import Fabric
from simnet.scenario import Announce, Choice, Scenario, Who
from simnet.scenarioload import ScenarioError, span
from simnet.timeline import Mark, Timeline
from simnet.upgradeparts import Upgrade
from simnet.upgraderecord import UPGRADES, UpgradeRecord
from simnet.weather import Weather
from synapsed.control.models import EventInfo

ACCEPTED = "announcement.accepted"
"""The event of a daemon that has taken an announcement into its catalog."""

Say = Callable[[str], None]


class Model(msgspec.Struct):
    """A model of the scenario; `cid` and `tiles` are known once it is imported."""

    name: str
    folder: Path
    size: int
    cid: str = ""
    tiles: int = 0


class PullRecord(msgspec.Struct):
    """One pull that a step asked for."""

    daemon: int
    model: str
    began: float
    seconds: float | None = None  # None: under way, or failed
    fetched: int = 0
    sources: int = 0
    error: str = ""


class ExportRecord(msgspec.Struct):
    """One export, compared with the model's files."""

    daemon: int
    model: str
    files: int
    differences: list[str]


class Published(msgspec.Struct):
    """One announcement that a step made, and when (Unix seconds)."""

    issuer: int
    at: float


class World:
    """Everything that steps act on and checks look at."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        work: Path,
        *,
        folder: Path,
        stack: AsyncExitStack,
        forks: ForkServer,
        fabric: Fabric,
        nursery: trio.Nursery,
        say: Say,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.work = work
        self.forks = forks
        self.fabric = fabric
        self.nursery = nursery
        self.say = say
        self.random = random.Random(seed)  # noqa: S311 - a seed is a reproduction
        self.daemons = [
            Daemon(index, work / f"{index}", fabric.port, proxied=scenario.proxied, seed=seed)
            for index in range(scenario.daemons)
        ]
        self.models: dict[str, Model] = {}
        self.names: dict[str, list[int]] = {}
        self.liars: dict[str, list[Liar]] = {}
        self.pulls: list[PullRecord] = []
        self.exports: list[ExportRecord] = []
        self.published: dict[str, Published] = {}  # by announcement id
        # Announcement id -> daemon -> when it accepted it (Unix seconds). Kept apart from
        # `published`: others may have accepted one before its publisher has told us its id.
        self.accepted: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self.council = CouncilRecord()
        self.timeline = Timeline(title=scenario.title, seed=seed, daemons=scenario.daemons)
        self.timeline.has_ledger = scenario.council is not None
        self.upgrades = UpgradeRecord(self.timeline)
        self.learn = LearnRecord(self.timeline)
        self.folder = folder
        self.stack = stack
        self._began = trio.current_time()

    @property
    def weather(self) -> Weather:
        """The weather on the links; its `faults` count everything that was done."""
        return self.fabric.weather

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return trio.current_time() - self._began

    def running(self) -> list[Daemon]:
        """Daemons that run and answer."""
        return [daemon for daemon in self.daemons if daemon.up]

    def choose(self, who: Who) -> list[Daemon]:
        """The daemons that `who` names, in order, each once."""
        chosen: dict[int, None] = {}
        for choice in who if isinstance(who, list) else [who]:
            chosen.update(dict.fromkeys(self._numbers(choice)))
        return [self.daemons[number] for number in chosen]

    def _numbers(self, choice: Choice) -> list[int]:
        if choice == "all":
            return list(range(len(self.daemons)))
        if choice == "running":
            return [daemon.index for daemon in self.running()]
        numbers = span(choice)
        if numbers is not None:
            return list(numbers)
        if str(choice) not in self.names:
            raise ScenarioError(f"{choice!r} names liars, not daemons")
        return self.names[str(choice)]

    def mark(self, kind: str, daemon: int | None = None, note: str = "") -> None:
        """Put something that happened on the timeline."""
        self.timeline.marks.append(Mark(self.now, daemon, kind, note))

    async def start(self, daemon: Daemon, kind: str = "start") -> None:
        """Start a daemon, configured the first time."""
        if daemon.life is Life.NEW:
            # The first one is told of the second, so that it too finds its way back.
            earlier = list(range(daemon.index)) or list(range(1, len(self.daemons)))[:1]
            told = self.random.sample(earlier, min(len(earlier), self.scenario.bootstrap))
            daemon.configure(
                self.scenario.network,
                [self.daemons[number].address for number in sorted(told)],
                self._config_of(daemon),
            )
            if self.scenario.proxied:
                await self.nursery.start(self.fabric.serve, daemon.index)
        await daemon.start(self.forks)
        self.mark(kind, daemon.index)
        if any(isinstance(step, Announce) for step in self.scenario.steps):
            self.nursery.start_soon(self._follow, daemon)
        if self.scenario.council is not None:
            self.nursery.start_soon(councils.follow, self, daemon)
        if any(isinstance(step, Upgrade) for step in self.scenario.steps):
            self.nursery.start_soon(self._follow_upgrades, daemon)
        if any(isinstance(promise.that, Gathered) for promise in self.scenario.promises):
            self.nursery.start_soon(self._follow_training, daemon)

    def _config_of(self, daemon: Daemon) -> dict[str, dict[str, Any]]:
        """The scenario's, and where the daemon computes."""
        config = {table: dict(entries) for table, entries in self.scenario.config.items()}
        server = self.learn.servers.get(daemon.index, self.learn.server)
        if server is not None:
            config.setdefault("compute", {})["server"] = str(server)
        return config

    async def _follow_upgrades(self, daemon: Daemon) -> None:
        """Note what `daemon` says of upgrades, for as long as it lives."""
        while daemon.up:
            try:
                await daemon.client.events(
                    UPGRADES, lambda event: self.upgrades.hear(daemon.index, event, self.now)
                )
            except SynapseError as error:  # its end ends the stream; a stall of seconds, too
                if daemon.up:
                    self.upgrades.missed.append((daemon.index, str(error)))

    async def _follow_training(self, daemon: Daemon) -> None:
        """Note what `daemon` says of regions, for as long as it lives."""
        index_of = {each.identity.text: each.index for each in self.daemons}
        while daemon.up:
            with suppress(SynapseError):  # its end ends the stream; a stall of seconds, too
                await daemon.client.events(
                    TRAINING,
                    lambda event: self.learn.regions.hear(daemon.index, event, self.now, index_of),
                )

    async def _follow(self, daemon: Daemon) -> None:
        """Note when `daemon` accepts announcements, for as long as it lives."""

        def take(event: EventInfo) -> None:
            self.accepted[event.fields["id"]].setdefault(daemon.index, event.at)

        with suppress(SynapseError):  # its end ends the stream
            await daemon.client.events(ACCEPTED, take)


@asynccontextmanager
async def open_world(
    scenario: Scenario,
    path: Path,
    seed: int,
    say: Say,
    *,
    logs: Path,
    keep: bool = False,
    server: Sequence[str] = FORK_SERVER,
) -> AsyncIterator[World]:
    """A world with no daemon started yet. On leaving, every process of it has ended.

    Daemons are forked by `server`, a command that speaks as synapsed.process.forkserver does.

    Homes lie in a temporary folder (a socket's path must be short) that is removed unless
    `keep`; the daemons' logs are copied to `logs`.
    """
    work = Path(tempfile.mkdtemp(prefix="simnet-"))
    held, port = claim_port()
    fabric = Fabric(Weather(seed), port)
    worlds: list[World] = []

    def on_exit(forked: Forked) -> None:
        for world in worlds:
            daemon = world.daemons[int(forked.name)]
            daemon.ended()
            if daemon.died:
                world.mark("died", daemon.index)
                world.say(f"{daemon} died ({forked.status}): {daemon.last_words()}")

    try:
        with held:
            async with (
                open_fork_server(work / "forkserver.log", on_exit, server) as forks,
                trio.open_nursery() as nursery,
                AsyncExitStack() as stack,
            ):
                world = World(
                    scenario,
                    seed,
                    work,
                    stack=stack,
                    folder=path.parent,
                    forks=forks,
                    fabric=fabric,
                    nursery=nursery,
                    say=say,
                )
                if any(isinstance(step, MakeModel) for step in scenario.steps):
                    socket = work / "compute.socket"
                    may_lie = any(isinstance(step, LieInSums) for step in scenario.steps)
                    await stack.enter_async_context(
                        compute_server(
                            socket, work / "computeserver.log", lie="sums" if may_lie else ""
                        )
                    )
                    world.learn.server = socket
                    nursery.start_soon(world.learn.follow, world)
                worlds.append(world)
                for daemon in world.daemons:
                    await stack.enter_async_context(daemon.client)
                for name, source in scenario.models.items():
                    folder = model_folder(name, source, path, work / "models", seed)
                    world.models[name] = Model(name, folder, size_of(folder))
                if scenario.council is not None:
                    # Only these worlds need the ledger's code.
                    from simnet.founding import found  # noqa: PLC0415

                    await trio.to_thread.run_sync(found, world)
                yield world
                worlds.clear()
                nursery.cancel_scope.cancel()
    finally:
        _keep_logs(work, logs)
        if keep:
            say(f"the homes are kept in {work}")
        else:
            shutil.rmtree(work)


def _keep_logs(work: Path, logs: Path) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    for log in (*work.glob("*/daemon.log"), *work.glob("*.log")):
        inside = log.relative_to(work)
        shutil.copyfile(log, logs / "-".join(inside.parts))
