"""The store: blocks and files by hash, quota, pins, and what the machines save.

Use `Store.open`, and what it returns; the other modules are its parts.
"""

from synapsed.store.collect import GcReport, ScrubReport
from synapsed.store.db import Pin, Table
from synapsed.store.errors import (
    DamagedError,
    DiskError,
    DiskFullError,
    HashesUnknownError,
    LeafMismatchError,
    QuotaExceededError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
)
from synapsed.store.held import HeldFile
from synapsed.store.runs import Runs
from synapsed.store.store import Keep, Store

__all__ = [
    "DamagedError",
    "DiskError",
    "DiskFullError",
    "GcReport",
    "HashesUnknownError",
    "HeldFile",
    "Keep",
    "LeafMismatchError",
    "Pin",
    "QuotaExceededError",
    "Runs",
    "ScrubReport",
    "Store",
    "StoreError",
    "StoreLockedError",
    "StoreVersionError",
    "Table",
]
