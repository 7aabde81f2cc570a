"""What the daemons of a world said of learning, sampled to the end."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from protocols.errors import SynapseError
from simnet.learnregions import RegionRecord
from simnet.timeline import Learning, Timeline
from synapsed.training import said

if TYPE_CHECKING:
    from simnet.world import World

SAMPLE_S = 0.5
"""Between two looks at all daemons: a round of the tiny model takes about a second."""


class Led(msgspec.Struct, frozen=True):
    """Who led a group when a step looked."""

    daemon: int
    group: int
    epoch: int
    term: int


class LearnRecord:
    """Of one world."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.lineages: dict[str, str] = {}  # CID text by the scenario's name
        self.led: dict[str, Led] = {}  # by the name that a step gave
        self.succeeded: dict[str, str] = {}  # who took over from them, in words
        self.server: Path | None = None  # where all others compute
        self.servers: dict[int, Path] = {}  # compute servers that lie, by daemon
        self.heads: dict[tuple[str, int, int], dict[int, set[str]]] = {}
        """By (lineage, group, round), and daemon."""
        self.regions = RegionRecord(timeline)
        self._epoch = (0, 0.0)  # the newest that was seen, and when

    def take(self, daemon: int, status: said.TrainStatus, now: float) -> None:
        """One daemon's word, at one moment of the world's time."""
        for each in status.trainings:
            self._timeline.learning.append(
                Learning(
                    now,
                    daemon,
                    each.lineage,
                    each.round,
                    each.loss,
                    each.joined,
                    each.bytes_in,
                    each.bytes_out,
                    each.contributed,
                    each.refused,
                )
            )
            for group in each.groups:
                if group.epoch > self._epoch[0]:
                    # The first began with the world, before anybody was asked.
                    self._epoch = (group.epoch, now if self._epoch[0] else 0.0)
                if group.head:
                    key = (each.lineage, group.number, group.round)
                    self.heads.setdefault(key, {}).setdefault(daemon, set()).add(group.head)

    def epoch_left(self, world: "World") -> float:
        """Seconds until the next epoch, about: by when this one was first seen, and the council's
        parameter; none where it does not say."""
        council = world.scenario.council
        whole = 0 if council is None else council.params.get("council.epoch_ms", 0)
        return self._epoch[1] + whole / 1000 - world.now

    async def follow(self, world: "World") -> None:
        """Look again and again, for as long as the world stands."""
        while True:
            async with trio.open_nursery() as nursery:
                for daemon in world.running():
                    nursery.start_soon(self._look, world, daemon.index)
            await trio.sleep(SAMPLE_S)

    async def _look(self, world: "World", index: int) -> None:
        client = world.daemons[index].client
        try:
            status = await client.call("GET", "/v1/training", said.TrainStatus)
        except SynapseError:
            return  # it ends, or is busy: the next look tells
        self.take(index, status, world.now)
