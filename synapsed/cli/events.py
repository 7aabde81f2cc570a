"""events: what happens in the daemon."""

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from synapsed.cli.common import Cli, command, print_json
from synapsed.control import models

if TYPE_CHECKING:
    from synapsed.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "events")(events)


def events(
    cli: Cli,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C; --json: a line each.")
    ] = False,
    kind: Annotated[
        str, typer.Option(metavar="PREFIX", help='Only kinds that begin so: "peer."')
    ] = "",
) -> None:
    """The newest events, or with --follow all from now on."""
    with cli.client() as client:
        if not follow:
            found = client.call("GET", "/v1/events/recent", models.Events, kind=kind)
            cli.done(found, lambda out: _lines(out, found.events))
            return
        if cli.json:
            client.events(kind, print_json)
        else:
            out = cli.out
            client.events(kind, lambda event: _lines(out, [event]))


def _lines(out: "Output", found: list[models.EventInfo]) -> None:
    for event in found:
        at = time.strftime("%H:%M:%S", time.localtime(event.at))
        fields = "  ".join(f"{name}={_plain(value)}" for name, value in event.fields.items())
        out.line(f"{at}  {event.kind}  {fields}")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
