"""What can go wrong with the store.

SynapseError
 +- StoreError               the disk, or what stands on it
 |   +- DiskFullError        the file system has no room (or a file-size limit was hit)
 |   +- DiskError            any other error of the operating system
 |   +- StoreVersionError    a store of another version, or no store at all
 |   +- StoreLockedError     another process has it open
 +- LimitError
 |   +- QuotaExceededError   the owner's limit; nothing was written
 +- MismatchError
 |   +- LeafMismatchError    bytes that are not the sub-tiles they were sent as
 +- NotHeldError
     +- HashesUnknownError   a sub-tile cannot be checked before its section's leaf hashes are
     +- DamagedError         it was held, and what is on disk is not it any more
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protocols.errors import LimitError, MismatchError, NotHeldError, SynapseError


class StoreError(SynapseError):
    """The disk, or what stands on it."""

    code = "store"


class DiskFullError(StoreError):
    """The file system has no room left."""

    code = "disk-full"


class DiskError(StoreError):
    """The operating system refused or failed."""

    code = "disk-error"


class StoreVersionError(StoreError):
    """A store that another version of the daemon wrote."""

    code = "store-version"


class StoreLockedError(StoreError):
    """Another process has the store open."""

    code = "store-locked"


class QuotaExceededError(LimitError):
    """The owner's limit on disk space; raised before anything is written."""

    code = "quota-exceeded"

    def __init__(self, used: int, quota: int, need: int) -> None:
        super().__init__(
            f"the store holds {used} of {quota} bytes and {need} more are needed",
            remedy="unpin or remove a model, or raise store.quota",
        )
        self.used, self.quota, self.need = used, quota, need


class LeafMismatchError(MismatchError):
    """Sub-tiles whose bytes do not hash to their leaves; `leaves` are their numbers."""

    code = "leaf-mismatch"

    def __init__(self, leaves: Sequence[int], what: str) -> None:
        shown = ", ".join(str(leaf) for leaf in leaves[:8])
        super().__init__(f"sub-tile {shown} of {what} does not hash to its leaf")
        self.leaves = tuple(leaves)


class HashesUnknownError(NotHeldError):
    """The leaf hashes of a section have not been given yet."""

    code = "hashes-unknown"


class DamagedError(NotHeldError):
    """What is on disk is not what was written; it has been forgotten."""

    code = "damaged"


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into a DiskFullError or DiskError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no room on the disk while {doing} {path}: {error.strerror}",
                remedy="free space on that file system, or move the store to another",
            ) from error
        raise DiskError(
            f"{doing} {path} failed: {error.strerror or error}",
            remedy="check the disk, and that the store belongs to the daemon's user",
        ) from error
