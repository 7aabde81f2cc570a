"""The layout of a call, read by other means than its own, and what is refused of it."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.draw import Draw
from protocols.risk import Risk
from protocols.slots.abi import (
    I64_MAX,
    I64_MIN,
    MAX_ROWS,
    MAX_WORDS,
    WORD,
    BadBatchError,
    Batch,
    Column,
    Goal,
    Limits,
    Slot,
    Table,
)
from protocols.slots.closed_list import SLOTS
from tests.vectors import make_slots

VECTORS: dict[str, Any] = json.loads(make_slots.FILE.read_text())
CALLS = [(name, call) for name, its in VECTORS.items() for call in its["calls"]]
words = st.integers(I64_MIN, I64_MAX)


def column(name: str, least: int = I64_MIN, most: int = I64_MAX) -> Column:
    return Column(name, "", least, most, "")


TWO = Slot(
    name="two tables",
    abi=3,
    risk=Risk.LOW,
    text="",
    context=(column("now"),),
    tables=(
        Table("few", 4, (column("a"),), ""),
        Table("many", MAX_ROWS, (column("b"), column("c")), ""),
    ),
    answers="many",
    outputs=(column("best", -5, 5), column("free")),
    goal=Goal("", "", True, ""),
    limits=Limits(fuel=100, fuel_per_row=7, memory_pages=1),
    reference=lambda batch: batch.answered("best", batch.column("many", "b").tolist()),
    generate=lambda _draw, rows: batch_of([1] * rows),
    invariants=(),
)


def batch_of(values: list[int], few: tuple[int, ...] = ()) -> Batch:
    return Batch.of(
        TWO, {"now": 9}, {"few": {"a": few}, "many": {"b": values, "c": [0] * len(values)}}
    )


# -- vectors --------------------------------------------------------------------------------


def test_the_vectors_are_those_of_the_slots_there_are() -> None:
    assert make_slots.FILE.read_text() == make_slots.text(), (
        "run python -m tests.vectors.make_slots"
    )
    assert list(VECTORS) == list(SLOTS)


def read_plainly(described: dict[str, Any], block: bytes) -> dict[str, Any]:
    """A block by its description in words: an implementation that knows nothing of ours."""
    stream: Iterator[int] = iter(struct.unpack(f"<{len(block) // 8}q", block))
    assert next(stream) == described["abi"]
    context = {name: next(stream) for name in described["context"]}
    rows = {name: next(stream) for name in described["tables"]}
    tables = {
        name: {key: [next(stream) for _ in range(rows[name])] for key in columns}
        for name, columns in described["tables"].items()
    }
    count = rows[described["answers"]]
    answer = {name: [next(stream) for _ in range(count)] for name in described["outputs"]}
    assert next(stream, None) is None
    return {"context": context, "rows": rows, "tables": tables, "answer": answer}


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_a_block_is_what_its_description_says(name: str, call: dict[str, Any]) -> None:
    slot, block = SLOTS[name], bytes.fromhex(call["block"])
    plain = read_plainly(VECTORS[name], block)
    batch = make_slots.answered(slot, block)
    assert plain["context"] == call["context"] == batch.context
    assert plain["rows"] == call["rows"]
    for table, columns in plain["tables"].items():
        for key, values in columns.items():
            assert batch.column(table, key).tolist() == values
    assert {key: batch.output(key).tolist() for key in call["answer"]} == call["answer"]
    assert read_plainly(VECTORS[name], bytes(batch.block))["answer"] == call["answer"]


# -- batches --------------------------------------------------------------------------------


@given(st.lists(words, max_size=20), st.lists(words, max_size=4))
def test_what_is_put_in_comes_out(many: list[int], few: list[int]) -> None:
    batch = batch_of(many, tuple(few))
    assert batch.rows == (len(few), len(many))
    assert batch.total_rows == len(few) + len(many)
    assert batch.column("many", "b").tolist() == many
    again = Batch(TWO, memoryview(bytes(batch.block)))
    assert again.column("few", "a").tolist() == few
    assert again.context == {"now": 9}
    TWO.reference(batch)
    assert batch.answer("best") == [min(max(value, -5), 5) for value in many]
    assert batch.output("best").tolist() == many
    twin = batch.copy()
    assert twin.answers_like(batch)
    if many:
        twin.output("free")[0] += 1 if twin.output("free")[0] < I64_MAX else -1
        assert not twin.answers_like(batch)
        assert batch.output("free").tolist() != twin.output("free").tolist()


@given(st.integers())
def test_values_beyond_64_bits_become_the_nearest(value: int) -> None:
    (kept,) = batch_of([value]).column("many", "b").tolist()
    assert kept == min(max(value, I64_MIN), I64_MAX)


def test_a_batch_in_given_room_uses_its_beginning() -> None:
    room = memoryview(bytearray(4096))
    batch = Batch.new(TWO, {"now": 1}, (1, 2), room)
    batch.fill("many", "b", [7, 8])
    size = TWO.words((1, 2)) * WORD
    assert bytes(room[:size]) == bytes(batch.block.cast("B"))
    assert not any(room[size:])


def test_blocks_that_are_not_the_slots_are_refused() -> None:
    good = bytearray(batch_of([1, 2], (3,)).block)
    Batch(TWO, memoryview(good))
    other_abi = bytearray(good)
    other_abi[0] = 4
    more_rows = bytearray(good)
    more_rows[3 * WORD] = 3
    negative = bytearray(good)
    negative[3 * WORD : 4 * WORD] = struct.pack("<q", -1)
    many = bytearray(good)
    many[2 * WORD] = 5
    for block in (other_abi, more_rows, negative, many, good[:-WORD], good + bytes(WORD), good[:8]):
        with pytest.raises(BadBatchError):
            Batch(TWO, memoryview(bytearray(block)))


def test_too_much_is_refused_before_there_is_room_for_it() -> None:
    with pytest.raises(BadBatchError, match="4 are the most"):
        Batch.new(TWO, {"now": 0}, (5, 0))
    with pytest.raises(BadBatchError, match=f"{MAX_ROWS} are the most"):
        Batch.new(TWO, {"now": 0}, (0, MAX_ROWS + 1))
    with pytest.raises(BadBatchError, match="3 values for a column of 2 rows"):
        batch_of([1, 2]).fill("many", "c", [1, 2, 3])
    with pytest.raises(BadBatchError, match="1 values for a column of 2 rows"):
        batch_of([1, 2]).answered("best", [1])


@pytest.mark.parametrize("slot", SLOTS.values(), ids=lambda slot: slot.name)
def test_the_largest_batch_of_a_slot_fits_a_block_and_the_memory_of_a_call(slot: Slot) -> None:
    most = slot.words([table.most_rows for table in slot.tables])
    assert most <= MAX_WORDS
    assert most * WORD <= slot.limits.memory_pages * 65536 * 3 // 4
    assert slot.limits.fuel_of(10) == slot.limits.fuel + 10 * slot.limits.fuel_per_row


@pytest.mark.parametrize("slot", SLOTS.values(), ids=lambda slot: slot.name)
def test_a_generator_makes_what_it_is_asked_for_and_the_same_again(slot: Slot) -> None:
    draw = Draw(b"sizes")
    tables = {table.name: table for table in slot.tables}
    for rows in (0, 1, 40):
        for _ in range(20):
            batch = slot.generate(draw, rows)
            counts = dict(zip(tables, batch.rows, strict=True))
            assert counts[slot.answers] <= max(1, 2 * rows)
            for name, table in tables.items():
                for each in table.columns:
                    values = batch.column(name, each.name).tolist()
                    assert all(each.least <= value <= each.most for value in values)
    one, two = (slot.generate(Draw(b"again"), 30) for _ in range(2))
    assert bytes(one.block) == bytes(two.block)


# -- numbers for generators -----------------------------------------------------------------


def test_the_stream_of_numbers_is_splitmix64() -> None:
    """Steele, Lea and Flood's published generator, from the state that the seed makes."""
    draw = Draw(b"seed")
    draw._at = 1234567
    assert [draw.word() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.binary(max_size=4), st.integers(-(1 << 63), 1 << 62), st.integers(0, 1 << 62))
def test_drawn_integers_are_in_their_span(seed: bytes, least: int, span: int) -> None:
    draw = Draw(seed)
    for _ in range(20):
        assert least <= draw.integer(least, least + span) <= least + span
        assert 0 <= draw.size(span) <= span


def test_chances_and_magnitudes_are_about_right() -> None:
    draw = Draw(b"chances")
    assert 2700 < sum(draw.chance(3, 10) for _ in range(10_000)) < 3300
    drawn = [draw.size(1 << 40) for _ in range(10_000)]
    for bits in (0, 10, 20, 30):
        assert any(size.bit_length() == bits for size in drawn)
    assert sum(size < 1 << 20 for size in drawn) > 3000
