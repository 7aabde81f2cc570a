"""`python -m tests.bench`: what was promised in numbers, measured here and now.

    python -m tests.bench                 all of them, one table
    python -m tests.bench --resume        only those without a result in bench-out/
    python -m tests.bench NAME --json     one: its fields as a JSON object on the last line

A bench is a module here, with _ for its name's -, that has REACH, field -> what it must reach
(`>= 0.8`, or `0`), and `measure(say) -> fields`. Each runs in a process of its own, so that none
inherits another's memory, and its result is kept in bench-out/NAME.json. Exit codes: 0 all
reached, 1 not, 2 usage.
"""

import argparse
import importlib
import json
import operator
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAMES = (
    "transfer",
    "gossip",
    "tensors",
    "footprint",
    "hostile",
    "crash",
    "follow",
    "sim",
    "wan",
    "ratify",
    "failover",
    "upgrade-e2e",
    "rollback",
    "mutants",
    "jail",
    "slot-call",
    "check",
    "codec",
    "converge",
    "regions",
    "default-plan",
    "byzantine",
    "primary",
    "busy",
    "learn-wan",
    "pol",
    "peer",
)

OUT = Path("bench-out")

LONGEST_S = 3600.0
"""For one bench; the longest takes some minutes on two idle cores."""

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="only the fields, on the last line")
    parser.add_argument("--resume", action="store_true", help="keep the results in bench-out/")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no bench {unknown[0]!r}; there are {', '.join(NAMES)}")
    OUT.mkdir(exist_ok=True)
    if len(arguments.names) == 1:
        return run_one(arguments.names[0], quiet=arguments.json)
    return run_all(arguments.names or NAMES, resume=arguments.resume)


def run_one(name: str, *, quiet: bool) -> int:
    """Measure `name` in this process."""
    bench = importlib.import_module(f"tests.bench.{name.replace('-', '_')}")
    began = time.monotonic()
    fields = bench.measure(lambda text: say(name, text))
    result = {
        "name": name,
        "fields": fields,
        "reach": bench.REACH,
        "seconds": round(time.monotonic() - began, 1),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if not quiet:
        print(table([result]))
    print(json.dumps(fields))
    return 0 if all(reached(result).values()) else 1


def run_all(names: tuple[str, ...] | list[str], *, resume: bool) -> int:
    """Measure `names` one after another, each in a process of its own."""
    results = []
    for name in names:
        path = OUT / f"{name}.json"
        if resume and path.exists():
            say(name, "kept")
        else:
            path.unlink(missing_ok=True)
            say(name, "begins")
            command = [sys.executable, "-m", "tests.bench", name, "--json"]
            try:
                subprocess.run(command, stdout=subprocess.DEVNULL, timeout=LONGEST_S, check=False)
            except subprocess.TimeoutExpired:
                say(name, f"took more than {LONGEST_S:.0f} s and was ended")
        results.append(json.loads(path.read_text()) if path.exists() else {"name": name})
    print(table(results))
    return 0 if all("fields" in r and all(reached(r).values()) for r in results) else 1


def reached(result: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each field that must reach something does; one that is missing does not."""
    found = {}
    for field, bound in result["reach"].items():
        sign, number = bound.split() if " " in bound else ("==", bound)
        value = result["fields"].get(field)
        found[field] = value is not None and COMPARE[sign](value, float(number))
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Name, field, value, reach and whether it was reached, in columns."""
    rows = [("name", "field", "value", "reach", "ok")]
    for result in results:
        name = result["name"]
        if "fields" not in result:
            rows.append((name, "(it failed)", "", "", "NO"))
            continue
        ok = reached(result)
        for field in [*result["reach"], *(f for f in result["fields"] if f not in ok)]:
            value = result["fields"].get(field)
            shown = "missing" if value is None else f"{value:,.4g}" if value < 1e4 else f"{value:,}"
            verdict = {True: "yes", False: "NO", None: ""}[ok.get(field)]
            rows.append((name, field, shown, result["reach"].get(field, ""), verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def say(name: str, text: str) -> None:
    """One line of progress, on standard error."""
    print(f"{name}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
