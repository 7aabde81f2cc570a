"""What a pull has to fetch: manifests, headers and leaf hashes, from whichever peer answers.

Everything is verified by whom it is given to: a block by its CID, a header and the section nodes
by store/shape.py, leaf hashes by `HeldFile.put_leaf_hashes`. What is large is looked at in
threads: a manifest may have 4,096 files and a header 65,536 tensors.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from protocols.cid import check_block
from protocols.codec import MAX_BLOCK
from protocols.errors import LimitError, MalformedError, NotHeldError, SynapseError
from protocols.manifest import (
    ExpertManifest,
    FileRef,
    Manifest,
    ModelManifest,
    decode_manifest,
    files,
)
from protocols.tensors.blocks import (
    MAX_HASHES,
    MAX_RUNS,
    MAX_SHAPE_BYTES,
    BlockRequest,
    Bytes,
    Hashes,
    LayoutRequest,
    LeavesRequest,
    Refusal,
    Shape,
    Span,
    check_spans,
)
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.tensorblock import Layout, split_hashes
from protocols.tensors.tiles import ModelTiles
from synapsed.models import (
    IncompleteError,
    NotAModelManifestError,
    layouts_of,
    sections_of,
)
from synapsed.store import HeldFile, Runs, Store
from synapsed.store.shape import Shape as FileShape
from synapsed.store.shape import describes
from synapsed.transfer.errors import PeerRefusedError
from synapsed.transfer.session import Session

if TYPE_CHECKING:
    from synapsed.transfer.pull import Pull

PARALLEL = 8
"""Files whose headers or leaf hashes are asked for at a time."""

T = TypeVar("T")
S = TypeVar("S")


class Part(msgspec.Struct, frozen=True):
    """A part of a model: experts and tensors by name, runs (start, count) of its tiles, as
    announcements have them; or `headers` only. Nothing of all these: the whole model."""

    experts: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    tiles: tuple[tuple[int, int], ...] = ()
    headers: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is no part at all."""
        return not (self.experts or self.tensors or self.tiles or self.headers)


class Want(msgspec.Struct, frozen=True):
    """What is wanted of one file: runs of leaves, and those of them that are missing."""

    held: HeldFile
    runs: list[Span]
    missing: list[Span]

    @property
    def missing_bytes(self) -> int:
        """Bytes that have to come."""
        return _bytes_of(self.held, self.missing)


class Plan(msgspec.Struct, frozen=True):
    """All that is wanted, and its size in bytes, held or not."""

    wants: list[Want]
    total: int


class ManifestLieError(MalformedError):
    """A manifest that gives a file another size or layout than its root has."""

    code = "manifest-lie"


async def make_plan(pull: "Pull") -> Plan:
    """Steps 1 to 3 of a pull. Raises what is wrong with the manifest, the part or the store."""
    pull.crew.ask_holders_of(pull.cid)
    manifest = await manifest_of(pull, pull.cid)
    if isinstance(manifest, ExpertManifest):
        wanted = await _of_expert(pull, manifest)
    elif not pull.part.whole:
        wanted = await _of_part(pull, manifest)
    else:
        refs = files(manifest)
        # Before a header is fetched: a manifest can claim any size.
        await pull.check_room(sum(_lacking_bytes(pull.store, ref) for ref in refs))
        for ref in refs:
            pull.wants[ref.root] = ()
        helds = await _gather(lambda ref: held_file(pull, ref), refs)
        wanted = [(held, [(0, held.layout.leaf_count)]) for held in helds]
    wants = [_want(held, runs) for held, runs in _by_file(wanted)]
    await pull.check_room(sum(want.missing_bytes for want in wants))
    await _gather(lambda want: _learn_hashes(pull, want), wants)
    for want in wants:
        pull.wants.setdefault(want.held.root, tuple(want.runs))
    return Plan(wants, sum(_bytes_of(want.held, want.runs) for want in wants))


def _lacking_bytes(store: Store, ref: FileRef) -> int:
    held = store.file_of(ref)
    return ref.size - held.held_bytes if held is not None else ref.size


def looked_at_again(plan: Plan) -> Plan:
    """The same plan, with what is missing now."""
    return Plan([_want(want.held, want.runs) for want in plan.wants], plan.total)


Wanted = list[tuple[HeldFile, list[Span]]]


async def _of_expert(pull: "Pull", expert: ExpertManifest) -> Wanted:
    model = await _model_of(pull, expert.model)
    sections: dict[int, list[int]] = {}
    for tensor in expert.tensors:
        if tensor.file >= len(model.files):
            raise MalformedError(f"expert {expert.name!r} names a file that its model lacks")
        sections.setdefault(tensor.file, []).append(tensor.section)
    return await _of_sections(pull, model, sections)


