"""Calls through the jail: what comes back, what a hostile module costs, and what it cannot
change."""

import errno
import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import trio

from protocols.slots.abi import WORD, Batch, Limits
from protocols.slots.wasm_module import ModuleLimits, ModuleRefusedError
from synapsed.authoring import check
from synapsed.jail import arena, compiling, worker
from synapsed.jail import jail as jail_module
from synapsed.jail.errors import (
    JailDiedError,
    JailError,
    JailRestingError,
    JailSlowError,
    ModuleTrapError,
    NotCompiledError,
)
from synapsed.jail.jail import Jail
from synapsed.jailworker import runner
from tests import wasm_kit
from tests.jail_kit import ADDER, TOY, Told, jailed, right, toy

MUCH = Limits(fuel=1 << 60, fuel_per_row=0, memory_pages=64)
SPINNING = wasm_kit.text(run="(loop $l (br $l)) i32.const 0")
COUNTING = wasm_kit.text(
    run="""(global.set $n (i64.add (global.get $n) (i64.const 1)))
      (i64.store offset=40 (local.get $block) (global.get $n)) i32.const 0""",
    more="(global $n (mut i64) (i64.const 0))",
)
"""Answers one row with the number of its calls."""


@pytest.fixture(name="jail")
async def _jail(tmp_path: Path) -> AsyncIterator[Jail]:
    with jailed(tmp_path) as (jail, _):
        yield jail


async def compiled(jail: Jail, module: bytes) -> bytes:
    return await jail.compile(module, ModuleLimits())


@pytest.mark.parametrize("rows", [0, 1, 37, 10_000])
async def test_a_module_answers_as_its_reference(jail: Jail, rows: int) -> None:
    batch = toy(rows, jail)
    called = await jail.call(await compiled(jail, ADDER), batch, TOY.limits)
    assert right(batch)
    assert 0 < called.fuel <= TOY.limits.fuel_of(rows)
    assert called.seconds < 1


async def test_a_batch_in_memory_of_its_own_is_answered_too(jail: Jail) -> None:
    batch = toy(100)
    await jail.call(await compiled(jail, ADDER), batch, TOY.limits)
    assert right(batch)


async def test_fuel_is_the_same_each_time_and_in_a_fresh_instance(jail: Jail) -> None:
    module = await compiled(jail, ADDER)
    used = {(await jail.call(module, toy(20, jail), TOY.limits)).fuel for _ in range(3)}
    used.add((await jail.call(module, toy(20, jail), TOY.limits, fresh=True)).fuel)
    assert len(used) == 1


async def test_only_a_fresh_instance_has_forgotten(jail: Jail) -> None:
    module = await compiled(jail, COUNTING)

    async def answer(*, fresh: bool) -> int:
        batch = toy(1, jail)
        await jail.call(module, batch, TOY.limits, fresh=fresh)
        return batch.answer("sum")[0]

    assert [await answer(fresh=False) for _ in range(3)] == [1, 2, 3]
    assert await answer(fresh=True) == 1
    assert await answer(fresh=False) == 4


