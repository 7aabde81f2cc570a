"""Chunks: the pieces of work that a pull hands out, cut from the leaves of its files.

Every puller of a file cuts it in the same places, whatever it wants of it, so that pullers who
share the work (protocols/transfer/schedule.py) mean the same by a chunk. Sets of leaves within one
chunk are bit masks: bit i is leaf `lo + i`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from protocols.tensors.tensorblock import SUBTILE, Layout

CHUNK_LEAVES = 4
"""Sub-tiles (1 MiB) of a chunk: a 91 MB model then has 90 to share among the pullers of a house,
and one takes 0.1 s at 10 MB/s."""
LARGE_LEAVES = 16
"""The same for large files: 25,000 chunks in 100 GB, so that passing over them stays cheap."""
LARGE_FILE = 4 << 30
"""From this size on (bytes). It depends on the file alone, so all pullers agree on it."""
SMALL_CHUNK_LEAVES = 64
"""Leaves of a chunk of small tensors: 400 norms of 1 KB are not 400 chunks."""

Run = tuple[int, int]


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """The leaves [lo, hi) of one file; `file` counts the pull's files from 0."""

    file: int
    lo: int
    hi: int
    size: int

    @property
    def all(self) -> int:
        """The mask of all its leaves."""
        return (1 << (self.hi - self.lo)) - 1


def cut(file: int, layout: Layout) -> Iterator[Chunk]:
    """The chunks of a file in order: small sections together, large ones in even pieces."""
    step = CHUNK_LEAVES if layout.size < LARGE_FILE else LARGE_LEAVES
    lo, size = 0, 0
    for section in layout.sections:
        small = section.leaves < step
        if size and not (
            small
            and size + section.length <= step * SUBTILE
            and section.end_leaf - lo <= SMALL_CHUNK_LEAVES
        ):
            yield Chunk(file, lo, section.first_leaf, size)
            lo, size = section.first_leaf, 0
        if small:
            size += section.length
            continue
        for first in range(section.first_leaf, section.end_leaf, step):
            end = min(first + step, section.end_leaf)
            start = (first - section.first_leaf) * SUBTILE
            yield Chunk(file, first, end, min(step * SUBTILE, section.length - start))
        lo = section.end_leaf
    if size:
        yield Chunk(file, lo, layout.leaf_count, size)


class Spans:
    """A fixed set of leaves of one file, as sorted runs that do not touch."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        pairs = list(runs)
        self._starts = [lo for lo, _ in pairs]
        self._stops = [hi for _, hi in pairs]

    def __iter__(self) -> Iterator[Run]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        """How many runs."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and (self._starts, self._stops) == (
            other._starts,
            other._stops,
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, never a key

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of [lo, hi) is in the set."""
        at = bisect_right(self._starts, lo) - 1
        return at >= 0 and hi <= self._stops[at]

    def mask(self, chunk: Chunk) -> int:
        """Which leaves of `chunk` are in the set."""
        mask = 0
        first = bisect_right(self._stops, chunk.lo)
        last = bisect_left(self._starts, chunk.hi)
        for at in range(first, last):
            lo = max(self._starts[at], chunk.lo) - chunk.lo
            hi = min(self._stops[at], chunk.hi) - chunk.lo
            mask |= (1 << hi) - (1 << lo)
        return mask


class ChunkMap:
    """The chunks of all files of a pull, numbered through."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.chunks: list[Chunk] = []
        self._first: list[int] = []
        self._lows: list[list[int]] = []
        for file, layout in enumerate(layouts):
            self._first.append(len(self.chunks))
            self.chunks += cut(file, layout)
            self._lows.append([chunk.lo for chunk in self.chunks[self._first[file] :]])

    def of_file(self, file: int) -> range:
        """The numbers of a file's chunks."""
        return range(self._first[file], self._first[file] + len(self._lows[file]))

    def of_leaf(self, file: int, leaf: int) -> int:
        """The number of the chunk that has `leaf` of `file`."""
        return self._first[file] + bisect_right(self._lows[file], leaf) - 1

    def of_run(self, file: int, lo: int, hi: int) -> range:
        """The numbers of the chunks that have leaves of [lo, hi)."""
        return range(self.of_leaf(file, lo), self.of_leaf(file, hi - 1) + 1)

    def whole(self, file: int, lo: int, hi: int) -> range:
        """The numbers of the chunks whose leaves are all in [lo, hi)."""
        touched = self.of_run(file, lo, hi)
        first, last = touched.start, touched.stop
        if self.chunks[first].lo < lo:
            first += 1
        if last > first and self.chunks[last - 1].hi > hi:
            last -= 1
        return range(first, last)
