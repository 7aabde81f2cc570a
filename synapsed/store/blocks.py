"""Blocks: small immutable bytes named by their CID, one file each."""

import contextlib
import threading
from pathlib import Path

from protocols.cid import DAG_CBOR, check_block, cid_of, cid_text, is_cid, parse_cid
from protocols.codec import MAX_BLOCK
from protocols.errors import LimitError, MalformedError, NotHeldError
from synapsed.store.disk import fsync_dir, write_atomic
from synapsed.store.errors import DamagedError, DiskError, disk_errors
from synapsed.store.quota import OnEvent, Quota

DAMAGED = ".damaged"


class Blocks:
    """The blocks below one folder. Safe between threads."""

    def __init__(self, folder: Path, tmp: Path, quota: Quota, on_event: OnEvent) -> None:
        self._folder, self._tmp, self._quota = folder, tmp, quota
        self._on_event = on_event
        self._lock = threading.RLock()
        self._sizes: dict[bytes, int] = {}
        self._damaged: set[bytes] = set()
        with disk_errors(folder, "listing"):
            for path in folder.glob("*/*"):
                with contextlib.suppress(MalformedError):  # a stray file is not ours
                    cid = parse_cid(path.name.removesuffix(DAMAGED))
                    if path.name.endswith(DAMAGED):
                        self._damaged.add(cid)
                    else:
                        self._sizes[cid] = path.stat().st_size
        quota.found(sum(self._sizes.values()))

    def _path(self, cid: bytes) -> Path:
        text = cid_text(cid)
        return self._folder / text[-2:] / text

    def put(self, data: bytes, codec: int = DAG_CBOR, *, durable: bool = True) -> bytes:
        """Keep a block; its CID. Raises LimitError, QuotaExceededError, DiskFullError.

        It is on disk on return unless `durable` is false: a power cut may then lose it, which
        is noticed when it is read.
        """
        if len(data) > MAX_BLOCK:
            raise LimitError(f"a block of {len(data)} bytes where {MAX_BLOCK} are allowed")
        cid = cid_of(data, codec)
        with self._lock:
            if cid not in self._sizes:
                self._quota.charge(len(data))
                try:
                    self._write(self._path(cid), data, durable)
                except BaseException:
                    self._quota.refund(len(data))
                    raise
                self._sizes[cid] = len(data)
                self._mended(cid)
        return cid

    def _write(self, path: Path, data: bytes, durable: bool) -> None:
        with disk_errors(path.parent, "making"):
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                fsync_dir(self._folder)
        write_atomic(path, data, self._tmp, durable=durable)

    def get(self, cid: bytes) -> bytes:
        """A block's bytes, verified. Raises NotHeldError; DamagedError once, then forgets it."""
        if cid not in self._sizes:
            raise NotHeldError(f"block {cid_text(cid) if is_cid(cid) else cid!r} is not held")
        try:
            with disk_errors(self._path(cid), "reading"):
                data = self._path(cid).read_bytes()
            check_block(cid, data)
        except (MalformedError, DiskError) as error:
            self._set_aside(cid)
            self._on_event("store.block-lost", block=cid_text(cid), why=error.message)
            raise DamagedError(
                f"block {cid_text(cid)} was damaged on disk: {error.message}",
                remedy="it was forgotten; fetch it again",
            ) from error
        return data

    def _set_aside(self, cid: bytes) -> None:
        """Forget a damaged block, but not that it was here: its absence must not free files."""
        path = self._path(cid)
        with self._lock, disk_errors(path, "setting aside"):
            size = self._sizes.pop(cid, 0)
            if size:
                self._damaged.add(cid)
                self._aside(cid).touch()
                path.unlink(missing_ok=True)
                self._quota.refund(size)

    def _aside(self, cid: bytes) -> Path:
        path = self._path(cid)
        return path.with_name(path.name + DAMAGED)

    def is_damaged(self, cid: bytes) -> bool:
        """Whether the block was here, was found damaged, and was not put again since."""
        return cid in self._damaged

    def has(self, cid: bytes) -> bool:
        """Whether the block is here (its bytes are verified when they are read)."""
        return cid in self._sizes

    def size(self, cid: bytes) -> int:
        """Bytes of a block; 0 where it is not held."""
        return self._sizes.get(cid, 0)

    def _mended(self, cid: bytes) -> None:
        if cid in self._damaged:
            self._damaged.discard(cid)
            with disk_errors(self._path(cid), "mending"):
                self._aside(cid).unlink(missing_ok=True)

    def delete(self, cid: bytes) -> int:
        """Forget a block; how many bytes it had (0 where it is not held)."""
        with self._lock:
            self._mended(cid)
            size = self._sizes.pop(cid, 0)
            if size:
                with disk_errors(self._path(cid), "removing"):
                    self._path(cid).unlink(missing_ok=True)
                self._quota.refund(size)
        return size

    def cids(self) -> list[bytes]:
        """The CIDs of all blocks, sorted."""
        return sorted(self._sizes.copy())
