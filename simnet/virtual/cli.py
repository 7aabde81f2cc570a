"""`python -m simnet virtual FAMILY`: runs of a family in virtual time.

    python -m simnet virtual                             the families
    python -m simnet virtual twins --seeds 1-200         many runs
    python -m simnet virtual twins --seed 17 --trace -   one, as a story
    python -m simnet virtual twins --seed 17 --shrink    a shorter failure
    python -m simnet virtual all --times 20              every family, 20 times its usual seeds

Exit codes: 0 nothing found, 1 a violation, 2 wrong arguments, 3 no violation, but a fault that the
family promises never happened.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from simnet.virtual import families
from simnet.virtual.case import Case, Outcome
from simnet.virtual.families import Family, FamilyError
from simnet.virtual.plan import parse_numbers
from simnet.virtual.runs import run_all, shrunk, totals, town_of
from simnet.virtual.town import Town

EXIT_KEPT, EXIT_BROKEN, EXIT_USAGE, EXIT_ABSENT = 0, 1, 2, 3
ALL = "all"
EVERY_S = 2.0
"""Seconds between lines of progress."""
ENOUGH = 20
"""Runs in which each fault of `Family.must` must have happened."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.family is None:
        _list()
        return EXIT_KEPT
    if arguments.family == ALL:
        return _everything(arguments)
    try:
        family = families.load(arguments.family)
        seeds = parse_numbers(arguments.seeds or str(arguments.seed))
        without = tuple(parse_numbers(arguments.without))
    except (FamilyError, ValueError) as error:
        parser.error(str(error))
    cases = [
        Case(family, seed, arguments.members or 0, arguments.seconds or 0.0, without)
        for seed in seeds
    ]
    if len(cases) == 1 and (arguments.trace or arguments.picture or arguments.shrink):
        return _one(cases[0], arguments)
    return _many(family, cases, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simnet virtual", description="Run a family of worlds in virtual time."
    )
    add = parser.add_argument
    add("family", nargs="?", help=f"{', '.join(families.names())}, a file, or {ALL}")
    add("--seed", type=int, default=1, help="one run")
    add("--seeds", metavar="A-B", help="many runs")
    add("--times", type=int, default=1, help="of `all`: how often the usual number of seeds")
    add("--members", type=int, help="seats (default: as the family's sizes come in turn)")
    add("--seconds", type=float, help="of the safety phase, instead of the family's")
    add("--without", default="", metavar="N,N-N", help="episodes of the plan that do not happen")
    add("--first", action="store_true", help="stop at the first violation")
    add("--json", action="store_true", help="the result as JSON, on the last line")
    add("--trace", metavar="FILE", help="write the story of one run; - for standard output")
    add("--messages", action="store_true", help="with every message, in the story")
    add("--picture", metavar="FILE", help="draw one run")
    add("--shrink", action="store_true", help="look for a shorter run that fails alike")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return parser


def _list() -> None:
    for name in families.names():
        family = families.load(name)
        print(f"{name:<14} {family.title}")


# -- many runs ----------------------------------------------------------------------------------


