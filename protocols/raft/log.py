"""The council's log at one member: the chain beyond what is ratified, and what lies beside it.

    ratified ledger ── chain: ratified of late, certified, acknowledged, received ── end
                  └─── aside: entries of other branches, by their chain hash

Rules of this file:
1. Entries are named by their chain hash, on disk too, so that a record proves itself: what the
   disk tore, flipped or put in the wrong place is no entry, and is fetched again by its name.
2. Nothing is appended that the ledger's pure check refuses.
3. Rule 8 of the council (truncation): what leaves the chain is moved aside, and forgotten only
   when a certificate of a later term is held, or another entry of its index is ratified.
4. Rule 6 of the council (epoch): nothing follows an epoch entry, or two councils would decide
   the same index.
"""

import struct
from collections.abc import Callable, Iterable, Sequence

from protocols.effects import Effect, Save
from protocols.envelope import Verify
from protocols.errors import RefusedError, SynapseError
from protocols.ledger.chain import Head, Header, chain_hash, payload_hash, skip_index
from protocols.raft.ports import TABLE, Ledger

MAX_TAIL = 8192
"""Entries that are not ratified, above those that are: 32 batches of 256."""
MAX_TAIL_BYTES = 4 << 20
"""Of them: eight of the largest batches. What a lying leader has certified with some members and
kept from others, these must fetch within a few time-outs, before anything more is ratified."""
MAX_ASIDE = 4 * MAX_TAIL
"""Entries of other branches: four lying leaders in a row may fill a log each."""
MAX_ASIDE_BYTES = 4 * MAX_TAIL_BYTES
MAX_FOLDS = 64
"""Marks whose ledger is kept: a copy shares what has not changed since."""
KEPT = 512
"""Ratified entries kept in memory for those who are only a little behind."""

ENTRY = b"entry/"
_ROW = struct.Struct(">Q32s32s")
_INDEX = struct.Struct(">Q")


class AfterEpochError(RefusedError):
    """An entry behind the one that ends the epoch."""

    code = "after-epoch"


class Entry:
    """One entry of the log, and whether this member's disk has it."""

    __slots__ = ("hash", "header", "payload", "saved")

    def __init__(self, header: Header, entry_hash: bytes, payload: bytes) -> None:
        self.header = header
        self.hash = entry_hash
        self.payload = payload
        self.saved = False

    @property
    def key(self) -> bytes:
        """Of its record: rising with the index, which is what a B-tree likes."""
        return ENTRY + _INDEX.pack(self.header.index) + self.hash

    @property
    def record(self) -> bytes:
        """Proves itself: it hashes to its own key."""
        header = self.header
        return _ROW.pack(header.epoch, header.prev, header.skip) + self.payload


def parse_entry(network: str, key: bytes, record: bytes) -> Entry | None:
    """The entry of a record; None where it is damaged."""
    if len(key) != len(ENTRY) + 8 + 32 or len(record) < _ROW.size:
        return None
    (index,) = _INDEX.unpack_from(key, len(ENTRY))
    epoch, prev, skip = _ROW.unpack_from(record)
    payload = record[_ROW.size :]
    header = Header(epoch, index, prev, skip, payload_hash(payload))
    entry = Entry(header, key[-32:], payload)
    if chain_hash(network, header) != entry.hash:
        return None
    entry.saved = True
    return entry


