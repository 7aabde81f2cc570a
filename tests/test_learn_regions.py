"""Regions are what round trips say: who is near, who gathers, and what delay changes."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.learn.regions import (
    CANDIDATES,
    LEAVE_OUT_MS,
    SETTLE_MS,
    WORTH_US,
    Regions,
    candidates,
)

A, B, C, D = (bytes([letter]) * 8 for letter in b"abcd")
ME, PRIMARY = b"me", b"primary"
BEACON = bytes(32)


def near(**ms: float) -> Regions:
    """One daemon's measurements, by name."""
    regions = Regions(ME)
    names = {"a": A, "b": B, "c": C, "d": D, "primary": PRIMARY}
    for name, rtt in ms.items():
        regions.measured(names[name], int(rtt * 1000))
    return regions


def route(regions: Regions, ranked=(A, B, C), now: int = 0, **more) -> bytes | None:
    return regions.route(list(ranked), {0: PRIMARY}, now, **more).aggregator


def test_candidates_are_the_same_for_everybody_and_others_with_each_beacon():
    members = [bytes([number]) * 8 for number in range(200)]
    first = candidates(BEACON, b"model", members)
    assert len(first) == CANDIDATES
    assert first == candidates(BEACON, b"model", reversed(members))
    assert first != candidates(b"\1" * 32, b"model", members)
    banned = first[0]
    assert candidates(BEACON, b"model", members, {banned})[: CANDIDATES - 1] == first[1:]


def test_the_first_of_those_that_are_about_as_near_as_the_nearest():
    regions = near(a=150, b=24, c=12, primary=120)
    assert route(regions) == B, "b is ranked before c, and as near as c"
    assert route(near(a=150, b=60, c=12, primary=140)) == C


def test_nobody_clearly_nearer_than_the_primary_is_no_region():
    assert route(near(a=80, b=70, c=65, primary=120)) is None
    assert route(near(a=10, b=10, c=10)) is None, "nobody knows how far the primary is"


def test_with_the_primary_in_the_same_city_nobody_aggregates():
    assert route(near(a=0.2, b=0.3, primary=2)) is None
    assert route(near(a=0.2, b=0.3, primary=20)) == A


def test_all_of_one_region_gather_at_the_same_one():
    ranked = [A, B, C, D]
    chosen = {
        route(near(a=200, b=8 + jitter, c=11 - jitter, d=9, primary=100), ranked)
        for jitter in (0, 1, 2, 3, 4)
    }
    assert chosen == {B}


def test_a_candidate_does_not_take_itself_for_the_only_one_that_is_near():
    regions = near(a=12, b=9, primary=100)
    assert route(regions, [A, ME, B]) == A
    assert route(near(primary=100), [ME]) == ME


def test_injected_delay_changes_the_route():
    regions = near(a=10, b=12, c=200, primary=120)
    assert route(regions) == A
    for _ in range(60):
        regions.measured(A, 300_000)
    assert route(regions) == B
    for _ in range(60):
        regions.measured(B, 300_000)
    assert route(regions) is None


def test_a_route_that_is_not_clearly_worse_is_held():
    regions = near(a=40, b=12, c=200, primary=200)
    assert route(regions) == B
    for _ in range(60):
        regions.measured(A, 10_000)
        assert route(regions) == B, "a would be the first of the ranking by now"
    for _ in range(80):
        regions.measured(B, 60_000)
    assert route(regions) == A


def test_a_region_that_began_apart_ends_at_one():
    regions = near(a=40, b=12, c=200, primary=200)
    assert route(regions) == B
    for _ in range(60):
        regions.measured(A, 10_000)
    assert route(regions, now=1000) == B
    assert route(regions, now=SETTLE_MS) == B
    assert route(regions, now=SETTLE_MS + 1000) == A, "the first of the ranking, as for all others"
    alone = near(a=190, primary=200)
    assert route(alone, [A, ME]) == ME
    for _ in range(4):
        alone.measured(A, 10_000)
    assert route(alone, [A, ME]) == A, "nobody stays alone because nothing is nearer than himself"


def test_noise_begins_the_wait_anew():
    regions = near(a=40, b=12, c=200, primary=200)
    assert route(regions) == B
    for now in range(0, 4 * SETTLE_MS, SETTLE_MS // 2):
        for _ in range(4):
            regions.measured(A, 10_000 if now % SETTLE_MS else 60_000)
        assert route(regions, now=now) == B


def test_a_silent_one_is_left_out_for_a_while_and_a_caught_one_for_good():
    regions = near(a=10, b=12, primary=120)
    regions.leave_out(A, 0)
    assert route(regions, now=LEAVE_OUT_MS - 1) == B
    assert route(regions, now=10**9, caught={B}) == A
    assert route(regions, now=10**9, caught={A, B}) is None


def test_the_farthest_primary_decides_whether_a_region_is_worth_it():
    regions = near(a=10, primary=12)
    regions.measured(D, 150_000)
    assert regions.route([A], {0: PRIMARY}, 0).aggregator is None
    assert regions.route([A], {0: PRIMARY, 1: D}, 0).aggregator == A


def test_the_replica_in_ones_own_region():
    regions = near(a=150, b=12, c=200)
    assert regions.nearest([A, B, C]) == B
    assert regions.nearest([A, C]) is None, "both are far"
    assert near(a=1, b=3).nearest([A, B]) is None, "all are here"


def test_it_says_whom_to_measure():
    regions = near(a=10, primary=100)
    assert regions.to_measure([A, B, ME], [PRIMARY, C]) == [B, C, A, PRIMARY]
    regions.missed(A)
    assert regions.to_measure([A, ME], [PRIMARY]) == [PRIMARY, A], "who was looked at waits"
    assert regions.to_measure([], [PRIMARY]) == [PRIMARY], "who is wanted no more does not"


def test_a_busy_machine_moves_nobody_and_a_longer_link_does():
    regions = near(a=2, b=2, primary=60)
    for late in (40, 55, 70):
        regions.measured(A, late * 1000)
    assert route(regions) == A
    regions.measured(A, 50_000)
    assert route(regions) == B, "four in a row are the link's"


@given(
    st.lists(st.integers(1, 400_000), min_size=3, max_size=3),
    st.integers(1, 400_000),
)
def test_whatever_is_measured_an_aggregator_is_clearly_nearer_than_the_primary(rtts, far):
    regions = Regions(ME)
    for peer, rtt in zip((A, B, C), rtts, strict=True):
        regions.measured(peer, rtt)
    regions.measured(PRIMARY, far)
    found = regions.route([A, B, C], {0: PRIMARY}, 0)
    if found.aggregator is None:
        assert far < WORTH_US or all(2 * rtt > far for rtt in rtts)
    else:
        assert 2 * found.rtt_us <= far
