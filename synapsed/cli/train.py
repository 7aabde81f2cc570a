"""train propose|join|ls|status|leave|checkpoint|audit: one model, trained by many homes."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocols.changes import MAX_MARGIN, MAX_WINDOWS, MIN_WINDOWS
from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.manifests import read_manifest
from synapsed.cli.model import ModelName
from synapsed.cli.names import model_cid, training_cid
from synapsed.cli.proposing import NoWait, submitted_rows
from synapsed.control import ledgermodels
from synapsed.control.problems import EXIT_FAILED, EXIT_REFUSED
from synapsed.training import said

if TYPE_CHECKING:
    from synapsed.cli.output import Output

WATCH_S = 1.0
"""Between two looks of `train status --watch`: a round takes seconds."""

NAME_WIDTH = 12
"""Of a model's name in a list: as much as 80 columns leave."""
NO_TRAININGS = "no trainings; `synapsectl train propose` proposes one"

train = typer.Typer(help="Training a model together with other daemons.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(train, name="train")


@command(train, "propose")
def propose(
    cli: Cli,
    name: ModelName,
    *,
    evaluation: Annotated[
        Path,
        typer.Option(
            "--evaluation", metavar="FILE", parser=path_of, help="The text that judges checkpoints."
        ),
    ],
    windows: Annotated[
        int,
        typer.Option(min=MIN_WINDOWS, max=MAX_WINDOWS, help="Of it that judge one checkpoint."),
    ] = 128,
    margin: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_MARGIN,
            help="By which one must be better: millionths of a nat a token.",
        ),
    ] = 2000,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="TOML or JSON; else the default.")
    ] = None,
    title: Annotated[str, typer.Option(help="In a line.")] = "",
    text: Annotated[str, typer.Option(help="Why.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Propose that the network train a model: how, and by which text checkpoints are judged."""
    asked = {
        "evaluation": str(evaluation.absolute()),
        "windows": windows,
        "margin": margin,
        "plan": None if plan is None else read_manifest(plan),
        "title": title,
        "text": text,
    }
    with cli.client() as client:
        path = f"/v1/training/{model_cid(client, name)}/propose"
        what = "submit a training"
        found = cli.work(client, what, path, ledgermodels.Submitted, asked, wait=not no_wait)

    def show(out: "Output") -> None:
        from synapsed.cli.output import short_cid  # noqa: PLC0415

        cid = found.subject or ""
        out.pairs([("proposal", cid), *submitted_rows(found)])
        once = "" if found.index is not None else "once it is ratified, "
        out.line(f"{once}`synapsectl proposal vote {short_cid(cid)} yes` votes for it")

    cli.done(found, show)


@command(train, "join")
def join(
    cli: Cli,
    name: ModelName,
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="PATH", parser=path_of, help="A text, or a folder of texts: yours."
        ),
    ],
    every: Annotated[
        int, typer.Option(min=0, help="Propose a checkpoint after so many rounds; 0 never.")
    ] = 0,
) -> None:
    """Learn a model with the others, from a text that stays here."""
    with cli.client() as client:
        cid = training_cid(client, name)
        asked = said.JoinRequest(model=cid, data=str(data.absolute()), checkpoint_every=every)
        found = cli.work(client, f"join {name}", "/v1/training", said.TrainingSaid, asked)
    cli.done(found, lambda out: _training(out, found))


@command(train, "leave")
def leave(cli: Cli, name: ModelName) -> None:
    """Learn a model no more. Tile groups that this daemon serves it goes on serving."""
    with cli.client() as client:
        cid = training_cid(client, name)
        found = client.call("DELETE", f"/v1/training/{cid}", said.TrainingSaid)
    cli.done(found, lambda out: out.line(f"left at round {found.round}"))


@command(train, "ls")
def ls(cli: Cli) -> None:
    """Trainings on the ledger: how far each is, by what plan, and what this daemon does for it."""
    with cli.client() as client:
        found = client.call("GET", "/v1/training", said.TrainStatus)
    cli.done(found, lambda out: _list(out, found.trainings))


@command(train, "status")
def status(
    cli: Cli,
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again each second.")] = False,
) -> None:
    """Trainings on the ledger: rounds, loss, bytes, who serves which tile group."""
    with cli.client() as client:
        path = "/v1/training" if name is None else f"/v1/training/{training_cid(client, name)}"
        while True:
            found = client.call("GET", path, said.TrainStatus)
            if watch and not cli.json:
                cli.out.fresh()
            cli.done(found, lambda out, now=found: _status(out, now, detail=name is not None))  # type: ignore[misc]
            if not watch:
                return
            time.sleep(WATCH_S)


