"""What the daemons of a world said of learning, sampled to the end."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from protocols.errors import SynapseError
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
        self.server: Path | None = None  # where all others compute
        self.servers: dict[int, Path] = {}  # compute servers that lie, by daemon
        self.heads: dict[tuple[str, int, int], set[str]] = {}  # by (lineage, group, round)
        self.seen: dict[tuple[str, int, int], set[int]] = {}  # daemons, likewise

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
                if group.head:
                    key = (each.lineage, group.number, group.round)
                    self.heads.setdefault(key, set()).add(group.head)
                    self.seen.setdefault(key, set()).add(daemon)

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
