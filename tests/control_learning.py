"""Learning at a node without a net or torch: what the owner is told, and what was asked."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec

from protocols.cid import cid_of, cid_text
from protocols.peerid import peer_id_text
from synapsed.compute.errors import PausedError
from synapsed.control import ledgermodels
from synapsed.control import models as shapes
from synapsed.control.problems import UnknownError
from synapsed.training import said
from synapsed.training.errors import CannotLearnError, NotJoinedError, NoTrainingError
from synapsed.training.opening import plan_of
from tests.ledger_book import MEMBERS

PIECES = ("Now is the ", "winter \x1b[31mof", "\nour discontent")


class MemoryLearning:
    """The part of MemoryNode that is LearnApi."""

    paused: bool

    def begin_learning(self) -> None:
        self.trained: dict[str, said.TrainingSaid] = {}
        self.asked_to_learn: list[Any] = []

    def training_counters(self) -> said.TrainingCounters:
        return said.TrainingCounters(
            trainings=2,
            joined=1,
            groups={"primary": 1, "replica": 2},
            round={"bafymodel": 41},
            loss={"bafymodel": 2.25},
            rounds={"primary": 7, "replica": 30},
            deltas={"taken": 90, "refused": 3},
            refused={"base": 2, "malformed": 1},
            ours={"acknowledged": 35, "refused": 2},
            done={"aggregated": 7, "summed": 4, "compacted": 1},
            audits={"same": 5, "other": 1, "unknown": 2},
            caught=1,
            checkpoints={"holds": 3, "ratified": 1, "proposed": 1},
            steps=600,
            torch_s=12.5,
            torch_share=0.89,
            bytes_in={"learner": 1000, "replica": 2000, "aggregator": 3000},
            bytes_out={"learner": 1500, "replica": 2500},
            workers={"started": 3, "died": 1, "hung": 1},
            worker_running=True,
        )

    def open_training(self, model: str) -> None:
        """As an accepted proposal does."""
        primary = peer_id_text(MEMBERS[1].identity)
        group = said.GroupSaid(
            number=0,
            elements=1000,
            bytes=4000,
            round=7,
            head="ab" * 32,
            role="replica",
            primary=primary,
            replicas=[primary],
            epoch=2,
            term=1,
            chain=3,
            chain_bytes=120,
        )
        self.trained[model] = said.TrainingSaid(
            lineage=model,
            name="toy",
            plan="4 steps a round, ternary",
            group_bytes=2 << 20,
            learners=5,
            head=model,
            joined=False,
            paused=False,
            state="off",
            why="",
            round=7,
            steps=0,
            loss=None,
            contributed=0,
            refused=0,
            bytes_in=5,
            bytes_out=6,
            data="",
            phase="H=15 up=two-bit down=two-bit",
            aggregator="",
            groups=[group],
            checkpoint_at=0,
            checkpoints=[
                said.CheckpointSeen(
                    model=model,
                    proposal=cid_text(cid_of(b"a checkpoint")),
                    index=70,
                    low=0.01,
                    mean=0.0345,
                    high=0.06,
                )
            ],
        )

    def _training(self, model: str) -> said.TrainingSaid:
        if model not in self.trained:
            raise NoTrainingError(f"the ledger has no training of {model}", remedy="propose one")
        return self.trained[model]

    async def train_status(self, lineage: bytes | None) -> said.TrainStatus:
        found = list(self.trained.values())
        if lineage is not None:
            found = [self._training(cid_text(lineage))]
        state = "paused" if self.paused else "off"
        compute = said.ComputeSaid(state=state, why="", device="", memory=0)
        return said.TrainStatus(compute=compute, trainings=found, talks=[])

    async def train_join(self, request: said.JoinRequest, report: Any) -> said.TrainingSaid:
        one = self._training(request.model)
        if not Path(request.data).exists():
            raise CannotLearnError(f"there is no text at {request.data}", remedy="name a file")
        self.asked_to_learn.append(request)
        report(shapes.Progress(stage="loading", done=0, total=0))
        joined = msgspec.structs.replace(
            one, joined=True, state="training", loss=2.5, data=request.data
        )
        self.trained[request.model] = joined
        return joined

    async def train_leave(self, lineage: bytes) -> said.TrainingSaid:
        one = self._training(cid_text(lineage))
        if not one.joined:
            raise NotJoinedError(f"{one.lineage} is not learned here")
        left = msgspec.structs.replace(one, joined=False, state="off")
        self.trained[one.lineage] = left
        return left

    async def propose_training(
        self, model: bytes, request: said.TrainingRequest, wait: bool, report: Any
    ) -> ledgermodels.Submitted:
        plan_of(request.plan)
        self.asked_to_learn.append((model, request, wait))
        subject = cid_text(cid_of(b"a training"))
        return ledgermodels.Submitted(
            id="cd" * 32, kind="proposal", index=9, subject=subject, seconds=0.5
        )

    async def propose_checkpoint(
        self, lineage: bytes, request: said.CheckpointRequest, wait: bool, report: Any
    ) -> said.CheckpointSaid:
        one = self._training(cid_text(lineage))
        self.asked_to_learn.append((request, wait))
        return said.CheckpointSaid(
            model=cid_text(cid_of(b"child")),
            parent=one.head,
            round=one.round,
            proposal=cid_text(cid_of(b"a checkpoint")),
        )

    async def audit_round(
        self, lineage: bytes, request: said.AuditRequest, report: Any
    ) -> said.AuditSaid:
        one = self._training(cid_text(lineage))
        self.asked_to_learn.append(request)
        answers: dict[int, Any] = {0: "right", 1: "wrong"}
        answer = answers.get(request.round, "gone")
        return said.AuditSaid(
            lineage=one.lineage,
            group=request.group,
            round=request.round,
            answer=answer,
            why={"right": "", "wrong": "head, inputs", "gone": "no record is to be had"}[answer],
            epoch=3,
            signers=["12D3KooWsigner"],
            seconds=0.25,
        )

    async def new_model(self, request: said.NewModelRequest, report: Any) -> shapes.ImportResult:
        if request.kind != "tiny-moe":
            raise UnknownError(f"there is no kind {request.kind!r}", remedy="there is tiny-moe")
        self.asked_to_learn.append(request)
        return shapes.ImportResult(
            cid=cid_text(cid_of(b"new")), name=request.name, size=1060930, files=2, experts=8
        )

    async def generate(
        self, model: bytes, request: said.GenerateRequest
    ) -> AsyncGenerator[said.Piece | said.Generated, None]:
        if self.paused:
            raise PausedError("computing is paused", remedy="`synapsectl resume`")
        self.asked_to_learn.append(request)
        for piece in PIECES[: request.max_tokens]:
            yield said.Piece(text=piece)
        if request.prompt == "break":
            raise CannotLearnError("the worker died")
        yield said.Generated(model=cid_text(model), text="".join(PIECES), seconds=0.1)

    async def evaluate(
        self, model: bytes, request: said.EvaluateRequest, report: Any
    ) -> said.Evaluated:
        report(shapes.Progress(stage="measuring", done=0, total=request.windows))
        return said.Evaluated(
            model=cid_text(model),
            windows=request.windows,
            tokens=request.windows * 64,
            loss=2.25,
            low=2.2,
            high=2.3,
            seconds=0.4,
        )
