"""How many connections training needs: counted in a run, and as the formula says (contract M20)."""

import pytest

from protocols.learn.fanin import FanIn, Pair, fan_in, followers, pairs_of
from protocols.plan import Phase, Plan
from simnet.virtual.learnwan import Wan, WanCase

LEARNERS, REGIONS, GROUPS = 24, 3, 4
PLAN = Plan(
    phases=(Phase(1, 4, "int8", "int8"),),
    group_bytes=4 << 20,
    batch=8,
    context=64,
    rate=1000,
    decay=0,
    outer_rate=700,
    outer_momentum=0,
    learners=LEARNERS - 4,
    patience_ms=3000,
)


class Small:
    """Sizes do not matter here."""

    def delta(self, group: int, number: int, learner: int) -> int:
        return 1000

    def sum(self, group: int, number: int, learners: int) -> int:
        return 1000

    def result(self, group: int, number: int) -> int:
        return 1000


def ran(*, aggregators: bool) -> tuple[set[Pair], set[Pair], set[Pair], set[Pair]]:
    """Pairs that talked in settled rounds; those of the formula, and of them two followers; those
    of an aggregator and a replica."""
    case = WanCase(
        plan=PLAN, learners=LEARNERS, regions=REGIONS, groups=GROUPS, aggregators=aggregators
    )
    wan = Wan(case, Small())
    wan.start()
    wan.run(4)
    wan.links.forget()
    wan.run(8)
    assert wan.closed >= 8
    peers = [home.me for home in wan.homes]
    talked = {(min(peers[a], peers[b]), max(peers[a], peers[b])) for a, b in wan.links.pairs}
    placement = [wan.seats(group, 1) for group in range(GROUPS)]
    routes = {home.me: home.learner._aggregator for home in wan.homes}
    formula = pairs_of(placement, routes)  # type: ignore[arg-type]
    chosen = {each for each in routes.values() if each is not None}
    beside = {
        (min(one, other), max(one, other))
        for one in chosen
        for three in placement
        for other in three
    }
    return talked, formula, followers(placement), beside  # type: ignore[arg-type]


def test_without_regions_it_is_learners_times_primaries() -> None:
    talked, formula, quiet, _ = ran(aggregators=False)
    assert talked <= formula
    assert formula - talked <= quiet
    assert len(talked) > (LEARNERS - 3 * GROUPS) * GROUPS


def test_with_regions_it_is_learners_and_regions_times_primaries() -> None:
    talked, formula, quiet, beside = ran(aggregators=True)
    direct, _, _, _ = ran(aggregators=False)
    assert formula - talked <= quiet
    # An aggregator may have asked another replica of a group than its primary.
    assert talked - formula <= beside
    assert len(talked) < 0.8 * len(direct)


@pytest.mark.parametrize(("learners", "regions", "groups"), [(100, 5, 25), (100, 5, 1000)])
def test_the_documents_table(learners: int, regions: int, groups: int) -> None:
    """100 learners, 5 regions, 25 daemons that serve: the document says 130. N + R x P are 225, and
    the replicas' own are the rest; they do not grow with groups."""
    serving = [b"s%02d" % number for number in range(25)]
    placement = [
        (serving[n % 25], serving[(n + 1) % 25], serving[(n + 2) % 25]) for n in range(groups)
    ]
    outside = [b"l%02d" % number for number in range(learners)]
    aggregators = [b"a%02d" % number for number in range(regions)]
    routed = {name: aggregators[at % regions] for at, name in enumerate(outside)}
    pairs = pairs_of(placement, routed)  # type: ignore[arg-type]
    replicas = pairs_of(placement, {})  # type: ignore[arg-type]
    assert len(pairs) - len(replicas) == learners + regions * 25
    assert len(replicas) == 50
    found = fan_in(pairs, [*serving, *aggregators])
    assert found == FanIn(learners + regions * 25 + 50, max(learners // regions + 25, 9), 1)
    straight = pairs_of(placement, dict.fromkeys(outside))  # type: ignore[arg-type]
    assert len(straight) - len(replicas) == learners * 25
    assert fan_in(straight, serving).learner == 25
