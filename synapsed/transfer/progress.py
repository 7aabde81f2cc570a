"""What a pull tells of itself: while it runs, and at its end."""

from collections.abc import Collection, Mapping

import msgspec
import trio

from protocols.transfer.schedule import Schedule
from synapsed.store import Runs
from synapsed.transfer.plan import Plan


class TileProgress(msgspec.Struct, frozen=True):
    """`held` of a tile's `leaves` sub-tiles are here. `tile` is numbered in the file `root`."""

    root: bytes
    tile: int
    held: int
    leaves: int


class PullProgress(msgspec.Struct, frozen=True):
    """How far a pull has come: bytes and tiles of what was asked for, whenever they came here."""

    done: int
    total: int
    tiles_done: int
    tiles_total: int
    changed: tuple[TileProgress, ...]
    """The tiles that moved since the last report."""
    rates: dict[bytes, float]
    """Bytes per second of each peer that is asked, 0 where nothing came yet."""


class PeerShare(msgspec.Struct):
    """What one peer gave: verified bytes, sub-tiles, and what it did wrong."""

    peer: bytes
    bytes: int = 0
    leaves: int = 0
    seconds: float = 0.0
    """Between the first and the last of them."""
    faults: list[str] = []


class PullReport(msgspec.Struct, frozen=True):
    """A finished pull of `total` bytes, of which `fetched` were not here before.

    `copies` are bytes that came twice: what was overdue at one peer and asked of another.
    """

    cid: bytes
    total: int
    fetched: int
    copies: int
    seconds: float
    peers: tuple[PeerShare, ...]


class Meter:
    """Counts one pull."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._done = plan.total - sum(want.missing_bytes for want in plan.wants)
        self._fetched = self._copies = 0
        self._shares: dict[bytes, PeerShare] = {}
        self._since: dict[bytes, float] = {}
        self._lacking: dict[tuple[int, int], int] = {}
        self._touched: set[tuple[int, int]] = set()
        self._tiles = 0
        for file, want in enumerate(plan.wants):
            layout = want.held.layout
            wanted = Runs(layout.tiles_of_leaves(lo, hi) for lo, hi in want.runs)
            self._tiles += wanted.count
            for lo, hi in want.missing:
                for tile in range(*layout.tiles_of_leaves(lo, hi)):
                    first, end = layout.leaves_of_tile(tile)
                    count = min(end, hi) - max(first, lo)
                    self._lacking[file, tile] = self._lacking.get((file, tile), 0) + count

    @property
    def fetched(self) -> int:
        """Bytes of leaves that were lacking and came from peers."""
        return self._fetched

    def count(self, peer: bytes, file: int, leaf: int, size: int, *, new: bool) -> None:
        """A verified leaf of `size` bytes came from `peer`; `new` where it was lacking."""
        share = self._shares.get(peer)
        now = trio.current_time()
        if share is None:
            share = self._shares[peer] = PeerShare(peer)
            self._since[peer] = now
        share.bytes += size
        share.leaves += 1
        share.seconds = now - self._since[peer]
        if not new:
            self._copies += size
            return
        self._fetched += size
        self.found(file, leaf, size)

    def found(self, file: int, leaf: int, size: int) -> None:
        """A leaf that was lacking is here."""
        self._done += size
        tile = file, self._plan.wants[file].held.layout.tile_of_leaf(leaf)
        self._touched.add(tile)
        self._lacking[tile] -= 1
        if not self._lacking[tile]:
            del self._lacking[tile]

    def progress(self, peers: Collection[bytes], schedule: Schedule) -> PullProgress:
        """Where it stands; what changed is told once."""
        changed, self._touched = sorted(self._touched), set()
        return PullProgress(
            done=self._done,
            total=self._plan.total,
            tiles_done=self._tiles - len(self._lacking),
            tiles_total=self._tiles,
            changed=tuple(self._tile(*place) for place in changed),
            rates={
                peer: schedule.peers[peer].rate if peer in schedule.peers else 0.0 for peer in peers
            },
        )

    def _tile(self, file: int, tile: int) -> TileProgress:
        held = self._plan.wants[file].held
        lo, hi = held.layout.leaves_of_tile(tile)
        lacking = sum(stop - start for start, stop in held.missing(lo, hi))
        return TileProgress(held.root, tile, hi - lo - lacking, hi - lo)

    def report(self, cid: bytes, seconds: float, faults: Mapping[bytes, list[str]]) -> PullReport:
        """The end."""
        for peer, its in faults.items():
            self._shares.setdefault(peer, PeerShare(peer)).faults = its
        shares = sorted(self._shares.values(), key=lambda share: (-share.bytes, share.peer))
        return PullReport(
            cid, self._plan.total, self._fetched, self._copies, seconds, tuple(shares)
        )
