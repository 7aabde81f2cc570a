"""What the owner asks about upgrades: to see them, to propose and undo them, to have a say here.

What is seen are readings of the ratified state (control/upgradeview.py) and of the service that
follows it (upgrades/service.py). A proposal's module and source are taken into the store and
announced before it is submitted, so that whoever votes can have them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import trio

from protocols.changes import NATIVE, UpgradeChange
from protocols.cid import cid_of, cid_text, parse_cid
from protocols.errors import SynapseError
from protocols.gossip.announcement import UpgradeBody
from protocols.ledger.entries import Proposal
from protocols.ledger.errors import NotOpenError
from protocols.ledger.possible import check_change
from protocols.ledger.rollout import REFERENCE, SlotState, Version, version_of
from protocols.ledger.upgrades import check_proposed
from protocols.manifest import (
    FileRef,
    ProposalManifest,
    UpgradeManifest,
    decode_manifest,
    encode_manifest,
)
from protocols.slots.abi import Slot
from synapsed import models as library
from synapsed.authoring import build
from synapsed.authoring.build import Built
from synapsed.authoring.check import claims_change
from synapsed.authoring.languages import OUTPUT
from synapsed.control import ledgermodels as ledger_said
from synapsed.control import slotview
from synapsed.control import upgrademodels as said
from synapsed.control.ledgerapi import Report
from synapsed.control.models import Progress
from synapsed.control.paststages import PastStages
from synapsed.control.problems import ConflictError, PausedError, UnknownError
from synapsed.control.upgradedrafts import name_of, rollback_change, upgrade_change
from synapsed.control.upgradedrafts import upgrade_manifest as upgrade_manifest_of
from synapsed.control.upgradeview import ENDED, OVER, UpgradeView
from synapsed.owner.assembly import Assembly
from synapsed.owner.upgradefacts import Here
from synapsed.store.reasons import PUBLISHED
from synapsed.transfer.limits import Room
from synapsed.upgrades.desk import UpgradeDesk
from synapsed.upgrades.modules import (
    FETCH_SECONDS,
    MAX_FETCH,
    MixedUpError,
    Wanted,
    checked,
    read_file,
    read_module,
    upgrade_manifest,
)
from synapsed.upgrades.service import UpgradeService

T = TypeVar("T")

MAX_SHOWN = 1 << 20
"""Bytes of a source that are shown: more than anybody reads, and what `upgrade build` takes."""


class Upgrading(Assembly):
    """The part of NodeApi that is about upgrades, on top of the ledger's."""

    @property
    def _service(self) -> UpgradeService:
        assert self._ledger  # NoGenesisError: there is one with the other
        service = self._parts.upgrades
        assert service is not None
        return service

    @property
    def _desk(self) -> UpgradeDesk:
        return UpgradeDesk(self._service, self._parts.store, self._parts.puller)

    def _upgrade_view(self) -> UpgradeView:
        service, me = self._ledger, self._parts.identity.peer_id
        return UpgradeView(service.ledger, service.history, me, service.genesis)

    def _slot(self, name: str) -> Slot:
        found = self._service.slots.get(name)
        if found is None:
            raise UnknownError(
                f"there is no slot {name[:64]!r}",
                remedy=f"there are {', '.join(sorted(self._service.slots))}: "
                "`synapsectl upgrade slots`",
            )
        return found

    # -- seeing --------------------------------------------------------------------------------

    async def upgrades(self) -> said.Upgrades:
        """Every slot on this daemon, and what was proposed."""
        service, jail = self._service, self._parts.jail
        found = self._upgrade_view().upgrades(service.slots, Here(service))
        if jail is not None:
            found.jail = said.JailInfo(
                layers=[name for name in jail.layers.text().split(",") if name],
                missing=list(jail.layers.missing),
                weaker_allowed=self._parts.loaded.config.upgrades.allow_weaker_jail,
            )
        return found

    async def upgrade(self, proposal: bytes) -> said.UpgradeDetail:
        """One that was proposed, with what of it is here; UnknownError."""
        return await self._upgrade_detail(proposal, {})

    async def fetch_upgrade(self, proposal: bytes, report: Report) -> said.UpgradeDetail:
        """The same, with manifest, module and source brought here first, and what it replaces."""
        if self._parts.puller.paused:
            raise PausedError("the daemon is paused", remedy="synapsectl resume")
        view = self._upgrade_view()
        change = view.found(proposal).change
        failed: dict[bytes, str] = {}
        for manifest in filter(None, (change.manifest, view.replaced(change).manifest)):
            report(Progress(stage="fetching manifest, module and source", done=0, total=0))
            if why := await self._fetch(manifest):
                failed[manifest] = why
        return await self._upgrade_detail(proposal, failed)

    async def _fetch(self, manifest: bytes) -> str:
        """Bring an upgrade's files here; why that failed, if it did."""
        try:
            with trio.fail_after(FETCH_SECONDS):
                await self._parts.puller.pull(manifest, room=Room(MAX_FETCH))
        except trio.TooSlowError:
            return f"it did not arrive within {FETCH_SECONDS:.0f} s"
        except SynapseError as error:
            return error.message
        return ""

    async def _upgrade_detail(
        self, proposal: bytes, failed: dict[bytes, str]
    ) -> said.UpgradeDetail:
        view = self._upgrade_view()
        it, found = view.found(proposal), view.detail(proposal, Here(self._service))
        found.proposal = await self.proposal(proposal)
        if it.ended is not None and it.ended.accepted and not found.stages:
            await self._recall(found, PastStages(view.history, proposal, it.ended))
        change, replaced = it.change, view.replaced(it.change)
        if change.manifest:
            why = failed.get(change.manifest, "")
            found.manifest, found.manifest_why_not = await _thread(self._read, change, why)
        if replaced.manifest:
            found.replaced = await _thread(self._source_of, replaced.manifest, replaced.module)
        return found

    async def _recall(self, found: said.UpgradeDetail, past: PastStages) -> None:
        for _ in past.steps():
            await trio.lowlevel.checkpoint()
        found.stages = [slotview.stage_info(each) for each in past.stages]
        if past.event:
            ended, state = ENDED[past.event], found.upgrade.state
            # What was in force once and is replaced had settled, too.
            found.upgrade.state = state if ended == "settled" else ended
            found.upgrade.reason = past.reason

    def _read(self, change: UpgradeChange, why: str) -> tuple[said.ManifestInfo | None, str]:
        """The manifest of an upgrade with its source, or why it is not here."""
        try:
            manifest = upgrade_manifest(self._parts.store, change.manifest)
            _check_record(manifest, change)
        except SynapseError as error:
            return None, why or error.message
        source = self._source(manifest)
        changed = claims_change(manifest)
        return slotview.manifest_info(manifest, source, changed=changed), ""

    def _source_of(self, cid: bytes, module: bytes) -> said.SourceInfo | None:
        """The source of a module that a manifest names, as far as that is here."""
        try:
            manifest = upgrade_manifest(self._parts.store, cid)
        except SynapseError:
            return None
        return self._source(manifest) if manifest.module_hash == module else None

    def _source(self, manifest: UpgradeManifest) -> said.SourceInfo:
        text, why = None, ""
        if manifest.source.size > MAX_SHOWN:
            return slotview.source_info(manifest, None, "it is too long to be shown")
        try:
            text = read_file(self._parts.store, manifest.source)
            checked(text, manifest.source_hash, "the source")
        except SynapseError as error:
            text, why = None, error.message
        return slotview.source_info(manifest, text, why)

    async def module_in_force(self, slot: str) -> bytes:
        """The bytes that the ledger has in force; UnknownError."""
        found = self._slot(slot)
        current = self._ledger.ledger.slot(slot).current
        if current.native:
            raise UnknownError(f"{slot} runs its native reference, which is no module")
        wanted = Wanted(
            slot=slot,
            abi=found.abi,
            version=current.number,
            module=current.module,
            size=current.size,
            manifest=current.manifest,
        )
        return await _thread(read_module, self._parts.store, wanted)

    # -- proposing -----------------------------------------------------------------------------

    async def propose_upgrade(
        self, request: said.UpgradeRequest, wait: bool, report: Report
    ) -> ledger_said.Submitted:
        """Take a built folder into the store, announce it, and open the proposal."""
        self._service  # noqa: B018 - NoGenesisError, before anything is read
        state, me = self._ledger.ledger, self._parts.identity.peer_id
        built, module, text = await _thread(build.load, Path(request.path))
        slot = self._slot(built.slot)
        change = upgrade_change(request, built, slot, state.slot(slot.name), state.time)
        self._check(change)  # what the ledger would refuse is not announced first
        report(Progress(stage="taking it into the store", done=0, total=0))
        describe = partial(upgrade_manifest_of, request, built, author=me)
        cid, fresh = await self._keep(Path(request.path), built, describe)
        change = msgspec.structs.replace(change, manifest=cid)
        title = request.title or f"Upgrade {slot.name} to version {change.version}"
        size = len(module) + len(text)
        self._parts.catalog.announce(UpgradeBody(upgrade=cid, slot=slot.name, size=size))
        try:
            return await self._open(title, request.text, change, wait, report)
        except SynapseError:
            if fresh:
                self._parts.catalog.withdraw("upgrade", cid)
                await _thread(self._parts.store.unpin, cid, PUBLISHED)
            raise

    async def _keep(
        self, folder: Path, built: Built, describe: Callable[[Sequence[FileRef]], UpgradeManifest]
    ) -> tuple[bytes, bool]:
        """Pin module and source; the manifest's CID, and whether it was not pinned before."""
        store = self._parts.store
        before = {pinned.cid for pinned in store.pins() if pinned.reason == PUBLISHED}
        paths = [folder / OUTPUT, folder / built.source]
        with self._parts.evictor.room() as room:
            take = partial(
                library.import_artefacts, reason=PUBLISHED, make_room=room.make_from_thread
            )
            cid, _ = await _thread(take, store, paths, "flat", describe)
        return cid, cid not in before

    async def propose_rollback(
        self, slot: str, request: said.RollbackRequest, wait: bool, report: Report
    ) -> ledger_said.Submitted:
        """Propose a former version's bytes under the next number."""
        found = self._slot(slot)
        here = self._ledger.ledger.slot(slot)
        to = _former(here, request.to)
        source = NATIVE
        if not to.native:
            report(Progress(stage="fetching manifest, module and source", done=0, total=0))
            source = await self._source_hash(to)
        now = self._ledger.ledger.time
        change = rollback_change(request, found, here, to=to, source=source, now=now)
        self._check(change)
        title = request.title or f"Bring back {name_of(to)} of {slot}"
        return await self._open(title, request.text, change, wait, report)

    async def _source_hash(self, version: Version) -> bytes:
        """That a former version's manifest names. UnknownError where it cannot be had."""
        store = self._parts.store
        why = await self._fetch(version.manifest)
        try:
            return (await _thread(upgrade_manifest, store, version.manifest)).source_hash
        except SynapseError as error:
            raise UnknownError(
                f"the manifest of version {version.number} cannot be had: {why or error.message}",
                remedy="a daemon that ran it has it: `synapsectl peers`, and try again",
            ) from error

    def _check(self, change: UpgradeChange) -> None:
        """Raise what the ledger would, and where it could never begin."""
        state = self._ledger.ledger
        check_change(change, state.params, state.humans)
        check_proposed(state, change)
        vote = state.params["vote.window_ms"] + state.params["execute.delay_ms"]
        if change.expires <= state.time + vote:
            raise ConflictError(
                f"it expires before its vote is over and it may begin, {vote // 1000} s from now",
                remedy="propose it with a later expiry",
            )

    async def _open(
        self, title: str, text: str, change: UpgradeChange, wait: bool, report: Report
    ) -> ledger_said.Submitted:
        manifest = ProposalManifest(
            title=title,
            description=text,
            author=self._parts.identity.peer_id,
            depends_on=(),
            change=change,
        )
        data = encode_manifest(manifest)
        decode_manifest(data)  # MalformedError for what is out of bounds
        return await self._say(
            "proposal", Proposal(manifest=data), cid_text(cid_of(data)), wait, report
        )

    # -- the owner's say -----------------------------------------------------------------------

    async def say_of_upgrade(
        self, proposal: bytes, said_: Literal["accept", "refuse"]
    ) -> said.UpgradeWord:
        """The owner's word, which holds at once and is kept."""
        view, here = self._upgrade_view(), Here(self._service)
        change, state = view.found(proposal).change, view.info(proposal, here).state
        if state in OVER:
            raise NotOpenError(
                f"this upgrade is over: {state}",
                remedy="`synapsectl upgrade mode` says what may run; what is under way, `ls`",
            )
        say = self._desk.accept if said_ == "accept" else self._desk.refuse
        version = say(proposal)
        rollout = self._ledger.ledger.slot(change.slot).rollout
        shown = slotview.version_info(version, self._service.why_not(change.slot, version))
        return said.UpgradeWord(
            proposal=cid_text(proposal),
            slot=change.slot,
            version=version.number,
            said=said_,
            reported=said_ == "refuse" and rollout is not None and rollout.proposal == proposal,
            why_not=shown.why_not,
        )

    async def set_upgrade_mode(self, request: said.ModeRequest) -> said.Modes:
        """The owner's will, which holds at once and is kept."""
        if request.slot is not None:
            self._slot(request.slot)
        self._desk.set_mode(request.mode, request.slot)
        here = Here(self._service)
        return said.Modes([said.ModeInfo(slot, *here.mode(slot)) for slot in self._service.slots])

    async def replay(self, slot: str, request: said.ReplayRequest, report: Report) -> said.Replayed:
        """Try a version on the batches that were recorded here; nothing else notices."""
        self._slot(slot)
        version = self._to_replay(slot, request)
        report(Progress(stage=f"replaying version {version.number}", done=0, total=0))
        found = await self._desk.replay(slot, version)
        return said.Replayed(
            slot=slot,
            version=version.number,
            module="" if version.native else version.module.hex(),
            batches=found.batches,
            rows=found.rows,
            changed=found.changed,
            traps=found.traps,
            first_trap=found.first_trap,
            fuel=found.fuel,
            seconds=found.seconds,
        )

    def _to_replay(self, slot: str, request: said.ReplayRequest) -> Version:
        here = self._ledger.ledger.slot(slot)
        if request.proposal is not None:
            change = self._upgrade_view().found(parse_cid(request.proposal)).change
            if change.slot != slot:
                raise ConflictError(f"{request.proposal} is an upgrade of {change.slot}")
            return version_of(change, parse_cid(request.proposal), 0)
        candidate = () if here.rollout is None else (here.rollout.candidate,)
        named = (REFERENCE, *here.former, here.current, *candidate)
        known: dict[int, Version] = {each.number: each for each in named}
        wanted = here.current.number if request.version is None else request.version
        if wanted not in known:
            raise UnknownError(
                f"{slot} has no version {wanted} that is in force, before it or in rollout",
                remedy=f"there are {', '.join(str(each) for each in sorted(known))}; "
                "what is only proposed goes by its CID: --proposal",
            )
        return known[wanted]


