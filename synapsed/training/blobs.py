"""Deltas, results, outer states and versions of one lineage, on disk.

    <folder>/blobs/<sha256>       what others sent, and what the worker made
             versions/<root>      a group's values (protocols/learn/partition.py)
             tmp/                 unfinished; emptied on opening

A name is there only when its bytes are on disk: written aside, hashed, synced, renamed, and the
folder synced. So an entry that names a blob which `has` says is here survives any crash.
Every call that writes is synchronous, for a thread.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from synapsed.store.disk import Source, aside, fsync_dir, sync_data, write_all
from synapsed.store.errors import disk_errors
from synapsed.store.shape import shape_of_file
from synapsed.training.errors import BlobUnknownError, TooManyBlobsError, WrongBlobError

READ = 1 << 20
"""Bytes read at a time where a file is hashed."""
DIGEST = 32
SPARE_S = 300.0
"""For which nothing that has come is swept, whether anybody names it or not: what is on its way to
a log, to the worker or to a peer is named by whoever it reaches, and that may take a while."""


class Incoming:
    """A blob that is arriving: `write` what comes, then `Blobs.keep` it."""

    def __init__(self, path: Path, digest: bytes, size: int) -> None:
        self.path, self.digest, self.size = path, digest, size
        self.have = 0
        self._hash = hashlib.sha256()
        with disk_errors(path, "writing"):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes) -> None:
        """Raises WrongBlobError for more than was promised, DiskFullError."""
        if self.have + len(data) > self.size:
            raise WrongBlobError(f"more than the {self.size} bytes that were promised")
        with disk_errors(self.path, "writing"):
            write_all(self._fd, data, self.have)
        self._hash.update(data)
        self.have += len(data)

    def finish(self) -> None:
        """Sync it. Raises WrongBlobError where it is not what was promised."""
        if self.have != self.size or self._hash.digest() != self.digest:
            raise WrongBlobError(f"{self.have} bytes that are not {self.digest.hex()[:16]}")
        with disk_errors(self.path, "saving"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Forget it, unless it was kept."""
        os.close(self._fd)
        self.path.unlink(missing_ok=True)


