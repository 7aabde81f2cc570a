"""What is reached, what is collected, and what is still what it was."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from protocols.cid import cid_text
from protocols.errors import NotHeldError, RefusedError
from protocols.manifest import ExpertManifest, Manifest, ModelManifest, files, links
from synapsed.store.reasons import FOR_OTHERS, HEADERS_ONLY, REPLICA
from synapsed.store.runs import Runs

if TYPE_CHECKING:
    from synapsed.store.held import HeldFile
    from synapsed.store.store import Store


class ManifestDamagedError(RefusedError):
    """A manifest that is to be kept cannot be read."""

    code = "manifest-damaged"


class GcReport(msgspec.Struct, frozen=True):
    """What a collection removed; `leaves` counts those of files that stay in part."""

    blocks: int
    files: int
    leaves: int
    freed: int


class ScrubReport(msgspec.Struct, frozen=True):
    """Sub-tiles `checked`, bytes `read`, and what of it was bad and is forgotten."""

    checked: int
    blocks: int
    read: int
    bad_leaves: list[tuple[str, int]]
    bad_blocks: list[str]


class Reach:
    """What pinned manifests reach: blocks, whole files, and sections of files."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.blocks: set[bytes] = set()
        self.whole: set[bytes] = set()
        self.sections: dict[bytes, set[int]] = {}
        self._entered: set[bytes] = set()

    def follow(self, cids: Iterable[bytes]) -> None:
        """Add all that these manifests reach. Links to what is not held reach nothing."""
        waiting = list(cids)
        while waiting:
            cid = waiting.pop()
            self.blocks.add(cid)
            if cid in self._entered:
                continue
            self._entered.add(cid)
            manifest = self._read(cid)
            if isinstance(manifest, ExpertManifest):
                # An expert needs its model's description, and only its own part of the bytes.
                self._enter_expert(manifest)
                waiting += manifest.depends_on
            elif manifest is not None:
                self.whole.update(ref.root for ref in files(manifest))
                waiting += links(manifest)

    def follow_alone(self, cids: Iterable[bytes]) -> None:
        """Add these manifests and their files, and nothing that they depend on: a copy of an
        adapter for others keeps no base model here that the owner removes."""
        for cid in cids:
            self.blocks.add(cid)
            manifest = self._read(cid)
            self.whole.update(ref.root for ref in (files(manifest) if manifest is not None else ()))

    def follow_headers(self, cids: Iterable[bytes]) -> None:
        """Add these manifests and the headers of their safetensors files."""
        for cid in cids:
            self.blocks.add(cid)
            manifest = self._read(cid)
            for ref in files(manifest) if manifest is not None else ():
                if ref.layout == "safetensors":
                    self.sections.setdefault(ref.root, set()).add(0)

    def _read(self, cid: bytes) -> Manifest | None:
        """A manifest. A damaged one reaches we know not what, so that nothing may be removed."""
        manifest = self._store.manifest_of(cid)
        if manifest is None and self._store.is_damaged(cid):
            raise ManifestDamagedError(
                f"the manifest {cid_text(cid)} was damaged on disk: what it needs is unknown",
                remedy="pull it again, or unpin it",
            )
        return manifest

    def _enter_expert(self, expert: ExpertManifest) -> None:
        self.blocks.add(expert.model)
        model = self._read(expert.model)
        if not isinstance(model, ModelManifest):
            return
        for ref in expert.tensors:
            if ref.file < len(model.files):
                sections = self.sections.setdefault(model.files[ref.file].root, set())
                sections |= {0, ref.section}

    def has_block(self, cid: bytes) -> bool:
        """Whether a block is reached; an expert's manifest is wherever its model's is."""
        if cid in self.blocks:
            return True
        manifest = self._store.manifest_of(cid)
        return isinstance(manifest, ExpertManifest) and manifest.model in self.blocks

    def unreached(self, held: "HeldFile") -> Runs:
        """The held leaves of a file, reached in part, that nothing reaches."""
        lost = held.have
        for index in self.sections[held.root]:
            if index < len(held.layout.sections):
                section = held.layout.sections[index]
                lost.remove(section.first_leaf, section.end_leaf)
        return lost


def reached_bytes(store: "Store", cids: Iterable[bytes]) -> int:
    """Bytes of the quota that these manifests and all that they reach take."""
    reach = Reach(store)
    reach.follow(cids)
    total = sum(store.block_size(cid) for cid in reach.blocks)
    for held in store.files():
        if held.root in reach.whole:
            total += held.fixed_bytes + held.held_bytes
        elif held.root in reach.sections:
            lost = held.bytes_of(reach.unreached(held))
            total += held.fixed_bytes + held.held_bytes - lost
    return total


def collect(
    store: "Store", spared: set[bytes], only: set[bytes] | None
) -> tuple[GcReport, list[Path]]:
    """Remove what neither pins nor `spared` names reach; and what is to be deleted then.

    The caller holds the store's lock.
    """
    before = store.quota.used
    reach = Reach(store)
    pins = store.pins()
    reach.follow(pin.cid for pin in pins if pin.reason not in FOR_OTHERS)
    reach.follow_alone(pin.cid for pin in pins if pin.reason == REPLICA)
    reach.follow_headers(pin.cid for pin in pins if pin.reason in HEADERS_ONLY)
    reach.follow(name for name in spared if store.has_block(name))
    reach.whole |= spared
    leaves = 0
    gone: list[Path] = []
    for held in store.files():
        if held.root in reach.whole or (only is not None and held.root not in only):
            continue
        if held.root in reach.sections:
            leaves += held.drop_all(reach.unreached(held))
        else:
            gone += store.detach_file(held.root)[1]
    gone_blocks = [
        cid
        for cid in store.list_blocks()
        if (only is None or cid in only) and not reach.has_block(cid)
    ]
    for cid in gone_blocks:
        store.delete_block(cid)
    freed = before - store.quota.used
    report = GcReport(blocks=len(gone_blocks), files=len(gone), leaves=leaves, freed=freed)
    return report, gone


def scrub(store: "Store", progress: Callable[[int], None]) -> ScrubReport:
    """Verify every block and every held leaf."""
    read = leaves = 0

    def say(count: int) -> None:
        nonlocal read
        read += count
        progress(count)

    bad_blocks = []
    cids = store.list_blocks()
    for cid in cids:
        try:
            say(len(store.get_block(cid)))
        except NotHeldError:  # damaged, and forgotten by now
            bad_blocks.append(cid_text(cid))
    bad_leaves = []
    for held in store.files():
        leaves += held.have.count
        bad_leaves += [(held.root.hex(), leaf) for leaf in held.verify(say)]
    return ScrubReport(
        checked=leaves,
        blocks=len(cids),
        read=read,
        bad_leaves=bad_leaves,
        bad_blocks=bad_blocks,
    )
