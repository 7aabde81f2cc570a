"""Rendezvous hashing: fair, stable, the same everywhere; its logarithm within its bound."""

import json
import math
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.rendezvous import (
    FRACTION_BITS,
    HASH_BITS,
    MAX_WEIGHT,
    cost,
    log2_fixed,
    rank,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rendezvous.json").read_text())
nodes = st.dictionaries(st.binary(min_size=1, max_size=8), st.integers(1, 1 << 20), max_size=12)


@given(st.integers(1, 1 << (HASH_BITS + 1)))
def test_the_logarithm_is_within_its_bound(x: int) -> None:
    with localcontext() as context:
        context.prec = 60
        true = Decimal(x).ln() / Decimal(2).ln() * (1 << FRACTION_BITS)
        assert 0 <= true - log2_fixed(x) + Decimal("1e-40") < Decimal("1.0002")


def test_powers_of_two_are_exact() -> None:
    for power in range(HASH_BITS + 1):
        assert log2_fixed(1 << power) == power << FRACTION_BITS


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
def test_a_weight_out_of_range_is_our_bug(weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        cost(b"k", b"n", weight)


@given(st.binary(max_size=40), nodes)
def test_the_order_given_does_not_matter(key: bytes, weights: dict[bytes, int]) -> None:
    there = rank(key, weights.items())
    assert there == rank(key, reversed(weights.items()))
    assert sorted(there) == sorted(weights)


@given(st.binary(max_size=40), nodes, st.data())
def test_one_that_leaves_changes_nothing_between_the_others(
    key: bytes, weights: dict[bytes, int], data: st.DataObject
) -> None:
    if weights:
        gone = data.draw(st.sampled_from(sorted(weights)))
        rest = {node: weight for node, weight in weights.items() if node != gone}
        ranked = [node for node in rank(key, weights.items()) if node != gone]
        assert rank(key, rest.items()) == ranked


@given(st.binary(max_size=40), nodes, st.data())
def test_more_weight_never_ranks_lower(
    key: bytes, weights: dict[bytes, int], data: st.DataObject
) -> None:
    if weights:
        node = data.draw(st.sampled_from(sorted(weights)))
        before = rank(key, weights.items()).index(node)
        heavier = weights | {node: 2 * weights[node]}
        assert rank(key, heavier.items()).index(node) <= before


def test_shares_are_those_of_the_weights() -> None:
    weights = {b"one": 1, b"two": 2, b"five": 5, b"none": 0}
    keys = 8000
    first = [rank(f"key {n}".encode(), weights.items())[0] for n in range(keys)]
    for node, weight in weights.items():
        share = weight / 8
        deviation = math.sqrt(keys * share * (1 - share))
        assert abs(first.count(node) - keys * share) <= 4 * deviation


def test_a_key_and_a_node_do_not_run_into_each_other() -> None:
    assert cost(b"ab", b"c", 1) != cost(b"a", b"bc", 1)


@pytest.mark.parametrize("vector", VECTORS["costs"], ids=lambda v: v["key"][:8] + v["node"][:8])
def test_costs_are_the_published_ones(vector: dict[str, str]) -> None:
    key, node = bytes.fromhex(vector["key"]), bytes.fromhex(vector["node"])
    assert cost(key, node, int(vector["weight"])) == int(vector["cost"])


@pytest.mark.parametrize("vector", VECTORS["ranks"], ids=lambda v: v["key"][:16])
def test_ranks_are_the_published_ones(vector: dict[str, list[str]]) -> None:
    weights = [(bytes.fromhex(node), int(weight)) for node, weight in vector["nodes"]]
    ranked = rank(bytes.fromhex(str(vector["key"])), weights)
    assert [node.hex() for node in ranked] == vector["rank"]
