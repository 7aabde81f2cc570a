"""The store: blocks and files by hash, what is pinned, and what the machines save.

    <root>/format     which version wrote it
           lock       held while a process has it open
           state.db   pins and tables (db.py)
           blocks/    manifests: <last two letters>/<cid> (blocks.py)
           files/     held files: <tree root in hex>/ (held.py)
           tmp/       unfinished work; emptied on opening

Every call is synchronous and safe between threads; those that write also fsync, so callers on
an event loop run them in a thread. `on_event(kind, **fields)` is called on the caller's thread.
"""

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protocols.cid import DAG_CBOR
from protocols.errors import (
    LimitError,
    MalformedError,
    MismatchError,
    NotHeldError,
    RefusedError,
)
from protocols.manifest import FileRef, Manifest, decode_manifest
from synapsed.store.blocks import Blocks
from synapsed.store.collect import GcReport, ScrubReport, collect, reached_bytes, scrub
from synapsed.store.db import CorruptDatabaseError, Database, Pin, Table, set_aside
from synapsed.store.disk import aside, fsync_dir, write_atomic
from synapsed.store.errors import (
    DamagedError,
    StoreLockedError,
    StoreVersionError,
    disk_errors,
)
from synapsed.store.held import HeldFile
from synapsed.store.quota import OnEvent, Quota
from synapsed.store.reasons import FOUND
from synapsed.store.shape import Shape, describes
from synapsed.store.staging import recover, stage

FORMAT = b"synapsed store 1\n"
_SEEN = b"pins"


def _ignore(_kind: str, **_fields: object) -> None:
    """For callers that do not listen."""


def _unwatched(_count: int) -> None:
    """For callers that do not watch."""


