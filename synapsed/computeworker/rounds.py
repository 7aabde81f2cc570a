"""What a group's primary, its other replicas and aggregators compute: from files to files."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from protocols.learn.claims import MAX_OUTER
from protocols.learn.delta import DeltaError
from synapsed.compute import wire
from synapsed.compute.errors import BadDeltaError, BadModelError
from synapsed.computeworker import codecs, outer, robust
from synapsed.computeworker.decoded import Decoded
from synapsed.computeworker.files import DTYPES, ModelFiles, read, read_own, write_blob, write_whole
from synapsed.computeworker.gate import Passage
from synapsed.computeworker.groups import (
    advanced,
    cut,
    raw,
    read_delta,
    read_version,
    values_of_model,
    values_of_version,
    write_version,
)
from synapsed.computeworker.sums import summed


def make_versions(asked: wire.Cut, passage: Passage) -> tuple[wire.Version, ...]:
    """The first versions of groups."""
    files = ModelFiles(asked.files)
    groups = cut(files.headers(), asked.group_bytes)
    found = []
    for number in asked.groups:
        if number >= len(groups):
            raise BadModelError(f"group {number} of a model that has {len(groups)}")
        passage()
        group = groups[number]
        values = values_of_model(group, files)
        found.append(write_version(number, group.tiles, values, asked.folder))
    return tuple(found)


def advance(asked: wire.Advance, passage: Passage) -> wire.Version:
    """A version after some rounds."""
    tiles, values = read_version(asked.base)
    for link in asked.links:
        passage()
        values = advanced(tiles, values, link.result, link.head)
    return write_version(asked.group, tiles, values, asked.folder)


def check_delta(asked: wire.CheckDelta) -> None:
    """Raise BadDeltaError unless a delta is one of a version's group, to the last value."""
    tiles, _ = read_version(asked.base)
    _read(asked.delta, [tile.count for tile in tiles])


def compare(asked: wire.Compare) -> wire.Compared:
    """Whether two deltas of a group say the same."""
    tiles, _ = read_version(asked.base)
    one, other = read_delta(asked.one), read_delta(asked.other)
    try:
        same = codecs.same(one, other, [tile.count for tile in tiles])
    except DeltaError:
        same = False
    return wire.Compared(asked.number, same)


def aggregate(asked: wire.Aggregate, passage: Passage) -> wire.Aggregated:
    """A round at its primary, or wherever it is recomputed."""
    tiles, base = read_version(asked.base)
    good, counts, bad = _inputs(asked.inputs, [tile.count for tile in tiles], passage)
    found = robust.aggregate(good, counts)
    passage()
    state = _outer(asked.state, base)
    result = state.step(asked.plan, asked.round, found.mean, base)
    version = write_version(asked.group, tiles, outer.apply(base, result), asked.folder)
    blob = write_blob(asked.folder, [result])
    shares = iter(found.shares)
    return wire.Aggregated(
        asked.number,
        blob,
        _write_outer(asked, state),
        version,
        tuple(0 if at in bad else next(shares) for at in range(len(asked.inputs))),
        bad,
    )


def combine(asked: wire.Combine, passage: Passage) -> wire.Combined:
    """A region's deltas as one: their robust mean and what the sum before left out, encoded as the
    round's deltas are. What that leaves out is said too, as an int8 delta, so that anybody can
    repeat this sum and the next one. Raises BadDeltaError for a `carry` that is none."""
    tiles, _ = read_version(asked.base)
    sizes = [tile.count for tile in tiles]
    good, counts, bad = _inputs(asked.inputs, sizes, passage)
    passage()
    carried = _read(asked.carry, sizes) if asked.carry else None
    made = summed(good, counts, carried, asked.plan.phase_of(asked.round))
    return wire.Combined(
        asked.number,
        write_blob(asked.folder, [made.delta]),
        write_blob(asked.folder, [made.left]),
        bad,
    )


def write_model(asked: wire.WriteModel, passage: Passage) -> None:
    """The model's files with the versions' values, each rounded to its tensor's own type."""
    files = ModelFiles(asked.files)
    groups = cut(files.headers(), asked.group_bytes)
    paths: dict[int, str] = dict(asked.versions)
    values: dict[int, dict[tuple[int, int], Tensor]] = {each: {} for each in files.safetensors}
    for group in groups:
        passage()
        path = paths.get(group.number)
        if path is None:
            continue
        for tile, value in zip(group.tiles, values_of_version(group, path), strict=True):
            values[tile.file][tile.section, tile.start] = value
    for number, file in enumerate(asked.files):
        passage()
        target = _inside(asked.folder, file.name)
        if number in values:
            write_whole(target, _parts(files, number, values[number]))
        else:
            write_whole(target, [read(file.path, MAX_OUTER)])


def _parts(
    files: ModelFiles, number: int, tiles: dict[tuple[int, int], Tensor]
) -> list[bytes | memoryview]:
    mapped = files.safetensors[number]
    parts: list[bytes | memoryview] = [read_head(mapped.path, mapped.header.header_len)]
    for section, info in enumerate(mapped.header.tensors, start=1):
        flat = mapped.tensor(info)[0].reshape(-1).clone()
        for (of, start), value in tiles.items():
            if of == section:
                flat[start : start + value.numel()] = value.to(DTYPES[info.dtype])
        parts.append(raw(flat))
    return parts


def read_head(path: str, length: int) -> bytes:
    """A file's first bytes."""
    with open(path, "rb") as file:
        return file.read(length)


def _inside(folder: str, name: str) -> str:
    """Where a manifest's file goes: below the folder, wherever its name would lead."""
    target = Path(os.path.normpath(Path(folder) / name))
    if not target.is_relative_to(folder):
        raise BadModelError(f"a file named {name[:80]!r}")
    return str(target)


def _inputs(
    given: Sequence[wire.Given], sizes: list[int], passage: Passage
) -> tuple[list[Decoded], list[int], tuple[int, ...]]:
    """Those that can be decoded, how many learners are behind each, and which cannot."""
    good, counts, bad = [], [], []
    for at, one in enumerate(given):
        passage()
        try:
            good.append(_read(one.path, sizes))
            counts.append(one.weight)
        except BadDeltaError:
            bad.append(at)
    if not good:
        raise BadDeltaError(f"none of {len(given)} inputs is a delta of this group")
    return good, counts, tuple(bad)


def _read(path: str, sizes: list[int]) -> Decoded:
    try:
        return Decoded.read(read_delta(path), sizes)
    except DeltaError as error:
        raise BadDeltaError(f"{path}: {error.message}") from None


def _outer(path: str, base: list[Tensor]) -> outer.Outer:
    """Raises BadModelError for what is no state of this group: whoever asks has looked at its hash,
    and must not be given a round of another state."""
    fresh = outer.Outer.start([value.numel() for value in base])
    if not path:
        return fresh
    try:
        found = outer.Outer.load(read_own(path, MAX_OUTER))
    except ValueError as error:
        raise BadModelError(f"{path}: {error}") from None
    found.velocity = found.velocity or fresh.velocity
    if [value.numel() for value in found.left.residual] != [value.numel() for value in base]:
        raise BadModelError(f"{path}: the outer state of another group")
    return found


def _write_outer(asked: wire.Aggregate, state: outer.Outer) -> wire.Blob:
    """Without a velocity that the next round would multiply by nothing: half of the state."""
    if not asked.plan.outer_momentum and not state.steps:
        state.velocity = []
    return write_blob(asked.folder, state.parts())
