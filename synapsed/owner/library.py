"""What the owner does with models: import, pull, export, pin, remove, collect, scrub.

Each is carried out by the layer that knows how; here it is put in the daemon's words, its
announcements follow, and slow work goes to a thread.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from protocols.cid import cid_of, cid_text
from protocols.errors import SynapseError
from protocols.gossip.announcement import Body, ProposalBody, kind_of_body
from protocols.gossip.shelf import Entry, Holding
from protocols.manifest import ExpertManifest, ModelManifest, encode_manifest
from protocols.peerid import peer_id_text
from synapsed import models as library
from synapsed.control import drafts
from synapsed.control import models as shapes
from synapsed.control.api import Report
from synapsed.control.problems import BusyError, PausedError, UnknownError
from synapsed.owner.overview import announcement_info
from synapsed.parts import Parts
from synapsed.store.reasons import OWNER, PUBLISHED, PULLED
from synapsed.transfer.plan import Part
from synapsed.transfer.progress import PullProgress, PullReport

T = TypeVar("T")

NOTHING_TO_KEEP = (library.UnknownPartError, library.NotAModelManifestError)
"""Errors of a pull of what there is not: unlike one that was stopped, it is not gone on with."""


class Library:
    """The model half of NodeApi."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- looking ------------------------------------------------------------------------------

    async def models(self) -> list[shapes.ModelInfo]:
        """Models whose manifest is here."""
        states = await _thread(library.list_models, self._parts.store)
        return [_info(state) for state in states]

    async def model(self, cid: bytes) -> shapes.ModelDetail:
        """One of them; UnknownError."""
        self._known(cid)
        # The catalog and the replicator belong to this thread, the disk to others.
        holders = [self._holder(cid, it) for it in self._parts.catalog.catalog.holders(cid)]
        short = self._parts.replicator.standing(cid).short
        return await _thread(self._detail, cid, holders, short)

    def _detail(
        self, cid: bytes, holders: list[shapes.HolderInfo], short: int
    ) -> shapes.ModelDetail:
        state = library.model_state(self._parts.store, cid)
        layouts = library.layouts_of(self._parts.store, state.manifest)
        return shapes.ModelDetail(
            model=_info(state),
            file_list=[_file_info(file) for file in state.files],
            expert_list=self._experts(cid, state.manifest),
            holders=holders,
            tiles=sum(layout.tile_count for layout in layouts if layout is not None),
            under_replicated=short,
        )

    def _experts(self, cid: bytes, manifest: ModelManifest) -> list[shapes.ExpertInfo]:
        layouts = library.layouts_of(self._parts.store, manifest)
        found = []
        for expert in library.experts(self._parts.store, cid).values():
            size = 0
            for ref in expert.tensors:
                layout = layouts[ref.file]
                size += layout.sections[ref.section].length if layout is not None else 0
            name = cid_text(cid_of(encode_manifest(expert)))
            found.append(shapes.ExpertInfo(name, expert.name, len(expert.tensors), size))
        return found

    def _holder(self, cid: bytes, holding: Holding) -> shapes.HolderInfo:
        own = holding.peer == self._parts.identity.peer_id
        return shapes.HolderInfo(
            peer_id=peer_id_text(holding.peer),
            tiles=sum(count for _, count in holding.tiles),
            proven=own or self._parts.replicator.proven(cid, holding.peer),
            own=own,
        )

    def _known(self, cid: bytes) -> bytes:
        if not self._parts.store.has_block(cid):
            raise UnknownError(
                f"no model {cid_text(cid)} is known here",
                remedy="`synapsectl model ls` lists those that are; pull it first",
            )
        return cid

    # -- moving bytes -------------------------------------------------------------------------

    async def import_model(
        self, path: Path, name: str | None, report: Report
    ) -> shapes.ImportResult:
        """Hash a folder or file into the store, pin it, announce it."""

        def say(done: int, total: int) -> None:
            trio.from_thread.check_cancelled()
            report(shapes.Progress(stage="import", done=done, total=total))

        store = self._parts.store
        with self._parts.evictor.room() as room:
            take = partial(library.import_model, make_room=room.make_from_thread)
            found = await _thread(partial(take, store, path, name, say))
        await self._wanted_again(found.cid)
        self._parts.shards.changed(found.cid, at_once=True)
        size = sum(ref.size for ref in found.manifest.files)
        self._parts.bus.emit("model.imported", model=cid_text(found.cid), bytes=size)
        return shapes.ImportResult(
            cid=cid_text(found.cid),
            name=found.manifest.name,
            size=size,
            files=len(found.manifest.files),
            experts=len(found.experts),
        )

    async def pull(
        self, cid: bytes, experts: list[str], tensors: list[str], report: Report
    ) -> shapes.PullResult:
        """Fetch a model or an expert (by CID), or parts of a model by name, and pin it."""
        if self._parts.puller.paused:
            raise PausedError("the daemon is paused", remedy="synapsectl resume")
        async with self._parts.pulls:
            try:
                done = await self._pull(cid, Part(tuple(experts), tuple(tensors)), report)
            except BaseException:
                self._parts.bus.emit("pull.failed", model=cid_text(cid))
                raise
        self._parts.bus.emit(
            "pull.done", model=cid_text(cid), bytes=done.fetched, seconds=round(done.seconds, 3)
        )
        return await _thread(self._pull_result, cid, done)

    async def _pull(self, cid: bytes, part: Part, report: Report) -> PullReport:
        parts = self._parts
        await self._wanted_again(cid)
        parts.bus.emit("pull.started", model=cid_text(cid))
        model: bytes | None = None
        looked = False

        def say(now: PullProgress) -> None:
            nonlocal model, looked
            report(
                shapes.Progress(
                    "pull", now.done, now.total, now.tiles_done, now.tiles_total, len(now.rates)
                )
            )
            if not looked:
                looked, model = True, self._model_of(cid)
                self._announce(model, at_once=True)
            self._announce(model)

        fresh = await _thread(self._pin, cid, PULLED)
        parts.adapters.chosen(cid)
        try:
            with parts.evictor.room() as room:
                done = await parts.puller.pull(cid, part, progress=say, make_room=room.make)
        except SynapseError as error:
            if fresh and (isinstance(error, NOTHING_TO_KEEP) or not parts.store.has_block(cid)):
                await _thread(parts.store.unpin, cid, PULLED)
            raise
        finally:
            self._announce(model, at_once=True)
        if part.whole and model == cid:
            await _thread(library.put_experts, parts.store, cid)
        return done

    def _pin(self, cid: bytes, reason: str) -> bool:
        """Whether it was not pinned for this reason before."""
        store = self._parts.store
        before = (cid, reason) in store.pins()
        store.pin(cid, reason)
        return not before

    def _announce(self, model: bytes | None, *, at_once: bool = False) -> None:
        if model is not None:
            self._parts.shards.changed(model, at_once=at_once)

    def _model_of(self, cid: bytes) -> bytes | None:
        """The model that `cid` is, or whose expert it is: what shards are announced of."""
        manifest = self._parts.store.manifest_of(cid)
        if isinstance(manifest, ExpertManifest):
            return manifest.model
        return cid if isinstance(manifest, ModelManifest) else None

    async def _wanted_again(self, cid: bytes) -> None:
        await self._parts.replicas.declined.discard(cid)
        self._parts.replicator.holders_changed(cid)

    def _pull_result(self, cid: bytes, done: PullReport) -> shapes.PullResult:
        manifest = self._parts.store.manifest_of(cid)
        return shapes.PullResult(
            cid=cid_text(cid),
            name=getattr(manifest, "name", ""),
            size=done.total,
            fetched=done.fetched,
            seconds=done.seconds,
            sources=[
                shapes.SourceReport(
                    peer_id=peer_id_text(share.peer),
                    bytes=share.bytes,
                    subtiles=share.leaves,
                    faults=share.faults,
                )
                for share in done.peers
            ],
        )

    async def export(self, cid: bytes, path: Path, report: Report) -> shapes.ExportResult:
        """Write a complete model's files, byte-identical, into a folder that is empty or new."""

        def say(done: int, total: int) -> None:
            trio.from_thread.check_cancelled()
            report(shapes.Progress(stage="export", done=done, total=total))

        work = partial(library.export_model, self._parts.store, self._known(cid), path, say)
        manifest = await _thread(work)
        return shapes.ExportResult(
            cid=cid_text(cid),
            path=str(path),
            files=len(manifest.files),
            size=sum(ref.size for ref in manifest.files),
        )

    # -- keeping and letting go ---------------------------------------------------------------

    async def pin(self, cid: bytes) -> shapes.ModelInfo:
        """Keep it through `gc`."""
        state = await _thread(self._pinned, self._known(cid))
        await self._wanted_again(cid)
        self._announce(cid, at_once=True)
        return _info(state)

    def _pinned(self, cid: bytes) -> library.ModelState:
        library.model_manifest(self._parts.store, cid)
        self._parts.store.pin(cid, OWNER)
        return library.model_state(self._parts.store, cid)

    async def unpin(self, cid: bytes) -> shapes.ModelInfo:
        """Let `gc` take it."""
        state = await _thread(self._unpinned, self._known(cid))
        self._announce(cid, at_once=True)
        return _info(state)

    def _unpinned(self, cid: bytes) -> library.ModelState:
        library.model_manifest(self._parts.store, cid)
        library.unpin_model(self._parts.store, cid)
        return library.model_state(self._parts.store, cid)

    async def remove(self, cid: bytes) -> shapes.Removed:
        """Forget a model at once, pinned by the user or not, and withdraw its announcement."""
        parts = self._parts
        self._known(cid)
        await parts.replicas.declined.add(cid)
        parts.replicator.holders_changed(cid)
        await parts.puller.stop(cid)
        freed = await _thread(library.remove_model, parts.store, cid)
        parts.shards.changed(cid, at_once=True)
        parts.bus.emit("model.removed", model=cid_text(cid), freed=freed)
        return shapes.Removed(cid_text(cid), freed)

    async def gc(self) -> shapes.GcResult:
        """Delete what nothing pinned reaches."""
        done = await _thread(self._parts.store.gc)
        self._parts.shards.all_changed()
        return shapes.GcResult(blocks=done.blocks, files=done.files, freed=done.freed)

    async def scrub(self, report: Report) -> shapes.ScrubResult:
        """Read and verify every byte held."""
        total, done, began = self._parts.store.quota.used, 0, time.monotonic()

        def say(count: int) -> None:
            nonlocal done
            trio.from_thread.check_cancelled()
            done += count
            report(shapes.Progress(stage="scrub", done=done, total=max(done, total)))

        found = await _thread(self._parts.store.scrub, say)
        self._parts.shards.all_changed()
        bad = len(found.bad_leaves) + len(found.bad_blocks)
        self._parts.bus.emit("store.scrubbed", bytes=done, bad=bad)
        return shapes.ScrubResult(
            subtiles=found.checked, bad=bad, bytes=done, seconds=time.monotonic() - began
        )

    # -- publishing ---------------------------------------------------------------------------

    async def publish(self, draft: shapes.Draft) -> shapes.AnnouncementInfo:
        """Take a draft's file into the store, write its manifest, pin and announce it."""
        with self._parts.evictor.room() as room:
            body = await _thread(self._take, draft, room.make_from_thread)
        self._parts.catalog.announce(body)
        entry = self._parts.catalog.catalog.own(kind_of_body(body), body.subject)
        if entry is None:
            raise BusyError(
                "too much was announced in the last minute",
                remedy="it is kept, and announced by itself as soon as the rate allows",
            )
        return self._announced(entry)

    def _take(self, draft: shapes.Draft, make_room: Callable[[int], None]) -> Body:
        """Keep what a draft describes; the body of its announcement."""
        store, author = self._parts.store, self._parts.identity.peer_id
        published = partial(library.import_artefact, reason=PUBLISHED, make_room=make_room)
        match draft:
            case shapes.ProposalDraft():
                data = encode_manifest(drafts.proposal_manifest(draft, author))
                store.pin(cid_of(data), PUBLISHED)
                return ProposalBody(proposal=store.put_block(data), title=draft.title)
            case shapes.AdapterDraft():
                adapter = partial(drafts.adapter_manifest, draft, author=author)
                path = Path(draft.file)
                taken = published(store, path, "safetensors", adapter)
                return drafts.adapter_body(*taken)
            case shapes.KernelDraft():
                kernel = partial(drafts.kernel_manifest, draft, author=author)
                path = Path(draft.file)
                built = published(store, path, "flat", kernel)
                return drafts.kernel_body(*built, draft.benchmarks[0])

    async def withdraw(self, announcement: bytes) -> shapes.AnnouncementInfo:
        """Take back one of our own announcements, by its CID."""
        entry = self._parts.catalog.catalog.entry(announcement[4:])
        if entry is None or not entry.live or entry.issuer != self._parts.identity.peer_id:
            raise UnknownError(
                f"no announcement {cid_text(announcement)} of ours is in force",
                remedy="`synapsectl announcements` lists them",
            )
        self._parts.catalog.withdraw(entry.kind, entry.subject)
        if entry.kind == "adapter":
            await self._parts.adapters.decline(entry.subject)
        return self._announced(entry)

    def _announced(self, entry: Entry) -> shapes.AnnouncementInfo:
        return announcement_info(entry, self._parts.identity.peer_id)


async def _thread(work: Callable[..., T], *arguments: object) -> T:
    """Run blocking work in a thread. Cancelled, it ends where it next reports its progress."""
    return await trio.to_thread.run_sync(partial(work, *arguments))


def _info(state: library.ModelState) -> shapes.ModelInfo:
    return shapes.ModelInfo(
        cid=cid_text(state.cid),
        name=state.manifest.name,
        size=state.size,
        held=state.held,
        complete=state.complete,
        pinned=bool(state.pinned),
        reasons=sorted(state.pinned),
        files=len(state.files),
        experts=state.experts,
    )


def _file_info(file: library.FileState) -> shapes.FileInfo:
    return shapes.FileInfo(
        path=file.ref.path,
        size=file.ref.size,
        root=file.ref.root.hex(),
        layout=file.ref.layout,
        held=file.held,
        complete=file.complete,
    )
