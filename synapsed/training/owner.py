"""What the owner asks about learning: see it, join, leave, generate, evaluate, propose.

Models come as CID text, and any checkpoint of a lineage stands for the lineage: what is generated
with, or measured, is the newest one that the council has ratified.
"""

import logging
import math
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from protocols.changes import CheckpointChange
from protocols.cid import cid_of, cid_text, parse_cid
from protocols.errors import SynapseError
from protocols.gossip.announcement import DatasetBody
from protocols.learn.evidence import Stand, read_evidence
from protocols.ledger.entries import Proposal, decode_entry
from protocols.ledger.state import State
from protocols.manifest import (
    DatasetManifest,
    ModelManifest,
    ProposalManifest,
    decode_manifest,
    encode_manifest,
)
from protocols.peerid import peer_id_text
from protocols.plan import MILLION
from synapsed import models as library
from synapsed.compute.errors import PausedError
from synapsed.control.ledgerapi import Report
from synapsed.control.models import ImportResult, Progress
from synapsed.control.problems import ConflictError, NoGenesisError, UnknownError
from synapsed.models.exports import complete_files
from synapsed.training.accusing import Accusing
from synapsed.training.errors import (
    BadTextError,
    CannotLearnError,
    NotJoinedError,
    NoTrainingError,
)
from synapsed.training.exchange import Traffic
from synapsed.training.letgo import LetGo
from synapsed.training.lineage import Lineage
from synapsed.training.opening import fitted
from synapsed.training.planwords import plan_in_words
from synapsed.training.publish import Made, Publisher
from synapsed.training.said import (
    AuditRequest,
    AuditSaid,
    CheckpointRequest,
    CheckpointSaid,
    CheckpointSeen,
    ComputeSaid,
    Evaluated,
    EvaluateRequest,
    ExclusionSaid,
    Generated,
    GenerateRequest,
    JoinRequest,
    NewModelRequest,
    Piece,
    TrainingSaid,
    TrainStatus,
)
from synapsed.training.service import TrainingService, talks
from synapsed.training.study import Course, seed_of

T = TypeVar("T")
log = logging.getLogger(__name__)

CHECKPOINT_LOOK_S = 5.0
"""Between two looks at whether a checkpoint is due: rounds take longer."""

NORMAL_95 = 1.96
"""Standard errors of a 95 % interval."""
LOOK_S = 2.0
"""For the worker to say how it is: it does so at once, or (watchdog.py) hangs."""
LOAD_LOOK_S = 0.2
"""Between two looks at whether a training is loaded."""
MAX_CONTEXT = 512
"""Tokens of a window that is measured, where a model takes more."""


