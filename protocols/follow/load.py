"""What a follower keeps on disk, and reading it again: nothing of it is believed unproven.

    g           the chain hash of the genesis entry
    e INDEX     an entry's chain hash and bytes
    l EPOCH     the end of an epoch: its link and its last entry's bytes
    p INDEX     a proof of the entry at INDEX, now and then: what lies between is read in one go
    h0, h1      the newest two proofs in turn: one torn sector costs one batch
    s INDEX     the state at a checkpoint entry
    b           how far entries were pruned (follow/prune.py)
    f           two certificates that contradict each other

Every record is guarded (records.py). A record that is damaged or missing below the newest proof
is a gap: it is named, and fetched again from peers.
"""

from typing import Annotated, Protocol

import msgspec

from protocols.codec import Message, decode, encode
from protocols.errors import LimitError, MalformedError
from protocols.follow.log import TABLE, entry_key, read_entry
from protocols.follow.messages import MAX_COUNT
from protocols.follow.snapshot import Checkpoint, unpack_checkpoint
from protocols.ledger.chain import Index
from protocols.ledger.proof import Link, Proof
from protocols.packing import cut, pack, unpack
from protocols.records import DamagedRecordError, guarded, unguarded

GENESIS_KEY = b"g"
FORK_KEY = b"f"
PRUNED_KEY = b"b"
HEAD_KEYS = (b"h0", b"h1")
POINT_EVERY = 4096
"""Entries between two proofs that are kept: what a gap, or an edited record, makes us read and
check again at most."""
MAX_PROOF = 512 << 10
"""Bytes of a proof's record."""
MAX_LINK = 16 << 10
"""Bytes of a link without its payload."""


class Reader(Protocol):
    """The table, as far as it was saved."""

    def get(self, key: bytes, /) -> bytes | None:
        """The record under a key."""

    def items(self, prefix: bytes, /) -> list[tuple[bytes, bytes]]:
        """All records whose keys begin so, in the order of their keys."""


class Nothing:
    """A table that is empty."""

    def get(self, key: bytes, /) -> bytes | None:
        """Nothing."""
        del key
        return None

    def items(self, prefix: bytes, /) -> list[tuple[bytes, bytes]]:
        """Nothing."""
        del prefix
        return []


class Point(Message, frozen=True, array_like=True):
    """A proof on disk: the entry at `index` is ratified."""

    index: Index
    proof: Proof


class _LinkRecord(Message, frozen=True, array_like=True):
    link: Link
    length: Annotated[int, msgspec.Meta(ge=0)]


def link_key(epoch: int) -> bytes:
    """Of the record of an epoch's end."""
    return b"l" + epoch.to_bytes(8, "big")


def point_key(index: int) -> bytes:
    """Of the record of a proof that is kept."""
    return b"p" + index.to_bytes(8, "big")


def point_record(key: bytes, index: int, proof: Proof) -> bytes:
    """The record of a proof."""
    return guarded(TABLE, key, encode(Point(index=index, proof=proof)))


def link_record(link: Link, payload: bytes) -> bytes:
    """The record of an epoch's end."""
    value = pack(_LinkRecord(link=link, length=len(payload)), (payload,))
    return guarded(TABLE, link_key(link.header.epoch), value)


def read_link(key: bytes, record: bytes) -> tuple[Link, bytes]:
    """The end of an epoch. Raises MalformedError, DamagedRecordError."""
    found, raw = unpack(unguarded(TABLE, key, record), _LinkRecord, MAX_LINK)
    (payload,) = cut(raw, (found.length,))
    return found.link, payload


class Saved:
    """The disk's part of the ledger while it is read again, from the lowest entry up."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._suspect: set[int] = set()
        self.damaged: list[str] = []
        """What was found damaged and not told yet."""
        self.points: list[Point] = []
        """By rising index."""
        self.kept: list[int] = []
        """Of those that were kept every so often."""
        points = dict(self._ends())
        for prefix in (b"p", b"h"):
            for key, record in read.items(prefix):
                if (point := self._point(key, record)) is not None:
                    points[point.index] = point
                    if prefix == b"p":
                        self.kept.append(point.index)
        self.points = [points[index] for index in sorted(points)]
        self.upto = self.points[-1].index if self.points else 0
        """The newest entry of which the disk holds a proof."""

    def _ends(self) -> list[tuple[int, Point]]:
        found = []
        for key, record in self._read.items(b"l"):
            try:
                link, _ = read_link(key, record)
            except (MalformedError, LimitError):
                self.damaged.append(f"the end of epoch {int.from_bytes(key[1:], 'big')}")
            else:
                index = link.header.index
                found.append((index, Point(index=index, proof=Proof(link.certificate, []))))
        return found

    def _point(self, key: bytes, record: bytes) -> Point | None:
        try:
            return decode(unguarded(TABLE, key, record), Point, MAX_PROOF)
        except (MalformedError, LimitError):
            self.damaged.append(f"the proof {key.hex()}")
            return None

    def links(self) -> list[tuple[Link, bytes]]:
        """The ends of epochs, as far as they are there without a gap."""
        found: list[tuple[Link, bytes]] = []
        for key, record in self._read.items(b"l"):
            if key != link_key(len(found) + 1):
                break
            try:
                found.append(read_link(key, record))
            except (MalformedError, LimitError):
                break
        return found

    def checkpoint(self) -> Checkpoint | None:
        """The newest state whose record is whole."""
        for key, record in reversed(self._read.items(b"s")):
            try:
                return unpack_checkpoint(unguarded(TABLE, key, record))
            except (MalformedError, LimitError):
                self.damaged.append(f"the state at checkpoint {int.from_bytes(key[1:], 'big')}")
        return None

    def next_point(self, start: int) -> Point | None:
        """The first proof at or above an index."""
        return next((point for point in self.points if point.index >= start), None)

    def refuse(self, point: Point, start: int, *, false: bool) -> None:
        """A proof and the entries from `start` to it do not fit, or the proof is `false`."""
        self.points.remove(point)
        if false:
            self.damaged.append(f"the proof of entry {point.index}: it is none")
            self.upto = self.points[-1].index if self.points else 0
        else:
            self.suspect(start, point.index + 1)

    def suspect(self, start: int, stop: int) -> None:
        """The entries [start, stop) are whole, and not what was ratified."""
        self._suspect.update(range(start, stop))
        self.damaged.append(f"entries {start} to {stop - 1}: they are not what was ratified")

    def payload(self, index: int) -> bytes | None:
        """An entry's bytes; None where they are missing, damaged or not believed."""
        if index in self._suspect:
            return None
        key = entry_key(index)
        record = self._read.get(key)
        if record is None:
            return None
        try:
            return read_entry(key, record)[1]
        except DamagedRecordError:
            return None

    def run(self, start: int, stop: int) -> list[bytes]:
        """The entries from `start` on that are whole, at most up to `stop`."""
        payloads: list[bytes] = []
        for index in range(start, stop):
            payload = self.payload(index)
            if payload is None:
                break
            payloads.append(payload)
        return payloads

    def gap_end(self, start: int) -> int:
        """The index after a gap that begins at `start`: where the disk goes on."""
        stop = min(self.upto, start + MAX_COUNT) + 1
        return next((at for at in range(start, stop) if self.payload(at) is not None), stop)