class Keep:
    """Names (CIDs and file roots) that `gc` spares while some work is under way."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.names: set[bytes] = set()

    def add(self, name: bytes) -> None:
        """Spare `name` from now on; waits for a collection that is running (so: in a thread)."""
        with self._lock:
            self.names.add(name)


class Store:
    """An open store."""

    def __init__(self, root: Path, quota: int, on_event: OnEvent) -> None:
        """For `Store.open`."""
        self.root = root
        self._tmp = root / "tmp"
        self._on_event = on_event
        self._lock = threading.RLock()  # while the sets of blocks and files change
        self._keeps: list[Keep] = []
        self._files: dict[bytes, HeldFile] = {}
        self.quota = Quota(quota, on_event)
        with disk_errors(root, "opening the store"):
            for name in ("", "blocks", "files"):
                (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = self._take_lock()
        try:
            self._clear_tmp()
            self._check_format()
            self._db = self._open_database()
            self._blocks = Blocks(root / "blocks", self._tmp, self.quota, on_event)
            self._find_files()
            self._keep_where_pins_were_lost()
        except BaseException:
            os.close(self._lock_fd)
            raise

    @classmethod
    def open(cls, root: Path, quota: int, *, on_event: OnEvent = _ignore) -> "Store":
        """Open the store in the folder `root`, made if need be; `quota` in bytes.

        Damage is repaired where it can be (and told as an event), and forgotten otherwise, so
        that what is missing is fetched again. Raises StoreVersionError, StoreLockedError,
        DiskError.
        """
        return cls(root, quota, on_event)

    def _take_lock(self) -> int:
        with disk_errors(self.root, "locking the store"):
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise StoreLockedError(
                    f"another process has the store {self.root} open",
                    remedy="stop the other daemon, or use another home folder",
                ) from None
        return fd

    def _clear_tmp(self) -> None:
        with disk_errors(self._tmp, "clearing"):
            shutil.rmtree(self._tmp, ignore_errors=True)
            self._tmp.mkdir(mode=0o700, exist_ok=True)

    def _check_format(self) -> None:
        path = self.root / "format"
        if not path.exists():
            write_atomic(path, FORMAT, self._tmp)
        with disk_errors(path, "reading"):
            found = path.read_bytes()
        if found != FORMAT:
            raise StoreVersionError(
                f"{path} says {found[:40]!r}, this daemon writes {FORMAT!r}",
                remedy="run the daemon that wrote it, or use another home folder",
            )

    def _open_database(self) -> Database:
        path = self.root / "state.db"
        try:
            return Database(path)
        except CorruptDatabaseError as error:
            kept = set_aside(path)
            self._on_event("store.database-lost", why=error.message, kept=str(kept))
            return Database(path)

    def _find_files(self) -> None:
        with disk_errors(self.root / "files", "listing"):
            folders = sorted((self.root / "files").iterdir())
        for folder in folders:
            held = self._open_file(folder)
            if held is not None:
                self._files[held.root] = held

    def _open_file(self, folder: Path) -> HeldFile | None:
        try:
            return HeldFile(folder, self.quota, self._tmp, self._on_event)
        except DamagedError as error:
            if recover(folder, self._tmp):
                self._on_event("store.file-recovered", file=folder.name, why=error.message)
                return HeldFile(folder, self.quota, self._tmp, self._on_event)
            self._on_event("store.file-lost", file=folder.name, why=error.message)
            self.delete_detached([self._detach(folder)])
            return None

    def _keep_where_pins_were_lost(self) -> None:
        """A database that never saw these blocks may lack their pins: the owner removes, not we."""
        table = self._db.table("store")
        if table.get(_SEEN) is not None:
            return
        with self.saving():
            for cid in self.list_blocks():
                if self.manifest_of(cid) is not None:
                    self.pin(cid, FOUND)
            table.put(_SEEN, b"")

    def close(self) -> None:
        """Let other processes open the store."""
        if self._lock_fd < 0:
            return
        self._db.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    # Blocks.

    def put_block(self, data: bytes, codec: int = DAG_CBOR, *, durable: bool = True) -> bytes:
        """Keep a block; its CID. Raises LimitError, QuotaExceededError, DiskFullError.

        It is on disk on return unless `durable` is false: a power cut may then lose it, which
        is noticed when it is read.
        """
        return self._blocks.put(data, codec, durable=durable)

    def get_block(self, cid: bytes) -> bytes:
        """A block's bytes, verified. Raises NotHeldError; DamagedError once, then forgets it."""
        return self._blocks.get(cid)

    def has_block(self, cid: bytes) -> bool:
        """Whether the block is here (its bytes are verified when they are read)."""
        return self._blocks.has(cid)

    def block_size(self, cid: bytes) -> int:
        """Bytes of a block; 0 where it is not held."""
        return self._blocks.size(cid)

    def is_damaged(self, cid: bytes) -> bool:
        """Whether the block was here, was found damaged, and was not put again since."""
        return self._blocks.is_damaged(cid)

    def delete_block(self, cid: bytes) -> int:
        """Forget a block; how many bytes it had."""
        return self._blocks.delete(cid)

    def list_blocks(self) -> list[bytes]:
        """The CIDs of all blocks, sorted."""
        return self._blocks.cids()

    def manifest_of(self, cid: bytes) -> Manifest | None:
        """The manifest that a held block is; None where it is none, or not held."""
        with contextlib.suppress(MalformedError, LimitError, NotHeldError, RefusedError):
            return decode_manifest(self.get_block(cid))
        return None

    # Files.

    def create(self, ref: FileRef, header: bytes | None, nodes: list[bytes]) -> HeldFile:
        """Begin to hold a file, of which only its header is here then; or find it held already.

        `header` is the safetensors header with its 8 bytes of length, None for a flat file;
        `nodes` are all section nodes. Raises the header's errors, MismatchError,
        QuotaExceededError, DiskFullError.
        """
        if (held := self.file_of(ref)) is not None:
            return held
        if self.file(ref.root) is not None:
            raise MismatchError(
                f"the manifest gives {ref.path!r} another size or layout than the file has",
                remedy="whoever made this manifest lies; do not use it",
            )
        return self.create_shape(Shape(ref.size, ref.root, ref.layout, header, nodes))

    def create_shape(self, shape: Shape) -> HeldFile:
        """Begin to hold a file whose Shape is known; or find it held already."""
        with self._lock:
            if shape.root in self._files:
                return self._files[shape.root]
            self.quota.check_room(shape.fixed_bytes + len(shape.header))
            folder = self.root / "files" / shape.root.hex()
            new = self._tmp / folder.name
            with disk_errors(folder, "creating"):
                try:
                    stage(new, shape)
                    os.rename(new, folder)
                except OSError:
                    shutil.rmtree(new, ignore_errors=True)
                    raise
                fsync_dir(folder.parent)
            held = HeldFile(folder, self.quota, self._tmp, self._on_event)
            self._files[shape.root] = held
            return held

    def file(self, root: bytes) -> HeldFile | None:
        """The file with this tree root, if any of it is held."""
        return self._files.get(root)

    def file_of(self, ref: FileRef) -> HeldFile | None:
        """The file that a manifest speaks of, if any of it is held, and is what it says."""
        held = self.file(ref.root)
        return held if held is not None and describes(ref, held.size, held.layout) else None

    def files(self) -> list[HeldFile]:
        """All held files, sorted by root."""
        return [held for _, held in sorted(self._files.copy().items())]

    def remove_file(self, root: bytes) -> int:
        """Forget a file; how many bytes that freed."""
        with self._lock:
            freed, gone = self.detach_file(root)
        self.delete_detached(gone)
        return freed

    def detach_file(self, root: bytes) -> tuple[int, list[Path]]:
        """The quick half of removing a file: (bytes freed, what is to be deleted)."""
        held = self._files.get(root)
        if held is None:
            return 0, []
        gone = self._detach(self.root / "files" / root.hex())
        del self._files[root]
        return held.forget_all(), [gone]

    def _detach(self, folder: Path) -> Path:
        """Take a folder away, at once as far as a crash is concerned."""
        gone = aside(self._tmp)
        with disk_errors(folder, "removing"):
            os.rename(folder, gone)
            fsync_dir(folder.parent)
        return gone

    @staticmethod
    def delete_detached(gone: Iterable[Path]) -> None:
        """The slow half. What cannot be deleted now is when the store is next opened."""
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # Pins and tables.

    def pin(self, cid: bytes, reason: str) -> None:
        """Keep what the manifest `cid` reaches, from before it is here if need be."""
        with self._lock:
            self._db.pin(cid, reason)

    def unpin(self, cid: bytes, reason: str | None = None) -> int:
        """Take one reason, or all of them, away; how many there were."""
        with self._lock:
            return self._db.unpin(cid, reason)

    def pins(self) -> list[Pin]:
        """All pins (cid, reason), sorted."""
        return self._db.pins()

    @contextmanager
    def keeping(self) -> Iterator[Keep]:
        """What is added to the Keep is spared by `gc` until the block ends."""
        keep = Keep(self._lock)
        self._keeps.append(keep)  # without the lock, which a collection holds for long
        try:
            yield keep
        finally:
            self._keeps.remove(keep)

    def table(self, name: str, *, durable: bool = True) -> Table:
        """What one machine saves: get, put, delete, items. Durable ones sync at each put."""
        return self._db.table(name, durable=durable)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """All puts, deletes and pins inside are saved as one, or none of them."""
        with self._db.transaction():
            yield

    # Care.

    @contextmanager
    def collecting(self) -> Iterator[set[bytes]]:
        """While something is taken away: nobody else pins or begins to hold anything. The names
        that work under way keeps."""
        with self._lock:
            yield self.kept()

    def kept(self) -> set[bytes]:
        """The names (CIDs and file roots) that work under way keeps just now."""
        return {name for keep in list(self._keeps) for name in keep.names}

    def gc(self, only: Collection[bytes] | None = None) -> GcReport:
        """Remove what no pinned manifest reaches and no work in progress keeps.

        With `only`, of those CIDs and file roots alone.
        """
        with self.collecting() as spared:
            report, gone = collect(self, spared, None if only is None else set(only))
        self.delete_detached(gone)  # 100 GB take the file system a second, and nobody waits
        return report

    def reached_bytes(self, cids: Iterable[bytes]) -> int:
        """Bytes of the quota that these manifests take, with all that they reach.

        Raises ManifestDamagedError.
        """
        return reached_bytes(self, cids)

    def scrub(self, progress: Callable[[int], None] = _unwatched) -> ScrubReport:
        """Read and verify all that is held; forget what is bad. `progress` is told of bytes."""
        report = scrub(self, progress)
        if report.bad_leaves or report.bad_blocks:
            self._on_event(
                "store.scrub-found",
                bad_leaves=len(report.bad_leaves),
                bad_blocks=len(report.bad_blocks),
            )
        return report
