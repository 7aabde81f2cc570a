"""A daemon that is a replica of one tile group, and the ledger and learner that it talks with.

The daemon drives `protocols/learn/replica.py` as the real one does: blobs go to disk before what
refers to them, what is committed is folded, and the fold's snapshot comes back as `Folded`. The
ledger is one node that never fails and tells everybody ticks and epochs over the same bad network;
it is the learner, too, and takes the acknowledgements.
"""

import hashlib
from collections import deque
from collections.abc import Sequence

import msgspec

from protocols.effects import Blame, Emit, Save, Send
from protocols.learn.replica import Replica
from protocols.learn.replica_birth import Birth
from protocols.learn.replica_messages import PROTOCOL as TILE
from protocols.learn.replica_ports import (
    TABLE,
    Blob,
    Committed,
    Declined,
    Established,
    Event,
    Fetch,
    Folded,
    Following,
    GroupId,
    Heard,
    Installed,
    Leading,
    Lost,
    Orphaned,
    Propose,
    Refound,
    Release,
    ReplicaSettings,
    Retired,
    Seats,
    Snapshot,
    Stored,
    Tick,
    Ticked,
    Turned,
)
from protocols.ledger.council import Instant
from simnet.virtual.node import Node

LEDGER, OFFER, ACK, ASK_BLOB, BLOB = "ledger", "offer", "ack", "ask-blob", "blob"
BORN = "born"
BLOBS, SEATS = "blobs", "seats"
"""Tables: files by digest, and the seats of epochs that may have to seal."""
FOLD_EVERY = 7
"""Entries until a snapshot."""
NEEDED = 3
"""A snapshot needs the blobs of so many entries."""
EMPTY = bytes(32)


