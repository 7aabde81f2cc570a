"""Compiled modules on disk: only what our own compiler wrote is ever loaded."""

import os
import stat
from pathlib import Path

import pytest

from protocols.slots.wasm_module import ModuleLimits
from synapsed.jail import cache as cache_module
from synapsed.jail.cache import Cache
from synapsed.jail.errors import NotCompiledError
from tests.jail_kit import ADDER, TOY, jailed, right, toy

ONE, TWO = b"\1" * 32, b"\2" * 32


def test_what_is_put_is_got_also_by_the_next_process(tmp_path: Path) -> None:
    Cache(tmp_path, "1").put(ONE, b"code")
    again = Cache(tmp_path, "1")
    assert again.has(ONE)
    assert again.get(ONE) == b"code"
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_version_of_the_runtime_has_other_files(tmp_path: Path) -> None:
    Cache(tmp_path, "1").put(ONE, b"code")
    with pytest.raises(NotCompiledError):
        Cache(tmp_path, "2").get(ONE)


def _file(folder: Path, module: bytes) -> Path:
    return next(folder.glob(f"{module.hex()}*"))


@pytest.mark.parametrize("at", [0, 31, 32, -1])
def test_a_flipped_bit_is_noticed_and_the_file_removed(tmp_path: Path, at: int) -> None:
    cache = Cache(tmp_path, "1")
    cache.put(ONE, b"native code")
    data = bytearray(_file(tmp_path, ONE).read_bytes())
    data[at] ^= 1
    _file(tmp_path, ONE).write_bytes(data)
    with pytest.raises(NotCompiledError, match="changed"):
        cache.get(ONE)
    assert not cache.has(ONE)


def test_neither_another_modules_file_nor_a_short_one_passes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "1")
    cache.put(ONE, b"one")
    cache.put(TWO, b"two")
    _file(tmp_path, TWO).write_bytes(_file(tmp_path, ONE).read_bytes())
    with pytest.raises(NotCompiledError, match="changed"):
        cache.get(TWO)
    _file(tmp_path, ONE).write_bytes(b"short")
    with pytest.raises(NotCompiledError, match="changed"):
        cache.get(ONE)


def test_a_key_that_was_lost_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    Cache(tmp_path, "1").put(ONE, b"code")
    (tmp_path / "mac.key").write_bytes(b"broken")
    cache = Cache(tmp_path, "1")
    with pytest.raises(NotCompiledError):
        cache.get(ONE)
    cache.put(ONE, b"code")
    assert cache.get(ONE) == b"code"


@pytest.mark.parametrize("how", ["readable", "link"])
def test_a_key_that_others_may_know_is_no_key(tmp_path: Path, how: str) -> None:
    folder, key, foreign = tmp_path / "jail", tmp_path / "jail/mac.key", tmp_path / "known"
    Cache(folder, "1").put(ONE, b"code of theirs")
    folder.chmod(0o777)
    if how == "readable":
        key.chmod(0o644)
    else:
        foreign.write_bytes(key.read_bytes())
        foreign.chmod(0o600)
        key.unlink()
        key.symlink_to(foreign)
    known = key.read_bytes()
    with pytest.raises(NotCompiledError):
        Cache(folder, "1").get(ONE)
    assert key.read_bytes() != known
    assert not key.is_symlink()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, key)] == [0o700, 0o600]


def test_what_a_crash_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    old, new = tmp_path / "old.1.new", tmp_path / "new.2.new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(tmp_path, "1")
    assert not old.exists()
    assert new.exists()


def test_it_stays_within_its_bound_and_keeps_what_was_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MAX_BYTES", 3000)
    Cache(tmp_path, "0").put(ONE, bytes(900))
    cache = Cache(tmp_path, "1")
    names = [bytes([at]) * 32 for at in range(3)]
    for at, name in enumerate(names):
        cache.put(name, bytes(900))
        os.utime(_file(tmp_path, name), (at, at))
    cache.get(names[0])
    cache.put(b"\x09" * 32, bytes(900))
    assert [cache.has(name) for name in names] == [True, False, True]
    assert not Cache(tmp_path, "0").has(ONE)


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, "1")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.put(ONE, b"code")
    assert [path.name for path in tmp_path.iterdir()] == ["mac.key"]


async def test_a_jail_whose_cache_was_tampered_with_compiles_again(tmp_path: Path) -> None:
    with jailed(tmp_path) as (jail, _):
        module = await jail.compile(ADDER, ModuleLimits())
        path = _file(tmp_path, module)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(NotCompiledError):
            await jail.call(module, toy(1, jail), TOY.limits)
        assert await jail.compile(ADDER, ModuleLimits()) == module
        batch = toy(1, jail)
        await jail.call(module, batch, TOY.limits)
        assert right(batch)


async def test_code_of_another_runtime_is_compiled_again(tmp_path: Path) -> None:
    """It passes our MAC, and the runtime itself does not take it."""
    with jailed(tmp_path) as (jail, _):
        module = await jail.compile(ADDER, ModuleLimits())
        jail._cache.put(module, b"\x7fELF of another version")
        with pytest.raises(NotCompiledError, match="fits this machine no more"):
            await jail.call(module, toy(1, jail), TOY.limits)
        await jail.compile(ADDER, ModuleLimits())
        await jail.call(module, toy(1, jail), TOY.limits)
