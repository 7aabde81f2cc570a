"""The ratified entries that a daemon holds, and their chain hashes, by index.

A follower keeps what it has ratified here: to serve it to others, to prove entries of it, and
to find a fork. Where the machine has a disk, old entries and their hashes are read back from there.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from protocols.errors import NotHeldError
from protocols.ledger.chain import HASH_LENGTH, Header, Spine, payload_hash, skip_index
from protocols.records import guarded, unguarded

TABLE = "ledger"
"""Of the store: entries, certificates, links, snapshots, each guarded (records.py)."""

KEEP_BYTES = 16 << 20
"""Of the newest payloads in memory, where the others can be read: an hour of 20 entries a second
of 200 bytes, which is what daemons that were away ask for."""
KEEP_HASHES = 1 << 16
"""Of the newest entries in memory, likewise: 2 MB. A year of ticks would be 500 MB."""


def entry_key(index: int) -> bytes:
    """Of the record of an entry."""
    return b"e" + index.to_bytes(8, "big")


def entry_index(key: bytes) -> int | None:
    """Whose record a key is of, if it is an entry's."""
    return int.from_bytes(key[1:], "big") if key[:1] == b"e" and len(key) == 9 else None


def entry_record(index: int, digest: bytes, payload: bytes) -> bytes:
    """The record of an entry: its chain hash, which proofs of later entries need, and its bytes."""
    return guarded(TABLE, entry_key(index), digest + payload)


def read_entry(key: bytes, record: bytes | None) -> tuple[bytes, bytes]:
    """The chain hash and the bytes of an entry; DamagedRecordError."""
    value = unguarded(TABLE, key, record or b"")
    return value[:HASH_LENGTH], value[HASH_LENGTH:]


class EntryLog(Protocol):
    """What a follower asks of the place where entries are. Raises NotHeldError below `base`."""

    @property
    def base(self) -> int:
        """The lowest index whose payload is held."""

    @property
    def size(self) -> int:
        """The index after the highest one."""

    def begin(self, spine: Spine, base: int | None = None) -> None:
        """The next entry follows the head of `spine`; from `base` on the disk has those before."""

    def append(self, digest: bytes, payload: bytes) -> None:
        """The next entry, with its chain hash."""

    def hash(self, index: int) -> bytes:
        """The chain hash at an index; DamagedRecordError where the disk changed it."""

    def payload(self, index: int) -> bytes:
        """The bytes of an entry; DamagedRecordError where the disk changed them."""

    def prune(self, base: int) -> None:
        """Forget entries below `base`."""


class MemoryLog:
    """Entries in memory, or the newest of them where `read` (key -> record) has the others."""

    __slots__ = ("_ancestors", "_hashes", "_keep", "_payloads", "_read", "_room", "base", "first")

    def __init__(
        self, read: Callable[[bytes], bytes | None] | None = None, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self._read = read
        self._keep = keep_bytes
        self._hashes = bytearray()
        self._payloads: deque[bytes] = deque()
        self._ancestors: dict[int, bytes] = {}
        self._room = keep_bytes
        self.first = 0
        """The index of the first hash in memory."""
        self.base = 0

    @property
    def size(self) -> int:
        """The index after the highest one."""
        return self.first + len(self._hashes) // HASH_LENGTH

    def begin(self, spine: Spine, base: int | None = None) -> None:
        """The next entry follows the head of `spine`; from `base` on the disk has those before."""
        self._hashes.clear()
        self._payloads.clear()
        self._room = self._keep
        self._ancestors = dict(spine.ancestors)
        self.first = spine.head.index + 1
        self.base = self.first if base is None else base

    def append(self, digest: bytes, payload: bytes) -> None:
        """The next entry, with its chain hash."""
        self._hashes += digest
        self._payloads.append(payload)
        self._room -= len(payload)
        if self._read is None:
            return
        while self._room < 0 and len(self._payloads) > 1:
            self._room += len(self._payloads.popleft())
        if len(self._hashes) >= 2 * KEEP_HASHES * HASH_LENGTH:
            del self._hashes[: KEEP_HASHES * HASH_LENGTH]
            self.first += KEEP_HASHES

    def hash(self, index: int) -> bytes:
        """The chain hash at an index; DamagedRecordError where the disk changed it."""
        if index >= self.first and index < self.size:
            at = (index - self.first) * HASH_LENGTH
            return bytes(self._hashes[at : at + HASH_LENGTH])
        if index in self._ancestors:
            return self._ancestors[index]
        if not self.base <= index < self.size:
            raise NotHeldError(f"we hold no hash at index {index}")
        return self._on_disk(index)[0]

    def payload(self, index: int) -> bytes:
        """The bytes of an entry; DamagedRecordError where the disk changed them."""
        if not self.base <= index < self.size:
            raise NotHeldError(f"entry {index} is not held here: only {self.base} to {self.size}")
        ago = self.size - index
        return self._payloads[-ago] if ago <= len(self._payloads) else self._on_disk(index)[1]

    def _on_disk(self, index: int) -> tuple[bytes, bytes]:
        key = entry_key(index)
        return read_entry(key, None if self._read is None else self._read(key))

    def prune(self, base: int) -> None:
        """Forget entries below `base`; the hashes that short cuts still lead to are kept."""
        base = min(base, self.size)
        if base <= self.base:
            return
        kept, index = dict(self._ancestors), base - 1
        while index > 0:
            kept[index] = self.hash(index)
            index = skip_index(index)
        self._ancestors = {index: digest for index, digest in kept.items() if index < base}
        self.base = base
        while len(self._payloads) > self.size - self.base:
            self._room += len(self._payloads.popleft())


def header_at(log: EntryLog, index: int, epoch: int) -> Header:
    """The header of an entry. Raises as `hash` and `payload` do."""
    prev, skip = log.hash(index - 1), log.hash(skip_index(index))
    return Header(epoch, index, prev, skip, payload_hash(log.payload(index)))
