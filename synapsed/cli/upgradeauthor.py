"""upgrade slots|new|build|check: for authors of modules, and who judges them. No daemon is needed.

What compiles and runs foreign code does so in the jail, in processes of their own.
"""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

import msgspec
import typer

from protocols import changes
from protocols.errors import NotHeldError
from synapsed.cli import candidates
from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.names import slot_named
from synapsed.control import upgrademodels as said
from synapsed.control.problems import ConflictError

if TYPE_CHECKING:
    from synapsed.authoring.build import Built
    from synapsed.cli.output import Output
    from synapsed.jail.jail import Jail

T = TypeVar("T")

LANGUAGES = ("rust", "assemblyscript", "wat", "c", "zig")

SlotOf = Annotated[
    str,
    typer.Option("--slot", metavar="SLOT", help="What it is for.", autocompletion=candidates.slots),
]
Weaker = Annotated[
    bool,
    typer.Option("--allow-weaker-jail", help="Although this kernel lacks a layer of the jail."),
]

Fuel = Annotated[
    int | None, typer.Option(min=1, max=changes.MAX_FUEL, help="Of a call; else the slot's.")
]
FuelPerRow = Annotated[
    int | None,
    typer.Option(min=1, max=changes.MAX_FUEL_PER_ROW, help="And of each row; else the slot's."),
]
Pages = Annotated[
    int | None, typer.Option(min=1, max=changes.MAX_PAGES, help="Of 64 KiB; else the slot's.")
]


class NoSourceError(NotHeldError):
    """A source that is not here."""

    code: ClassVar[str] = "no-source"


class BuiltInfo(msgspec.Struct):
    """What `upgrade build --json` prints."""

    path: str
    slot: str
    abi: int
    language: str
    tools: list[str]
    module_hash: str
    source_hash: str
    size: int
    seconds: float
    log: str


class Slots(msgspec.Struct):
    """What `upgrade slots --json` prints."""

    slots: list[said.SlotInfo]


def register(group: typer.Typer) -> None:
    """Add these commands to `upgrade`."""
    command(group, "slots")(slots)
    command(group, "new")(new)
    command(group, "build")(build)


# -- slots ------------------------------------------------------------------------------------


def slots(
    cli: Cli,
    slot: Annotated[
        str | None,
        typer.Argument(metavar="[SLOT]", help="Only this.", autocompletion=candidates.slots),
    ] = None,
) -> None:
    """The components that an upgrade may replace, and how a module is asked."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415 - their definitions
    from synapsed.control.slotview import slot_info  # noqa: PLC0415

    if slot is not None:
        one = slot_info(SLOTS[slot_named(slot)])
        cli.done(one, lambda out: _slot(out, one))
        return
    found = Slots([slot_info(each) for each in SLOTS.values()])
    cli.done(found, lambda out: _slots(out, found.slots))


def _slots(out: "Output", found: list[said.SlotInfo]) -> None:
    out.table(
        ("SLOT", "ABI>", "RISK", "GOAL", "WHAT"),
        (
            (each.name, str(each.abi), each.risk, _goal(each), each.text.partition(".")[0])
            for each in found
        ),
    )
    out.line("everything else is protected: it comes with releases, and no vote replaces it")


def _goal(slot: said.SlotInfo) -> str:
    return f"{'more' if slot.higher_is_better else 'less'} {slot.goal}"


def _slot(out: "Output", slot: said.SlotInfo) -> None:
    limits = slot.limits
    out.pairs(
        [
            ("slot", f"{slot.name}, ABI {slot.abi}, risk {slot.risk}"),
            *(("what", line) for line in slot.text.splitlines()),
            ("goal", f"{slot.goal} in {slot.goal_unit}: {slot.goal_text}"),
            ("fuel", f"{limits.fuel} a call, and {limits.fuel_per_row} a row"),
            ("memory", f"{limits.memory_pages * 64} KiB"),
            *(("keeps", line) for line in slot.invariants),
        ]
    )
    _columns(out, "context", slot.context)
    for table in slot.tables:
        _columns(out, f"{table.name}, up to {table.most_rows} rows: {table.text}", table.columns)
    _columns(out, f"the answer, one row for each of {slot.answers}", slot.outputs)


def _columns(out: "Output", what: str, found: list[said.ColumnInfo]) -> None:
    out.line("")
    out.line(what, "bold")
    out.table(
        ("NAME", "UNIT", "FROM>", "TO>", "WHAT"),
        (
            (each.name, each.unit, _bound(each.least), _bound(each.most), each.text)
            for each in found
        ),
    )


def _bound(value: int) -> str:
    """Powers of two as such: they are limits of integers, and nobody reads nineteen digits."""
    for sign, size in (("-", -value), ("", value), ("", value + 1)):
        if size >= 1 << 20 and size & (size - 1) == 0:
            less = " - 1" if value > 0 and size == value + 1 else ""
            return f"{sign}2^{size.bit_length() - 1}{less}"
    return str(value)


# -- building ---------------------------------------------------------------------------------


def new(
    cli: Cli,
    slot: Annotated[
        str, typer.Argument(metavar="SLOT", help="`slots`.", autocompletion=candidates.slots)
    ],
    language: Annotated[str, typer.Option(help=", ".join(LANGUAGES))] = "rust",
    file: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", parser=path_of, help="Else stdout."),
    ] = None,
) -> None:
    """The beginning of a source for a slot, in a language: how a batch is read and answered."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415
    from synapsed.authoring.skeleton import skeleton  # noqa: PLC0415

    _known(language)
    text = skeleton(SLOTS[slot_named(slot)], language)
    if file is not None:
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError as error:
            raise ConflictError(f"{file} is there already", remedy="name another file") from error
        except OSError as error:
            raise ConflictError(f"cannot write {file}: {error.strerror}") from error
    if cli.json:
        cli.done({"slot": slot, "language": language, "source": text}, lambda _out: None)
    elif file is None:
        typer.echo(text, nl=False)
    else:
        cli.out.line(f"{file}: `synapsectl upgrade build {file} --slot {slot}` builds it")


