"""What people see: tables that fit 80 columns, sizes they can read, bars on terminals.

Whatever a peer could have written is cleaned of control characters, and is never markup.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from synapsed.cli.names import is_kept

if TYPE_CHECKING:
    from synapsed.control.client import Watch
    from synapsed.control.models import JobInfo, ModelInfo, Progress

SHORT_CID = 16
"""Characters of a CID in tables: `bafyrei` is common to all, nine more tell 2**45 apart."""

SHORT_PEER = 18
"""Characters of a peer id in tables: `12D3KooW` is common to all, ten more tell 2**58 apart."""

UNFOLDED = 100_000
"""Columns of a pipe: a row is one line there, however long, so that grep finds it whole."""

_VERDICTS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


class Output:
    """Prints results on stdout, and progress on stderr."""

    def __init__(self, *, color: bool) -> None:
        system: str | None = "auto" if color else None
        self._console = Console(
            color_system=system,  # type: ignore[arg-type]  # a Literal of rich's own
            no_color=not color,
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=True,
            width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNFOLDED,
        )
        self._color = color

    def line(self, text: str, style: str | None = None) -> None:
        """One line, as long as it is."""
        self._console.print(Text(clean(text)), style=style)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and values, aligned; long values are kept whole."""
        listed = list(rows)
        width = max((len(name) for name, _ in listed), default=0)
        for name, value in listed:
            self._console.print(
                Text(f"{clean(name):<{width}}  ", "bold"), Text(clean(value)), sep=""
            )

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str = "none"
    ) -> None:
        """A table; a column whose name ends in `>` is set right. `empty` where there is no row."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            justify = "right" if column.endswith(">") else "left"
            table.add_column(column.rstrip(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        if table.row_count:
            self._console.print(table, soft_wrap=False)
        else:
            self.line(empty)

    def fresh(self) -> None:
        """Begin at the top of an empty screen, where there is one: what was there is older."""
        if self._console.is_terminal:
            self._console.clear()

    def models(
        self, found: Iterable["ModelInfo"], announced: Mapping[str, int] | None = None
    ) -> None:
        """Models, ours first; with `announced` (holders by CID) also those not known here."""
        columns = ["MODEL", "NAME", "SIZE>", "HELD>", "EXPERTS>", "PINNED"]
        rows = {
            each.cid: [
                short_cid(each.cid),
                each.name,
                size(each.size),
                share(each.held, each.size) if each.held or not each.size else "-",
                str(each.experts),
                pinned(each),
            ]
            for each in sorted(found, key=lambda each: (not is_kept(each), each.name, each.cid))
        }
        if announced is None:
            empty = "no models; `synapsectl model ls --all` lists those that others announce"
            self.table(columns, rows.values(), empty=empty)
            return
        for cid in sorted(announced.keys() - rows.keys()):
            rows[cid] = [short_cid(cid), "?", "?", "-", "?", "no"]
        columns.insert(-1, "HOLDERS>")
        for cid, row in rows.items():
            row.insert(-1, str(announced.get(cid, 0)))
        self.table(columns, rows.values(), empty="no models, here or announced")

    def verdict(self, verdict: str, text: str) -> None:
        """One line that begins with a coloured pass, warn or fail."""
        self._console.print(Text(f"{verdict:4}", _VERDICTS.get(verdict, "")), Text(clean(text)))

    @contextmanager
    def progress(self, what: str) -> Iterator["Watch"]:
        """A bar on stderr while the block runs, if that is a terminal; else nothing is shown."""
        if not sys.stderr.isatty():
            yield _ignore
            return
        from rich import progress as bars  # noqa: PLC0415 - only for terminals

        console = Console(stderr=True, no_color=not self._color, markup=False)
        # Only a pull handles each byte once: others read them and write or compare them.
        counted = (bars.DownloadColumn(), bars.TransferSpeedColumn())
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            *(counted if what.startswith("pull ") else (bars.TaskProgressColumn(),)),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[tiles]}", markup=False),
        )
        with bars.Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(clean(what), total=None, tiles="")

            def watch(now: "Progress") -> None:
                tiles = f"{now.tiles_done}/{now.tiles_total} tiles" if now.tiles_total else ""
                shown.update(
                    task,
                    description=clean(now.stage),
                    completed=now.done,
                    total=now.total or None,
                    tiles=tiles,
                )

            yield watch


def _ignore(_progress: "Progress") -> None:
    """Nobody watches."""


def pinned(model: "ModelInfo") -> str:
    """Why a model is pinned, or that it is not."""
    return ", ".join(model.reasons) or ("yes" if model.pinned else "no")


def job_subject(job: "JobInfo") -> str:
    """What a job works on: a model, or a path."""
    return short_cid(job.subject) if job.kind in ("pull", "export") else job.subject


def count(number: int, what: str, several: str = "") -> str:
    """So many of something; `several` where that is not `what` with an s."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def clean(text: str) -> str:
    """`text` without characters that would move the cursor or change the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def clean_text(text: str) -> str:
    """The same, for text of several lines: line ends and tabs stay."""
    return "".join(char if char in "\n\t" else clean(char) for char in text)


def short_cid(cid: str) -> str:
    """A CID's beginning, which every command takes as long as it names one thing."""
    return cid[:SHORT_CID]


def short_peer(peer_id: str, length: int = SHORT_PEER) -> str:
    """A peer id's beginning, likewise."""
    return peer_id[:length]


def short_text(text: str, length: int) -> str:
    """The beginning of somebody's words, and a sign that there are more."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def size(count: float) -> str:
    """Bytes for people: `90.9 MB`, in decimal units like the labels of disks."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def limit(text: str, value: float) -> str:
    """A limit as the config writes it (`50 GiB`), or for people where that has no unit."""
    return text if " " in text else size(value)


def rate(per_second: float) -> str:
    """Bytes a second for people; 0 is no limit."""
    return f"{size(per_second)}/s" if per_second else "unlimited"


def duration(seconds: float) -> str:
    """A length of time for people, in its two largest units."""
    whole = max(0, round(seconds))
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def moment(at: float) -> str:
    """A point in time, in the reader's own zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def since(moment: float) -> str:
    """How long ago, for people."""
    return duration(time.time() - moment)


def share(part: float, whole: float) -> str:
    """A percentage that says 100 only when all is there."""
    if not whole:
        return "100 %"
    return "100 %" if part >= whole else f"{min(99.9, 100 * part / whole):.1f} %"
