"""`python -m synapsed.authoring.docs > docs/slots.md`: the slots, written out from their
definitions. A test compares, so that the page cannot say something else than the code."""

import sys
from collections.abc import Iterator

from protocols.slots.abi import MAX_ROWS, MAX_WORDS, WORD, Column, Slot
from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits
from synapsed.authoring.languages import LANGUAGES
from synapsed.authoring.layout import places
from synapsed.authoring.question import (
    DEARER_MILLE,
    PART,
    ROWS,
    SLOWER_MILLE,
)
from synapsed.authoring.sample import drawn

VECTOR_ROWS = 3
"""Rows of the example of a call."""

HEAD = """\
# Slots

A slot is a component of the daemon that the network may replace by a WebAssembly module, once its
council ratified that. This page is for who writes such a module. It is made from the definitions
in `protocols/slots/` by `python -m synapsed.authoring.docs`.

{list}

## From a source to every daemon

```
synapsectl upgrade new peer_scoring --language rust -o peer_scoring.rs
synapsectl upgrade build peer_scoring.rs --slot peer_scoring
synapsectl upgrade check peer_scoring.upgrade --rebuild peer_scoring.rs
synapsectl upgrade propose peer_scoring.upgrade --risks TEXT --benefits TEXT
```

{languages}

A source is one file. It is compiled in a cell without network, which can read the compiler's own
folders and nothing else, by fixed options: the same source and the same version of the compiler
give the same bytes on every machine, and `--rebuild` compares them. `examples/upgrades/` has one
module in each language, each equal to the daemon's own implementation.

## The call

A slot is called with a batch: one block of memory, of signed 64-bit integers, little-endian.

| words | |
| --- | --- |
| 1 | the slot's ABI number |
| 1 each | the context |
| 1 each | the number of rows of each table |
| rows each | the tables, one column behind another |
| rows each | the answer, one column behind another, as many rows as the table it answers for |

A module exports three things and imports none:

| export | type | |
| --- | --- | --- |
| `memory` | with a maximum | |
| `reserve` | `(bytes: i32) -> i32` | room for a block, 8-aligned; 0 where there is none |
| `run` | `(block: i32, bytes: i32) -> i32` | fills the answer in, and returns 0 |

The daemon asks for room, puts the block there and calls `run`. A module keeps nothing that it may
rely on: any call may be the first of a fresh instance, and must be answered as the others are.
What it answers beyond a column's bounds is taken as the nearest bound. What it answers for one row
may depend on all of the batch, and on nothing else: there is no clock, no randomness and no file.

When a call fails (a trap, fuel, a return that is not 0), the version that was in force before
answers it, and where that fails, too, the daemon's own implementation.

## Limits

| | |
| --- | --- |
| module | {size} KiB, {functions:,} functions of at most {body} KiB, {locals:,} locals each |
| not there | imports, a start function, a second memory, threads, vectors, references |
| block | {words} MiB; {rows:,} rows in a table |
| fuel | about one unit an instruction: a slot says how many a call, and a row of any table |
| `upgrade check` allows | {part} of fuel and memory |

## What `upgrade check` tries

{checked:,} generated rows in batches of all sizes, from a seed that nobody knows beforehand; the
same with values at the edges of their columns, and with the numbers that stand in the module's own
code; recorded batches; batches again in another order; thousands of calls of one instance beside
fresh ones; the slot's invariants. A module that claims to equal the one in force is held to it to
the bit, and may take {dearer} % more fuel at most, in all and for batches of each size. One that
says that it answers otherwise is held to the invariants, and the share of rows that differ is
reported. Time is measured in pairs with an interval, is told from {slower} % on, and decides
nothing.
"""


def page() -> str:
    """The whole of docs/slots.md."""
    shape = ModuleLimits()
    slots = list(SLOTS.values())
    head = HEAD.format(
        list="\n".join(f"- [`{slot.name}`](#{slot.name}): {slot.text}" for slot in slots),
        languages=_languages(),
        size=shape.size >> 10,
        functions=shape.functions,
        body=shape.body >> 10,
        locals=shape.locals,
        words=MAX_WORDS * WORD >> 20,
        rows=MAX_ROWS,
        part=f"{PART[0]}/{PART[1]}",
        checked=ROWS,
        dearer=DEARER_MILLE // 10,
        slower=SLOWER_MILLE // 10,
    )
    return "\n".join([head, *(line for slot in slots for line in _slot(slot))])


