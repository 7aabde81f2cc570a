"""A group's first version without the compute worker: for daemons that keep and do not compute.

The same bytes as the worker makes (its `make_versions`): fp32 holds every bf16 and fp16 value.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from protocols.learn.partition import WIDTHS, Group, Tile, UntrainableError, version_header
from protocols.tensors.safetensors_header import header_length, parse_safetensors_header
from synapsed.store.disk import Source

PREFIX = 8
"""Bytes in which a safetensors file says how long its header is."""


def write_first(files: Sequence[tuple[str, Path]], group: Group, path: Path) -> None:
    """Write version 0 of a group. Raises DiskError, MalformedError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.write(version_header(group.tiles))
        for tile in group.tiles:
            out.write(_values(files[tile.file][1], tile))


def _values(path: Path, tile: Tile) -> bytes:
    with Source(path) as source:
        length = header_length(source.read(0, PREFIX), source.size)
        header = parse_safetensors_header(source.read(0, length), source.size)
        tensor = header.tensors[tile.section - 1]
        width = WIDTHS.get(tensor.dtype)
        if width is None:
            raise UntrainableError(f"tensor {tensor.name!r} is {tensor.dtype}")
        start = tensor.start + width * tile.start
        return widened(source.read(start, start + width * tile.count), tensor.dtype)


def widened(data: bytes, dtype: str) -> bytes:
    """Values in fp32, little-endian."""
    if dtype == "F32":
        return data
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return bytes(wide)
    count = len(data) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))
