"""Whole swarms in virtual time (tests/schedule_swarm.py): how long they take and who sends what."""

import pytest

from protocols.tensors.tensorblock import Layout
from tests.schedule_swarm import Daemon, Swarm

MB = 1_000_000
MODEL = Layout(
    "safetensors",
    91 * MB,
    [("header", 10_000), ("big", 50 * MB)]
    + [(f"t{i}", size) for i in range(20) for size in (2 * MB, 1536, 1536)]
    + [("rest", 91 * MB - 10_000 - 50 * MB - 20 * (2 * MB + 3072))],
)
ALL = frozenset(range(MODEL.leaf_count))


def holders(count: int, rate: float = 10 * MB, first: int = 1) -> list[Daemon]:
    return [Daemon(first + number, MODEL, set(ALL), rate) for number in range(count)]


def newcomers(count: int, rate: float = 30 * MB) -> list[Daemon]:
    return [Daemon(100 + number, MODEL, set(), rate) for number in range(count)]


def test_three_sources_are_three_times_as_fast() -> None:
    seconds = []
    for count in (1, 3):
        (newcomer,) = newcomers(1)
        swarm = Swarm([*holders(count), newcomer])
        swarm.start(newcomer)
        seconds.append(swarm.run())
        assert newcomer.held == ALL
        assert swarm.copies == 0
    assert seconds[0] / seconds[1] > 2.85


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0])
def test_eight_newcomers_take_each_byte_about_once_from_the_only_source(apart: float) -> None:
    (origin,), new = holders(1), newcomers(8)
    swarm = Swarm([origin, *new])
    for number, newcomer in enumerate(new):
        swarm.start(newcomer, at=number * apart)
    seconds = swarm.run()
    assert all(newcomer.held == ALL for newcomer in new)
    assert origin.sent / MODEL.size < 1.15
    assert seconds < 8 * apart + 1.3 * MODEL.size / origin.rate


def test_without_sharing_they_would_take_it_eight_times() -> None:
    """The figure above is not the swarm's shape: newcomers that serve nobody cost eight times."""
    (origin,), new = holders(1), newcomers(8)
    swarm = Swarm([origin, *new], blind=True)
    for newcomer in new:
        swarm.start(newcomer)
    swarm.run()
    assert origin.sent / MODEL.size > 7.9


def test_a_newcomer_that_only_pretends_to_pull_delays_but_does_not_stop() -> None:
    (origin,), new = holders(1), newcomers(3)
    swarm = Swarm([origin, *new])
    for newcomer in new:
        swarm.start(newcomer)
    new[0].frozen = True
    seconds = swarm.run(besides=new[0])
    assert new[1].held == new[2].held == ALL
    assert seconds < 2.5 * MODEL.size / origin.rate


def test_a_house_takes_each_byte_from_outside_about_once() -> None:
    outside, new = holders(3), newcomers(4)
    swarm = Swarm([*outside, *new], far=lambda a, b: (a[0] < 100) != (b[0] < 100))
    for newcomer in new:
        swarm.start(newcomer)
    swarm.run()
    assert all(newcomer.held == ALL for newcomer in new)
    assert sum(holder.sent for holder in outside) / MODEL.size < 1.2


def test_nobody_outside_is_asked_for_what_is_in_the_house() -> None:
    outside, (inside,), (newcomer,) = holders(2), holders(1, first=101), newcomers(1)
    inside.name = bytes([120]) * 38
    swarm = Swarm([*outside, inside, newcomer], far=lambda a, b: (a[0] < 100) != (b[0] < 100))
    swarm.start(newcomer)
    swarm.run()
    assert sum(holder.sent for holder in outside) == 0
    assert inside.sent == MODEL.size


def test_a_silent_source_costs_less_than_two_seconds() -> None:
    sources, (newcomer,) = holders(3), newcomers(1)
    swarm = Swarm([*sources, newcomer])
    swarm.start(newcomer)
    swarm.at(1.0, lambda: setattr(sources[0], "silent", True))
    seconds = swarm.run()
    assert newcomer.held == ALL
    fair = (MODEL.size - 10 * MB) / (2 * sources[0].rate) + 0.7
    assert seconds < fair + 2.0


def test_a_slow_source_does_not_hold_up_the_fast_ones() -> None:
    sources, (newcomer,) = [*holders(2), *holders(1, rate=MB // 10, first=9)], newcomers(1)
    swarm = Swarm([*sources, newcomer])
    swarm.start(newcomer)
    assert swarm.run() < 1.4 * MODEL.size / (2 * sources[0].rate)
    assert sources[2].sent > 0


def test_partial_holders_are_enough_together_and_the_rarest_part_is_taken_first() -> None:
    cut = MODEL.leaf_count // 3
    thirds = [set(range(cut)), set(range(cut, 2 * cut)), set(range(cut, MODEL.leaf_count))]
    sources = [Daemon(n + 1, MODEL, held, 10 * MB) for n, held in enumerate(thirds)]
    (newcomer,) = newcomers(1)
    swarm = Swarm([*sources, newcomer])
    swarm.start(newcomer)
    order: list[int] = []
    swarm.watch = lambda who, leaf: order.append(leaf)
    swarm.run()
    assert newcomer.held == ALL
    mean = dict.fromkeys(("rare", "common"), 0.0)
    third = [leaf for leaf in order if leaf >= cut]
    for kind, leaves in (("rare", ALL - set(range(2 * cut))), ("common", set(range(cut, 2 * cut)))):
        mean[kind] = sum(third.index(leaf) for leaf in leaves) / len(leaves)
    assert mean["rare"] < mean["common"]
