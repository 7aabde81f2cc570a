"""A group's log on one disk: its rows, and how it changes so that a crash anywhere is harmless.

    state      what was promised and accepted, where the log begins, and whose rows it is made of
    snapshot   what the entries up to the log's base add up to
    entry      one for each (index, term in which it was written)

Rules of this file:
1. An entry's row is written once and never over: another term's entry at the same index has a row
   of its own. Which rows *are* the log is said by the state row (`Segment`), so that taking over
   another log, however long, is one write. Rows that it does not name are left over from before
   it, and go at the next start.
2. A crash between any two writes therefore leaves the log as it was, or as it is to be.
3. A row that is damaged, or missing in the middle, means that this disk has forgotten something
   that it may have acknowledged: `damaged` says so, and the replica treats it as a wiped one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec

from protocols.codec import decode_plain, encode
from protocols.effects import Save
from protocols.errors import MalformedError
from protocols.learn.replica_ports import (
    MAX_ENTRY_BLOBS,
    MAX_STATE_BLOBS,
    NO_TERM,
    TABLE,
    Blob,
    Entry,
    Epoch,
    GroupId,
    Index,
    Place,
    Release,
    Saved,
    Snapshot,
    Term,
)
from protocols.records import guarded, unguarded

VERSION = 1
_STATE, _ENTRY, _SNAPSHOT = b"s", b"e", b"n"
_HEAD = 4
_MAX_ROW_HEAD = 1 << 20
"""Bytes of a row before its body: ours, and bounded by what was taken in."""


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From index `start` on, the log's entries are those that were written in `term`."""

    start: Index
    term: Term


class StateRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a replica must not forget."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    promised: Term
    accepted: Term
    base: Index
    """The log begins after it; 0 where there is no snapshot."""
    base_term: Term
    """In which the snapshot's row was written."""
    segments: tuple[Segment, ...]
    committed: Index
    """At least so far; entries' rows may know more."""
    forced: Epoch
    """The last epoch that its log began by force; 0: none. What it had before may be gone."""
    established: Epoch
    """The newest epoch in which this replica knows something to be committed."""
    since: Index
    """Index of the ledger since when this is whole, where it was damaged before."""


class _EntryHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    committed: Index
    blobs: Annotated[tuple[Blob, ...], msgspec.Meta(max_length=MAX_ENTRY_BLOBS)]


class _SnapshotHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    blobs: Annotated[tuple[Blob, ...], msgspec.Meta(max_length=MAX_STATE_BLOBS)]


def _packed(key: bytes, head: msgspec.Struct, body: bytes) -> bytes:
    said = encode(head)
    return guarded(TABLE, key, len(said).to_bytes(_HEAD, "big") + said + body)


def _unpacked(key: bytes, record: bytes, kind: type[msgspec.Struct]) -> tuple[object, bytes]:
    """Raises MalformedError."""
    raw = unguarded(TABLE, key, record)
    end = _HEAD + int.from_bytes(raw[:_HEAD], "big")
    plain = decode_plain(raw[_HEAD:end], _MAX_ROW_HEAD)
    try:
        return msgspec.convert(plain, kind, builtin_types=(bytes,)), raw[end:]
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a {kind.__name__} of ours: {error}") from error


def _placed(index: int, term: Term) -> bytes:
    place = index.to_bytes(8, "big") + term.epoch.to_bytes(4, "big")
    return place + term.number.to_bytes(4, "big")


