"""ledger show|verify|export|proof|note: the audit trail, and checking it for yourself."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synapsed.cli.common import SLOW_S, Cli, command, path_of, print_json
from synapsed.cli.proposing import NoWait, signed, submitted_rows
from synapsed.control import ledgermodels as said
from synapsed.control.fields import MAX_ENTRIES, MAX_JOB
from synapsed.control.problems import ConflictError

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.control.client import Client

FOLLOW_S = 0.5
"""Between two looks at the ledger's end: an idle council ratifies a tick every few seconds."""

KIND_WIDTH, SUMMARY_WIDTH = 11, 42
"""So that a row fits 80 columns."""

LOOK_BACK = 20 * MAX_ENTRIES
"""Entries to go through for those that are wanted: half a day's ticks, and a second or two."""

Ask = Callable[[int, int], said.Entries]
"""(first, count) -> a run of entries."""
Wanted = Callable[[said.EntryInfo], bool]


class Newest(said.Entries):
    """The newest entries of those that are wanted."""

    left_out: int = 0
    """Newer than the oldest of these, or than the oldest that was looked at, and not wanted."""
    looked_from: int = 0
    """The oldest that was looked at."""


ledger = typer.Typer(help="The ratified ledger: look, verify, export.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(ledger, name="ledger")


@command(ledger, "show")
def show(
    cli: Cli,
    *,
    index: Annotated[
        int | None,
        typer.Argument(metavar="[INDEX]", min=0, max=MAX_JOB, help="One entry, in full."),
    ] = None,
    last: Annotated[
        int, typer.Option(metavar="N", min=1, max=MAX_ENTRIES, help="So many before the end.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C; --json: a line each.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help='Only these: "note", "proposal", "tick" ...')
    ] = None,
    ticks: Annotated[bool, typer.Option("--ticks", help="The clock's ticks as well.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An exported ledger, verified first; no daemon."),
    ] = None,
) -> None:
    """The ledger's last entries but for its ticks, or one entry."""
    if file is not None:
        if follow:
            raise typer.BadParameter("a --file does not grow: --follow asks a daemon")
        _show_file(cli, file, index, last, kind=kind, ticks=ticks)
        return
    wanted = partial(_is_wanted, kind, ticks)
    with cli.client() as client:
        if index is not None:
            path = f"/v1/ledger/entries/{index}"
            one = client.call("GET", path, said.EntryDetail)
            cli.done(one, lambda out: _entry(out, one))
            return
        oldest = client.call("GET", "/v1/ledger", said.LedgerInfo).first
        found = _newest(partial(_entries, client), oldest, last, wanted)
        if follow:
            _follow(cli, client, found, wanted)
            return
    cli.done(found, lambda out: _table(out, found, kind))


def _is_wanted(kind: str | None, ticks: bool, entry: said.EntryInfo) -> bool:
    return entry.kind == kind if kind is not None else ticks or entry.kind != "tick"


def _newest(ask: Ask, oldest: int, last: int, wanted: Wanted) -> Newest:
    """The `last` newest that are wanted; `oldest` is the first entry that is there."""
    head = ask(-1, 1).head
    floor = max(oldest, head + 1 - max(LOOK_BACK, last))
    found: list[said.EntryInfo] = []
    looked, page = head + 1, last
    while looked > floor and len(found) < last:
        start, page = max(floor, looked - page), MAX_ENTRIES
        for entry in reversed(_run(ask, start, looked)):
            looked = entry.index
            found += [entry] if wanted(entry) else []
            if len(found) == last:
                break
    left_out = head + 1 - looked - len(found)
    return Newest(head, found[::-1], left_out=left_out, looked_from=looked)


def _run(ask: Ask, start: int, end: int) -> list[said.EntryInfo]:
    """All entries of [start, end): an answer ends early where they are large."""
    found: list[said.EntryInfo] = []
    while start < end:
        found += ask(start, end - start).entries
        start = found[-1].index + 1
    return found


def _show_file(
    cli: Cli, file: Path, index: int | None, last: int, *, kind: str | None, ticks: bool
) -> None:
    from synapsed.cli import offline  # noqa: PLC0415

    known = offline.known_genesis(cli, None)
    with cli.out.progress(f"verify {file.name}") as watch:
        _, reader = offline.verify(known, offline.from_file(file, watch), keep=True)
    view = offline.view(reader)
    if index is not None:
        one = view.entry(index)
        cli.done(one, lambda out: _entry(out, one))
        return
    found = _newest(view.entries, view.oldest, last, partial(_is_wanted, kind, ticks))
    cli.done(found, lambda out: _table(out, found, kind))


def _entries(client: "Client", first: int, count: int) -> said.Entries:
    query = {"first": str(first), "count": str(count)}
    return client.call("GET", "/v1/ledger/entries", said.Entries, **query)


def _follow(cli: Cli, client: "Client", newest: Newest, wanted: Wanted) -> None:
    out = None if cli.json else cli.out
    found, following = newest.entries, newest.head + 1
    while True:
        for entry in filter(wanted, found):
            if out is None:
                print_json(entry)
            else:
                out.line(_line(entry))
        while True:
            time.sleep(FOLLOW_S)
            if client.call("GET", "/v1/ledger", said.LedgerInfo).index >= following:
                break
        found = _entries(client, following, MAX_ENTRIES).entries
        following = found[-1].index + 1


def _line(entry: said.EntryInfo) -> str:
    at = _clock("%H:%M:%S", entry)
    return f"{entry.index:>8}  {at}  {entry.kind:<{KIND_WIDTH}}  {entry.summary}"


def _clock(form: str, entry: said.EntryInfo) -> str:
    return "-" if entry.time is None else time.strftime(form, time.localtime(entry.time))


def _table(out: "Output", found: Newest, kind: str | None = None) -> None:
    from synapsed.cli.output import count, short_text  # noqa: PLC0415

    out.table(
        ("INDEX>", "TIME", "KIND", "WHAT"),
        (
            (
                str(each.index),
                _clock("%m-%d %H:%M:%S", each),
                each.kind,
                short_text(each.summary, SUMMARY_WIDTH),
            )
            for each in found.entries
        ),
        empty="no entries" if kind is None else f"no entries of kind {kind!r}",
    )
    if found.left_out:
        ticks = f"{count(found.left_out, 'tick')} left out (--ticks shows them)"
        others = f"{count(found.left_out, 'entry', 'entries')} of other kinds left out"
        out.line(f"{ticks if kind is None else others}, from index {found.looked_from} on")


def _entry(out: "Output", found: said.EntryDetail) -> None:
    import msgspec  # noqa: PLC0415

    from synapsed.cli.output import moment  # noqa: PLC0415

    entry = found.entry
    rows = [
        ("index", str(entry.index)),
        ("kind", entry.kind),
        ("what", entry.summary),
        ("author", entry.author or _AUTHORS.get(entry.kind, "the council, by rule")),
        ("time", "?" if entry.time is None else f"{moment(entry.time)}, by the ledger's ticks"),
        ("epoch", str(entry.epoch)),
        ("hash", entry.hash),
        ("previous", found.previous),
        ("size", f"{entry.size} B"),
    ]
    if found.certificate is not None:
        covers = f"{signed(found.certificate)}, at index {found.certificate.index}"
        rows.append(("certificate", covers))
    out.pairs(rows)
    out.line("")
    for line in msgspec.json.format(msgspec.json.encode(entry.body)).decode().splitlines():
        out.line(line)


_AUTHORS = {"genesis": "the founders", "votes": "its voters", "approval": "the key's holder"}
"""Of entries that no single daemon signed."""


@command(ledger, "export")
def export(
    cli: Cli,
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=path_of, help="To be made.")],
) -> None:
    """Write the whole ledger with its certificates into a file."""
    with cli.client(SLOW_S) as client:
        size = _write(client, "/v1/ledger/export", file)
    _written(cli, file, size)


