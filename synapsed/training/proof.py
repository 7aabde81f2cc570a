"""A council member's look at a checkpoint: is it what it says, and is it better than its parent?

    the child     every file that holds no tensors is its parent's own; the others hold the same
                  tensors, of the same types and shapes
    its rounds    committed by the ledger's replica groups, one chain a group from the parent's
                  versions to the child's, and the shares are what they say (learn/evidence.py)
    its loss      on the windows that were drawn, beside its parent's (learn/proof.py)

Only the ledger's own head is a parent. What this member cannot tell, for want of a compute worker
or of memory, it says nothing about; a child that is not what it says does not hold, whatever it
would score. Where the owner keeps a private text (`probe`), a child that is worse on that has
learned the evaluation set instead, and does not hold either.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from protocols.changes import MIN_WINDOWS, CheckpointChange, Share
from protocols.cid import cid_text
from protocols.council.errands import Finding
from protocols.envelope import Verify
from protocols.errors import MalformedError, NotHeldError, SynapseError
from protocols.learn.evidence import (
    MAX_EVIDENCE,
    Evidence,
    Stand,
    check_evidence,
    read_evidence,
    shares,
)
from protocols.learn.partition import groups_of
from protocols.learn.proof import holds, overfits
from protocols.ledger.fold import LedgerState
from protocols.ledger.training import seed_of
from protocols.ledger.trainings import NO_ROUNDS, Training
from protocols.manifest import (
    DatasetManifest,
    Manifest,
    ModelManifest,
    decode_manifest,
    files,
)
from protocols.tensors.safetensors_header import SafetensorsHeader, parse_safetensors_header
from protocols.tensors.tensorblock import SAFETENSORS
from synapsed.authoring.question import CheckFailedError
from synapsed.compute.wire import Version
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.store import Store
from synapsed.training.bounds import cannot_tell, within
from synapsed.training.scoring import Evaluator, Files, Pair, Text, compare, windows_of
from synapsed.transfer.limits import Room
from synapsed.transfer.pull import Puller

FETCHING_S = 3600.0
"""For a parent, a child, the rounds between them and the evaluation set: 4 GB at 10 Mbit/s."""
EVALUATING_S = 3600.0
"""For two models on some windows, beside training and whoever generates."""
SMALL = 1 << 30
"""Bytes of all that is no model: the evaluation set first of all."""
F32 = "F32"

Replicas = Callable[[bytes, int, int], Sequence[tuple[bytes, ...]]]
"""(lineage, groups, epoch) -> who serves each group, by the ledger; nothing for an epoch that it
does not remember."""


class WrongCheckpointError(MalformedError):
    """A checkpoint that is not what its proposal says, or no child of its parent."""

    code = "wrong-checkpoint"


class Judging(Evaluator, Protocol):
    """What a proof asks of the compute worker. Raises ComputeError."""

    async def make_versions(
        self, files: Files, group_bytes: int, groups: Sequence[int], out: Path
    ) -> tuple[Version, ...]:
        """The values of some groups, written out and hashed."""


class Model(NamedTuple):
    """One of the two, as it lies here."""

    manifest: ModelManifest
    paths: list[tuple[str, Path]]
    headers: dict[int, SafetensorsHeader]
    """Of its safetensors files, by their number."""

    @property
    def exact(self) -> bool:
        """Whether its files have the very values that rounds work on."""
        return all(each.dtype == F32 for one in self.headers.values() for each in one.tensors)


class Proof:
    """Looks at checkpoints, for the examiner."""

    def __init__(
        self,
        store: Store,
        puller: Puller,
        compute: Judging,
        ledger: Callable[[], LedgerState],
        *,
        replicas: Replicas,
        verify: Verify,
        scratch: Path,
        probe: Path | None = None,
    ) -> None:
        """`scratch` is a folder for versions that are made to compare; `probe` a text of ours."""
        self._store = store
        self._puller = puller
        self._compute = compute
        self._ledger = ledger
        self._replicas = replicas
        self._verify = verify
        self._scratch = scratch
        self._probe = probe
        self._turn = trio.Lock()
        """Two models at a time are enough for a machine, and scoring.py has names for no more."""

    async def judge(self, proposal: bytes, change: CheckpointChange) -> Finding:
        """What this member says of it. MalformedError where it is not what it says,
        CheckFailedError where nobody can tell here, ArtefactUnavailableError."""
        state = self._ledger()
        training = state.trainings.get(change.training)
        seed = seed_of(state, proposal) if proposal in state.open else None
        if training is None or seed is None or change.parent != training.head:
            raise CheckFailedError("the ledger has gone on: there is nothing to judge any more")
        with self._store.keeping() as keep:
            with within(FETCHING_S, ArtefactUnavailableError):
                for cid in (change.parent, change.manifest, change.evidence, training.evaluation):
                    room = await self._room(change, cid)
                    for name in await self._pull(cid, room):
                        await trio.to_thread.run_sync(keep.add, name)
            async with self._turn:
                with within(EVALUATING_S, CheckFailedError), cannot_tell("evaluated"):
                    return await self._judge(state, training, change, seed)

    async def _judge(
        self, state: LedgerState, training: Training, change: CheckpointChange, seed: bytes
    ) -> Finding:
        parent, child = await self._model(change.parent), await self._model(change.manifest)
        check_child(parent, child)
        await self._check_rounds(state, training, change, (parent, child))
        text = Text(await self._text(training.evaluation), training.plan.context)
        pair = Pair(parent.paths, child.paths)
        found = await compare(self._compute, pair, text, windows=training.windows, seed=seed)
        better = holds(found, training.margin)
        if better and self._probe is not None:
            better = not await self._overfits(pair, Text(self._probe, text.context), training)
        return Finding(better, found)

    async def _overfits(self, pair: Pair, probe: Text, training: Training) -> bool:
        """Whether the child is worse on our own text, by windows that nobody can foresee."""
        windows = min(training.windows, await windows_of(self._compute, pair, probe))
        if windows < MIN_WINDOWS:
            raise CheckFailedError(f"{probe.path} has {windows} windows, and needs {MIN_WINDOWS}")
        seed = random.SystemRandom().randbytes(32)
        return overfits(await compare(self._compute, pair, probe, windows=windows, seed=seed))

    # -- what must be here ---------------------------------------------------------------------

    async def _room(self, change: CheckpointChange, cid: bytes) -> Room:
        """A child may have as many bytes as its parent, which is ratified; all else is small."""
        if cid == change.manifest:
            parent = await self._manifest(change.parent)
            return Room(sum(ref.size for ref in files(parent)) + SMALL)
        return Room(1 << 62) if cid == change.parent else Room(SMALL)

    async def _pull(self, cid: bytes, room: Room) -> list[bytes]:
        try:
            await self._puller.pull(cid, room=room)
        except MalformedError:
            raise
        except SynapseError as error:
            raise ArtefactUnavailableError(
                f"{cid_text(cid)} cannot be fetched: {error.message}",
                remedy="keep a daemon that holds it up while it is judged",
            ) from error
        return [cid, *(ref.root for ref in files(await self._manifest(cid)))]

    async def _manifest(self, cid: bytes) -> Manifest:
        return decode_manifest(await trio.to_thread.run_sync(self._store.get_block, cid))

    async def _model(self, cid: bytes) -> Model:
        manifest = await self._manifest(cid)
        if not isinstance(manifest, ModelManifest):
            raise WrongCheckpointError(f"{cid_text(cid)} is no model")
        return await trio.to_thread.run_sync(self._laid_out, manifest)

    def _laid_out(self, manifest: ModelManifest) -> Model:
        paths, headers = [], {}
        for number, ref in enumerate(manifest.files):
            held = self._store.file_of(ref)
            if held is None:
                raise NotHeldError(f"{ref.path} of {manifest.name} is not here")
            paths.append((ref.path, held.path))
            if ref.layout == SAFETENSORS:
                headers[number] = parse_safetensors_header(held.header, held.size)
        return Model(manifest, paths, headers)

    async def _only_file(self, cid: bytes) -> Path:
        """The path of a dataset's one file."""
        manifest = await self._manifest(cid)
        if not isinstance(manifest, DatasetManifest) or len(manifest.files) != 1:
            raise WrongCheckpointError(f"{cid_text(cid)} is no dataset of one file")
        held = self._store.file_of(manifest.files[0])
        if held is None:
            raise NotHeldError(f"the file of {cid_text(cid)} is not here")
        return held.path

    async def _text(self, cid: bytes) -> Path:
        try:
            return await self._only_file(cid)
        except WrongCheckpointError as error:  # the training's fault, not this checkpoint's
            raise CheckFailedError(f"the evaluation set: {error.message}") from error

    # -- its rounds ----------------------------------------------------------------------------

    async def _check_rounds(
        self,
        state: LedgerState,
        training: Training,
        change: CheckpointChange,
        models: tuple[Model, Model],
    ) -> None:
        path = await self._only_file(change.evidence)
        parent, child = models
        groups = groups_of(sorted(parent.headers.items()), training.plan.group_bytes)

        evidence = await trio.to_thread.run_sync(_read, path)
        if len(evidence.span.ends) != len(groups):
            raise WrongCheckpointError("its rounds are of other groups than the model has")
        newest = max((record.round.epoch for record in evidence.records), default=0)
        if newest > state.epoch:
            raise WrongCheckpointError(f"a round of epoch {newest}, which has not begun")
        served = {
            epoch: self._replicas(change.training, len(groups), epoch)
            for epoch in sorted({record.round.epoch for record in evidence.records})
        }

        def replicas(epoch: int, group: int) -> tuple[bytes, ...]:
            return tuple(served[epoch][group]) if group < len(served[epoch]) else ()

        def counted() -> tuple[Share, ...]:
            check_evidence(
                evidence,
                model=change.training,
                began=training.heads,
                heads=change.heads,
                realm=state.realm,
                replicas=replicas,
                verify=self._verify,
            )
            return shares(evidence, [group.elements for group in groups])

        if await trio.to_thread.run_sync(counted) != change.shares:
            raise WrongCheckpointError("its shares are not what its rounds say")
        if child.exact:
            wanted = training.plan.group_bytes
            if training.heads == NO_ROUNDS:
                await self._check_values(parent, wanted, evidence.span.begins, "parent")
            await self._check_values(child, wanted, evidence.span.ends, "child")

    async def _check_values(
        self, model: Model, group_bytes: int, stands: Sequence[Stand], which: str
    ) -> None:
        """Its tensors are the versions that the rounds stand at."""
        for number, stand in enumerate(stands):
            (made,) = await self._compute.make_versions(
                model.paths, group_bytes, [number], self._scratch
            )
            await trio.to_thread.run_sync(_forget, Path(made.path))
            if made.head != stand.root:
                raise WrongCheckpointError(f"group {number} of the {which} is not what rounds made")


def check_child(parent: Model, child: Model) -> None:
    """Raise WrongCheckpointError unless only the values of its tensors are other than its
    parent's: neither how text is read nor how the model is built is a checkpoint's to change."""
    theirs, ours = parent.manifest.files, child.manifest.files
    if [ref.path for ref in theirs] != [ref.path for ref in ours]:
        raise WrongCheckpointError("its files are not its parent's")
    for number, (before, after) in enumerate(zip(theirs, ours, strict=True)):
        if number not in parent.headers:
            if before.root != after.root:
                raise WrongCheckpointError(f"{after.path} is not its parent's, and has no tensors")
        elif number not in child.headers or _shape(parent, number) != _shape(child, number):
            raise WrongCheckpointError(f"{after.path} has not the tensors of its parent's")


def _shape(model: Model, number: int) -> list[tuple[object, ...]]:
    tensors = model.headers[number].tensors
    return [(each.name, each.dtype, each.shape) for each in tensors]


def _read(path: Path) -> Evidence:
    with path.open("rb") as file:
        return read_evidence(file.read(MAX_EVIDENCE + 1))


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