@command(train, "checkpoint")
def checkpoint(
    cli: Cli,
    name: ModelName,
    text: Annotated[str, typer.Option(help="Why.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Propose what was learned since the last checkpoint as the model's next one."""
    with cli.client() as client:
        path = f"/v1/training/{training_cid(client, name)}/checkpoint"
        asked = said.CheckpointRequest(description=text)
        what = "submit a checkpoint"
        found = cli.work(client, what, path, said.CheckpointSaid, asked, wait=not no_wait)
    cli.done(found, lambda out: _proposed(out, found))


@command(train, "audit")
def audit(
    cli: Cli,
    name: ModelName,
    group: Annotated[int, typer.Option("--group", min=0, help="The tile group's number.")],
    round_: Annotated[int, typer.Option("--round", min=0, help="The round's number, from 0.")],
) -> None:
    """Recompute a committed round from what its replicas still keep: 0 right, 1 wrong, 5 unknown.

    Whoever signed a wrong one is accused before the council.
    """
    asked = said.AuditRequest(group=group, round=round_)
    with cli.client() as client:
        path = f"/v1/training/{training_cid(client, name)}/audit"
        found = cli.work(client, f"audit {name}", path, said.AuditSaid, asked)
    cli.done(found, lambda out: _audited(out, found))
    if found.answer != "right":
        raise typer.Exit(EXIT_FAILED if found.answer == "wrong" else EXIT_REFUSED)


def _audited(out: "Output", found: said.AuditSaid) -> None:
    words = {
        "right": "right: its inputs make what was signed",
        "wrong": f"WRONG: {found.why} not what its inputs make",
        "gone": f"cannot be told: {found.why}",
    }
    out.pairs(
        [
            ("round", f"{found.round} of group {found.group}, epoch {found.epoch}"),
            ("is", words[found.answer]),
            ("signed by", ", ".join(found.signers) or "-"),
            ("took", f"{found.seconds:.1f} s"),
        ]
    )


def _proposed(out: "Output", found: said.CheckpointSaid) -> None:
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    out.pairs(
        [
            ("checkpoint", found.model),
            ("parent", found.parent),
            ("round", str(found.round)),
            ("proposal", found.proposal),
        ]
    )
    out.line(f"`synapsectl proposal vote {short_cid(found.proposal)} yes` votes for it; after the")
    out.line("vote the next epoch draws windows of text, on which the council's members measure it")


def _list(out: "Output", found: list[said.TrainingSaid]) -> None:
    from synapsed.cli.output import short_cid, short_text  # noqa: PLC0415

    out.table(
        ("TRAINING", "NAME", "HEAD", "VERSION>", "LEARNERS>", "HERE"),
        (
            (
                short_cid(each.lineage),
                short_text(each.name or "?", NAME_WIDTH),
                "the first" if each.head == each.lineage else short_cid(each.head),
                str(each.round),
                "?" if each.learners is None else str(each.learners),
                _here(each),
            )
            for each in found
        ),
        empty=NO_TRAININGS,
    )
    for each in found:
        out.line(f"{short_cid(each.lineage)}: {each.plan}")


def _here(each: said.TrainingSaid) -> str:
    served = sum(group.role != "none" for group in each.groups)
    parts = ["learned"] if each.joined else []
    parts += [f"{served}/{len(each.groups)} served"] if served else []
    return ", ".join(parts) or "-"


def _status(out: "Output", found: said.TrainStatus, *, detail: bool) -> None:
    from synapsed.cli.output import size  # noqa: PLC0415

    compute = found.compute
    where = f" on {compute.device}, {size(compute.memory)}" if compute.device else ""
    why = compute.why or ("`synapsectl resume` ends that" if compute.state == "paused" else "")
    out.line(f"compute worker: {compute.state}{where}{f': {why}' if why else ''}")
    if detail:
        for each in found.trainings:
            out.line("")
            _training(out, each)
        return
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    out.table(
        ("MODEL", "STATE", "ROUND>", "LOSS>", "IN>", "OUT>", "GROUPS>"),
        (
            (
                short_cid(each.lineage),
                each.state,
                str(each.round),
                "-" if each.loss is None else f"{each.loss:.4f}",
                size(each.bytes_in),
                size(each.bytes_out),
                f"{sum(group.role != 'none' for group in each.groups)}/{len(each.groups)}",
            )
            for each in found.trainings
        ),
        empty=NO_TRAININGS,
    )


def _sends_to(each: said.TrainingSaid) -> str:
    from synapsed.cli.output import short_peer  # noqa: PLC0415

    if not each.joined:
        return "-"
    if not each.aggregator:
        return "the groups' primaries"
    return f"{short_peer(each.aggregator)}, which sums for this region"


def _training(out: "Output", each: said.TrainingSaid) -> None:
    from synapsed.cli.output import short_peer, size  # noqa: PLC0415

    out.pairs(
        [
            ("model", f"{each.lineage} ({each.name})" if each.name else each.lineage),
            ("head", "none yet: the model itself" if each.head == each.lineage else each.head),
            ("plan", each.plan),
            ("state", f"{each.state}: {each.why}" if each.why else each.state),
            ("round", f"{each.round} ({each.phase})"),
            ("loss", "-" if each.loss is None else f"{each.loss:.4f} nats a token"),
            ("given", f"{each.contributed} deltas, {each.refused} refused"),
            ("bytes", f"{size(each.bytes_in)} in, {size(each.bytes_out)} out"),
            ("sends to", _sends_to(each)),
            ("data", each.data or "-"),
        ]
    )
    out.line("")
    out.table(
        ("GROUP>", "ROUND>", "TERM>", "ROLE", "PRIMARY", "SIZE>", "CHAIN>"),
        (
            (
                str(group.number),
                str(group.round) if group.head else "?",
                f"{group.epoch}.{group.term}",
                group.role,
                short_peer(group.primary) if group.primary else "nobody",
                size(group.bytes),
                size(group.chain_bytes),
            )
            for group in each.groups
        ),
        empty="its tile groups are not known yet",
    )
    if each.excluded:
        out.line("")
    for one in each.excluded:
        out.line(
            f"{one.peer} is excluded until epoch {one.until}, for what it signed in epoch "
            f"{one.epoch}; it lost {one.lost} of its reputation"
        )
    if not each.checkpoints:
        return
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    out.line("")
    out.table(
        ("CHECKPOINT", "INDEX>", "BETTER BY>", "FROM>", "TO>"),
        (
            (
                short_cid(one.model),
                str(one.index),
                *(f"{it:.4f}" for it in (one.mean, one.low, one.high)),
            )
            for one in reversed(each.checkpoints)
        ),
    )
