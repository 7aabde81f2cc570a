"""Whom a learner sends its deltas to: round trips, measured again and again, and what follows.

protocols/learn/regions.py decides; here are the pings, and when to look.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import trio

from protocols.errors import SynapseError
from protocols.learn.regions import Regions
from protocols.peerid import peer_id_text
from synapsed.training.post import Post

ROUTE_S = 5.0
"""Between two looks at who is near: an epoch has one answer, unless somebody dies."""
MEASURE_AT_ONCE = 8
"""Peers whose round trip is measured in one look, each by one ping: of 32 candidates and a dozen
replicas each is asked twice a minute."""
MEASURE_S = 5.0
"""For one look's pings: who takes longer is far, or cut off, and must not keep us from choosing."""

RoundTrip = Callable[[bytes, bool], Awaitable[float | None]]
"""(peer, dial): seconds to it, now; None where it does not answer, or is not connected and not
to be dialled for that."""


async def no_round_trip(_peer: bytes, _dial: bool) -> float | None:
    """Where nobody measures: everybody goes straight to the primary."""
    await trio.lowlevel.checkpoint()
    return None


class Way:
    """One lineage's. `run` it; `on_route` is told after each look."""

    def __init__(
        self,
        post: Post,
        round_trip: RoundTrip,
        *,
        groups: Sequence[int],
        candidates: Callable[[], list[bytes]],
        replicas: Callable[[int], Sequence[bytes]],
        caught: Callable[[], Collection[bytes]],
    ) -> None:
        """Of this epoch: who may aggregate, who serves a group, and who must not aggregate."""
        self.on_route: Callable[[bytes | None], None] = lambda _aggregator: None
        self.primaries: Callable[[], Mapping[int, bytes]] = dict
        """Who leads each group, as the learner knows; nothing where nobody learns here."""
        self.aggregator: bytes | None = None
        """Whom we send through."""
        self._post = post
        self._round_trip = round_trip
        self._groups = groups
        self._candidates = candidates
        self._replicas = replicas
        self._caught = caught
        self._regions = Regions(post.me)
        self._look_now = trio.Event()

    async def run(self) -> None:
        """Look, and measure, until cancelled."""
        while True:
            self._look_now = trio.Event()
            self._route()
            with trio.move_on_after(MEASURE_S):
                await self._measure()
            self._route()
            with trio.move_on_after(ROUTE_S):
                await self._look_now.wait()

    async def _measure(self) -> None:
        primaries = self._leaders()
        if not primaries:
            return  # nothing is learned here
        fellows = [peer for group in primaries for peer in self._replicas(group)]
        wanted = self._regions.to_measure(self._candidates(), [*primaries.values(), *fellows])
        async with trio.open_nursery() as nursery:
            for peer in wanted[:MEASURE_AT_ONCE]:
                self._regions.missed(peer)
                nursery.start_soon(self._ping, peer)

    async def _ping(self, peer: bytes) -> None:
        """Once dialled to be measured, a peer is measured again for as long as it stays."""
        try:
            seconds = await self._round_trip(peer, not self._regions.is_known(peer))
        except SynapseError:
            return
        if seconds is not None:
            self._regions.measured(peer, int(seconds * 1e6))

    def _leaders(self) -> dict[int, bytes]:
        """Of each group: where nobody is known to lead yet, who is drawn to."""
        known = self.primaries()
        drawn = {number: self._replicas(number) for number in self._groups} if known else {}
        return {**{number: three[0] for number, three in drawn.items() if three}, **known}

    def _route(self) -> None:
        primaries = self._leaders()
        if not primaries:
            return
        route = self._regions.route(self._candidates(), primaries, self._post.now(), self._caught())
        if route.aggregator != self.aggregator:
            self.aggregator = route.aggregator
            self._post.tell(
                "training.routed",
                aggregator="" if route.aggregator is None else peer_id_text(route.aggregator),
                rtt_ms=None if route.rtt_us is None else round(route.rtt_us / 1e3, 3),
                primary_ms=None if route.primary_us is None else round(route.primary_us / 1e3, 3),
            )
        self.on_route(route.aggregator)

    def look(self) -> None:
        """Find our way now: something is learned here, or somebody may aggregate no more."""
        self._look_now.set()

    def silent(self, aggregator: bytes) -> None:
        """It did not answer in time: another is taken for a while."""
        self._regions.leave_out(aggregator, self._post.now())
        self._look_now.set()

    def nearest(self, peers: Sequence[bytes]) -> bytes | None:
        """The one of these that is in our region, if one is and others are not."""
        return self._regions.nearest(peers)
