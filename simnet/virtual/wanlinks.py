"""Links of a wide network in virtual time: what crosses regions, in bytes, and who is connected.

Bytes are those on the wire: a frame with its length, Yamux's header, Noise's tag for each chunk of
64 KiB, and TCP/IP's for each segment. Round trips lie between what one city and two continents
have; each daemon is a little off its region's middle.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simnet.virtual.heap import Heap

LENGTH, YAMUX, NOISE, SEGMENT_HEADERS = 4, 12, 18, 52
"""Bytes: of a frame's length; Yamux's header; Noise's length and tag; TCP with time, IPv4."""
CHUNK, SEGMENT = 65_519, 1_448
INSIDE_MS = 6, 24
"""Round trips within a region,"""
ACROSS_MS = 70, 260
"""and between two."""
UPLINK = 20e6 / 8
"""Bytes a second of a home: blobs leave one after another."""
SMALL = 16 << 10
"""Bytes of a frame that does not wait behind blobs: streams share a connection in turns."""


def on_wire(size: int) -> int:
    """Bytes that a frame of `size` takes."""
    inside = LENGTH + size
    chunks = -(-inside // CHUNK)
    carried = inside + chunks * (YAMUX + NOISE)
    return carried + -(-carried // SEGMENT) * SEGMENT_HEADERS


@dataclass
class Count:
    """What went over wide links, by what it was."""

    bytes: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    """Bytes that stayed within a region."""

    @property
    def total(self) -> int:
        """Bytes across."""
        return sum(self.bytes.values())


class Links:
    """Between `places`: the region of each daemon."""

    def __init__(self, heap: Heap, places: list[int], rng: Random) -> None:
        self._heap = heap
        self.places = places
        self.count = Count()
        self.pairs: Counter[tuple[int, int]] = Counter()
        """Frames between two daemons, the lower number first."""
        regions = max(places) + 1
        self._between = {
            (low, high): rng.uniform(*ACROSS_MS)
            for low in range(regions)
            for high in range(low + 1, regions)
        }
        self._within = [rng.uniform(*INSIDE_MS) for _ in range(regions)]
        self._off = [rng.uniform(0.5, 4.0) for _ in places]
        self._free_at = [0.0] * len(places)
        self.cut: set[int] = set()
        """Daemons that nothing reaches, and that reach nobody."""
        self.extra_ms: dict[tuple[int, int], float] = {}
        """Injected delay between two daemons, in ms of the round trip."""

    def forget(self) -> None:
        """Count from here."""
        self.count = Count()
        self.pairs.clear()

    @property
    def wide_pairs(self) -> int:
        """Pairs of daemons in different regions that sent each other anything."""
        return sum(self.crosses(*pair) for pair in self.pairs)

    @property
    def most_of_one(self) -> int:
        """Peers of whoever has most."""
        each = Counter(number for pair in self.pairs for number in pair)
        return max(each.values(), default=0)

    def rtt_ms(self, source: int, target: int) -> float:
        """Of a round trip."""
        if source == target:
            return 0.0
        low, high = sorted((self.places[source], self.places[target]))
        base = self._within[low] if low == high else self._between[low, high]
        extra = self.extra_ms.get((min(source, target), max(source, target)), 0.0)
        return base + self._off[source] + self._off[target] + extra

    def crosses(self, source: int, target: int) -> bool:
        """Whether a link between regions is used."""
        return self.places[source] != self.places[target]

    def send(
        self, source: int, target: int, size: int, kind: str, then: Callable[[], None]
    ) -> None:
        """A frame of `size` bytes; `then` when all of it is there."""
        if source == target:
            self._heap.after(0.0, then)
            return
        wire = on_wire(size)
        to = self.count.bytes if self.crosses(source, target) else self.count.inside
        to[kind] += wire
        if self.crosses(source, target):
            self.count.frames[kind] += 1
        self.pairs[min(source, target), max(source, target)] += 1
        leaves = self._heap.now + wire / UPLINK
        if size > SMALL:  # small frames pass between the chunks of large ones
            leaves = max(self._heap.now, self._free_at[source]) + wire / UPLINK
            self._free_at[source] = leaves
        arrives = leaves + self.rtt_ms(source, target) / 2000
        if not self.cut & {source, target}:
            self._heap.at(arrives, then)
