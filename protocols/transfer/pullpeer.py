"""One peer as a pull's schedule sees it: what it has, what it was asked for, how fast it is."""

import msgspec

from protocols.tensors.blocks import MAX_FETCH_BYTES
from protocols.tensors.chunks import Spans
from protocols.tensors.tensorblock import SUBTILE

RUN_SECONDS = 0.5
"""Of a peer's throughput in one request: a lost one costs half a second, and twice the longest
round trip on Earth fits in it."""
FIRST_RUN_BYTES = 1 << 20
"""Asked of a peer whose throughput nobody knows yet: a chunk."""
DEPTH = 2
"""Requests in flight to a peer, so that it always has the next one; MAX_DEPTH where a run is
capped below RUN_SECONDS by MAX_FETCH_BYTES."""
MAX_DEPTH = 4
RATE_WEIGHT = 0.3
"""Of the newest sample in the moving average of a throughput: three samples make most of it."""
SAMPLE_SECONDS = 0.05
"""The shortest time that a sample spans: shorter ones measure the kernel's buffers."""

TIMEOUT_FACTOR = 16
"""A leaf may take this many times what the peer's throughput promises: as many pullers more."""
MIN_TIMEOUT = 4.0
"""Twice the slowest answer of 100 daemons on two cores."""
MAX_TIMEOUT = 30.0
FIRST_TIMEOUT = 10.0
"""Seconds for the first leaf: below 26 KB/s a peer is no use for tensors."""


class Assignment(msgspec.Struct, eq=False):
    """The leaves [lo, hi) of `file`, asked of `peer`; they arrive in order, `next` is due next.

    `copied`: another peer was asked for the same.
    """

    peer: bytes
    file: int
    lo: int
    hi: int
    size: int
    next: int
    copied: bool = False


class Peer(msgspec.Struct, eq=False):
    """What the schedule knows of one peer."""

    peer: bytes
    local: bool
    rate: float = 0.0
    """Bytes per second, moving average; 0 until the first sample."""
    bytes: int = 0
    leaves: int = 0
    runs: list[Assignment] = []
    idle_since: float | None = None
    complete: dict[int, bool] = {}
    held: dict[int, Spans] = {}
    wants: dict[int, Spans | None] = {}
    """Files that it pulls; None is all of the file."""
    masks: dict[int, int] = {}
    sample_at: float = 0.0
    sample_bytes: int = 0
    busy: float = 0.0
    """Seconds that its samples span: those in which it was asked for something."""
    moved_at: float = 0.0
    """When it was last asked while idle, or sent something."""

    def pace(self, now: float) -> float:
        """Bytes per second that it can be trusted with: its rate, less if it has come to a halt."""
        stalled = SUBTILE / max(now - self.moved_at, 0.001)
        return min(self.rate, stalled) if self.rate else stalled

    def seconds_to(self, run: Assignment, now: float) -> float:
        """When the end of `run`, one of its own, is to be expected."""
        ahead = self.runs[: self.runs.index(run) + 1]
        return sum(bytes_left(run) for run in ahead) / self.pace(now)

    def target(self) -> int:
        """Bytes of a run by its speed, before the end is near."""
        if not self.rate:
            return FIRST_RUN_BYTES
        return max(SUBTILE, min(MAX_FETCH_BYTES, int(self.rate * RUN_SECONDS)))

    def depth(self) -> int:
        """Runs that may be in flight."""
        return max(DEPTH, min(MAX_DEPTH, int(self.rate * RUN_SECONDS) // MAX_FETCH_BYTES))

    def timeout(self) -> float:
        """Seconds within which its next leaf must come."""
        if not self.rate:
            return FIRST_TIMEOUT
        return min(MAX_TIMEOUT, max(MIN_TIMEOUT, TIMEOUT_FACTOR * SUBTILE / self.rate))

    def sampled(self, size: int, now: float) -> None:
        """Fold `size` bytes that arrived now into the throughput."""
        idle = not self.runs
        self.moved_at = now
        self.sample_bytes += size
        span = now - self.sample_at
        if span < SAMPLE_SECONDS and not (idle and span > 0):
            return
        self.busy += span
        sample = self.sample_bytes / span
        self.rate = sample if not self.rate else self.rate + RATE_WEIGHT * (sample - self.rate)
        self.sample_at, self.sample_bytes = now, 0


def bytes_left(run: Assignment) -> int:
    """Bytes of a run that are not here yet, about."""
    return run.size * (run.hi - run.next) // (run.hi - run.lo)
