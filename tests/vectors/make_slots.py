"""Writes slots.json beside it: batches of each slot and the reference's answers, as blocks.

    python -m tests.vectors.make_slots

`block` is what a module is given (hex), the answer's columns 0; `answer` are its columns as the
reference fills them in. An implementation in any language can be held to it.
"""

import json
from pathlib import Path

from protocols.draw import Draw
from protocols.slots.abi import Batch, Slot
from protocols.slots.closed_list import SLOTS

FILE = Path(__file__).parent / "slots.json"
ROWS = (0, 1, 2, 5, 13)


def vector(slot: Slot, seed: str, rows: int) -> dict[str, object]:
    """One call."""
    batch = slot.generate(Draw(seed.encode()), rows)
    for output in slot.outputs:
        batch.answered(output.name, [0] * len(batch.output(output.name)))
    block = bytes(batch.block)
    slot.reference(batch)
    return {
        "block": block.hex(),
        "context": batch.context,
        "rows": {table.name: count for table, count in zip(slot.tables, batch.rows, strict=True)},
        "answer": {output.name: batch.output(output.name).tolist() for output in slot.outputs},
    }


def vectors() -> dict[str, object]:
    """By slot: its ABI number, the names of its columns in their order, and calls."""
    return {
        slot.name: {
            "abi": slot.abi,
            "context": [column.name for column in slot.context],
            "tables": {
                table.name: [column.name for column in table.columns] for table in slot.tables
            },
            "answers": slot.answers,
            "outputs": [column.name for column in slot.outputs],
            "calls": [vector(slot, f"{slot.name} {rows}", rows) for rows in ROWS],
        }
        for slot in SLOTS.values()
    }


def text() -> str:
    """As it stands in the file."""
    return json.dumps(vectors(), indent=1) + "\n"


def answered(slot: Slot, block: bytes) -> Batch:
    """A vector's block, answered by the reference."""
    batch = Batch(slot, memoryview(bytearray(block)))
    slot.reference(batch)
    return batch


if __name__ == "__main__":
    FILE.write_text(text())
