"""The announcements in force, and every order in which they are asked for.

Only a data structure: what comes onto the shelf and what leaves it is decided in catalog.py.
"""

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable

import msgspec

from protocols.cid import DAG_CBOR, cid_text
from protocols.gossip.announcement import Announcement, Run, ShardBody, kind_of

_CID_PREFIX = bytes((1, DAG_CBOR, 0x12, 0x20))

ENTRY_BYTES = 1536
"""Of memory for an entry without its envelope and runs: objects, and its places in the orders."""
RUN_BYTES = 128
"""Of memory for one run of tiles: a tuple and two integers. On the wire it takes five."""

Key = tuple[bytes, str, bytes]
"""(issuer, kind, subject)."""


class Entry(msgspec.Struct, frozen=True):
    """One announcement in force, or the tombstone of one, and the envelope that proves it."""

    id: bytes
    announcement: Announcement
    envelope: bytes

    @property
    def issuer(self) -> bytes:
        return self.announcement.issuer

    @property
    def kind(self) -> str:
        return kind_of(self.announcement)

    @property
    def subject(self) -> bytes:
        return self.announcement.body.subject

    @property
    def key(self) -> Key:
        return self.issuer, self.kind, self.subject

    @property
    def live(self) -> bool:
        """Whether it offers something, and is not a tombstone."""
        return not self.announcement.withdrawn

    @property
    def cid(self) -> str:
        """Text of the announcement's content id."""
        return cid_text(_CID_PREFIX + self.id)

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes, about."""
        body = self.announcement.body
        runs = len(body.tiles) if isinstance(body, ShardBody) else 0
        return ENTRY_BYTES + len(self.envelope) + RUN_BYTES * runs


class Holding(msgspec.Struct, frozen=True):
    """That `peer` announces these tiles of a model: runs (start, count) in order."""

    peer: bytes
    tiles: tuple[Run, ...]

    def holds(self, tile: int) -> bool:
        """Whether `tile` is one of them."""
        at = bisect_left(self.tiles, (tile + 1, 0)) - 1
        return at >= 0 and tile < self.tiles[at][0] + self.tiles[at][1]


class Shelf:
    """Entries by key, by id (sorted), by subject, by issuer and by deadline."""

    def __init__(self, spared: bytes) -> None:
        """`spared` is the issuer that is never the fullest: ourselves."""
        self._spared = spared
        self._by_key: dict[Key, Entry] = {}
        self._by_id: dict[bytes, Entry] = {}
        self._ids: list[bytes] = []
        self._by_subject: dict[tuple[str, bytes], dict[bytes, Entry]] = {}
        self._by_issuer: dict[bytes, dict[Key, Entry]] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._weights: Counter[bytes] = Counter()
        self._heaviest: list[tuple[int, bytes]] = []  # (-weight, issuer), with stale ones
        self.weight = 0
        """Bytes of memory of all entries, about."""

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> Entry | None:
        return self._by_key.get(key)

    def by_id(self, digest: bytes) -> Entry | None:
        return self._by_id.get(digest)

    @property
    def ids(self) -> list[bytes]:
        """The 32-byte ids of all entries, tombstones too, in order: what is reconciled."""
        return self._ids

    def of_issuer(self, issuer: bytes) -> list[Entry]:
        """Everything of one issuer, tombstones too."""
        return list(self._by_issuer.get(issuer, {}).values())

    def count_of(self, issuer: bytes) -> int:
        return len(self._by_issuer.get(issuer, ()))

    def fullest_issuer(self) -> bytes | None:
        """Whose entries take the most memory, apart from `spared`; of several, any of them."""
        while self._heaviest:
            weight, issuer = self._heaviest[0]
            if -weight == self._weights[issuer]:
                return issuer
            heapq.heappop(self._heaviest)
        return None

    def of_subject(self, kind: str, subject: bytes) -> list[Entry]:
        """Live entries for one subject, by issuer."""
        entries = self._by_subject.get((kind, subject), {})
        return [entries[issuer] for issuer in sorted(entries) if entries[issuer].live]

    def subjects(self, kind: str) -> list[bytes]:
        """What the live entries of one kind are about, in order."""
        return sorted(
            subject
            for (of_kind, subject), entries in self._by_subject.items()
            if of_kind == kind and any(entry.live for entry in entries.values())
        )

    def issuers(self, subject: bytes, kinds: Iterable[str]) -> list[bytes]:
        """Who has a live entry of one of these kinds about `subject`, in order."""
        found = (self.of_subject(kind, subject) for kind in kinds)
        return sorted({entry.issuer for entries in found for entry in entries})

    def counts(self) -> dict[str, int]:
        """Live entries of each kind that there is."""
        return dict(Counter(entry.kind for entry in self._by_key.values() if entry.live))

    def live(self, kinds: Iterable[str]) -> list[Entry]:
        """Live entries of these kinds, by kind, subject and issuer."""
        return [
            entry
            for kind in kinds
            for subject in self.subjects(kind)
            for entry in self.of_subject(kind, subject)
        ]

    def put(self, entry: Entry) -> None:
        """Add an entry, in the place of what its key had."""
        old = self._by_key.get(entry.key)
        if old is not None:
            self._forget_id(old.id)
            self._weigh(old.issuer, -old.weight)
        self._by_key[entry.key] = entry
        self._by_id[entry.id] = entry
        insort(self._ids, entry.id)
        self._by_subject.setdefault((entry.kind, entry.subject), {})[entry.issuer] = entry
        self._by_issuer.setdefault(entry.issuer, {})[entry.key] = entry
        self._push_deadline(entry)
        self._weigh(entry.issuer, entry.weight)

    def drop(self, entry: Entry) -> None:
        """Take an entry off the shelf."""
        del self._by_key[entry.key]
        self._forget_id(entry.id)
        of_subject = self._by_subject[entry.kind, entry.subject]
        del of_subject[entry.issuer]
        if not of_subject:
            del self._by_subject[entry.kind, entry.subject]
        of_issuer = self._by_issuer[entry.issuer]
        del of_issuer[entry.key]
        self._weigh(entry.issuer, -entry.weight)
        if not of_issuer:
            del self._by_issuer[entry.issuer]
            self._weights.pop(entry.issuer, None)

    def expired(self, now_ms: int) -> list[Entry]:
        """Entries whose time is over; they are still on the shelf."""
        gone: list[Entry] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            _, digest = heapq.heappop(self._deadlines)
            if (entry := self._by_id.get(digest)) is not None:
                gone.append(entry)
        return gone

    def _forget_id(self, digest: bytes) -> None:
        del self._by_id[digest]
        del self._ids[bisect_left(self._ids, digest)]

    def _weigh(self, issuer: bytes, change: int) -> None:
        self.weight += change
        if issuer == self._spared:
            return
        self._weights[issuer] += change
        heapq.heappush(self._heaviest, (-self._weights[issuer], issuer))
        if len(self._heaviest) > 2 * len(self._weights) + 64:
            self._heaviest = [(-weight, issuer) for issuer, weight in self._weights.items()]
            heapq.heapify(self._heaviest)

    def _push_deadline(self, entry: Entry) -> None:
        heapq.heappush(self._deadlines, (entry.announcement.expires, entry.id))
        # Deadlines of what was replaced stay behind; renewals would pile them up.
        if len(self._deadlines) > 2 * len(self._by_id) + 64:
            self._deadlines = [
                (kept.announcement.expires, kept.id) for kept in self._by_id.values()
            ]
            heapq.heapify(self._deadlines)


def holding_of(entry: Entry) -> Holding:
    """The tiles that a shard announcement names."""
    body = entry.announcement.body
    return Holding(entry.issuer, body.tiles if isinstance(body, ShardBody) else ())