class LedgerSays(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger's node tells: its head, its tick, and its last epochs, newest first."""

    index: int
    tick_ms: int
    seats: tuple[Seats, ...]


class FoldState(msgspec.Struct, frozen=True, array_like=True):
    """What the entries up to `index` add up to: their hash chain."""

    index: int
    chain: bytes
    blobs: tuple[tuple[Blob, ...], ...]
    """Of the last entries."""


START = FoldState(0, EMPTY, ())


def blob_of(data: bytes) -> Blob:
    """What names some bytes."""
    return Blob(hashlib.sha256(data).digest(), len(data))


class TileDaemon:
    """One life of a daemon."""

    def __init__(
        self,
        node: Node,
        *,
        group: GroupId,
        first: int,
        ledger: bytes,
        settings: ReplicaSettings,
        margin_ms: int,
        refounds: bool = True,
    ) -> None:
        self._node = node
        self._group = group
        self._first = first
        self._ledger = ledger
        self._settings = settings
        self._refounds = refounds
        rows = dict(node.disk.table(TABLE).items())
        self._birth = Birth(rows, margin_ms)
        self._seats = self._remembered()
        self.replica: Replica | None = None
        self.fold = START
        self._ticked: Ticked | None = None
        self._offers = 0
        self._out: list[object] = []
        self._events: deque[Event] = deque()
        self._busy = False

    # -- the node's program -------------------------------------------------------------------

    def start(self, now: Instant) -> Sequence[object]:
        """Come up."""
        self._construct(now)
        return self._taken()

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        """A message."""
        if protocol == LEDGER:
            self._told(msgspec.msgpack.decode(data, type=LedgerSays), now)
        elif protocol == TILE:
            self._event(Heard(peer, data), now)
        elif protocol == OFFER:
            self.offer(data, now)
        elif protocol == ASK_BLOB:
            self._give(peer, data)
        elif protocol == BLOB:
            self._got(data, now)
        return self._taken()

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> Sequence[object]:
        """Nothing is gossiped."""
        del peer, kind, data, now
        return ()

    def linked(self, peer: bytes, up: bool, now: Instant) -> Sequence[object]:
        """That one ended is a hint."""
        if not up:
            self._event(Lost(peer), now)
        return self._taken()

    def alarm(self, now: Instant) -> Sequence[object]:
        """The replica's Tick."""
        self._event(Tick(), now)
        return self._taken()

    def wake_at(self) -> float | None:
        """When the replica wants it."""
        wake = None if self.replica is None else self.replica.next_wake
        return None if wake is None else wake / 1000

    # -- what people do -----------------------------------------------------------------------

    def offer(self, body: bytes, now: Instant) -> None:
        """A learner offers an entry with a blob: to disk, then to the log, if we lead."""
        if self.replica is None or self.replica.leading is None:
            return
        content = b"blob of " + body
        self._out.append(Save(BLOBS, blob_of(content).digest, content))
        self._offers += 1
        self._event(Propose(body, (blob_of(content),), self._offers), now)

    # -- the ledger ---------------------------------------------------------------------------

    def _told(self, said: LedgerSays, now: Instant) -> None:
        if self._ticked is not None and said.index <= self._ticked.index:
            return
        self._ticked = Ticked(said.index, said.tick_ms, now.unix_ms)
        born = self._birth.ticked(self._ticked)
        if born:
            # Synced before anything is done with it, as before any message.
            self._out += [*born, Send(self._ledger, BORN, b"")]
        known = {each.epoch: each for each in self._seats}
        news = [each for each in said.seats if each.epoch not in known]
        if news:
            known.update((each.epoch, each) for each in news)
            self._remember(tuple(known[epoch] for epoch in sorted(known, reverse=True)))
            self._event(Turned(self._seats), now)
        if self.replica is None:
            self._construct(now)
        self._event(self._ticked, now)

    def _remembered(self) -> tuple[Seats, ...]:
        rows = self._node.disk.table(SEATS).items()
        return tuple(msgspec.msgpack.decode(row, type=Seats) for _, row in reversed(rows))

    def _remember(self, seats: tuple[Seats, ...]) -> None:
        gone = {each.epoch for each in self._seats} - {each.epoch for each in seats}
        for epoch in sorted(gone):
            self._out.append(Save(SEATS, epoch.to_bytes(4, "big"), None))
        old, self._seats = set(self._seats), seats
        for each in seats:
            if each not in old:
                row = msgspec.msgpack.encode(each)
                self._out.append(Save(SEATS, each.epoch.to_bytes(4, "big"), row))

    def _construct(self, now: Instant) -> None:
        me = self._node.key.peer
        mine = any(me in each.replicas for each in self._seats)
        if self._birth.index is None or not mine:
            return
        rows = dict(self._node.disk.table(TABLE).items(self._group.key))
        if not rows and me not in self._seats[0].replicas:
            return  # it forgot, or never knew: there is nothing to seal here
        self.replica = Replica(
            settings=self._settings,
            me=me,
            group=self._group,
            seats=self._seats,
            first=self._first,
            born=self._birth.index,
            saved=rows,
            can_lead=True,
        )
        self.fold = START
        self._busy = True
        self._perform(self.replica.start(_ms(now)), now)
        self._busy = False

    # -- blobs --------------------------------------------------------------------------------

    def _give(self, peer: bytes, digest: bytes) -> None:
        content = self._node.disk.table(BLOBS).get(digest)
        if content is not None:
            self._out.append(Send(peer, BLOB, content))

    def _got(self, content: bytes, now: Instant) -> None:
        digest = blob_of(content).digest
        self._out.append(Save(BLOBS, digest, content))
        self._event(Stored((digest,)), now)

    # -- the replica --------------------------------------------------------------------------

    def _event(self, event: Event, now: Instant) -> None:
        """Now, or behind what is being performed: effects leave in the order in which they were
        decided, or an older state row would follow a newer one."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events:
            each = self._events.popleft()
            if self.replica is not None:
                self._perform(self.replica.handle(each, _ms(now)), now)
        self._busy = False

    def _perform(self, effects: Sequence[object], now: Instant) -> None:
        for effect in effects:
            match effect:
                case Save() | Send() | Emit() | Blame() | Leading() | Following():
                    self._out.append(effect)
                case Fetch(peer, blobs):
                    self._fetch(peer, blobs, now)
                case Committed():
                    self._fold(effect, now)
                case Installed(snapshot):
                    self._install(snapshot)
                case Release(blobs):
                    self._out.extend(Save(BLOBS, blob.digest, None) for blob in blobs)
                case Established(epoch):
                    kept = tuple(each for each in self._seats if each.epoch >= epoch)
                    self._remember(kept)
                    self._event(Turned(kept), now)
                case Retired():
                    self.replica = None
                    self.fold = START
                    self._out.append(effect)
                case Orphaned() if self._refounds:
                    self._out.append(effect)
                    self._event(Refound(Snapshot(1, b"refounded", ())), now)
                case Orphaned() | Declined():
                    self._out.append(effect)

    def _fetch(self, peer: bytes, blobs: Sequence[Blob], now: Instant) -> None:
        table = self._node.disk.table(BLOBS)
        here = tuple(blob.digest for blob in blobs if table.get(blob.digest) is not None)
        for blob in blobs:
            if blob.digest not in here:
                self._out.append(Send(peer, ASK_BLOB, blob.digest))
        if here:
            self._event(Stored(here), now)

    def _fold(self, entry: Committed, now: Instant) -> None:
        self._out.append(entry)
        state = self.fold
        assert entry.index == state.index + 1, f"{entry.index} after {state.index}"
        chain = chained(state.chain, entry.body)
        blobs = (*state.blobs, entry.blobs)[-NEEDED:]
        self.fold = FoldState(entry.index, chain, blobs)
        if entry.tag is not None:
            self._out.append(Send(self._ledger, ACK, entry.index.to_bytes(8, "big") + entry.body))
        if entry.index % FOLD_EVERY == 0:
            needed = tuple(sorted({blob for each in blobs for blob in each}))
            state_bytes = msgspec.msgpack.encode(self.fold)
            self._event(Folded(entry.index, state_bytes, needed), now)

    def _install(self, snapshot: Snapshot) -> None:
        self._out.append(Installed(snapshot))
        if not snapshot.index:
            self.fold = START
        elif snapshot.state == b"refounded":
            self.fold = FoldState(snapshot.index, EMPTY, ())
        else:
            self.fold = msgspec.msgpack.decode(snapshot.state, type=FoldState)

    def _taken(self) -> list[object]:
        out, self._out = self._out, []
        return out


def chained(chain: bytes, body: bytes) -> bytes:
    """What one more entry makes of a hash chain."""
    return hashlib.sha256(chain + body).digest()


def _ms(now: Instant) -> int:
    return int(now.mono * 1000)
