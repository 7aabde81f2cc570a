"""Parts of invariants that slots share: each runs a twin of a batch and compares the answers."""

from protocols.draw import Draw
from protocols.slots.abi import Batch, Column, Run, Slot, Table

STEP = 1 << 40
"""The most by which a value is moved, at any magnitude up to it."""


def permuted(run: Run, batch: Batch, draw: Draw) -> str:
    """What is wrong where the rows of the answered table, in another order, have other answers."""
    slot, table = batch.slot, answered(batch.slot)
    order = shuffled(draw, batch.rows[slot.tables.index(table)])
    moved = batch.copy()
    for column in table.columns:
        values = batch.column(table.name, column.name)
        target = moved.column(table.name, column.name)
        for at, old in enumerate(order):
            target[at] = values[old]
    run(batch)
    run(moved)
    for output in slot.outputs:
        before, after = batch.answer(output.name), moved.answer(output.name)
        for at, old in enumerate(order):
            if after[at] != before[old]:
                return f"{output.name} of row {old} is {before[old]}, and {after[at]} as row {at}"
    return ""


def moves(run: Run, batch: Batch, draw: Draw, *, name: str, output: str, sign: int) -> str:
    """What is wrong where, as column `name` of one row rises, its `output` moves against `sign`:
    1 for an answer that may only rise with it, -1 for one that may only fall."""
    table = answered(batch.slot)
    count = batch.rows[batch.slot.tables.index(table)]
    if not count:
        return ""
    at = draw.integer(0, count - 1)
    twin = batch.copy()
    values = twin.column(table.name, name)
    values[at] = column_of(table, name).clamp(values[at] + 1 + draw.size(STEP))
    run(batch)
    run(twin)
    before, after = batch.answer(output)[at], twin.answer(output)[at]
    if (after - before) * sign < 0:
        return f"{output} of row {at} went from {before} to {after} as its {name} rose"
    return ""


def answered(slot: Slot) -> Table:
    """The table that the answer has rows of."""
    return next(table for table in slot.tables if table.name == slot.answers)


def column_of(table: Table, name: str) -> Column:
    """A column by its name."""
    return next(column for column in table.columns if column.name == name)


def shuffled(draw: Draw, count: int) -> list[int]:
    """The numbers below `count` in any order (Fisher and Yates)."""
    order = list(range(count))
    for at in range(count - 1, 0, -1):
        other = draw.integer(0, at)
        order[at], order[other] = order[other], order[at]
    return order
