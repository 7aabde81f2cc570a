"""Many homes, whole machines, virtual time: nothing acknowledged is lost, whatever is cut off."""

import msgspec
import pytest

from simnet.virtual.learnhome import Home
from simnet.virtual.learnwan import Wan, WanCase
from tests.rounds_kit import PLAN

SIZE = 20_000


class Even:
    """Everything is as large as everything else."""

    def delta(self, group: int, number: int, learner: int) -> int:
        return SIZE

    def sum(self, group: int, number: int, learners: int) -> int:
        return SIZE

    def result(self, group: int, number: int) -> int:
        return SIZE


def world(*, seed: int = 1, learners: int = 20, regions: int = 5, **more) -> Wan:
    plan = msgspec.structs.replace(PLAN, learners=max(1, learners - 4), patience_ms=2_000)
    fields = {"groups": 2, "step_s": 0.4} | more
    case = WanCase(plan, learners=learners, regions=regions, seed=seed, **fields)
    wan = Wan(case, Even())
    wan.start()
    return wan


def settled(wan: Wan, seconds: float = 60.0) -> None:
    """Nothing that was acknowledged is outside all rounds once some more were closed."""
    for home in wan.homes:
        home.stopped = True
    wan.heap.run(wan.heap.now + seconds)
    assert wan.wrong == []
    assert wan.acked
    assert wan.lost == set()


def heads(wan: Wan) -> set[tuple[int, bytes]]:
    return {
        (group, wan.homes[number].learner.groups[group].head)
        for number in range(len(wan.homes))
        for group in range(wan.case.groups)
    }


def test_regions_form_gather_and_save_what_crosses():
    found = {}
    for aggregators in (True, False):
        wan = world(aggregators=aggregators)
        wan.run(3)
        wan.links.forget()
        wan.run(8)
        assert wan.closed >= 8
        found[aggregators] = wan.links.count.total
        if aggregators:
            routes = {home.aggregated_by for home in wan.homes}
            assert len(routes - {None}) == 5, "one for each region"
            assert all(
                home.aggregated_by is None
                or not wan.links.crosses(home.number, wan.number_of[home.aggregated_by])
                for home in wan.homes
            )
            assert wan.contributors[-1] == 20
            narrow = wan.links.wide_pairs
        else:
            assert wan.links.wide_pairs > 2 * narrow
        settled(wan)
    assert found[False] > 2 * found[True], "of 4 learners a region, each with its overhead"


def test_injected_delay_to_an_aggregator_moves_its_region_to_another():
    wan = world()
    wan.run(3)
    home: Home = next(it for it in wan.homes if it.aggregated_by not in (None, it.me))
    old = wan.number_of[home.aggregated_by]
    mates = [it.number for it in wan.homes if it.number % 5 == home.number % 5]
    for mate in mates:
        if mate != old:
            wan.links.extra_ms[min(mate, old), max(mate, old)] = 800.0
    for _ in range(3):
        wan.run(wan.closed + 1)
        for it in wan.homes:
            it.regions = type(it.regions)(it.me)  # measured anew
            it.look_around(again=False)
    others = {wan.homes[mate].aggregated_by for mate in mates if mate != old}
    assert wan.homes[old].me not in others
    closed = wan.closed
    wan.run(closed + 2)
    assert wan.closed == closed + 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_aggregator_that_falls_silent_costs_a_bounded_wait(seed):
    wan = world(seed=seed)
    wan.run(3)
    serving = {home.aggregated_by for home in wan.homes} - {None}
    seated = {peer for group in range(2) for peer in wan.seats(group, 1)}
    free = sorted(wan.number_of[peer] for peer in serving - seated)
    if not free:
        pytest.skip("each aggregator is a replica, too")
    wan.links.cut = {free[0]}
    before, closed = wan.heap.now, wan.closed
    wan.run(closed + 4, 200)
    assert wan.closed == closed + 4
    assert wan.heap.now - before < 4 * 6.0 + 30
    mates = [home for home in wan.homes if home.number % 5 == free[0] % 5]
    assert all(it.aggregated_by != wan.homes[free[0]].me for it in mates if it.number != free[0])
    wan.links.cut = set()
    settled(wan)


@pytest.mark.parametrize("seed", range(1, 7))
def test_whoever_is_cut_off_or_killed_nothing_acked_is_lost_and_all_end_alike(seed):
    wan = world(seed=seed, learners=9, regions=3)
    rng = wan.homes[0]._rng
    wan.run(2)
    for _ in range(4):
        wan.links.cut = set(rng.sample(range(9), rng.randint(1, 3)))
        wan.heap.run(wan.heap.now + rng.uniform(3, 15))
        wan.homes[rng.randrange(9)].kill_learner()
        wan.links.cut = set()
        wan.heap.run(wan.heap.now + rng.uniform(1, 12))
        wan.homes[rng.randrange(9)].kill_learner()
    closed = wan.closed
    wan.run(closed + 3, 200)
    assert wan.closed >= closed + 3, "rounds go on"
    settled(wan)
    assert len(heads(wan)) == 2, "one version of each group, at every home"
