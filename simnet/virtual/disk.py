"""A disk that keeps what was synced, and of the rest what it likes.

`save` is seen by reads at once and is durable after `sync`, as a file in the page cache. A crash
keeps some first part of what was not synced; the record that it cut into is torn if it was new,
and has its old value if it replaced one, as in a store with a write-ahead log.
"""

import random

Tables = dict[str, dict[bytes, bytes]]


class Table:
    """One table as a machine reads it: what its own saves wrote, synced or not."""

    __slots__ = ("_rows",)

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`."""
        return self._rows.get(key)

    def items(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, rising, and their values."""
        return sorted(pair for pair in self._rows.items() if pair[0].startswith(prefix))


class Disk:
    """Tables of key and value."""

    __slots__ = ("_tables", "_unsynced", "lost", "torn")

    def __init__(self) -> None:
        self._tables: Tables = {}
        self._unsynced: list[tuple[str, bytes, bytes | None]] = []
        """What each unsynced save replaced, in order."""
        self.lost = 0
        self.torn = 0

    def table(self, name: str) -> Table:
        """What reads find, until the disk is wiped or restored."""
        return Table(self._tables.setdefault(name, {}))

    def save(self, table: str, key: bytes, value: bytes | None) -> None:
        """Write, or remove where `value` is None; durable after the next `sync`."""
        rows = self._tables.setdefault(table, {})
        self._unsynced.append((table, key, rows.get(key)))
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value

    def sync(self) -> bool:
        """Make everything durable; whether there was anything to do."""
        if not self._unsynced:
            return False
        self._unsynced.clear()
        return True

    def crash(self, rng: random.Random) -> None:
        """Lose what a crash loses."""
        kept = rng.randint(0, len(self._unsynced))
        cut = self._unsynced[kept:]
        if not cut:
            return
        table, key, old = cut[0]
        value = self._tables[table].get(key)
        for where, name, before in reversed(cut):
            rows = self._tables[where]
            if before is None:
                rows.pop(name, None)
            else:
                rows[name] = before
        if old is None and value and rng.random() < 0.5:
            self._tables[table][key] = value[: rng.randrange(len(value))]
            self.torn += 1
        self.lost += len(cut)
        self._unsynced.clear()

    def image(self) -> Tables:
        """A copy of what is durable, as a backup or a virtual machine's snapshot has it."""
        return {name: dict(rows) for name, rows in self._tables.items()}

    def restore(self, image: Tables) -> None:
        """Have everything as it was in `image`; an empty one wipes the disk."""
        self._tables = {name: dict(rows) for name, rows in image.items()}
        self._unsynced.clear()

    def flip(self, rng: random.Random, table: str, spared: bytes = b"") -> bytes | None:
        """Flip one bit of one value of `table`, but not of the key `spared`; the key, if any."""
        rows = self._tables.get(table)
        keys = sorted(k for k, value in rows.items() if value and k != spared) if rows else []
        if not rows or not keys:
            return None
        key = rng.choice(keys)
        value = bytearray(rows[key])
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        rows[key] = bytes(value)
        return key

    def misdirect(self, rng: random.Random, table: str, spared: bytes = b"") -> bytes | None:
        """Have another row's value read at a key of `table`, but not at `spared`; the key."""
        rows = self._tables.get(table)
        keys = sorted(rows) if rows else []
        if not rows or len(keys) < 2:
            return None
        wrong, other = rng.sample(keys, 2)
        if wrong == spared:
            return None
        if rows[wrong] == rows[other]:
            return None
        rows[wrong] = rows[other]
        return wrong
