"""status, limits, pause, resume, doctor, config, metrics: the daemon itself."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from msgspec import UNSET

from synapsed.cli.common import SLOW_S, Cli, command
from synapsed.config.options import MIN_QUOTA
from synapsed.control import models
from synapsed.control.fields import MAX_PULLS_LIMIT, RATE_LIMIT
from synapsed.control.ledgermodels import LedgerGlance
from synapsed.control.problems import EXIT_FAILED, TimedOutError

if TYPE_CHECKING:
    from synapsed.cli.output import Output

SIGN_OF_LIFE_S = 10.0
"""A daemon that does not say its limits within so long is examined from outside."""

config = typer.Typer(help="The configuration in force.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "status")(status)
    command(app, "limits")(limits)
    command(app, "pause")(pause)
    command(app, "resume")(resume)
    command(app, "doctor")(doctor)
    command(app, "metrics")(metrics)
    app.add_typer(config, name="config")


def status(cli: Cli) -> None:
    """The daemon at a glance."""
    with cli.client() as client:
        found = client.call("GET", "/v1/status", models.Status)

    def show(out: "Output") -> None:
        from synapsed.cli.output import duration, limit, share, size  # noqa: PLC0415
        from synapsed.config.quantities import Size  # noqa: PLC0415

        process = found.process
        quota = found.store.quota
        rows = [
            ("state", f"{found.state}; up for {duration(found.uptime)}, pid {found.pid}"),
            ("peer id", found.peer_id),
            ("network", found.network),
            ("version", found.version),
            ("home", found.home),
            *(("listens at", addr) for addr in found.addrs),
            ("peers", f"{found.connected} connected of {found.target_peers} wanted"),
            ("live", f"{found.live} by their heartbeats, this one included"),
            ("catalog", f"{found.announcements} announcements, of {found.models} models"),
            (
                "store",
                f"{size(found.store.used)} of {limit(Size(quota).text(), quota)}"
                f" ({share(found.store.used, quota)})",
            ),
            ("messages", f"{found.messages_per_second:.1f}/s"),
            *_ledger_rows(found.ledger),
        ]
        if process is not None:
            rows.append(("process", f"{size(process.rss)}, {process.cpu_share:.1%} of a core"))
        rows += [("job", _job_line(job)) for job in found.jobs]
        out.pairs(rows)
        for warning in found.warnings:
            out.verdict("warn", warning)

    cli.done(found, show)


def _ledger_rows(found: LedgerGlance | None) -> list[tuple[str, str]]:
    from synapsed.cli.output import since  # noqa: PLC0415

    if found is None:
        return [("ledger", "none: this daemon was given no genesis")]
    behind = f", {found.behind} behind" if found.behind else ""
    roles = {
        "member": "this daemon sits in it",
        "willing": "this daemon stands for the next",
        "follower": "this daemon follows",
        "lost-state": "this daemon lost its seat's state, and signs nothing",
    }
    leader = "" if found.leader is None else f", led by {found.leader[:18]}"
    rows = [
        ("ledger", f"index {found.index}, {since(found.time)} old{behind}; {found.hash[:16]}"),
        ("council", f"epoch {found.epoch}, {found.seats} seats{leader}; {roles[found.role]}"),
    ]
    if found.open_proposals:
        rows.append(("proposals", f"{found.open_proposals} open: `synapsectl proposal ls`"))
    return rows


def _job_line(job: models.JobInfo) -> str:
    from synapsed.cli.output import job_subject, share  # noqa: PLC0415

    done = "" if job.progress is None else f", {share(job.progress.done, job.progress.total)}"
    return f"{job.id}: {job.kind} of {job_subject(job)}{done}"


def limits(
    cli: Cli,
    upload: Annotated[
        str | None, typer.Option(metavar="RATE", help='"20 Mbit/s", "2.5 MB/s", or 0: unlimited.')
    ] = None,
    download: Annotated[
        str | None, typer.Option(metavar="RATE", help="The same for what is fetched.")
    ] = None,
    quota: Annotated[str | None, typer.Option(metavar="SIZE", help='Disk: "50 GiB".')] = None,
    max_pulls: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MAX_PULLS_LIMIT, help="Models pulled at a time."),
    ] = None,
) -> None:
    """Show the limits in force, or change them until the restart."""
    change = models.LimitsRequest(
        upload=UNSET if upload is None else _quantity("--upload", upload),
        download=UNSET if download is None else _quantity("--download", download),
        quota=UNSET if quota is None else _quantity("--quota", quota),
        max_pulls=UNSET if max_pulls is None else max_pulls,
    )
    with cli.client() as client:
        if change == models.LimitsRequest():
            found = client.call("GET", "/v1/limits", models.Limits)
        else:
            found = client.call("PUT", "/v1/limits", models.Limits, change)

    def show(out: "Output") -> None:
        from synapsed.cli.output import limit  # noqa: PLC0415
        from synapsed.config.quantities import Size  # noqa: PLC0415

        out.pairs(
            [
                ("upload", _rate_line(found, "upload", found.upload)),
                ("download", _rate_line(found, "download", found.download)),
                ("quota", limit(Size(found.quota).text(), found.quota)),
                ("max pulls", str(found.max_pulls)),
                ("max connections", str(found.max_connections)),
            ]
        )

    cli.done(found, show)


def _rate_line(limits: models.Limits, name: str, value: int) -> str:
    """A rate, and why it holds."""
    from synapsed.cli.output import rate  # noqa: PLC0415
    from synapsed.config.quantities import Rate  # noqa: PLC0415

    text = Rate(value).text()
    origin = limits.origins.get(f"limits.{name}", "default")
    known = {"default": "", "limits": ", until the restart"}
    return (text if " " in text else rate(value)) + known.get(origin, f", from {origin}")


def _quantity(option: str, text: str) -> int:
    from synapsed.config.quantities import Rate, Size  # noqa: PLC0415

    kind = Size if option == "--quota" else Rate
    try:
        value = int(kind.parse(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; give {kind.expected}", param_hint=option) from error
    least = MIN_QUOTA if kind is Size else 0
    if not least <= value <= RATE_LIMIT:
        bounds = f"at least {kind(least).text()}" if value < least else "no machine has as much"
        raise typer.BadParameter(f"{text!r}: {bounds}", param_hint=option)
    return value


def pause(cli: Cli) -> None:
    """Move no model bytes and compute nothing until resumed: the card is free within a second."""
    _pause(cli, "/v1/pause", "paused")


def resume(cli: Cli) -> None:
    """Move model bytes and learn again, from where it was."""
    _pause(cli, "/v1/resume", "running")


def _pause(cli: Cli, path: str, said: str) -> None:
    with cli.client() as client:
        found = client.call("POST", path, models.Paused)
    cli.done(found, lambda out: out.line(said))


def doctor(cli: Cli) -> None:
    """Check the machine, the configuration and the network. Fails where a check fails."""
    from synapsed.control.client import NoDaemonError  # noqa: PLC0415

    try:
        with cli.client(SIGN_OF_LIFE_S) as client:
            client.call("GET", "/v1/limits", models.Limits)
        with cli.client(SLOW_S) as client:
            found = client.call("GET", "/v1/doctor", models.DoctorReport)
    except (NoDaemonError, TimedOutError):
        found = _doctor_without_daemon(cli)

    def show(out: "Output") -> None:
        for check in found.checks:
            out.verdict(check.verdict, f"{check.name}: {check.message}")
            if check.remedy:
                out.line(f"       {check.remedy}")

    cli.done(found, show)
    if any(check.verdict == "fail" for check in found.checks):
        raise typer.Exit(EXIT_FAILED)


def _doctor_without_daemon(cli: Cli) -> models.DoctorReport:
    from synapsed.doctor import examine  # noqa: PLC0415 - only where no daemon answers
    from synapsed.doctor.facts import gather  # noqa: PLC0415

    return models.DoctorReport(checks=examine(gather(cli.places(), os.environ)))


def metrics(cli: Cli) -> None:
    """Prometheus metrics."""
    with cli.client() as client:
        text = client.text("/v1/metrics")
    if cli.json:
        from prometheus_client.parser import (  # noqa: PLC0415 - 60 ms
            text_string_to_metric_families,
        )

        samples: list[dict[str, Any]] = [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        cli.done({"metrics": samples}, lambda _out: None)
    else:
        typer.echo(text, nl=False)


def show_config(
    cli: Cli,
    origin: Annotated[bool, typer.Option("--origin", help="Where each came from.")] = False,
) -> None:
    """Every setting of the running daemon, or of one that would start now."""
    from synapsed.control.client import NoDaemonError, NotADaemonError  # noqa: PLC0415

    try:
        with cli.client() as client:
            found = client.call("GET", "/v1/config", models.ConfigReport)
    except NotADaemonError:
        raise
    except NoDaemonError:
        found = _config_without_daemon(cli)
        if not cli.json:
            print("no daemon runs; one would start with:", file=sys.stderr)

    def show(out: "Output") -> None:
        columns = ["KEY", "VALUE", *(["ORIGIN"] if origin else [])]
        out.table(
            columns,
            (
                (entry.key, _value(entry.value), *([entry.origin] if origin else []))
                for entry in found.entries
            ),
        )

    cli.done(found, show)


def _config_without_daemon(cli: Cli) -> models.ConfigReport:
    from synapsed.config import load as configload  # noqa: PLC0415 - only where no daemon answers

    file = cli.places().config_file
    loaded = configload.load(file if file.exists() else None, os.environ)
    entries = [models.ConfigEntry(*row) for row in loaded.rows()]
    return models.ConfigReport(path=str(loaded.path) if loaded.path else None, entries=entries)


def _value(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


command(config, "show")(show_config)
