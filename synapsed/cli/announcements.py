"""announcements, announce, withdraw: the catalog, and what we say in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synapsed.cli import candidates
from synapsed.cli.common import SLOW_S, Cli, command
from synapsed.cli.manifests import read_manifest
from synapsed.cli.names import announcement_id, subject_cid
from synapsed.control import models

if TYPE_CHECKING:
    from synapsed.cli.output import Output

NAME_WIDTH, ISSUER_WIDTH = 18, 14
"""So that a row fits 80 columns."""

announce = typer.Typer(help="Publish a manifest and announce it.", no_args_is_help=True)

ManifestFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The manifest, JSON or TOML; - reads JSON.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "announcements")(announcements)
    command(app, "withdraw")(withdraw)
    app.add_typer(announce, name="announce")


def announcements(
    cli: Cli,
    kind: Annotated[
        Literal["shard", "adapter", "kernel", "upgrade", "dataset", "proposal"] | None,
        typer.Option(help="Only these."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(metavar="CID", help="Only about this: its beginning, or a model's name."),
    ] = None,
) -> None:
    """The live announcements that this daemon knows; adapters alone by how well they suit it."""
    with cli.client() as client:
        about = subject_cid(client, subject) if subject is not None else None
        query = {"kind": kind, "subject": about}
        found = client.call(
            "GET",
            "/v1/announcements",
            models.Announcements,
            **{name: value for name, value in query.items() if value is not None},
        )
        here = models.Models([]) if cli.json else client.call("GET", "/v1/models", models.Models)
    names = {model.cid: model.name for model in here.models}
    cli.done(found, lambda out: _table(out, found.announcements, names))


def _table(out: "Output", found: list[models.AnnouncementInfo], names: Mapping[str, str]) -> None:
    from synapsed.cli.output import short_cid, short_peer, short_text  # noqa: PLC0415

    ranked = any(entry.score is not None for entry in found)
    columns = ("ID", "SCORE" if ranked else "KIND", "SUBJECT", "NAME", "ISSUER")
    rows = (
        (
            short_cid(entry.id),
            str(entry.score or "") if ranked else entry.kind,
            short_cid(entry.subject),
            short_text(_name(entry, names), NAME_WIDTH),
            "this daemon" if entry.own else short_peer(entry.issuer, ISSUER_WIDTH),
        )
        for entry in found
    )
    out.table(columns, rows, empty="no announcements")


_FIELDS = {"adapter": "name", "kernel": "operation", "proposal": "title", "upgrade": "slot"}
"""What an announcement of each kind is called by; a model's name is in its manifest."""


def _name(entry: models.AnnouncementInfo, names: Mapping[str, str]) -> str:
    """What its issuer calls it; a model's name is in its manifest, which not everybody has."""
    field = _FIELDS.get(entry.kind)
    return names.get(entry.subject, "") if field is None else str(entry.body.get(field, ""))


@command(announce, "adapter")
def adapter(cli: Cli, file: ManifestFile) -> None:
    """A LoRA adapter: base model, name, rank, size."""
    _publish(cli, "adapter", file)


@command(announce, "kernel")
def kernel(cli: Cli, file: ManifestFile) -> None:
    """A kernel variant: operation, architecture, benchmark."""
    _publish(cli, "kernel", file)


@command(announce, "proposal")
def proposal(cli: Cli, file: ManifestFile) -> None:
    """A proposal."""
    _publish(cli, "proposal", file)


def _publish(cli: Cli, kind: Literal["adapter", "kernel", "proposal"], file: Path) -> None:
    draft = {**read_manifest(file), "kind": kind}
    if isinstance(draft.get("file"), str):
        # Beside the manifest, wherever synapsectl was started.
        draft["file"] = str(file.absolute().parent / draft["file"])
    with cli.client(SLOW_S) as client:
        found = client.call("POST", "/v1/announcements", models.AnnouncementInfo, draft)
    cli.done(found, lambda out: out.pairs([("announced", found.id), (kind, found.subject)]))


def withdraw(
    cli: Cli,
    announcement: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Or its beginning.", autocompletion=candidates.own_announcements
        ),
    ],
) -> None:
    """Take back an announcement of ours."""
    with cli.client() as client:
        cid = announcement_id(client, announcement)
        found = client.call("DELETE", f"/v1/announcements/{cid}", models.AnnouncementInfo)
    cli.done(found, lambda out: out.line(f"withdrew {found.id}"))
