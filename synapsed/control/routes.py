"""Every path of the control socket: what the CLI does, in the same words.

A handler parses ids, calls the node, and answers with one struct. Errors travel as typed
exceptions and become JSON in replies.py.
"""

from collections import deque
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response

from protocols.cid import parse_cid
from synapsed.control import learnroutes, ledgerroutes, metrics, models, schema, upgraderoutes
from synapsed.control.api import NodeApi
from synapsed.control.fields import CID_PATTERN, MAX_JOB
from synapsed.control.jobs import Job, JobBoard
from synapsed.control.replies import (
    BRIEF_S,
    CidInPath,
    answer_errors,
    body_as,
    path_of,
    peer_of,
    reply,
    within,
)
from synapsed.control.schema import LONG_WORK, route
from synapsed.control.streams import EventStream, JobStream, underway
from synapsed.process.events import Event
from synapsed.process.metrics import ProcessMeter

SLOW_S = 600.0
"""For gc, doctor and what else may walk a large store on a slow disk."""


def build_app(node: NodeApi, jobs: JobBoard, usage: ProcessMeter, recent: deque[Event]) -> FastAPI:
    """The ASGI application over a node."""
    app = FastAPI(
        title="synapsed control socket",
        version="1",
        description="The daemon's own interface, for its owner. Every error is a Problem.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # OpenTelemetry would add a span to each request, and could export by an environment
        # variable: this socket tells nobody but its client.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.openapi = lambda: schema.document(app)  # type: ignore[method-assign]
    answer_errors(app)
    app.include_router(_daemon(node, jobs, usage))
    app.include_router(_events(node, recent))
    app.include_router(_peers(node))
    app.include_router(_announcements(node))
    app.include_router(_models(node))
    app.include_router(_long_work(node, jobs))
    app.include_router(_store(node, jobs))
    app.include_router(ledgerroutes.reading(node))
    app.include_router(ledgerroutes.deciding(node, jobs))
    app.include_router(upgraderoutes.upgrading(node, jobs))
    app.include_router(learnroutes.learning(node, jobs))
    return app


# -- the daemon -----------------------------------------------------------------------------


def _daemon(node: NodeApi, jobs: JobBoard, usage: ProcessMeter) -> APIRouter:
    router = APIRouter(tags=["daemon"])

    @router.get("/v1/status", **route(models.Status))
    async def glance() -> Response:
        """The daemon at a glance."""
        with within(BRIEF_S):
            found = await node.status()
        found.process = usage.read()
        found.jobs = jobs.list()
        return reply(found)

    @router.get("/v1/limits", **route(models.Limits))
    async def limits() -> Response:
        """The limits in force."""
        with within(BRIEF_S):
            return reply(await node.limits())

    @router.put("/v1/limits", **route(models.Limits, body=models.LimitsRequest))
    async def set_limits(request: Request) -> Response:
        """Change limits until the restart."""
        change = await body_as(request, models.LimitsRequest)
        with within(BRIEF_S):
            return reply(await node.set_limits(change))

    @router.post("/v1/pause", **route(models.Paused))
    async def pause() -> Response:
        """Move no model bytes, either way, until resumed."""
        with within(BRIEF_S):
            await node.pause()
        return reply(models.Paused(paused=True))

    @router.post("/v1/resume", **route(models.Paused))
    async def resume() -> Response:
        """Move again."""
        with within(BRIEF_S):
            await node.resume()
        return reply(models.Paused(paused=False))

    @router.get("/v1/doctor", **route(models.DoctorReport))
    async def doctor() -> Response:
        """Check this daemon and its machine."""
        with within(SLOW_S):
            return reply(await node.doctor())

    @router.get("/v1/config", **route(models.ConfigReport))
    async def config() -> Response:
        """Every setting and where it came from."""
        with within(BRIEF_S):
            return reply(await node.config())

    @router.get("/v1/metrics", **route(None))
    @router.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        """Counters and gauges for Prometheus."""
        text = metrics.exposition(node.counters(), node.meter, node.bus.counts, usage.read())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    return router


def _events(node: NodeApi, recent: deque[Event]) -> APIRouter:
    router = APIRouter(tags=["events"])
    prefix = Query(max_length=100, description="Only kinds that begin so.")

    @router.get("/v1/events", **route(None, stream=True))
    async def follow(kind: Annotated[str, prefix] = "") -> Response:
        """Events from now on."""
        return EventStream(node.bus, kind)

    @router.get("/v1/events/recent", **route(models.Events))
    async def last(kind: Annotated[str, prefix] = "") -> Response:
        """The newest events, oldest of them first."""
        chosen = [event for event in recent if event.kind.startswith(kind)]
        return reply(models.Events([models.EventInfo(e.at, e.kind, e.fields) for e in chosen]))

    return router


# -- peers and announcements ----------------------------------------------------------------


def _peers(node: NodeApi) -> APIRouter:
    router = APIRouter(tags=["peers"])

    @router.get("/v1/peers", **route(models.Peers))
    async def peers(which: models.Which = "connected") -> Response:
        """Peers connected, alive by their heartbeat, or all of them and those that are banned."""
        with within(BRIEF_S):
            return reply(models.Peers(peers=await node.peers(which)))

    @router.post(
        "/v1/ping", **route(models.Pong, body=models.PeerRequest, fails=(403, 404, 502, 503))
    )
    async def ping(request: Request) -> Response:
        """One round trip to a peer."""
        asked = await body_as(request, models.PeerRequest)
        with within(BRIEF_S):
            return reply(await node.ping(peer_of(asked.peer_id)))

    @router.post(
        "/v1/peers/connect",
        **route(models.PeerInfo, body=models.ConnectRequest, fails=(403, 404, 409, 502, 503)),
    )
    async def connect(request: Request) -> Response:
        """Dial an address."""
        asked = await body_as(request, models.ConnectRequest)
        with within(BRIEF_S):
            return reply(await node.connect(asked.addr))

    return router


def _announcements(node: NodeApi) -> APIRouter:
    router = APIRouter(tags=["announcements"])

    @router.get("/v1/announcements", **route(models.Announcements, fails=(400,)))
    async def announcements(
        kind: models.Kind | None = None,
        subject: Annotated[str | None, Query(pattern=CID_PATTERN)] = None,
    ) -> Response:
        """The live catalog, newest first; of adapters alone, the most suitable first."""
        cid = parse_cid(subject) if subject is not None else None
        with within(BRIEF_S):
            return reply(models.Announcements(announcements=await node.announcements(kind, cid)))

    @router.post(
        "/v1/announcements",
        **route(
            models.AnnouncementInfo,
            body=models.Draft,
            status=201,
            fails=(403, 404, 409, 502, 503, 507),
        ),
    )
    async def publish(request: Request) -> Response:
        """Store a manifest and announce it."""
        draft: models.Draft = await body_as(request, models.Draft)
        if not isinstance(draft, models.ProposalDraft):
            await path_of(draft.file)
        with within(SLOW_S):
            return reply(await node.publish(draft), 201)

    @router.delete(
        "/v1/announcements/{cid}", **route(models.AnnouncementInfo, fails=(400, 403, 404))
    )
    async def withdraw(cid: CidInPath) -> Response:
        """Take back an announcement of ours."""
        with within(BRIEF_S):
            return reply(await node.withdraw(parse_cid(cid)))

    return router


# -- models and the store -------------------------------------------------------------------


def _models(node: NodeApi) -> APIRouter:
    router = APIRouter(tags=["models"])
    one: Any = {"fails": (400, 404, 409)}

    @router.get("/v1/models", **route(models.Models))
    async def held() -> Response:
        """Models whose manifest is here."""
        with within(BRIEF_S):
            return reply(models.Models(models=await node.models()))

    @router.get("/v1/models/{cid}", **route(models.ModelDetail, **one))
    async def show(cid: CidInPath) -> Response:
        """One model: files, experts, holders."""
        with within(BRIEF_S):
            return reply(await node.model(parse_cid(cid)))

    @router.delete("/v1/models/{cid}", **route(models.Removed, **one))
    async def remove(cid: CidInPath) -> Response:
        """Forget a model and withdraw its announcement."""
        with within(SLOW_S):
            return reply(await node.remove(parse_cid(cid)))

    @router.post("/v1/models/{cid}/pin", **route(models.ModelInfo, **one))
    async def pin(cid: CidInPath) -> Response:
        """Keep it through gc."""
        with within(BRIEF_S):
            return reply(await node.pin(parse_cid(cid)))

    @router.post("/v1/models/{cid}/unpin", **route(models.ModelInfo, **one))
    async def unpin(cid: CidInPath) -> Response:
        """Let gc take it."""
        with within(BRIEF_S):
            return reply(await node.unpin(parse_cid(cid)))

    return router


def _long_work(node: NodeApi, jobs: JobBoard) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.post(
        "/v1/models/import",
        **route(models.ImportResult, body=models.ImportRequest, stream=True, fails=LONG_WORK),
    )
    async def import_model(request: Request) -> Response:
        """Take a folder or file into the store. Cancelled when the client goes away."""
        asked = await body_as(request, models.ImportRequest)
        path = await path_of(asked.path)
        return JobStream(
            lambda: jobs.start(
                "import", asked.path, asked.name, lambda r: node.import_model(path, asked.name, r)
            )
        )

    pulling: Any = route(
        models.PullResult,
        body=models.PullRequest,
        body_required=False,
        stream=True,
        fails=LONG_WORK,
    )
    pulling["responses"][202] = schema.answer(models.JobStarted)

    @router.post("/v1/models/{cid}/pull", **pulling)
    async def pull(request: Request, cid: CidInPath, detach: bool = False) -> Response:
        """Fetch a model, or parts of it. With `detach` it goes on when the client has gone.

        What fails at once is told at once, detached or not.
        """
        asked = await body_as(request, models.PullRequest, absent=b"{}")
        wanted = parse_cid(cid)
        parts = (tuple(asked.experts), tuple(asked.tensors))

        def start() -> Job:
            return jobs.start(
                "pull",
                cid,
                parts,
                lambda report: node.pull(wanted, asked.experts, asked.tensors, report),
                detached=detach,
            )

        if not detach:
            return JobStream(start)
        job = await underway(start)
        return reply(models.JobStarted(job=job.number), 202)

    @router.post(
        "/v1/models/{cid}/export",
        **route(models.ExportResult, body=models.ExportRequest, stream=True, fails=LONG_WORK),
    )
    async def export(request: Request, cid: CidInPath) -> Response:
        """Write a model's files into a new or empty folder."""
        asked = await body_as(request, models.ExportRequest)
        wanted = parse_cid(cid)
        path = await path_of(asked.path, to_write=True)
        return JobStream(
            lambda: jobs.start("export", cid, asked.path, lambda r: node.export(wanted, path, r))
        )

    return router


def _store(node: NodeApi, jobs: JobBoard) -> APIRouter:
    router = APIRouter(tags=["store"])

    @router.post("/v1/gc", **route(models.GcResult, fails=(409,)))
    async def gc() -> Response:
        """Delete what nothing pinned reaches."""
        with within(SLOW_S):
            return reply(await node.gc())

    @router.post("/v1/scrub", **route(models.ScrubResult, stream=True, fails=(409, 503)))
    async def scrub() -> Response:
        """Verify every byte that is held."""
        return JobStream(lambda: jobs.start("scrub", "the store", None, node.scrub))

    @router.get("/v1/jobs", **route(models.Jobs))
    async def under_way() -> Response:
        """Long work under way."""
        return reply(models.Jobs(jobs=jobs.list()))

    @router.delete("/v1/jobs/{job}", **route(models.JobInfo, fails=(404,)))
    async def cancel(job: Annotated[int, InPath(ge=1, le=MAX_JOB)]) -> Response:
        """Cancel one. What has arrived is kept."""
        return reply(jobs.cancel(job))

    return router
