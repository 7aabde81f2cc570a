"""Which models are here, how much of each, and letting one go."""

import msgspec

from protocols.cid import cid_of
from protocols.manifest import ExpertManifest, FileRef, ModelManifest, encode_manifest, files
from protocols.tensors.tiles import ModelTiles
from synapsed.models.exports import remove_view
from synapsed.models.manifests import experts, layouts_of, model_manifest
from synapsed.store import Runs, Store
from synapsed.store.reasons import WATCHED


class FileState(msgspec.Struct, frozen=True):
    """One file of a model, and how many of its bytes are here."""

    ref: FileRef
    held: int
    complete: bool


class ModelState(msgspec.Struct, frozen=True):
    """A model whose manifest is here. `size` and `held` count bytes, `experts` those known;
    `pinned` are the reasons for which all of it is kept."""

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
    return _state(store, cid, model_manifest(store, cid), _reasons(store).get(cid, []))


def list_models(store: Store) -> list[ModelState]:
    """All models whose manifest is here, by name and CID."""
    reasons = _reasons(store)
    states = []
    for cid in store.list_blocks():
        manifest = store.manifest_of(cid)
        if isinstance(manifest, ModelManifest):
            states.append(_state(store, cid, manifest, reasons.get(cid, [])))
    return sorted(states, key=lambda state: (state.manifest.name, state.cid))


def _reasons(store: Store) -> dict[bytes, list[str]]:
    """Why what is kept is kept."""
    reasons: dict[bytes, list[str]] = {}
    for pin in store.pins():
        if pin.reason != WATCHED:
            reasons.setdefault(pin.cid, []).append(pin.reason)
    return reasons


def promised(store: Store) -> set[bytes]:
    """The models that are kept, whole or in part: what we may tell others that we hold.

    What is here by the way (headers of models that we watch, what the owner has unpinned) may be
    gone tomorrow.
    """
    cids = set(_reasons(store))
    manifests = {cid: store.manifest_of(cid) for cid in cids}
    parts = {it.model for it in manifests.values() if isinstance(it, ExpertManifest)}
    return parts | {cid for cid, it in manifests.items() if isinstance(it, ModelManifest)}


def _state(store: Store, cid: bytes, manifest: ModelManifest, pinned: list[str]) -> ModelState:
    files = []
    for ref in manifest.files:
        held = store.file_of(ref)
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
        held = store.file_of(ref)
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
    store.gc(only=[cid, *parts, *(ref.root for ref in manifest.files)])
    return before - store.quota.used


def unpin_model(store: Store, cid: bytes) -> None:
    """Let `gc` take a model, but for the headers by which we watch over others' copies."""
    for reason in _reasons(store).get(cid, []):
        store.unpin(cid, reason)


def forget_watched(store: Store, cid: bytes) -> None:
    """Let go of what was learned of a model, unless it is kept for another reason."""
    if store.unpin(cid, WATCHED):
        manifest = store.manifest_of(cid)
        roots = [ref.root for ref in files(manifest)] if manifest is not None else []
        store.gc(only=[cid, *roots])
