"""Files from the owner's disk into the store."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from protocols.errors import MalformedError
from protocols.manifest import FileRef, Layout
from protocols.tensors.hashtree import HASH_BYTES
from synapsed.store.disk import Source
from synapsed.store.errors import LeafMismatchError
from synapsed.store.held import HeldFile
from synapsed.store.runs import Run
from synapsed.store.shape import Shape, shape_of_file
from synapsed.store.store import Store

CHUNK_LEAVES = 64
"""Leaves that are copied at a time: 16 MiB of memory at most."""
COMMIT_LEAVES = 1024
"""Leaves between commits: an import that is killed copies at most 256 MiB again."""

Say = Callable[[int], None]
"""Told how many bytes were dealt with since the last time; may raise to stop the work."""


class Survey(msgspec.Struct, frozen=True):
    """A file that was read once: what it is, and all its leaf hashes."""

    source: Path
    ref: FileRef
    shape: Shape
    hashes: bytes


def survey(source: Path, path: str, layout: Layout, say: Say) -> Survey:
    """Learn a file's root; `path` is its name in the manifest. Nothing is written.

    Raises the errors of the safetensors header, DiskError, or MalformedError where the file
    changes meanwhile. `say` is told of bytes.
    """
    shape, hashes = shape_of_file(source, layout, say)
    ref = FileRef(path=path, size=shape.size, root=shape.root, layout=layout)
    return Survey(source, ref, shape, hashes)


def missing_bytes(store: Store, surveys: Iterable[Survey]) -> int:
    """Bytes of these files, and of their hashes, that the store does not hold."""
    need = {}
    for one in surveys:
        held = store.file(one.shape.root)
        have = held.held_bytes if held is not None else -one.shape.fixed_bytes
        need[one.shape.root] = one.shape.size - have
    return sum(need.values())


def copy(store: Store, surveyed: Survey, say: Say) -> HeldFile:
    """Copy what is not held yet into the store. So what was stopped goes on where it was.

    Raises QuotaExceededError, DiskFullError, or MalformedError where the file changed.
    """
    held = store.create_shape(surveyed.shape)
    for section in held.layout.sections:
        at = section.first_leaf * HASH_BYTES
        held.put_leaf_hashes(section.index, surveyed.hashes[at : section.end_leaf * HASH_BYTES])
    missing = held.missing()
    say(held.size - sum(surveyed.shape.bytes_of(*run) for run in missing))
    _copy(surveyed.source, held, missing, say)
    return held


def _copy(path: Path, held: HeldFile, missing: list[Run], say: Say) -> None:
    since = 0
    with Source(path) as source:
        for run in missing:
            for lo in range(*run, CHUNK_LEAVES):
                hi = min(lo + CHUNK_LEAVES, run[1])
                data = source.read(*held.layout.run_span(lo, hi))
                try:
                    held.write(lo, data)
                except LeafMismatchError as error:
                    raise MalformedError(
                        f"{path} changed while it was imported", remedy="try again"
                    ) from error
                say(len(data))
                since += hi - lo
                if since >= COMMIT_LEAVES:
                    held.commit()
                    since = 0
    held.commit()
