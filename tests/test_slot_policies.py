"""The slots of what the daemon keeps and takes for others: their references, and what catches an
implementation that is wrong."""

from collections.abc import Callable

import pytest

from protocols.draw import Draw
from protocols.slots import adapter_ranking as slot_adapter_ranking
from protocols.slots import eviction as slot_eviction
from protocols.slots.abi import Batch, Invariant, Slot
from protocols.slots.eviction import CANDIDATES, WORTH, choose

SLOTS = [slot_eviction.SLOT, slot_adapter_ranking.SLOT]


def broken(invariant: Invariant, run: Callable[[Batch], None], slot: Slot, tries: int = 400) -> str:
    """What the invariant finds wrong first, in batches from the slot's generator."""
    draw = Draw(invariant.name.encode())
    for _ in range(tries):
        batch = slot.generate(draw, draw.integer(0, 12))
        why = invariant.broken(run, batch, draw)
        if why:
            return why
    return ""


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_the_reference_keeps_what_every_implementation_must(slot: Slot) -> None:
    for invariant in slot.invariants:
        assert broken(invariant, slot.reference, slot) == ""


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_generated_batches_and_their_answers_are_within_bounds(slot: Slot) -> None:
    draw = Draw(b"bounds")
    table = slot.tables[0]
    sizes = {0, 1, 2, 300}
    for rows in sizes:
        for _ in range(40):
            batch = slot.generate(draw, rows)
            assert batch.rows == (rows,)
            for column in table.columns:
                values = batch.column(table.name, column.name).tolist()
                assert values == [column.clamp(value) for value in values], column.name
            for context in slot.context:
                assert batch.context[context.name] == context.clamp(batch.context[context.name])
            slot.reference(batch)
            for output in slot.outputs:
                assert batch.answer(output.name) == batch.output(output.name).tolist()


def bent(
    slot: Slot, output: str, bend: Callable[[Batch, int, int], int]
) -> Callable[[Batch], None]:
    """The reference, with `bend(batch, row, value)` in the place of each answer."""

    def run(batch: Batch) -> None:
        slot.reference(batch)
        values = batch.output(output).tolist()
        batch.answered(output, [bend(batch, at, value) for at, value in enumerate(values)])

    return run


def column(name: str) -> Callable[[Batch, int], int]:
    """A value of the first table."""
    return lambda batch, at: batch.column(batch.slot.tables[0].name, name)[at]


EVICTION, RANKING = slot_eviction.SLOT, slot_adapter_ranking.SLOT
copies, served = column("copies"), column("served")
base, reputation, size = column("base"), column("reputation"), column("bytes")

WRONG = [
    (EVICTION, "permuted", WORTH, lambda _batch, at, value: value + at),
    (EVICTION, "copies", WORTH, lambda batch, at, _value: copies(batch, at)),
    (EVICTION, "served", WORTH, lambda batch, at, value: value - min(served(batch, at), value)),
    (EVICTION, "scarce last", WORTH, lambda _batch, _at, value: value & ((1 << 40) - 1)),
    (RANKING, "permuted", "score", lambda _batch, at, value: value // (at + 1)),
    (RANKING, "base", "score", lambda batch, at, value: value - 300 * base(batch, at)),
    (
        RANKING,
        "reputation",
        "score",
        lambda batch, at, value: value - reputation(batch, at) % 1000,
    ),
    (RANKING, "size", "score", lambda batch, at, _value: size(batch, at).bit_length()),
]


@pytest.mark.parametrize(
    ("slot", "name", "output", "bend"), WRONG, ids=[f"{w[0].name}-{w[1]}" for w in WRONG]
)
def test_each_invariant_catches_an_implementation_that_breaks_it(
    slot: Slot, name: str, output: str, bend: Callable[[Batch, int, int], int]
) -> None:
    (invariant,) = (each for each in slot.invariants if each.name == name)
    assert broken(invariant, bent(slot, output, bend), slot)


def test_every_invariant_is_caught_breaking() -> None:
    assert {(slot.name, each.name) for slot in SLOTS for each in slot.invariants} == {
        (slot.name, name) for slot, name, _, _ in WRONG
    }


# -- what is chosen --------------------------------------------------------------------------------


def test_the_least_worth_go_until_there_is_enough() -> None:
    assert choose([3, 1, 2], [10, 10, 10], 15) == [1, 2]
    assert choose([1, 1, 1], [10, 10, 10], 10) == [0]
    assert choose([1, 2], [10, 10], 0) == []
    assert choose([1, 2], [10, 10], 21) == []


def test_what_turns_out_not_to_be_needed_stays() -> None:
    """The last that is taken may be enough alone: then those before it that it replaces stay."""
    assert choose([1, 2, 3], [5, 5, 100], 50) == [2]
    assert choose([1, 2, 3], [5, 30, 25], 50) == [1, 2]


def test_whatever_the_worths_are_it_is_enough_and_nothing_can_stay() -> None:
    draw = Draw(b"choose")
    for _ in range(500):
        count = draw.integer(1, 20)
        sizes = [draw.integer(1, 1000) for _ in range(count)]
        worths = [draw.integer(0, 5) for _ in range(count)]
        need = draw.integer(1, sum(sizes))
        taken = choose(worths, sizes, need)
        total = sum(sizes[at] for at in taken)
        assert total >= need
        assert len(set(taken)) == len(taken)
        assert all(total - sizes[at] < need for at in taken)


def test_the_eviction_reference_orders_as_it_says() -> None:
    """Plenty before headers before scarce; of equals the unasked, the old and the common first."""
    usual = {
        "kind": 0, "model": 0, "bytes": 1 << 22, "copies": 3, "holders": 3,
        "served": 0, "idle": 9000, "age": 9000, "rate": 1 << 20,
    }  # fmt: skip
    rows = [
        usual,
        usual | {"served": 1 << 26},
        usual | {"kind": 1, "copies": 0},
        usual | {"copies": 2},
        usual | {"copies": 1, "served": 0},
    ]
    table = {name: [row[name] for row in rows] for name in usual}
    context = {"need": 1, "wanted": 3, "used": 0, "quota": 0}
    batch = Batch.of(EVICTION, context, {CANDIDATES: table})
    EVICTION.reference(batch)
    worths = batch.answer(WORTH)
    assert worths == sorted(worths)
    assert len(set(worths)) == len(worths)
