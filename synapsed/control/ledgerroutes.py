"""The paths of the ledger: what is ratified, who decides, and how to have a say.

What submits may take a newcomer three seconds of work and then waits for the council, so it is a
job with progress. Going away ends the waiting; what was submitted may be ratified all the same.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response

from protocols.cid import parse_cid
from protocols.keytext import parse_key
from synapsed.control import ledgermodels as said
from synapsed.control.api import NodeApi
from synapsed.control.fields import MAX_ENTRIES, MAX_JOB, PEER_PATTERN
from synapsed.control.jobs import JobBoard, Work
from synapsed.control.models import Problem
from synapsed.control.replies import BRIEF_S, CidInPath, body_as, peer_of, reply, within
from synapsed.control.schema import BINARY, route
from synapsed.control.streams import FileStream, JobStream

MAX_REPUTATIONS = 1000
"""In one answer."""

Index = Annotated[int, InPath(ge=0, le=MAX_JOB, description="An entry's index.")]
Wait = Annotated[bool, Query(description="Answer when it is ratified, or as soon as it is sent.")]

_READS: dict[str, Any] = {"fails": (404, 409)}
_SUBMITS: dict[str, Any] = {
    "stream": True,
    "fails": (400, 403, 404, 409, 413, 429, 502, 503, 504),
}


def reading(node: NodeApi) -> APIRouter:
    """What is ratified, and who ratifies."""
    router = APIRouter(tags=["ledger"])

    @router.get("/v1/ledger", **route(said.LedgerInfo, fails=(409,)))
    async def ledger() -> Response:
        """The ratified head, and the certificate that proves it."""
        with within(BRIEF_S):
            return reply(await node.ledger())

    @router.get("/v1/ledger/entries", **route(said.Entries, **_READS))
    async def entries(
        first: Annotated[
            int, Query(ge=-MAX_JOB, le=MAX_JOB, description="Below 0: so many before the end.")
        ] = -20,
        count: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 20,
    ) -> Response:
        """A run of entries, oldest first: as many as were asked for, or 4 MiB of them."""
        with within(BRIEF_S):
            return reply(await node.ledger_entries(first, count))

    @router.get("/v1/ledger/entries/{index}", **route(said.EntryDetail, **_READS))
    async def entry(index: Index) -> Response:
        """One entry, with the certificate that covers it."""
        with within(BRIEF_S):
            return reply(await node.ledger_entry(index))

    @router.get(
        "/v1/ledger/entries/{index}/proof",
        **route(None, file="An inclusion proof (docs/council.md).", **_READS),
    )
    async def proof(index: Index) -> Response:
        """A file that proves one entry to whoever has the genesis, without the others."""
        with within(BRIEF_S):
            return Response(await node.ledger_proof(index), media_type=BINARY)

    @router.get(
        "/v1/ledger/export", **route(None, file="The ledger (docs/council.md).", fails=(409,))
    )
    async def export() -> Response:
        """The ledger and its certificates, to be verified without a daemon."""
        return FileStream(node.ledger_export)

    @router.get("/v1/council", **route(said.CouncilInfo, fails=(409,)))
    async def council() -> Response:
        """The council of this epoch."""
        with within(BRIEF_S):
            return reply(await node.council())

    @router.get("/v1/reputation", **route(said.Reputations, fails=(404, 409)))
    async def reputation(
        peer: Annotated[str | None, Query(pattern=PEER_PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_REPUTATIONS)] = 50,
    ) -> Response:
        """The reputation, credits and quota of one identity, or of the highest."""
        with within(BRIEF_S):
            return reply(await node.reputations(peer_of(peer) if peer else None, limit))

    @router.get("/v1/params", **route(said.Params, fails=(409,)))
    async def params() -> Response:
        """Every parameter of the network, its range, and what made it what it is."""
        with within(BRIEF_S):
            return reply(said.Params(params=await node.params()))

    return router


def deciding(node: NodeApi, jobs: JobBoard) -> APIRouter:
    """Proposals, and whatever else is submitted to the ledger."""
    router = APIRouter(tags=["proposals"])

    def submit(subject: str, key: object, work: Work) -> JobStream:
        return JobStream(lambda: jobs.start("submit", subject, msgspec.json.encode(key), work))

    @router.get("/v1/proposals", **route(said.Proposals, fails=(409,)))
    async def proposals(state: said.ProposalState | None = None) -> Response:
        """Proposals of one state, or all; newest first."""
        with within(BRIEF_S):
            return reply(said.Proposals(proposals=await node.proposals(state)))

    @router.post("/v1/proposals", **route(said.Submitted, body=said.ProposalRequest, **_SUBMITS))
    async def propose(request: Request, wait: Wait = True) -> Response:
        """Open a proposal. What it links is fetched first."""
        asked: said.ProposalRequest = await body_as(request, said.ProposalRequest)
        subject = f"proposal {asked.title}"
        return submit(subject, (asked, wait), lambda r: node.propose(asked, wait, r))

    @router.get("/v1/proposals/{cid}", **route(said.ProposalDetail, fails=(400, 404, 409)))
    async def proposal(cid: CidInPath) -> Response:
        """One with its votes, approvals and outcome."""
        with within(BRIEF_S):
            return reply(await node.proposal(parse_cid(cid)))

    @router.post(
        "/v1/proposals/{cid}/votes", **route(said.Submitted, body=said.VoteRequest, **_SUBMITS)
    )
    async def vote(request: Request, cid: CidInPath, wait: Wait = True) -> Response:
        """Cast this daemon's vote. The last one before the close counts."""
        asked = await body_as(request, said.VoteRequest)
        about = parse_cid(cid)
        subject, key = f"vote on {cid}", (asked, wait)
        return submit(subject, key, lambda r: node.vote(about, asked.choice, wait, r))

    @router.post(
        "/v1/proposals/{cid}/approvals",
        **route(said.Submitted, body=said.ApprovalRequest, **_SUBMITS),
    )
    async def approve(request: Request, cid: CidInPath, wait: Wait = True) -> Response:
        """Submit a human key's detached signature."""
        asked = await body_as(request, said.ApprovalRequest)
        about, key = parse_cid(cid), parse_key(asked.key)
        signature = bytes.fromhex(asked.signature)
        return submit(
            f"approval of {cid}",
            (asked, wait),
            lambda r: node.approve(about, key, signature, wait, r),
        )

    @router.post("/v1/ledger/notes", **route(said.Submitted, body=said.NoteRequest, **_SUBMITS))
    async def note(request: Request, wait: Wait = True) -> Response:
        """Put a line into the audit trail."""
        asked = await body_as(request, said.NoteRequest)
        return submit("a note", (asked, wait), lambda r: node.note(asked.text, wait, r))

    @router.post(
        "/v1/ledger/submissions",
        **route(
            said.Submissions,
            body=said.SubmissionsRequest,
            fails=(400, 403, 404, 409, 413, 429, 502, 503),
        ),
    )
    async def submissions(request: Request) -> Response:
        """Send what was signed elsewhere on its way. Where none is taken, why the first is not."""
        asked = await body_as(request, said.SubmissionsRequest)
        with within(BRIEF_S):
            found = await node.submit(asked.submissions)
        if found.accepted or not found.refused:
            return reply(found)
        first = found.refused[0]
        problem = Problem(first.error, first.message, first.remedy, first.status)
        return reply(problem, problem.status)

    return router
