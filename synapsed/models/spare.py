"""What is here for others alone, in the parts in which it may go where the owner needs the room.

    a group of tiles     of a model that is held as a copy for others (protocols/transfer/copies.py)
    an adapter, a kernel that is held so: all of its file
    headers              of a model that is only watched over, or of whose copy nothing else is left

Whatever the owner's pins reach, and whatever is being fetched or imported, is none of it. A file
that copies of several models share is a part of the first; but a small one (a licence, a usual
config) of none: it goes with the last. What is said here may be old when it is acted upon, so
`let_go` looks again, while nobody else can pin.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from protocols.manifest import (
    AdapterManifest,
    DatasetManifest,
    KernelManifest,
    ModelManifest,
    files,
)
from protocols.tensors.tensorblock import Layout
from protocols.transfer.copies import GROUP_TILES, TILE_BYTES
from synapsed.models.listing import forget_watched, promised
from synapsed.models.manifests import layouts_of
from synapsed.store import HeldFile, Runs, Store
from synapsed.store.collect import Reach
from synapsed.store.reasons import FOR_OTHERS, REPLICA, WATCHED


class Spare(msgspec.Struct, frozen=True):
    """Something that may go: held leaves by file root, their bytes, and the model's tiles that
    they are of. Of a model that is only watched: no leaves and no tiles; all of it goes."""

    model: bytes
    leaves: Mapping[bytes, Runs]
    size: int
    tiles: range
    """Nothing of an adapter's or kernel's, which goes whole."""

    @property
    def whole(self) -> bool:
        """Whether it is an adapter or a kernel."""
        return not self.watched and not self.tiles

    @property
    def watched(self) -> bool:
        """Whether only headers of the model are here."""
        return not self.leaves


class Gone(msgspec.Struct, frozen=True):
    """What went: bytes by model, the leaves by file root, all models of which there is less
    here now, and those that are watched over no more."""

    sizes: dict[bytes, int]
    leaves: dict[bytes, Runs]
    fewer: set[bytes]
    forgotten: set[bytes]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def spares(store: Store) -> list[Spare]:
    """All that may go, by model and tile. Raises ManifestDamagedError."""
    view = _View(store, store.kept())
    found: list[Spare] = []
    for cid in view.copies:
        manifest = store.manifest_of(cid)
        if isinstance(manifest, ModelManifest):
            found += _groups(view, cid, manifest)
        elif isinstance(manifest, AdapterManifest | KernelManifest | DatasetManifest):
            found += _whole(view, cid, manifest)
    husks = [cid for cid in view.copies if cid not in view.owners.blocks and _is_empty(view, cid)]
    for cid in (*husks, *view.watched):
        size = store.block_size(cid) + sum(
            held.fixed_bytes + held.held_bytes for held in _free_files(view, cid)
        )
        if size:
            found.append(Spare(cid, {}, size, range(0)))
    return found


def let_go(store: Store, chosen: Sequence[Spare]) -> Gone:
    """Take these away. What has become the owner's meanwhile, or is being fetched, stays."""
    gone = Gone({}, {}, set(), set())
    with store.collecting() as kept:
        view = _View(store, kept)
        for spare in chosen:
            if spare.watched:
                husk = spare.model in view.copies and _is_empty(view, spare.model)
                if husk or spare.model in view.watched:
                    forget_watched(store, spare.model)
                    gone.sizes[spare.model] = spare.size
                    gone.forgotten.add(spare.model)
            elif spare.model in view.copies:
                _drop(view, spare, gone)
        _commit(view, gone)
    return gone


def _shared(store: Store, cids: Iterable[bytes]) -> set[bytes]:
    """The small files that more than one of these manifests have."""
    seen: set[bytes] = set()
    shared: set[bytes] = set()
    for cid in cids:
        roots = _roots(store, cid)
        shared |= roots & seen
        seen |= roots
    helds = {root: store.file(root) for root in shared}
    return {root for root, held in helds.items() if held is None or held.size < TILE_BYTES}


class _View:
    """What is whose, at one moment."""

    def __init__(self, store: Store, kept: set[bytes]) -> None:
        self.store = store
        self.kept = kept
        pins = store.pins()
        owned = {pin.cid for pin in pins if pin.reason not in FOR_OTHERS}
        self.owners = Reach(store)
        self.owners.follow(owned)
        copies = {pin.cid for pin in pins if pin.reason == REPLICA} - owned
        watched = {pin.cid for pin in pins if pin.reason == WATCHED} - owned - copies
        self.copies = sorted(cid for cid in copies if cid not in kept)
        self.watched = sorted(
            cid for cid in watched if cid not in kept and cid not in self.owners.blocks
        )
        self._shared = _shared(store, self.copies)
        self._claimed: set[bytes] = set()

    def claim(self, root: bytes) -> bool:
        """Whether a file that models may share is asked about for the first time."""
        fresh = root not in self._claimed
        self._claimed.add(root)
        return fresh

    def loose(self, held: HeldFile) -> Runs:
        """The leaves of a file that are not the owner's, nor headers."""
        root = held.root
        if root in self.kept or root in self.owners.whole or root in self._shared:
            return Runs()
        in_part = root in self.owners.sections
        loose = self.owners.unreached(held) if in_part else held.have
        if held.header:
            loose.remove(0, held.layout.sections[0].end_leaf)
        return loose


