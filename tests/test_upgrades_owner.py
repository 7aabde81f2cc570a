"""The owner's word on upgrades: auto, ask and off, for all or one slot, accepted and refused."""

from pathlib import Path
from typing import Any

import pytest

from protocols.changes import NATIVE
from protocols.cid import cid_text
from protocols.slots.closed_list import SLOTS
from synapsed.config.options import SlotModes, UpgradesConfig
from synapsed.store import Store
from synapsed.upgrades.desk import UnknownUpgradeError, UpgradeDesk
from synapsed.upgrades.memory import MAX_REMEMBERED, Memory, UnknownSlotError
from synapsed.upgrades.recorder import DamagedRecordingError
from tests.store_kit import QUOTA
from tests.upgrade_book import way_back
from tests.upgrades_kit import TRAPS, Desk, constant, desk, pinned, reference_answer

SLOT = "eviction"


def owner(here: Desk) -> UpgradeDesk:
    elsewhere: Any = here.elsewhere
    return UpgradeDesk(here.service, here.store, elsewhere)


def memory(folder: Path, **config: Any) -> tuple[Store, Memory]:
    store = Store.open(folder, QUOTA)
    return store, Memory(store.table("upgrades"), UpgradesConfig(**config))


def test_the_config_has_a_mode_for_every_slot() -> None:
    assert set(SlotModes.__struct_fields__) == set(SLOTS)


def test_what_was_said_last_holds_and_what_the_config_says_of_a_slot_before_all(
    tmp_path: Path,
) -> None:
    store, said = memory(tmp_path, mode="ask", slots=SlotModes(eviction="off"))
    assert (said.mode("eviction"), said.mode("peer_scoring")) == ("off", "ask")
    said.set_mode("auto", "eviction")
    assert (said.mode("eviction"), said.mode("peer_scoring")) == ("auto", "ask")
    said.set_mode("off")
    assert {said.mode(name) for name in SLOTS} == {"off"}
    said.set_mode("ask", "eviction")
    store.close()
    store, said = memory(tmp_path)
    assert (said.mode("eviction"), said.mode("peer_scoring")) == ("ask", "off")
    said.set_mode(None)
    store.close()
    store, said = memory(tmp_path, slots=SlotModes(eviction="off"))
    assert (said.mode("eviction"), said.mode("peer_scoring")) == ("off", "auto")
    store.close()


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    times = iter(range(1 << 20))
    store = Store.open(tmp_path, QUOTA)
    table = store.table("upgrades", durable=False)
    said = Memory(table, UpgradesConfig(), clock=lambda: float(next(times)))
    for number in range(MAX_REMEMBERED + 20):
        said.isolate(SLOT, number.to_bytes(32, "big"), 1, "it broke")
        said.say(number.to_bytes(36, "big"), SLOT, number.to_bytes(32, "big"), "refuse")
        said.ran(SLOT, number.to_bytes(32, "big"))
    again = Memory(table, UpgradesConfig())
    for each in (said, again):
        assert len(each.quarantine()) == len(each.words) == MAX_REMEMBERED
        assert each.broken(SLOT, (19).to_bytes(32, "big")) is None
        assert each.broken(SLOT, (20).to_bytes(32, "big")) is not None
        assert each.broken("peer_scoring", (20).to_bytes(32, "big")) is None
    store.close()


async def test_off_is_the_reference_at_once_and_after_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(7))
        assert await here.ask() == (1, [7] * 20)
        operation = here.board.operation(SLOT)  # one that is under way
        assert operation.version == 1
        owner(here).set_mode("off", SLOT)
        assert await here.ask() == (0, reference_answer())
        batch = operation.batch({name.name: 1 for name in SLOTS[SLOT].context}, [3])
        await operation.call(batch)
        assert operation.version == 0
        assert here.service.why_not(SLOT, here.slot.current) == "off"
        await here.until(lambda: not pinned(here.store, "upgrade"))
        await here.stop()
        await here.start()
        assert await here.ask() == (0, reference_answer())
        owner(here).set_mode("auto")
        await here.until(lambda: here.service.modules.ready)
        assert await here.ask() == (1, [7] * 20)


async def test_one_slot_may_be_off_while_others_are_not(tmp_path: Path) -> None:
    async with desk(tmp_path, slots={"peer_scoring": "off"}) as here:
        await here.adopt(constant(7))
        assert await here.ask() == (1, [7] * 20)
        with pytest.raises(UnknownSlotError, match="peer_scoring"):
            owner(here).set_mode("off", "no such slot")