async def _thread(work: Callable[..., T], *arguments: object) -> T:
    return await trio.to_thread.run_sync(partial(work, *arguments))


def _former(here: SlotState, number: int | None) -> Version:
    """The version to go back to. UnknownError, ConflictError."""
    known = (REFERENCE, *here.former)
    named = [each for each in known if number in (None, each.number)]
    if not named:
        numbers = ", ".join(sorted({str(each.number) for each in known}))
        raise UnknownError(
            f"{here.slot} was never, or not lately, at version {number}",
            remedy=f"--to one of {numbers}; 0 is the native reference",
        )
    if named[-1].module == here.current.module:
        raise ConflictError(
            f"{name_of(named[-1])} of {here.slot} is what is in force",
            remedy="`synapsectl upgrade status` shows what was in force before",
        )
    return named[-1]


def _check_record(manifest: UpgradeManifest, change: UpgradeChange) -> None:
    """Raise MixedUpError where a manifest is not that of what is voted on."""
    theirs = (manifest.slot, manifest.abi, manifest.module_hash, manifest.source_hash)
    if theirs != (change.slot, change.abi, change.module, change.source):
        raise MixedUpError("the manifest that it names is another upgrade's: do not vote for it")
    if manifest.module.size != change.size:
        raise MixedUpError("the manifest says another size than what is voted on")
