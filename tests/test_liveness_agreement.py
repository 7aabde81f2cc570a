"""Many daemons in virtual time: their lists of live peers agree within the stated bound.

A small world: a random graph of neighbours, delays drawn for each frame, streams that break at
random and lose a frame, daemons that stop, leave and come back. One seed is one run.
"""

import heapq
import random
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.effects import Send
from protocols.gossip.heartbeat import unpack_batch
from protocols.gossip.liveness import (
    FANOUT,
    Flush,
    Hearsay,
    Leave,
    Liveness,
    NeighbourDown,
    NeighbourUp,
    Tick,
    agreement_bound,
)
from tests.gossip_kit import NETWORK, NOW, MacIdentity, mac_verify

FLUSH = 0.5
INTERVAL = 5.0
MAX_DELAY = 0.2
REOPEN = 1.0


class World:
    """Daemons that tick and flush every FLUSH seconds, and frames on their way."""

    def __init__(self, size: int, seed: int, loss: float, degree: int = 3) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = NOW
        self.who = [MacIdentity(f"{seed} {n}") for n in range(size)]
        self.machines: dict[int, Liveness] = {}
        self.index = {one.peer_id: n for n, one in enumerate(self.who)}
        self.links = self._connected_graph(size, degree)
        self.queue: list[tuple[float, int, Any]] = []
        self.order = count()
        self.lost = 0
        # Clocks are up to a minute off; a machine sees only its own.
        self.clock = [self.rng.uniform(-60, 60) for _ in range(size)]
        for n in range(size):
            self.start(n)

    def _connected_graph(self, size: int, degree: int) -> set[tuple[int, int]]:
        links = {(n, self.rng.randrange(n)) for n in range(1, size)}
        # Each links to several, so that one lost frame is not the only way.
        links |= {(n, self.rng.randrange(size)) for n in range(size) for _ in range(degree - 1)}
        return {(max(link), min(link)) for link in links if link[0] != link[1]}

    def neighbours(self, n: int) -> list[int]:
        return [a + b - n for a, b in sorted(self.links) if n in (a, b)]

    def start(self, n: int) -> None:
        one = self.who[n]
        self.machines[n] = Liveness(
            NETWORK, one.public_key, one.sign, mac_verify, agent="a", interval=INTERVAL
        )
        for other in self.neighbours(n):
            if other in self.machines:
                self.at(n).handle(NeighbourUp(self.who[other].peer_id), self.time(n))
                self.at(other).handle(NeighbourUp(one.peer_id), self.time(other))
        heapq.heappush(self.queue, (self.now, next(self.order), (n, self.machines[n])))

    def stop(self, n: int, *, politely: bool) -> None:
        if politely:
            self.at(n).handle(Leave(), self.time(n))
            self.flush(n)
        del self.machines[n]
        for other in self.neighbours(n):
            if other in self.machines:
                self.at(other).handle(NeighbourDown(self.who[n].peer_id), self.time(other))

    def at(self, n: int) -> Liveness:
        return self.machines[n]

    def time(self, n: int) -> float:
        return self.now + self.clock[n]

    def flush(self, n: int) -> None:
        for other in self.neighbours(n):
            for effect in self.at(n).handle(Flush(self.who[other].peer_id), self.time(n)):
                assert isinstance(effect, Send)
                if self.rng.random() < self.loss:
                    self.breaks(n, other)
                    continue
                arrival = self.now + self.rng.uniform(0, MAX_DELAY)
                event = (
                    arrival,
                    next(self.order),
                    (other, Hearsay(self.who[n].peer_id, effect.data)),
                )
                heapq.heappush(self.queue, event)

    def breaks(self, n: int, other: int) -> None:
        """The stream from n to another breaks, and is opened again after a while."""
        self.lost += 1
        peer, machine = self.who[other].peer_id, self.at(n)
        machine.handle(NeighbourDown(peer), self.time(n))

        def reopen() -> None:
            if self.machines.get(n) is machine and other in self.machines:
                machine.handle(NeighbourUp(peer), self.time(n))

        heapq.heappush(self.queue, (self.now + REOPEN, next(self.order), (n, reopen)))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.now, _, (n, what) = heapq.heappop(self.queue)
            if isinstance(what, Hearsay):
                if n in self.machines:
                    self.at(n).handle(what, self.time(n))
            elif not isinstance(what, Liveness):
                what()
            elif self.machines.get(n) is what:
                what.handle(Tick(), self.time(n))
                self.flush(n)
                heapq.heappush(self.queue, (self.now + FLUSH, next(self.order), (n, what)))
        self.now = end

    def bound(self) -> tuple[float, float]:
        return agreement_bound(
            INTERVAL, len(self.who), hops=self.diameter(), flush=FLUSH, delay=MAX_DELAY
        )

    def diameter(self) -> int:
        """Of the live graph; daemons that cannot reach each other are not in its promise."""
        longest = 0
        for start in self.machines:
            seen = {start: 0}
            todo = [start]
            for n in todo:
                for other in self.neighbours(n):
                    if other in self.machines and other not in seen:
                        seen[other] = seen[n] + 1
                        todo.append(other)
            longest = max(longest, *seen.values())
        return longest

    def component(self, n: int) -> list[int]:
        seen, todo = {n}, [n]
        for one in todo:
            for other in self.neighbours(one):
                if other in self.machines and other not in seen:
                    seen.add(other)
                    todo.append(other)
        return sorted(seen)

    def assert_agreed(self) -> None:
        for n in self.machines:
            expected = sorted(self.who[other].peer_id for other in self.component(n))
            assert self.at(n).alive(self.time(n)) == expected


