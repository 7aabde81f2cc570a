"""sim: the safety families in virtual time, how fast they run, and ten thousand followers.

`seeds` runs of at least 60 virtual seconds each, on every core, and the `violations` that they
found; `virtual_s_per_s` is of four whole daemons with a genesis's default timings under faults,
one run after another on one core, by processor time, so that what else runs here does not count;
`peers_10k` is events a second, likewise, with 10,000 followers behind a council of four.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable

from simnet.virtual import families
from simnet.virtual.case import Case
from simnet.virtual.crowd import Crowd
from simnet.virtual.runs import run

REACH = {
    "seeds": ">= 1000",
    "violations": "0",
    "virtual_s_per_s": ">= 500",
    "peers_10k": ">= 1",
    "worst_timeouts_healed": "<= 8",
}

SPEED_FAMILY = "home"
SPEED_RUNS = 12
PEERS = 10_000
PEERS_VIRTUAL_S = 8.0
"""Some seconds of ratified entries: half a million events."""
LONGEST_S = 3000.0


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """All families, the speed, the crowd."""
    safety = _safety(say)
    speed = _speed()
    say(f"four daemons under faults: {speed:,.0f} virtual seconds a second")
    events, spent, lowest = Crowd(PEERS).run(PEERS_VIRTUAL_S)
    say(f"{PEERS:,} followers: {events:,} events in {spent:.1f} s, all at {lowest} or above")
    if lowest < 1:
        raise RuntimeError("a follower has ratified nothing")
    return {
        "seeds": safety["seeds"],
        "violations": len(safety["violations"]) + len(safety["never_happened"]),
        "virtual_s_per_s": round(speed, 1),
        "peers_10k": round(events / spent),
        "worst_timeouts_healed": safety["worst_timeouts_healed"],
        "events": safety["events"],
        "signatures_checked": safety["statements"],
    }


def _safety(say: Callable[[str], None]) -> dict:
    say("every family")
    command = [sys.executable, "-m", "simnet.virtual", "all", "--json"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=LONGEST_S, check=False
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for each in found["violations"]:
        say(f"{each['check']}: {each['text']}; {each['command']}")
    say(f"{found['seeds']:,} runs, {len(found['violations'])} violations, {found['seconds']:.0f} s")
    return found


def _speed() -> float:
    """Virtual seconds that one second of this process makes."""
    family = families.load(SPEED_FAMILY)
    began, virtual = time.process_time(), 0.0
    for seed in range(1, SPEED_RUNS + 1):
        virtual += run(Case(family, seed)).at
    return virtual / (time.process_time() - began)
