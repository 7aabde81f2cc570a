"""A node that is given hostile modules, one attempt after another: what `jail` measures.

    python -m tests.bench.jail_node FOLDER kinds
    python -m tests.bench.jail_node FOLDER mutants SEED COUNT

Each attempt is one line of JSON on standard output. That this process lives to say so is part of
what is measured.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import trio

from protocols.draw import Draw
from protocols.slots.abi import Batch
from protocols.slots.wasm_module import ModuleLimits, ModuleRefusedError
from synapsed.jail import compiling, spawn
from synapsed.jail.errors import JailDiedError, JailSlowError, ModuleTrapError
from synapsed.jail.jail import Jail
from tests import wasm_kit
from tests.bench.jail_kinds import FEW, Kind, kinds
from tests.jail_kit import ADDER, toy

ROWS = 50
PATIENCE = 3
"""Attempts at a module while the compiler gets no processor time."""
CANARY = 0xA5
CANARY_SIZE = 4096


class Weighed(spawn.Child):
    """A child of the jail whose use of memory is kept when it ends."""

    peaks: ClassVar[dict[str, int]] = {"run": 0, "compile": 0}

    def __init__(self, arguments: list[str], fds: tuple[int, int, int]) -> None:
        super().__init__(arguments, fds)
        self._mode = arguments[2]

    def reap(self) -> None:
        if self.status is None:
            super().reap()
            self.peaks[self._mode] = max(self.peaks[self._mode], self.peak)


def heaviest_mb() -> int:
    """Of one attempt at most: the worst compiler's and the worst worker's, as if together."""
    return round(sum(Weighed.peaks.values()) / 1e6)


class Attempt:
    """A batch between two canaries, in the memory that the node shares with the worker."""

    def __init__(self, jail: Jail) -> None:
        self.batch = toy(ROWS, jail)
        self._before = bytes(self.batch.block.cast("B"))
        self._canaries = [jail.room(CANARY_SIZE) for _ in range(2)]
        for each in self._canaries:
            each[:] = bytes([CANARY]) * CANARY_SIZE

    def untouched(self) -> bool:
        """Whether nothing but the answer has changed."""
        answer = self.batch.output("sum").nbytes
        same = bytes(self.batch.block.cast("B"))[:-answer] == self._before[:-answer]
        return same and all(bytes(each) == bytes([CANARY]) * CANARY_SIZE for each in self._canaries)


async def attempt(jail: Jail, kind: Kind) -> dict[str, object]:
    """Try one module; how it ended, what that took, and whether it got anywhere."""
    module, found = kind.make(), Attempt(jail)
    seconds = 0.0
    for _ in range(PATIENCE):
        began = time.monotonic()
        ended = await outcome(jail, module, kind, found.batch)
        seconds = max(seconds, time.monotonic() - began)
        if ended != "slow":
            break
    escaped = not found.untouched() or (ended == "answered" and "answered" not in kind.ends)
    return {
        "name": kind.name,
        "ended": ended,
        "expected": sorted(kind.ends),
        "seconds": round(seconds, 3),
        "escaped": escaped,
    }


async def outcome(jail: Jail, module: bytes, kind: Kind, batch: Batch) -> str:
    """In the words of `jail_kinds`; "died" where the worker did, "slow"
    where other programs had the processor."""
    try:
        if not kind.inspected:
            await compiling.compile_module(module, jail.layers)
            return "compiled"
        name = await jail.compile(module, ModuleLimits())
    except compiling.CompilerDiedError:
        return "killed"
    except JailSlowError:
        return "slow"
    except ModuleRefusedError as error:
        return "refused" if "(at byte" in error.reason or _plain(error.reason) else "invalid"
    try:
        await jail.call(name, batch, kind.limits)
    except ModuleTrapError as error:
        return error.kind
    except JailDiedError:
        return "died"
    finally:
        jail.forget(name)
    return "answered"


def _plain(reason: str) -> bool:
    """Whether the inspection said it, which compiles nothing."""
    return not reason.startswith("failed to ")


def mutants(seed: str, count: int) -> Iterator[Kind]:
    """Valid modules with some of their bytes changed, moved, left out or repeated: half of them
    anywhere, half of them in the instructions only, which the inspection does not read."""
    draw = Draw(seed.encode())
    whole = [ADDER, wasm_kit.build(), *_valid()]
    for number in range(count):
        module = bytearray(whole[draw.integer(0, len(whole) - 1)])
        deep = draw.chance(1, 2)
        for _ in range(draw.integer(1, 3)):
            if deep:
                _substitute(module, draw, draw.integer(len(module) // 2, len(module) - 1))
            else:
                _mutate(module, draw, draw.integer(8, len(module) - 1))
        ends = frozenset({"answered", "mutant"})
        yield Kind(f"mutant {number}", lambda found=bytes(module): found, ends, FEW)


def _valid() -> list[bytes]:
    """Of the hostile ones, those that compile quickly: their mutants reach furthest."""
    return [
        module
        for kind in kinds()
        if not kind.ends & {"refused", "killed", "invalid"} and len(module := kind.make()) < 2000
    ]


def _mutate(module: bytearray, draw: Draw, at: int) -> None:
    match draw.integer(0, 3):
        case 0:
            del module[at : at + draw.integer(1, 4)]
        case 1:
            module[at:at] = module[at : at + draw.integer(1, 8)]
        case _:
            _substitute(module, draw, at)
    module.extend(b"\0" * (9 - len(module)))


def _substitute(module: bytearray, draw: Draw, at: int) -> None:
    match draw.integer(0, 2):
        case 0:
            module[at] = draw.integer(0, 255)
        case 1:
            module[at] ^= 1 << draw.integer(0, 7)
        case _:
            module[at] = (0x00, 0x7F, 0x80, 0xFF, 0x0B, 0x41)[draw.integer(0, 5)]


async def run(folder: Path, modules: Iterator[Kind]) -> None:
    """Try them all."""
    jail = Jail(folder, lambda *_, **__: None, allow_weaker=False)
    try:
        for kind in modules:
            print(json.dumps(await attempt(jail, kind)), flush=True)
    finally:
        jail.close()
    print(json.dumps({"mb": heaviest_mb()}), flush=True)


def main() -> None:
    folder, what, *more = sys.argv[1:]
    spawn.Child = Weighed  # type: ignore[misc]
    modules = iter(kinds()) if what == "kinds" else mutants(more[0], int(more[1]))
    trio.run(run, Path(folder), modules)


if __name__ == "__main__":
    main()