async def test_no_instance_counts_for_longer_than_a_check_asks_it(jail: Jail) -> None:
    module, batch = await compiled(jail, COUNTING), toy(1, jail)
    seen = []
    for _ in range(2 * runner.RETIRED_CALLS + 2):
        await jail.call(module, batch, TOY.limits)
        seen.append(batch.answer("sum")[0])
    once = list(range(1, runner.RETIRED_CALLS + 1))
    assert seen == [*once, *once, 1, 2]
    assert runner.RETIRED_CALLS < check.ENDURANCE
    large = toy(10_000, jail)  # 240 kB: bytes are counted, too
    for _ in range(runner.RETIRED_BYTES // large.block.nbytes + 1):
        await jail.call(module, large, TOY.limits)
    await jail.call(module, batch, TOY.limits)
    assert batch.answer("sum")[0] == 1


async def test_a_machine_that_stood_still_is_no_fault_of_a_module(jail: Jail) -> None:
    module = await compiled(jail, ADDER)
    await jail.call(module, toy(5, jail), TOY.limits)
    assert jail._worker is not None
    os.kill(jail._worker.child.pid, signal.SIGSTOP)
    with pytest.raises(JailSlowError):
        await jail.call(module, toy(20_000, jail), TOY.limits, seconds=0.1)
    batch = toy(5, jail)
    await jail.call(module, batch, TOY.limits)  # by a new worker, at once
    assert right(batch)


TRAPS = {
    "fuel": [SPINNING, wasm_kit.text(reserve="(loop $l (br $l)) i32.const 0")],
    "trap": [
        wasm_kit.text(run="unreachable"),
        wasm_kit.text(run="call $f", more="(func $f (result i32) (i32.add (call $f) (call $f)))"),
    ],
    "memory": [wasm_kit.text(reserve="i32.const 0x7fffff00"), wasm_kit.text(reserve="i32.const 9")],
    "answer": [wasm_kit.text(run="i32.const 5")],
}


@pytest.mark.parametrize("kind", TRAPS)
async def test_a_failing_module_costs_its_call_and_nothing_else(jail: Jail, kind: str) -> None:
    good = await compiled(jail, ADDER)
    for bad in TRAPS[kind]:
        with pytest.raises(ModuleTrapError) as caught:
            await jail.call(await compiled(jail, bad), toy(9, jail), TOY.limits)
        assert caught.value.kind == kind
        assert not caught.value.message.endswith(": ")
        batch = toy(9, jail)
        await jail.call(good, batch, TOY.limits)
        assert right(batch)


async def test_with_endless_fuel_the_deadline_stops_it_and_the_worker_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CALL_WALLS", 300)  # the processor may be somebody else's
    with jailed(tmp_path) as (jail, told):
        module = await compiled(jail, SPINNING)
        with pytest.raises(ModuleTrapError) as caught:
            await jail.call(module, toy(1, jail), MUCH, seconds=0.2)
        assert caught.value.kind == "deadline"
        batch = toy(1, jail)
        await jail.call(await compiled(jail, ADDER), batch, TOY.limits)
        assert right(batch)
        assert told.names() == ["jail.started"]


async def test_nothing_but_the_answer_crosses_back(jail: Jail) -> None:
    """Its inputs are its own copy, and other rooms of the arena are out of its reach."""
    filling = wasm_kit.text(
        run="(memory.fill (i32.const 0) (i32.const 238) (i32.const 262144)) i32.const 0"
    )
    around = [toy(3, jail) for _ in range(3)]
    before = [bytes(each.block.cast("B")) for each in around]
    await jail.call(await compiled(jail, filling), around[1], MUCH)
    after = [bytes(each.block.cast("B")) for each in around]
    answer = 3 * WORD
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert after[1][:-answer] == before[1][:-answer]
    assert after[1][-answer:] == b"\xee" * answer


async def test_operations_at_once_have_room_of_their_own(jail: Jail) -> None:
    module = await compiled(jail, ADDER)
    batches = [toy(rows, jail) for rows in range(1, 30)]
    async with trio.open_nursery() as nursery:
        for batch in batches:
            nursery.start_soon(jail.call, module, batch, TOY.limits)
    assert all(right(batch) for batch in batches)


def test_a_room_is_given_back_with_its_last_view() -> None:
    shared = arena.Arena(4 * arena.PAGE)
    first = shared.room(3 * arena.PAGE)
    assert first is not None
    assert shared.place(first) == 0
    inside = first[100:200].cast("B")
    del first
    gc.collect()
    assert shared.room(2 * arena.PAGE) is None
    assert shared.place(inside) == 100
    del inside
    again = shared.room(4 * arena.PAGE)
    assert again is not None
    assert shared.room(1) is None
    assert shared.place(memoryview(bytearray(8))) is None


async def test_where_the_arena_is_full_rooms_are_ordinary_memory(jail: Jail) -> None:
    module = await compiled(jail, ADDER)
    most = jail.room(arena.SIZE - (1 << 20))
    batch = toy(40_000, jail)
    assert jail._arena.place(batch.block) is not None
    other = toy(40_000, jail)
    assert jail._arena.place(other.block) is None
    with pytest.raises(JailRestingError, match="full"):
        await jail.call(module, other, TOY.limits)
    del most
    gc.collect()
    await jail.call(module, other, TOY.limits)
    assert right(other)


async def _spins(jail: Jail, module: bytes) -> None:
    """Wait until the worker is in the midst of a call of `module`: it has taken it in, and goes on
    using the processor."""
    with trio.fail_after(60):
        while jail._worker is None or module not in jail._worker.loaded:
            await trio.sleep(0.01)
        before = jail._worker.child.spent()
        while jail._worker.child.spent() < before + 0.05:
            await trio.sleep(0.01)


async def _killed(jail: Jail, told: Told, batch: Batch, module: bytes) -> JailDiedError:
    """Kill the worker in the middle of a call."""
    caught: list[JailDiedError] = []

    async def call() -> None:
        try:
            await jail.call(module, batch, MUCH, seconds=20)
        except JailDiedError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        while not told or told[-1][0] != "jail.started":
            await trio.sleep(0.01)
        await _spins(jail, module)
        assert jail._worker is not None
        jail._worker.child.kill()
    return caught[0]


async def test_a_death_costs_one_call_and_names_the_module(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, told):
        spinning, good = await compiled(jail, SPINNING), await compiled(jail, ADDER)
        error = await _killed(jail, told, toy(1, jail), spinning)
        assert error.module == spinning
        assert "SIGKILL" in error.message
        batch = toy(5, jail)
        await jail.call(good, batch, TOY.limits)
        assert right(batch)
        assert told.names() == ["jail.started", "jail.died", "jail.started"]
        assert told[1][1]["module"] == spinning.hex()


async def test_a_death_between_calls_is_no_modules_fault(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, told):
        good = await compiled(jail, ADDER)
        await jail.call(good, toy(1, jail), TOY.limits)
        assert jail._worker is not None
        jail._worker.child.kill()
        with trio.fail_after(60):
            while not jail._worker.child.gone():
                await trio.sleep(0.01)
        await jail.call(good, toy(1, jail), TOY.limits)
        assert told.names() == ["jail.started", "jail.started"]


async def test_what_is_sent_to_the_whole_service_ends_no_worker(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, told):
        good = await compiled(jail, ADDER)
        await jail.call(good, toy(1, jail), TOY.limits)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(told[0][1]["pid"], number)
        await jail.call(good, toy(1, jail), TOY.limits)
        assert told.names() == ["jail.started"]


async def test_a_compiler_without_processor_time_gives_no_verdict(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "WALL_S", 0.01)
    with pytest.raises(JailSlowError, match="processor time"):
        await compiled(jail, ADDER)
    monkeypatch.setattr(compiling, "ENOUGH_CPU_S", 0.0)
    with pytest.raises(ModuleRefusedError, match="took more than"):
        await compiled(jail, ADDER)


async def test_after_more_deaths_the_jail_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(jail_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(jail_module, "RESTS_S", (0.0, 0.3))
    with jailed(tmp_path) as (jail, told):
        spinning, good = await compiled(jail, SPINNING), await compiled(jail, ADDER)
        for _ in range(2):
            await _killed(jail, told, toy(1, jail), spinning)
        with pytest.raises(JailRestingError, match="2 workers"):
            await jail.call(good, toy(1, jail), TOY.limits)
        now += 0.31
        await jail.call(good, toy(1, jail), TOY.limits)


async def test_a_worker_that_does_not_stop_when_told_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.1)
    monkeypatch.setattr(worker, "CALL_WALLS", 30)  # the processor may be somebody else's
    with jailed(tmp_path) as (jail, _):
        spinning, good = await compiled(jail, SPINNING), await compiled(jail, ADDER)
        await jail.call(good, toy(1, jail), TOY.limits)
        assert jail._worker is not None
        jail._worker._alarm.send(b"\0" * 17)  # one for another call, which does nothing
        monkeypatch.setattr("synapsed.jail.wire.alarm", lambda *_: b"\0" * 17)
        with pytest.raises(JailDiedError, match="did not stop") as caught:
            await jail.call(spinning, toy(1, jail), MUCH, seconds=0.05)
        assert caught.value.module == spinning


async def test_a_call_that_is_given_up_leaves_nobody_writing(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, told):
        spinning, good = await compiled(jail, SPINNING), await compiled(jail, ADDER)
        with trio.move_on_after(0.5):
            await jail.call(spinning, toy(1, jail), MUCH, seconds=20)
        assert jail._worker is None
        batch = toy(5, jail)
        await jail.call(good, batch, TOY.limits)
        assert right(batch)
        assert "jail.died" not in told.names()


async def test_what_was_not_compiled_is_not_run(jail: Jail) -> None:
    with pytest.raises(NotCompiledError):
        await jail.call(bytes(32), toy(1, jail), TOY.limits)
    batch = toy(1, jail)
    await jail.call(await compiled(jail, ADDER), batch, TOY.limits)
    assert right(batch)


async def test_more_modules_than_a_worker_holds_take_turns(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jail_module, "MAX_LOADED", 2)
    texts = [wasm_kit.text(run=f"(drop (i32.const {n})) i32.const 0") for n in range(3)]
    modules = [await compiled(jail, each) for each in texts]
    for module in modules * 2:
        await jail.call(module, toy(1, jail), TOY.limits)
        assert jail._worker is not None
        assert len(jail._worker.loaded) <= 2


async def test_more_memory_than_its_limit_is_not_to_be_had(jail: Jail) -> None:
    module = await compiled(jail, ADDER)
    few = Limits(fuel=1_000_000, fuel_per_row=100, memory_pages=5)
    await jail.call(module, toy(100, jail), few)
    with pytest.raises(ModuleTrapError) as caught:
        await jail.call(module, toy(40_000, jail), few)
    assert caught.value.kind == "memory"


async def test_text_becomes_a_module_and_bad_text_an_error(jail: Jail) -> None:
    text = wasm_kit.HEAD.format(run="i32.const 0", reserve="i32.const 8", more="")
    assert (await jail.wat(text.encode()))[:4] == b"\0asm"
    with pytest.raises(ModuleRefusedError, match="expected"):
        await jail.wat(b"(module (func")
    with pytest.raises(ModuleRefusedError):
        await jail.wat(b"\xff\xfe")


async def test_a_module_that_is_not_one_never_reaches_the_compiler(jail: Jail) -> None:
    with pytest.raises(ModuleRefusedError, match="does not begin"):
        await compiled(jail, b"(module)")
    with pytest.raises(ModuleRefusedError, match="type mismatch"):
        await compiled(jail, wasm_kit.with_run(b"\x42\0"))


async def test_two_who_compile_the_same_are_both_served(jail: Jail) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(compiled, jail, ADDER)
    await jail.call(await compiled(jail, ADDER), toy(1, jail), TOY.limits)


async def test_the_canonical_nan_is_the_only_one(jail: Jail) -> None:
    """Else two machines could answer differently by the same module."""
    odd = wasm_kit.text(
        run="""(i64.store offset=40 (local.get $block) (i64.reinterpret_f64
          (f64.add (f64.reinterpret_i64 (i64.const 0x7ff8123456789abc)) (f64.const 1))))
          i32.const 0"""
    )
    batch = toy(1, jail)
    await jail.call(await compiled(jail, odd), batch, TOY.limits)
    assert batch.output("sum")[0] == 0x7FF8000000000000


async def test_run_ends_the_worker_when_it_is_cancelled(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jail.run)
            await jail.call(await compiled(jail, ADDER), toy(1, jail), TOY.limits)
            nursery.cancel_scope.cancel()
        assert jail._worker is None


async def test_a_jail_that_is_closed_under_a_call_tells_its_caller(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, _):
        spinning = await compiled(jail, SPINNING)

        async def call() -> None:
            with pytest.raises(JailRestingError, match="closed"):
                await jail.call(spinning, toy(1, jail), MUCH, seconds=20)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await _spins(jail, spinning)
            jail.close()


def own_children() -> set[int]:
    """Processes that this one began; the runner of the tests has some of its own."""
    return {child.pid for child in psutil.Process().children()}


async def test_without_descriptors_there_is_an_error_and_nobody_left_behind(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = await compiled(jail, ADDER)

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    before, children = len(os.listdir("/proc/self/fd")), own_children()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", full)
        with pytest.raises(JailError, match="Too many"):
            await jail.call(module, toy(1, jail), TOY.limits)
        with pytest.raises(JailError, match="Too many"):
            await compiled(jail, SPINNING)
    assert own_children() <= children
    assert len(os.listdir("/proc/self/fd")) == before
    await jail.call(module, toy(1, jail), TOY.limits)
