"""Round trips that a submission takes through a council spread over the world."""

from typing import NamedTuple

from protocols.council.participant import Settled
from simnet.virtual.case import Case
from simnet.virtual.checks import Daemon
from simnet.virtual.failover import quiet
from simnet.virtual.net import Weather
from simnet.virtual.node import Node
from simnet.virtual.town import Town

STEADY_S = 5.0
"""Until the council is under way."""
BETWEEN_S = 0.731
"""Between two submissions: no multiple of a tick, so that they come at all times of one."""
SYNC_S = 0.001
"""Of a disk: a flush of a consumer SSD takes 0.1 ms with power-loss protection, 1 ms without."""


class Trips(NamedTuple):
    """In round trips."""

    commits: list[float]
    """From the leader's receipt of a submission to its ratification at the leader."""
    certificates: list[float]
    """From there to the certificate at each of the other members."""


class Stopwatch:
    """Submits at the leader, one after another, and takes the time."""

    def __init__(self, members: int, round_trip_s: float, seed: int) -> None:
        self.town = Town(Case(quiet(members, submissions=0.0), seed))
        self.world = self.town.world
        self.round_trip_s = round_trip_s
        self.trips = Trips([], [])
        oneway = round_trip_s / 2
        self.world.net.calm = self.world.net.weather = Weather(nearest=oneway, farthest=oneway)
        for node in self.world.nodes:
            node.sync_s = SYNC_S
        self._since = 0.0
        self._index = 0
        self._seen: set[int] = set()
        self.world.on_other.insert(0, self._settled)
        self.world.after_event.append(self._looked)

    def run(self, submissions: int) -> Trips:
        """Take the time of so many."""
        self.town.begin()
        self.world.heap.run(STEADY_S)
        for _ in range(submissions):
            number = self.town.leader()
            assert number is not None
            node = self.world.nodes[number]
            self._since, self._index, self._seen = self.world.now, 0, {number}
            daemon: Daemon = self.town.daemon(node)
            node.do(daemon.submit(node.clock.instant(self.world.now)))
            self.world.heap.run(self._since + BETWEEN_S)
        return self.trips

    @property
    def _passed(self) -> float:
        return (self.world.now - self._since) / self.round_trip_s

    def _settled(self, node: Node, effect: object) -> None:
        del node
        if isinstance(effect, Settled) and effect.error is None and not self._index:
            self._index = effect.index
            self.trips.commits.append(self._passed)

    def _looked(self, node: Node) -> None:
        if not self._index or node.number in self._seen or node.program is None:
            return
        if self.town.daemon(node).head.index >= self._index:
            self._seen.add(node.number)
            self.trips.certificates.append(self._passed)


def trips(members: int, round_trip_s: float, submissions: int, seed: int = 1) -> Trips:
    """Round trips of `submissions` submissions."""
    return Stopwatch(members, round_trip_s, seed).run(submissions)
