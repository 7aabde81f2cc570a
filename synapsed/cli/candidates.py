"""What could stand at the cursor: names and ids, asked of the daemon while a shell completes.

Nothing may be printed then. What cannot be asked within a moment is not offered.
"""

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

from protocols.errors import SynapseError
from synapsed.cli.common import Cli
from synapsed.cli.names import model_cid
from synapsed.control import ledgermodels, models, upgrademodels

if TYPE_CHECKING:
    from synapsed.control.client import Client

PATIENCE_S = 1.0
"""For the daemon's answer to a key press."""


def known_models(context: typer.Context, incomplete: str) -> list[str]:
    """Names of models whose manifest is here, and their ids once one is begun."""
    return _offer(context, incomplete, lambda client: _models(client, incomplete))


def all_models(context: typer.Context, incomplete: str) -> list[str]:
    """The same, and the ids of those that others announce."""

    def ask(client: "Client") -> list[str]:
        query = {"kind": "shard"}
        said = client.call("GET", "/v1/announcements", models.Announcements, **query)
        named = set(_models(client, "baf"))
        others = [entry.subject for entry in said.announcements if entry.subject not in named]
        return [*_models(client, incomplete), *others]

    return _offer(context, incomplete, ask)


def experts(context: typer.Context, incomplete: str) -> list[str]:
    """The experts of the model that stands before."""
    # Behind an option without its value the parser has given up: words lie in `args` as typed.
    name = context.params.get("name") or next(iter(context.args), None)

    def ask(client: "Client") -> list[str]:
        path = f"/v1/models/{model_cid(client, str(name))}"
        return [expert.name for expert in client.call("GET", path, models.ModelDetail).expert_list]

    return _offer(context, incomplete, ask) if name else []


def peers(context: typer.Context, incomplete: str) -> list[str]:
    """Peers that are connected or alive."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/peers", models.Peers, which="all")
        return [peer.peer_id for peer in found.peers]

    return _offer(context, incomplete, ask)


def anybody(context: typer.Context, incomplete: str) -> list[str]:
    """Peers that are connected or alive, and this daemon."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/peers", models.Peers, which="all")
        own = client.call("GET", "/v1/status", models.Status).peer_id
        return [own, *(peer.peer_id for peer in found.peers)]

    return _offer(context, incomplete, ask)


def own_announcements(context: typer.Context, incomplete: str) -> list[str]:
    """What can be withdrawn."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/announcements", models.Announcements)
        return [entry.id for entry in found.announcements if entry.own]

    return _offer(context, incomplete, ask)


def proposals(context: typer.Context, incomplete: str) -> list[str]:
    """Proposals, those that are open first."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/proposals", ledgermodels.Proposals).proposals
        return [each.cid for each in sorted(found, key=lambda each: each.state != "open")]

    return _offer(context, incomplete, ask)


def upgrades(context: typer.Context, incomplete: str) -> list[str]:
    """Upgrades that were proposed, and slots for their newest."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/upgrades", upgrademodels.Upgrades).upgrades
        return [*dict.fromkeys(each.slot for each in found), *(each.proposal for each in found)]

    return _offer(context, incomplete, ask)


def slots(incomplete: str) -> list[str]:
    """What an upgrade may replace: no daemon is asked."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415

    return [name for name in SLOTS if name.startswith(incomplete)]


def parameters(context: typer.Context, incomplete: str) -> list[str]:
    """Names of parameters."""

    def ask(client: "Client") -> list[str]:
        found = client.call("GET", "/v1/params", ledgermodels.Params).params
        return [each.name for each in found]

    return _offer(context, incomplete, ask)


def jobs(context: typer.Context, incomplete: str) -> list[str]:
    """Jobs under way."""

    def ask(client: "Client") -> list[str]:
        return [str(job.id) for job in client.call("GET", "/v1/jobs", models.Jobs).jobs]

    return _offer(context, incomplete, ask)


def _models(client: "Client", incomplete: str) -> list[str]:
    """Names; ids too where something was typed, for beside names they are noise."""
    found = client.call("GET", "/v1/models", models.Models).models
    names = [model.name for model in found]
    return names + [model.cid for model in found if incomplete]


def _offer(
    context: typer.Context, incomplete: str, ask: Callable[["Client"], Iterable[str]]
) -> list[str]:
    # The options stand before the command, in the context above its own, or after it.
    above, own = context.find_root().params, context.params
    shared = {name: own.get(name) or above.get(name) for name in ("home", "socket")}
    try:
        cli = Cli({**shared, "json": False, "timeout": None, "no_color": True})
        with cli.client(PATIENCE_S) as client:
            words = dict.fromkeys(ask(client))
    except SynapseError:
        return []
    # A word that the shell would have to quote is left out: its id does as well.
    return [word for word in words if word.startswith(incomplete) and shlex.quote(word) == word]
