"""The map that forks: it is a dict, and a fork is another one."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.forkmap import ForkMap

KEYS = [bytes([n]) for n in range(12)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 3), st.sampled_from(KEYS), st.integers(1, 9)),
        st.tuples(st.just("fork"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(STEPS)
def test_forks_are_independent_dicts(steps: list[tuple]) -> None:
    maps, models = [ForkMap[int]()], [dict[bytes, int]()]
    for what, which, *more in steps:
        at = which % len(maps)
        if what == "set":
            key, value = more
            maps[at].set(key, value)
            models[at][key] = value
        elif len(maps) < 5:
            maps.append(maps[at].fork())
            models.append(dict(models[at]))
    for found, model in zip(maps, models, strict=True):
        assert found.items() == sorted(model.items())
        assert len(found) == len(model)
        assert all(found.get(key) == model.get(key) for key in KEYS)
        assert all((key in found) == (key in model) for key in KEYS)


def test_there_are_few_layers_however_often_it_is_forked() -> None:
    grown = ForkMap[int]()
    for number in range(1000):
        grown.set(number.to_bytes(2, "big"), number + 1)
        grown.fork()
    assert len(grown) == 1000
    assert len(grown._layers) <= 11  # log2(1000), and one
