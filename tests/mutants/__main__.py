"""`python -m tests.mutants`: every deliberate bug, and what caught it.

    python -m tests.mutants                 all of them, two at a time, and a table
    python -m tests.mutants --only NAME     one (may be given again)
    python -m tests.mutants --seeds 100     a quick look: fewer seeds of each family
    python -m tests.mutants --resume        keep results whose source and mutant are the same
    python -m tests.mutants --json          {"caught", "total", "survivors", ...} on the last line

Exit codes: 0 all caught, 1 some survive, 2 usage.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.mutants.catalogue import MUTANTS
from tests.mutants.catchers import BUDGET, Family
from tests.mutants.mutant import Mutant
from tests.mutants.run import PROCESSES, Result, open_runner

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "bench-out" / "mutants"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Catch bugs.")
    parser.add_argument("--only", action="append", metavar="NAME", help="one mutant")
    parser.add_argument("--resume", action="store_true", help="keep results in bench-out/mutants")
    parser.add_argument("--json", action="store_true", help="a summary on the last line")
    parser.add_argument("--seeds", type=int, default=BUDGET, help="of each family, at most")
    parser.add_argument("--workers", type=int, default=PROCESSES, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="name them and what they drop")
    arguments = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if not arguments.only or m.name in arguments.only]
    unknown = set(arguments.only or ()) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"there is no mutant {min(unknown)!r}; --list names them")
    if arguments.seeds < BUDGET:
        chosen = [within(mutant, arguments.seeds) for mutant in chosen]
    if arguments.list:
        print(*(f"{mutant.name}: {mutant.drops}" for mutant in chosen), sep="\n")
        return 0
    # As Ctrl-C: what was started is ended, and the copies are removed.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    results, found = measured(chosen, say, resume=arguments.resume, workers=arguments.workers)
    print(table(chosen, results))
    if arguments.json:
        print(json.dumps(found))
    return 0 if not found["survivors"] else 1


def measured(
    mutants: Sequence[Mutant], tell: Any, *, resume: bool, workers: int = PROCESSES
) -> tuple[list[Result], dict[str, Any]]:
    """Run them; each result, and the summary."""
    began = time.monotonic()
    with open_runner(ROOT, KEPT, tell, workers) as runner:
        results = runner.run(mutants, resume=resume)
    survivors = [result.name for result in results if not result.caught]
    return results, {
        "caught": len(results) - len(survivors),
        "total": len(results),
        "survivors": survivors,
        "most_seeds": max((result.seed for result in results), default=0),
        "seconds": round(time.monotonic() - began, 1),
    }


def within(mutant: Mutant, seeds: int) -> Mutant:
    """The mutant with a smaller budget: for a quick look."""
    catchers = tuple(
        msgspec.structs.replace(catcher, seeds=min(seeds, catcher.seeds))
        if isinstance(catcher, Family)
        else catcher
        for catcher in mutant.caught_by
    )
    return msgspec.structs.replace(mutant, caught_by=catchers)


def table(mutants: Sequence[Mutant], results: Sequence[Result]) -> str:
    """Name, what it drops, what caught it, the seed and the seconds, in columns."""
    rows = [("mutant", "caught by", "seed", "seconds", "what it drops")]
    for mutant, result in zip(mutants, results, strict=True):
        by = result.by if result.caught else f"SURVIVES: {'; '.join(result.notes)}"
        seed = str(result.seed) if result.seed else ""
        rows.append((result.name, by, seed, f"{result.seconds:.0f}", mutant.drops))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )


def say(text: str) -> None:
    """One line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
