"""How long a tile group stands still after its primary is killed, in heartbeats.

    python -m simnet.virtual.tilefailover [--seeds N]

From the kill until a successor has committed the whole log anew and takes offers. Nothing else
goes wrong, but that the network is what it is: `near` has round trips of 4 to 60 ms, `far` of 100
to 250 ms (two continents), and one message in fifty takes up to 0.5 s more, as a lost TCP segment
does.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from simnet.virtual.case import Case
from simnet.virtual.families import Family
from simnet.virtual.node import Node
from simnet.virtual.tiletown import OPENED_S, TileTown
from simnet.virtual.world import ViolationError

STEADY_S = OPENED_S + 4.0
PATIENCE_BEATS = 40.0
WEATHERS: dict[str, dict[str, float]] = {
    "near": {"nearest": 0.002, "farthest": 0.03},
    "far": {"nearest": 0.05, "farthest": 0.125, "straggle": 0.02, "straggling": 0.5},
}
HOWS = "killed", "powered off", "restarted"
"""Killed: its sockets close, which others see; powered off: silent; restarted: at once."""


class StalledError(Exception):
    """Nobody took over."""


def takeovers(seeds: Iterable[int], weather: str, how: str = "killed") -> list[float]:
    """Heartbeats from the end of a primary to the next one's first moment, of each seed. `how`: in
    HOWS."""
    family = Family(
        title="a primary is killed",
        members=[3],
        ledger="tile",
        submissions=8,
        weather=WEATHERS[weather],
    )
    return [_ended(TileTown(Case(family, seed)), how) for seed in seeds]


def _ended(town: TileTown, how: str) -> float:
    world, heap = town.world, town.world.heap
    beat = town.settings.beat_ms / 1000
    town.begin()
    heap.run(STEADY_S + 2 * beat * world.chance["failover"].random())
    leader = town.leader()
    if leader is None:
        raise StalledError(f"seed {town.case.seed}: nobody leads a quiet group")
    if how == "powered off":
        world.neighbours = dict.fromkeys(range(len(world.nodes)), ())
    node: Node = world.nodes[leader]
    node.crash("for good")
    ended, before = world.now, town.checks.terms
    if how == "restarted":
        node.start()
    heap.run(ended + PATIENCE_BEATS * beat, lambda: town.checks.terms > before)
    if town.checks.terms == before:
        raise StalledError(f"seed {town.case.seed}: no primary in {PATIENCE_BEATS:g} heartbeats")
    return (world.now - ended) / beat


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the quantiles as JSON."""
    parser = argparse.ArgumentParser(prog="python -m simnet.virtual.tilefailover")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = range(1, parser.parse_args(argv).seeds + 1)
    found = {}
    try:
        for weather in WEATHERS:
            for how in HOWS:
                beats = takeovers(seeds, weather, how)
                found[f"{weather}, {how}"] = {
                    "p50": round(quantile(beats, 0.5), 2),
                    "p99": round(quantile(beats, 0.99), 2),
                    "most": round(max(beats), 2),
                }
    except (StalledError, ViolationError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
