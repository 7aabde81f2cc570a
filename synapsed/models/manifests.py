"""Manifests that are held: what they depend on, and which parts of which files they mean."""

import contextlib
from collections.abc import Sequence
from functools import lru_cache

from protocols.cid import cid_text
from protocols.errors import NotHeldError, RefusedError
from protocols.manifest import (
    ExpertManifest,
    ModelManifest,
    UnknownDependencyError,
    decode_manifest,
    encode_manifest,
    links,
    topological_order,
)
from protocols.tensors.tensorblock import Layout
from synapsed.models.experts import experts_of
from synapsed.store import Store


class NotAModelManifestError(RefusedError):
    """A manifest of another kind than was asked for."""

    code = "not-a-model-manifest"


class IncompleteError(NotHeldError):
    """Bytes of a model are not here."""

    code = "incomplete"


class UnknownPartError(NotHeldError):
    """A model has no expert or tensor of that name."""

    code = "unknown-part"


def model_manifest(store: Store, cid: bytes) -> ModelManifest:
    """The manifest of a model. Raises NotHeldError, NotAModelManifestError."""
    manifest = decode_manifest(store.get_block(cid))
    if not isinstance(manifest, ModelManifest):
        kind = type(manifest).__name__.removesuffix("Manifest").lower()
        raise NotAModelManifestError(
            f"{cid_text(cid)} is the manifest of one {kind}, not of a model",
            remedy="name the model that it belongs to",
        )
    return manifest


def dependencies(store: Store, cid: bytes) -> list[bytes]:
    """All that a manifest depends on, and itself: parents before children.

    Raises UnknownDependencyError where one of them is not held.
    """
    depends: dict[bytes, tuple[bytes, ...]] = {}
    waiting = [cid]
    while waiting:
        one = waiting.pop()
        if one in depends:
            continue
        if not store.has_block(one):
            raise UnknownDependencyError(
                f"the manifest {cid_text(one)} is not held", remedy="pull it first"
            )
        depends[one] = links(decode_manifest(store.get_block(one)))
        waiting += depends[one]
    return topological_order(depends)


def layouts_of(store: Store, manifest: ModelManifest) -> tuple[Layout | None, ...]:
    """The layouts of a model's files, in its order; None where a header is not here yet."""
    layouts: list[Layout | None] = []
    for ref in manifest.files:
        held = store.file_of(ref)
        if held is not None:
            layouts.append(held.layout)
        else:
            layouts.append(Layout.flat(ref.size) if ref.layout == "flat" else None)
    return tuple(layouts)


# A held file's layout is one object while the store is open, so this is found by identity.
_cached_experts = lru_cache(maxsize=32)(experts_of)


def experts(store: Store, cid: bytes) -> dict[str, ExpertManifest]:
    """A model's experts by name, as far as its headers are here."""
    manifest = model_manifest(store, cid)
    layouts = [
        layout if ref.layout == "safetensors" else None
        for ref, layout in zip(manifest.files, layouts_of(store, manifest), strict=True)
    ]
    return {one.name: one for one in _cached_experts(cid, manifest, tuple(layouts))}


def put_experts(store: Store, cid: bytes) -> dict[str, bytes]:
    """Keep the manifests of all experts of a model; their CIDs by name.

    They live as long as the model's own. They are not synced to disk one by one: a big model
    has 15,000, each is checked when it is read, and all can be made again.
    """
    return {
        name: store.put_block(encode_manifest(one), durable=False)
        for name, one in experts(store, cid).items()
    }


def sections_of(
    store: Store, cid: bytes, expert_names: Sequence[str] = (), tensor_names: Sequence[str] = ()
) -> dict[int, list[int]]:
    """Where the named experts and tensors of a model are: file -> sections, both sorted.

    Needs all headers. Raises IncompleteError, UnknownPartError.
    """
    manifest = model_manifest(store, cid)
    found: dict[int, set[int]] = {}
    layouts = _all_layouts(store, manifest)
    named = experts(store, cid) if expert_names else {}
    for name in expert_names:
        if name not in named:
            raise UnknownPartError(
                f"model {manifest.name!r} has no expert {name[:120]!r}",
                remedy="`synapsectl model show` lists them",
            )
        for ref in named[name].tensors:
            found.setdefault(ref.file, set()).add(ref.section)
    for name in tensor_names:
        file, section = _place(manifest, layouts, name)
        found.setdefault(file, set()).add(section)
    return {file: sorted(found[file]) for file in sorted(found)}


def _all_layouts(store: Store, manifest: ModelManifest) -> list[Layout]:
    layouts = []
    for ref, layout in zip(manifest.files, layouts_of(store, manifest), strict=True):
        if layout is None:
            raise IncompleteError(f"the header of {ref.path} is not here", remedy="fetch it first")
        layouts.append(layout)
    return layouts


def _place(manifest: ModelManifest, layouts: Sequence[Layout], tensor: str) -> tuple[int, int]:
    """(file, section) of a tensor."""
    for file, (ref, layout) in enumerate(zip(manifest.files, layouts, strict=True)):
        if ref.layout == "safetensors":
            with contextlib.suppress(KeyError):
                section = layout.section(tensor)
                if section.index > 0:  # 0 is the header
                    return file, section.index
    raise UnknownPartError(
        f"model {manifest.name!r} has no tensor {tensor[:120]!r}",
        remedy="the model's safetensors headers name its tensors",
    )
