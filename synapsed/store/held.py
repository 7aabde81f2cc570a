"""One file that is held, wholly or in part.

    <files>/<root in hex>/layout   its Shape (never changes)
                          data     its bytes, sparse where they are not held
                          hashes   leaf hashes, as far as they are known
                          record   which leaves are held

Rules of this file:
1. No byte is written to `data` that does not hash to its leaf.
2. `data` is durable before `record` says so, and `record` says so before bytes are dropped.
   So whatever a crash leaves, the record is a subset of what is there.
3. `have` is what can be read now; what is in it and not on record yet is what `commit` saves.
4. `_lock` is never held while the disk is waited for, so looking is cheap at any time.
5. No byte leaves that does not hash to its leaf: what the disk has spoiled is forgotten when it
   is read, and nobody is sent it. Bytes are copied out, not mapped: a bad sector below a mapping
   kills the process that touches it.
"""

import contextlib
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

from protocols.errors import MalformedError, NotHeldError
from protocols.tensors.tensorblock import (
    LEAVES_OF_TILE,
    BlockTree,
    Layout,
    Section,
    bad_leaves,
    hash_run,
)
from synapsed.hashing import HASHER
from synapsed.store.disk import (
    Bytes,
    Source,
    sync_data,
    write_all,
)
from synapsed.store.errors import (
    DamagedError,
    DiskError,
    LeafMismatchError,
    StoreError,
    disk_errors,
)
from synapsed.store.leafhashes import LeafHashes
from synapsed.store.quota import OnEvent, Quota
from synapsed.store.record import Record
from synapsed.store.runs import Run, Runs
from synapsed.store.shape import Shape, decode_shape


