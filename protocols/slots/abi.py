"""Slots: components of the daemon that a ratified WebAssembly module may replace.

A slot is called with a *batch*: some numbers of context, tables of rows, and room for the answer,
in one block of memory. Everything is a signed 64-bit integer, little-endian:

    word 0                the slot's ABI number
    then                  the context, one word each
    then                  the number of rows of each table
    then                  each table, column behind column: rows words each
    then                  the answer, column behind column: rows words each, as many rows as
                          the table that it answers for

Integers, because an answer can then be compared with another implementation's to the bit, and no
machine's floating point has a say in it. Columns, because loops over them are quick in WebAssembly
and nothing is packed or unpacked on the way.

A module exports `memory`, `reserve(bytes: i32) -> i32` and `run(block: i32, bytes: i32) -> i32`:
the daemon asks for room (8-aligned), puts the block there, and calls `run`, which writes the answer
into the block and returns 0. It imports nothing and keeps nothing that it may rely on: any call
may be the first of a fresh instance.

Values beyond a column's bounds are taken as the nearest bound where the daemon uses them.
"""

import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from protocols.draw import Draw
from protocols.errors import MalformedError
from protocols.risk import Risk

WORD = 8
MAX_ROWS = 1 << 16
"""Of one table: 64 KiB columns times 8; four times the chunks of a 32 GB model's busiest file."""
MAX_WORDS = 1 << 20
"""Of a block: 8 MiB, which fits the least memory that a module may have."""
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
WASM_PAGE = 1 << 16


class BadBatchError(MalformedError):
    """A block that is not one of the slot's."""

    code = "bad-batch"


class Column(msgspec.Struct, frozen=True):
    """One number of the context, or one of each row."""

    name: str
    unit: str
    least: int
    most: int
    text: str

    def clamp(self, value: int) -> int:
        """The nearest number within the bounds."""
        return min(max(value, self.least), self.most)


class Table(msgspec.Struct, frozen=True):
    """Rows of the same columns."""

    name: str
    most_rows: int
    columns: tuple[Column, ...]
    text: str


class Goal(msgspec.Struct, frozen=True):
    """What an operation of the slot is to achieve, measured where it is used."""

    name: str
    unit: str
    higher_is_better: bool
    text: str


class Limits(msgspec.Struct, frozen=True):
    """What one call of a module may take: `fuel` + `fuel_per_row` for each row of all tables."""

    fuel: int
    fuel_per_row: int
    memory_pages: int
    """Of 64 KiB."""

    def fuel_of(self, rows: int) -> int:
        """For a batch of so many rows in all."""
        return self.fuel + self.fuel_per_row * rows


Run = Callable[["Batch"], None]
"""Fills a batch's answer in: the reference, or a module in the jail."""


class Invariant(msgspec.Struct, frozen=True):
    """What every implementation keeps. `broken` returns "" or what was wrong; it may call `run`
    on other batches, and changes nothing of the one it is given but its answer."""

    name: str
    text: str
    broken: Callable[[Run, "Batch", Draw], str]


class Slot(msgspec.Struct, frozen=True):
    """One component that may be replaced."""

    name: str
    abi: int
    risk: Risk
    text: str
    context: tuple[Column, ...]
    tables: tuple[Table, ...]
    answers: str
    """The table that there is one row of the answer for each row of."""
    outputs: tuple[Column, ...]
    goal: Goal
    limits: Limits
    reference: Run
    """The native implementation: what the daemon does where no upgrade is in force."""
    generate: Callable[[Draw, int], "Batch"]
    """A batch like those of real life and worse, with about so many rows in `answers`."""
    invariants: tuple[Invariant, ...]

    def words(self, rows: Sequence[int]) -> int:
        """Of a block with so many rows in each table."""
        found = 1 + len(self.context) + len(self.tables)
        for table, count in zip(self.tables, rows, strict=True):
            found += len(table.columns) * count
            if table.name == self.answers:
                found += len(self.outputs) * count
        return found


