"""The batches of one check, all made from one seed: any of them can be made again by its number.

Sizes matter as much as values: policies are asked about twenty peers or about 65,536 chunks.
"""

from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from protocols.draw import Draw
from protocols.slots.abi import Batch, Slot, Table

T = TypeVar("T")

EVERY_SIZE = 64
"""Each number of rows up to this comes at least once: the first rows are where loops go wrong."""
MAGNITUDES = (8, 64, 512, 4096)
"""Most rows of the other batches: each as often as the others."""
MUTATED_ROWS = 256
CELLS = 8
"""Values of a column that are put at an edge: up to so many, and again for each hundred rows."""
MAX_CONSTANTS = 512
"""Numbers that stand in a module's code and are tried as inputs."""
CONSTANT_ROWS = 1024
"""Of one batch that they are tried in."""


def drawn(seed: str, what: str) -> Draw:
    """The numbers for one part of a check."""
    return Draw(f"{seed} {what}".encode())


def generated(slot: Slot, seed: str, rows: int) -> Iterator[tuple[str, Batch]]:
    """Batches with at least so many rows of what is answered in all, the largest one among them."""
    table = answered(slot)
    place = slot.tables.index(table)
    total = 0
    for number in count():
        draw = drawn(seed, f"batch {number}")
        batch = slot.generate(draw, _size(draw, number, min(rows, table.most_rows)))
        total += batch.rows[place]
        yield f"batch {number}", batch
        if total >= rows and number > EVERY_SIZE + 1:
            return


def _size(draw: Draw, number: int, most: int) -> int:
    if number == 0:
        return most
    if number <= EVERY_SIZE + 1:
        return number - 1
    return min(most, draw.integer(0, MAGNITUDES[draw.integer(0, len(MAGNITUDES) - 1)]))


def answered(slot: Slot) -> Table:
    """The table that there is one row of the answer for each row of."""
    return next(table for table in slot.tables if table.name == slot.answers)


def mutated(slot: Slot, seed: str, number: int) -> Batch:
    """A generated batch with some values at the edges of what columns may hold."""
    draw = drawn(seed, f"mutated {number}")
    batch = slot.generate(draw, draw.integer(1, MUTATED_ROWS))
    push(batch, draw)
    return batch


def push(batch: Batch, draw: Draw) -> None:
    """Put some of a batch's values at the edges, or beside where they are."""
    for table in batch.slot.tables:
        for column in table.columns:
            values = batch.column(table.name, column.name)
            for _ in range(_cells(draw, len(values))):
                at = draw.integer(0, len(values) - 1)
                edge = (column.least, column.most, 0, 1, values[at] - 1, values[at] + 1)
                values[at] = column.clamp(edge[draw.integer(0, len(edge) - 1)])


def _cells(draw: Draw, rows: int) -> int:
    return draw.integer(0, CELLS * (1 + rows // 100)) if rows else 0


def shuffle(items: list[T], draw: Draw) -> None:
    """Into any order, in place (Fisher and Yates)."""
    for at in range(len(items) - 1, 0, -1):
        other = draw.integer(0, at)
        items[at], items[other] = items[other], items[at]


def planted(slot: Slot, seed: str, constants: list[int]) -> Iterator[tuple[str, Batch]]:
    """Batches in which each column holds, in some row, each of the constants that it may hold:
    whoever tells one input from all others names it somewhere."""
    table = answered(slot)
    cells = [
        (column.name, value)
        for column in table.columns
        for value in constants
        if column.least <= value <= column.most
    ]
    most = min(CONSTANT_ROWS, table.most_rows)
    for number, begin in enumerate(range(0, len(cells), most)):
        some = cells[begin : begin + most]
        batch = slot.generate(drawn(seed, f"planted {number}"), len(some))
        rows = batch.rows[slot.tables.index(table)]
        for at, (name, value) in enumerate(some[:rows]):
            batch.column(table.name, name)[at] = value
        yield f"planted batch {number}", batch


def constants(code: bytes) -> list[int]:
    """Numbers that may be the operand of a `const` in a module, with their neighbours.

    Every byte that could be one of these two operations is taken for one: some numbers too many
    cost nothing.
    """
    found: dict[int, None] = {}
    for at, byte in enumerate(code):
        if byte in (0x41, 0x42):
            value = _signed(code, at + 1)
            if value is not None and value not in range(-2, 3):
                found.update(dict.fromkeys((value, value - 1, value + 1)))
        if len(found) >= 3 * MAX_CONSTANTS:
            break
    return list(found)


def _signed(code: bytes, at: int) -> int | None:
    """A signed LEB128 number of at most 64 bits."""
    value = shift = 0
    for byte in code[at : at + 10]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            value -= (1 << shift) if byte & 0x40 else 0
            return value if -(1 << 63) <= value < 1 << 63 else None
    return None