class HeldFile:
    """A file in the store. Safe between threads; made by `Store.create` and `Store.file` only."""

    def __init__(self, folder: Path, quota: Quota, tmp: Path, on_event: OnEvent) -> None:
        """Open what a folder holds. Raises DamagedError where it cannot be believed."""
        self._folder = folder
        self._data = folder / "data"
        self._quota = quota
        self._on_event = on_event
        self._shape = self._read_shape()
        self._hashes = LeafHashes(folder / "hashes", self.layout, self._shape.nodes)
        self._record = Record(folder / "record", self.root, tmp)
        self._tree: BlockTree | None = None
        self._lock = threading.Lock()  # guards the fields below
        self._saving = threading.Lock()  # one commit or drop at a time; taken before _lock
        self._pending = Runs()
        self._drops = 0
        self._dropping = False
        found = self._record.open(self.layout.leaf_count)
        self._have = found.held
        quota.found(self._shape.fixed_bytes + self.bytes_of(self._have))
        self._mend_length()
        if found.doubtful:  # a drop may have been lost, so believe only what verifies
            self.verify(lambda _count: None)

    def _read_shape(self) -> Shape:
        try:
            with disk_errors(self._folder, "opening"):
                shape = decode_shape((self._folder / "layout").read_bytes())
        except (MalformedError, StoreError) as error:
            raise DamagedError(f"{self._folder}: {error}") from error
        if shape.root.hex() != self._folder.name:
            raise DamagedError(f"{self._folder} holds another file's layout")
        return shape

    def _mend_length(self) -> None:
        """Where `data` was cut off or lost, forget what is behind the cut."""
        with disk_errors(self._data, "opening"):
            fd = os.open(self._data, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                length = os.fstat(fd).st_size
                if length != self.size:
                    os.ftruncate(fd, self.size)
            finally:
                os.close(fd)
        if length < self.size:
            self._forget(Runs([(self.layout.leaf_at(length), self.layout.leaf_count)]))

    # What it is.

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._shape.size

    @property
    def root(self) -> bytes:
        """The root of its hash tree: the file's name."""
        return self._shape.root

    @property
    def layout(self) -> Layout:
        """Its sections, leaves and tiles."""
        return self._shape.layout

    @property
    def header(self) -> bytes:
        """The safetensors header (length and JSON); empty for a flat file."""
        return self._shape.header

    @property
    def nodes(self) -> list[bytes]:
        """The nodes of all its sections."""
        return self._shape.nodes

    @property
    def path(self) -> Path:
        """The file's bytes; to be opened for reading only."""
        return self._data

    @property
    def have(self) -> Runs:
        """The leaves that can be read now: a copy, which does not change."""
        with self._lock:
            return self._have.copy()

    def has(self, lo: int, hi: int) -> bool:
        """Whether the leaves [lo, hi) can all be read now."""
        with self._lock:
            return self._have.covers(lo, hi)

    @property
    def complete(self) -> bool:
        """Whether every byte can be read."""
        return self._have.count == self.layout.leaf_count

    @property
    def held_bytes(self) -> int:
        """Bytes of the file that can be read."""
        with self._lock:
            return self.bytes_of(self._have)

    @property
    def fixed_bytes(self) -> int:
        """Bytes that it takes of the quota, however little of it is held."""
        return self._shape.fixed_bytes

    def bytes_of(self, runs: Runs) -> int:
        """How many bytes these leaves have."""
        return sum(self._shape.bytes_of(lo, hi) for lo, hi in runs)

    def missing(self, lo: int = 0, hi: int | None = None) -> list[Run]:
        """The runs of leaves of [lo, hi) that are not held."""
        with self._lock:
            return self._have.missing(lo, self.layout.leaf_count if hi is None else hi)

    # Leaf hashes and proofs.

    def knows(self, section: int) -> bool:
        """Whether the leaf hashes of a section are here, so that its leaves can be checked."""
        return self._hashes.knows(section)

    def put_leaf_hashes(self, section: int, hashes: bytes) -> None:
        """Keep the leaf hashes of a section. MismatchError unless they make its node."""
        self._hashes.put(section, hashes)

    def section_hashes(self, section: int) -> bytes:
        """All leaf hashes of a section, one behind the other. Raises HashesUnknownError."""
        return self._hashes.of_section(section)

    def leaf_hashes(self, lo: int, hi: int) -> bytes:
        """The hashes of the leaves [lo, hi), one behind the other. Raises HashesUnknownError."""
        return self._hashes.of_run(lo, hi)

    def prove(self, lo: int, hi: int) -> list[bytes]:
        """The proof that the leaves [lo, hi) are the file's. Raises HashesUnknownError."""
        if self._tree is None:
            self._tree = BlockTree(HASHER, self.layout, self.nodes, self.section_hashes)
        return self._tree.prove(lo, hi)

    # Bytes in.

    def write(self, lo: int, data: Bytes) -> int:
        """Keep whole leaves, from `lo` on, whose bytes are `data`; how many were new.

        Good ones are kept even where others are bad. Raises LeafMismatchError naming the bad
        ones, HashesUnknownError, QuotaExceededError before anything is written, DiskFullError.
        """
        hi = self._end_of(lo, len(data))
        bad = bad_leaves(HASHER, self.layout, lo, memoryview(data), self.leaf_hashes(lo, hi))
        good = Runs([(lo, hi)])
        for leaf in bad:
            good.remove(leaf, leaf + 1)
        base = self.layout.leaf_span(lo)[0]
        new = sum(self._keep(run, memoryview(data), base) for run in good)
        if bad:
            raise LeafMismatchError(bad, self.root.hex())
        return new

    def _end_of(self, lo: int, length: int) -> int:
        start = self.layout.leaf_span(lo)[0]
        hi = self.layout.leaf_at(start + length - 1) + 1 if length else lo
        if hi <= lo or self._shape.bytes_of(lo, hi) != length:
            raise MalformedError(f"{length} bytes are not whole sub-tiles from {lo} on")
        return hi

    def _keep(self, run: Run, data: memoryview, base: int) -> int:
        """Write those leaves of `run` that are not held; `data` begins at the byte `base`."""
        new = 0
        while True:
            with self._lock:
                drops, missing = self._drops, self._have.missing(*run)
                dropping = self._dropping
            if not missing:
                return new
            if dropping:  # it may take away what would be written now
                with self._saving:
                    continue
            for gap in missing:
                new += self._write_verified(gap, data, base, drops)

    def _write_verified(self, run: Run, data: memoryview, base: int, drops: int) -> int:
        """Write a run and hold it, unless a drop came in between; how many leaves were new."""
        start, stop = self.layout.run_span(*run)
        self._quota.charge(stop - start)
        fresh = Runs()
        try:
            with disk_errors(self._data, "writing"):
                fd = os.open(self._data, os.O_WRONLY)
                try:
                    write_all(fd, data[start - base : stop - base], start)
                finally:
                    os.close(fd)
            with self._lock:
                if drops == self._drops:
                    # Another thread may have brought the same leaves meanwhile.
                    fresh = Runs(self._have.missing(*run))
                    for part in fresh:
                        self._have.add(*part)
                        self._pending.add(*part)
        finally:
            self._quota.refund(stop - start - self.bytes_of(fresh))
        return fresh.count

    def commit(self) -> None:
        """Make everything written so far durable, then put it on record.

        Raises DiskFullError or DiskError; what was to be saved is then forgotten, since nobody
        knows which of it the disk has.
        """
        with self._saving:
            with self._lock:
                saving, self._pending = self._pending, Runs()
            if not saving:
                return
            try:
                sync_data(self._data)
                self._hashes.sync()
                self._record.held(list(saving))
            except StoreError:
                self._unkeep(saving)
                raise

    def _unkeep(self, runs: Runs) -> None:
        with self._lock:
            for run in runs:
                self._pending.remove(*run)
                self._have.remove(*run)
        self._quota.refund(self.bytes_of(runs))

    # Bytes out.

    def read(self, lo: int, hi: int) -> bytes:
        """The bytes of the leaves [lo, hi), verified.

        Raises NotHeldError, LeafRangeError, HashesUnknownError; DamagedError where some of them
        are not what was written (they are forgotten, so that they are fetched again).
        """
        start, stop = self.layout.run_span(lo, hi)
        if not self.has(lo, hi):
            raise NotHeldError(f"sub-tiles [{lo}, {hi}) of {self.root.hex()} are not held")
        expected = self.leaf_hashes(lo, hi)
        with contextlib.suppress(DiskError, MalformedError):
            with Source(self._data) as source:
                data = source.read(start, stop)
            if hash_run(HASHER, self.layout, lo, hi, data) == expected:
                return data
        bad = self._forget_bad(lo, hi)
        raise DamagedError(
            f"{bad} of the sub-tiles [{lo}, {hi}) of {self.root.hex()} were damaged on disk",
            remedy="they were forgotten; pull the model again",
        )

    def _forget_bad(self, lo: int, hi: int) -> int:
        """Forget those of [lo, hi) that the disk does not have any more; how many there were."""
        before = self.have.count
        self._mend_length()
        bad = Runs()
        with Source(self._data) as source:
            for section in self.layout.sections_of_run(lo, hi):
                first, end = max(lo, section.first_leaf), min(hi, section.end_leaf)
                for run in self.have.within(first, end):
                    self._verify_run(section, run, source, bad)
        self._forget(bad)
        count = before - self.have.count
        self._on_event("store.damaged", file=self.root.hex(), leaves=count)
        return count

    # Letting go.

    def drop(self, lo: int, hi: int) -> int:
        """Hold the leaves [lo, hi) no more and give their space back; how many there were."""
        return self._forget(Runs([(lo, hi)]))

    def drop_all(self, runs: Runs) -> int:
        """`drop` of many runs at once."""
        return self._forget(runs)

    def _forget(self, runs: Runs) -> int:
        """In memory, on record, on disk: whichever fails, nothing is believed that is not so."""
        with self._saving:
            with self._lock:
                gone = Runs(part for run in runs for part in self._have.within(*run))
                if not gone:
                    return 0
                self._drops += 1
                self._dropping = True
                for part in gone:
                    self._have.remove(*part)
                    self._pending.remove(*part)
            try:
                self._quota.refund(self.bytes_of(gone))
                self._record.dropped(list(gone))
                for part in gone:
                    self._punch(part)
            finally:
                self._dropping = False
        return gone.count

    def _punch(self, run: Run) -> None:
        """Give whole pages of a dropped run back to the file system, where it can do that."""
        start, stop = self.layout.run_span(*run)
        start += -start % mmap.PAGESIZE
        stop -= stop % mmap.PAGESIZE
        if start >= stop:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._data, os.O_RDWR)
            try:
                with mmap.mmap(fd, self.size) as mapping:
                    mapping.madvise(mmap.MADV_REMOVE, start, stop - start)
            finally:
                os.close(fd)

    def verify(self, progress: Callable[[int], None]) -> list[int]:
        """Read every held leaf from the disk; forget those that are bad, and name them.

        `progress` is told of bytes read. Where a section's leaf hashes were lost they are made
        again if all of it is held; otherwise its leaves cannot be checked, and count as bad.
        """
        self._mend_length()
        held = self.have
        bad = Runs()
        with Source(self._data) as source:
            for section in self.layout.sections:
                runs = held.within(section.first_leaf, section.end_leaf)
                if runs and not self.knows(section.index):
                    self._rebuild_hashes(section, source)
                for run in runs:
                    self._verify_run(section, run, source, bad)
                    progress(self._shape.bytes_of(*run))
        self._forget(bad)
        return [leaf for lo, hi in bad for leaf in range(lo, hi)]

    def _verify_run(self, section: Section, run: Run, source: Source, bad: Runs) -> None:
        if not self.knows(section.index):
            bad.add(*run)
            return
        for lo in range(*run, LEAVES_OF_TILE):
            for leaf in self._bad_of(lo, min(lo + LEAVES_OF_TILE, run[1]), source):
                bad.add(leaf, leaf + 1)

    def _bad_of(self, lo: int, hi: int, source: Source) -> list[int]:
        try:
            data = source.read(*self.layout.run_span(lo, hi))
        except (DiskError, MalformedError):
            if hi - lo == 1:
                return [lo]
            # An unreadable sector, or a cut: the others may still be good.
            return [bad for leaf in range(lo, hi) for bad in self._bad_of(leaf, leaf + 1, source)]
        return bad_leaves(HASHER, self.layout, lo, data, self.leaf_hashes(lo, hi))

    def _rebuild_hashes(self, section: Section, source: Source) -> None:
        """Make a section's lost leaf hashes again from its bytes, if they still make its node."""
        lo, hi = section.first_leaf, section.end_leaf
        if not self.has(lo, hi):
            return
        with contextlib.suppress(DiskError, MalformedError):
            starts = range(lo, hi, LEAVES_OF_TILE)
            runs = [(at, min(at + LEAVES_OF_TILE, hi)) for at in starts]
            span = self.layout.run_span
            hashes = [hash_run(HASHER, self.layout, *run, source.read(*span(*run))) for run in runs]
            self._hashes.put(section.index, b"".join(hashes))
            self._hashes.sync()

    def forget_all(self) -> int:
        """Take everything off the quota, once the folder is gone; how many bytes it was."""
        with self._lock:
            freed = self._shape.fixed_bytes + self.bytes_of(self._have)
            self._have, self._pending = Runs(), Runs()
        self._quota.refund(freed)
        return freed