@command(ledger, "verify")
def verify(
    cli: Cli,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="An exported ledger; else the daemon's own, now."),
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One entry's proof instead.")
    ] = None,
    genesis: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The genesis to believe; else this home's, if any."),
    ] = None,
) -> None:
    """Check an exported ledger, or one entry's proof, without a daemon."""
    from synapsed.cli import offline  # noqa: PLC0415

    if proof is not None and file is not None:
        raise typer.BadParameter("an export and a --proof are checked one at a time")
    known = offline.known_genesis(cli, genesis)
    if proof is not None:
        shown = offline.check_proof(known, proof)
        cli.done(shown, lambda out: offline.show_proven(out, shown))
        return
    if file is not None:
        with cli.out.progress(f"verify {file.name}") as watch:
            found, _ = offline.verify(known, offline.from_file(file, watch))
    else:
        with cli.client(SLOW_S) as client:
            found, _ = offline.verify(known, offline.from_daemon(client))
    cli.done(found, lambda out: offline.show_verified(out, found))


@command(ledger, "proof")
def proof(
    cli: Cli,
    index: Annotated[int, typer.Argument(metavar="INDEX", min=1, max=MAX_JOB)],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", parser=path_of, help="Else entry-INDEX.proof, here."),
    ] = None,
) -> None:
    """Write a file that proves one entry without the others."""
    target = file or Path(f"entry-{index}.proof")
    with cli.client() as client:
        size = _write(client, f"/v1/ledger/entries/{index}/proof", target)
    _written(cli, target, size)


def _write(client: "Client", path: str, target: Path) -> int:
    """What the daemon sends, into a new file; its size. Where it fails no file is left."""
    try:
        with target.open("xb") as sink:
            try:
                return client.download(path, sink)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise ConflictError(f"{target} is there already", remedy="name another file") from error
    except OSError as error:
        raise ConflictError(f"cannot write {target}: {error.strerror}") from error


def _written(cli: Cli, file: Path, size: int) -> None:
    def show(out: "Output") -> None:
        from synapsed.cli.output import size as text  # noqa: PLC0415

        out.line(f"wrote {text(size)} to {file}")

    cli.done({"path": str(file.absolute()), "size": size}, show)


@command(ledger, "note")
def note(
    cli: Cli, text: Annotated[str, typer.Argument(metavar="TEXT")], no_wait: NoWait = False
) -> None:
    """Put a signed line into the audit trail."""
    asked = said.NoteRequest(text=text)
    with cli.client() as client:
        path, what = "/v1/ledger/notes", "submit a note"
        found = cli.work(client, what, path, said.Submitted, asked, wait=not no_wait)
    cli.done(found, lambda out: out.pairs([("note", found.id), *submitted_rows(found)]))
