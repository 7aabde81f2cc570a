"""upgrade check: what can be said of a module by trying it. No daemon is needed.

It is tried in the jail, in a process of its own, on inputs that nobody knows beforehand.
"""

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
import typer

from protocols.errors import SynapseError
from synapsed.cli import candidates
from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.names import slot_named
from synapsed.cli.upgradeauthor import (
    Fuel,
    FuelPerRow,
    Pages,
    Weaker,
    built_folder,
    in_jail,
)
from synapsed.control.problems import EXIT_FAILED

if TYPE_CHECKING:
    from protocols.slots.abi import Limits, Slot
    from synapsed.authoring.question import Checked, Question
    from synapsed.authoring.question import Fuel as Spent
    from synapsed.cli.output import Output

Given = tuple[int | None, int | None, int | None]
"""Fuel of a call, fuel of each row, pages of memory; None for the slot's own."""
SHOWN = 3
"""Findings in one error: the first tells most, and the rest often follows from it."""


class UnsoundError(SynapseError):
    """A module that members of the council would find unsound."""

    code: ClassVar[str] = "unsound"


def register(group: typer.Typer) -> None:
    """Add this command to `upgrade`."""
    command(group, "check")(check)


def check(
    cli: Cli,
    *,
    module: Annotated[
        Path, typer.Argument(metavar="MODULE", parser=path_of, help="A built folder, or a .wasm.")
    ],
    slot: Annotated[
        str | None,
        typer.Option(metavar="SLOT", help="Else the folder's.", autocompletion=candidates.slots),
    ] = None,
    incumbent: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE|native",
            help="What it replaces; else what a running daemon has in force, or native.",
        ),
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="It is meant to answer otherwise.")
    ] = False,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE", parser=path_of, help="Build this, and compare the module's bytes."
        ),
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Try what this home's daemon has recorded, too.")
    ] = False,
    seed: Annotated[str, typer.Option(help="Of an earlier check, to repeat it.")] = "",
    rows: Annotated[int | None, typer.Option(min=1, help="To generate.")] = None,
    fuel: Fuel = None,
    fuel_per_row: FuelPerRow = None,
    memory_pages: Pages = None,
    weaker: Weaker = False,
) -> None:
    """Try a module beside what it replaces, on hidden inputs. Fails where something is wrong."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415
    from synapsed.authoring.question import ROWS, Question  # noqa: PLC0415

    data, named = _module(module)
    if (slot or named) is None:
        raise typer.BadParameter("a .wasm does not say what it is for: give --slot")
    chosen = SLOTS[slot_named(slot or named or "")]
    if rebuild is not None:
        _rebuilt(cli, rebuild, data, chosen.name, weaker=weaker)
    question = Question(
        slot=chosen.name,
        module=data,
        limits=_limits(chosen, (fuel, fuel_per_row, memory_pages)),
        incumbent=_incumbent(cli, incumbent, chosen.name),
        changed=changed,
        seed=seed,
        rows=rows or ROWS,
        recorded=str(cli.places().recorded) if recorded else "",
    )
    with cli.out.progress(f"check {module.name}"):
        found = _check(cli, question, weaker=weaker)
    judged = {"passed": found.passed, "sound": found.sound, **msgspec.to_builtins(found)}
    cli.done(judged, lambda out: _checked(out, found, rebuilt=rebuild is not None))
    if not found.passed:
        raise typer.Exit(EXIT_FAILED)


def must_be_sound(cli: Cli, folder: Path, *, changed: bool, limits: Given, weaker: bool) -> None:
    """Try what is about to be proposed as members of the council will. UnsoundError."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415
    from synapsed.authoring.question import Question  # noqa: PLC0415

    built, module, _ = built_folder(folder)
    slot = SLOTS[slot_named(built.slot)]
    question = Question(
        slot=slot.name,
        module=module,
        limits=_limits(slot, limits),
        incumbent=_in_force(cli, slot.name),
        changed=changed,
        timing=False,
        hasty=True,
    )
    with cli.out.progress(f"check {folder.name}"):
        found = _check(cli, question, weaker=weaker)
    wrong = [f"{each.code}: {each.text}" for each in found.findings if each.decides]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UnsoundError(
            "; ".join(wrong[:SHOWN]) + more,
            remedy=f"`synapsectl upgrade check {folder}` tells more; members of the council will "
            "find the same, and --unchecked proposes it all the same",
        )


