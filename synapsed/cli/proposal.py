"""proposal create|ls|show|vote|approve|watch: deciding together."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from protocols.ledger.errors import NotOpenError
from synapsed.cli import candidates
from synapsed.cli.amounts import percent
from synapsed.cli.common import Cli, command, print_json
from synapsed.cli.learnchange import learning_rows
from synapsed.cli.names import proposal_cid
from synapsed.cli.proposing import NoWait, create, signed, submitted_rows
from synapsed.control import ledgermodels as said
from synapsed.control.problems import EXIT_FAILED

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.control.client import Client

WATCH_S = 0.5
"""Between two looks at a proposal that is watched: people read no faster."""

TITLE_WIDTH = 27
"""So that a row fits 80 columns."""

_RECORD = ("abi", "size", "limits", "source", "previous", "expires")
"""Fields of an upgrade that `upgrade show` puts in words."""

proposal = typer.Typer(help="Proposals: create, vote, approve, watch.", no_args_is_help=True)

Proposal = Annotated[
    str,
    typer.Argument(
        metavar="PROPOSAL", help="A CID, or its beginning.", autocompletion=candidates.proposals
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(proposal, "create")(create)
    app.add_typer(proposal, name="proposal")


@command(proposal, "ls")
def ls(
    cli: Cli,
    state: Annotated[
        Literal["open", "accepted", "rejected"] | None, typer.Option(help="Only these.")
    ] = None,
) -> None:
    """Proposals, newest first."""
    query = {"state": state} if state is not None else {}
    with cli.client() as client:
        found = client.call("GET", "/v1/proposals", said.Proposals, **query)
    cli.done(found, lambda out: _table(out, found.proposals))


def _table(out: "Output", found: list[said.ProposalInfo]) -> None:
    from synapsed.cli.output import short_cid, short_text  # noqa: PLC0415

    columns = ("PROPOSAL", "TITLE", "RISK", "STATE", "YES>", "NO>", "OURS")
    rows = (
        (
            short_cid(each.cid),
            short_text(each.title, TITLE_WIDTH),
            each.risk,
            _state(each),
            _part(each.yes, each.weight),
            _part(each.no, each.weight),
            each.our_vote or ("-" if each.state == "open" else ""),
        )
        for each in found
    )
    out.table(columns, rows, empty="no proposals")


def _state(info: said.ProposalInfo) -> str:
    """Open, or how it ended in a word."""
    if info.in_force is not None:
        return f"in force {info.in_force}"
    if info.due_at is not None:
        return "due"
    return info.reason or info.state


def _part(weight: int, total: int) -> str:
    return percent(weight / total) if total else "-"


@command(proposal, "show")
def show_(cli: Cli, name: Proposal) -> None:
    """One proposal: what it would do, its votes, approvals and outcome."""
    with cli.client() as client:
        found = _detail(client, proposal_cid(client, name))
    cli.done(found, lambda out: _show(out, found))


def _detail(client: "Client", cid: str) -> said.ProposalDetail:
    return client.call("GET", f"/v1/proposals/{cid}", said.ProposalDetail)


def _show(out: "Output", found: said.ProposalDetail) -> None:
    from synapsed.cli.output import moment, short_peer  # noqa: PLC0415

    info = found.proposal
    out.pairs(
        [
            ("title", info.title),
            ("proposal", info.cid),
            ("kind", info.kind),
            *_change_rows(found),
            *(("links", link) for link in found.links),
            ("risk", f"{info.risk}: {found.why}"),
            ("author", info.author),
            ("opened", f"{moment(info.opened_at)}, index {info.opened}"),
            *_closing(found),
            *_count(info),
            *_elsewhere(found),
        ]
    )
    if found.text:
        out.line("")
        for line in found.text.splitlines():
            out.line(line)
    if found.votes:
        out.line("")
        out.table(
            ("VOTER", "CHOICE", "WEIGHT>"),
            (
                (
                    "this daemon" if v.own else short_peer(v.voter),
                    v.choice,
                    "?" if v.weight is None else str(v.weight),
                )
                for v in found.votes
            ),
        )
        if info.voters > len(found.votes):
            out.line(f"and {info.voters - len(found.votes)} more")
    if found.approvals:
        out.line("")
        out.table(
            ("APPROVED BY", "KEY", "INDEX>"),
            ((each.name or "?", each.key, str(each.index)) for each in found.approvals),
        )


def _change_rows(found: said.ProposalDetail) -> list[tuple[str, str]]:
    """What would be done."""
    from synapsed.cli.amounts import amount  # noqa: PLC0415

    if found.changes:
        froms = [
            "" if each.before is None else f", from {amount(each.before, each.unit)}"
            for each in found.changes
        ]
        return [
            ("sets", f"{each.name} to {amount(each.value, each.unit)}{before}")
            for each, before in zip(found.changes, froms, strict=True)
        ]
    learned = learning_rows(found.proposal.kind, found.change)
    if learned is not None:
        return learned
    hidden = ("kind", *(_RECORD if found.proposal.kind == "upgrade" else ()))
    rows = [(name, str(value)) for name, value in found.change.items() if name not in hidden]
    if found.proposal.kind == "upgrade":
        rows.append(("in full", f"`synapsectl upgrade show {found.proposal.cid}`"))
    return [(name, line) for name, value in rows for line in value.splitlines()]


def _closing(found: said.ProposalDetail) -> list[tuple[str, str]]:
    from synapsed.cli.output import moment  # noqa: PLC0415

    outcome = found.outcome
    if outcome is None:
        return [("closes", f"{moment(found.proposal.closes_at)}, by the ledger's ticks")]
    word = "accepted" if outcome.accepted else "rejected"
    why = "" if outcome.reason == word else f"{outcome.reason}; "
    rows = [(word, f"{why}{moment(outcome.time)}, index {outcome.index}")]
    if outcome.certificate is not None:
        covers = f"at index {outcome.certificate.index}, which covers it"
        rows.append(("certificate", f"{signed(outcome.certificate)}, {covers}"))
    if found.proposal.due_at is not None:
        rows.append(("in force", f"from {moment(found.proposal.due_at)}, by the ledger's ticks"))
    if found.proposal.in_force is not None:
        rows.append(("in force", f"since index {found.proposal.in_force}"))
    return rows


def _elsewhere(found: said.ProposalDetail) -> list[tuple[str, str]]:
    """How a person approves on another machine."""
    info = found.proposal
    if info.state != "open" or not info.approvals_needed:
        return []
    return [("to approve", f"synapsectl human sign {info.cid} --ledger {found.ledger} --key FILE")]


def _count(info: said.ProposalInfo) -> list[tuple[str, str]]:
    from synapsed.cli.output import count  # noqa: PLC0415

    voted = info.yes + info.no + info.abstain
    quorum = "" if info.quorum is None else f"; a quorum is {percent(info.quorum)}"
    passes = "" if info.threshold is None else f"; it passes with {percent(info.threshold)}"
    votes = [
        ("voted", f"{_part(voted, info.weight)} of {info.weight} by {info.voters}{quorum}"),
        ("yes / no", f"{info.yes} / {info.no}, {info.abstain} abstain{passes}"),
    ]
    by_verdicts = info.kind == "exclusion"
    rows = [("voted", "nobody votes on it: members' verdicts decide")] if by_verdicts else votes
    if info.approvals_needed or info.approvals:
        keys = count(info.approvals_needed, "human key")
        needed = f"; {keys} must" if info.approvals_needed else ""
        rows.append(("approved by", (", ".join(info.approvals) or "nobody") + needed))
    if info.verdicts_needed:
        said_so = f"say {info.fetchable} members, {info.not_fetchable} not"
        claim = _CLAIMS.get(info.kind, "fetchable")
        rows.append((claim, f"{said_so}; {info.verdicts_needed} must"))
    if (info.state == "open" and not by_verdicts) or info.our_vote:
        ours = f"{info.our_vote}, " if info.our_vote else "not cast, "
        rows.append(("our vote", f"{ours}weight {info.our_weight}"))
    return rows


_CLAIMS = {"upgrade": "sound", "checkpoint": "improved", "exclusion": "wrong"}
"""What members find of proposals of some kinds."""


@command(proposal, "vote")
def vote(
    cli: Cli,
    name: Proposal,
    choice: Annotated[Literal["yes", "no", "abstain"], typer.Argument(metavar="CHOICE")],
    no_wait: NoWait = False,
) -> None:
    """Cast this daemon's vote: yes, no or abstain. The last before the close counts."""
    asked = said.VoteRequest(choice=choice)
    with cli.client() as client:
        cid = proposal_cid(client, name, state="open")
        path, what = f"/v1/proposals/{cid}/votes", "submit a vote"
        found = cli.work(client, what, path, said.Submitted, asked, wait=not no_wait)
    cli.done(
        found, lambda out: out.pairs([("voted", f"{choice} on {cid}"), *submitted_rows(found)])
    )


