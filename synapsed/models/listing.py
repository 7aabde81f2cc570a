"""Which models are here, how much of each, and letting one go."""

import msgspec

from protocols.cid import cid_of
from protocols.manifest import FileRef, ModelManifest, encode_manifest
from protocols.tiles import ModelTiles
from synapsed.models.exports import remove_view
from synapsed.models.manifests import experts, layouts_of, model_manifest
from synapsed.store import Runs, Store


class FileState(msgspec.Struct, frozen=True):
    """One file of a model, and how many of its bytes are here."""

    ref: FileRef
    held: int
    complete: bool


class ModelState(msgspec.Struct, frozen=True):
    """A model whose manifest is here. `size` and `held` count bytes, `experts` those known."""

    cid: bytes
    manifest: ModelManifest
    size: int
    held: int
    complete: bool
    pinned: list[str]
    files: list[FileState]
    experts: int


def model_state(store: Store, cid: bytes) -> ModelState:
    """What is here of one model. Raises NotHeldError, NotAModelManifestError."""
    pinned = [pin.reason for pin in store.pins() if pin.cid == cid]
    return _state(store, cid, model_manifest(store, cid), pinned)


def list_models(store: Store) -> list[ModelState]:
    """All models whose manifest is here, by name and CID."""
    reasons: dict[bytes, list[str]] = {}
    for pin in store.pins():
        reasons.setdefault(pin.cid, []).append(pin.reason)
    states = []
    for cid in store.list_blocks():
        manifest = store.manifest_of(cid)
        if isinstance(manifest, ModelManifest):
            states.append(_state(store, cid, manifest, reasons.get(cid, [])))
    return sorted(states, key=lambda state: (state.manifest.name, state.cid))


def _state(store: Store, cid: bytes, manifest: ModelManifest, pinned: list[str]) -> ModelState:
    files = []
    for ref in manifest.files:
        held = store.file(ref.root)
        count, complete = (held.held_bytes, held.complete) if held else (0, False)
        files.append(FileState(ref, count, complete))
    return ModelState(
        cid=cid,
        manifest=manifest,
        size=sum(ref.size for ref in manifest.files),
        held=sum(file.held for file in files),
        complete=all(file.complete for file in files),
        pinned=pinned,
        files=files,
        experts=len(experts(store, cid)),
    )


def held_tiles(store: Store, cid: bytes) -> list[tuple[int, int]]:
    """The tiles of a model that are here whole: runs (start, count) over its tile numbers.

    Empty while a header is missing, since tiles cannot be numbered then.
    """
    manifest = model_manifest(store, cid)
    layouts = [layout for layout in layouts_of(store, manifest) if layout is not None]
    if len(layouts) < len(manifest.files):
        return []
    tiles = ModelTiles(layouts)
    whole = Runs()
    for file, ref in enumerate(manifest.files):
        held = store.file(ref.root)
        for lo, hi in held.have if held else ():
            whole.add(*tiles.whole_in(file, lo, hi))
    return [(lo, hi - lo) for lo, hi in whole]


def remove_model(store: Store, cid: bytes) -> int:
    """Unpin a model and collect what only it reached; how many bytes that freed."""
    manifest = model_manifest(store, cid)
    before = store.quota.used
    store.unpin(cid)
    remove_view(store, cid, manifest.name)
    parts = [cid_of(encode_manifest(one)) for one in experts(store, cid).values()]
    names = [cid, *parts, *(ref.root for ref in manifest.files)]
    store.gc(only=names)
    return before - store.quota.used
