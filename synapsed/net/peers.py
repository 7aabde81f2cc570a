"""The peer book: what we remember of every peer, across reconnects and restarts.

It folds what happens (`protocols.gossip.peerscore`) into one record a peer and keeps the records in
a table. It decides whom to dial next, whom to keep when there is no room, and who is banned.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from protocols.errors import MalformedError
from protocols.gossip import peerscore
from protocols.gossip.peerscore import Fault, PeerRecord, Row
from protocols.peerid import public_key_of
from synapsed.net.addresses import parse
from synapsed.net.errors import AddressError

log = logging.getLogger(__name__)

MAX_REMEMBERED = 2000
"""Peers in the book: 1 MB on disk; a network of thousands is found again from a few of them."""

_EMPTY = PeerRecord()


class Table(Protocol):
    """Where the records live: a table of the store."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, if there is one."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set it."""

    def delete(self, key: bytes) -> None:
        """Forget it."""

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """All of them."""


class MemoryTable(dict[bytes, bytes]):
    """A table that forgets: for tools and tests that need no memory."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set it."""
        self[key] = value

    def delete(self, key: bytes) -> None:
        """Forget it."""
        self.pop(key, None)


FAVOUR = 1e7
"""Added to a favourite's worth: more than any two scores are apart."""


class Score(msgspec.Struct, frozen=True, gc=False):
    """What the slot `peer_scoring` said of a peer, in points."""

    keep: float
    gossip: float


class Service(msgspec.Struct):
    """What a peer did for us since the start: counts that only rise, and fading ones."""

    sent: int = 0
    """Bytes of verified content."""
    delivered: int = 0
    """Messages that it was the first to bring."""
    first: float = 0.0
    """The same, fading."""
    duplicates: float = 0.0
    """Messages that others had brought before, fading."""


