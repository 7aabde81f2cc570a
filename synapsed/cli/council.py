"""council, reputation, params: who decides, with what weight, by which rules."""

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from protocols.ledger.election import UNKNOWN_LATENCY
from synapsed.cli import candidates
from synapsed.cli.amounts import percent
from synapsed.cli.common import Cli, command
from synapsed.cli.names import NoSuchNameError, peer_id
from synapsed.cli.proposing import signed
from synapsed.control import ledgermodels as said

if TYPE_CHECKING:
    from synapsed.cli.output import Output

ROLES = {
    "member": "holds seat {seat}",
    "willing": "has no seat, and stands for the next epoch",
    "follower": "has no seat: it follows",
    "lost-state": "lost the state of seat {seat}: it signs nothing until it is seated anew",
}


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "council")(council)
    command(app, "reputation")(reputation)
    command(app, "params")(params)


def council(cli: Cli) -> None:
    """The council: seats, leader, what it tolerates."""
    with cli.client() as client:
        found = client.call("GET", "/v1/council", said.CouncilInfo)
    cli.done(found, lambda out: _council(out, found))


def _council(out: "Output", found: said.CouncilInfo) -> None:
    from synapsed.cli.output import moment, short_peer  # noqa: PLC0415

    seats = len(found.seats)
    leads = "nobody known" if found.leader is None else found.leader
    if any(seat.own and seat.leads for seat in found.seats):
        leads = "this daemon"
    out.pairs(
        [
            (
                "epoch",
                f"{found.epoch}, from index {found.start}; due to end {moment(found.ends_at)}",
            ),
            ("term", f"{found.term}, led by {leads}"),
            ("quorum", f"{found.quorum} of {seats} seats"),
            (
                "tolerates",
                f"{found.liars} of {seats} that lie or are down; {found.quorum} must be up",
            ),
            ("this daemon", ROLES[found.role].format(seat=found.seat)),
            ("beacon", found.beacon),
        ]
    )
    out.line("")
    out.table(
        ("SEAT>", "MEMBER", "WEIGHT>", "LATENCY>", "LIVE", "SIGNED>", ""),
        (
            (
                str(each.seat),
                short_peer(each.peer_id),
                str(each.weight),
                _latency(each.latency_class),
                "yes" if each.live or each.own else "no",
                "-" if each.last_signed is None else str(each.last_signed),
                _remark(each, found),
            )
            for each in found.seats
        ),
    )
    if found.candidates:
        out.line("")
        out.table(
            ("CANDIDATE", "REPUTATION>"),
            (
                ("this daemon" if each.own else short_peer(each.peer_id), str(each.reputation))
                for each in found.candidates
            ),
        )
    for warning in found.warnings:
        out.verdict("warn", warning)


def _latency(latency_class: int) -> str:
    """A class as the bound of its round trips."""
    return "?" if latency_class >= UNKNOWN_LATENCY else f"<{1 << latency_class} ms"


def _remark(seat: said.SeatInfo, found: said.CouncilInfo) -> str:
    words = {
        "leads": seat.leads,
        "this daemon": seat.own,
        "guilty": seat.peer_id in found.guilty,
    }
    return ", ".join(word for word, applies in words.items() if applies)


def reputation(
    cli: Cli,
    peer: Annotated[
        str | None,
        typer.Argument(
            metavar="[PEER]", help="A peer id, or its beginning.", autocompletion=candidates.anybody
        ),
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="This daemon's.")] = False,
) -> None:
    """Reputation, credits and quotas."""
    with cli.client() as client:
        query = {}
        if own:
            from synapsed.control.models import Status  # noqa: PLC0415

            query["peer"] = client.call("GET", "/v1/status", Status).peer_id
        elif peer is not None:
            query["peer"] = peer_id(client, peer, own=True)
        found = client.call("GET", "/v1/reputation", said.Reputations, **query)
    if query:
        one = found.reputations[0]
        cli.done(one, lambda out: _reputation(out, one))
    else:
        cli.done(found, lambda out: _reputations(out, found))


def _reputation(out: "Output", found: said.ReputationInfo) -> None:
    from synapsed.cli.output import count  # noqa: PLC0415

    if found.trust == "trusted":
        trust = f"trusted; {count(found.failures, 'failure')} in a row"
    else:
        trust = f"newcomer; {count(found.successes, 'success', 'successes')} in a row"
    work = f"{found.work_bits} bits with each submission" if found.work_bits else "none"
    out.pairs(
        [
            ("peer id", found.peer_id),
            ("reputation", f"{found.reputation}, {percent(found.share)} of all"),
            ("credits", str(found.credits)),
            ("trust", trust),
            ("quota", f"{found.left} of {found.quota} submissions left today"),
            ("proof of work", work),
            ("seat", "none" if found.seat is None else str(found.seat)),
        ]
    )
    if found.banned:
        out.verdict("warn", "it was proven guilty: it weighs nothing any more")


def _reputations(out: "Output", found: said.Reputations) -> None:
    from synapsed.cli.output import short_peer  # noqa: PLC0415

    out.table(
        ("PEER", "REPUTATION>", "SHARE>", "CREDITS>", "TRUST", "LEFT>", "SEAT>"),
        (
            (
                "this daemon" if each.own else short_peer(each.peer_id),
                str(each.reputation),
                percent(each.share),
                str(each.credits),
                each.trust,
                str(each.left),
                "-" if each.seat is None else str(each.seat),
            )
            for each in found.reputations
        ),
        empty="the ledger knows nobody yet",
    )
    if found.total > len(found.reputations):
        out.line(f"and {found.total - len(found.reputations)} more")


def params(
    cli: Cli,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only this.", autocompletion=candidates.parameters),
    ] = None,
) -> None:
    """The network's parameters, and what set them."""
    with cli.client() as client:
        found = client.call("GET", "/v1/params", said.Params)
    if name is None:
        cli.done(found, lambda out: _params(out, found.params))
        return
    known = {each.name: each for each in found.params}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        lists = "synapsectl params lists them"
        remedy = f"did you mean {near[0]!r}? {lists}" if near else lists
        raise NoSuchNameError(f"there is no parameter {name!r}", remedy=remedy)
    cli.done(known[name], lambda out: _param(out, known[name]))


def _params(out: "Output", found: list[said.ParamInfo]) -> None:
    from synapsed.cli.amounts import amount  # noqa: PLC0415

    out.table(
        ("PARAMETER", "VALUE>", "DEFAULT>", "RISK", "FROM"),
        (
            (
                each.name,
                amount(each.value, each.unit),
                "same" if each.value == each.default else amount(each.default, each.unit),
                each.risk,
                each.origin if each.index is None else f"index {each.index}",
            )
            for each in found
        ),
    )


def _param(out: "Output", found: said.ParamInfo) -> None:
    from synapsed.cli.amounts import about, amount  # noqa: PLC0415

    unit = found.unit
    rows = [
        ("parameter", found.name),
        ("value", amount(found.value, unit)),
        ("default", amount(found.default, unit)),
        ("range", f"{amount(found.least, unit)} to {about(found.most, unit)}"),
        ("what", found.text),
        ("risk", found.risk),
        ("from", found.origin if found.index is None else f"index {found.index}"),
    ]
    if found.proposal is not None:
        rows.append(("proposal", found.proposal))
    if found.certificate is not None:
        covers = f"{signed(found.certificate)}, at index {found.certificate.index}"
        rows.append(("certificate", covers))
    if found.local is not None:
        rows.append(("used here", found.local))
    out.pairs(rows)
