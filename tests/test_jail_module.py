"""A real module through the whole jail: the Rust example of peer_scoring, from its kept bytes."""

from pathlib import Path

import pytest

from protocols.draw import Draw
from protocols.slots.peer_scoring import SLOT
from protocols.slots.wasm_module import ModuleLimits
from synapsed.authoring.tools import MissingToolError
from tests.bench.slot_call import MODULE
from tests.jail_kit import jailed
from tests.vectors import make_peer_scoring


async def test_it_answers_as_the_reference_whatever_it_is_given(tmp_path: Path) -> None:
    draw = Draw(b"a real module")
    with jailed(tmp_path) as (jail, _):
        module = await jail.compile(MODULE.read_bytes(), ModuleLimits())
        for rows in (0, 1, 2, 50, 50, 400, SLOT.tables[0].most_rows):
            batch = SLOT.generate(draw, rows)
            wanted = batch.copy()
            SLOT.reference(wanted)
            called = await jail.call(module, batch, SLOT.limits)
            assert batch.answers_like(wanted)
            assert called.fuel < SLOT.limits.fuel_of(rows) / 4


async def test_the_kept_bytes_are_what_its_source_makes() -> None:
    try:
        built, module = await make_peer_scoring.made()
    except MissingToolError as error:
        pytest.skip(str(error))
    if built.tools != make_peer_scoring.TOOLS:
        pytest.skip(f"{built.tools} makes other bytes than {make_peer_scoring.TOOLS}")
    assert module == MODULE.read_bytes(), "run python -m tests.vectors.make_peer_scoring"
