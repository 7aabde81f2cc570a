"""Runs against Python's sets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from synapsed.store import Runs

_RUN = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda run: (run[0], sum(run)))
_STEPS = st.lists(st.tuples(st.booleans(), _RUN), max_size=40)


def _as_set(runs: Runs) -> set[int]:
    return {value for lo, hi in runs for value in range(lo, hi)}


@given(_STEPS, _RUN)
def test_they_are_sets_of_integers(
    steps: list[tuple[bool, tuple[int, int]]], window: tuple
) -> None:
    runs, model = Runs(), set()
    for adding, (lo, hi) in steps:
        span = set(range(lo, hi))
        changed = runs.add(lo, hi) if adding else runs.remove(lo, hi)
        assert changed == len(span - model if adding else span & model)
        model = model | span if adding else model - span
        assert _as_set(runs) == model
        assert runs.count == len(model)
    pairs = list(runs)
    assert all(lo < hi for lo, hi in pairs)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(pairs))
    inside = set(range(*window))
    assert _as_set(Runs(runs.missing(*window))) == inside - model
    assert _as_set(Runs(runs.within(*window))) == inside & model
    assert runs.covers(*window) == (inside <= model)
    assert all((value in runs) == (value in model) for value in range(90))


def test_a_copy_does_not_change_with_the_first() -> None:
    runs = Runs([(0, 5)])
    copy = runs.copy()
    runs.add(7, 9)
    assert list(copy) == [(0, 5)]
    assert copy == Runs([(0, 3), (3, 5)])
    assert copy != runs
