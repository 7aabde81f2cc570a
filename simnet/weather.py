"""What befalls the links of a world: a pure table that the proxy asks at every chunk.

A link is directed, (sender, receiver) by daemon number, so that the two ways of a connection
may differ. Numbers are seconds and bytes a second; 0 means none.
"""

import enum
import random
from collections import Counter

import msgspec

Node = int | None
"""A daemon's number; None is a dialler that is none of ours."""

Link = tuple[Node, Node]

RETRANSMISSION = 0.2
"""Seconds that a lost segment costs the bytes behind it: Linux's least retransmission time-out.
A proxy of a byte stream cannot lose bytes; TCP shows loss to its user as this pause."""

BURST = 0.05
"""Seconds of its rate that a link passes at once: small enough that throughput over a tenth of a
second is the rate, large enough that timers do not bound it."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One directed link's weather."""

    delay: float = 0.0  # one way
    jitter: float = 0.0  # added to the delay, uniform from 0; order is kept
    rate: float = 0.0
    loss: float = 0.0  # share of chunks that come a retransmission late
    reset_every: float = 0.0  # mean seconds between resets of a connection
    stall: bool = False  # bytes stop, connections stay open


class Cut(enum.Enum):
    """How a partition shows itself."""

    STALL = "stall"  # as a dead router: bytes and new connections hang
    RESET = "reset"  # as a firewall: connections are reset, new ones refused


class Bucket:
    """A token bucket in bytes that may go into debt: `take` answers how long to wait."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._free_at = now

    def take(self, count: int, now: float) -> float:
        """Seconds to wait before (or after) `count` bytes so that the rate holds."""
        self._free_at = max(self._free_at, now - BURST) + count / self.rate
        return max(0.0, self._free_at - now)


class Weather:
    """The shapes of all links, partitions, and the counts of what was done."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a seed is a reproduction
        self.default = Shape()
        self.moved: Counter[Link] = Counter()  # bytes that reached the receiver
        self.faults: Counter[str] = Counter()  # what was done, by name
        self._links: dict[Link, Shape] = {}
        self._rates: dict[tuple[str, Node], float] = {}
        self._buckets: dict[object, Bucket] = {}
        self._side: dict[int, int] = {}
        self._cut = Cut.STALL

    def shape(self, link: Link) -> Shape:
        """The weather on `link` now."""
        return self._links.get(link, self.default)

    def set_link(self, link: Link, shape: Shape) -> None:
        """Give one directed link weather of its own."""
        self._links[link] = shape
        self._buckets.pop(link, None)

    def set_default(self, shape: Shape) -> None:
        """The weather of every link that has none of its own."""
        self.default = shape
        self._buckets.clear()

    def set_uplink(self, node: int, rate: float) -> None:
        """Bytes a second that `node` sends over all its links together; 0 lifts it."""
        self._rates["up", node] = rate
        self._buckets.pop(("up", node), None)

    def set_downlink(self, node: int, rate: float) -> None:
        """Bytes a second that `node` receives over all its links together; 0 lifts it."""
        self._rates["down", node] = rate
        self._buckets.pop(("down", node), None)

    def partition(self, groups: list[list[int]], cut: Cut) -> None:
        """Nothing passes between groups; who stands in no group stands in a group of its own."""
        self._side = {node: side for side, group in enumerate(groups) for node in group}
        self._cut = cut

    def heal(self) -> None:
        """End the partition."""
        self._side = {}

    def clear(self) -> None:
        """Fair weather everywhere, and no partition."""
        self.heal()
        self._links.clear()
        self._rates.clear()
        self.set_default(Shape())

    def cut(self, link: Link) -> Cut | None:
        """How the partition cuts `link`, or None where it does not."""
        if not self._side:
            return None
        one, other = (self._side.get(node, -1) if node is not None else -1 for node in link)
        return self._cut if one != other else None

    def stalled(self, link: Link) -> bool:
        """Whether bytes on `link` wait."""
        return self.cut(link) is not None or self.shape(link).stall

    def chunk(self, link: Link, largest: int) -> int:
        """Bytes to read at once, so that a slow link runs smoothly: a fiftieth of a second."""
        rates = [rate for _, rate in self._rates_of(link)]
        return min(largest, max(1024, int(min(rates) / 50))) if rates else largest

    def wait_for(self, link: Link, count: int, now: float) -> float:
        """Seconds that `count` bytes on `link` must wait for the rates of link and ends."""
        wait = 0.0
        for key, rate in self._rates_of(link):
            bucket = self._buckets.get(key)
            if bucket is None or bucket.rate != rate:
                bucket = self._buckets[key] = Bucket(rate, now)
            wait = max(wait, bucket.take(count, now))
        return wait

    def lateness(self, link: Link) -> float:
        """Seconds of delay for the next chunk on `link`: delay, jitter and loss together."""
        shape = self.shape(link)
        late = shape.delay
        if shape.jitter:
            late += self.random.uniform(0.0, shape.jitter)
        if shape.loss and self.random.random() < shape.loss:
            late += max(RETRANSMISSION, 2 * shape.delay)
            self.faults["loss"] += 1
        return late

    def _rates_of(self, link: Link) -> list[tuple[object, float]]:
        sender, receiver = link
        stated: list[tuple[object, float]] = [
            (("up", sender), self._rates.get(("up", sender), 0.0)),
            (("down", receiver), self._rates.get(("down", receiver), 0.0)),
            (link, self.shape(link).rate),
        ]
        return [(key, rate) for key, rate in stated if rate]
