"""A council member's look at a case: did the accused sign what its inputs do not make?

    the statement   the small dataset: who signed what, in which office (protocols/learn/case.py)
    the evidence    the other one: the bytes that it names, each by its hash
    the answer      the round, or the sum, made again (recompute.py)

Nothing large is fetched before the statement has shown that the accused signed it. What this member
cannot tell, for want of a compute worker or of memory, it says nothing about.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from protocols.changes import ExclusionChange
from protocols.cid import cid_text
from protocols.council.errands import Finding
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError, NotHeldError, SynapseError
from protocols.learn.audit import to_recompute
from protocols.learn.case import (
    ABOUT,
    BASE,
    MAX_ABOUT,
    MAX_BYTES,
    BadCaseError,
    Case,
    RoundCase,
    SumCase,
    check_case,
    check_files,
    decided,
    needed,
    unpack,
)
from protocols.learn.claims import UnknownGroupError
from protocols.ledger.exclusion import plan_known
from protocols.ledger.fold import LedgerState
from protocols.ledger.trainings import Training
from protocols.manifest import DatasetManifest, FileRef, decode_manifest
from protocols.plan import plan_digest
from synapsed.authoring.question import CheckFailedError
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.models import NotAModelManifestError
from synapsed.store import Store
from synapsed.training.bounds import cannot_tell, within
from synapsed.training.materials import Materials
from synapsed.training.post import Computing
from synapsed.training.recompute import remake_round, remake_sum, write_blank
from synapsed.transfer.limits import Room
from synapsed.transfer.plan import Part
from synapsed.transfer.pull import Puller

FETCHING_S = 3600.0
"""For a case and its evidence: 4 GB at 10 Mbit/s."""
COMPUTING_S = 600.0
"""For one round, beside training and whoever generates: one of a group of 1 GiB takes a minute."""
SMALL = 4 << 20
"""Bytes beside the files: manifests, hashes."""

Replicas = Callable[[bytes, int, int], Sequence[tuple[bytes, ...]]]
"""(lineage, groups, epoch) -> who serves each group, by the ledger; nothing for an epoch that it
does not remember."""


class Judge:
    """Looks at cases, for the examiner."""

    def __init__(
        self,
        store: Store,
        puller: Puller,
        compute: Computing,
        ledger: Callable[[], LedgerState],
        *,
        replicas: Replicas,
        verify: Verify,
        scratch: Path,
    ) -> None:
        """`scratch` is a folder for what is made again."""
        self._store = store
        self._puller = puller
        self._materials = Materials(store, puller)
        self._compute = compute
        self._ledger = ledger
        self._replicas = replicas
        self._verify = verify
        self._scratch = scratch
        self._turn = trio.Lock()
        """One computation at a time is enough for a machine."""

    async def judge(self, change: ExclusionChange) -> Finding:
        """What this member says of it: `holds` where the accused signed what is wrong.
        MalformedError where the case is none, CheckFailedError where nobody can tell here,
        ArtefactUnavailableError."""
        state, training = self._open(change)
        with self._store.keeping() as keep:
            with within(FETCHING_S, ArtefactUnavailableError):
                case = await self._statement(change, training, state, keep.add)
                _check_plan(case, training, state)
                await self._evidence(change, case, keep.add)
            async with self._turn:
                _, training = self._open(change)  # another case may have been faster
                with within(COMPUTING_S, CheckFailedError), cannot_tell("recomputed"):
                    return Finding(await self._is_wrong(change, case, training))

    def _open(self, change: ExclusionChange) -> tuple[LedgerState, Training]:
        """What the ledger says now. CheckFailedError where there is nothing to judge any more."""
        state = self._ledger()
        training = state.trainings.get(change.training)
        if training is None or change.accused in state.exclusions:
            raise CheckFailedError("the accused is excluded already, or the training is gone")
        if not plan_known(state, training, change.epoch):
            raise CheckFailedError("the training has another plan since")
        return state, training

    # -- what must be here ---------------------------------------------------------------------

    async def _statement(
        self,
        change: ExclusionChange,
        training: Training,
        state: LedgerState,
        keep: Callable[[bytes], None],
    ) -> Case:
        await self._pull(change.case, None, Room(MAX_ABOUT + SMALL), keep)
        refs = await self._files(change.case)
        if [ref.path for ref in refs] != [ABOUT] or refs[0].size > MAX_ABOUT:
            raise BadCaseError("a case that is no statement of its size")
        held = self._store.file_of(refs[0])
        if held is None:
            raise NotHeldError("the case's statement is not here")
        case = unpack(await trio.to_thread.run_sync(_read, held.path))
        with cannot_tell("recomputed"):
            cutting = await self._materials.cut(training.model, training.plan.group_bytes)
        its = decided(case)
        served = self._replicas(change.training, len(cutting.groups), its.epoch)

        def replicas(_epoch: int, group: int) -> tuple[bytes, ...]:
            return tuple(served[group]) if group < len(served) else ()

        def check() -> None:
            check_case(case, change, realm=state.realm, replicas=replicas, verify=self._verify)

        try:
            await trio.to_thread.run_sync(check)
        except UnknownGroupError as error:
            raise CheckFailedError(error.message) from error
        return case

    async def _evidence(
        self, change: ExclusionChange, case: Case, keep: Callable[[bytes], None]
    ) -> None:
        """Its files, once their names and sizes are those of such a case."""
        # Of what is no model a part is refused, once its manifest is here: that is all we want.
        with suppress(NotAModelManifestError):
            await self._pull(change.evidence, Part(headers=True), Room(SMALL), keep)
        check_files(case, await self._files(change.evidence))
        await self._pull(change.evidence, None, Room(MAX_BYTES + SMALL), keep)

    async def _pull(
        self, cid: bytes, part: Part | None, room: Room, keep: Callable[[bytes], None]
    ) -> None:
        try:
            await self._puller.pull(cid, part, room=room)
        except (MalformedError, LimitError, NotAModelManifestError):
            raise
        except SynapseError as error:
            raise ArtefactUnavailableError(
                f"{cid_text(cid)} cannot be fetched: {error.message}",
                remedy="keep a daemon that holds it up while it is judged",
            ) from error
        for name in (cid, *(ref.root for ref in await self._files(cid))):
            await trio.to_thread.run_sync(keep, name)

    async def _files(self, cid: bytes) -> tuple[FileRef, ...]:
        manifest = decode_manifest(await trio.to_thread.run_sync(self._store.get_block, cid))
        if not isinstance(manifest, DatasetManifest):
            raise BadCaseError(f"{cid_text(cid)} is no dataset")
        return manifest.files

    # -- the answer ----------------------------------------------------------------------------

    async def _is_wrong(self, change: ExclusionChange, case: Case, training: Training) -> bool:
        paths = await trio.to_thread.run_sync(self._paths, await self._files(change.evidence))
        deltas = await trio.to_thread.run_sync(_checked, case, paths)
        match case:
            case RoundCase(round=said):
                found = await remake_round(
                    self._compute,
                    training.plan,
                    said,
                    base=paths[BASE],
                    deltas=deltas,
                    out=self._scratch,
                )
                return bool(found)
            case SumCase(proof=proof):
                asked = to_recompute(proof, training.plan)
                cutting = await self._materials.cut(training.model, training.plan.group_bytes)
                blank = self._scratch / f"blank-{cid_text(training.model)[-8:]}-{asked.group}"
                await trio.to_thread.run_sync(write_blank, cutting.groups[asked.group], blank)
                try:
                    return not await remake_sum(
                        self._compute,
                        training.plan,
                        asked,
                        blank=blank,
                        deltas=deltas,
                        out=self._scratch,
                    )
                finally:
                    blank.unlink(missing_ok=True)

    def _paths(self, refs: Sequence[FileRef]) -> dict[str, Path]:
        found = {}
        for ref in refs:
            held = self._store.file_of(ref)
            if held is None:
                raise NotHeldError(f"{ref.path} of the evidence is not here")
            found[ref.path] = held.path
        return found


def _check_plan(case: Case, training: Training, state: LedgerState) -> None:
    """Raise BadCaseError for what was made by another plan than the one in force, by which alone it
    could be made again; CheckFailedError where that is not sure."""
    its = decided(case)
    if its.plan != plan_digest(training.plan):
        raise BadCaseError("a round of another plan than the one in force")
    # A sum names no plan: one that was made before the plan changed may be in a round after.
    first = training.index == training.opened
    if isinstance(case, SumCase) and not first and not plan_known(state, training, its.epoch - 1):
        raise CheckFailedError("the sum may be from before the plan in force")


def _checked(case: Case, paths: dict[str, Path]) -> dict[bytes, Path]:
    """The deltas and the outer state by sha256. BadCaseError for one that is something else."""
    found = {}
    for each in needed(case):
        if each.name != BASE:
            if _sha256(paths[each.name]) != each.digest:
                raise BadCaseError(f"{each.name} of the evidence is something else")
            found[each.digest] = paths[each.name]
    return found


def _sha256(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_ABOUT + 1)
