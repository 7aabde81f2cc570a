"""A model's tiles in groups, and a group's values as one file.

Tiles are those of the model's safetensors files, in order (protocols/tensors/tiles.py). A group is
a run of tiles whose fp32 values take `group_bytes` at most, so that elections, logs and rounds grow
with groups and not with tiles. Everybody who has the model's headers cuts alike.

A *version* of a group is the fp32 values of its tiles, written as a safetensors file that has one
one-dimensional F32 tensor a tile, named `file.section.tile` in decimal, in order. Its name is that
file's TensorBlock root: so a version is fetched, verified and proven like any other bytes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from protocols.errors import MalformedError
from protocols.tensors.safetensors_header import SafetensorsHeader
from protocols.tensors.tensorblock import TILE

F32_BYTES = 4
WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes of a value, by what a tensor may be made of to be trained."""
ALIGN = 64
"""A version's header is padded to it, so that its values can be mapped as they are."""
MAX_GROUPS = 1 << 16


class UntrainableError(MalformedError):
    """A model with a tensor that cannot be trained."""

    code = "untrainable"


class Tile(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A tile of one tensor: elements [start, start + count) of its flat values."""

    file: int
    """Counted through the manifest's files, from 0."""
    section: int
    """The tensor's, from 1 (TensorBlock's numbering)."""
    index: int
    """Of the tile in its tensor, from 0."""
    start: int
    count: int
    """Elements."""

    @property
    def name(self) -> str:
        """Of its tensor in a version's file."""
        return f"{self.file}.{self.section}.{self.index}"


class Group(msgspec.Struct, frozen=True):
    """Tiles that share a ranking, a log and rounds."""

    number: int
    tiles: tuple[Tile, ...]

    @property
    def elements(self) -> int:
        """Values in all."""
        return sum(tile.count for tile in self.tiles)

    @property
    def bytes(self) -> int:
        """Of its values."""
        return self.elements * F32_BYTES


def tiles_of(file: int, header: SafetensorsHeader) -> Iterator[Tile]:
    """The tiles of a file, in order of their bytes. Raises UntrainableError."""
    for section, tensor in enumerate(header.tensors, start=1):
        width = WIDTHS.get(tensor.dtype)
        if width is None:
            raise UntrainableError(
                f"tensor {tensor.name!r} is {tensor.dtype}, not F32, BF16 or F16"
            )
        elements = (tensor.stop - tensor.start) // width
        each = TILE // width
        for index, start in enumerate(range(0, elements, each)):
            yield Tile(file, section, index, start, min(each, elements - start))


def groups_of(headers: Sequence[tuple[int, SafetensorsHeader]], group_bytes: int) -> list[Group]:
    """The groups of a model, from (file number, header) of its safetensors files, in order.

    Raises UntrainableError.
    """
    groups: list[Group] = []
    pending: list[Tile] = []
    room = group_bytes
    for tile in (tile for file, header in headers for tile in tiles_of(file, header)):
        size = tile.count * F32_BYTES
        if pending and size > room:
            groups.append(Group(len(groups), tuple(pending)))
            pending, room = [], group_bytes
        pending.append(tile)
        room -= size
    if pending:
        groups.append(Group(len(groups), tuple(pending)))
    if not groups or len(groups) > MAX_GROUPS:
        raise UntrainableError(f"a model with {len(groups)} tile groups, of at most {MAX_GROUPS}")
    return groups


def version_header(tiles: Iterable[Tile]) -> bytes:
    """A version's file up to its first value: the length, and JSON padded with spaces."""
    at = 0
    entries: dict[str, object] = {}
    for tile in tiles:
        size = tile.count * F32_BYTES
        entries[tile.name] = {
            "dtype": "F32",
            "shape": [tile.count],
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    return len(text).to_bytes(8, "little") + text


def group_key(model: bytes, group: int) -> bytes:
    """What a group is ranked by (placement.py)."""
    return model + group.to_bytes(4, "big")
