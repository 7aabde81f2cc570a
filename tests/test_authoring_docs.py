"""What authors read is made from what the daemon runs."""

from pathlib import Path

import pytest

from protocols.slots.abi import Batch
from protocols.slots.closed_list import SLOTS
from synapsed.authoring import docs, layout, skeleton
from synapsed.authoring.languages import LANGUAGES

PAGE = Path(__file__).parent.parent / "docs" / "slots.md"


def test_the_page_is_what_the_definitions_say():
    """Make it anew with: .venv/bin/python -m synapsed.authoring.docs > docs/slots.md"""
    assert PAGE.read_text() == docs.page()


@pytest.mark.parametrize("name", SLOTS)
def test_a_call_that_the_page_shows_is_one(name):
    """The vector is a block that the reference answers as it stands there."""
    slot = SLOTS[name]
    chapter = PAGE.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    words = chapter.split("```")[1].split()
    block = bytearray(b"".join(int(word).to_bytes(8, "little", signed=True) for word in words))
    shown = Batch(slot, memoryview(block))
    again = shown.copy()
    for column in slot.outputs:
        again.output(column.name)[:] = memoryview(bytearray(8 * docs.VECTOR_ROWS)).cast("q")
    slot.reference(again)
    assert again.answers_like(shown)


@pytest.mark.parametrize("name", SLOTS)
def test_columns_lie_where_the_skeletons_say(name):
    """Each place, worked out for some numbers of rows, is where the batch has the column."""
    slot = SLOTS[name]
    rows = [3 + 2 * at for at in range(len(slot.tables))]
    batch = Batch.new(slot, {each.name: each.least for each in slot.context}, rows)
    columns, outputs = layout.places(slot)
    number = 0
    for table in slot.tables:
        for column in table.columns:
            number += 1
            batch.column(table.name, column.name)[0] = number
    for column in slot.outputs:
        number += 1
        batch.output(column.name)[0] = number
    for expected, place in enumerate((*columns, *outputs), 1):
        at = place.first + sum(t * r for t, r in zip(place.each, rows, strict=True))
        assert batch.block[at] == expected, place.name
        assert eval(place.sum(lambda table: str(rows[table]))) == at


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_skeleton_names_every_column_with_its_meaning(language):
    for slot in SLOTS.values():
        text = skeleton.skeleton(slot, language)
        assert skeleton.prelude(text)
        for table in slot.tables:
            for column in table.columns:
                assert f"{table.name}_{column.name}" in text
                assert column.text in text