async def _model_of(pull: "Pull", cid: bytes) -> ModelManifest:
    pull.crew.ask_holders_of(cid)
    model = await manifest_of(pull, cid)
    if not isinstance(model, ModelManifest):
        raise MalformedError("an expert of something that is no model")
    return model


async def _of_part(pull: "Pull", model: Manifest) -> Wanted:
    if not isinstance(model, ModelManifest):
        raise NotAModelManifestError("only a model has experts, tensors and tiles to choose from")
    # Names and tile numbers are known when all headers are.
    await learn_headers(pull, model)
    part = pull.part
    wanted: Wanted = []
    if part.experts or part.tensors:
        sections = await trio.to_thread.run_sync(
            sections_of, pull.store, pull.cid, part.experts, part.tensors
        )
        wanted += await _of_sections(pull, model, sections)
    if part.tiles:
        wanted += await _of_tiles(pull, model, part.tiles)
    return wanted


async def learn_headers(pull: "Pull", model: ModelManifest) -> None:
    """Begin to hold all files of a model that have headers."""
    await _gather(
        lambda ref: held_file(pull, ref), [ref for ref in model.files if ref.layout != "flat"]
    )


async def _of_sections(
    pull: "Pull", model: ModelManifest, sections: dict[int, list[int]]
) -> Wanted:
    helds = await _gather(lambda file: held_file(pull, model.files[file]), sorted(sections))
    wanted: Wanted = []
    for held, file in zip(helds, sorted(sections), strict=True):
        runs = Runs()
        for index in sections[file]:
            if index >= len(held.layout.sections):
                raise MalformedError(f"{model.files[file].path} has no section {index}")
            section = held.layout.sections[index]
            runs.add(section.first_leaf, section.end_leaf)
        wanted.append((held, list(runs)))
    return wanted


async def _of_tiles(pull: "Pull", model: ModelManifest, tiles: Sequence[tuple[int, int]]) -> Wanted:
    numbered = await trio.to_thread.run_sync(model_tiles, pull.store, model)
    runs: dict[int, Runs] = {}
    for start, count in tiles:
        for tile in range(start, start + count):
            file, lo, hi = numbered.leaves(tile)
            runs.setdefault(file, Runs()).add(lo, hi)
    helds = await _gather(lambda file: held_file(pull, model.files[file]), sorted(runs))
    return [(held, list(runs[file])) for held, file in zip(helds, sorted(runs), strict=True)]


def model_tiles(store: Store, model: ModelManifest) -> ModelTiles:
    """The numbering of a model's tiles. IncompleteError where a header is not here."""
    layouts = []
    for ref, layout in zip(model.files, layouts_of(store, model), strict=True):
        if layout is None:
            raise IncompleteError(f"the header of {ref.path} is not here", remedy="pull it first")
        layouts.append(layout)
    return ModelTiles(layouts)


# -- what peers are asked for ---------------------------------------------------------------


async def manifest_of(pull: "Pull", cid: bytes) -> Manifest:
    """A manifest, from the store or from a peer."""
    await pull.keep_name(cid)
    manifest = await trio.to_thread.run_sync(_held_manifest, pull.store, cid)
    if manifest is not None:
        return manifest

    async def ask(session: Session) -> bytes:
        _, data = await session.ask(BlockRequest(cid=cid), Bytes, MAX_BLOCK)
        check_block(cid, data)
        return data

    data = await pull.crew.first(ask)
    manifest = await trio.to_thread.run_sync(decode_manifest, data)
    pull.take_room(len(data))
    await pull.make_room(len(data))
    await trio.to_thread.run_sync(pull.store.put_block, data)
    return manifest


def _held_manifest(store: Store, cid: bytes) -> Manifest | None:
    """A manifest that is here. Raises MalformedError, LimitError for a block that is none."""
    with suppress(NotHeldError):
        return decode_manifest(store.get_block(cid))
    return None


async def held_file(pull: "Pull", ref: FileRef) -> HeldFile:
    """The file in the store, begun with the header and nodes of a peer if need be.

    Raises ManifestLieError where the file is not what `ref` says: then its holders do not lie.
    """
    await pull.keep_name(ref.root)
    held = pull.store.file(ref.root)
    if held is None:
        shape = await pull.crew.first(lambda session: _ask_shape(pull, session, ref.root))
        _check_ref(ref, shape.size, shape.layout)
        pull.take_room(len(shape.header) + HASH_BYTES * len(shape.nodes))
        await pull.make_room(shape.fixed_bytes + len(shape.header))
        return await trio.to_thread.run_sync(pull.store.create_shape, shape)
    _check_ref(ref, held.size, held.layout)
    return held


