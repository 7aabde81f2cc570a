"""A delta's values, tile by tile: of those that are mostly 0, only the others are kept.

A late phase's deltas say one value in twenty. Summing, comparing and applying them costs time in
proportion to what they say, not to the group: a replica makes every round of its groups.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from synapsed.computeworker import codecs


class Entries(NamedTuple):
    """What of one tile is not 0, or was said although it is."""

    places: Tensor
    """Rising, each once; int64."""
    values: Tensor
    """fp32."""


class Decoded:
    """One delta. All its checks are behind it."""

    def __init__(
        self, sizes: Sequence[int], tiles: list[Tensor] | None, entries: list[Entries]
    ) -> None:
        """`tiles`, or else the `entries` of each."""
        self.sizes = list(sizes)
        self._tiles = tiles
        self._entries = entries

    @classmethod
    def of(cls, tiles: Sequence[Tensor]) -> "Decoded":
        """Values that are there already."""
        return cls([tile.numel() for tile in tiles], list(tiles), [])

    @classmethod
    def read(
        cls, data: bytes | memoryview, sizes: Sequence[int], device: str | torch.device = "cpu"
    ) -> "Decoded":
        """A delta's bytes. Raises DeltaError."""
        found = codecs.decode_sparse(data, sizes, device)
        if found is None:
            return cls(sizes, codecs.decode(data, sizes, device), [])
        ends = list(accumulate(sizes))
        marks = torch.tensor(ends, device=found[0].device)
        cuts = [0, *torch.searchsorted(found[0], marks).tolist()]
        entries = [
            Entries(
                found[0][cuts[at] : cuts[at + 1]] - (end - size), found[1][cuts[at] : cuts[at + 1]]
            )
            for at, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]
        return cls(sizes, None, entries)

    def entries(self, at: int) -> Entries | None:
        """Of a tile; None where its values stand one by one."""
        return None if self._tiles is not None else self._entries[at]

    @property
    def device(self) -> torch.device:
        """Where its values are."""
        return self._tiles[0].device if self._tiles else self._entries[0].values.device

    def tile(self, at: int) -> Tensor:
        """All values of a tile, fp32."""
        if self._tiles is not None:
            return self._tiles[at]
        places, values = self._entries[at]
        return torch.zeros(self.sizes[at], device=values.device).scatter_(0, places, values)

    def largest(self, at: int) -> float:
        """Of a tile's absolute values."""
        found = self._tiles[at] if self._tiles is not None else self._entries[at].values
        if not found.numel():
            return 0.0
        low, high = torch.aminmax(found)
        return max(-float(low), float(high), 0.0)

    def added(self, at: int, base: Tensor) -> Tensor:
        """`base + tile`, value by value."""
        if self._tiles is not None:
            return base + self._tiles[at]
        places, values = self._entries[at]
        # What is not said is +0, whose sum with -0 is +0.
        return (base + 0.0).scatter_(0, places, base.index_select(0, places) + values)


def decoded(one: "Decoded | Sequence[Tensor]") -> Decoded:
    """As one of these."""
    return one if isinstance(one, Decoded) else Decoded.of(one)
