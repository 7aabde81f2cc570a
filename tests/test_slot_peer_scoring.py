"""The slot `peer_scoring`: its reference against floating point, and what its invariants catch."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.draw import Draw
from protocols.slots.abi import Batch, Run
from protocols.slots.peer_scoring import PEERS, SLOT, gossip_of, keep_of, log2_milli

amounts = st.integers(0, 1 << 50)


@given(st.integers(1, 1 << 62))
def test_the_logarithm_is_close_and_rises(x: int) -> None:
    assert -0.088 <= log2_milli(x) / 1000 - math.log2(x) <= 0.001
    assert log2_milli(x) <= log2_milli(x + 1)


@given(amounts, st.integers(-1, 10_000_000), st.integers(0, 10**8), st.integers(0, 20_000))
def test_keep_is_what_it_says(useful: int, rtt: int, known: int, faults: int) -> None:
    near = 0.0 if rtt < 0 else 2.0 / (1.0 + rtt / 50_000)
    service = math.log2(1.0 + useful / (1 << 20))
    wanted = service + near + min(1.0, known / 86400) - faults / 1000
    assert keep_of(useful, rtt, known, faults) / 1000 == pytest.approx(wanted, abs=0.095)


def test_gossip_prefers_who_brings_news_and_is_near() -> None:
    assert gossip_of(1000, 50, 50, 0) > gossip_of(1000, 5, 95, 0) > gossip_of(200_000, 5, 95, 0)
    assert gossip_of(-1, 3, 0, 0) == 0, "of few messages nothing is concluded"
    assert gossip_of(1000, 50, 0, 10_000) < 0


@given(st.binary(max_size=8), st.integers(0, 60))
def test_the_reference_keeps_the_invariants_and_stays_within_bounds(seed: bytes, rows: int) -> None:
    draw = Draw(seed)
    batch = SLOT.generate(draw, rows)
    for invariant in SLOT.invariants:
        assert invariant.broken(SLOT.reference, batch, draw) == ""
    for output in SLOT.outputs:
        assert batch.output(output.name).tolist() == batch.answer(output.name)


def by_row_number(batch: Batch) -> None:
    SLOT.reference(batch)
    batch.answered("gossip", range(batch.rows[0]))


def faults_forgotten_at_a_height(batch: Batch) -> None:
    SLOT.reference(batch)
    faults, gossip = batch.column(PEERS, "faults"), batch.output("gossip")
    for at in range(batch.rows[0]):
        if faults[at] > 50_000:
            gossip[at] += faults[at]


def generosity_is_suspect(batch: Batch) -> None:
    SLOT.reference(batch)
    useful, keep = batch.column(PEERS, "useful"), batch.output("keep")
    for at in range(batch.rows[0]):
        if useful[at] > 1 << 32:
            keep[at] = 0


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (by_row_number, "permuted"),
        (faults_forgotten_at_a_height, "faults"),
        (generosity_is_suspect, "useful"),
    ],
)
def test_each_invariant_catches_what_breaks_it(broken: Run, name: str) -> None:
    draw = Draw(b"invariants")
    found = {
        invariant.name
        for invariant in SLOT.invariants
        for _ in range(400)
        if invariant.broken(broken, SLOT.generate(draw, 8), draw)
    }
    assert found == {name}
