"""What the owner has becomes part of the store: folders models, files adapters and kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from protocols.cid import cid_of
from protocols.errors import SynapseError
from protocols.manifest import FileRef, Layout, Manifest, ModelManifest, encode_manifest, links
from synapsed.models.folder import NotAModelError, SourceFile, check_indexes, scan
from synapsed.models.manifests import dependencies, experts, put_experts
from synapsed.store import Store
from synapsed.store.disk import check_free
from synapsed.store.importing import Survey, copy, missing_bytes, survey
from synapsed.store.reasons import IMPORTED

M = TypeVar("M", bound=Manifest)

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all); may raise to stop the work."""

MakeRoom = Callable[[int], None]
"""Sees to it that so many bytes fit the quota, before any is written. QuotaExceededError."""


def unwatched(_done: int, _total: int) -> None:
    """For callers that do not watch."""


class Imported(msgspec.Struct, frozen=True):
    """What an import made: expert CIDs by name; `skipped` files were passed over (pickles)."""

    cid: bytes
    manifest: ModelManifest
    experts: dict[str, bytes]
    skipped: list[str]


class Steps:
    """Adds up what was done for a Progress."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, count: int) -> None:
        self._done += count
        # A file that grows meanwhile is refused soon; until then 100 % is enough.
        self._progress(min(self._done, self._total), self._total)


def import_model(
    store: Store,
    path: Path,
    name: str | None = None,
    progress: Progress = unwatched,
    *,
    description: str = "",
    depends_on: Sequence[bytes] = (),
    make_room: MakeRoom | None = None,
    reason: str = IMPORTED,
) -> Imported:
    """Take a Hugging Face folder, or one file, into the store, and pin it for `reason`.

    Every file is read and checked before anything is written; then what is not held is copied.
    The same files under the same name always make the same manifest. Where it fails nothing is
    left behind; where it is killed, or `progress` raises, the next try goes on there, and else
    `gc` takes what is there. Raises the errors of folder.py and of the safetensors header,
    UnknownDependencyError, QuotaExceededError, DiskFullError.
    """
    folder = scan(path, name)
    if not any(_is_model_file(file) for file in folder.files):
        # One file may be anything of the owner's, and what is imported goes to strangers.
        raise NotAModelError(
            f"{path} is neither a .safetensors nor a .gguf file",
            remedy="name a model's folder, or such a file",
        )
    for cid in depends_on:
        dependencies(store, cid)
    # Each byte is read twice: to learn its hash, and to copy it.
    say = Steps(2 * sum(file.size for file in folder.files), progress)
    surveys = [survey(file.source, file.path, file.layout, say) for file in folder.files]
    check_indexes(folder, {one.ref.path: one.shape.layout for one in surveys})
    manifest = ModelManifest(
        name=folder.name,
        description=description,
        files=tuple(one.ref for one in surveys),
        depends_on=tuple(depends_on),
    )
    data = encode_manifest(manifest)
    _make_room(store, missing_bytes(store, surveys) + len(data), make_room)
    with _all_or_nothing(store, data, surveys) as names:
        for one in surveys:
            copy(store, one, say)
        cid = store.put_block(data)
        names += [cid_of(encode_manifest(one)) for one in experts(store, cid).values()]
        parts = put_experts(store, cid)
        store.pin(cid, reason)
    return Imported(cid=cid, manifest=manifest, experts=parts, skipped=folder.skipped)


def _is_model_file(file: SourceFile) -> bool:
    return file.layout == "safetensors" or file.path.lower().endswith(".gguf")


def import_artefact(
    store: Store,
    path: Path,
    layout: Layout,
    describe: Callable[[FileRef], M],
    *,
    reason: str,
    progress: Progress = unwatched,
    make_room: MakeRoom | None = None,
) -> tuple[bytes, M]:
    """`import_artefacts` of one file."""
    return import_artefacts(
        store,
        [path],
        layout,
        lambda refs: describe(refs[0]),
        reason=reason,
        progress=progress,
        make_room=make_room,
    )


def import_artefacts(
    store: Store,
    paths: Sequence[Path],
    layout: Layout | None,
    describe: Callable[[Sequence[FileRef]], M],
    *,
    reason: str,
    progress: Progress = unwatched,
    make_room: MakeRoom | None = None,
) -> tuple[bytes, M]:
    """Take files into the store, with the manifest that `describe` makes of them, and pin that.

    For adapters, kernels, upgrades and datasets. Without a `layout` each file's follows from its
    name. Where it fails nothing is left behind. Raises as
    `import_model`.
    """
    files = [file for path in paths for file in scan(path).files]
    say = Steps(2 * sum(file.size for file in files), progress)
    surveys = [survey(file.source, file.path, layout or file.layout, say) for file in files]
    manifest = describe([one.ref for one in surveys])
    data = encode_manifest(manifest)
    for cid in links(manifest):
        dependencies(store, cid)
    _make_room(store, missing_bytes(store, surveys) + len(data), make_room)
    with _all_or_nothing(store, data, surveys):
        for one in surveys:
            copy(store, one, say)
        cid = store.put_block(data)
        store.pin(cid, reason)
    return cid, manifest


def _make_room(store: Store, need: int, make_room: MakeRoom | None) -> None:
    if make_room is not None:
        make_room(need)
    store.quota.check_room(need)
    check_free(store.root, need)


@contextmanager
def _all_or_nothing(store: Store, data: bytes, surveys: Sequence[Survey]) -> Iterator[list[bytes]]:
    """Spare what is being imported from `gc`, and collect it where that fails."""
    names = [cid_of(data), *(one.ref.root for one in surveys)]
    try:
        with store.keeping() as keep:
            for name in names:
                keep.add(name)
            yield names
    except SynapseError:
        store.gc(only=names)
        raise
