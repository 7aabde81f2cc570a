"""What answers a slot's calls follows the ledger, stage by stage, and comes back after a crash."""

from pathlib import Path

import pytest
import trio

from protocols.changes import CallLimits
from protocols.ledger.rollout import coin
from synapsed.store.reasons import UPGRADE
from tests.ledger_book import MEMBERS
from tests.upgrade_book import STAGE, change, network, way_back
from tests.upgrades_kit import SPINS, TRAPS, Desk, constant, desk, pinned, reference_answer

WORSE = {"gain": -500_000}


def switches(here: Desk) -> list[tuple[int, int]]:
    return [(it["version"], it["permille"]) for it in here.named("upgrade.switched")]


async def test_an_upgrade_answers_in_its_stages_and_then_everywhere(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert await here.ask() == (0, reference_answer())
        here.begin(await here.offer(constant(7)))
        await here.event("upgrade.reporting", status="ready")
        assert (here.permille, await here.versions()) == (0, {0})
        here.others_report()
        here.later()
        assert (here.permille, await here.versions()) == (100, {0, 1})
        while here.slot.rollout is not None:
            here.stage()
        assert await here.ask() == (1, [7] * 20)
        assert switches(here) == [(1, 100), (1, 500), (1, 1000), (1, 1000)]
        assert here.named("upgrade.switched")[-1]["index"] == here.slot.current.index


async def test_the_switch_is_at_the_entry_and_everywhere_at_the_same(tmp_path: Path) -> None:
    book = network()
    async with desk(tmp_path / "a", book) as one, desk(tmp_path / "b", book) as two:
        two.others = two.elsewhere.held = one.others
        one.begin(await one.offer(constant(7)))
        two.ledger.changed()
        await one.tried()
        await two.tried()
        while one.slot.rollout is not None:
            one.stage()
            two.ledger.changed()
            assert one.board.lines["eviction"].trying == two.board.lines["eviction"].trying
        assert one.named("upgrade.switched") == two.named("upgrade.switched")


async def test_the_coin_is_tossed_over_the_operation(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        cid = here.begin(await here.offer(constant(7)))
        await here.tried()
        here.stage()
        for name in (bytes([n]) for n in range(32)):
            version, answer = await here.ask(name)
            assert version == coin(cid, name)
            assert answer == ([7] * 20 if version else reference_answer())


async def test_what_a_stage_measured_is_signed_and_reported(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        cid = here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.ledger.submitted)
        here.stage()
        for number in range(64):  # the goal of this slot is the better the lower it is
            name = bytes([number])
            await here.ask(name, achieved=80 if coin(cid, name) else 100)
        await here.until(lambda: len(here.ledger.submitted) > 1)
        ready, measured = here.ledger.submitted[:2]
        assert (ready.status, ready.stage, ready.gain) == ("ready", 0, 0)
        assert ready.disagreements == ready.calls > 0
        assert (measured.status, measured.stage, measured.gain) == ("measured", 100, 200_000)
        assert 4 <= measured.pairs <= measured.calls
        counts = here.service.counts["eviction"]
        told = [name for name, fields in here.events if fields.get("slot") == "eviction"]
        assert counts == {name: told.count(name) for name in set(told)}


async def test_what_came_since_is_said_before_the_stage_ends(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        cid = here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.ledger.submitted)
        here.stage()

        async def operations(better: int, reports: int) -> int:
            """How many reports there are then; so many are waited for."""
            for number in range(40):
                name = bytes([number])
                await here.ask(name, achieved=better if coin(cid, name) else 100)
            await here.until(lambda: len(here.ledger.submitted) > reports)
            await trio.sleep(0.01)
            return len(here.ledger.submitted) - 1

        assert await operations(80, 1) == 1
        assert await operations(80, 1) == 1
        here.later(STAGE // 2)
        assert await operations(60, 2) == 2
        here.later(STAGE // 4)
        assert await operations(60, 2) == 2
        here.later(STAGE // 5)
        assert await operations(60, 3) == 3
        assert await operations(60, 3) == 3
        pairs = [each.pairs for each in here.ledger.submitted[1:]]
        assert pairs[0] == here.book.state.params["upgrade.pairs"]
        assert pairs[1] >= 2 * pairs[0]
        assert pairs[2] >= 2 * pairs[1]


@pytest.mark.parametrize("settled", [0, 1])
async def test_what_is_worse_is_undone_by_a_higher_version(tmp_path: Path, settled: int) -> None:
    async with desk(tmp_path) as here:
        before = reference_answer()
        if settled:
            await here.adopt(constant(3), "the first")
            before = [3] * 20
        here.begin(await here.offer(constant(7)), "the second")
        await here.tried()
        here.stage()
        assert await here.versions() == {settled, settled + 1}
        here.stage(**WORSE)
        assert here.slot.rollout is None
        assert await here.ask() == (settled + 2, before)


async def test_a_voted_way_back_to_the_reference_is_in_force_at_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        cid = here.book.propose(here.person, way_back(here.book))
        here.finish(cid)
        assert here.slot.rollout is None
        assert await here.ask() == (2, reference_answer())


async def test_a_voted_way_back_to_a_module_is_in_force_at_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        first = await here.offer(constant(3))
        await here.adopt(first, "the first")
        await here.adopt(constant(7), "the second")
        again = change(
            here.book,
            **{
                name: getattr(first, name)
                for name in ("module", "size", "limits", "source", "manifest")
            },
        )
        cid = here.book.propose(here.person, again)
        here.finish(cid)
        assert here.slot.rollout is None
        assert await here.ask() == (3, [3] * 20)


@pytest.mark.parametrize("stages", range(5))
async def test_a_daemon_comes_up_with_what_the_ledger_says(tmp_path: Path, stages: int) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        here.begin(await here.offer(constant(7)), "the second")
        await here.tried()
        for _ in range(stages):
            here.stage()
        before = here.board.lines["eviction"]
        await here.stop()
        here.events.clear()
        await here.start(run=False)  # before any task ran, and so before anything answers
        after = here.board.lines["eviction"]
        assert (after.steady, after.trying) == (before.steady, before.trying)
        assert here.elsewhere.pulled == []
        assert here.named("upgrade.late") == here.named("upgrade.switched") == []
        assert await here.versions() == ({1}, {1, 2}, {1, 2}, {1, 2}, {2})[stages]
        here.jail.close()
        here.store.close()
        await here.start()


async def test_who_was_away_for_three_upgrades_fetches_what_is_named_now(tmp_path: Path) -> None:
    book = network()
    async with desk(tmp_path / "a", book) as here, desk(tmp_path / "b", book) as away:
        away.others = here.others
        await away.stop()
        offered = []
        for number in range(5):
            await here.adopt(constant(number + 1), f"number {number}")
            offered.append(here.slot.current.manifest)
        await away.start()
        await away.until(
            lambda: (("eviction", here.slot.current.module)) in away.service.modules.ready
        )
        assert await away.ask() == (5, [5] * 20)
        await away.until(lambda: len(away.service.modules.ready) == 4)
        assert set(away.elsewhere.pulled) == set(offered[1:])
        assert away.named("upgrade.trapped") == []


async def test_former_versions_are_kept_and_older_ones_let_go(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        manifests, modules = [], []
        for number in range(6):
            modules.append(await here.adopt(constant(number + 1), f"number {number}"))
            manifests.append(here.slot.current.manifest)
        await here.until(lambda: pinned(here.store, UPGRADE) == set(manifests[-4:]))
        here.store.gc()
        assert [here.store.has_block(cid) for cid in manifests] == [False] * 2 + [True] * 4
        compiled = [here.jail.has(each) for each in modules]
        assert compiled == [False] * 2 + [True] * 4


@pytest.mark.parametrize("text", [TRAPS, SPINS])
async def test_a_module_that_traps_is_quarantined_reported_and_never_seen(
    tmp_path: Path, text: bytes
) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        module = await here.offer(text)
        here.begin(module, "the second")
        told = await here.event("upgrade.quarantined")
        assert (told["version"], told["module"]) == (2, module.module.hex())
        assert len(here.named("upgrade.trapped")) == 3
        await here.until(lambda: here.ledger.submitted)
        assert [each.status for each in here.ledger.submitted] == ["failed"]
        assert here.board.lines["eviction"].trying is None
        assert await here.versions() == {1}
        await here.stop()
        await here.start()
        assert here.service.why_not("eviction", here.slot.rollout.candidate) == "quarantined"
        here.others_report()
        here.later()
        await here.until(lambda: [it.stage for it in here.ledger.submitted] == [0, 100])
        assert {each.status for each in here.ledger.submitted} == {"failed"}
        assert await here.versions() == {1}


async def test_a_module_whose_calls_end_the_worker_is_quarantined(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(3), "the first")
        what = await here.offer(SPINS, limits=CallLimits(1 << 34, 0, 200))
        with trio.CancelScope() as killing:
            here.nursery.start_soon(_kill_workers, here, what.module, killing)
            here.begin(what, "the second")
            told = await here.event("upgrade.quarantined")
            killing.cancel()
        assert (told["version"], told["module"]) == (2, what.module.hex())
        assert [it["error"] for it in here.named("upgrade.trapped")] == ["jail-died"] * 2
        await here.until(lambda: here.ledger.submitted)
        assert here.ledger.submitted[-1].status == "failed"
        await here.stop()
        await here.start()
        assert here.board.lines["eviction"].trying is None
        assert await here.ask() == (1, [3] * 20)


async def _kill_workers(here: Desk, module: bytes, scope: trio.CancelScope) -> None:
    """As the kernel does with who asks for too much, in the midst of a call."""
    while not scope.cancel_called:
        await trio.sleep(0.05)
        worker = here.jail._worker
        if worker is not None and module in worker.loaded and here.jail._turn.locked():
            worker.child.kill()


async def test_who_has_no_reputation_runs_it_only_with_everybody(tmp_path: Path) -> None:
    book = network(9)
    from tests.upgrades_kit import Person

    async with desk(tmp_path, book, Person("somebody else")) as here:
        here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.service.modules.ready)
        while here.slot.rollout is not None:
            at = here.permille
            assert await here.versions(16) == ({1} if at == 1000 else {0})
            for who in (*MEMBERS, *[Person(f"reporter {n}") for n in range(5)]):
                here.tries(who)
            here.later()
        assert await here.versions(4) == {1}
        assert here.ledger.submitted == []
