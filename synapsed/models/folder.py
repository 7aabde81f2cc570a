"""The owner's folder that is to become a model: which files it takes, and which it refuses.

Rules of this file:
1. Formats whose loaders run code are never taken. Beside safetensors they are passed over
   and named; alone they are refused.
2. A link may lead to another file of the same folder, and nowhere else.
3. A sharded model is whole: every tensor that its index names is in the shard that it names.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from protocols.errors import MalformedError, RefusedError
from protocols.manifest import (
    MAX_FILES,
    MAX_NAME,
    Layout,
    PickleRefusedError,
    check_path,
    check_text,
    is_pickle_name,
)
from protocols.tensors.tensorblock import Layout as FileLayout
from synapsed.store.errors import disk_errors

PASSED_OVER = {".git", ".cache", "__pycache__"}
"""Folders that belong to tools: git's, the Hugging Face downloader's, Python's."""
INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX = 64 << 20
"""Bytes; an index of 100,000 tensors has 10 MB."""
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


class NotAModelError(RefusedError):
    """A folder without safetensors, or a path that is no file or folder."""

    code = "not-a-model"


class LinkRefusedError(RefusedError):
    """A symbolic link that leads out of the folder, or to a folder."""

    code = "link-refused"


class IndexMismatchError(MalformedError):
    """A sharded model's index names shards or tensors that are not there."""

    code = "index-mismatch"


class SourceFile(msgspec.Struct, frozen=True):
    """A file to take: `path` is its name in the manifest."""

    source: Path
    path: str
    size: int
    layout: Layout


class ModelFolder(msgspec.Struct, frozen=True):
    """What an import takes, in order of paths, and what it passes over."""

    name: str
    files: list[SourceFile]
    skipped: list[str]


def scan(path: Path, name: str | None = None) -> ModelFolder:
    """The files of a model in a folder, or the one file at `path`.

    Raises NotAModelError, PickleRefusedError, LinkRefusedError, BadPathError, DiskError.
    """
    with disk_errors(path, "reading"):
        path = path.resolve(strict=True)
        is_folder = path.is_dir()
    if not is_folder and _is_pickle(path, path.name):
        raise _no_safetensors(path, [path.name])
    files, skipped = _scan_folder(path) if is_folder else ([_one(path, path.name)], [])
    if is_folder and not any(file.layout == "safetensors" for file in files):
        raise _no_safetensors(path, skipped)
    if len(files) > MAX_FILES:
        raise NotAModelError(f"{path} has {len(files)} files where a model has {MAX_FILES}")
    name = name or (path.name if is_folder else path.name.split(".")[0]) or "model"
    check_text(name, "the name")
    return ModelFolder(name[:MAX_NAME], files, skipped)


def _no_safetensors(path: Path, skipped: list[str]) -> RefusedError:
    if skipped:
        return PickleRefusedError(
            f"{path} has its tensors in {skipped[0]}, a format whose loaders run code",
            remedy="convert it to safetensors",
        )
    return NotAModelError(
        f"{path} has no .safetensors file", remedy="name the folder that has the model's files"
    )


def _scan_folder(folder: Path) -> tuple[list[SourceFile], list[str]]:
    files: list[SourceFile] = []
    skipped: list[str] = []
    for source in _walk(folder):
        relative = source.relative_to(folder).as_posix()
        _check_link(folder, source)
        if _is_pickle(source, relative):
            skipped.append(relative)
        else:
            files.append(_one(source, relative))
    files.sort(key=lambda file: file.path)
    return files, sorted(skipped)


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    with disk_errors(folder, "listing"):
        for here, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = sorted(name for name in folders if name not in PASSED_OVER)
            for name in folders:
                if Path(here, name).is_symlink():
                    raise LinkRefusedError(
                        f"{Path(here, name)} is a link to a folder",
                        remedy="copy the folder with its links followed (cp -rL) and import that",
                    )
            yield from (Path(here, name) for name in names)


def _check_link(folder: Path, source: Path) -> None:
    if source.is_symlink() and not source.resolve().is_relative_to(folder):
        raise LinkRefusedError(
            f"{source} leads out of the folder, to {source.resolve()}",
            remedy="copy the folder with its links followed (cp -rL) and import that",
        )


def _one(source: Path, relative: str) -> SourceFile:
    check_path(relative)
    with disk_errors(source, "opening"):
        state = source.stat()
    if not stat.S_ISREG(state.st_mode):
        raise NotAModelError(f"{source} is neither a file nor a folder")
    kind: Layout = "safetensors" if relative.endswith(".safetensors") else "flat"
    return SourceFile(source, relative, state.st_size, kind)


def _is_pickle(source: Path, relative: str) -> bool:
    """By its name, or by how it begins (a pickle, or an archive, as torch.save writes)."""
    if is_pickle_name(relative):
        return True
    if relative.endswith(".safetensors") or not source.is_file():
        return False
    with disk_errors(source, "opening"), source.open("rb") as file:
        return file.read(4).startswith(_PICKLE_STARTS)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def check_indexes(folder: ModelFolder, layouts: Mapping[str, FileLayout]) -> None:
    """Raise IndexMismatchError unless every index's tensors are where it says.

    `layouts` are those of the files, by path.
    """
    for file in folder.files:
        if file.path.endswith(INDEX_SUFFIX):
            _check_index(file, layouts)


def _check_index(file: SourceFile, layouts: Mapping[str, FileLayout]) -> None:
    def refuse(why: str) -> IndexMismatchError:
        return IndexMismatchError(
            f"{file.path} {why}", remedy="fetch the model's folder again; it is not whole"
        )

    if file.size > MAX_INDEX:
        raise refuse(f"has {file.size} bytes where an index has at most {MAX_INDEX}")
    with disk_errors(file.source, "reading"):
        text = file.source.read_bytes()
    try:
        index = msgspec.json.decode(text, type=_Index)
    except (msgspec.DecodeError, RecursionError) as error:
        raise refuse(f"is not an index: {error}") from error
    above = file.path.rpartition("/")[0]
    for tensor, shard in index.weight_map.items():
        layout = layouts.get(f"{above}/{shard}" if above else shard)
        if layout is None:
            raise refuse(f"names the shard {shard[:120]!r}, which is not there")
        try:
            layout.section(tensor)
        except KeyError:
            raise refuse(
                f"names the tensor {tensor[:120]!r}, which {shard!r} does not have"
            ) from None
