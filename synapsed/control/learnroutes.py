"""The paths of learning: models made, trained, measured, and asked for text."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from protocols.cid import parse_cid
from synapsed.control import ledgermodels, models
from synapsed.control.api import NodeApi
from synapsed.control.jobs import JobBoard
from synapsed.control.replies import BRIEF_S, CidInPath, body_as, path_of, reply, within
from synapsed.control.schema import LONG_WORK, route
from synapsed.control.streams import JobStream, TextStream
from synapsed.training import said

LEAVE_S = 30.0
"""For a learner to stop: what is on its way is not waited for, a step under way is."""

_FAILS: dict[str, Any] = {"fails": (*LONG_WORK, 403, 409)}
Wait = Annotated[bool, Query(description="Answer when it is ratified, or as soon as it is sent.")]


def learning(node: NodeApi, jobs: JobBoard) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["learning"])
    _training(router, node, jobs)
    _auditing(router, node, jobs)
    _using(router, node, jobs)
    return router


def _training(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.get("/v1/training", **route(said.TrainStatus))
    async def trainings() -> Response:
        """Every training on the ledger, and the compute worker."""
        with within(BRIEF_S):
            return reply(await node.train_status(None))

    @router.get("/v1/training/{cid}", **route(said.TrainStatus, fails=(400, 404, 409)))
    async def training(cid: CidInPath) -> Response:
        """One of them: by its first model, or any of its checkpoints."""
        with within(BRIEF_S):
            return reply(await node.train_status(parse_cid(cid)))

    @router.post(
        "/v1/training", **route(said.TrainingSaid, body=said.JoinRequest, stream=True, **_FAILS)
    )
    async def join(request: Request) -> Response:
        """Learn with the others, from a text of the owner's; ends once the first base is loaded."""
        asked: said.JoinRequest = await body_as(request, said.JoinRequest)
        await path_of(asked.data)
        key = msgspec.json.encode(asked)
        return JobStream(
            lambda: jobs.start("join", asked.model, key, lambda r: node.train_join(asked, r))
        )

    @router.post(
        "/v1/training/{cid}/propose",
        **route(ledgermodels.Submitted, body=said.TrainingRequest, stream=True, **_FAILS),
    )
    async def propose(request: Request, cid: CidInPath, wait: Wait = True) -> Response:
        """Propose that the network train a model: its plan, and the text it is judged by."""
        asked: said.TrainingRequest = await body_as(request, said.TrainingRequest)
        await path_of(asked.evaluation)
        about = parse_cid(cid)
        key = msgspec.json.encode((asked, wait))
        return JobStream(
            lambda: jobs.start(
                "submit",
                f"training of {cid}",
                key,
                lambda r: node.propose_training(about, asked, wait, r),
            )
        )

    @router.delete("/v1/training/{cid}", **route(said.TrainingSaid, fails=(400, 404, 409)))
    async def leave(cid: CidInPath) -> Response:
        """Learn it no more. Groups that this daemon serves it goes on serving."""
        with within(LEAVE_S):
            return reply(await node.train_leave(parse_cid(cid)))

    @router.post(
        "/v1/training/{cid}/checkpoint",
        **route(
            said.CheckpointSaid,
            body=said.CheckpointRequest,
            body_required=False,
            stream=True,
            **_FAILS,
        ),
    )
    async def checkpoint(request: Request, cid: CidInPath, wait: Wait = True) -> Response:
        """Write the current values as a model, publish it, and propose it as the next head."""
        asked: said.CheckpointRequest = await body_as(request, said.CheckpointRequest, absent=b"{}")
        about = parse_cid(cid)
        key = msgspec.json.encode((asked, wait))
        return JobStream(
            lambda: jobs.start(
                "checkpoint", cid, key, lambda r: node.propose_checkpoint(about, asked, wait, r)
            )
        )


def _auditing(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.post(
        "/v1/training/{cid}/audit",
        **route(said.AuditSaid, body=said.AuditRequest, stream=True, **_FAILS),
    )
    async def audit(request: Request, cid: CidInPath) -> Response:
        """Recompute a committed round: right, wrong, or not kept any more. Whoever signed a wrong
        one is accused before the council."""
        asked: said.AuditRequest = await body_as(request, said.AuditRequest)
        about = parse_cid(cid)
        key = msgspec.json.encode(asked)
        return JobStream(
            lambda: jobs.start("audit", cid, key, lambda r: node.audit_round(about, asked, r))
        )


def _using(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.post(
        "/v1/models/new",
        **route(models.ImportResult, body=said.NewModelRequest, stream=True, **_FAILS),
    )
    async def new_model(request: Request) -> Response:
        """A model with fresh weights, imported and announced."""
        asked: said.NewModelRequest = await body_as(request, said.NewModelRequest)
        key = msgspec.json.encode(asked)
        return JobStream(
            lambda: jobs.start("new", asked.kind, key, lambda r: node.new_model(asked, r))
        )

    @router.post(
        "/v1/models/{cid}/evaluate",
        **route(said.Evaluated, body=said.EvaluateRequest, stream=True, **_FAILS),
    )
    async def evaluate(request: Request, cid: CidInPath) -> Response:
        """The loss of a model, or of its lineage's newest checkpoint, on a text."""
        asked: said.EvaluateRequest = await body_as(request, said.EvaluateRequest)
        await path_of(asked.data)
        about = parse_cid(cid)
        key = msgspec.json.encode(asked)
        return JobStream(
            lambda: jobs.start("evaluate", cid, key, lambda r: node.evaluate(about, asked, r))
        )

    @router.post(
        "/v1/models/{cid}/generate",
        **route(
            said.Generated, body=said.GenerateRequest, stream=True, pieces=said.Piece, **_FAILS
        ),
    )
    async def generate(request: Request, cid: CidInPath) -> Response:
        """Text that goes on from a prompt, as it comes: `piece` events (Piece), then `result`."""
        asked: said.GenerateRequest = await body_as(request, said.GenerateRequest)
        about = parse_cid(cid)
        return TextStream(lambda: node.generate(about, asked))
