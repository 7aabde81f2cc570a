"""A held model becomes files again: copied out byte for byte, or opened where they are."""

import os
import re
import secrets
import shutil
from pathlib import Path

from protocols.cid import cid_text
from protocols.errors import RefusedError
from protocols.manifest import FileRef, ModelManifest
from protocols.tensors.tensorblock import LEAVES_OF_TILE
from synapsed.models.imports import Progress, Steps, unwatched
from synapsed.models.manifests import IncompleteError, model_manifest
from synapsed.store import HeldFile, Store
from synapsed.store.disk import check_free, fsync_dir
from synapsed.store.errors import disk_errors


class DestinationError(RefusedError):
    """A folder to export to that has something in it, or cannot be one."""

    code = "destination"


def export_model(
    store: Store, cid: bytes, dest: Path, progress: Progress = unwatched
) -> ModelManifest:
    """Write a model's files into the folder `dest`, new or empty, byte for byte as imported.

    They are written aside (in a hidden folder beside `dest`), verified on the way, and appear
    under their name all at once. Raises DestinationError, IncompleteError, DamagedError (what
    was bad is forgotten, so that it is fetched again), DiskFullError.
    """
    manifest = model_manifest(store, cid)
    held = complete_files(store, manifest)
    size = sum(ref.size for ref in manifest.files)
    dest = Path(os.path.abspath(dest))  # not resolved: a link there is refused, not followed
    _check_destination(dest)
    check_free(dest.parent, size)
    say = Steps(size, progress)
    new = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    with disk_errors(dest, "exporting to"):
        try:
            new.mkdir()
            for ref, file in zip(manifest.files, held, strict=True):
                _write_file(file, new / ref.path, say)
            _sync_folders(new)
            os.rename(new, dest)
            fsync_dir(dest.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return manifest


def complete_files(store: Store, manifest: ModelManifest) -> list[HeldFile]:
    """The files of a model, all of them whole. Raises IncompleteError naming what lacks."""
    held, lacks = [], []
    for ref in manifest.files:
        file = store.file_of(ref)
        if file is not None and file.complete:
            held.append(file)
        else:
            lacks.append(f"{ref.path} ({_lack(ref, file)})")
    if lacks:
        more = f" and {len(lacks) - 5} files more" if len(lacks) > 5 else ""
        raise IncompleteError(
            f"of model {manifest.name!r} {', '.join(lacks[:5])}{more} is not here",
            remedy="`synapsectl model pull` fetches the rest",
        )
    return held


def _lack(ref: FileRef, file: HeldFile | None) -> str:
    if file is None:
        return f"all {ref.size} bytes"
    return f"{ref.size - file.held_bytes} of {ref.size} bytes"


def _check_destination(dest: Path) -> None:
    with disk_errors(dest, "looking at"):
        if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
            raise DestinationError(f"{dest} is not a folder", remedy="name a new folder")
        if dest.exists() and any(dest.iterdir()):
            raise DestinationError(f"{dest} is not empty", remedy="name a new or empty folder")
        if not dest.parent.is_dir():
            raise DestinationError(f"there is no folder {dest.parent}", remedy="make it first")


def _write_file(held: HeldFile, path: Path, say: Steps) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        count = held.layout.leaf_count
        for lo in range(0, count, LEAVES_OF_TILE):
            hi = min(lo + LEAVES_OF_TILE, count)
            data = held.read(lo, hi)
            file.write(data)
            say(len(data))
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(folder: Path) -> None:
    for here, _, _ in os.walk(folder):
        fsync_dir(Path(here))


# In place.


def held_path(store: Store, cid: bytes) -> Path:
    """A folder in which safetensors and transformers open a complete model without a copy.

    It has links to the held files, so it is to be read only, and breaks (it does not lie) when
    the model is removed. Raises IncompleteError.
    """
    manifest = model_manifest(store, cid)
    held = complete_files(store, manifest)
    folder = _view(store, cid, manifest.name)
    wanted = {ref.path: file.path for ref, file in zip(manifest.files, held, strict=True)}
    with disk_errors(folder, "linking"):
        if not _is_view_of(folder, wanted):
            shutil.rmtree(folder, ignore_errors=True)
            new = folder.with_name(f".{secrets.token_hex(8)}")
            for path, data in wanted.items():
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                (new / path).symlink_to(data)
            os.rename(new, folder)
    return folder


def _view(store: Store, cid: bytes, name: str) -> Path:
    """Where a model's links are: a readable name, and enough of the CID to be the only one."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64]
    return store.root.resolve() / "models" / f"{readable or 'model'}-{cid_text(cid)[-16:]}"


def _is_view_of(folder: Path, wanted: dict[str, Path]) -> bool:
    return all(
        (folder / path).is_symlink() and (folder / path).readlink() == data
        for path, data in wanted.items()
    )


def remove_view(store: Store, cid: bytes, name: str) -> None:
    """Take away a model's links, if there are any."""
    shutil.rmtree(_view(store, cid, name), ignore_errors=True)
