"""The compute worker's API without torch: the same files in and out, and values one can foretell.

A learner's step takes a constant of its own from every value; rounds average; deltas and results
are fp32. So any machine that applied the same records has the same bytes, and one that did not
has others.
"""

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from protocols.learn import delta
from protocols.learn.partition import Group, groups_of, version_header
from protocols.plan import Phase, Plan
from protocols.tensors.safetensors_header import header_length, parse_safetensors_header
from synapsed.compute import wire
from synapsed.compute.errors import (
    BadHeadError,
    DivergedError,
    NotInstalledError,
    PausedError,
    UnloadedError,
)
from synapsed.store.shape import shape_of_file

Files = Sequence[tuple[str, Path]]
Values = dict[int, "array[float]"]


class Open:
    """A training: base and local values by group."""

    def __init__(self, groups: list[Group], base: "Values", seed: int, step: int) -> None:
        self.groups = groups
        self.base = base
        self.local = {number: array("f", values) for number, values in base.items()}
        self.seed = seed
        self.step = step


class ToyCompute:
    """One daemon's. `asked` counts calls; `gates` hold back those named in it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.paused = False
        self.gates: dict[str, trio.Event] = {}
        self.missing = False
        self.lies = False
        """Whether `combine` adds a little of its own."""
        self.cheats = False
        """Whether `aggregate` does."""
        self._open: dict[bytes, Open] = {}

    async def pause(self) -> None:
        self.paused = True
        self._open.clear()

    def resume(self) -> None:
        self.paused = False

    async def _turn(self, what: str) -> None:
        self.asked.append(what)
        if self.missing:
            raise NotInstalledError("no torch")
        await trio.lowlevel.checkpoint()
        if (gate := self.gates.get(what)) is not None:
            await gate.wait()
        if self.paused:
            raise PausedError

    # -- groups on disk

    async def make_versions(
        self, files: Files, group_bytes: int, groups: Sequence[int], out: Path
    ) -> tuple[wire.Version, ...]:
        await self._turn("make_versions")
        cut = cut_files(files, group_bytes)
        made = []
        for number in groups:
            values = values_of_model(files, cut[number])
            made.append(write_version(out, cut[number], values))
        return tuple(made)

    async def aggregate(
        self,
        plan: Plan,
        number: int,
        group: int,
        base: Path,
        *,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        state: Path | None = None,
    ) -> wire.Aggregated:
        await self._turn("aggregate")
        values, header = read_version(base)
        sums = [0.0] * len(values)
        total = sum(weight for _, weight in inputs)
        for path, weight in inputs:
            for index, value in enumerate(read_delta(path, len(values))):
                sums[index] += value * weight
        result = array("f", (-value / total + self.cheats for value in sums))
        blob = write_delta(out, result, tiles_of(header))
        after = added(values, result)
        version = write_raw(out, group, header, after)
        shares = tuple(1000 * weight // total for _, weight in inputs)
        before = b"" if state is None else state.read_bytes()
        kept = write_blob(out, hashlib.sha256(before + result.tobytes()).digest())
        return wire.Aggregated(0, blob, kept, version, shares)

    async def combine(
        self,
        plan: Plan,
        number: int,
        base: Path,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        *,
        carry: Path | None = None,
    ) -> wire.Combined:
        await self._turn("combine")
        values, header = read_version(base)
        sums = [0.0] * len(values)
        total = sum(weight for _, weight in inputs)
        for path, weight in inputs:
            for index, value in enumerate(read_delta(path, len(values))):
                sums[index] += value * weight
        mean = array("f", (value / total + self.lies for value in sums))
        if carry is not None:
            mean = added(mean, read_delta(carry, len(values)))
        left = write_delta(out, array("f", bytes(4 * len(values))), tiles_of(header))
        return wire.Combined(0, write_delta(out, mean, tiles_of(header)), left)

    async def check_delta(self, base: Path, delta: Path) -> None:
        await self._turn("check_delta")

    async def same(self, base: Path, one: Path, other: Path) -> bool:
        await self._turn("same")
        return one.read_bytes() == other.read_bytes()

    async def advance(
        self, group: int, base: Path, links: Sequence[tuple[Path, bytes]], out: Path
    ) -> wire.Version:
        await self._turn("advance")
        values, header = read_version(base)
        for path, _ in links:
            values = added(values, read_delta(path, len(values)))
        version = write_raw(out, group, header, values)
        if version.head != links[-1][1]:
            raise BadHeadError("another head")
        return version

    async def write_model(
        self, files: Files, group_bytes: int, versions: Mapping[int, Path], out: Path
    ) -> None:
        await self._turn("write_model")
        cut = cut_files(files, group_bytes)
        out.mkdir(parents=True, exist_ok=True)
        for number, (name, path) in enumerate(files):
            data = bytearray(path.read_bytes())
            if name.endswith(".safetensors"):
                header = parse_safetensors_header(bytes(data), len(data))
                for group, version in versions.items():
                    values, _ = read_version(version)
                    at = 0
                    for tile in cut[group].tiles:
                        if tile.file == number:
                            start = header.tensors[tile.section - 1].start + 4 * tile.start
                            part = values[at : at + tile.count].tobytes()
                            data[start : start + len(part)] = part
                        at += tile.count
            (out / name).write_bytes(bytes(data))

    # -- training

    async def load_training(
        self,
        key: bytes,
        files: Files,
        versions: Mapping[int, Path],
        data: Path,
        plan: Plan,
        *,
        seed: int,
        step: int = 0,
        state: Path | None = None,
    ) -> wire.Loaded:
        await self._turn("load_training")
        cut = cut_files(files, plan.group_bytes)
        base = {}
        for group in cut:
            if group.number in versions:
                base[group.number] = read_version(versions[group.number])[0]
            else:
                base[group.number] = values_of_model(files, group)
        self._open[key] = Open(cut, base, seed, step)
        heads = tuple(head_of(group, base[group.number]) for group in cut)
        return wire.Loaded(0, heads, step, sum(group.elements for group in cut))

    def _training(self, key: bytes) -> Open:
        if key not in self._open:
            raise UnloadedError("not loaded")
        return self._open[key]

    async def train(self, key: bytes, steps: int, phase: Phase) -> wire.Trained:
        await self._turn("train")
        opened = self._training(key)
        change = self.change(opened.seed, opened.step, steps)
        for values in opened.local.values():
            for index in range(len(values)):
                values[index] -= change
        opened.step += steps
        loss = 5.0 / (1 + opened.step)
        return wire.Trained(0, (loss,) * steps, steps * 8, 0.001, opened.step)

    @staticmethod
    def change(seed: int, step: int, steps: int) -> float:
        """What steps take from every value."""
        return steps * (1 + (seed % 7 + step) % 5) / 1024

    async def encode(
        self, key: bytes, groups: Sequence[int], phase: Phase, folder: Path
    ) -> dict[int, wire.Blob]:
        await self._turn("encode")
        opened = self._training(key)
        found = {}
        for number in groups:
            base, local = opened.base[number], opened.local[number]
            moved = array("f", (old - new for old, new in zip(base, local, strict=True)))
            tiles = [tile.count for tile in opened.groups[number].tiles]
            found[number] = write_delta(folder, moved, tiles)
        return found

    async def take_back(self, key: bytes, groups: Sequence[int]) -> None:
        await self._turn("take_back")
        self._training(key)

    async def apply(self, key: bytes, group: int, result: Path, head: bytes) -> None:
        await self._turn("apply")
        opened = self._training(key)
        base = opened.base[group]
        after = added(base, read_delta(result, len(base)))
        if head_of(opened.groups[group], after) != head:
            raise BadHeadError("another head")
        opened.base[group], opened.local[group] = after, array("f", after)

    async def replace(self, key: bytes, version: wire.Version) -> None:
        await self._turn("replace")
        opened = self._training(key)
        values = read_version(Path(version.path))[0]
        if head_of(opened.groups[version.group], values) != version.head:
            raise BadHeadError("another head")
        opened.base[version.group], opened.local[version.group] = values, array("f", values)

    async def save_training(self, key: bytes, path: Path) -> None:
        await self._turn("save_training")
        path.write_bytes(self._training(key).step.to_bytes(8, "big"))

    async def close_training(self, key: bytes) -> None:
        await self._turn("close_training")
        self._open.pop(key, None)


# -- files


def cut_files(files: Files, group_bytes: int) -> list[Group]:
    """The groups of a model's files."""
    headers = []
    for number, (name, path) in enumerate(files):
        if name.endswith(".safetensors"):
            data = path.read_bytes()
            headers.append((number, parse_safetensors_header(data, len(data))))
    return groups_of(headers, group_bytes)


