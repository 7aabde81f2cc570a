"""The tiles of a model, numbered through its files in the order of its manifest.

This is what shard announcements count in. It takes all layouts, that is, all headers.
"""

from bisect import bisect_right
from collections.abc import Sequence

from protocols.tensors.tensorblock import Layout, LeafRangeError


class ModelTiles:
    """Between (file, leaves) and the numbers of a model's tiles."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        """`layouts` are those of the manifest's files, in its order."""
        self._layouts = layouts
        self._first: list[int] = []
        self.count = 0
        for layout in layouts:
            self._first.append(self.count)
            self.count += layout.tile_count

    def leaves(self, tile: int) -> tuple[int, int, int]:
        """(file, lo, hi): the leaves [lo, hi) that a tile is. Raises LeafRangeError."""
        if not 0 <= tile < self.count:
            raise LeafRangeError(f"tile {tile} of a model with {self.count}")
        # Of files that share a first tile all but the last are empty.
        file = bisect_right(self._first, tile) - 1
        return (file, *self._layouts[file].leaves_of_tile(tile - self._first[file]))

    def whole_in(self, file: int, lo: int, hi: int) -> tuple[int, int]:
        """The tiles [first, end) that lie wholly in the leaves [lo, hi) of a file; or none."""
        layout = self._layouts[file]
        first, end = layout.tiles_of_leaves(lo, hi)
        if layout.leaves_of_tile(first)[0] < lo:
            first += 1
        if end > first and layout.leaves_of_tile(end - 1)[1] > hi:
            end -= 1
        return self._first[file] + first, self._first[file] + max(first, end)