@settings(max_examples=25)
@given(
    size=st.integers(2, 20),
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    politely=st.booleans(),
)
def test_lists_agree_within_the_bound(size: int, seed: int, loss: float, politely: bool) -> None:
    world = World(size, seed, loss)
    # What is lost comes again when the stream is back, which on the way of one heartbeat may
    # be needed more than once.
    retry = 10 * REOPEN if loss else 0.0
    world.run(world.bound()[0] + retry)
    world.assert_agreed()
    world.run(world.rng.uniform(0, 10))
    gone = world.rng.sample(range(size), size // 3)
    for n in gone:
        world.stop(n, politely=politely)
    world.run(world.bound()[1] + retry)
    world.assert_agreed()
    for n in gone:
        world.start(n)
    world.run(world.bound()[0] + retry)
    world.assert_agreed()
    if loss > 0.1 and size > 10:
        assert world.lost > 0


def test_goodbyes_take_no_ttl() -> None:
    world = World(12, seed=3, loss=0.0)
    world.run(30)
    world.stop(5, politely=True)
    world.run(world.bound()[0] + FLUSH)
    world.assert_agreed()


def test_a_cut_link_that_heals_brings_the_lists_together() -> None:
    """Two halves that lose sight of each other, and meet again over one link."""
    world = World(10, seed=1, loss=0.0)
    halves = set(range(5)), set(range(5, 10))
    inner = [{(a, b) for a in half for b in half if a > b and (a - b) in (1, 2)} for half in halves]
    crossing = world.links
    world.links = inner[0] | inner[1]
    for a, b in crossing:
        for n, other in ((a, b), (b, a)):
            world.at(n).handle(NeighbourDown(world.who[other].peer_id), world.time(n))
    for a, b in world.links:
        for n, other in ((a, b), (b, a)):
            world.at(n).handle(NeighbourUp(world.who[other].peer_id), world.time(n))
    world.run(world.bound()[1] + INTERVAL)
    world.assert_agreed()
    assert len(world.at(0).alive(world.time(0))) == 5
    world.links.add((9, 0))
    for n, other in ((9, 0), (0, 9)):
        world.at(n).handle(NeighbourUp(world.who[other].peer_id), world.time(n))
    world.run(world.bound()[0])
    world.assert_agreed()
    assert len(world.at(0).alive(world.time(0))) == 10


def test_with_many_neighbours_few_copies_are_enough() -> None:
    """Twenty neighbours each, most of whom are not told what we only pass on."""
    world = World(36, seed=7, loss=0.0, degree=16)
    world.run(world.bound()[0] + 10 * REOPEN)
    world.assert_agreed()
    sent = 0

    def counting(handle: Any) -> Any:
        def handled(event: Any, now: float) -> Any:
            nonlocal sent
            effects = handle(event, now)
            sent += sum(isinstance(e, Send) and len(unpack_batch(e.data)) for e in effects)
            return effects

        return handled

    for machine in world.machines.values():
        machine.handle = counting(machine.handle)  # type: ignore[method-assign]
    for _ in range(4):
        world.run(10)
        world.assert_agreed()
    beats = 40 / INTERVAL * 36
    neighbours = 2 * len(world.links) / 36
    assert neighbours > 18
    # Each beat: to all neighbours once by its issuer, to FANOUT by each of the others.
    assert sent < beats * (neighbours + 35 * FANOUT) * 1.2
