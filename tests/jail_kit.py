"""A slot for tests of the jail, with batches of it and jails for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocols.risk import Risk
from protocols.slots.abi import (
    I64_MAX,
    I64_MIN,
    WORD,
    Batch,
    Column,
    Goal,
    Limits,
    Slot,
    Table,
)
from synapsed.jail.jail import Jail
from synapsed.jail.layers import Layers
from tests import wasm_kit


def _column(name: str) -> Column:
    return Column(name, "", I64_MIN, I64_MAX, "")


TOY = Slot(
    name="toy",
    abi=1,
    risk=Risk.LOW,
    text="adds",
    context=(_column("unused"),),
    tables=(Table("rows", 40_000, (_column("a"), _column("b")), ""),),
    answers="rows",
    outputs=(_column("sum"),),
    goal=Goal("none", "", True, ""),
    limits=Limits(fuel=100_000, fuel_per_row=100, memory_pages=64),
    reference=lambda batch: batch.answered("sum", map(sum, zip(*_inputs(batch), strict=True))),
    generate=lambda draw, rows: toy(rows),
    invariants=(),
)


def _inputs(batch: Batch) -> tuple[list[int], list[int]]:
    return batch.column("rows", "a").tolist(), batch.column("rows", "b").tolist()


def toy(rows: int, jail: Jail | None = None) -> Batch:
    """A batch of the toy slot, in a jail's shared memory where one is given."""
    room = jail.room(TOY.words([rows]) * WORD) if jail else None
    batch = Batch.new(TOY, {"unused": 7}, [rows], room)
    for at in range(rows):
        batch.column("rows", "a")[at] = at
        batch.column("rows", "b")[at] = 10 * at
        batch.output("sum")[at] = -1
    return batch


def right(batch: Batch) -> bool:
    """Whether a toy batch is answered as its reference would."""
    twin = batch.copy()
    TOY.reference(twin)
    return batch.answers_like(twin)


class Told(list[tuple[str, dict[str, Any]]]):
    """Events, as they were told."""

    def __call__(self, name: str, **fields: Any) -> None:
        self.append((name, fields))

    def names(self) -> list[str]:
        return [name for name, _ in self]


@contextmanager
def jailed(
    folder: Path, *, layers: Layers | None = None, allow_weaker: bool = False
) -> Iterator[tuple[Jail, Told]]:
    """A jail and what it tells, closed at the end."""
    told = Told()
    jail = Jail(folder, told, allow_weaker=allow_weaker, layers=layers)
    try:
        yield jail, told
    finally:
        jail.close()


ADDER = wasm_kit.text(run=wasm_kit.ADDER, reserve=wasm_kit.GROW)
"""A module that answers the toy slot as its reference does."""
