"""The folder of a held file before it is one, and after its parts were damaged."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from protocols.errors import LimitError, MalformedError, RefusedError
from protocols.tensors.tensorblock import FLAT, SAFETENSORS
from synapsed.store.disk import fsync_dir, write_atomic, write_new
from synapsed.store.errors import StoreError
from synapsed.store.record import Record
from synapsed.store.runs import Run
from synapsed.store.shape import Shape, shape_of_file


def stage(folder: Path, shape: Shape) -> None:
    """Write a new file's folder, durable but for its own name; the header's leaves are held."""
    folder.mkdir(mode=0o700)
    write_new(folder / "layout", [shape.encode()])
    write_new(folder / "hashes", [shape.header_hashes()])
    write_new(folder / "data", [shape.header], shape.size)
    first = shape.layout.sections[0]
    held: Sequence[Run] = [(0, first.leaves)] if shape.header else []
    write_new(folder / "record", [Record.first_bytes(shape.root, held)])
    fsync_dir(folder)


def recover(folder: Path, tmp: Path) -> bool:
    """Make the parts of a damaged folder again where its data is still the whole file."""
    path = folder / "data"
    for kind in (SAFETENSORS, FLAT):
        with contextlib.suppress(MalformedError, LimitError, RefusedError, StoreError):
            shape, hashes = shape_of_file(path, kind, lambda _count: None)
            if shape.root.hex() == folder.name:
                whole = [(0, shape.layout.leaf_count)] if shape.layout.leaf_count else []
                write_atomic(folder / "hashes", hashes, tmp)
                record = Record.first_bytes(shape.root, whole)
                write_atomic(folder / "record", record, tmp)
                write_atomic(folder / "layout", shape.encode(), tmp)
                return True
    return False