def values_of_model(files: Files, group: Group) -> "array[float]":
    """A group's values in an F32 model."""
    values: array[float] = array("f")
    for tile in group.tiles:
        data = files[tile.file][1].read_bytes()
        tensor = parse_safetensors_header(data, len(data)).tensors[tile.section - 1]
        start = tensor.start + 4 * tile.start
        values.frombytes(data[start : start + 4 * tile.count])
    return values


def read_version(path: Path) -> tuple["array[float]", bytes]:
    """A version's values and header."""
    data = path.read_bytes()
    at = header_length(data, len(data))
    values: array[float] = array("f")
    values.frombytes(data[at:])
    return values, data[:at]


def tiles_of(header: bytes) -> list[int]:
    """The sizes of a version's tiles."""
    size = len(header)
    stop = max(entry["data_offsets"][1] for entry in msgspec.json.decode(header[8:]).values())
    parsed = parse_safetensors_header(header, size + stop)
    return [(tensor.stop - tensor.start) // 4 for tensor in parsed.tensors]


def added(values: "array[float]", change: "array[float]") -> "array[float]":
    """Elementwise, in fp32."""
    return array("f", (old + more for old, more in zip(values, change, strict=True)))


def head_of(group: Group, values: "array[float]") -> bytes:
    """A version's root."""
    path = Path("/dev/shm") / f"head-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        path.write_bytes(version_header(group.tiles) + values.tobytes())
        return shape_of_file(path, "safetensors", lambda _count: None)[0].root
    finally:
        path.unlink(missing_ok=True)


def write_version(out: Path, group: Group, values: "array[float]") -> wire.Version:
    """As the worker does."""
    return write_raw(out, group.number, version_header(group.tiles), values)


def write_raw(out: Path, group: int, header: bytes, values: "array[float]") -> wire.Version:
    """A version's file under its head."""
    out.mkdir(parents=True, exist_ok=True)
    new = out / os.urandom(6).hex()
    new.write_bytes(header + values.tobytes())
    root = shape_of_file(new, "safetensors", lambda _count: None)[0].root
    path = out / f"{root.hex()}.safetensors"
    new.rename(path)
    return wire.Version(group, str(path), root)


def write_delta(out: Path, values: "array[float]", tiles: Sequence[int]) -> wire.Blob:
    """An fp32 delta under its hash."""
    out.mkdir(parents=True, exist_ok=True)
    body = values.tobytes()
    shape = (len(tiles), sum(tiles), 0, len(body))
    data = delta.HEADER.pack(delta.MAGIC, delta.FP32, 0, 0, 0, *shape) + body
    digest = hashlib.sha256(data).digest()
    path = out / digest.hex()
    path.write_bytes(data)
    return wire.Blob(str(path), digest, len(data))


def write_blob(out: Path, data: bytes) -> wire.Blob:
    """Bytes under their hash."""
    digest = hashlib.sha256(data).digest()
    path = out / digest.hex()
    path.write_bytes(data)
    return wire.Blob(str(path), digest, len(data))


def read_delta(path: Path, elements: int) -> "array[float]":
    """An fp32 delta's values."""
    values: array[float] = array("f")
    values.frombytes(path.read_bytes()[delta.HEADER.size :])
    if len(values) != elements:
        raise DivergedError("another size")
    return values