def _languages() -> str:
    lines = ["| language | file | compiler |", "| --- | --- | --- |"]
    packages = {
        "rust": "Debian: `rustc libstd-rust-dev-wasm32 lld-14`; rustup: `rustup target add"
        " wasm32-unknown-unknown`",
        "assemblyscript": "npm: `assemblyscript@0.28`",
        "wat": "none: the jail assembles it",
        "c": "PyPI: `ziglang`",
        "zig": "PyPI: `ziglang`",
    }
    for each in LANGUAGES.values():
        lines.append(f"| {each.name} | `*{each.suffix}` | {packages[each.name]} |")
    return "\n".join(lines)


def _slot(slot: Slot) -> Iterator[str]:
    yield f"## {slot.name}"
    yield ""
    yield f"{slot.text} ABI {slot.abi}; a proposal to replace it is of {slot.risk.word} risk."
    yield f"The daemon's own implementation is in `protocols/slots/{slot.name}.py`."
    yield ""
    better = "more" if slot.goal.higher_is_better else "less"
    yield f"What it is measured by where it runs: **{slot.goal.name}** ({slot.goal.unit}; {better}"
    yield f"is better), {slot.goal.text}."
    yield ""
    limits = slot.limits
    yield f"Limits of a call: {limits.fuel:,} fuel and {limits.fuel_per_row:,} for each row;"
    yield f"{limits.memory_pages} pages of memory (64 KiB each)."
    yield ""
    yield from _layout(slot)
    yield "Every implementation keeps:"
    yield ""
    for invariant in slot.invariants:
        yield f"- *{invariant.name}*: {invariant.text}"
    yield ""
    yield from _vector(slot)


def _layout(slot: Slot) -> Iterator[str]:
    yield "| word | context | unit | bounds | |"
    yield "| --- | --- | --- | --- | --- |"
    yield f"| 0 | ABI | number | {slot.abi} | |"
    for at, column in enumerate(slot.context, 1):
        yield f"| {at} | {column.name} | {_column(column)} |"
    for at, table in enumerate(slot.tables, 1 + len(slot.context)):
        yield f"| {at} | rows of {table.name} | rows | 0 to {table.most_rows:,} | {table.text} |"
    yield ""
    columns, outputs = places(slot)
    names = iter(columns)
    for table in slot.tables:
        yield f"| begins at word | {table.name} | unit | bounds | |"
        yield "| --- | --- | --- | --- | --- |"
        for column in table.columns:
            yield f"| {_at(slot, next(names).each)} | {column.name} | {_column(column)} |"
        yield ""
    yield f"| begins at word | answer, for each row of {slot.answers} | unit | bounds | |"
    yield "| --- | --- | --- | --- | --- |"
    for place, column in zip(outputs, slot.outputs, strict=True):
        yield f"| {_at(slot, place.each)} | {column.name} | {_column(column)} |"
    yield ""


def _at(slot: Slot, each: tuple[int, ...]) -> str:
    first = 1 + len(slot.context) + len(slot.tables)
    parts = [str(first)]
    for table, times in zip(slot.tables, each, strict=True):
        if times:
            parts.append(table.name if times == 1 else f"{times} {table.name}")
    return " + ".join(parts)


def _column(column: Column) -> str:
    return f"{column.unit} | {_number(column.least)} to {_number(column.most)} | {column.text}"


def _number(value: int) -> str:
    """In a way that can be read: powers of two as such."""
    for offset, sign in ((0, ""), (1, " - 1")):
        power = abs(value) + offset
        if power >= 1 << 16 and power & (power - 1) == 0:
            return f"{'-' if value < 0 else ''}2^{power.bit_length() - 1}{sign}"
    return f"{value:,}"


def _vector(slot: Slot) -> Iterator[str]:
    """One call, as it lies in memory."""
    batch = slot.generate(drawn("docs", slot.name), VECTOR_ROWS)
    slot.reference(batch)
    yield f"One call with {VECTOR_ROWS} rows to answer, all words of its block, the answer in:"
    yield ""
    yield "```"
    words = batch.block.tolist()
    for begin in range(0, len(words), 8):
        yield " ".join(str(word) for word in words[begin : begin + 8])
    yield "```"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
