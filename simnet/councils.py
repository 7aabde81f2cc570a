"""Asking the daemons of a world about its ledger."""

from contextlib import suppress
from typing import TYPE_CHECKING

from protocols.errors import SynapseError
from simnet.daemon import Daemon
from synapsed.control import ledgermodels as said
from synapsed.control.models import Progress

if TYPE_CHECKING:
    from simnet.world import World

RATIFIED = "ledger.ratified"
"""The event of a daemon that has a new ratified head."""

PAGE = 500
"""Entries asked for at once: a tenth of a second's work for the daemon that answers."""


async def follow(world: "World", daemon: Daemon) -> None:
    """Note what `daemon` calls ratified, for as long as it lives."""
    with suppress(SynapseError):  # its end ends the stream
        await daemon.client.events(RATIFIED, lambda event: world.council.hear(daemon.index, event))


def no_progress(_: Progress) -> None:
    """Steps tell of ends, not of the way."""


async def ledger(daemon: Daemon) -> said.LedgerInfo:
    """`GET /v1/ledger`."""
    return await daemon.client.call("GET", "/v1/ledger", said.LedgerInfo)


async def council(daemon: Daemon) -> said.CouncilInfo:
    """`GET /v1/council`."""
    return await daemon.client.call("GET", "/v1/council", said.CouncilInfo)


async def entry(daemon: Daemon, index: int) -> said.EntryDetail:
    """`GET /v1/ledger/entries/{index}`."""
    return await daemon.client.call("GET", f"/v1/ledger/entries/{index}", said.EntryDetail)


async def entries(daemon: Daemon) -> list[said.EntryInfo]:
    """Every entry that the daemon has, oldest first."""
    info = await ledger(daemon)
    found: list[said.EntryInfo] = []
    first = info.first
    while first <= info.index:
        page = await daemon.client.call(
            "GET", "/v1/ledger/entries", said.Entries, first=str(first), count=str(PAGE)
        )
        if not page.entries:
            break
        found += page.entries
        first = page.entries[-1].index + 1
    return found


async def reputation(daemon: Daemon, peer: str) -> said.ReputationInfo:
    """`GET /v1/reputation` of one identity."""
    found = await daemon.client.call("GET", "/v1/reputation", said.Reputations, peer=peer)
    return found.reputations[0]


async def param(daemon: Daemon, name: str) -> said.ParamInfo | None:
    """One of `GET /v1/params`."""
    params = (await daemon.client.call("GET", "/v1/params", said.Params)).params
    return next((each for each in params if each.name == name), None)
