"""announcements, announce, withdraw: the catalog, and what we say in it."""

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from protocols.errors import MalformedError
from synapsed.cli.common import SLOW_S, Cli, command
from synapsed.cli.names import announcement_id
from synapsed.control import models

if TYPE_CHECKING:
    from synapsed.cli.output import Output

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
        Literal["shard", "adapter", "kernel", "proposal"] | None, typer.Option(help="Only these.")
    ] = None,
    subject: Annotated[str | None, typer.Option(metavar="CID", help="Only about this.")] = None,
) -> None:
    """The live announcements that this daemon knows."""
    query = {"kind": kind, "subject": subject}
    with cli.client() as client:
        found = client.call(
            "GET",
            "/v1/announcements",
            models.Announcements,
            **{name: value for name, value in query.items() if value is not None},
        )
    cli.done(found, lambda out: _table(out, found.announcements))


def _table(out: "Output", found: list[models.AnnouncementInfo]) -> None:
    from synapsed.cli.output import short_cid, short_peer, until  # noqa: PLC0415

    columns = ("ID", "KIND", "SUBJECT", "ISSUER", "EXPIRES>")
    rows = (
        (
            short_cid(entry.id),
            entry.kind,
            short_cid(entry.subject),
            "this daemon" if entry.own else short_peer(entry.issuer),
            f"in {until(entry.expires)}",
        )
        for entry in found
    )
    out.table(columns, rows, empty="no announcements")


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
    draft = {**_read(file), "kind": kind}
    if isinstance(draft.get("file"), str):
        # Beside the manifest, wherever synapsectl was started.
        draft["file"] = str(file.absolute().parent / draft["file"])
    with cli.client(SLOW_S) as client:
        found = client.call("POST", "/v1/announcements", models.AnnouncementInfo, draft)
    cli.done(found, lambda out: out.pairs([("announced", found.id), (kind, found.subject)]))


def _read(file: Path) -> dict[str, Any]:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode()
        body = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(
            f"{file} is not {'TOML' if file.suffix == '.toml' else 'JSON'}: {error}",
            remedy="docs/cli.md has an example of each manifest",
        ) from error
    if not isinstance(body, dict):
        raise MalformedError(f"{file} holds no object of named fields")
    return body


def withdraw(
    cli: Cli, announcement: Annotated[str, typer.Argument(metavar="ID", help="Or its beginning.")]
) -> None:
    """Take back an announcement of ours."""
    with cli.client() as client:
        cid = announcement_id(client, announcement)
        found = client.call("DELETE", f"/v1/announcements/{cid}", models.AnnouncementInfo)
    cli.done(found, lambda out: out.line(f"withdrew {found.id}"))
