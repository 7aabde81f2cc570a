"""model ls|show|pull|import|export|pin|unpin|rm, and gc, scrub, job: what lies on the disk."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synapsed.cli import candidates
from synapsed.cli.common import SLOW_S, Cli, command, path_of
from synapsed.cli.names import is_kept, model_cid
from synapsed.control import models
from synapsed.control.fields import MAX_JOB

if TYPE_CHECKING:
    from synapsed.cli.output import Output

model = typer.Typer(help="Models: import, pull, export, pin.", no_args_is_help=True)
job = typer.Typer(help="Long work under way.", no_args_is_help=True)

_MODEL = "A CID, its beginning, or a name."
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help=_MODEL, autocompletion=candidates.known_models)
]
AnyModel = Annotated[
    str, typer.Argument(metavar="MODEL", help=_MODEL, autocompletion=candidates.all_models)
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(model, name="model")
    command(app, "gc")(gc)
    command(app, "scrub")(scrub)
    app.add_typer(job, name="job")


@command(model, "ls")
def ls(
    cli: Cli,
    every: Annotated[bool, typer.Option("--all", help="Those that others announce, too.")] = False,
) -> None:
    """Models that are kept here, whole or in part."""
    with cli.client() as client:
        found = client.call("GET", "/v1/models", models.Models)
        if not every:
            # Manifests of others' models come here as well, to be looked after.
            found.models = [each for each in found.models if is_kept(each)]
        elif not cli.json:
            query = {"kind": "shard"}
            said = client.call("GET", "/v1/announcements", models.Announcements, **query)
            cli.out.models(found.models, Counter(entry.subject for entry in said.announcements))
            return
    cli.done(found, lambda out: out.models(found.models))


@command(model, "show")
def show(cli: Cli, name: ModelName) -> None:
    """One model: its files, experts and holders."""
    with cli.client() as client:
        cid = model_cid(client, name)
        found = client.call("GET", f"/v1/models/{cid}", models.ModelDetail)
    cli.done(found, lambda out: _detail(out, found))


def _detail(out: "Output", found: models.ModelDetail) -> None:
    from synapsed.cli.output import pinned, share, short_cid, short_peer, size  # noqa: PLC0415

    info = found.model
    out.pairs(
        [
            ("name", info.name),
            ("cid", info.cid),
            ("size", size(info.size)),
            ("held", share(info.held, info.size)),
            ("pinned", pinned(info)),
            ("tiles", f"{found.tiles}, {found.under_replicated} with too few holders"),
        ]
    )
    out.line("")
    out.table(
        ("FILE", "LAYOUT", "SIZE>", "HELD>"),
        ((f.path, f.layout, size(f.size), share(f.held, f.size)) for f in found.file_list),
    )
    if found.expert_list:
        out.line("")
        out.table(
            ("EXPERT", "CID", "TENSORS>", "SIZE>"),
            ((e.name, short_cid(e.cid), str(e.tensors), size(e.size)) for e in found.expert_list),
        )
    out.line("")
    out.table(
        ("HOLDER", "TILES>", "PROVEN"),
        (
            (
                "this daemon" if each.own else short_peer(each.peer_id),
                str(each.tiles),
                "yes" if each.proven else "no",
            )
            for each in found.holders
        ),
        empty="nobody announces it",
    )


@command(model, "import")
def import_(
    cli: Cli,
    path: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", parser=path_of, help="A Hugging Face model.")
    ],
    name: Annotated[str | None, typer.Option(help="Its name; else the folder's.")] = None,
) -> None:
    """Take a model into the store, pin it and announce it."""
    asked = models.ImportRequest(path=str(path.absolute()), name=name)
    with cli.client() as client:
        what = f"import {path.name}"
        found = cli.work(client, what, "/v1/models/import", models.ImportResult, asked)

    def say(out: "Output") -> None:
        from synapsed.cli.output import count, size  # noqa: PLC0415

        out.pairs(
            [
                ("imported", found.name),
                ("cid", found.cid),
                ("size", f"{size(found.size)} in {count(found.files, 'file')}"),
                ("experts", str(found.experts)),
            ]
        )

    cli.done(found, say)


@command(model, "pull")
def pull(
    cli: Cli,
    name: AnyModel,
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one.", autocompletion=candidates.experts),
    ] = None,
    tensor: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this one.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on without this command.")] = False,
) -> None:
    """Fetch a model, or some of its parts (repeat the options)."""
    asked = models.PullRequest(experts=expert or [], tensors=tensor or [])
    with cli.client() as client:
        cid = model_cid(client, name, announced=True)
        path = f"/v1/models/{cid}/pull"
        if detach:
            job_started = client.call("POST", path, models.JobStarted, asked, detach=True)
            said = f"job {job_started.job} goes on; `synapsectl job ls` shows how far it is"
            cli.done(job_started, lambda out: out.line(said))
            return
        found = cli.work(client, f"pull {name}", path, models.PullResult, asked)
    cli.done(found, lambda out: _pulled(out, found))


def _pulled(out: "Output", found: models.PullResult) -> None:
    from synapsed.cli.output import rate, short_peer, size  # noqa: PLC0415

    speed = rate(found.fetched / found.seconds) if found.seconds and found.fetched else "-"
    out.pairs(
        [
            ("pulled", found.name),
            ("cid", found.cid),
            ("size", size(found.size)),
            ("fetched", f"{size(found.fetched)} in {found.seconds:.1f} s, {speed}"),
        ]
    )
    if found.sources:
        out.line("")
        out.table(
            ("SOURCE", "BYTES>", "SUB-TILES>", "FAULTS"),
            (
                (short_peer(s.peer_id), size(s.bytes), str(s.subtiles), ", ".join(s.faults) or "-")
                for s in found.sources
            ),
        )


@command(model, "export")
def export(
    cli: Cli,
    name: ModelName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=path_of, help="New or empty.")],
) -> None:
    """Write a model's files, byte for byte as they were imported."""
    asked = models.ExportRequest(path=str(folder.absolute()))
    with cli.client() as client:
        path = f"/v1/models/{model_cid(client, name)}/export"
        found = cli.work(client, f"export {name}", path, models.ExportResult, asked)

    def say(out: "Output") -> None:
        from synapsed.cli.output import count  # noqa: PLC0415

        out.line(f"wrote {count(found.files, 'file')} to {found.path}")

    cli.done(found, say)


