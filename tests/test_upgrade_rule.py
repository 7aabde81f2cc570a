"""The rule by which a rollout goes on or back: pure, and no third of liars carries it."""

import random
import statistics
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.params import defaults
from protocols.ledger.rollout import (
    EVERYBODY,
    FIRST,
    FULL,
    HALF,
    LEAST_COHORT,
    MAX_HEARD,
    NOBODY,
    PROBATION,
    REFERENCE,
    SHADOW,
    STAGES,
    Cohort,
    Filed,
    Rollout,
    Ruling,
    cohort,
    coin,
    coverage,
    duty,
    interval,
    place,
    ruling,
    untouched,
)
from tests.upgrade_book import digest, filing

STAGE_MS, PATIENCE = 1_000, 3
PARAMS = defaults() | {
    "upgrade.stage_ms": STAGE_MS,
    "upgrade.patience": PATIENCE,
    "upgrade.margin": 20,
}
MARGIN = 20_000
PROPOSAL, BEACON = digest("a proposal") + b"1234", digest("a beacon")


def going_on(expected: int, permille: int = 100) -> Rollout:
    return Rollout(
        candidate=msgspec.structs.replace(REFERENCE, number=1, proposal=PROPOSAL),
        author=b"",
        earns=True,
        beacon=BEACON,
        permille=permille,
        index=1,
        opened_at=0,
        members=expected,
        running=EVERYBODY,
        heard=EVERYBODY,
        expected=expected,
        reports=(),
        others=(),
        stages=(),
    )


def ruled(expected: int, reports: list[Filed], time: int = STAGE_MS) -> Ruling | None:
    return ruling(going_on(expected), reports, time, PARAMS)


# -- the rule ------------------------------------------------------------------------------------

GAIN = st.integers(-1_000_000_000, 1_000_000_000)
GOOD = st.integers(-MARGIN, 1_000_000_000)
BAD = st.integers(-1_000_000_000, -MARGIN - 1)


