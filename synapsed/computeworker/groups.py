"""Groups of tiles as tensors and as files: versions, their heads, and what results make of them.

A group's values here are one fp32 tensor of one dimension for each tile, in order.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from protocols.learn.delta import DeltaError
from protocols.learn.partition import (
    Group,
    Tile,
    UntrainableError,
    groups_of,
    version_header,
)
from protocols.tensors.safetensors_header import SafetensorsHeader, parse_safetensors_header
from protocols.tensors.tensorblock import Layout, file_root, hash_run, section_node
from synapsed.compute import wire
from synapsed.compute.errors import BadDeltaError, BadHeadError, BadModelError
from synapsed.computeworker import outer
from synapsed.computeworker.files import Mapped, ModelFiles, read, write_whole
from synapsed.hashing import HASHER

MAX_DELTA = 2 << 30
"""Bytes of a delta's file; the node has bounded it more closely."""

Values = list[Tensor]


def cut(headers: Sequence[tuple[int, SafetensorsHeader]], group_bytes: int) -> list[Group]:
    """A model's groups. Raises BadModelError."""
    try:
        return groups_of(headers, group_bytes)
    except UntrainableError as error:
        raise BadModelError(error.message, remedy=error.remedy) from None


def raw(values: Tensor) -> memoryview:
    """A tensor's bytes, where they are."""
    flat: Any = values.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(flat)


@lru_cache(maxsize=256)
def _header(tiles: tuple[Tile, ...]) -> tuple[bytes, Layout]:
    header = version_header(tiles)
    size = len(header) + 4 * sum(tile.count for tile in tiles)
    return header, Layout.of_safetensors(parse_safetensors_header(header, size), size)


def head_of(tiles: tuple[Tile, ...], values: Values) -> bytes:
    """The TensorBlock root of the version's file, without writing it."""
    header, layout = _header(tiles)
    nodes = []
    for section in layout.sections:
        data = raw(values[section.index - 1]) if section.index else memoryview(header)
        hashes = b""
        if section.leaves:
            hashes = hash_run(HASHER, layout, section.first_leaf, section.end_leaf, data)
        nodes.append(section_node(HASHER, section, hashes))
    return file_root(HASHER, layout.size, nodes)


def write_version(group: int, tiles: tuple[Tile, ...], values: Values, folder: str) -> wire.Version:
    """The version's file, named by its head."""
    head = head_of(tiles, values)
    path = os.path.join(folder, f"{head.hex()}.safetensors")
    if not os.path.exists(path):
        parts: list[bytes | memoryview] = [_header(tiles)[0], *map(raw, values)]
        write_whole(path, parts)
    return wire.Version(group, path, head)


def read_version(path: str) -> tuple[tuple[Tile, ...], Values]:
    """A version's tiles, by their names alone, and its values, mapped. Raises BadModelError."""
    mapped = Mapped(path)
    tiles, values = [], []
    for info in mapped.header.tensors:
        parts = info.name.split(".")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts) or info.dtype != "F32":
            raise BadModelError(f"{path} is no version of a tile group")
        file, section, index = map(int, parts)
        value, _ = mapped.tensor(info)
        # Where in its tensor a tile begins is known to whoever has the model; it is not needed.
        tiles.append(Tile(file, section, index, 0, value.numel()))
        values.append(value.view(-1))
    return tuple(tiles), values


def values_of_version(group: Group, path: str) -> Values:
    """A version's values, if it is one of this group. Raises BadModelError."""
    tiles, values = read_version(path)
    if [(tile.name, tile.count) for tile in tiles] != [(t.name, t.count) for t in group.tiles]:
        raise BadModelError(f"{path} is a version of other tiles than group {group.number} has")
    return values


def values_of_model(group: Group, files: ModelFiles) -> Values:
    """What a model's own files hold of a group, in fp32."""
    values = []
    for tile in group.tiles:
        mapped = files.safetensors[tile.file]
        flat = mapped.tensor(mapped.header.tensors[tile.section - 1])[0].reshape(-1)
        values.append(flat[tile.start : tile.start + tile.count].to(torch.float32))
    return values


def read_delta(path: str) -> bytes:
    """A delta's or result's bytes."""
    return read(path, MAX_DELTA)


def advanced(tiles: tuple[Tile, ...], base: Values, result: str, head: bytes) -> Values:
    """The values after a result. Raises BadDeltaError; BadHeadError where they are not `head`."""
    try:
        values = outer.apply(base, read_delta(result))
    except DeltaError as error:
        raise BadDeltaError(f"{result}: {error.message}") from None
    if head_of(tiles, values) != head:
        raise BadHeadError(
            f"{result} does not lead to the version {head.hex()[:16]} from here",
            remedy="this copy of the group is another than the network's: fetch its version",
        )
    return values