@command(model, "pin")
def pin(cli: Cli, name: ModelName) -> None:
    """Keep a model through gc."""
    _set_pin(cli, name, "pin")


@command(model, "unpin")
def unpin(cli: Cli, name: ModelName) -> None:
    """Let gc take a model."""
    _set_pin(cli, name, "unpin")


def _set_pin(cli: Cli, name: str, verb: str) -> None:
    with cli.client() as client:
        cid = model_cid(client, name)
        found = client.call("POST", f"/v1/models/{cid}/{verb}", models.ModelInfo)
    cli.done(found, lambda out: out.line(f"{verb}ned {found.name} {found.cid}"))


@command(model, "rm")
def rm(cli: Cli, name: ModelName) -> None:
    """Forget a model and withdraw its announcement."""
    with cli.client(SLOW_S) as client:
        cid = model_cid(client, name)
        found = client.call("DELETE", f"/v1/models/{cid}", models.Removed)

    def say(out: "Output") -> None:
        from synapsed.cli.output import size  # noqa: PLC0415

        out.line(f"removed {found.cid}, freed {size(found.freed)}")

    cli.done(found, say)


def gc(cli: Cli) -> None:
    """Delete what nothing pinned reaches."""
    with cli.client(SLOW_S) as client:
        found = client.call("POST", "/v1/gc", models.GcResult)

    def say(out: "Output") -> None:
        from synapsed.cli.output import count, size  # noqa: PLC0415

        what = f"{count(found.files, 'file')} and {count(found.blocks, 'block')}"
        out.line(f"deleted {what}, {size(found.freed)}")

    cli.done(found, say)


def scrub(cli: Cli) -> None:
    """Read and verify every byte that is held."""
    with cli.client() as client:
        found = cli.work(client, "scrub", "/v1/scrub", models.ScrubResult)

    def say(out: "Output") -> None:
        from synapsed.cli.output import count, size  # noqa: PLC0415

        what = count(found.subtiles, "sub-tile")
        out.line(f"{what}, {size(found.bytes)}, in {found.seconds:.1f} s")
        if found.bad:
            out.verdict("fail", f"{count(found.bad, 'sub-tile or block')} had rotted: forgotten")
            out.line("       `synapsectl model ls` shows what lacks some; pull it to have it whole")

    cli.done(found, say)


@command(job, "ls")
def jobs(cli: Cli) -> None:
    """Long work under way."""
    with cli.client() as client:
        found = client.call("GET", "/v1/jobs", models.Jobs)

    def say(out: "Output") -> None:
        from synapsed.cli.output import job_subject, share, since  # noqa: PLC0415

        rows = (
            (
                str(each.id),
                each.kind,
                job_subject(each),
                "-" if each.progress is None else share(each.progress.done, each.progress.total),
                since(each.started),
            )
            for each in found.jobs
        )
        out.table(("JOB>", "KIND", "OF", "DONE>", "FOR>"), rows, empty="no jobs")

    cli.done(found, say)


@command(job, "cancel")
def cancel(
    cli: Cli,
    number: Annotated[
        int, typer.Argument(metavar="JOB", min=1, max=MAX_JOB, autocompletion=candidates.jobs)
    ],
) -> None:
    """Cancel a job. What has arrived is kept."""
    with cli.client() as client:
        found = client.call("DELETE", f"/v1/jobs/{number}", models.JobInfo)
    cli.done(found, lambda out: out.line(f"cancelled job {found.id}"))