class PeerBook:
    """All the peers we know of. Keys are peer ids (bytes); times are wall-clock seconds."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock
        self._records: dict[bytes, PeerRecord] = {}
        self._dirty: set[bytes] = set()
        self._scores: dict[bytes, Score] = {}
        self.service: dict[bytes, Service] = {}
        """Of those who did something, since the start."""
        self.favourites: frozenset[bytes] = frozenset()
        """Peers for whom there is always room, unless they are banned: a council's members."""
        self._load()

    def _load(self) -> None:
        for key, value in list(self._table.items()):
            try:
                public_key_of(key)
                self._records[key] = msgspec.msgpack.decode(value, type=PeerRecord)
            except (MalformedError, msgspec.DecodeError):
                # Opinions, not truth: what cannot be read is formed anew.
                log.warning("forgetting an unreadable record of the peer book")
                self._table.delete(key)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._records

    def record(self, peer: bytes) -> PeerRecord:
        """What we know of `peer`; an empty record if nothing."""
        return self._records.get(peer, _EMPTY)

    def worth(self, peer: bytes) -> float:
        """How much we want to keep it: higher is better, a stranger has 0."""
        favour = FAVOUR if peer in self.favourites else 0.0
        return self._worth(peer, self.record(peer), self._clock()) + favour

    def _worth(self, peer: bytes, record: PeerRecord, now: float) -> float:
        """As the last round scored it; by the reference who came since."""
        score = self._scores.get(peer)
        return peerscore.worth(record, now) if score is None else score.keep

    def gossip_worth(self, peer: bytes) -> float:
        """How much we want it in gossip's mesh: below 0, rather anybody else."""
        score = self._scores.get(peer)
        return 0.0 if score is None else score.gossip

    # -- scores

    def rows(self) -> dict[bytes, Row]:
        """Everybody, as the slot `peer_scoring` has it."""
        now = self._clock()
        return {peer: peerscore.row(record, now) for peer, record in self._records.items()}

    def scored(self, scores: dict[bytes, Score]) -> None:
        """A round has scored everybody."""
        self._scores = scores

    def brought(self, peer: bytes, *, first: bool) -> None:
        """It brought a message: as the first, or one that we had."""
        its = self._served(peer)
        if first:
            its.delivered += 1
            its.first += 1.0
        else:
            its.duplicates += 1.0

    def _served(self, peer: bytes) -> Service:
        its = self.service.get(peer)
        if its is None:
            its = self.service[peer] = Service()
        return its

    def fade(self, keep: float) -> None:
        """Let `keep` of the fading counts remain, and forget who is out of the book."""
        for peer, its in list(self.service.items()):
            its.first *= keep
            its.duplicates *= keep
            if peer not in self._records:
                del self.service[peer]

    def banned(self, peer: bytes) -> bool:
        """Whether it is neither dialled nor let in just now."""
        return peerscore.banned(self.record(peer), self._clock())

    def bans(self) -> dict[bytes, float]:
        """Who is banned just now, and until when."""
        now = self._clock()
        return {
            peer: record.banned_until
            for peer, record in self._records.items()
            if peerscore.banned(record, now)
        }

    # -- what happened

    def learned(self, peer: bytes, addrs: Iterable[str], source: str) -> None:
        """Somebody says that `peer` is at `addrs`; what is no peer or no address is passed over."""
        try:
            public_key_of(peer)
        except MalformedError:
            return
        good = []
        for text in addrs:
            try:
                address = parse(text)
            except AddressError:
                continue
            if address.is_dialable and address.peer in (None, peer):
                good.append(str(address.at(peer)))
        if good:
            kept = tuple(good[: peerscore.MAX_ADDRS])
            self._fold(peer, peerscore.with_addrs(self.record(peer), kept, source, self._clock()))

    def connected(self, peer: bytes, addr: str | None, source: str) -> None:
        """It is connected; `addr` is where our dial found it, None if it dialled us."""
        now = self._clock()
        self._fold(peer, peerscore.with_connection(self.record(peer), addr, source, now))

    def dial_failed(self, peer: bytes) -> None:
        """A dial to it failed."""
        self._fold(peer, peerscore.with_failed_dial(self.record(peer), self._clock()))

    def seen(self, peer: bytes) -> None:
        """It was alive just now."""
        self._fold(peer, peerscore.with_seen(self.record(peer), self._clock()))

    def round_trip(self, peer: bytes, seconds: float) -> None:
        """A ping took `seconds`."""
        self._fold(peer, peerscore.with_rtt(self.record(peer), seconds, self._clock()))

    def transferred(self, peer: bytes, count: int, seconds: float) -> None:
        """It sent us `count` verified bytes in `seconds`."""
        now = self._clock()
        self._served(peer).sent += count
        self._fold(peer, peerscore.with_transfer(self.record(peer), count, seconds, now))

    def fault(self, peer: bytes, fault: Fault) -> bool:
        """It did something wrong. True if it is banned now."""
        now = self._clock()
        self._fold(peer, peerscore.with_fault(self.record(peer), fault, now))
        return self.banned(peer)

    def _fold(self, peer: bytes, record: PeerRecord) -> None:
        if record is self._records.get(peer):
            return
        self._records[peer] = record
        self._dirty.add(peer)
        if len(self._records) > MAX_REMEMBERED:
            self._forget_least(besides=peer)

    def _forget_least(self, besides: bytes) -> None:
        now = self._clock()
        # An attacker may invent identities: of the unknown, those go first that nobody has met.
        least = min(
            (peer for peer in self._records if peer != besides),
            key=lambda peer: (
                peerscore.banned(self._records[peer], now),
                self._records[peer].last_seen,
                self._worth(peer, self._records[peer], now),
            ),
        )
        del self._records[least]
        self._scores.pop(least, None)
        self._dirty.add(least)

    # -- what to do

    def to_dial(self, besides: Iterable[bytes], count: int) -> list[tuple[bytes, tuple[str, ...]]]:
        """Up to `count` peers worth a dial now, best first, with their addresses.

        Those in `besides` (connected, or ourselves) are left out, as are the banned and those
        whose last dial failed too recently.
        """
        now = self._clock()
        out = set(besides)
        ready = [
            (peer, record)
            for peer, record in self._records.items()
            if peer not in out and record.addrs and peerscore.dial_again_at(record) <= now
        ]
        ready.sort(
            key=lambda item: (
                item[1].failed_dials,
                -self._worth(item[0], item[1], now),
                -item[1].last_seen,
            )
        )
        return [(peer, record.addrs) for peer, record in ready[:count]]

    def flush(self) -> None:
        """Write what changed to the table."""
        dirty, self._dirty = self._dirty, set()
        for peer in sorted(dirty):
            record = self._records.get(peer)
            if record is None:
                self._table.delete(peer)
            else:
                self._table.put(peer, msgspec.msgpack.encode(record))