class Blobs:
    """One lineage's folder."""

    def __init__(self, folder: Path, limit: int) -> None:
        """`limit` in bytes: of everything in it. Raises DiskError."""
        self.folder = folder
        self.limit = limit
        self._tmp = folder / "tmp"
        self._blobs = folder / "blobs"
        self._versions = folder / "versions"
        with disk_errors(folder, "preparing"):
            shutil.rmtree(self._tmp, ignore_errors=True)
            for part in (self._tmp, self._blobs, self._versions):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sizes = {
                bytes.fromhex(entry.name): entry.stat().st_size
                for entry in os.scandir(self._blobs)
                if len(entry.name) == 2 * DIGEST
            }
            self._roots = {
                bytes.fromhex(entry.name): entry.stat().st_size
                for entry in os.scandir(self._versions)
                if len(entry.name) == 2 * DIGEST
            }
        self._came = dict.fromkeys((*self._sizes, *self._roots), time.monotonic())
        self.unsynced: set[bytes] = set()
        """Blobs that a power cut may still take."""
        self.promised = 0
        """Bytes that are on their way, and counted as if they were here."""

    # -- looking -----------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes of all that is here or arriving."""
        return sum(self._sizes.values()) + sum(self._roots.values()) + self.promised

    def has(self, digest: bytes) -> bool:
        """Whether a blob is on disk."""
        return digest in self._sizes

    def size(self, digest: bytes) -> int:
        """Bytes of a blob; 0 where it is not here."""
        return self._sizes.get(digest, 0)

    def has_version(self, root: bytes) -> bool:
        """Whether a group's values are here as a file."""
        return root in self._roots

    def version_size(self, root: bytes) -> int:
        """Bytes of a version; 0 where it is not here."""
        return self._roots.get(root, 0)

    def path(self, digest: bytes) -> Path:
        """A blob's file. BlobUnknownError."""
        if digest not in self._sizes:
            raise BlobUnknownError(f"no blob {digest.hex()[:16]} is here")
        return self._blobs / digest.hex()

    def version(self, root: bytes) -> Path:
        """A version's file. BlobUnknownError."""
        if root not in self._roots:
            raise BlobUnknownError(f"no version {root.hex()[:16]} is here")
        return self._versions / root.hex()

    def read(self, digest: bytes) -> bytes:
        """A blob's bytes. BlobUnknownError, DiskError."""
        with Source(self.path(digest)) as source:
            return source.read(0, source.size)

    def aside(self) -> Path:
        """A fresh name for the worker to write to: `take` it, or it is gone with the next start."""
        return aside(self._tmp)

    # -- keeping -----------------------------------------------------------------------------------

    def check_room(self, size: int) -> None:
        """Raise TooManyBlobsError where `size` bytes more are too many."""
        if self.used + size > self.limit:
            raise TooManyBlobsError(
                f"training holds {self.used} of {self.limit} bytes, and {size} more came",
                remedy="raise disk in [training]",
            )

    def begin(self, digest: bytes, size: int) -> Incoming:
        """A blob that will arrive. TooManyBlobsError, DiskError."""
        self.check_room(size)
        incoming = Incoming(self.aside(), digest, size)
        self.promised += size
        return incoming

    def end(self, incoming: Incoming, *, keep: bool) -> None:
        """It is here, or will not come. Raises WrongBlobError, DiskError; then it is not kept."""
        self.promised -= incoming.size
        try:
            if keep:
                incoming.finish()
                self._name(incoming.path, self._blobs, incoming.digest)
                self._add(self._sizes, incoming.digest, incoming.size)
        finally:
            incoming.close()

    def put(self, data: bytes) -> bytes:
        """Keep bytes; their digest."""
        digest = hashlib.sha256(data).digest()
        if not self.has(digest):
            incoming = self.begin(digest, len(data))
            incoming.write(data)
            self.end(incoming, keep=True)
        return digest

    def take(self, path: Path, *, durable: bool = True, believed: bool = False) -> bytes:
        """Keep a file that the worker wrote, and named by its sha256, by moving it; its digest.

        Where it is not `durable`, `sync` it before anybody is told that it is on disk. The name of
        one that is `believed` is not looked at again: a large one, for our own worker.
        """
        if self.has(bytes.fromhex(path.name)):
            self._came[bytes.fromhex(path.name)] = time.monotonic()
            path.unlink(missing_ok=True)  # two groups may have learned the same
            return bytes.fromhex(path.name)
        size = path.stat().st_size
        digest = bytes.fromhex(path.name) if believed else sha256_of(path)
        if durable:
            sync_data(path)
            self._name(path, self._blobs, digest)
        else:
            with disk_errors(path, "keeping"):
                os.rename(path, self._blobs / digest.hex())
            self.unsynced.add(digest)
        self._add(self._sizes, digest, size)
        return digest

    def sync(self, digest: bytes) -> None:
        """Have a blob on disk that was kept without. BlobUnknownError, DiskError."""
        sync_data(self.path(digest))
        with disk_errors(self._blobs, "saving in"):
            fsync_dir(self._blobs)
        self.unsynced.discard(digest)

    def take_version(self, path: Path, root: bytes | None = None) -> bytes:
        """Keep a version's file by moving it; its root. Raises WrongBlobError where that is not
        `root`, MalformedError where it is no version at all."""
        shape, _ = shape_of_file(path, "safetensors", lambda _count: None)
        if root is not None and shape.root != root:
            raise WrongBlobError(f"a version's file that is not {root.hex()[:16]}")
        sync_data(path)
        self._name(path, self._versions, shape.root)
        self._add(self._roots, shape.root, shape.size)
        return shape.root

    def _add(self, sizes: dict[bytes, int], name: bytes, size: int) -> None:
        sizes[name] = size
        self._came[name] = time.monotonic()

    @staticmethod
    def _name(path: Path, folder: Path, name: bytes) -> None:
        with disk_errors(folder, "saving in"):
            os.rename(path, folder / name.hex())
            fsync_dir(folder)

    # -- letting go --------------------------------------------------------------------------------

    def sweep(
        self, blobs: Collection[bytes], versions: Collection[bytes], spare_s: float = SPARE_S
    ) -> int:
        """Delete all but these, and what came within `spare_s`; how many bytes that freed."""
        before = time.monotonic() - spare_s
        freed = 0
        for folder, sizes, keep in (
            (self._blobs, self._sizes, blobs),
            (self._versions, self._roots, versions),
        ):
            old = [name for name in sizes if name not in keep and self._came[name] <= before]
            freed += self._drop(folder, sizes, old)
        return freed

    def drop(self, blobs: Iterable[bytes]) -> None:
        """Delete some blobs."""
        self._drop(self._blobs, self._sizes, [digest for digest in blobs if self.has(digest)])

    def _drop(self, folder: Path, sizes: dict[bytes, int], gone: Iterable[bytes]) -> int:
        freed = 0
        for name in gone:
            (folder / name.hex()).unlink(missing_ok=True)
            self._came.pop(name, None)
            self.unsynced.discard(name)
            freed += sizes.pop(name)
        return freed


def sha256_of(path: Path) -> bytes:
    """Of a file's bytes. DiskError."""
    found = hashlib.sha256()
    with disk_errors(path, "reading"), path.open("rb", buffering=0) as file:
        while part := file.read(READ):
            found.update(part)
    return found.digest()


def root_of(path: Path) -> bytes:
    """The root of a version's file. DiskError; MalformedError where it is none."""
    return shape_of_file(path, "safetensors", lambda _count: None)[0].root
