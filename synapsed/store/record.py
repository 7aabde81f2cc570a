"""The record of what a file holds: an append-only log of runs.

Each entry is 16 bytes: operation, first sub-tile, end of the run, CRC-32 over the entry and the
file's root (so that another file's record means nothing here). An entry is appended after the
bytes it speaks of are durable, and a drop is appended before its bytes go. So whatever part of
the last append a crash leaves, what can be read is true.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from synapsed.store.disk import write_all, write_atomic
from synapsed.store.errors import disk_errors
from synapsed.store.runs import Run, Runs

_ENTRY = struct.Struct("<IIII")
_HELD = 0x444C4548  # "HELD" and "DROP": a zeroed block is no entry
_DROPPED = 0x504F5244
COMPACT_ABOVE = 256
"""Entries beyond four per run; a record of one page is not worth rewriting."""


class Replay(NamedTuple):
    """What a record says. `doubtful`: entries stand after unreadable ones, so drops may be lost."""

    held: Runs
    entries: int
    length: int
    doubtful: bool


def entry(root: bytes, operation: int, run: Run) -> bytes:
    lo, hi = run
    body = _ENTRY.pack(operation, lo, hi, 0)[:-4]
    return body + zlib.crc32(root + body).to_bytes(4, "little")


def _parse(root: bytes, data: bytes, at: int, leaves: int) -> tuple[int, Run] | None:
    operation, lo, hi, _ = _ENTRY.unpack_from(data, at)
    good = operation in (_HELD, _DROPPED) and lo < hi <= leaves
    if not good or entry(root, operation, (lo, hi)) != data[at : at + _ENTRY.size]:
        return None
    return operation, (lo, hi)


def replay(root: bytes, data: bytes, leaves: int) -> Replay:
    """What the entries up to the first unreadable one say of a file of `leaves` sub-tiles."""
    held = Runs()
    whole = len(data) - len(data) % _ENTRY.size
    at = 0
    while at < whole:
        parsed = _parse(root, data, at, leaves)
        if parsed is None:
            break
        operation, run = parsed
        if operation == _HELD:
            held.add(*run)
        else:
            held.remove(*run)
        at += _ENTRY.size
    later = range(at, whole, _ENTRY.size)
    doubtful = any(_parse(root, data, there, leaves) is not None for there in later)
    return Replay(held, at // _ENTRY.size, at, doubtful)


class Record:
    """The log of one file. Opened for each append, so that a thousand files cost no descriptors."""

    def __init__(self, path: Path, root: bytes, tmp: Path) -> None:
        self._path, self._root, self._tmp = path, root, tmp
        self._end = 0

    @staticmethod
    def first_bytes(root: bytes, held: Iterable[Run]) -> bytes:
        """The contents of a new record that holds `held`."""
        return b"".join(entry(root, _HELD, run) for run in held)

    def open(self, leaves: int) -> Replay:
        """Read the log, cut a torn end off, and stand ready to append."""
        with disk_errors(self._path, "reading the record"):
            data = self._path.read_bytes() if self._path.exists() else b""
            found = replay(self._root, data, leaves)
            if found.length < len(data):
                os.truncate(self._path, found.length)
        self._end = found.length
        if found.entries > COMPACT_ABOVE + 4 * len(found.held):
            data = self.first_bytes(self._root, found.held)
            write_atomic(self._path, data, self._tmp)
            self._end = len(data)
        return found

    def held(self, runs: Sequence[Run]) -> None:
        """Append that `runs`, whose bytes are durable, are held; durable on return."""
        self._append(_HELD, runs)

    def dropped(self, runs: Sequence[Run]) -> None:
        """Append that `runs` are held no more; durable on return."""
        self._append(_DROPPED, runs)

    def _append(self, operation: int, runs: Sequence[Run]) -> None:
        data = b"".join(entry(self._root, operation, run) for run in runs)
        with disk_errors(self._path, "appending to the record"):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                # An append that failed half-way must leave nothing behind the next one.
                if os.fstat(fd).st_size != self._end:
                    os.ftruncate(fd, self._end)
                write_all(fd, data, self._end)
                os.fdatasync(fd)
            finally:
                os.close(fd)
        self._end += len(data)