def _many(family: Family, cases: list[Case], arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    outcomes = _ran(family, cases, arguments)
    absent = missing(family, outcomes)
    _report(family, outcomes, absent, time.monotonic() - began, arguments.json)
    if any(outcome.failed for outcome in outcomes):
        return EXIT_BROKEN
    return EXIT_ABSENT if absent else EXIT_KEPT


def _ran(family: Family, cases: list[Case], arguments: argparse.Namespace) -> list[Outcome]:
    """The runs, with progress; in order of their seeds."""
    began = said = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in run_all(cases, arguments.workers):
        outcomes.append(outcome)
        if outcome.failed:
            _say(f"{outcome.check}: {outcome.text}\n  {outcome.command}")
            if arguments.first:
                break
        if time.monotonic() - said > EVERY_S:
            said = time.monotonic()
            _say(f"{family.name}: {_progress(outcomes, len(cases), said - began)}")
    return sorted(outcomes, key=lambda each: each.seed)


def _everything(arguments: argparse.Namespace) -> int:
    """Every family with its usual number of seeds, or a multiple of it."""
    began = time.monotonic()
    found: list[Outcome] = []
    absent: list[str] = []
    for name in families.names():
        family = families.load(name)
        cases = [Case(family, seed) for seed in range(1, family.seeds * arguments.times + 1)]
        started = time.monotonic()
        outcomes = _ran(family, cases, arguments)
        lacks = missing(family, outcomes)
        found += outcomes
        absent += [f"{name}: {what}" for what in lacks]
        if not arguments.json:
            _report(family, outcomes, lacks, time.monotonic() - started, False)
    seconds = time.monotonic() - began
    broken = [outcome for outcome in found if outcome.failed]
    if arguments.json:
        print(json.dumps(totalled(found, absent, seconds)))
    else:
        print(f"all: {_progress(found, len(found), seconds)} in {seconds:.0f} s")
    if broken:
        return EXIT_BROKEN
    return EXIT_ABSENT if absent else EXIT_KEPT


def missing(family: Family, outcomes: Sequence[Outcome]) -> list[str]:
    """Faults that a family promises and that never happened, where there were enough runs."""
    if len(outcomes) < ENOUGH:
        return []
    total = totals(outcomes)
    return [name for name in family.must if not total[name]]


def _progress(outcomes: Sequence[Outcome], count: int, seconds: float) -> str:
    violations = sum(outcome.failed for outcome in outcomes)
    virtual = sum(outcome.at for outcome in outcomes)
    return (
        f"{len(outcomes)} of {count} runs, {violations} violations, "
        f"{virtual / max(seconds, 1e-9):,.0f} virtual s/s"
    )


def totalled(
    outcomes: Sequence[Outcome], absent: Sequence[str], seconds: float
) -> dict[str, object]:
    """What `--json` prints."""
    healed = [outcome.healed for outcome in outcomes if outcome.healed is not None]
    return {
        "seeds": len(outcomes),
        "violations": [
            {"family": o.family, "seed": o.seed, "check": o.check, "text": o.text}
            | {"command": o.command}
            for o in outcomes
            if o.failed
        ],
        "never_happened": list(absent),
        "virtual_s": round(sum(outcome.at for outcome in outcomes), 1),
        "seconds": round(seconds, 2),
        "events": sum(outcome.events for outcome in outcomes),
        "ratified": sum(outcome.ratified for outcome in outcomes),
        "statements": sum(outcome.statements for outcome in outcomes),
        "worst_timeouts_healed": round(max(healed, default=0.0), 2),
        "tally": dict(sorted(totals(outcomes).items())),
    }


def _report(
    family: Family, outcomes: list[Outcome], absent: list[str], seconds: float, as_json: bool
) -> None:
    found = totalled(outcomes, absent, seconds)
    if as_json:
        print(json.dumps({"family": family.name, **found}))
        return
    print(f"{family.name}: {family.title}")
    print(f"  {_progress(outcomes, len(outcomes), seconds)} in {seconds:.1f} s")
    print(f"  {found['events']:,} events, {found['ratified']:,} entries ratified, ", end="")
    print(f"{found['statements']:,} signatures of honest members checked")
    print(f"  after healing, {found['worst_timeouts_healed']} time-outs at most until progress")
    tally = totals(outcomes)
    print("  happened: " + ", ".join(f"{name} {tally[name]:,}" for name in sorted(tally)))
    for name in absent:
        print(f"  NEVER HAPPENED: {name}")
    for outcome in outcomes:
        if outcome.failed:
            print(f"  VIOLATION {outcome.check}: {outcome.text}\n    {outcome.command}")


# -- one run ------------------------------------------------------------------------------------


def _one(case: Case, arguments: argparse.Namespace) -> int:
    town = town_of(case, telling=True, recording=arguments.messages)
    outcome = town.run()
    if outcome.failed and arguments.shrink:
        case = shrunk(case, outcome, _say)
        town = town_of(case, telling=True, recording=arguments.messages)
        outcome = town.run()
    if arguments.picture:
        _draw(case, Path(arguments.picture))
    if arguments.trace == "-":
        print(town.world.text(), end="")
    elif arguments.trace:
        Path(arguments.trace).write_text(town.world.text())
    if arguments.json:
        print(msgspec.json.encode(outcome).decode())
    elif outcome.failed:
        print(f"VIOLATION {outcome.check}: {outcome.text}\n  {outcome.command}")
    else:
        _say(f"nothing found in {outcome.at:.1f} virtual seconds: {outcome.ratified} ratified")
    return EXIT_BROKEN if outcome.failed else EXIT_KEPT


def _draw(case: Case, path: Path) -> None:
    try:
        # The extra `demo` has matplotlib; a run without it is still a run.
        from simnet.virtual.chart import Recorder, draw  # noqa: PLC0415
    except ImportError as error:
        _say(f"no picture: {error}; pip install 'synapsed[demo]'")
        return
    town = Town(case, telling=True)
    recorder = Recorder(town)
    draw(recorder, town.run(), path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
