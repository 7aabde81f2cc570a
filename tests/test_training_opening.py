"""What an owner's wish to train becomes: which plan, which title; and how the worker is shown."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from protocols.cid import cid_of, cid_text
from protocols.learn.defaults import DEFAULT
from protocols.manifest import MAX_NAME, ModelManifest, encode_manifest
from synapsed.compute.keeper import ComputeStatus
from synapsed.compute.wire import Seen
from synapsed.training import said
from synapsed.training.errors import BadTextError
from synapsed.training.opening import Opening, fitted
from synapsed.training.owner import Training

MODEL = encode_manifest(ModelManifest(name="toy", description="", files=(), depends_on=()))
LINEAGE = cid_of(MODEL)


class Store:
    def __init__(self, *blocks: bytes) -> None:
        self.blocks = {cid_of(block): block for block in blocks}

    def has_block(self, cid: bytes) -> bool:
        return cid in self.blocks

    def get_block(self, cid: bytes) -> bytes:
        return self.blocks[cid]

    manifest_of = get_block


def opening(*blocks: bytes, trained_by: Any = None) -> Opening:
    trainings = {} if trained_by is None else {LINEAGE: SimpleNamespace(plan=trained_by)}
    ledger = SimpleNamespace(ledger=SimpleNamespace(trainings=trainings))
    return Opening(cast(Any, SimpleNamespace(ledger=ledger, store=Store(*blocks))))


def test_another_plan_keeps_the_groups_as_they_are_cut() -> None:
    """They cannot be cut otherwise, so nobody has to say it again."""
    small = msgspec.structs.replace(DEFAULT, group_bytes=262_144)
    assert opening()._planned(LINEAGE, None) == DEFAULT
    again = opening(trained_by=small)
    assert again._planned(LINEAGE, None) == small
    assert again._planned(LINEAGE, said.PlanSaid(learners=7)).group_bytes == 262_144
    asked = said.PlanSaid(group_bytes=1 << 20)
    assert again._planned(LINEAGE, asked).group_bytes == 1 << 20  # which the ledger refuses


async def test_a_title_says_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = SimpleNamespace(name="toy")
    monkeypatch.setattr("synapsed.models.model_manifest", lambda _store, _cid: manifest)
    assert await opening(MODEL)._title(LINEAGE, DEFAULT) == "Train toy"
    again = opening(MODEL, trained_by=DEFAULT)
    assert (await again._title(LINEAGE, DEFAULT)).startswith("Another plan for toy: 4 steps")
    assert await opening()._title(LINEAGE, DEFAULT) == f"Train {cid_text(LINEAGE)[:16]}"
    assert len(fitted("x" * 500)) == MAX_NAME


async def test_a_text_that_could_judge_nothing_is_not_published(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("To be")
    for text, why in ((short, "5 bytes: too few for 64 windows"), (tmp_path, "no text at")):
        asked = said.TrainingRequest(evaluation=str(text), windows=64)
        with pytest.raises(BadTextError, match=why) as caught:
            await opening().propose_training(LINEAGE, asked, False, lambda _progress: None)
        assert caught.value.remedy


class Compute:
    """A worker that runs, and says nothing where it hangs."""

    def __init__(self, *, hangs: bool, last_death: str = "") -> None:
        self.hangs = hangs
        self.last_death = last_death

    def status(self) -> ComputeStatus:
        return ComputeStatus("running", 7, 0, self.last_death)

    async def look(self) -> Seen:
        await trio.sleep(1e6 if self.hangs else 0)
        return Seen(1, "cpu", 1, 1000, 0, 0.0, 0, 0.0, 0.0)


async def test_a_worker_that_hangs_holds_up_nobody_who_looks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def look(compute: Compute) -> said.ComputeSaid:
        return await Training(cast(Any, SimpleNamespace(compute=compute)))._compute_said()

    well = await look(Compute(hangs=False, last_death="ended by SIGKILL"))
    assert (well.state, well.why, well.device) == ("running", "", "cpu")  # it runs again
    with trio.fail_after(10):
        hung = await look(Compute(hangs=True))
    assert "does not answer" in hung.why
