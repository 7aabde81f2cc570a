"""A worker that was taken over can end its calls, and do nothing else to the node."""

import os
from pathlib import Path

import pytest

from protocols.slots.wasm_module import ModuleLimits
from synapsed.jail import spawn
from synapsed.jail import worker as worker_module
from synapsed.jail.errors import JailDiedError
from tests import jail_liar
from tests.jail_kit import ADDER, TOY, jailed, right, toy


class Lying(spawn.Child):
    """Starts the liar where the worker should be."""

    lie = ""

    def __init__(self, arguments: list[str], fds: tuple[int, int, int]) -> None:
        super().__init__([str(Path(jail_liar.__file__)), self.lie, arguments[-1]], fds)


@pytest.mark.parametrize("lie", [*jail_liar.LIES, "goodbye", "half an answer"])
async def test_a_lie_costs_the_call_and_ends_the_liar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    with jailed(tmp_path) as (jail, told):
        module = await jail.compile(ADDER, ModuleLimits())
        with monkeypatch.context() as patched:
            patched.setattr(worker_module.spawn, "Child", Lying)
            patched.setattr(Lying, "lie", lie)
            with pytest.raises(JailDiedError) as caught:
                await jail.call(module, toy(1, jail), TOY.limits)
        assert caught.value.module == module
        assert told.names() == ["jail.started", "jail.died"]
        batch = toy(3, jail)
        await jail.call(module, batch, TOY.limits)
        assert right(batch)


async def test_descriptors_that_a_worker_sends_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with jailed(tmp_path) as (jail, _):
        module = await jail.compile(ADDER, ModuleLimits())
        monkeypatch.setattr(worker_module.spawn, "Child", Lying)
        monkeypatch.setattr(Lying, "lie", "a descriptor")
        await jail.call(module, toy(0, jail), TOY.limits)
        before = set(os.listdir("/proc/self/fd"))
        await jail.call(module, toy(0, jail), TOY.limits)
        assert set(os.listdir("/proc/self/fd")) <= before


async def test_nobody_can_shrink_the_arena_under_the_node(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, _), pytest.raises(PermissionError):
        os.ftruncate(jail._arena.fd, 0)
