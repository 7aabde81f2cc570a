"""`jail`: hostile modules of every kind, 10,000 mutants of valid ones, and the walls themselves.

Nodes of their own take the modules (`jail_node`), as a daemon would: inspected, compiled in a
child, run in the worker on a batch between canaries. `escapes` counts whatever was changed outside
an answer, whatever ran that must not, and every system call that got through when the walls were
tried natively from the inside (`tests.jail_probe`). `slow` are modules about which nothing can be
said, because other programs had the processor while they were compiled.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import trio

from synapsed.jail.layers import detect
from tests import jail_probe
from tests.test_jail_walls import probe, unharmed

REACH = {
    "kinds": ">= 40",
    "mutants": ">= 10000",
    "escapes": "0",
    "deaths": "0",
    "surprises": "0",
    "worst_s": "<= 6",
    "worst_mb": "<= 1100",
}

MUTANTS = 10_000
NODES = 2
"""At once: as many as this was measured with cores."""
LONGEST_S = 1800.0

Say = Callable[[str], None]
Rows = list[dict[str, Any]]


def measure(say: Say) -> dict[str, float]:
    """Try everything."""
    tried, got = trio.run(walls)
    say(f"{tried} attempts behind the walls, {len(got)} got through: {', '.join(got) or 'none'}")
    kinds, kinds_mb, deaths = node("kinds")
    for row in kinds:
        if row["seconds"] > 1 or row["ended"] not in row["expected"] or row["escaped"]:
            say(f"{row['name']}: {row['ended']} after {row['seconds']} s")
    say(f"{len(kinds)} kinds: {ends(kinds)}")
    with ThreadPoolExecutor(NODES) as pool:
        parts = list(pool.map(lambda at: node("mutants", str(at), MUTANTS // NODES), range(NODES)))
    mutants = [row for rows, _, _ in parts for row in rows]
    say(f"{len(mutants)} mutants: {ends(mutants)}")
    every = kinds + mutants
    return {
        "kinds": len(kinds),
        "mutants": len(mutants),
        "escapes": len(got) + sum(row["escaped"] for row in every),
        "deaths": deaths + sum(each for _, _, each in parts),
        "surprises": sum(row["ended"] not in (*row["expected"], "slow") for row in kinds),
        "worst_s": max(row["seconds"] for row in every),
        "worst_mb": max(kinds_mb, *(mb for _, mb, _ in parts)),
        "slow": sum(row["ended"] == "slow" for row in every),
        "worker_deaths": sum(row["ended"] == "died" for row in every),
        "probes": tried,
    }


async def walls() -> tuple[int, list[str]]:
    """How many attempts were made from the inside, and those that got through."""
    with tempfile.TemporaryDirectory(prefix="jail-") as folder:
        found = await probe(Path(folder), detect().text())
        got = [name for name, outcome in found.items() if outcome == jail_probe.GOT]
        return len(found), got if unharmed(Path(folder)) else [*got, "its canary was changed"]


def node(what: str, seed: str = "", count: int = 0) -> tuple[Rows, int, int]:
    """Attempts of one node, its children's memory in MB, and 1 if it died."""
    with tempfile.TemporaryDirectory(prefix="jail-") as folder:
        command = [sys.executable, "-m", "tests.bench.jail_node", folder, what]
        command += [seed, str(count)] if count else []
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LONGEST_S, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    mb = rows.pop()["mb"] if rows and "name" not in rows[-1] else 0
    return rows, mb, int(done.returncode != 0)


def ends(rows: Rows) -> str:
    """How often each end came."""
    counted = Counter(row["ended"] for row in rows)
    return ", ".join(f"{name} {count}" for name, count in counted.most_common())
