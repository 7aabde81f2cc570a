"""Sets of sub-tiles as runs: sorted, disjoint, never touching ranges [lo, hi)."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Run = tuple[int, int]


class Runs:
    """A set of non-negative integers that come in runs; cheap while there are few runs."""

    __slots__ = ("_starts", "_stops", "count")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.count = 0
        for lo, hi in runs:
            self.add(lo, hi)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        """How many runs; `count` is how many integers."""
        return len(self._starts)

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._stops[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and (
            (self._starts, self._stops) == (other._starts, other._stops)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Runs({list(self)})"

    def copy(self) -> "Runs":
        new = Runs()
        new._starts, new._stops, new.count = self._starts[:], self._stops[:], self.count
        return new

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of [lo, hi) is in the set."""
        at = bisect_right(self._starts, lo) - 1
        return lo >= hi or (at >= 0 and hi <= self._stops[at])

    def within(self, lo: int, hi: int) -> list[Run]:
        """The runs of the set, cut to [lo, hi)."""
        if lo >= hi:
            return []
        first = bisect_right(self._stops, lo)
        last = bisect_left(self._starts, hi)
        return [(max(lo, self._starts[at]), min(hi, self._stops[at])) for at in range(first, last)]

    def missing(self, lo: int, hi: int) -> list[Run]:
        """The runs of [lo, hi) that are not in the set."""
        gaps: list[Run] = []
        at = lo
        for start, stop in self.within(lo, hi):
            if at < start:
                gaps.append((at, start))
            at = stop
        if at < hi:
            gaps.append((at, hi))
        return gaps

    def add(self, lo: int, hi: int) -> int:
        """Add [lo, hi); how many of it were new."""
        if lo >= hi:
            return 0
        new = hi - lo - sum(stop - start for start, stop in self.within(lo, hi))
        first = bisect_left(self._stops, lo)  # touching runs merge
        last = bisect_right(self._starts, hi)
        if first < last:
            lo = min(lo, self._starts[first])
            hi = max(hi, self._stops[last - 1])
        self._starts[first:last] = [lo]
        self._stops[first:last] = [hi]
        self.count += new
        return new

    def remove(self, lo: int, hi: int) -> int:
        """Remove [lo, hi); how many of it were there."""
        cut = self.within(lo, hi)
        if not cut:
            return 0
        first = bisect_right(self._stops, lo)
        last = bisect_left(self._starts, hi)
        left, right = self._starts[first], self._stops[last - 1]
        kept = [(left, lo)] if left < lo else []
        kept += [(hi, right)] if hi < right else []
        self._starts[first:last] = [start for start, _ in kept]
        self._stops[first:last] = [stop for _, stop in kept]
        gone = sum(stop - start for start, stop in cut)
        self.count -= gone
        return gone
