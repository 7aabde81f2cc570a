"""What a pull lacks, leaf by leaf, and what of it nobody has been asked for.

By chunk, as bit masks of leaves (protocols/tensors/chunks.py): a pull of 100 GB has 400,000 leaves.
"""

from collections.abc import Iterable, Iterator, Sequence

from protocols.tensors.chunks import ChunkMap, Run, Spans
from protocols.tensors.tensorblock import Layout


class Lacking:
    """The leaves that are not here."""

    def __init__(self, layouts: Sequence[Layout], wanted: Sequence[Sequence[Run]]) -> None:
        """`wanted[i]` are the runs of missing leaves of file i."""
        self.map = ChunkMap(layouts)
        self.left: dict[int, int] = {}
        """By chunk, what is not here."""
        self.left_bytes = 0
        self._layouts = layouts
        for file, runs in enumerate(wanted):
            spans = Spans(runs)
            for lo, hi in runs:
                start, stop = layouts[file].run_span(lo, hi)
                self.left_bytes += stop - start
                for number in self.map.of_run(file, lo, hi):
                    self.left[number] = spans.mask(self.map.chunks[number])
        self.free = dict(self.left)
        """By chunk, what of it was asked of nobody."""
        self.free_bytes = self.left_bytes

    def lacks(self, file: int, leaf: int) -> bool:
        """Whether a leaf is not here."""
        number, bit = self._place(file, leaf)
        return bool(self.left.get(number, 0) & bit)

    def settle(self, file: int, leaf: int) -> bool:
        """A leaf is here now; whether it was not before."""
        number, bit = self._place(file, leaf)
        if not self.left.get(number, 0) & bit:
            return False
        size = self._size(file, leaf)
        self.left_bytes -= size
        if self.free.get(number, 0) & bit:
            self.free[number] &= ~bit
            self.free_bytes -= size
        self.left[number] &= ~bit
        if not self.left[number]:
            del self.left[number]
            self.free.pop(number, None)
        return True

    def take(self, number: int, leaf: int) -> None:
        """A free leaf of a chunk is asked for."""
        chunk = self.map.chunks[number]
        self.free[number] &= ~(1 << (leaf - chunk.lo))
        self.free_bytes -= self._size(chunk.file, leaf)

    def hand_back(self, file: int, leaves: Iterable[int]) -> None:
        """What is lacking of these is asked of nobody any more."""
        for leaf in leaves:
            number, bit = self._place(file, leaf)
            if self.left.get(number, 0) & ~self.free.get(number, 0) & bit:
                self.free[number] = self.free.get(number, 0) | bit
                self.free_bytes += self._size(file, leaf)

    def first(self, limit: int) -> list[tuple[int, Run]]:
        """The first runs (file, [lo, hi)) that are lacking."""
        out: list[tuple[int, Run]] = []
        for number in sorted(self.left)[:limit]:
            chunk = self.map.chunks[number]
            out += [(chunk.file, run) for run in _runs(self.left[number], chunk.lo)]
        return out[:limit]

    def masks_of(self, runs: Iterable[tuple[int, Run]]) -> dict[int, int]:
        """The leaves of runs (file, [lo, hi)), by chunk."""
        masks: dict[int, int] = {}
        for file, (lo, hi) in runs:
            spans = Spans([(lo, hi)])
            for number in self.map.of_run(file, lo, hi):
                masks[number] = masks.get(number, 0) | spans.mask(self.map.chunks[number])
        return masks

    def _place(self, file: int, leaf: int) -> tuple[int, int]:
        number = self.map.of_leaf(file, leaf)
        return number, 1 << (leaf - self.map.chunks[number].lo)

    def _size(self, file: int, leaf: int) -> int:
        start, stop = self._layouts[file].leaf_span(leaf)
        return stop - start


def _runs(mask: int, base: int) -> Iterator[Run]:
    """The runs of ones in `mask`, counted from `base`."""
    at = 0
    while mask >> at:
        if mask >> at & 1:
            lo = at
            while mask >> at & 1:
                at += 1
            yield base + lo, base + at
        else:
            at += 1