@command(proposal, "approve")
def approve(
    cli: Cli,
    name: Proposal,
    key: Annotated[
        str, typer.Option(metavar="FILE|KEY", help="The human key's file; or with --signature, it.")
    ],
    signature: Annotated[
        str | None, typer.Option(metavar="HEX", help="Made elsewhere by `synapsectl human sign`.")
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Approve a proposal with a human key that the ledger names."""
    with cli.client() as client:
        cid = proposal_cid(client, name, state="open")
        if signature is None:
            from synapsed.cli.human import parse_realm, sign  # noqa: PLC0415

            detail = _detail(client, cid)
            if detail.proposal.state != "open":
                raise NotOpenError(
                    f"{cid} is decided already: {detail.proposal.state}",
                    remedy="`synapsectl proposal show` tells more; what is open, `proposal ls`",
                )
            asked = sign(Path(key), parse_realm(detail.ledger), cid)
        else:
            asked = said.ApprovalRequest(key=key, signature=signature)
        path, what = f"/v1/proposals/{cid}/approvals", "submit an approval"
        found = cli.work(client, what, path, said.Submitted, asked, wait=not no_wait)
    cli.done(found, lambda out: out.pairs([("approved", cid), *submitted_rows(found)]))


@command(proposal, "watch")
def watch(cli: Cli, name: Proposal) -> None:
    """Show each change until it is closed. Fails where it is rejected."""
    seen: said.ProposalInfo | None = None
    with cli.client() as client:
        cid = proposal_cid(client, name)
        while True:
            found = _detail(client, cid)
            if found.proposal != seen:
                seen = found.proposal
                if cli.json:
                    print_json(seen)
                else:
                    cli.out.line(_line(found))
            if seen.state != "open":
                break
            time.sleep(WATCH_S)
    if seen.state == "rejected":
        raise typer.Exit(EXIT_FAILED)


def _line(found: said.ProposalDetail) -> str:
    info = found.proposal
    at = time.strftime("%H:%M:%S")
    votes = f"yes {info.yes}  no {info.no}  abstain {info.abstain}  of {info.weight}"
    approved = f"  approved by {', '.join(info.approvals)}" if info.approvals else ""
    ended = f"  index {found.outcome.index}: {found.outcome.reason}" if found.outcome else ""
    return f"{at}  {info.state}  {votes}{approved}{ended}"
