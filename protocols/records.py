"""Records of a table that tell when the disk has changed them.

    record = first 16 bytes of sha256(domain ‖ table ‖ key ‖ value) ‖ value

The checksum covers where the record belongs: a sector that a disk wrote in the wrong place reads
back whole, and says something else (misdirected writes: Bairavasundaram et al., "An analysis of
data corruption in the storage stack", FAST 2008). It is no signature: what an owner edits on
purpose is caught by what the ledger itself proves, its chain and its certificates.
"""

import hashlib

from protocols.errors import MalformedError

CHECKSUM_LENGTH = 16
"""Bytes: accidents are caught by far fewer; these cost nothing beside an entry."""


class DamagedRecordError(MalformedError):
    """A record that is not what was written there."""

    code = "damaged-record"

    def __init__(self, table: str, key: bytes) -> None:
        super().__init__(
            f"the record {key.hex()} of table {table!r} is damaged",
            remedy="the disk lost or changed it; it is fetched again from peers",
        )
        self.key = key


def _checksum(table: str, key: bytes, value: bytes) -> bytes:
    name = table.encode()
    head = b"synapse record\0%c%b%c%b" % (len(name), name, len(key), key)
    return hashlib.sha256(head + value).digest()[:CHECKSUM_LENGTH]


def guarded(table: str, key: bytes, value: bytes) -> bytes:
    """The record of `value` under `key` (at most 255 bytes)."""
    return _checksum(table, key, value) + value


def unguarded(table: str, key: bytes, record: bytes) -> bytes:
    """The value in a record; DamagedRecordError where it is torn, flipped or another's."""
    value = record[CHECKSUM_LENGTH:]
    if len(record) < CHECKSUM_LENGTH or _checksum(table, key, value) != record[:CHECKSUM_LENGTH]:
        raise DamagedRecordError(table, key)
    return value