class Training(Accusing):
    """LearnApi, as node.py's Facade has it."""

    @property
    def _training(self) -> TrainingService:
        if self._parts.training is None:
            raise NoGenesisError(
                "this daemon was given no genesis, so nothing is learned here",
                remedy="`synapsed init --genesis FILE`, with the file of the network's founders",
            )
        return self._parts.training

    def _lineage_of(self, model: bytes) -> Lineage:
        """The training that a model began, or is a checkpoint of. NoTrainingError."""
        found = self._ledger.ledger.training_of(model)
        if found is None:
            raise NoTrainingError(
                f"the ledger has no training of {cid_text(model)}",
                remedy="`synapsectl train propose` proposes one; `train ls` lists those there are",
            )
        return self._training.lineage(found.model)

    # -- seeing ------------------------------------------------------------------------------------

    async def train_status(self, lineage: bytes | None) -> TrainStatus:
        """Every training (of this lineage, if given), and the worker."""
        service = self._parts.training
        every = [] if service is None else list(service.lineages.values())
        if lineage is not None:
            every = [self._lineage_of(lineage)]
        return TrainStatus(
            compute=await self._compute_said(),
            trainings=[self._said(one) for one in every],
            talks=[] if service is None else talks(service.traffic),
        )

    async def _compute_said(self) -> ComputeSaid:
        compute = self._parts.compute
        status = compute.status()
        device, memory = "", 0
        if status.state == "running":
            try:
                with trio.move_on_after(LOOK_S) as late:
                    seen = await compute.look()
            except SynapseError:
                seen = None  # it ended meanwhile
            if late.cancelled_caught:
                why = f"it does not answer for {LOOK_S:.0f} s; one that hangs is ended"
                return ComputeSaid(state=status.state, why=why, device="", memory=0)
            if seen is not None:
                device, memory = seen.device, seen.card or seen.resident
        # What runs again is well: how the one before it ended stands in the events and the log.
        why = status.last_death if status.state in ("off", "resting") else ""
        return ComputeSaid(state=status.state, why=why, device=device, memory=memory)

    def _said(self, one: Lineage) -> TrainingSaid:
        study, course, plan = one.study, one.course, one.terms.plan
        groups = one.groups_said()
        number = min((group.round for group in groups if group.head), default=0)
        phase = plan.phase_of(number)
        traffic: Traffic = self._training.traffic
        return TrainingSaid(
            lineage=cid_text(one.post.lineage),
            name=one.name,
            plan=plan_in_words(plan),
            group_bytes=plan.group_bytes,
            learners=one.learners,
            head=cid_text(one.terms.head),
            joined=course is not None,
            paused=self._parts.compute.paused,
            state="off" if course is None else "fetching" if study is None else study.state,
            why=(study.why if study is not None else "") or one.why,
            round=number,
            steps=course.step if study is None and course is not None else _steps(study),
            loss=None if study is None else study.loss,
            contributed=0 if study is None else study.acked,
            refused=0 if study is None else study.refused,
            bytes_in=traffic.total("in"),
            bytes_out=traffic.total("out"),
            data="" if course is None else course.data,
            phase=f"H={phase.steps} up={phase.up} down={phase.down}",
            aggregator=one.aggregator,
            groups=groups,
            checkpoint_at=0 if course is None else one.checkpoint_at,
            checkpoints=self._ratified(one.post.lineage),
            excluded=self._excluded(),
        )

    def _ratified(self, lineage: bytes) -> list[CheckpointSeen]:
        training = self._ledger.ledger.trainings.get(lineage)
        return [
            CheckpointSeen(
                model=cid_text(each.manifest),
                proposal=cid_text(each.proposal),
                index=each.index,
                low=each.interval.low / MILLION,
                mean=each.interval.mean / MILLION,
                high=each.interval.high / MILLION,
            )
            for each in (training.chain if training is not None else ())
        ]

    def _excluded(self) -> list[ExclusionSaid]:
        return [
            ExclusionSaid(
                peer=peer_id_text(who),
                training=cid_text(each.training),
                epoch=each.epoch,
                until=each.until,
                lost=each.lost,
                proposal=cid_text(each.proposal),
                index=each.index,
            )
            for who, each in sorted(self._ledger.ledger.exclusions.items())
        ]

    # -- learning ----------------------------------------------------------------------------------

    async def train_join(self, request: JoinRequest, report: Report) -> TrainingSaid:
        """Learn from now on, also after a restart; comes back once the first base is loaded."""
        one = self._lineage_of(parse_cid(request.model))
        data = Path(request.data).absolute()
        if not await _thread(data.exists):
            raise BadTextError(f"there is no text at {data}", remedy="name a file or a folder")
        if self._parts.compute.paused:
            raise PausedError
        lineage = one.post.lineage
        one.join(
            Course(
                data=str(data),
                checkpoint_every=request.checkpoint_every,
                seed=seed_of(self._parts.identity.peer_id, lineage),
            )
        )
        while one.course is not None and (one.study is None or not one.study.ready.is_set()):
            stage = one.why or ("fetching the model" if one.study is None else "loading")
            if one.study is not None and one.study.failed is not None:
                failed = one.study.failed
                await one.leave()
                raise failed
            report(Progress(stage=stage, done=0, total=0))
            await trio.sleep(LOAD_LOOK_S)
        if one.course is not None:  # nobody left meanwhile
            self._parts.bus.emit("training.joined", model=cid_text(lineage), data=str(data))
        return self._said(one)

    async def train_leave(self, lineage: bytes) -> TrainingSaid:
        """Learn no more; what is on its way is not waited for. Replicas go on serving."""
        one = self._lineage_of(lineage)
        if one.course is None:
            raise NotJoinedError(
                f"{cid_text(lineage)} is not learned here",
                remedy="`synapsectl train ls` shows what is",
            )
        await one.leave()
        self._parts.bus.emit("training.left", model=cid_text(one.post.lineage))
        return self._said(one)

    async def audit_round(self, lineage: bytes, request: AuditRequest, report: Report) -> AuditSaid:
        """Fetch what a committed round was made from, and recompute it; whoever signed a wrong one
        is accused."""
        one = self._lineage_of(lineage)
        if one.cutting is None or request.group >= len(one.cutting.groups):
            raise UnknownError(
                f"{cid_text(lineage)} has no tile group {request.group} here",
                remedy="`synapsectl train status MODEL` lists its groups",
            )
        report(Progress(stage="recomputing", done=0, total=0))
        began = trio.current_time()
        found = await one.reviewer.review(request.group, request.round)
        record = found.record
        return AuditSaid(
            lineage=cid_text(one.post.lineage),
            group=request.group,
            round=request.round,
            answer=found.answer,
            why=found.why,
            epoch=0 if record is None else record.round.epoch,
            signers=[] if record is None else [peer_id_text(each.replica) for each in record.by],
            seconds=round(trio.current_time() - began, 3),
        )

    # -- checkpoints -------------------------------------------------------------------------------

    async def propose_checkpoint(
        self, lineage: bytes, request: CheckpointRequest, wait: bool, report: Report
    ) -> CheckpointSaid:
        """Write, import, publish and propose the current values; `wait` for the ledger's entry."""
        one = self._lineage_of(lineage)
        made, parent = await self._make_checkpoint(one, report)
        announce = self._parts.catalog.announce
        self._parts.shards.changed(made.model, at_once=True)
        announce(DatasetBody(dataset=made.evidence, name="rounds", size=made.evidence_size))
        manifest = ProposalManifest(
            title=fitted(f"Checkpoint {await self.name_of(one.post.lineage)}, round {made.round}"),
            description=request.description
            or f"What was learned up to round {made.round}; the rounds are its evidence.",
            author=self._parts.identity.peer_id,
            depends_on=(),
            change=made.change,
        )
        data = encode_manifest(manifest)
        proposal = cid_text(cid_of(data))
        await self._say("proposal", Proposal(manifest=data), proposal, wait, report)
        said = CheckpointSaid(
            model=cid_text(made.model),
            parent=cid_text(parent),
            round=made.round,
            proposal=proposal,
        )
        self._parts.bus.emit(
            "training.checkpoint",
            model=cid_text(one.post.lineage),
            checkpoint=said.model,
            round=made.round,
            proposal=proposal,
        )
        return said

    async def propose_by_itself(self) -> None:
        """Propose a checkpoint of each training whose owner wished so, when it is due. A task."""
        ledger = self._parts.ledger
        let_go = None if ledger is None else LetGo(self._parts.store, lambda: ledger.ledger)
        while True:
            await trio.sleep(CHECKPOINT_LOOK_S)
            if let_go is not None and ledger is not None and ledger.loaded:
                for cid in let_go.look():
                    log.info("the checkpoint %s is let go of: `gc` takes it", cid_text(cid))
            service = self._parts.training
            for one in [] if service is None else list(service.lineages.values()):
                if one.is_checkpoint_due:
                    await self._propose_due(one)

    async def _propose_due(self, one: Lineage) -> None:
        try:
            request = CheckpointRequest(description="Proposed by itself, as its owner wished.")
            said = await self.propose_checkpoint(
                one.post.lineage, request, False, lambda _progress: None
            )
        except SynapseError as error:
            log.warning("no checkpoint of %s: %s", cid_text(one.post.lineage), error)
            one.checkpointed(one.round)  # the next one is due later
        else:
            one.checkpointed(said.round)

    async def _make_checkpoint(self, one: Lineage, report: Report) -> tuple[Made, bytes]:
        if not one.chains or not all(chain.ready for chain in one.chains):
            raise CannotLearnError(
                "a checkpoint is made from all groups, and not all are here",
                remedy="`synapsectl train join` first",
            )
        parent = one.terms.head
        report(Progress(stage="writing a checkpoint", done=0, total=0))
        begins = await self._begins(one)
        if not self._parts.store.has_block(parent):
            await self._parts.puller.pull(parent)
        files = await self._files_of(parent)
        manifest = library.model_manifest(self._parts.store, parent)
        publisher = Publisher(self._parts.store, one, files)
        return await publisher.make(parent, begins, manifest.name), parent

    async def _begins(self, one: Lineage) -> list[Stand]:
        """Where the groups stood in the head: at their beginning, or where its evidence ends."""
        training = self._ledger.ledger.trainings[one.post.lineage]
        if not training.chain:
            return [Stand(0, one.genesis(chain.group.number)) for chain in one.chains]
        change = self._change_of(training.chain[-1].proposal)
        await self._parts.puller.pull(change.evidence)
        dataset = self._parts.store.manifest_of(change.evidence)
        assert isinstance(dataset, DatasetManifest)
        held = self._parts.store.file_of(dataset.files[0])
        assert held is not None
        data = await _thread(held.path.read_bytes)
        return list(read_evidence(data).span.ends)

    def _change_of(self, proposal: bytes) -> CheckpointChange:
        """What an accepted proposal changed. CannotLearnError where the entry is not here."""
        state: State = self._ledger.ledger
        closed = state.closed.get(proposal)
        if closed is not None:
            entry = decode_entry(self._ledger.history.log.payload(closed.opened)).entry
            body = getattr(entry, "body", None)
            if isinstance(body, Proposal):
                manifest = decode_manifest(body.manifest)
                change = getattr(manifest, "change", None)
                if isinstance(change, CheckpointChange):
                    return change
        raise CannotLearnError(
            "the head's proposal is not here", remedy='set keep = "all" in [ledger]'
        )

    # -- models ------------------------------------------------------------------------------------

    async def new_model(self, request: NewModelRequest, report: Report) -> ImportResult:
        """Fresh weights, imported and announced."""
        report(Progress(stage="making weights", done=0, total=0))
        parent = self._parts.paths.training
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = parent / f"new-{request.kind}-{request.seed}"
        if await _thread(folder.exists):
            raise ConflictError(
                f"{folder} is there already", remedy="another new model of that kind is being made"
            )
        try:
            await self._parts.compute.new_model(request.kind, folder, request.seed)
            name = request.name or request.kind
            return await self.import_model(folder, name, report)
        finally:
            await _thread(partial(shutil.rmtree, folder, ignore_errors=True))

    async def _files_of(self, cid: bytes) -> list[tuple[str, Path]]:
        """(name, path) of a complete model's files. IncompleteError."""

        def look() -> list[tuple[str, Path]]:
            manifest: ModelManifest = library.model_manifest(self._parts.store, cid)
            held = complete_files(self._parts.store, manifest)
            return [(ref.path, file.path) for ref, file in zip(manifest.files, held, strict=True)]

        return await _thread(look)

    def _newest(self, cid: bytes) -> bytes:
        """What a model's CID stands for now."""
        ledger = self._parts.ledger
        return cid if ledger is None else ledger.ledger.head_of(cid)

    async def generate(
        self, model: bytes, request: GenerateRequest
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Pieces of text as they come, and at last all of it."""
        began = trio.current_time()
        cid, text = self._newest(model), ""
        compute = self._parts.compute
        await compute.open_model(cid, await self._files_of(cid))
        async with compute.generate(
            cid,
            request.prompt,
            tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
        ) as pieces:
            async for piece in pieces:
                text += piece
                yield Piece(text=piece)
        seconds = trio.current_time() - began
        yield Generated(model=cid_text(cid), text=text, seconds=seconds)

    def _context_of(self, model: bytes) -> int:
        """Tokens of a window: of a model in training as many as it is trained, and judged, by."""
        ledger = self._parts.ledger
        training = None if ledger is None else ledger.ledger.training_of(model)
        return MAX_CONTEXT if training is None else training.plan.context

    async def evaluate(self, model: bytes, request: EvaluateRequest, report: Report) -> Evaluated:
        """A model's loss on a text."""
        cid = self._newest(model)
        compute, data = self._parts.compute, Path(request.data).absolute()
        report(Progress(stage="opening the model", done=0, total=0))
        opened = await compute.open_model(cid, await self._files_of(cid))
        context = min(opened.context, self._context_of(cid))
        began = trio.current_time()
        there = (await compute.evaluate(cid, data, context, ())).windows
        count = min(request.windows or there, there)
        chosen = [there * at // count for at in range(count)]
        report(Progress(stage="measuring", done=0, total=count))
        losses = list((await compute.evaluate(cid, data, context, chosen)).losses)
        mean, low, high = interval(losses)
        return Evaluated(
            model=cid_text(cid),
            windows=count,
            tokens=count * context,
            loss=mean,
            low=low,
            high=high,
            seconds=trio.current_time() - began,
        )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the bounds of its 95 % interval."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = NORMAL_95 * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def _steps(study: object) -> int:
    course = getattr(study, "course", None)
    return 0 if course is None else int(course.step)


async def _thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
