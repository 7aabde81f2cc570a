"""ledger.db: what a daemon must not forget once it has signed, and the key that it signs with.

    table ledger    ratified entries, certificates, snapshots     what the Participant saves
    table council   unratified entries, what was signed
    table seat      our seat key

The seat key lies in the same file as what was signed with it, and is made in the same
transaction in which that file begins: whoever lost the state has lost the key too, and can not
sign against what it has forgotten (rule 7 of docs/council.md). For the same reason the file must
never be restored from a backup. It is apart from state.db because every commit here is synced,
and because that one may be begun anew.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from protocols.effects import Save
from protocols.errors import MalformedError, SynapseError
from protocols.raft.state import blank_state
from protocols.records import guarded, unguarded
from synapsed.keys import SEED_LENGTH, Key
from synapsed.store.db import Change, CorruptDatabaseError, Database, Table, set_aside
from synapsed.store.errors import disk_errors

SEAT = "seat"
_KEY = b"key"
_SYNC = "sync"

OnEvent = Callable[..., None]


class LedgerStore:
    """ledger.db, open. Calls are synchronous; a commit takes a sync of the disk."""

    def __init__(self, database: Database, key: Key) -> None:
        """For `open_ledger_store`."""
        self._database = database
        self._syncs = 0
        self.key = key
        """Our seat key: the only one that may sign for what is in here."""

    def save(self, saves: Sequence[Save], durable: bool = True) -> None:
        """All of them, or StoreError and none. Those that are not durable become so with the next
        that are, and be these none: the write-ahead log keeps their order."""
        changes = [Change(save.table, save.key, save.value) for save in saves]
        if not changes:
            # SQLite syncs its log only for a commit that changes something.
            self._syncs += 1
            changes.append(Change(_SYNC, _KEY, self._syncs.to_bytes(8, "big")))
        self._database.save(changes, durable=durable)

    def renew(self, random: Callable[[int], bytes] = os.urandom) -> None:
        """Give up a seat key whose state is lost: a new one, for which nothing was signed yet."""
        self.key = _new_key(self._database, random)

    def table(self, name: str) -> Table:
        """For reading what was saved there."""
        return self._database.table(name)

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self._database.close()


def open_ledger_store(
    path: Path, on_event: OnEvent, random: Callable[[int], bytes] = os.urandom
) -> LedgerStore:
    """The store at `path`, begun if there is none.

    A file that is no database any more is moved aside and told of (`ledger.lost`): its seat key
    is lost with it, and peers have the ledger. Raises StoreError.
    """
    with disk_errors(path, "opening the ledger"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        database = _open(path)
    except CorruptDatabaseError as error:
        kept = set_aside(path)
        on_event("ledger.lost", path=str(path), kept=str(kept), why=error.message)
        database = _open(path)
    try:
        return LedgerStore(database, _seat_key(database, on_event, random))
    except SynapseError:
        database.close()
        raise


def _open(path: Path) -> Database:
    with disk_errors(path, "opening the ledger"):
        # It holds a secret key, and SQLite gives its log the mode that the file has.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    return Database(path)


def _seat_key(database: Database, on_event: OnEvent, random: Callable[[int], bytes]) -> Key:
    record = database.table(SEAT).get(_KEY)
    if record is not None:
        try:
            return Key(unguarded(SEAT, _KEY, record))
        except (MalformedError, ValueError) as error:
            on_event("ledger.seat-lost", why=str(error))
    return _new_key(database, random)


def _new_key(database: Database, random: Callable[[int], bytes]) -> Key:
    key = Key(random(SEED_LENGTH))
    blank = blank_state(key.public_key)
    database.save(
        [
            Change(SEAT, _KEY, guarded(SEAT, _KEY, key.seed)),
            Change(blank.table, blank.key, blank.value),
        ]
    )
    return key