class Log:
    """The rows of one group. Whatever changes gives its writes to `emit`, in order."""

    def __init__(self, group: GroupId, emit: Callable[[object], None]) -> None:
        self._key = group.key
        self._emit = emit
        self.promised = NO_TERM
        self.accepted = NO_TERM
        self.snapshot: Snapshot | None = None
        self._base_term = NO_TERM
        self.segments: tuple[Segment, ...] = ()
        self.entries: list[Entry] = []
        """Those after the snapshot."""
        self.committed = 0
        self.forced = 0
        self.established = 0
        self.since = 0
        self.damaged = ""
        """Why this disk cannot be believed, if so."""

    # -- reading ------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        """The log begins after it."""
        return 0 if self.snapshot is None else self.snapshot.index

    @property
    def length(self) -> int:
        """The highest index."""
        return self.base + len(self.entries)

    @property
    def place(self) -> Place:
        """What candidates compare."""
        return Place(self.accepted, self.length)

    def entry(self, index: int) -> Entry:
        """That at `index`, which is above the base."""
        return self.entries[index - self.base - 1]

    def after(self, index: int, most: int, most_bytes: int) -> list[Entry]:
        """Entries from `index` + 1 on (`index` >= base): so many, and at least one if there is."""
        taken: list[Entry] = []
        size = 0
        for entry in self.entries[index - self.base : index - self.base + most]:
            size += len(entry.body)
            if taken and size > most_bytes:
                break
            taken.append(entry)
        return taken

    def blobs(self) -> dict[bytes, Blob]:
        """All that the log refers to, by digest."""
        found = {blob.digest: blob for entry in self.entries for blob in entry.blobs}
        if self.snapshot is not None:
            found.update((blob.digest, blob) for blob in self.snapshot.blobs)
        return found

    # -- loading ------------------------------------------------------------------------------

    def load(self, saved: Saved) -> None:
        """Remember. Never raises: what cannot be read is `damaged`."""
        rows = {key: value for key, value in saved.items() if key.startswith(self._key)}
        record = rows.pop(self._key + _STATE, None)
        if record is None:
            if rows:
                self.damaged = "its state is missing"
            return
        try:
            state = self._read_state(record)
            self._load_snapshot(rows, state.base)
            self._load_entries(rows)
        except MalformedError as error:
            self.damaged = str(error)
            return
        self.committed = min(max(self.committed, self.base), self.length)
        for key in sorted(rows):
            self._emit(Save(TABLE, key, None))

    def _read_state(self, record: bytes) -> StateRow:
        found, _ = _unpacked(self._key + _STATE, record, StateRow)
        assert isinstance(found, StateRow)
        self.promised, self.accepted = found.promised, found.accepted
        self.segments, self.committed = found.segments, found.committed
        self.established, self.since = found.established, found.since
        self.forced = found.forced
        self._base_term = found.base_term
        return found

    def _load_snapshot(self, rows: dict[bytes, bytes], base: int) -> None:
        if not base:
            return
        key = self._snapshot_key(base, self._base_term)
        record = rows.pop(key, None)
        if record is None:
            raise MalformedError(f"its snapshot at {base} is missing")
        head, state = _unpacked(key, record, _SnapshotHead)
        assert isinstance(head, _SnapshotHead)
        self.snapshot = Snapshot(base, state, head.blobs)

    def _load_entries(self, rows: dict[bytes, bytes]) -> None:
        """Takes from `rows` those that are the log's. A missing last one was never synced."""
        while (key := self._entry_key(self.length + 1)) is not None and key in rows:
            head, body = _unpacked(key, rows.pop(key), _EntryHead)
            assert isinstance(head, _EntryHead)
            self.entries.append(Entry(body, head.blobs))
            self.committed = max(self.committed, head.committed)
        beyond = [key for key in rows if self._is_mine(key)]
        if beyond or self.committed > self.length:
            raise MalformedError(f"its entry {self.length + 1} is missing")

    def _is_mine(self, key: bytes) -> bool:
        """Whether a row beyond the log's end would be part of it."""
        at = len(self._key) + 1
        if key[at - 1 : at] != _ENTRY:
            return False
        index = int.from_bytes(key[at : at + 8], "big")
        return index > self.length and key == self._entry_key(index)

    # -- keys ---------------------------------------------------------------------------------

    def _snapshot_key(self, index: int, term: Term) -> bytes:
        return self._key + _SNAPSHOT + _placed(index, term)

    def _written_key(self, index: int, term: Term) -> bytes:
        return self._key + _ENTRY + _placed(index, term)

    def _entry_key(self, index: int) -> bytes | None:
        for segment in reversed(self.segments):
            if segment.start <= index:
                return self._written_key(index, segment.term)
        return None

    # -- writing ------------------------------------------------------------------------------

    def _save_state(self) -> None:
        key = self._key + _STATE
        row = StateRow(
            VERSION,
            self.promised,
            self.accepted,
            self.base,
            self._base_term,
            self.segments,
            self.committed,
            self.forced,
            self.established,
            self.since,
        )
        self._emit(Save(TABLE, key, _packed(key, row, b"")))

    def promise(self, term: Term) -> None:
        """Rule 1 of the group: on disk before anything is said of it."""
        self.promised = term
        self._save_state()

    def establish(self, epoch: int) -> None:
        """Something of `epoch` is committed."""
        self.established = epoch
        self._save_state()

    def append(self, entry: Entry) -> None:
        """One more, in the term that was accepted."""
        self.stage(self.length + 1, self.accepted, entry)
        self.entries.append(entry)

    def stage(self, index: int, term: Term, entry: Entry) -> None:
        """Write an entry that is not the log's yet."""
        key = self._written_key(index, term)
        head = _EntryHead(self.committed, entry.blobs)
        self._emit(Save(TABLE, key, _packed(key, head, entry.body)))

    def stage_snapshot(self, term: Term, snapshot: Snapshot) -> None:
        """Write a snapshot that is not the log's yet."""
        key = self._snapshot_key(snapshot.index, term)
        self._emit(Save(TABLE, key, _packed(key, _SnapshotHead(snapshot.blobs), snapshot.state)))

    def unstage(self, index: int, term: Term, count: int) -> None:
        """Remove what was staged from `index` + 1 on, and not taken over."""
        self._remove(self._written_key(at, term) for at in range(index + 1, index + 1 + count))

    def unstage_snapshot(self, index: int, term: Term) -> None:
        """Remove a staged snapshot that was not taken over."""
        self._emit(Save(TABLE, self._snapshot_key(index, term), None))

    def take_over(
        self,
        term: Term,
        keep: int,
        snapshot: Snapshot | None,
        staged: Sequence[Entry],
        forced: int | None = None,
    ) -> None:
        """Accept `term`: the log is its first `keep` entries (or the staged snapshot instead; or,
        with a `keep` below the base, nothing) and the staged ones. One write changes it; the rows
        that go are removed after that."""
        blobs, before = self.blobs(), self._rows()
        if snapshot is None and keep >= self.base:
            del self.entries[keep - self.base :]
        else:
            self.snapshot, self._base_term, self.entries = snapshot, term, []
            keep = self.base
        self.segments = (*(s for s in self.segments if s.start <= keep), Segment(keep + 1, term))
        self._trim_segments()
        self.entries.extend(staged)
        self.accepted = term
        self.forced = self.forced if forced is None else forced
        self.promised = max(self.promised, term)
        self.committed = min(max(self.committed, self.base), self.length)
        self._save_state()
        self._clean(before, blobs)

    def fold(self, snapshot: Snapshot) -> None:
        """Have the log begin after `snapshot`, which is committed and above the base."""
        blobs, before = self.blobs(), self._rows()
        self.stage_snapshot(self.accepted, snapshot)
        del self.entries[: snapshot.index - self.base]
        self.snapshot, self._base_term = snapshot, self.accepted
        self._trim_segments()
        self._save_state()
        self._clean(before, blobs)

    def erase(self) -> None:
        """Remove every row: first make them no part of the log, at last the state, because rows
        without it are damage."""
        blobs, before = self.blobs(), self._rows()
        self._forget()
        self._save_state()
        self._clean(before, blobs)
        self._emit(Save(TABLE, self._key + _STATE, None))

    def begin_anew(self, since: int) -> None:
        """Forget everything: this disk is as good as wiped, at index `since` of the ledger."""
        blobs, before = self.blobs(), self._rows()
        self._forget()
        self.since, self.damaged = since, ""
        self._save_state()
        self._clean(before, blobs)

    # -- parts --------------------------------------------------------------------------------

    def _forget(self) -> None:
        self.snapshot, self.entries, self.segments = None, [], ()
        self.accepted, self.committed, self.established = NO_TERM, 0, 0
        self.forced = 0

    def _rows(self) -> list[bytes]:
        """The keys of the snapshot and of each entry."""
        found = [] if self.snapshot is None else [self._snapshot_key(self.base, self._base_term)]
        for index in range(self.base + 1, self.length + 1):
            key = self._entry_key(index)
            assert key is not None, "an entry that no segment names"
            found.append(key)
        return found

    def _trim_segments(self) -> None:
        """Drop those that say nothing about entries above the base."""
        while len(self.segments) > 1 and self.segments[1].start <= self.base + 1:
            self.segments = self.segments[1:]

    def _clean(self, before: Sequence[bytes], blobs: dict[bytes, Blob]) -> None:
        """Remove rows that are the log's no more, and say which blobs nobody refers to."""
        live = set(self._rows())
        self._remove(key for key in before if key not in live)
        now = self.blobs()
        gone = tuple(blob for digest, blob in sorted(blobs.items()) if digest not in now)
        if gone:
            self._emit(Release(gone))

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._emit(Save(TABLE, key, None))
