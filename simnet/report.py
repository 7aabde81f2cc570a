"""Telling people how a run went."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simnet.run import Line, Result


def say(line: str) -> None:
    """One line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def show(result: Result) -> None:
    """The table of a run, and, where it failed, the line that reproduces it."""
    console = Console(soft_wrap=False, highlight=False)
    table = Table(title=f"{result.title} (seed {result.seed})", title_justify="left")
    for name in ("", "what", "seconds", "seen"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for line in result.steps:
        _add(table, "step", line)
    table.add_section()
    for line in result.promises:
        _add(table, "promise", line)
    console.print(table)
    kept = sum(line.passed for line in result.promises)
    verdict = "passed" if result.passed else "FAILED"
    console.print(
        f"{verdict} in {result.seconds:.0f} s: {kept} of {len(result.promises)} promises kept"
    )
    if result.picture:
        console.print(f"picture: {result.picture}", soft_wrap=True)
    console.print(f"logs and timeline: {result.folder}", soft_wrap=True)
    if not result.passed:
        console.print(f"reproduce: {result.reproduce}", soft_wrap=True)


def _add(table: Table, kind: str, line: Line) -> None:
    word = Text(kind) if line.passed else Text(f"{kind} FAILED", style="bold red")
    table.add_row(word, Text(line.what), f"{line.seconds:.1f}", Text(line.text))


def write(result: Result, folder: Path) -> None:
    """The result as JSON, beside its logs."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    (folder / "result.json").write_bytes(text)
