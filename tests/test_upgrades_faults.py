"""What goes wrong on an upgrade's way here: told, tried again, and nothing half installed."""

import errno
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from protocols.draw import Draw
from protocols.slots.abi import Batch
from synapsed.jail import layers
from synapsed.jail.errors import JailDiedError, JailRestingError, ModuleTrapError
from synapsed.store.errors import DiskFullError
from synapsed.transfer.sources import FixedSources, Source
from synapsed.upgrades import modules, proving, reports
from synapsed.upgrades.holders import Holders
from synapsed.upgrades.measure import Side, Trial
from synapsed.upgrades.recorder import MAX_FILES, DamagedRecordingError, Recorder
from synapsed.upgrades.shadow import MAX_WAITING
from synapsed.upgrades.strikes import FORGIVEN, Strikes, weight
from synapsed.upgrades.trials import Trials
from tests.store_kit import Events
from tests.upgrade_book import change, network
from tests.upgrades_kit import EVICTION, constant, desk, reference_answer

SLOT = "eviction"
FULL = DiskFullError("no room on the disk", remedy="free some")


@pytest.fixture(autouse=True)
def _tries_follow_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(reports, "AGAIN", 0.05)


async def test_a_module_that_comes_late_is_switched_to_then(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        here.elsewhere.away.add(what.manifest)
        here.begin(what)
        told = await here.event("upgrade.not-fetched")
        assert (told["error"], told["version"]) == ("pull-failed", 1)
        here.stage()
        late = await here.event("upgrade.late")
        assert (late["version"], late["permille"], late["index"]) == (1, 100, here.rollout.index)
        assert await here.versions() == {0}
        assert any("is not here" in line for line in here.service.warnings())
        here.elsewhere.away.clear()
        switched = await here.event("upgrade.switched")
        assert (switched["version"], switched["late"]) == (1, True)
        assert await here.versions() == {0, 1}
        assert here.service.warnings() == []
        assert len(here.named("upgrade.not-fetched")) == 1


async def test_a_full_disk_is_told_and_room_brings_the_module(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        here.elsewhere.error = FULL
        here.begin(what)
        assert (await here.event("upgrade.not-fetched"))["error"] == "disk-full"
        assert "free some" in here.service.warnings()[0]
        assert not here.jail.has(what.module)
        assert await here.ask() == (0, reference_answer())
        here.elsewhere.error = None
        await here.tried()


async def test_a_disk_too_full_for_what_the_compiler_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as here:
        put, full = here.jail._cache.put, [True]

        def no_room(module: bytes, code: bytes) -> None:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            put(module, code)

        monkeypatch.setattr(here.jail._cache, "put", no_room)
        what = await here.offer(constant(7))
        here.begin(what)
        assert (await here.event("upgrade.not-fetched"))["error"] == "disk-full"
        assert not here.jail.has(what.module)
        full.clear()
        await here.tried()


@pytest.mark.parametrize("how", ["slot", "abi", "module", "size", "bytes"])
async def test_parts_that_do_not_belong_together_are_never_run(tmp_path: Path, how: str) -> None:
    async with desk(tmp_path) as here:
        seven, eight = await here.module(constant(7)), await here.module(constant(8))
        what = await here.offer(constant(7))
        bytes_, fields = {
            "slot": (seven, {"slot": "peer_scoring"}),
            "abi": (seven, {"abi": 2}),
            "module": (eight, {}),  # with its own hash
            "size": (seven, {}),
            "bytes": (eight, {"module_hash": what.module}),
        }[how]
        cid, _ = here.elsewhere.publish(bytes_, constant(7), **fields)
        size = what.size + (how == "size")
        what = msgspec.structs.replace(what, manifest=cid, size=size)
        here.begin(what)
        told = await here.event("upgrade.quarantined")
        assert "ratified" in told["why"]
        assert not here.jail.has(what.module)
        await here.until(lambda: here.ledger.submitted)
        assert here.ledger.submitted[0].status == "failed"
        assert here.board.lines[SLOT].trying is None


async def test_bytes_that_no_jail_takes_are_quarantined(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        junk = b"\0asm\x01\0\0\0" + b"\x63" * 100
        cid, manifest = here.elsewhere.publish(junk, b"junk")
        what = change(here.book, manifest=cid, module=manifest.module_hash, size=len(junk))
        here.begin(msgspec.structs.replace(what, source=manifest.source_hash))
        assert "refused" in (await here.event("upgrade.quarantined"))["why"]


async def test_a_kernel_that_lacks_a_layer_runs_nothing_unless_told(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        here.jail.layers = msgspec.structs.replace(layers.detect(), landlock=False)
        here.jail._allow_weaker = False
        here.begin(what)
        assert (await here.event("upgrade.not-fetched"))["error"] == "weak-jail"
        assert "--allow-weaker-jail" in here.service.warnings()[0]
        assert await here.ask() == (0, reference_answer())
        here.jail._allow_weaker = True
        await here.tried()


async def test_compiled_code_that_somebody_changed_is_made_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        module = await here.adopt(constant(7))
        await here.stop()
        path = next((tmp_path / "jail").glob(f"{module.hex()}*"))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        await here.start()
        assert await here.ask() == (0, reference_answer())
        assert (await here.event("upgrade.not-run"))["error"] == "not-compiled"
        await here.until(lambda: here.service.modules.ready)
        assert await here.ask() == (1, [7] * 20)
        assert here.service.warnings() == []
        assert here.named("upgrade.quarantined") == []


async def test_an_abi_of_another_daemons_is_said_and_not_fetched(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(7))
        other = msgspec.structs.replace(EVICTION, abi=2)
        here.service.slots = {**here.service.slots, SLOT: other}
        here.service.refresh()
        assert here.service.why_not(SLOT, here.slot.current) == "other-abi"
        assert here.board.lines[SLOT].incumbent.number == 0
        assert any("another version of this daemon" in it for it in here.service.warnings())
        await here.until(lambda: not here.service.modules.ready)


async def test_a_resting_jail_is_nobodys_fault(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.adopt(constant(7))
        call = here.jail.call

        async def rests(*_: Any, **__: Any) -> Any:
            raise JailRestingError("it rests")

        here.jail.call = rests  # type: ignore[method-assign]
        for _ in range(5):
            assert await here.ask() == (0, reference_answer())
        assert len(here.named("upgrade.not-run")) == 1
        assert here.named("upgrade.trapped") == []
        assert any("do not run" in line for line in here.service.warnings())
        here.jail.call = call  # type: ignore[method-assign]
        assert await here.ask() == (1, [7] * 20)
        assert here.service.warnings() == []


async def test_who_could_not_try_a_candidate_does_not_say_that_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "AGAIN_S", 0.02)
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        call = here.jail.call

        async def rests(*_: Any, **__: Any) -> Any:
            raise JailRestingError("it rests")

        here.jail.call = rests  # type: ignore[method-assign]
        here.begin(what)
        await here.event("upgrade.not-run")
        await trio.sleep(0.1)
        assert here.ledger.submitted == []
        here.jail.call = call  # type: ignore[method-assign]
        await here.until(lambda: here.ledger.submitted)
        assert here.ledger.submitted[0].pairs == proving.BATCHES


async def test_a_quarantine_holds_though_nothing_can_be_saved(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        what = await here.offer(constant(7))
        here.begin(what)
        await here.tried()
        table: Any = here.service.memory._table

        class Full:
            def put(self, key: bytes, value: bytes) -> None:
                raise FULL

            delete = table.delete

        here.service.memory._table = Full()  # type: ignore[assignment]
        here.service.watch.on_isolate(SLOT, here.rollout.candidate, "it broke")
        assert here.named("store.failed")
        assert here.board.lines[SLOT].trying is None


async def test_a_report_that_was_lost_is_said_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.ledger.down = True
        here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.ledger.lost > 1)
        here.ledger.down = False
        await here.until(lambda: here.ledger.submitted)
        assert [each.status for each in here.ledger.submitted] == ["ready"]
        await here.until(lambda: not here.service._reporter._due)


async def test_what_two_versions_had_a_hand_in_is_not_measured(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.begin(await here.offer(constant(7)))
        await here.tried()
        here.stage()
        trial = here.service.trials.of(SLOT)
        assert trial is not None
        call = here.jail.call

        async def traps(module: bytes, *_: Any, **__: Any) -> Any:
            raise ModuleTrapError("trap", module, "once")

        while not here.named("upgrade.trapped"):
            here.jail.call = traps  # type: ignore[method-assign]
            await here.ask(achieved=5)
        assert (trial.candidate.count, trial.traps, trial.calls) == (0, 1, 1)
        here.jail.call = call  # type: ignore[method-assign]
        while not trial.candidate.count:
            await here.ask(achieved=5)
        assert here.named("upgrade.reporting")[-1]["status"] == "failed"


async def test_a_shadow_that_is_too_slow_drops_batches_and_holds_up_nobody(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.ledger.submitted)
        trial = here.service.trials.of(SLOT)
        assert trial is not None
        before = trial.compared
        for _ in range(3 * MAX_WAITING):  # nothing of this is a checkpoint
            await here.ask()
        await here.until(lambda: not here.service.watch.shadow._waiting)
        assert trial.dropped == 2 * MAX_WAITING
        await here.until(lambda: trial.compared == before + MAX_WAITING)
        assert trial.disagreements == trial.compared


async def test_a_measurement_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.begin(await here.offer(constant(7)))
        await here.until(lambda: here.ledger.submitted)
        here.stage()
        for _ in range(6):
            await here.ask(achieved=5)
        before = msgspec.to_builtins(here.service.trials.of(SLOT))
        await here.stop()
        await here.start()
        assert msgspec.to_builtins(here.service.trials.of(SLOT)) == before


def test_a_damaged_measurement_begins_anew() -> None:
    class Torn:
        def items(self) -> list[tuple[bytes, bytes]]:
            return [(b"eviction", b"\x81\xa8proposal"), (b"\xff", b"")]

    assert Trials(Torn()).of("eviction") is None  # type: ignore[arg-type]


# -- small parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "higher", "gain"),
    [
        ((2, 200), (3, 450), True, 500_000),
        ((2, 200), (3, 450), False, -500_000),
        ((1, 100), (1, 99), True, -10_000),
        ((1, -100), (1, -50), True, 500_000),
        ((1, 0), (1, 5), True, 1_000_000_000),
        ((1, 0), (1, 0), True, 0),
        ((0, 0), (9, 9), True, 0),
        ((1, 1), (1, 1 << 60), True, 1_000_000_000),
    ],
)
def test_the_gain_is_the_difference_of_the_means(
    old: tuple[int, int], new: tuple[int, int], higher: bool, gain: int
) -> None:
    trial = Trial(b"", 100, Side(*old), Side(*new))
    goal = msgspec.structs.replace(EVICTION.goal, higher_is_better=higher)
    assert trial.gain(goal) == gain


def test_the_council_is_asked_for_a_module_after_everybody_else() -> None:
    ledger = network().state
    seats = [seat.identity for seat in ledger.council.seats]
    near = Source(seats[2], 5.0)
    holders = Holders(FixedSources([near]), lambda: ledger, seats[0])
    assert holders.find(b"cid") == [near, Source(seats[1]), Source(seats[3])]


def test_three_traps_or_two_deaths_are_too_many_and_long_good_service_forgives() -> None:
    one, other = b"1" * 32, b"2" * 32
    assert weight(ModuleTrapError("trap", one, ""), one) == 1
    assert weight(JailDiedError(one, ""), one) == 2
    assert weight(JailDiedError(other, ""), one) == 0
    assert weight(JailRestingError(""), one) == 0
    strikes, key = Strikes(), (SLOT, one)
    assert [strikes.add(key, 1) for _ in range(3)] == [False, False, True]
    strikes.forget(key)
    assert [strikes.add(key, 2) for _ in range(2)] == [False, True]
    strikes.forget(key)
    strikes.add(key, 2)
    for _ in range(FORGIVEN):
        strikes.answered(key)
    assert not strikes.add(key, 2)


def _answered() -> Batch:
    batch = EVICTION.generate(Draw(b"x"), 4)
    EVICTION.reference(batch)
    return batch


def test_recorded_batches_are_bounded_and_come_back_as_they_were(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Events(), now=lambda: 0.0)
    batch = _answered()
    block = bytes(batch.block.cast("B"))
    for _ in range(MAX_FILES + 3):
        recorder.keep(SLOT, block)
    found = list(recorder.batches(EVICTION))
    assert len(found) == recorder.count(SLOT) == MAX_FILES
    assert found[0][0] == "00000004.batch"
    assert all(bytes(each.block.cast("B")) == block for _, each in found)
    assert Recorder(tmp_path / "none", Events(), now=lambda: 0.0).count(SLOT) == 0


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "other"])
def test_recordings_that_are_none_are_refused_by_name(tmp_path: Path, how: str) -> None:
    recorder = Recorder(tmp_path, Events(), now=lambda: 0.0)
    recorder.keep(SLOT, bytes(_answered().block.cast("B")))
    (path,) = (tmp_path / SLOT).glob("*.batch")
    data = path.read_bytes()
    slot = EVICTION
    if how == "other":
        slot = msgspec.structs.replace(EVICTION, abi=EVICTION.abi + 1)
    else:
        path.write_bytes({"cut": data[:-9], "changed": data[:-1] + b"!", "empty": b""}[how])
    with pytest.raises(DamagedRecordingError, match=r"00000001\.batch"):
        list(recorder.batches(slot))


async def test_a_disk_too_full_to_record_on_is_told_once(tmp_path: Path, nursery: Any) -> None:
    events = Events()
    recorder = Recorder(tmp_path, events, seconds=0.0)
    (tmp_path / SLOT).write_text("in the way")
    nursery.start_soon(recorder.run)
    for _ in range(3):
        recorder.offer(_answered())
        while recorder._waiting:
            await trio.sleep(0.01)
        await trio.sleep(0.02)
    with trio.fail_after(60):
        while not events.kinds():
            await trio.sleep(0.01)
    assert events.kinds() == ["upgrade.not-recorded"]
    (tmp_path / SLOT).unlink()
    recorder.offer(_answered())
    with trio.fail_after(60):
        while not recorder.count(SLOT):
            await trio.sleep(0.01)


async def test_an_operation_that_did_not_wait_for_its_version_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a module that never answers in time would be measured by what replaced it."""
    async with desk(tmp_path) as here:
        here.begin(await here.offer(constant(7)))
        trying = await here.until(lambda: here.board.lines[SLOT].trying)
        here.board.lines[SLOT] = msgspec.structs.replace(
            here.board.lines[SLOT], trying=msgspec.structs.replace(trying, of_eight=8)
        )
        told: list[int] = []
        monkeypatch.setattr(
            here.service.watch, "achieved", lambda *_, candidate, value: told.append(value)
        )

        async def never(*_: object) -> int:
            return await trio.sleep_forever()

        for waits in (True, False):
            operation = here.board.operation(SLOT)
            batch = EVICTION.generate(Draw(b"rows"), 8)
            with monkeypatch.context() as patch:
                if not waits:
                    patch.setattr(here.board, "answer", never)
                with trio.move_on_after(30 if waits else 0.02):
                    await operation.call(batch)
            operation.achieved(int(waits))
        assert told == [1]
