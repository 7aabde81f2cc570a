"""Who serves which group: the same for everybody, within limits, and few move."""

import hashlib

import pytest

from protocols.learn.placement import (
    REDRAW,
    Moved,
    Ranking,
    beacons_at,
    draw_of,
    limit_for,
    loads,
    moved,
    place,
)
from protocols.ledger.chain import Head
from protocols.ledger.council import Council
from protocols.ledger.election import score
from protocols.ledger.entries import Member
from protocols.peerid import peer_id_of
from protocols.rendezvous import rank


def member(number: int, weight: int = 1000, latency: int = 5) -> Member:
    return Member(peer_id_of(hashlib.sha256(b"m%d" % number).digest()), weight, latency)


def members(count: int) -> list[Member]:
    return [member(number) for number in range(count)]


def keys(count: int) -> list[bytes]:
    return [b"model" + number.to_bytes(4, "big") for number in range(count)]


def beacon(epoch: int) -> bytes:
    return hashlib.sha256(b"beacon %d" % epoch).digest()


def beacons(epoch: int) -> list[bytes]:
    return [beacon(each) for each in range(epoch, epoch - REDRAW, -1)]


def placed(count: int, groups: int, epoch: int = 40, limit: int | None = None):  # type: ignore[no-untyped-def]
    limit = limit_for(groups, count) if limit is None else limit
    return place(beacons(epoch), epoch, members(count), keys(groups), limit)


def test_it_is_a_pure_function_whatever_the_order_of_members() -> None:
    one = placed(20, 64)
    other = place(beacons(40), 40, reversed(members(20)), keys(64), limit_for(64, 20))
    assert one == other
    assert len(set(one)) > 30


def test_without_a_limit_it_is_the_first_three_of_a_weighted_rendezvous() -> None:
    people = [member(n, weight=100 * (n + 1), latency=5 + n % 4) for n in range(9)]
    for key, three in zip(keys(30), place(beacons(40), 40, people, keys(30), 1000), strict=True):
        salted = b"group" + beacon(draw_of(key, 40)) + key
        nodes = [(each.identity, score(each.weight, each.latency)) for each in people]
        assert list(three or ()) == rank(salted, nodes)[:3]


def test_the_short_way_to_a_ranking_is_the_ranking() -> None:
    people = [(member(n).identity, 1 + n * n * 997 % 10**9) for n in range(80)]
    for key in keys(40):
        ranking = Ranking(key, people)
        assert len(ranking) == 80
        assert [ranking[place][1] for place in range(80)] == rank(key, people)


@pytest.mark.parametrize(("count", "groups"), [(3, 5), (4, 16), (8, 16), (20, 64), (60, 256)])
def test_every_group_is_served_and_nobody_carries_more_than_the_limit(
    count: int, groups: int
) -> None:
    found = placed(count, groups)
    assert all(three is not None and len(set(three)) == 3 for three in found)
    assert max(loads(found).values()) <= limit_for(groups, count)


def test_one_who_ranks_first_everywhere_carries_its_limit_and_no_more() -> None:
    people = [member(0, weight=10**9), *members(12)[1:]]
    found = place(beacons(40), 40, people, keys(40), 12)
    assert loads(found)[member(0).identity] == 12
    assert sum(three is not None for three in found) == 40


def test_fewer_than_three_members_serve_nothing() -> None:
    assert placed(2, 5, limit=100) == [None] * 5
    assert limit_for(5, 2) == 0
    unpaid = [member(0), member(1), member(2, weight=0)]
    assert place(beacons(40), 40, unpaid, keys(2), 10) == [None, None]


@pytest.mark.parametrize(("count", "groups", "limit"), [(8, 64, 4), (10, 100, 7), (5, 40, 3)])
def test_with_too_little_room_the_first_groups_are_served(
    count: int, groups: int, limit: int
) -> None:
    found = placed(count, groups, limit=limit)
    served = sum(three is not None for three in found)
    most = count * limit // 3
    assert served <= most
    assert served >= most - 1
    assert all(three is not None for three in found[:served])
    assert max(loads(found).values()) <= limit
    assert found == placed(count, groups, limit=limit)


def test_who_joins_or_leaves_moves_little_more_than_its_share() -> None:
    """Of 768 replicas of 256 groups on 60 members: its even share would be 12.8."""
    limit = limit_for(256, 60)
    before = place(beacons(40), 40, members(60), keys(256), limit)
    after = place(beacons(40), 40, members(61), keys(256), limit)
    joined = moved(before, after)
    assert 5 <= joined.seats <= 26
    # Every place that a newcomer took, and what was pushed on by that; nothing else.
    assert joined.seats <= 2 * loads(after)[member(60).identity]
    left = moved(after, before)
    assert left.seats <= 2 * loads(after)[member(60).identity]
    assert left.primaries <= left.seats


def test_an_epoch_draws_an_eighth_of_the_groups_anew() -> None:
    groups = 256
    drawn = [sum(draw_of(key, epoch) == epoch for key in keys(groups)) for epoch in range(40, 48)]
    assert sum(drawn) == groups
    assert max(drawn) <= groups // REDRAW * 2
    before, after = placed(60, groups, 40), placed(60, groups, 41)
    assert moved(before, after).groups <= max(drawn) + groups // 16
    assert moved(placed(60, groups, 40), placed(60, groups, 48)).groups > groups * 3 // 4


def test_between_its_draws_nothing_moves_a_group_but_members() -> None:
    for key in keys(20):
        drawn = {draw_of(key, epoch) for epoch in range(100, 100 + REDRAW)}
        assert len(drawn) <= 2
        assert all(epoch - REDRAW < draw_of(key, epoch) <= epoch for epoch in range(100, 120))


def test_at_the_ledgers_beginning_the_first_beacon_stands_for_those_before() -> None:
    first = place([beacon(1)], 1, members(8), keys(16), 8)
    assert all(three is not None for three in first)
    second = place([beacon(2), beacon(1)], 2, members(8), keys(16), 8)
    assert moved(first, second).groups < 10


def test_beacons_come_from_the_councils_that_are_still_known() -> None:
    councils = [Council(epoch, beacon(epoch), (), Head(0, bytes(32))) for epoch in range(24, 41)]
    assert beacons_at(councils, 1, 40) == beacons(40)
    assert beacons_at(councils, 1, 32) == [beacon(each) for each in range(32, 24, -1)]
    assert beacons_at(councils, 1, 30) is None
    early = [Council(epoch, beacon(epoch), (), Head(0, bytes(32))) for epoch in range(1, 4)]
    assert beacons_at(early, 1, 3) == [beacon(3), beacon(2), beacon(1)]


def test_what_moved_is_counted() -> None:
    a, b, c, d = b"a", b"b", b"c", b"d"
    before = [(a, b, c), (a, b, c), (a, b, c), None]
    after = [(b, a, c), (a, b, d), None, (a, b, c)]
    assert moved(before, after) == Moved(groups=1, seats=1, primaries=1)
