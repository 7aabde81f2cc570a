"""Proposing that a model be trained: the evaluation set is published, the plan put to the vote.

The text that checkpoints are judged by stands in the proposal by its content id, before there is
any checkpoint; so it is published here first, as a dataset of one file.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from protocols.changes import TrainingChange
from protocols.cid import cid_of, cid_text
from protocols.gossip.announcement import DatasetBody
from protocols.learn.defaults import DEFAULT
from protocols.learn.plan import Phase, Plan
from protocols.ledger.entries import Proposal
from protocols.manifest import DatasetManifest, FileRef, ProposalManifest, encode_manifest
from synapsed.control.ledgerapi import Report
from synapsed.control.ledgermodels import Submitted
from synapsed.control.models import Progress
from synapsed.models import import_artefacts
from synapsed.owner.assembly import Assembly
from synapsed.owner.library import Library
from synapsed.store.reasons import PUBLISHED
from synapsed.training.errors import CannotLearnError
from synapsed.training.said import PlanSaid, TrainingRequest

T = TypeVar("T")


class Opening(Library, Assembly):
    """The part of LearnApi that proposes a training."""

    async def propose_training(
        self, model: bytes, request: TrainingRequest, wait: bool, report: Report
    ) -> Submitted:
        """Publish the evaluation set and open the proposal. CannotLearnError, MalformedError, and
        what an import and a submission raise."""
        text = Path(request.evaluation).absolute()
        if not await _thread(text.is_file):
            raise CannotLearnError(
                f"there is no text at {text}", remedy="name one file: checkpoints are judged by it"
            )
        plan = plan_of(request.plan)
        report(Progress(stage="publishing the evaluation set", done=0, total=0))
        evaluation = await self._publish_text(text)
        self._parts.catalog.announce(
            DatasetBody(dataset=evaluation, name=text.name, size=(await _thread(text.stat)).st_size)
        )
        change = TrainingChange(
            model=model,
            plan=plan,
            evaluation=evaluation,
            windows=request.windows,
            margin=request.margin,
        )
        manifest = ProposalManifest(
            title=request.title or f"Train {cid_text(model)[-8:]}",
            description=request.text,
            author=self._parts.identity.peer_id,
            depends_on=(),
            change=change,
        )
        data = encode_manifest(manifest)
        about = cid_text(cid_of(data))
        return await self._say("proposal", Proposal(manifest=data), about, wait, report)

    async def _publish_text(self, text: Path) -> bytes:
        def described(files: Sequence[FileRef]) -> DatasetManifest:
            return DatasetManifest(
                name=text.name, description="An evaluation set", files=tuple(files)
            )

        with self._parts.evictor.room() as room:
            take = partial(import_artefacts, reason=PUBLISHED, make_room=room.make_from_thread)
            cid, _ = await _thread(partial(take, self._parts.store, [text], "flat", described))
        return cid


def plan_of(asked: PlanSaid | None) -> Plan:
    """The default plan with what is asked for. Raises CannotLearnError for one that is none."""
    given = {} if asked is None else msgspec.structs.asdict(asked)
    fields = msgspec.to_builtins(msgspec.structs.asdict(DEFAULT))
    fields |= {name: value for name, value in given.items() if value is not None}
    if asked is not None and asked.phases is not None:
        fields["phases"] = [list(msgspec.structs.astuple(phase)) for phase in asked.phases]
    ordered = [fields[name] for name in Plan.__struct_fields__]
    try:
        return msgspec.convert(ordered, Plan)
    except msgspec.ValidationError as error:
        raise CannotLearnError(
            f"no plan: {_named(str(error))}", remedy="docs/learning.md says what a plan is made of"
        ) from error


def _named(problem: str) -> str:
    """msgspec's words about a plan, which is an array there: `$[0][2][1]` is `phases[2].steps`."""

    def name(found: re.Match[str]) -> str:
        field, *inner = (int(at) for at in re.findall(r"\d+", found[0]))
        words = Plan.__struct_fields__[field]
        if inner:
            words += f"[{inner[0]}]"
        return words + "".join(f".{Phase.__struct_fields__[at]}" for at in inner[1:])

    return re.sub(r"\$(?:\[\d+\])+", name, problem)


async def _thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
