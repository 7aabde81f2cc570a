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
from protocols.ledger.entries import Proposal
from protocols.manifest import (
    MAX_NAME,
    DatasetManifest,
    FileRef,
    ProposalManifest,
    encode_manifest,
)
from protocols.plan import BadPlanError, Phase, Plan
from synapsed import models as library
from synapsed.control.ledgerapi import Report
from synapsed.control.ledgermodels import Submitted
from synapsed.control.models import Progress
from synapsed.models import import_artefacts
from synapsed.owner.assembly import Assembly
from synapsed.owner.library import Library
from synapsed.store.reasons import PUBLISHED
from synapsed.training.errors import BadTextError
from synapsed.training.planwords import phases_in_words
from synapsed.training.said import PlanSaid, TrainingRequest

T = TypeVar("T")
SHORT_CID = 16
"""Characters of an id in a title, as the command line shows them."""


class Opening(Library, Assembly):
    """The part of LearnApi that proposes a training."""

    async def propose_training(
        self, model: bytes, request: TrainingRequest, wait: bool, report: Report
    ) -> Submitted:
        """Publish the evaluation set and open the proposal. BadTextError, BadPlanError, and
        what an import and a submission raise."""
        text = Path(request.evaluation).absolute()
        if not await _thread(text.is_file):
            raise BadTextError(
                f"there is no text at {text}", remedy="name one file: checkpoints are judged by it"
            )
        plan = self._planned(model, request.plan)
        size = (await _thread(text.stat)).st_size
        if size < request.windows * plan.context:  # no tokenizer makes more tokens than bytes
            raise BadTextError(
                f"{text} has {size} bytes: too few for {request.windows} windows of "
                f"{plan.context} tokens",
                remedy="name a longer text, or ask for fewer --windows",
            )
        report(Progress(stage="publishing the evaluation set", done=0, total=0))
        evaluation = await self._publish_text(text)
        self._parts.catalog.announce(DatasetBody(dataset=evaluation, name=text.name, size=size))
        change = TrainingChange(
            model=model,
            plan=plan,
            evaluation=evaluation,
            windows=request.windows,
            margin=request.margin,
        )
        manifest = ProposalManifest(
            title=request.title or await self._title(model, plan),
            description=request.text,
            author=self._parts.identity.peer_id,
            depends_on=(),
            change=change,
        )
        data = encode_manifest(manifest)
        about = cid_text(cid_of(data))
        return await self._say("proposal", Proposal(manifest=data), about, wait, report)

    def _planned(self, model: bytes, asked: PlanSaid | None) -> Plan:
        """The plan that is meant. Of a model that is trained already, what is left out is the
        default's but for the groups, which stay as they are cut."""
        training = self._ledger.ledger.trainings.get(model)
        return plan_of(asked) if training is None else plan_of(asked, training.plan.group_bytes)

    async def _title(self, model: bytes, plan: Plan) -> str:
        name = await self.name_of(model)
        if model not in self._ledger.ledger.trainings:
            return fitted(f"Train {name}")
        return fitted(f"Another plan for {name}: {phases_in_words(plan)}")

    async def name_of(self, model: bytes) -> str:
        """A model's name; where its manifest is not here, the beginning of its id."""

        def look() -> str:
            if not self._parts.store.has_block(model):
                return cid_text(model)[:SHORT_CID]
            return library.model_manifest(self._parts.store, model).name

        return await _thread(look)

    async def _publish_text(self, text: Path) -> bytes:
        def described(files: Sequence[FileRef]) -> DatasetManifest:
            return DatasetManifest(
                name=text.name, description="An evaluation set", files=tuple(files)
            )

        with self._parts.evictor.room() as room:
            take = partial(import_artefacts, reason=PUBLISHED, make_room=room.make_from_thread)
            cid, _ = await _thread(partial(take, self._parts.store, [text], "flat", described))
        return cid


def plan_of(asked: PlanSaid | None, group_bytes: int = DEFAULT.group_bytes) -> Plan:
    """The default plan, with groups of so many bytes, and with what is asked for. Raises
    BadPlanError for one that is none."""
    given = {} if asked is None else msgspec.structs.asdict(asked)
    fields = msgspec.to_builtins(msgspec.structs.asdict(DEFAULT))
    fields["group_bytes"] = group_bytes
    fields |= {name: value for name, value in given.items() if value is not None}
    if asked is not None and asked.phases is not None:
        fields["phases"] = [list(msgspec.structs.astuple(phase)) for phase in asked.phases]
    ordered = [fields[name] for name in Plan.__struct_fields__]
    try:
        return msgspec.convert(ordered, Plan)
    except msgspec.ValidationError as error:
        raise BadPlanError(
            f"no plan: {_named(str(error))}", remedy="docs/learning.md says what a plan is made of"
        ) from error


def fitted(title: str) -> str:
    """As much of a title as a proposal may have."""
    return title if len(title) <= MAX_NAME else f"{title[: MAX_NAME - 1]}…"


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
