"""The paths of slots and upgrades: what runs, what is proposed, and the owner's say."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response

from protocols.cid import parse_cid
from synapsed.control import ledgermodels
from synapsed.control import upgrademodels as said
from synapsed.control.api import NodeApi
from synapsed.control.fields import SLOT_PATTERN
from synapsed.control.jobs import JobBoard
from synapsed.control.replies import BRIEF_S, CidInPath, body_as, path_of, reply, within
from synapsed.control.schema import BINARY, LONG_WORK, route
from synapsed.control.streams import JobStream

SlotInPath = Annotated[str, InPath(pattern=SLOT_PATTERN, description="A slot's name.")]
Wait = Annotated[bool, Query(description="Answer when it is ratified, or as soon as it is sent.")]

_OPENS: dict[str, Any] = {
    "stream": True,
    "fails": (400, 403, 404, 409, 413, 429, 502, 503, 504, 507),
}
_OWN: dict[str, Any] = {"fails": (400, 403, 404, 409, 507)}


def upgrading(node: NodeApi, jobs: JobBoard) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["upgrades"])
    _looking(router, node, jobs)
    _proposing(router, node, jobs)
    _owning(router, node, jobs)
    return router


def _looking(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.get("/v1/upgrades", **route(said.Upgrades, fails=(409,)))
    async def upgrades() -> Response:
        """Every slot on this daemon, and the upgrades that were proposed."""
        with within(BRIEF_S):
            return reply(await node.upgrades())

    @router.get("/v1/upgrades/{cid}", **route(said.UpgradeDetail, fails=(400, 404, 409)))
    async def upgrade(cid: CidInPath) -> Response:
        """One upgrade, with what of its manifest and source is here."""
        with within(BRIEF_S):
            return reply(await node.upgrade(parse_cid(cid)))

    @router.post(
        "/v1/upgrades/{cid}/fetch",
        **route(said.UpgradeDetail, stream=True, fails=LONG_WORK),
    )
    async def fetch(cid: CidInPath) -> Response:
        """The same, with manifest, module and source brought here first."""
        about = parse_cid(cid)
        return JobStream(
            lambda: jobs.start("fetch", cid, None, lambda r: node.fetch_upgrade(about, r))
        )

    @router.get(
        "/v1/upgrades/slots/{slot}/module",
        **route(None, file="The module in force.", fails=(404, 409)),
    )
    async def module(slot: SlotInPath) -> Response:
        """The bytes that the ledger has in force in a slot; 404 where that is the reference."""
        with within(BRIEF_S):
            return Response(await node.module_in_force(slot), media_type=BINARY)


def _proposing(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.post(
        "/v1/upgrades", **route(ledgermodels.Submitted, body=said.UpgradeRequest, **_OPENS)
    )
    async def propose(request: Request, wait: Wait = True) -> Response:
        """Propose what `upgrade build` left in a folder."""
        asked: said.UpgradeRequest = await body_as(request, said.UpgradeRequest)
        await path_of(asked.path)
        key = msgspec.json.encode((asked, wait))
        subject = f"upgrade {asked.path}"
        return JobStream(
            lambda: jobs.start(
                "submit", subject, key, lambda r: node.propose_upgrade(asked, wait, r)
            )
        )

    @router.post(
        "/v1/upgrades/slots/{slot}/rollback",
        **route(ledgermodels.Submitted, body=said.RollbackRequest, body_required=False, **_OPENS),
    )
    async def rollback(request: Request, slot: SlotInPath, wait: Wait = True) -> Response:
        """Propose the bytes of a former version under the next number."""
        asked: said.RollbackRequest = await body_as(request, said.RollbackRequest, absent=b"{}")
        key = msgspec.json.encode((asked, wait))
        return JobStream(
            lambda: jobs.start(
                "submit",
                f"rollback of {slot}",
                key,
                lambda r: node.propose_rollback(slot, asked, wait, r),
            )
        )


def _owning(router: APIRouter, node: NodeApi, jobs: JobBoard) -> None:
    @router.post("/v1/upgrades/{cid}/accept", **route(said.UpgradeWord, **_OWN))
    async def accept(cid: CidInPath) -> Response:
        """Let it run here, where the owner wants to be asked."""
        with within(BRIEF_S):
            return reply(await node.say_of_upgrade(parse_cid(cid), "accept"))

    @router.post("/v1/upgrades/{cid}/refuse", **route(said.UpgradeWord, **_OWN))
    async def refuse(cid: CidInPath) -> Response:
        """Never run it here. Of one that is under way everybody is told, signed."""
        with within(BRIEF_S):
            return reply(await node.say_of_upgrade(parse_cid(cid), "refuse"))

    @router.put("/v1/upgrades/mode", **route(said.Modes, body=said.ModeRequest, **_OWN))
    async def mode(request: Request) -> Response:
        """Let upgrades run, ask the owner about each, or run none: of one slot, or all."""
        asked = await body_as(request, said.ModeRequest)
        with within(BRIEF_S):
            return reply(await node.set_upgrade_mode(asked))

    @router.post(
        "/v1/upgrades/slots/{slot}/replay",
        **route(
            said.Replayed,
            body=said.ReplayRequest,
            body_required=False,
            stream=True,
            fails=(400, 403, 404, 409, 503, 507),
        ),
    )
    async def replay(request: Request, slot: SlotInPath) -> Response:
        """Try a version on the batches that were recorded here."""
        asked: said.ReplayRequest = await body_as(request, said.ReplayRequest, absent=b"{}")
        key = msgspec.json.encode(asked)
        return JobStream(
            lambda: jobs.start("replay", slot, key, lambda r: node.replay(slot, asked, r))
        )
