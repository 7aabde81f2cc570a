"""A log on its way in: what came from a primary (or from whoever has the best log), in order.

Rules of this file:
1. An entry is on disk only after its blobs are, and after the entries before it.
2. Until all of the log that a term began with is here (`start`), nothing of it counts: it is staged
   beside the log that is, and taken over in one write (replica_log.py).
"""

from collections import deque
from collections.abc import Collection, Sequence

from protocols.learn.replica_log import Log
from protocols.learn.replica_ports import Blob, Entry, Fetch, Snapshot, Term

FETCH_AGAIN_BEATS = 1
"""Blobs that do not come are asked for again as often; a driver that is still at them, for some
take minutes, ignores it."""


class Stage:
    """What is received for one term: before `start` is reached beside the log, then as its end."""

    def __init__(
        self, log: Log, term: Term, source: Term, start: int, *, forced: int, held: set[bytes]
    ) -> None:
        """`forced`: as in Append; `held`: digests of blobs on disk, beside the log's own."""
        self._log = log
        self.term = term
        self.start = start
        self._held = held
        self._known = set(log.blobs())
        self.ready = log.accepted == term
        self._forced = forced
        begun = log.committed > 0 and log.accepted != source and log.accepted.epoch < forced
        self.lost = not self.ready and (begun or log.committed > start)
        """Whether what this disk has as committed may be gone for good: only a forced epoch does
        that."""
        if self.ready:
            self.keep = log.length
        elif self.lost:
            self.keep = 0
        elif log.accepted == source:
            # One primary's log only grows: what both have of it is the same.
            self.keep = min(log.length, start)
        else:
            # What is committed is part of every log that a candidate may choose.
            self.keep = log.committed
        self._snapshot: Snapshot | None = None
        self._staged: list[Entry] = []
        self._waiting: deque[Entry | Snapshot] = deque()
        self._ahead: dict[int, Sequence[Entry]] = {}
        """What overtook what comes before it, by its `prev`."""
        self._asked_at: int | None = None

    @property
    def saved(self) -> int:
        """Up to which everything is on disk."""
        if self.ready:
            return self._log.length
        base = self.keep if self._snapshot is None else self._snapshot.index
        return base + len(self._staged)

    @property
    def got(self) -> int:
        """Up to which everything is here, but for blobs."""
        at = self.saved
        for each in self._waiting:
            at = each.index if isinstance(each, Snapshot) else at + 1
        return at

    @property
    def room(self) -> int:
        """Entries that may still wait."""
        return MAX_WAITING - len(self._waiting)

    def take(self, prev: int, entries: Sequence[Entry]) -> None:
        """Entries from `prev` + 1 on; those that are here are let be, those after a gap wait."""
        got = self.got
        if prev <= got:
            self._waiting.extend(list(entries)[got - prev :][: self.room])
            self._close_gaps()
        elif entries and len(self._ahead) < MAX_AHEAD:
            self._ahead[prev] = entries

    def _close_gaps(self) -> None:
        for prev in sorted(self._ahead):
            if prev <= self.got:
                self.take(prev, self._ahead.pop(prev))
                return

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """In place of all entries up to its index, also of those that wait for blobs: where they
        came from, they and their blobs are gone."""
        at = self.saved
        if snapshot.index <= at:
            return
        kept: deque[Entry | Snapshot] = deque()
        for each in self._waiting:
            at = each.index if isinstance(each, Snapshot) else at + 1
            if at > snapshot.index:
                kept.append(each)
        if snapshot not in self._waiting:
            self._asked_at = None
        self._waiting = kept
        self._waiting.appendleft(snapshot)
        self._close_gaps()

    def pump(self) -> bool:
        """Put on disk what is complete; whether that took the log over, or moved its base."""
        changed = False
        while self._waiting and not self._lacking(self._waiting[0]):
            self._asked_at = None
            each = self._waiting.popleft()
            self._known.update(blob.digest for blob in each.blobs)
            if isinstance(each, Snapshot):
                changed = self._put_snapshot(each) or changed
            elif self.ready:
                self._log.append(each)
            else:
                self._log.stage(self.saved + 1, self.term, each)
                self._staged.append(each)
        return self._finish() or changed

    def _put_snapshot(self, snapshot: Snapshot) -> bool:
        self._log.stage_snapshot(self.term, snapshot)
        if self.ready:
            self._log.take_over(self.term, snapshot.index, snapshot, [])
            return True
        self._unstage()
        self._snapshot = snapshot
        return False

    def fetch(self, peer: bytes, now: int, beat: int) -> Fetch | None:
        """The blobs to ask for, if it is time."""
        if self._asked_at is not None and now - self._asked_at < FETCH_AGAIN_BEATS * beat:
            return None
        lacking = tuple(blob for each in self._waiting for blob in self._lacking(each))
        if not lacking:
            return None
        self._asked_at = now
        return Fetch(peer, tuple(dict.fromkeys(lacking)))

    def forget(self, digests: Collection[bytes]) -> None:
        """These blobs may be deleted."""
        self._known.difference_update(digests)

    def abandon(self) -> None:
        """Another term came first: what was staged goes."""
        if not self.ready:
            self._unstage()

    def _lacking(self, each: Entry | Snapshot) -> list[Blob]:
        return [
            blob
            for blob in each.blobs
            if blob.digest not in self._held and blob.digest not in self._known
        ]

    def _unstage(self) -> None:
        base = self.keep if self._snapshot is None else self._snapshot.index
        self._log.unstage(base, self.term, len(self._staged))
        if self._snapshot is not None:
            self._log.unstage_snapshot(self._snapshot.index, self.term)
        self._staged, self._snapshot = [], None

    def _finish(self) -> bool:
        if self.ready or self.saved < self.start:
            return False
        log = self._log
        log.take_over(self.term, self.keep, self._snapshot, self._staged, self._forced)
        self.ready = True
        return True


MAX_AHEAD = 8
"""Messages that overtook others, at most: streams keep their order, but one may replace another."""
MAX_WAITING = 512
"""Entries that wait for blobs, at most: the primary's window, with room."""