def _limits(slot: "Slot", given: Given) -> "Limits":
    """Those of a slot, where its author gives no others."""
    from protocols.slots.abi import Limits  # noqa: PLC0415

    fuel, fuel_per_row, memory_pages = given
    own = slot.limits
    return Limits(
        fuel or own.fuel, fuel_per_row or own.fuel_per_row, memory_pages or own.memory_pages
    )


def _check(cli: Cli, question: "Question", *, weaker: bool) -> "Checked":
    from synapsed.authoring.verdict import check_apart  # noqa: PLC0415 - trio, the jail

    return cli.attend(partial(check_apart, question, allow_weaker=weaker))


def _module(path: Path) -> tuple[bytes, str | None]:
    """A module's bytes, and its slot where that is said."""
    from synapsed.authoring.build import MAX_MODULE, read  # noqa: PLC0415

    if path.is_dir():
        built, module, _ = built_folder(path)
        return module, built.slot
    return read(path, MAX_MODULE), None


def _incumbent(cli: Cli, given: str | None, slot: str) -> bytes:
    """The bytes of what the module would replace; b"" for the native reference."""
    if given == "native":
        return b""
    if given is not None:
        return _module(path_of(given))[0]
    return _in_force(cli, slot)


def _in_force(cli: Cli, slot: str) -> bytes:
    """What a daemon of this home has in force; native where none answers or follows a ledger."""
    from synapsed.control.client import DaemonError, NoDaemonError  # noqa: PLC0415

    sink = io.BytesIO()
    try:
        with cli.client() as client:
            client.download(f"/v1/upgrades/slots/{slot}/module", sink)
    except NoDaemonError:
        return b""
    except DaemonError as error:
        if error.problem.error not in ("unknown", "no-genesis"):
            raise
        return b""
    return sink.getvalue()


def _rebuilt(cli: Cli, source: Path, module: bytes, slot: str, *, weaker: bool) -> None:
    """Raise where a source makes other bytes than the module's."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415
    from synapsed.authoring import build as builder  # noqa: PLC0415

    with cli.out.progress(f"rebuild {source.name}"):
        in_jail(
            cli,
            lambda jail: builder.rebuild(module, source, SLOTS[slot], jail, allow_weaker=weaker),
            weaker=weaker,
        )


def _checked(out: "Output", found: "Checked", *, rebuilt: bool) -> None:
    which = found.incumbent_hash[:16] or "the native reference"
    if rebuilt:
        out.verdict("pass", "its source makes exactly these bytes")
    for finding in found.findings:
        out.verdict("fail" if finding.decides else "warn", f"{finding.code}: {finding.text}")
    if found.passed:
        out.verdict("pass", "nothing is wrong with it")
    if not found.calls:
        out.pairs([("slot", found.slot), ("module", found.module_hash), ("seed", found.seed)])
        return
    if found.disagreements and not found.changed:
        out.line("     (--changed, where it is meant to answer otherwise)")
    otherwise = f"{found.disagreements} answered otherwise, {found.disagreement_ppm} in a million"
    rows = [
        ("slot", found.slot),
        ("module", found.module_hash),
        ("beside", which),
        ("rows", f"{found.rows}, in {found.batches} batches; {otherwise}"),
        ("calls", f"{found.calls}, {found.recorded} of them recorded batches"),
        ("limits", f"at most {found.fuel_most_mille / 10:g} % of its fuel in one call"),
    ]
    rows += [("fuel", _fuel(each)) for each in found.fuel]
    if found.passed and found.changed:
        rows.append(("declare", f"`synapsectl upgrade propose --changed {found.disagreement_ppm}`"))
    timing = found.timing
    if timing is not None:
        most = f"{timing.low:.2f} to {timing.high:.2f} times the incumbent's"
        rows.append(("time", f"{timing.microseconds:.0f} µs for {timing.rows} rows, {most}"))
    rows += [("seed", f"{found.seed} (--seed repeats it)"), ("took", f"{found.seconds:.1f} s")]
    out.pairs(rows)


def _fuel(fuel: "Spent") -> str:
    times = f", {fuel.ratio:.3f} times the incumbent's" if fuel.incumbent else ""
    return f"{fuel.module} in {fuel.calls} calls of {fuel.rows} rows{times}"