async def test_ask_waits_for_the_owners_word(tmp_path: Path) -> None:
    async with desk(tmp_path, mode="ask") as here:
        cid = here.begin(await here.offer(constant(7)))
        asked = await here.event("upgrade.asking")
        assert (asked["version"], asked["proposal"]) == (1, cid_text(cid))
        assert [cid_text(cid) in line for line in here.service.warnings()] == [True]
        await here.until(lambda: here.service.modules.ready)  # so that it can be looked at
        while here.slot.rollout is not None:
            here.stage()
            assert await here.versions(8) == {0}
        assert here.ledger.submitted == []
        await here.stop()
        await here.start()
        assert await here.ask() == (0, reference_answer())
        owner(here).accept(cid)
        assert await here.ask() == (1, [7] * 20)
        await here.stop()
        await here.start()
        assert await here.ask() == (1, [7] * 20)


async def test_what_ran_before_the_owner_wanted_to_be_asked_runs_on(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        owner(here).set_mode("ask")
        assert await here.ask() == (1, [3] * 20)
        cid = here.begin(await here.offer(constant(7)), "the second")
        await here.until(lambda: len(here.service.modules.ready) == 2)
        while here.slot.rollout is not None:
            here.stage()
        assert here.slot.current.number == 2
        assert await here.ask() == (1, [3] * 20)
        owner(here).accept(cid)
        assert await here.ask() == (2, [7] * 20)


async def test_a_refusal_is_signed_said_in_every_stage_and_kept(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        cid = here.begin(await here.offer(constant(7)), "the second")
        await here.until(lambda: here.ledger.submitted)
        here.stage()
        assert await here.versions() == {1, 2}
        owner(here).refuse(cid)
        assert await here.versions() == {1}
        await here.until(lambda: here.ledger.submitted[-1].status == "refused")
        assert here.ledger.submitted[-1].stage == 100
        here.others_report()
        await here.stop()
        await here.start()
        assert await here.versions() == {1}
        said = len(here.ledger.submitted)
        here.others_report()
        here.later()
        if here.slot.rollout is not None:
            await here.until(lambda: len(here.ledger.submitted) > said)
            assert here.ledger.submitted[-1].status == "refused"
        assert await here.versions() == {1}
        with pytest.raises(UnknownUpgradeError, match="upgrade ls"):
            owner(here).refuse(b"\x01q\x12 " + b"x" * 32)


async def test_who_refuses_the_way_back_does_not_keep_what_was_voted_out(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        cid = here.book.propose(here.person, way_back(here.book))
        owner(here).refuse(cid)
        here.finish(cid)
        assert (here.slot.current.number, here.slot.rollout) == (2, None)
        assert (await here.ask())[1] == reference_answer()


async def test_a_refusal_before_the_rollout_is_said_when_it_begins(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        cid = here.book.propose(here.person, what)
        owner(here).refuse(cid)
        here.finish(cid)
        await here.until(lambda: here.ledger.submitted)
        assert (here.ledger.submitted[0].status, here.ledger.submitted[0].stage) == ("refused", 0)
        assert here.board.lines[SLOT].trying is None


async def test_accepting_ends_a_quarantine(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        cid = here.begin(await here.offer(TRAPS))
        await here.event("upgrade.quarantined")
        assert here.board.lines[SLOT].trying is None
        owner(here).accept(cid)
        assert here.board.lines[SLOT].trying is not None


async def test_recorded_batches_are_replayed_against_any_version(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        for _ in range(3):
            await here.ask()
            await here.until(lambda: not here.service.recorder._waiting)
        await here.until(lambda: here.service.recorder.count(SLOT))
        module = await here.adopt(constant(7))
        line = here.board.lines[SLOT]
        old = await owner(here).replay(SLOT, line.steady[-1])
        assert old.module == NATIVE
        assert (old.batches, old.rows, old.changed, old.traps) == (
            here.service.recorder.count(SLOT),
            20 * old.batches,
            0,
            0,
        )
        new = await owner(here).replay(SLOT, line.incumbent)
        assert (new.module, new.batches, new.changed) == (module, old.batches, old.batches)
        assert new.fuel > 0
        path = next((here.folder / "recorded" / SLOT).glob("*.batch"))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(DamagedRecordingError, match=path.name):
            await owner(here).replay(SLOT, line.incumbent)