async def _ask_shape(pull: "Pull", session: Session, root: bytes) -> FileShape:
    said, raw = await session.ask(LayoutRequest(root=root), Shape, MAX_SHAPE_BYTES)

    def verified() -> FileShape:
        header, nodes = raw[: said.header], split_hashes(raw[said.header :])
        return FileShape(said.size, root, said.layout, header or None, nodes)

    # One at a time: parsing a header of 16 MiB takes 200 MB for a moment.
    return await trio.to_thread.run_sync(verified, limiter=pull.parsing)


def _check_ref(ref: FileRef, size: int, layout: Layout) -> None:
    if not describes(ref, size, layout):
        raise ManifestLieError(
            f"the manifest gives {ref.path!r} {ref.size} bytes ({ref.layout}), and the file that"
            f" it names has {size} ({layout.kind})",
            remedy="whoever made this manifest lies; do not use it",
        )


async def _learn_hashes(pull: "Pull", want: Want) -> None:
    """The leaf hashes of all sections that miss something. Several peers may have to help."""
    held = want.held
    while unknown := await trio.to_thread.run_sync(_unknown, want):

        async def ask(session: Session, unknown: Runs = unknown) -> int:
            request = LeavesRequest(root=held.root, sections=tuple(_first(held, unknown)))
            answer, raw = await session.ask(request, Hashes, MAX_HASHES * HASH_BYTES)
            return await trio.to_thread.run_sync(_put_hashes, held, unknown, answer, raw)

        await pull.crew.first(ask)


def _unknown(want: Want) -> Runs:
    """The sections that miss leaves and whose leaf hashes are not known."""
    unknown = Runs()
    for lo, hi in want.missing:
        for section in want.held.layout.sections_of_run(lo, hi):
            if section.leaves > MAX_HASHES:
                raise LimitError(f"tensor {section.name!r} has {section.leaves} sub-tiles")
            if not want.held.knows(section.index):
                unknown.add(section.index, section.index + 1)
    return unknown


def _first(held: HeldFile, unknown: Runs) -> Iterator[Span]:
    """As many of the runs of sections as one answer may have leaf hashes of (at least one)."""
    room = MAX_HASHES
    for lo, hi in list(unknown)[:MAX_RUNS]:
        end = lo
        while end < hi and room >= held.layout.sections[end].leaves:
            room -= held.layout.sections[end].leaves
            end += 1
        if end > lo:
            yield lo, end
        if end < hi:
            return


def _put_hashes(held: HeldFile, asked: Runs, answer: Hashes, raw: bytes) -> int:
    """Keep what a peer sent; how many sections. Raises MismatchError, MalformedError."""
    check_spans(answer.sections)
    if not answer.sections:
        raise PeerRefusedError(Refusal(code="not-held"))
    at = count = 0
    for lo, hi in answer.sections:
        if not asked.covers(lo, hi):
            raise MalformedError("leaf hashes of sections that were not asked for")
        for section in held.layout.sections[lo:hi]:
            end = at + section.leaves * HASH_BYTES
            held.put_leaf_hashes(section.index, raw[at:end])
            at, count = end, count + 1
    if at != len(raw):
        raise MalformedError("more leaf hashes than were announced")
    return count


# -- small things ---------------------------------------------------------------------------


def _want(held: HeldFile, runs: list[Span]) -> Want:
    missing = [gap for lo, hi in runs for gap in held.missing(lo, hi)]
    return Want(held, runs, missing)


def _by_file(wanted: Wanted) -> Wanted:
    """One entry for each file, without overlaps (two paths of a model may be one file)."""
    merged: dict[bytes, tuple[HeldFile, Runs]] = {}
    for held, runs in wanted:
        _, known = merged.setdefault(held.root, (held, Runs()))
        for lo, hi in runs:
            known.add(lo, hi)
    return [(held, list(runs)) for held, runs in merged.values() if runs]


def _bytes_of(held: HeldFile, runs: Sequence[Span]) -> int:
    spans = [held.layout.run_span(lo, hi) for lo, hi in runs]
    return sum(stop - start for start, stop in spans)


async def _gather(do: Callable[[S], Awaitable[T]], over: Sequence[S]) -> list[T]:
    """`do` for each, PARALLEL at a time; the results in order. Raises the first SynapseError."""
    results: dict[int, T] = {}
    errors: list[SynapseError] = []
    limit = trio.CapacityLimiter(PARALLEL)

    async def one(number: int, value: S) -> None:
        try:
            async with limit:
                results[number] = await do(value)
        except SynapseError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number, value in enumerate(over):
            nursery.start_soon(one, number, value)
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(over))]
