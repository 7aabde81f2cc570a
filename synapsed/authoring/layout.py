"""Where each column of a slot lies in its block, for whatever numbers of rows."""

from collections.abc import Callable

from protocols.slots.abi import Slot


def head(slot: Slot) -> list[tuple[str, str, int]]:
    """Name, meaning and place of the words before the tables; the ABI number is not among them."""
    found = [
        (each.name, f"{each.unit}: {each.text}", 1 + at) for at, each in enumerate(slot.context)
    ]
    begins = 1 + len(slot.context)
    found += [
        (f"{table.name}_rows", table.text, begins + at) for at, table in enumerate(slot.tables)
    ]
    return found


class Place:
    """Where a column lies: behind `first` words, and `each[i]` for each row of table i."""

    def __init__(self, name: str, text: str, first: int, each: tuple[int, ...]) -> None:
        self.name, self.text, self.first, self.each = name, text, first, each

    def sum(self, rows: Callable[[int], str]) -> str:
        """As a sum of products: `rows(i)` is the number of rows of table i."""
        parts = [str(self.first)]
        for table, times in enumerate(self.each):
            if times:
                parts.append(rows(table) if times == 1 else f"{times} * {rows(table)}")
        return " + ".join(parts)


def places(slot: Slot) -> tuple[list[Place], list[Place]]:
    """Of the columns, and of the answer's."""
    first = 1 + len(slot.context) + len(slot.tables)
    before = [0] * len(slot.tables)
    columns = []
    for at, table in enumerate(slot.tables):
        for column in table.columns:
            name = f"{table.name}_{column.name}"
            columns.append(Place(name, f"{column.unit}: {column.text}", first, tuple(before)))
            before[at] += 1
    answering = [table.name for table in slot.tables].index(slot.answers)
    outputs = []
    for column in slot.outputs:
        text = f"{column.unit}: {column.text}"
        outputs.append(Place(f"answer_{column.name}", text, first, tuple(before)))
        before[answering] += 1
    return columns, outputs