class Batch:
    """One call of a slot: a view on a block of memory."""

    __slots__ = ("_columns", "_outputs", "block", "context", "rows", "slot")

    def __init__(self, slot: Slot, block: memoryview) -> None:
        """A view on a block that is filled already. Raises BadBatchError."""
        if sys.byteorder != "little":
            raise BadBatchError("blocks are little-endian, and this machine is not")
        self.slot = slot
        self.block = words = block.cast("B").cast("q") if block.format != "q" else block
        at = 1 + len(slot.context)
        if len(words) < at + len(slot.tables) or words[0] != slot.abi:
            raise BadBatchError(f"not a block of {slot.name}, ABI {slot.abi}")
        self.context = dict(
            zip((each.name for each in slot.context), words[1:at].tolist(), strict=True)
        )
        self.rows = tuple(words[at : at + len(slot.tables)].tolist())
        _check_rows(slot, self.rows)
        if len(words) != slot.words(self.rows):
            raise BadBatchError(f"a block of {len(words)} words is not one of {self.rows} rows")
        at += len(slot.tables)
        self._columns: dict[tuple[str, str], memoryview] = {}
        for table, count in zip(slot.tables, self.rows, strict=True):
            for column in table.columns:
                self._columns[table.name, column.name] = words[at : at + count]
                at += count
        count = self.rows[[table.name for table in slot.tables].index(slot.answers)]
        self._outputs: dict[str, memoryview] = {}
        for column in slot.outputs:
            self._outputs[column.name] = words[at : at + count]
            at += count

    @classmethod
    def new(
        cls,
        slot: Slot,
        context: Mapping[str, int],
        rows: Sequence[int],
        room: memoryview | None = None,
    ) -> "Batch":
        """An empty batch, at the beginning of `room` where that is given (of bytes, and large
        enough); its columns are to be filled in. Raises BadBatchError for too many rows."""
        _check_rows(slot, rows)
        size = slot.words(rows) * WORD
        block = memoryview(bytearray(size)) if room is None else room[:size]
        words = block.cast("B").cast("q")
        head = [slot.abi, *(context[each.name] for each in slot.context), *rows]
        for at, value in enumerate(head):
            words[at] = value
        return cls(slot, words)

    @classmethod
    def of(
        cls,
        slot: Slot,
        context: Mapping[str, int],
        tables: Mapping[str, Mapping[str, Iterable[int]]],
        room: memoryview | None = None,
    ) -> "Batch":
        """A batch of these columns; values beyond 64 bits become the nearest."""
        plain = {
            name: {
                key: [v if I64_MIN <= v <= I64_MAX else _fit(v) for v in values]
                for key, values in columns.items()
            }
            for name, columns in tables.items()
        }
        rows = [len(next(iter(plain[table.name].values()))) for table in slot.tables]
        batch = cls.new(slot, context, rows, room)
        for table in slot.tables:
            for column in table.columns:
                batch.fill(table.name, column.name, plain[table.name][column.name])
        return batch

    def column(self, table: str, name: str) -> memoryview:
        """A column of a table, to be read or filled in: items are ints."""
        return self._columns[table, name]

    def fill(self, table: str, name: str, values: Iterable[int]) -> None:
        """Fill a whole column in, quickly: each value within 64 bits, one for each row."""
        _copy(self._columns[table, name], values)

    def answered(self, name: str, values: Iterable[int]) -> None:
        """The same for a column of the answer: what a reference does last."""
        _copy(self._outputs[name], values)

    def output(self, name: str) -> memoryview:
        """A column of the answer, as it is."""
        return self._outputs[name]

    def answer(self, name: str) -> list[int]:
        """A column of the answer, within its bounds."""
        bounds = next(each for each in self.slot.outputs if each.name == name)
        least, most = bounds.least, bounds.most
        return [
            value if least <= value <= most else bounds.clamp(value)
            for value in self._outputs[name].tolist()
        ]

    @property
    def total_rows(self) -> int:
        """Of all tables: what fuel is counted by."""
        return sum(self.rows)

    def copy(self) -> "Batch":
        """A twin with memory of its own."""
        return Batch(self.slot, memoryview(bytearray(self.block.cast("B"))))

    def answers_like(self, other: "Batch") -> bool:
        """Whether both have the same answer, to the bit."""
        return all(mine == other._outputs[name] for name, mine in self._outputs.items())


def _check_rows(slot: Slot, rows: Sequence[int]) -> None:
    for table, count in zip(slot.tables, rows, strict=True):
        if not 0 <= count <= table.most_rows:
            raise BadBatchError(
                f"{count} rows in {slot.name}'s {table.name}: {table.most_rows} are the most"
            )
    if slot.words(rows) > MAX_WORDS:
        raise BadBatchError(f"a block of {slot.words(rows)} words: {MAX_WORDS} are the most")


def _fit(value: int) -> int:
    return min(max(value, I64_MIN), I64_MAX)


def _copy(column: memoryview, values: Iterable[int]) -> None:
    words = array("q", values)
    if len(column) != len(words):
        raise BadBatchError(f"{len(words)} values for a column of {len(column)} rows")
    if words:
        column[:] = memoryview(words)