def _known(language: str) -> None:
    if language not in LANGUAGES:
        raise typer.BadParameter(
            f"{language[:40]!r} is none of {', '.join(LANGUAGES)}", param_hint="--language"
        )


def build(
    cli: Cli,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", parser=path_of, help=".rs, .ts, .wat, .c or .zig")
    ],
    slot: SlotOf,
    out_folder: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", parser=path_of, help="Else NAME.upgrade."),
    ] = None,
    weaker: Weaker = False,
) -> None:
    """Compile a source to a module, without network, to the same bytes on every machine."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415
    from synapsed.authoring import build as builder  # noqa: PLC0415 - trio, the jail

    chosen = SLOTS[slot_named(slot)]
    folder = out_folder or Path(f"{source.stem}.upgrade")
    _check_free(folder)
    with cli.out.progress(f"build {source.name}"):
        built, module, text = in_jail(
            cli,
            lambda jail: builder.build(source, chosen, jail, allow_weaker=weaker),
            weaker=weaker,
        )
    try:
        builder.write(folder, built, module, text)
    except OSError as error:
        raise ConflictError(f"cannot write {folder}: {error.strerror}") from error
    found = _info(folder, built)
    cli.done(found, lambda out: _built(out, found))


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds something else than a build."""
    from synapsed.authoring.build import DESCRIPTION  # noqa: PLC0415

    try:
        if not folder.exists() or (folder / DESCRIPTION).is_file():
            return
        if folder.is_dir() and not any(folder.iterdir()):
            return
        why = "is a folder with other things in it" if folder.is_dir() else "is a file"
    except OSError as error:
        why = error.strerror or "cannot be looked into"
    raise ConflictError(f"{folder} {why}", remedy="name a new folder: --out DIR")


def _info(folder: Path, built: "Built") -> BuiltInfo:
    return BuiltInfo(
        path=str(folder.absolute()),
        slot=built.slot,
        abi=built.abi,
        language=built.language,
        tools=list(built.tools),
        module_hash=built.module_hash,
        source_hash=built.source_hash,
        size=built.size,
        seconds=built.seconds,
        log=built.log,
    )


def _built(out: "Output", found: BuiltInfo) -> None:
    out.pairs(
        [
            ("folder", found.path),
            ("slot", f"{found.slot}, ABI {found.abi}"),
            ("built with", f"{', '.join(found.tools)}, in {found.seconds:.1f} s"),
            ("module", f"{found.module_hash}, {found.size} B"),
            ("source", found.source_hash),
        ]
    )
    for line in found.log.splitlines():
        out.line(line)
    out.line(f"next: `synapsectl upgrade check {found.path}`, then `upgrade propose`")


def in_jail(cli: Cli, work: "Callable[[Jail], Awaitable[T]]", *, weaker: bool) -> T:
    """Run something that compiles or runs foreign code, in a jail of its own."""
    from synapsed.jail.jail import Jail  # noqa: PLC0415

    async def run() -> T:
        with tempfile.TemporaryDirectory(prefix="synapsectl-jail-") as folder:
            jail = Jail(Path(folder), _unheard, allow_weaker=weaker)
            try:
                return await work(jail)
            finally:
                jail.close()

    return cli.attend(run)


def _unheard(_kind: str, **_fields: object) -> None:
    """There is no daemon that could tell anybody."""


def built_folder(folder: Path) -> "tuple[Built, bytes, bytes]":
    """What `upgrade build` left; typed errors where it did not, or it was changed since."""
    from synapsed.authoring.build import DESCRIPTION, NotBuiltError, load  # noqa: PLC0415

    if not (folder / DESCRIPTION).is_file():
        raise NotBuiltError(
            f"{folder} is no folder that `upgrade build` made",
            remedy="synapsectl upgrade build SOURCE --slot SLOT makes one",
        )
    return load(folder)
