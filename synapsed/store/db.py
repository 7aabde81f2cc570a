"""state.db: what the machines save and what is pinned. All of the daemon's SQL stands here.
A daemon with a ledger has a second file of the same shape, ledger.db (ledger/store.py).

Write-ahead logging, so a crash at any instant leaves the last commit. `synchronous=FULL` (each
commit is on disk before it returns) where a machine acts on having saved; NORMAL (a power cut
may lose the last commits, never the order of them) for what is only remembered.
"""

import itertools
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from synapsed.store.errors import DiskError, DiskFullError, StoreError, StoreVersionError

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE kv (
    name  TEXT NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE TABLE pins (
    cid    BLOB NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (cid, reason)
) WITHOUT ROWID;
"""
_BUSY_SECONDS = 10.0
"""Only backups and curious owners open the file beside us."""


class Change(NamedTuple):
    """One key of one table: its new value, or None where it goes."""

    table: str
    key: bytes
    value: bytes | None


class Pin(NamedTuple):
    """One reason to keep a manifest and all that it reaches."""

    cid: bytes
    reason: str


class CorruptDatabaseError(StoreError):
    """state.db is not a database, or a damaged one."""

    code = "database-corrupt"


class Database:
    """state.db, open. Safe between threads: one lock, one connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._depth = 0
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare()
        except StoreError:
            self._connection.close()
            raise
        self._synchronous = ""

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0:
            run("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split(";\n"):
                run(statement)
            run(f"PRAGMA user_version={SCHEMA_VERSION}")
            run("COMMIT")
        elif version != SCHEMA_VERSION:
            raise StoreVersionError(
                f"{self._path} has schema {version}, this daemon has {SCHEMA_VERSION}",
                remedy="run the daemon that wrote it, or use another home folder",
            )
        if run("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise CorruptDatabaseError(f"{self._path} is damaged")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFullError(
                    f"no room on the disk for {self._path}", remedy="free space there"
                ) from error
            raise DiskError(
                f"{self._path}: {error}", remedy="check the disk and who owns the file"
            ) from error
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{self._path}: {error}", remedy="the store was closed") from error
        except sqlite3.DatabaseError as error:
            raise CorruptDatabaseError(f"{self._path}: {error}") from error

    def _sync(self, level: str) -> None:
        # The pragma has no effect inside a transaction; the outermost one decides.
        if self._synchronous != level and self._depth == 0:
            self._connection.execute(f"PRAGMA synchronous={level}")
            self._synchronous = level

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Everything inside is saved at once, or nothing of it. May be nested."""
        with self._lock, self._errors():
            self._sync("FULL" if durable else "NORMAL")
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
            except BaseException:
                self._depth -= 1
                if self._depth == 0 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:  # a full disk leaves it open
                self._connection.execute("ROLLBACK")
            raise

    def save(self, changes: Iterable[Change], *, durable: bool = True) -> None:
        """Make all of `changes`, in order, or none of them. Durable with all before them, or else
        not before a later one that is."""
        with self.transaction(durable=durable) as run:
            for gone, group in itertools.groupby(changes, lambda change: change.value is None):
                if gone:
                    keys = [(table, key) for table, key, _ in group]
                    run.executemany("DELETE FROM kv WHERE name = ? AND key = ?", keys)
                else:
                    run.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", group)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of one reading statement."""
        with self._lock, self._errors():
            return self._connection.execute(sql, values).fetchall()

    def table(self, name: str, *, durable: bool = True) -> "Table":
        """The keys and values that one machine saves."""
        return Table(self, name, durable)

    def pin(self, cid: bytes, reason: str) -> None:
        with self.transaction() as run:
            run.execute("INSERT OR IGNORE INTO pins VALUES (?, ?)", (cid, reason))

    def unpin(self, cid: bytes, reason: str | None) -> int:
        """Remove one reason, or all of them; how many there were."""
        with self.transaction() as run:
            if reason is None:
                return run.execute("DELETE FROM pins WHERE cid = ?", (cid,)).rowcount
            both = (cid, reason)
            return run.execute("DELETE FROM pins WHERE cid = ? AND reason = ?", both).rowcount

    def pins(self) -> list[Pin]:
        found = self.rows("SELECT cid, reason FROM pins ORDER BY cid, reason")
        return [Pin(_bytes(cid), str(reason)) for cid, reason in found]

    def close(self) -> None:
        with self._lock, self._errors():
            self._connection.close()


class Table:
    """The keys and values of one machine, in the order of the keys."""

    def __init__(self, database: Database, name: str, durable: bool) -> None:
        self._database, self._name, self._durable = database, name, durable

    def get(self, key: bytes) -> bytes | None:
        found = self._database.rows(
            "SELECT value FROM kv WHERE name = ? AND key = ?", (self._name, key)
        )
        return _bytes(found[0][0]) if found else None

    def put(self, key: bytes, value: bytes) -> None:
        with self._database.transaction(durable=self._durable) as run:
            run.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", (self._name, key, value))

    def delete(self, key: bytes) -> None:
        with self._database.transaction(durable=self._durable) as run:
            run.execute("DELETE FROM kv WHERE name = ? AND key = ?", (self._name, key))

    def items(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """All pairs whose key begins with `prefix`."""
        found = self._database.rows(
            "SELECT key, value FROM kv WHERE name = ? AND key >= ? ORDER BY key",
            (self._name, prefix),
        )
        pairs = [(_bytes(key), _bytes(value)) for key, value in found]
        return [pair for pair in pairs if pair[0].startswith(prefix)]


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise CorruptDatabaseError("state.db holds something else where bytes were saved")
    return value


def set_aside(path: Path) -> Path:
    """Move a damaged database out of the way, with its log; where to."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, kept.with_name(kept.name + suffix))
    os.replace(path, kept)
    return kept