class Log:
    """The chain and what lies beside it. `emit` takes the effects, in order."""

    def __init__(
        self,
        network: str,
        epoch: int,
        ledger: Ledger,
        verify: Verify,
        emit: Callable[[Effect], None],
    ) -> None:
        self._network = network
        self._epoch = epoch
        self._verify = verify
        self._emit = emit
        self.ledger = ledger
        """The ratified ledger: its owner advances it."""
        self.head: Ledger = ledger.copy()
        """The ledger at the end of the chain."""
        self.end = ledger.head
        """The end of the chain."""
        self.ended = self.head.epoch != epoch
        """Rule 4: whether the chain ends with its epoch's last entry."""
        self._chain: list[Entry] = []
        self._base = ledger.head
        self._store: dict[bytes, Entry] = {}
        self._aside: dict[bytes, int] = {}
        self._aside_bytes = 0
        self._folds: dict[Head, Ledger] = {}
        """The ledger as it stood at the marks that are not ratified."""
        self._tail_from = ledger.head.index
        """The ratified head: what is above it counts as the tail."""
        self._tail_bytes = 0
        self._saved = self._base.index
        """All of the chain up to here is on disk, or ratified."""

    # -- looking -------------------------------------------------------------------------------

    @property
    def base(self) -> Head:
        """Before the first entry that is kept."""
        return self._base

    def at(self, index: int) -> Entry:
        """The entry at an index of the chain, above `base`."""
        return self._chain[index - self._base.index - 1]

    def hash_at(self, index: int) -> bytes | None:
        """The chain hash there, if the chain has it."""
        place = index - self._base.index - 1
        if 0 <= place < len(self._chain):
            return self._chain[place].hash
        return self._base.hash if place == -1 else None

    def has(self, head: Head) -> bool:
        """Whether it is on the chain."""
        return self.hash_at(head.index) == head.hash

    def place(self, index: int) -> Head | None:
        """The place of an index on the chain."""
        found = self.hash_at(index)
        return None if found is None else Head(index, found)

    def payloads(self, above: int, to: int) -> list[bytes]:
        """The entries' bytes after the index `above` up to `to`."""
        start = self._base.index + 1
        return [entry.payload for entry in self._chain[above + 1 - start : to + 1 - start]]

    def entry(self, entry_hash: bytes) -> Entry | None:
        """An entry of any branch."""
        return self._store.get(entry_hash)

    def full(self) -> bool:
        """Whether as much is unratified as may be."""
        tail = self.end.index - self._tail_from
        return tail >= MAX_TAIL or self._tail_bytes >= MAX_TAIL_BYTES

    def path(self, head: Head) -> list[Entry] | Head | None:
        """What leads from the chain to `head`: the entries, from below (none: it is on the
        chain), or the highest place that is missing. None: it contradicts what is ratified."""
        found: list[Entry] = []
        index, wanted = head.index, head.hash
        ratified = self.ledger.head.index
        while self.hash_at(index) != wanted:
            if index <= ratified:
                return None
            entry = self._store.get(wanted)
            if entry is None:
                return Head(index, wanted)
            if entry.header.index != index:
                return None
            found.append(entry)
            index, wanted = index - 1, entry.header.prev
        if found and index < ratified:
            return None
        found.reverse()
        return found

    # -- growing and changing ------------------------------------------------------------------

    def mark(self) -> None:
        """Keep the ledger as it stands at the end: whoever ratifies that need not fold again."""
        if len(self._folds) < MAX_FOLDS:
            self._folds[self.end] = self.head.copy()

    def fold_at(self, head: Head) -> Ledger | None:
        """The ledger as it stood at a mark, if it was kept: given away."""
        return self._folds.pop(head, None)

    def append(self, payload: bytes) -> Entry:
        """Rule 2: the next entry. Raises SynapseError where it is not valid there."""
        if self.ended:
            raise AfterEpochError("an entry behind the one that ends its epoch")
        header = self.head.apply(payload, self._verify)
        entry_hash = self.head.head.hash
        entry = self._store.get(entry_hash) or Entry(header, entry_hash, payload)
        self._link(entry)
        return entry

    def _link(self, entry: Entry) -> None:
        self._chain.append(entry)
        self.end = Head(entry.header.index, entry.hash)
        self.ended = self.head.epoch != self._epoch
        self._store[entry.hash] = entry
        self._tail_bytes += len(entry.payload)
        if self._aside.pop(entry.hash, None) is not None:
            self._aside_bytes -= len(entry.payload)

    def truncate(self, index: int, term: int) -> None:
        """Rule 3: move aside what stands above `index`, acknowledged in `term` at the latest.

        What the current term has acknowledged is never left out, so that is a term before it.
        """
        if index < self.ledger.head.index:
            raise ValueError("our bug: a branch that leaves out what is ratified")
        keep = index - self._base.index
        dropped = self._chain[keep:]
        if not dropped:
            return
        del self._chain[keep:]
        self._saved = min(self._saved, index)
        self._put_aside(dropped, term)
        self._refold()

    def _refold(self) -> None:
        """The ledger at the chain's end, folded again from what is ratified."""
        self.head = self.ledger.copy()
        for entry in self._chain[self.ledger.head.index - self._base.index :]:
            self.head.apply(entry.payload, self._verify)
        tail = self._chain[self._tail_from - self._base.index :]
        self._tail_bytes = sum(len(entry.payload) for entry in tail)
        self.end = self.head.head
        self.ended = self.head.epoch != self._epoch

    def _put_aside(self, entries: Iterable[Entry], term: int) -> None:
        for entry in entries:
            if entry.header.index > self.ledger.head.index:
                self._aside[entry.hash] = term
                self._aside_bytes += len(entry.payload)
            else:
                self._drop(entry)
        while len(self._aside) > MAX_ASIDE or self._aside_bytes > MAX_ASIDE_BYTES:
            oldest = next(iter(self._aside))
            del self._aside[oldest]
            self._aside_bytes -= len(self._store[oldest].payload)
            self._drop(self._store[oldest])

    def _drop(self, entry: Entry) -> None:
        self._store.pop(entry.hash, None)
        if entry.saved:
            entry.saved = False
            self._emit(Save(TABLE, entry.key, None))

    def switch(self, head: Head, term: int) -> bool:
        """Make the chain end at `head`, or contain it, if its entries are held and valid."""
        path = self.path(head)
        if not isinstance(path, list):
            return False
        if path:
            self.truncate(head.index - len(path), term)
        for entry in path:
            if self.ended:
                return False
            try:
                self.head.apply(entry.payload, self._verify)
            except SynapseError:
                return False
            self._link(entry)
        return True

    def take(self, header: Header, payload: bytes, wanted: Head, term: int) -> Entry | None:
        """Store a fetched entry, if it is the one that was `wanted`."""
        if header.index != wanted.index or chain_hash(self._network, header) != wanted.hash:
            return None
        if payload_hash(payload) != header.payload:
            return None
        entry = Entry(header, wanted.hash, payload)
        self._store[entry.hash] = entry
        self._put_aside((entry,), term)
        return entry

    def branch(self, prev: Head, payloads: Sequence[bytes]) -> list[Entry]:
        """The entries of a branch that leaves the chain at `prev`, unchecked and not stored.

        None of them where the short cuts of their headers lead further back than is kept.
        """
        entries: list[Entry] = []
        index, before = prev.index, prev.hash
        hashes = {index: before}
        for payload in payloads:
            index += 1
            short = skip_index(index)
            skip = hashes.get(short) or self.hash_at(short)
            if skip is None:
                return []
            header = Header(self._epoch, index, before, skip, payload_hash(payload))
            before = hashes[index] = chain_hash(self._network, header)
            entries.append(Entry(header, before, payload))
        return entries

    def keep(self, entries: Iterable[Entry], term: int) -> None:
        """Store the entries of another branch, as evidence."""
        new = [entry for entry in entries if entry.hash not in self._store]
        self._store.update((entry.hash, entry) for entry in new)
        self._put_aside(new, term)

    # -- keeping -------------------------------------------------------------------------------

    def save(self, index: int) -> None:
        """Have the chain up to `index` on disk."""
        above = max(self._saved, self.ledger.head.index)
        if index > above:
            start = self._base.index + 1
            self.save_all(self._chain[above + 1 - start : index + 1 - start])
            self._saved = index

    def save_all(self, entries: Iterable[Entry]) -> None:
        """Have these entries on disk."""
        for entry in entries:
            if not entry.saved:
                entry.saved = True
                self._emit(Save(TABLE, entry.key, entry.record))

    def restore(self, saved: Iterable[tuple[bytes, bytes]], term: int) -> list[bytes]:
        """Take in a disk's records, all of them aside at first; the keys of damaged ones."""
        damaged = []
        for key, record in saved:
            if key.startswith(ENTRY):
                entry = parse_entry(self._network, key, record)
                if entry is None:
                    damaged.append(key)
                elif self.hash_at(entry.header.index) != entry.hash:
                    self._store[entry.hash] = entry
                    self._put_aside((entry,), term)
                else:
                    self._emit(Save(TABLE, key, None))
        return damaged

    def hold(self, path: Iterable[Entry], term: int) -> None:
        """Have the entries of another branch on disk: a certificate of `term` covers them."""
        for entry in path:
            if entry.hash in self._aside:
                self._aside[entry.hash] = term
            self.save_all((entry,))

    def forget(self, term: int) -> None:
        """Rule 3: a certificate of `term` is held; what was moved aside before it may go."""
        if not self._aside:
            return
        for name in [name for name, since in self._aside.items() if since < term]:
            del self._aside[name]
            entry = self._store[name]
            self._aside_bytes -= len(entry.payload)
            self._drop(entry)

    def ratified(self, to: int) -> None:
        """The chain up to `to` is the ratified ledger's now: keep it on this disk no longer."""
        start = self._base.index + 1
        new = self._chain[max(0, self._tail_from + 1 - start) : to + 1 - start]
        self._tail_from = max(self._tail_from, to)
        for mark in [mark for mark in self._folds if mark.index <= to]:
            del self._folds[mark]
        for entry in new:
            self._tail_bytes -= len(entry.payload)
            if entry.saved:
                entry.saved = False
                self._emit(Save(TABLE, entry.key, None))
        if self._aside:
            self._drop_aside_below(to)
        surplus = min(to, self.ledger.head.index) - KEPT - self._base.index
        if surplus >= KEPT:
            last = self._chain[surplus - 1]
            for entry in self._chain[:surplus]:
                self._store.pop(entry.hash, None)
            self._base = Head(last.header.index, last.hash)
            del self._chain[:surplus]

    def _drop_aside_below(self, index: int) -> None:
        for name in list(self._aside):
            entry = self._store[name]
            if entry.header.index <= index:
                del self._aside[name]
                self._aside_bytes -= len(entry.payload)
                self._drop(entry)

    def follow(self, ledger: Ledger, term: int) -> None:
        """The ratified ledger was advanced by others, or replaced: stand on it."""
        self.ledger = ledger
        head = ledger.head
        if not self.has(head):
            dropped, self._chain = self._chain, []
            self._base = head
            self._saved = self._tail_from = head.index
            self._put_aside(dropped, term)
            self._refold()
        self.ratified(head.index)
