"""One model as the replication machine sees it, and counting the copies of its tiles."""

import math
from collections.abc import Collection, Iterable
from itertools import accumulate

import msgspec

from protocols.gossip.shelf import Holding
from protocols.transfer.audit import Audit

GROUP_TILES = 64
"""Tiles with one ranking: at most 256 MiB, half a minute at 10 MB/s."""
TILE_BYTES = 4 << 20


class Attempts(msgspec.Struct):
    """Repairs of a group so far: when we may try again, and failures in a row."""

    again_at: float
    failures: int = 0


class Model:
    """What we know of one model. Times are seconds of the machine's clock."""

    def __init__(self, cid: bytes, audit: Audit, draw: int) -> None:
        self.cid = cid
        self.draw = draw  # of those that are not ours, the least are watched
        self.tiles = 0  # 0 until its manifest is known
        self.size = 0
        self.learning = False  # its manifest is being asked for
        self.asked_at = -math.inf  # for that, last
        self.asked = 0  # how often, in vain
        self.holdings: dict[bytes, Holding] = {}
        self.progress: dict[bytes, float] = {}  # when a holder's tiles last changed
        self.left: set[bytes] = set()  # held some, and took it back: their owners removed it
        self.audit = audit
        self.counts: list[int] = []  # copies of each tile that count
        self.short_since: dict[int, float] = {}  # groups with too few
        self.weights: dict[bytes, int] = {}  # of the rankings, while it is short
        self.attempts: dict[int, Attempts] = {}
        self.repairing: set[int] = set()
        self.recount_at = 0.0
        self.was_short = False

    def heard(self, holdings: Collection[Holding], now: float) -> None:
        """Who announces which tiles of it now."""
        for holding in holdings:
            if self.holdings.get(holding.peer) != holding:
                self.progress[holding.peer] = now
                self.audit.announced_anew(holding.peer)
        before, self.holdings = self.holdings, {holding.peer: holding for holding in holdings}
        self.left = (self.left | before.keys()) - self.holdings.keys()
        self.progress = {peer: at for peer, at in self.progress.items() if peer in self.holdings}
        self.recount_at = 0.0

    def group_tiles(self, group: int) -> range:
        """The tiles of a group."""
        return range(group * GROUP_TILES, min((group + 1) * GROUP_TILES, self.tiles))

    def group_bytes(self, group: int) -> int:
        """Bytes of a group, about: tiles are as large as the model's average."""
        return min(
            self.size * len(self.group_tiles(group)) // self.tiles + 1, GROUP_TILES * TILE_BYTES
        )


def count_copies(holdings: Iterable[Holding], tiles: int) -> list[int]:
    """How many of the holdings have each tile."""
    changes = [0] * (tiles + 1)
    for holding in holdings:
        for start, count in holding.tiles:
            if start < tiles:
                changes[start] += 1
                changes[min(start + count, tiles)] -= 1
    return list(accumulate(changes[:tiles]))


def overlap(holding: Holding, tiles: range) -> int:
    """How many of `tiles` (without a step) a holder has."""
    return sum(
        max(0, min(start + count, tiles.stop) - max(start, tiles.start))
        for start, count in holding.tiles
    )


def runs_of(tiles: list[int]) -> tuple[tuple[int, int], ...]:
    """Rising tiles as runs (start, count)."""
    runs: list[tuple[int, int]] = []
    for tile in tiles:
        if runs and sum(runs[-1]) == tile:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((tile, 1))
    return tuple(runs)