@st.composite
def cohorts(draw: st.DrawFn, honest: st.SearchStrategy[int]) -> tuple[int, list[int], list[int]]:
    """(expected, gains of honest reporters, gains of liars): liars are a third of who is expected,
    and any honest ones may be silent."""
    expected = draw(st.integers(3, 40))
    lying = draw(st.lists(GAIN, max_size=expected // 3))
    telling = draw(st.lists(honest, max_size=expected - len(lying)))
    return expected, telling, lying


@given(cohorts(GOOD), st.integers(0, PATIENCE * STAGE_MS - 1))
def test_no_third_of_liars_carries_a_rollback(
    told: tuple[int, list[int], list[int]], time: int
) -> None:
    """... however late, and however few of the honest have reported."""
    expected, honest, liars = told
    said = ruled(expected, filing(*honest, *liars), time)
    assert said is None or said.event == "open"


@given(cohorts(BAD), st.integers(0, 100 * STAGE_MS))
def test_no_third_of_liars_carries_an_advance(
    told: tuple[int, list[int], list[int]], time: int
) -> None:
    expected, honest, liars = told
    said = ruled(expected, filing(*honest, *liars), time)
    assert said is None or said.event == "rollback"


@given(st.integers(3, 40), st.data())
def test_no_third_of_liars_holds_up_what_is_good(expected: int, data: st.DataObject) -> None:
    """... where the honest report: also where all liars do, and where none does."""
    lying = data.draw(st.lists(GAIN, max_size=expected // 3))
    count = expected - data.draw(st.integers(len(lying), expected // 3))
    honest = data.draw(st.lists(GOOD, min_size=count, max_size=count))
    said = ruled(expected, filing(*honest, *lying))
    assert said is not None
    assert (said.event, said.reason) == ("open", "no-worse")


@given(st.integers(4, 40), st.data())
def test_where_all_report_the_honest_median_is_in_the_interval(
    expected: int, data: st.DataObject
) -> None:
    lying = data.draw(st.lists(GAIN, max_size=(expected - 1) // 3))
    count = expected - len(lying)
    honest = data.draw(st.lists(GAIN, min_size=count, max_size=count))
    said = interval([*honest, *lying], expected)
    assert said is not None
    low, high = said
    assert min(honest) <= low <= high <= max(honest)
    assert low <= statistics.median_high(honest)
    assert statistics.median_low(honest) <= high


@given(st.lists(GAIN, max_size=40), st.integers(3, 40), st.integers(0, 5_000), st.randoms())
def test_it_depends_on_nothing_but_the_gains(
    gains: list[int], expected: int, time: int, chance: random.Random
) -> None:
    shuffled = gains[:]
    chance.shuffle(shuffled)
    assert ruled(expected, filing(*gains), time) == ruled(expected, filing(*shuffled), time)


@given(st.lists(GAIN, min_size=3, max_size=20), st.integers(0, 10**9))
def test_a_better_gain_never_makes_it_worse(gains: list[int], more: int) -> None:
    order = {"rollback": 0, None: 1, "open": 2}
    worst = min(range(len(gains)), key=gains.__getitem__)
    raised = [gain + more if at == worst else gain for at, gain in enumerate(gains)]
    before, after = (ruled(len(gains), filing(*each)) for each in (gains, raised))
    assert order[after.event if after else None] >= order[before.event if before else None]


@given(st.integers(3, 60), st.data())
def test_failures_and_traps_of_a_third_change_nothing_and_of_more_end_it_at_once(
    expected: int, data: st.DataObject
) -> None:
    third = expected // 3
    few = data.draw(st.integers(0, third))
    failing = [
        *filing(0, status="failed")[:1] * (few // 2),
        *filing(*[0] * (few - few // 2), traps=1),
    ]
    honest = filing(*[0] * (expected - few))
    assert ruled(expected, failing + honest, 0) is None
    after = ruled(expected, failing + honest)
    assert after is not None
    assert after.event == "open"
    more = failing + filing(*[0] * (third + 1 - few), traps=1)
    ended = ruled(expected, more, 0)
    assert ended is not None
    assert (ended.event, ended.reason) == ("rollback", "failing")


@pytest.mark.parametrize(
    ("expected", "gains", "event", "reason"),
    [
        (3, [0, 0, 0], "open", "no-worse"),
        (3, [0, 0], "open", "no-worse"),
        (3, [0], None, None),
        (3, [-MARGIN, 0, 0], "open", "no-worse"),
        # One of three may lie, where all have said something; of two that have, none.
        (3, [-MARGIN - 1, 0, 0], "open", "no-worse"),
        (3, [-MARGIN - 1, 0], None, None),
        (3, [900_000, -30_000, -30_000], None, None),
        (3, [-MARGIN - 1] * 3, "rollback", "worse"),
        # One of four may lie, either way.
        (4, [-900_000, 0, 0, 0], "open", "no-worse"),
        (4, [900_000, -30_000, -30_000, -30_000], "rollback", "worse"),
        (4, [-900_000, -900_000, 0, 0], None, None),
        (30, [50_000] * 20, "open", "no-worse"),
        (30, [50_000] * 19, None, None),
        (30, [-100_000] * 9 + [50_000] * 21, "open", "no-worse"),
        (30, [-100_000] * 10 + [50_000] * 20, "open", "no-worse"),
        (30, [-100_000] * 11 + [50_000] * 19, None, None),
        (30, [-100_000] * 10 + [50_000] * 10, None, None),
        (30, [-100_000] * 21 + [50_000] * 9, "rollback", "worse"),
        (30, [-100_000] * 20 + [50_000] * 10, None, None),
    ],
)
def test_what_it_says(
    expected: int, gains: list[int], event: str | None, reason: str | None
) -> None:
    said = ruled(expected, filing(*gains))
    assert (said and said.event, said and said.reason) == (event, reason)
    # Not before the stage's time, and not without end.
    assert ruled(expected, filing(*gains), STAGE_MS - 1) is None
    if event is None:
        assert ruled(expected, filing(*gains), PATIENCE * STAGE_MS - 1) is None
        last = ruled(expected, filing(*gains), PATIENCE * STAGE_MS)
        assert last is not None
        assert (last.event, last.reason) == ("rollback", "undecided")


def test_each_stage_leads_to_the_next_one_and_the_last_settles() -> None:
    shadow = ruling(going_on(3, SHADOW), filing(0, 0, status="ready"), STAGE_MS, PARAMS)
    assert shadow == Ruling("open", FIRST, "ready")
    assert ruling(going_on(3, SHADOW), filing(0, status="ready"), STAGE_MS, PARAMS) is None
    found = []
    for permille in STAGES[1:]:
        said = ruling(going_on(3, permille), filing(7, 8, 9), STAGE_MS, PARAMS)
        assert said is not None
        found.append((said.event, said.permille, said.low, said.high))
    assert found == [("open", 500, 8, 9), ("open", 1000, 8, 9), ("settle", FULL, 8, 9)]


def test_refusals_are_no_failures_and_no_measurements() -> None:
    refused = filing(*[0] * 10, status="refused")
    assert ruled(30, refused, PATIENCE * STAGE_MS - 1) is None
    said = ruled(30, refused + filing(*[0] * 20))
    assert said is not None
    assert said.event == "open"


def test_without_anybody_reputed_nothing_goes_on() -> None:
    assert ruled(0, [], STAGE_MS) is None
    last = ruled(0, [], PATIENCE * STAGE_MS)
    assert last is not None
    assert last.event == "rollback"


# -- the interval's reason -----------------------------------------------------------------------


@pytest.mark.parametrize(("count", "percent"), [(3, 38), (10, 66), (30, 93), (100, 99.9)])
def test_the_coverage_is_what_the_module_says(count: int, percent: float) -> None:
    assert round(coverage(count, count) * 100, 0 if percent < 99 else 1) == percent


def test_the_coverage_is_that_of_the_binomial() -> None:
    """Exactly: all 2^m ways in which m gains lie about their median are equally probable."""
    for expected in range(3, 13):
        for count in range(1, expected + 1):
            hits = 0
            for signs in range(1 << count):
                gains = [1 if signs >> at & 1 else -1 for at in range(count)]
                found = interval(gains, expected)
                hits += found is not None and found[0] < 0 < found[1]
            chance = coverage(count, expected) if interval([0] * count, expected) else 0.0
            assert chance == pytest.approx(float(Fraction(hits, 1 << count)))
    assert coverage(2, 6) == 0


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of skewed gains, whose median is ln 2: nothing is assumed about their distribution."""
    chance = random.Random(1)
    scale, rounds, count = 1_000_000, 2_000, 10
    median = 0.6931472 * scale
    covered = 0
    for _ in range(rounds):
        gains = [int(chance.expovariate(1) * scale) for _ in range(count)]
        low, high = interval(gains, count) or (1, 0)
        covered += low <= median <= high
    expected = coverage(count, count)
    deviation = (expected * (1 - expected) / rounds) ** 0.5
    assert abs(covered / rounds - expected) < 4 * deviation


# -- who runs it ---------------------------------------------------------------------------------


def crowd(count: int) -> list[bytes]:
    return [digest(f"member {n}") for n in range(count)]


@given(st.integers(1, 400), st.sampled_from(STAGES[1:]))
def test_a_cohort_is_the_first_part_of_the_order(count: int, permille: int) -> None:
    who = crowd(count)
    drawn = cohort(BEACON, PROPOSAL, who, permille)
    running = [each for each in who if place(BEACON, PROPOSAL, each) <= drawn.running]
    size = min(count, max(LEAST_COHORT, -(-permille * count // 1000)))
    assert len(running) == drawn.expected == size
    assert drawn.members == count


def test_cohorts_hold_those_before_and_are_others_for_another_proposal_or_epoch() -> None:
    who = crowd(200)

    def of(beacon: bytes, proposal: bytes, permille: int) -> set[bytes]:
        cutoff = cohort(beacon, proposal, who, permille).running
        return {each for each in who if place(beacon, proposal, each) <= cutoff}

    first, second = of(BEACON, PROPOSAL, 100), of(BEACON, PROPOSAL, 500)
    assert len(first) == 20
    assert first < second < of(BEACON, PROPOSAL, 1000) == set(who)
    assert of(BEACON, digest("another"), 100) != first
    assert of(digest("another"), PROPOSAL, 100) != first


def test_in_shadow_nobody_runs_it_and_the_first_cohort_is_heard() -> None:
    who = crowd(50)
    shadow, first = (cohort(BEACON, PROPOSAL, who, permille) for permille in (SHADOW, FIRST))
    assert shadow == Cohort(50, NOBODY, first.heard, 5)
    assert cohort(BEACON, PROPOSAL, [], FULL) == Cohort(0, EVERYBODY, NOBODY, 0)


def test_of_a_large_cohort_a_bounded_part_is_heard() -> None:
    who = crowd(5_000)
    drawn = cohort(BEACON, PROPOSAL, who, 500)
    heard = [each for each in who if place(BEACON, PROPOSAL, each) <= drawn.heard]
    assert len(heard) == drawn.expected == MAX_HEARD
    assert drawn.heard < drawn.running


def test_what_a_daemon_does() -> None:
    who = crowd(30)
    plain = untouched("eviction")
    assert duty(plain, who[0], True).kind == "none"
    seen: dict[int, dict[str, int]] = {}
    for permille in STAGES:
        drawn = cohort(BEACON, PROPOSAL, who, permille)
        rollout = msgspec.structs.replace(
            going_on(30, permille), running=drawn.running, heard=drawn.heard
        )
        state = msgspec.structs.replace(plain, rollout=rollout)
        found = [duty(state, each, True) for each in who]
        seen[permille] = {kind: sum(d.kind == kind for d in found) for kind in ("shadow", "coin")}
        shares = {d.of_eight for d in found if d.kind == "coin"}
        assert shares <= ({PROBATION} if permille == FULL else {HALF})
        stranger = duty(state, who[0], False)
        assert (stranger.kind, stranger.of_eight) == (
            ("all", 8) if permille == FULL else ("none", 0)
        )
    assert seen == {
        0: {"shadow": 30, "coin": 0},
        100: {"shadow": 27, "coin": 3},
        500: {"shadow": 15, "coin": 15},
        1000: {"shadow": 0, "coin": 30},
    }


@pytest.mark.parametrize("of_eight", range(9))
def test_the_coin_is_fair_and_the_same_everywhere(of_eight: int) -> None:
    tosses = [coin(PROPOSAL, n.to_bytes(8, "big"), of_eight) for n in range(4_000)]
    assert tosses == [coin(PROPOSAL, n.to_bytes(8, "big"), of_eight) for n in range(4_000)]
    share = of_eight / 8
    assert abs(sum(tosses) / 4_000 - share) <= 4 * (share * (1 - share) / 4_000) ** 0.5
    if of_eight == HALF:
        other = [coin(digest("another"), n.to_bytes(8, "big")) for n in range(4_000)]
        assert abs(sum(a == b for a, b in zip(tosses, other, strict=True)) - 2_000) < 200
