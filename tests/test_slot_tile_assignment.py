"""The slot `tile_assignment`: its reference by its rules, its batches by what peers say, and what
its invariants catch."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.draw import Draw
from protocols.slots.abi import Batch, Run
from protocols.slots.tile_assignment import (
    CHUNKS,
    HELD_WAIT,
    MAX_PEERS,
    MOST_WAIT,
    PEERS,
    SLOT,
    waits,
)
from protocols.tensors.blocks import Holding
from protocols.tensors.chunks import ChunkMap
from protocols.tensors.tensorblock import SUBTILE, Layout
from protocols.transfer.pullorder import draws
from protocols.transfer.schedule import Schedule
from tests.schedule_swarm import ROOT, runs_of

ME = bytes([9]) * 38
COUNT = 6
masks = st.integers(0, (1 << COUNT) - 1)


def members(mask: int) -> set[int]:
    return {at for at in range(MAX_PEERS) if mask >> at & 1}


def turn(peer: int, near: set[int], holders: set[int], pullers: set[int], place: int) -> int:
    """The rules in words: steps of patience before `peer` is asked for what it has."""
    if peer not in near and holders & near:
        return HELD_WAIT
    if peer in pullers:
        return 0
    house = pullers & near
    crew = house or (set() if peer in near else pullers)
    alike = {other for other in holders if (other in near) == (peer in near)}
    sources = alike - crew
    if not crew or (len(crew) < len(sources) and (peer in near or not house)):
        return 0
    return HELD_WAIT if holders & crew else place


@given(masks, masks, masks, st.integers(0, 4))
def test_who_waits_is_as_the_rules_say(near: int, holders: int, pullers: int, place: int) -> None:
    first, second, wait = waits(near, holders, pullers, place)
    assert wait <= MOST_WAIT
    for peer in members(holders):
        steps = 0 if first >> peer & 1 else wait if second >> peer & 1 else wait + 1
        wanted = turn(peer, members(near), members(holders), members(pullers), place)
        if peer in members(near) and members(holders) - members(near):
            wanted = min(wanted, HELD_WAIT + 1)  # a step behind those elsewhere at the latest
        assert steps == wanted


@given(st.binary(max_size=8), st.integers(0, 60))
def test_the_reference_keeps_the_invariants_and_stays_within_bounds(seed: bytes, rows: int) -> None:
    draw = Draw(seed)
    batch = SLOT.generate(draw, rows)
    assert batch.answers_like(SLOT.generate(Draw(seed), rows)), "a generator repeats itself"
    for invariant in SLOT.invariants:
        assert invariant.broken(SLOT.reference, batch, draw) == ""
    for output in SLOT.outputs:
        assert batch.output(output.name).tolist() == batch.answer(output.name)


def by_row_number(batch: Batch) -> None:
    SLOT.reference(batch)
    batch.answered("order", range(batch.rows[1]))


def by_the_lowest_bit(batch: Batch) -> None:
    """Names one holder of each chunk: the one that happens to stand first."""
    SLOT.reference(batch)
    holders = batch.column(CHUNKS, "holders").tolist()
    batch.answered("first", [mask & -mask for mask in holders])


def never_at_once(batch: Batch) -> None:
    SLOT.reference(batch)
    batch.answered("first", [0] * batch.rows[1])


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (by_row_number, "permuted"),
        (by_the_lowest_bit, "renumbered"),
        (never_at_once, "nobody waits"),
    ],
)
def test_each_invariant_catches_what_breaks_it(broken: Run, name: str) -> None:
    draw = Draw(b"invariants")
    found = {
        invariant.name: any(
            invariant.broken(broken, SLOT.generate(draw, 20), draw) for _ in range(40)
        )
        for invariant in SLOT.invariants
    }
    assert found[name]


# -- the batches that a schedule makes ------------------------------------------------------

SIZES = [70_000, 5 * SUBTILE, 0, 1000, 1000, 9 * SUBTILE + 1, 3000]
MIXED = Layout("safetensors", sum(SIZES), [(str(n), size) for n, size in enumerate(SIZES)])
LEAVES = range(MIXED.leaf_count)
leaf_sets = st.sets(st.sampled_from(LEAVES))


@given(
    missing=st.sets(st.sampled_from(LEAVES), min_size=1),
    said=st.lists(st.tuples(leaf_sets, st.none() | leaf_sets), max_size=5),
)
def test_a_batch_says_what_the_peers_have_said(
    missing: set[int], said: Sequence[tuple[set[int], set[int] | None]]
) -> None:
    """`said`: leaves that a peer holds, and those that it pulls (None: it pulls nothing)."""
    schedule = Schedule(ME, [(ROOT, MIXED)], [runs_of(missing)])
    names = [bytes([20 + at]) * 38 for at in range(len(said))]
    for name, (held, wants) in zip(names, said, strict=True):
        schedule.add_peer(name, local=True)
        pulling = bool(wants)
        holding = Holding(tuple(runs_of(held)), False, pulling, tuple(runs_of(wants or set())))
        schedule.heard(name, 0, holding)
    batch = schedule.wants_order(0.0)
    assert batch is not None
    chunks = [
        (number, set(range(chunk.lo, chunk.hi)))
        for number, chunk in enumerate(ChunkMap([MIXED]).chunks)
        if missing & set(range(chunk.lo, chunk.hi))
    ]
    assert batch.rows == (len(said), len(chunks))
    ours = draws(ROOT, ME, 100)
    for row, (number, leaves) in enumerate(chunks):
        holders = [bool(held & leaves & missing) for held, _ in said]
        whole = [leaves <= held for held, _ in said]
        wanters = [bool((wants or set()) & leaves - held) for held, wants in said]
        lower = [draws(ROOT, name, 100)[number] < ours[number] for name in names]
        assert members(value(batch, "holders", row)) == places(holders)
        assert members(value(batch, "wanters", row)) == places(wanters)
        assert members(value(batch, "pullers", row)) == places([bool(w) for _, w in said])
        assert value(batch, "rarity", row) == sum(whole)
        pairs = zip(wanters, lower, strict=True)
        assert value(batch, "place", row) == sum(want and less for want, less in pairs)


def value(batch: Batch, name: str, row: int) -> int:
    found: int = batch.column(CHUNKS, name)[row]
    return found


def places(flags: Sequence[bool]) -> set[int]:
    return {at for at, flag in enumerate(flags) if flag}


def test_a_pull_of_more_chunks_than_a_batch_has_room_for_asks_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protocols.transfer.pullorder.MAX_ROWS", 5)
    layout = Layout.flat(80 * SUBTILE)
    schedule = Schedule(ME, [(ROOT, layout)], [[(0, 80)]])
    peer = bytes([20]) * 38
    schedule.add_peer(peer, local=True, rate=100e6)
    schedule.heard(peer, 0, Holding((), True, False, ()))
    now = 0.0
    while not schedule.finished and now < 60:
        now += 0.1
        while run := schedule.next_run(peer, now):
            for _ in range(run.next, run.hi):
                schedule.arrived(run, now)
    assert schedule.finished


@pytest.mark.parametrize("news", [False, True])
def test_an_answer_that_does_not_come_is_given_by_the_reference(news: bool) -> None:
    schedule = Schedule(ME, [(ROOT, MIXED)], [[(0, MIXED.leaf_count)]])
    peer = bytes([20]) * 38
    schedule.add_peer(peer, local=True)
    schedule.heard(peer, 0, Holding((), True, False, ()))
    late = schedule.wants_order(0.0)
    assert late is not None
    assert schedule.wants_order(1.0) is None, "it is being answered"
    if news:
        schedule.add_peer(bytes([21]) * 38, local=True)
    assert schedule.next_run(peer, 1.0) is None
    assert schedule.next_run(peer, 4.0) is not None
    SLOT.reference(late)
    schedule.ordered(late)  # too late, and of no effect
    assert late.column(PEERS, "near").tolist() == [1]
