"""What the control socket needs of the daemon about learning (owner.py answers it)."""

from collections.abc import AsyncGenerator
from typing import Protocol

from synapsed.control.ledgerapi import Report
from synapsed.control.ledgermodels import Submitted
from synapsed.control.models import ImportResult
from synapsed.training.said import (
    AuditRequest,
    AuditSaid,
    CheckpointRequest,
    CheckpointSaid,
    Evaluated,
    EvaluateRequest,
    Generated,
    GenerateRequest,
    JoinRequest,
    NewModelRequest,
    Piece,
    TrainingRequest,
    TrainingSaid,
    TrainStatus,
)


class LearnApi(Protocol):
    """The part of NodeApi that is about learning. Models are CID text; UnknownError otherwise.

    What needs torch raises NotInstalledError (its remedy is the command that installs it), and
    PausedError while the daemon is paused. Reading the state needs no genesis; joining does.
    """

    async def train_status(self, lineage: bytes | None) -> TrainStatus:
        """Every training (of this lineage, if given), and the worker."""

    async def train_join(self, request: JoinRequest, report: Report) -> TrainingSaid:
        """Learn from now on, also after a restart; comes back once the first base is loaded."""

    async def train_leave(self, lineage: bytes) -> TrainingSaid:
        """Learn no more; what is on its way is not waited for. Replicas go on serving."""

    async def propose_training(
        self, model: bytes, request: TrainingRequest, wait: bool, report: Report
    ) -> Submitted:
        """Publish the evaluation set and propose the plan; `wait` for the ledger's entry."""

    async def propose_checkpoint(
        self, lineage: bytes, request: CheckpointRequest, wait: bool, report: Report
    ) -> CheckpointSaid:
        """Write, import, publish and propose the current values; `wait` for the ledger's entry."""

    async def audit_round(self, lineage: bytes, request: AuditRequest, report: Report) -> AuditSaid:
        """Fetch what a committed round was made from, and recompute it; whoever signed a wrong one
        is accused."""

    async def new_model(self, request: NewModelRequest, report: Report) -> ImportResult:
        """Fresh weights, imported and announced."""

    def generate(
        self, model: bytes, request: GenerateRequest
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Pieces of text as they come, and at last all of it."""

    async def evaluate(self, model: bytes, request: EvaluateRequest, report: Report) -> Evaluated:
        """A model's loss on a text."""
