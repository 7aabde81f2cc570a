"""A group's tiles as one grid whose rows are blocks, and back.

A row holds the elements that share a scale. A tile begins a row, and the filling of its last row,
zeros, is never written to a delta.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from protocols.learn.delta import BITS, SymbolError, blocks_of, symbol_bytes

CHUNK = 1 << 17
"""Elements worked on at a time on a CPU: 512 KiB of fp32. With less, the calls cost as much as the
work (a quarter: half the speed); more is not held by the cache."""


@dataclass(frozen=True)
class Shape:
    """Where tiles of `sizes` elements lie in a grid of rows of `block`."""

    sizes: tuple[int, ...]
    block: int

    @cached_property
    def rows(self) -> list[int]:
        """Of each tile."""
        return [blocks_of(size, self.block) for size in self.sizes]

    @cached_property
    def even(self) -> bool:
        """Whether there is no filling at all."""
        return all(size % self.block == 0 for size in self.sizes)

    def spread(self, values: Sequence[int], device: torch.device) -> Tensor:
        """A value a tile as a value a row, int32."""
        wide = torch.tensor(values, dtype=torch.int32)
        return wide.repeat_interleave(torch.tensor(self.rows)).to(device)

    def counts(self, device: torch.device) -> Tensor:
        """Elements of each row that are not filling."""
        counts = torch.full((sum(self.rows),), float(self.block))
        at = -1
        for size, rows in zip(self.sizes, self.rows, strict=True):
            at += rows
            counts[at] -= rows * self.block - size
        return counts.to(device)

    @cached_property
    def fillings(self) -> list[int]:
        """Elements of filling before each tile."""
        ends = accumulate(
            rows * self.block - size for size, rows in zip(self.sizes, self.rows, strict=True)
        )
        return [0, *ends][:-1]

    def filling(self, rows: Tensor) -> Tensor:
        """Elements of filling before each of `rows`, int64."""
        return self.spread(self.fillings, rows.device)[rows].to(torch.int64)

    def filling_before(self, elements: Tensor) -> Tensor:
        """The same before each of `elements`, counted without filling."""
        ends = torch.tensor(self.sizes, device=elements.device).cumsum(0)
        tiles = torch.searchsorted(ends, elements, right=True)
        return torch.tensor(self.fillings, device=elements.device)[tiles]

    def grid(self, tiles: Sequence[Tensor]) -> Tensor:
        """The tiles' values in rows; one even tile is not copied."""
        if len(tiles) == 1 and self.even:
            return tiles[0].reshape(-1, self.block)
        flat = torch.empty(sum(self.rows) * self.block, device=tiles[0].device)
        at = 0
        for tile, size, rows in zip(tiles, self.sizes, self.rows, strict=True):
            flat[at : at + size] = tile.reshape(-1)
            flat[at + size : at + rows * self.block] = 0
            at += rows * self.block
        return flat.view(-1, self.block)

    def tiles(self, grid: Tensor) -> list[Tensor]:
        """Each tile's values: views of the grid."""
        flat, at, tiles = grid.reshape(-1), 0, []
        for size, rows in zip(self.sizes, self.rows, strict=True):
            tiles.append(flat[at : at + size])
            at += rows * self.block
        return tiles

    def trimmed(self, packed: Tensor, codec: int) -> Tensor:
        """A grid's packed symbols as bytes of a delta, without filling."""
        flat, at, parts = packed.reshape(-1), 0, []
        if self.even:
            return flat
        for size, rows in zip(self.sizes, self.rows, strict=True):
            parts.append(flat[at : at + symbol_bytes(codec, size)])
            at += rows * packed.shape[1]
        return torch.cat(parts)

    def padded(self, raw: Tensor, codec: int) -> Tensor:
        """The opposite of `trimmed`. Raises SymbolError for bits behind a tile's last symbol."""
        width = self.block * BITS[codec] // 8
        if self.even:
            return raw.view(-1, width)
        packed = torch.zeros(sum(self.rows) * width, dtype=torch.uint8, device=raw.device)
        at = start = 0
        for size, rows in zip(self.sizes, self.rows, strict=True):
            length, used = symbol_bytes(codec, size), size * BITS[codec] % 8
            packed[at : at + length] = raw[start : start + length]
            if used and int(raw[start + length - 1]) >> used:
                raise SymbolError("bits behind a tile's last symbol")
            at += rows * width
            start += length
        return packed.view(-1, width)


def chunks(grid: Tensor) -> Iterator[slice]:
    """Rows to work on at a time: few on a CPU, all elsewhere."""
    rows = max(1, CHUNK // grid.shape[1]) if grid.device.type == "cpu" else len(grid)
    for at in range(0, len(grid), max(1, rows)):
        yield slice(at, min(at + rows, len(grid)))