def _groups(view: _View, cid: bytes, manifest: ModelManifest) -> Iterator[Spare]:
    """The groups of tiles of one model of which something may go."""
    layouts = [layout for layout in layouts_of(view.store, manifest) if layout is not None]
    if len(layouts) < len(manifest.files):
        return  # tiles cannot be numbered
    groups: dict[int, dict[bytes, Runs]] = {}
    sizes: dict[int, int] = {}
    before = 0
    for ref, layout in zip(manifest.files, layouts, strict=True):
        held = view.store.file_of(ref)
        loose = view.loose(held) if held is not None else Runs()
        if held is not None and loose and view.claim(ref.root):
            for group, lo, hi in _by_group(loose, layout, before):
                groups.setdefault(group, {}).setdefault(ref.root, Runs()).add(lo, hi)
                sizes[group] = sizes.get(group, 0) + held.bytes_of(Runs([(lo, hi)]))
        before += layout.tile_count
    for group in sorted(groups):
        tiles = range(group * GROUP_TILES, min((group + 1) * GROUP_TILES, before))
        yield Spare(cid, groups[group], sizes[group], tiles)


def _by_group(runs: Runs, layout: Layout, before: int) -> Iterator[tuple[int, int, int]]:
    """(group, lo, hi): runs of a file's leaves, cut where groups of the model's tiles begin.
    `before` are the tiles of the files in front of it."""
    for lo, hi in runs:
        tile, end = layout.tiles_of_leaves(lo, hi)
        while tile < end:
            group = (before + tile) // GROUP_TILES
            stop = min(end, (group + 1) * GROUP_TILES - before)
            first, last = layout.leaves_of_tile(tile)[0], layout.leaves_of_tile(stop - 1)[1]
            yield group, max(lo, first), min(hi, last)
            tile = stop


def _whole(
    view: _View, cid: bytes, manifest: AdapterManifest | KernelManifest | DatasetManifest
) -> Iterator[Spare]:
    """An adapter, kernel or dataset: each of its files goes whole or not at all."""
    for ref in files(manifest):
        held = view.store.file_of(ref)
        if held is not None and (loose := view.loose(held)) and view.claim(ref.root):
            yield Spare(cid, {ref.root: loose}, held.bytes_of(loose), range(0))


def _free_files(view: _View, cid: bytes) -> Iterator[HeldFile]:
    """The files of a model that nothing of the owner's, and nothing under way, needs."""
    manifest = view.store.manifest_of(cid)
    for ref in files(manifest) if manifest is not None else ():
        held = view.store.file_of(ref)
        owned = ref.root in view.owners.whole or ref.root in view.owners.sections
        if held is not None and not owned and ref.root not in view.kept and view.claim(ref.root):
            yield held


def _drop(view: _View, spare: Spare, gone: Gone) -> None:
    """Note what of a spare is still loose; `_commit` takes it away, one file at a time."""
    for root, runs in spare.leaves.items():
        held = view.store.file(root)
        if held is None:
            continue
        loose = view.loose(held)
        there = Runs(part for run in runs for part in loose.within(*run))
        size = held.bytes_of(there)
        if size:
            gone.sizes[spare.model] = gone.sizes.get(spare.model, 0) + size
            for run in there:
                gone.leaves.setdefault(root, Runs()).add(*run)


def _commit(view: _View, gone: Gone) -> None:
    """Drop the leaves, then the pins of copies that are empty: in this order, so that a crash in
    between leaves a pin of nothing, which goes next time, and no bytes that no pin accounts for."""
    store = view.store
    for root, runs in gone.leaves.items():
        held = store.file(root)
        if held is not None:
            held.drop_all(runs)
    announced = {*promised(store), *view.copies}
    gone.fewer.update(cid for cid in announced if not _roots(store, cid).isdisjoint(gone.leaves))
    for cid in view.copies:
        if _is_empty(view, cid):
            roots = _roots(store, cid)
            store.unpin(cid, REPLICA)
            store.gc(only=[cid, *roots])
            gone.fewer.add(cid)


def _roots(store: Store, cid: bytes) -> set[bytes]:
    manifest = store.manifest_of(cid)
    return {ref.root for ref in files(manifest)} if manifest is not None else set()


def _is_empty(view: _View, cid: bytes) -> bool:
    """Whether nothing but headers, and what others need, is left of a copy."""
    manifest = view.store.manifest_of(cid)
    if manifest is None:
        return False  # it has not come yet
    helds = (view.store.file_of(ref) for ref in files(manifest))
    return not any(held is not None and view.loose(held) for held in helds)
