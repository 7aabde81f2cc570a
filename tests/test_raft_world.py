"""Random councils in bad weather: one seed is one run; the world checks each ratification.

The simulator (simnet.virtual) does this over thousands of seeds, with liars and broken disks;
these few fail quickly where something fundamental is wrong.
"""

import random

import pytest

from tests.raft_kit import World


def storm(members: int, seed: int) -> tuple[World, float]:
    """Loss, delay, copies, cuts, crashes between effects; then calm. Seconds until progress."""
    world, rng = World(members, seed), random.Random(seed * 7919 + members)
    world.loss = rng.choice([0, 0.05, 0.2, 0.4])
    world.duplicate = rng.choice([0, 0.2, 0.5])
    world.delay = rng.choice([(0.001, 0.01), (0.005, 0.1), (0.01, 0.3)])
    end, number = rng.uniform(10, 25), 0
    while world.now < end:
        world.run(rng.expovariate(1.5))
        match rng.randrange(10):
            case 0 | 1 | 2 | 3:
                number += 1
                world.submit(b"n%d" % number)
            case 4:
                world.crashing[rng.randrange(members)] = rng.randrange(12)
            case 5:
                rng.choice(world.nodes).stop()
            case 6:
                for node in world.nodes:
                    if not node.up and rng.random() < 0.7:
                        node.start()
            case 7:
                a, b = rng.sample(range(members), 2)
                world.cuts.add((a, b))
            case 8:
                world.cuts.clear()
            case _:
                world.isolate(rng.randrange(members))
    world.heal()
    world.crashing.clear()
    world.delay = (0.005, 0.02)
    for node in world.nodes:
        if not node.up:
            node.start()
    healed = world.now
    world.submit(b"nlast")
    assert world.run(20, world.everywhere(b"nlast")), f"seed {seed}: no progress"
    return world, world.now - healed


@pytest.mark.parametrize(("members", "seeds"), [(4, range(24)), (5, range(6)), (7, range(6))])
def test_storms(members: int, seeds: range) -> None:
    worst = 0.0
    for seed in seeds:
        world, took = storm(members, seed)
        world.agree()
        assert world.blamed == [], f"seed {seed}"
        assert world.accused == [], f"seed {seed}"
        assert not any(node.replica.lost for node in world.nodes), f"seed {seed}"
        worst = max(worst, took)
    assert worst < 4.0


def test_a_storm_is_the_same_each_time() -> None:
    one, _ = storm(4, 11)
    other, _ = storm(4, 11)
    assert one.ratifications == other.ratifications
    assert one.handled == other.handled
