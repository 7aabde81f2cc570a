"""One real daemon under everything bad that can be sent to it: does it live, and does it stall?

The daemon measures its own stalls (synapsed/process/looplag.py) and its memory; nothing is
taken from our side's clock.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families

from simnet.councilparts import Founding
from simnet.daemon import Daemon
from simnet.scenario import NobodyDied, Promise, Scenario, Start
from simnet.world import World, open_world
from synapsed.control.client import Client
from tests.bench.attacks import ATTACKS as WIRE_ATTACKS
from tests.bench.attacks import NETWORK, Attack, Target
from tests.bench.badcontrol import bad_control
from tests.bench.badledger import bad_ledger
from tests.bench.badsources import hostile_sources

REACH = {
    "frames": ">= 10000",
    "deaths": "<= 0",
    "rss_growth_mb": "<= 50",
    "stall_p99_ms": "<= 100",
    "stall_max_ms": "<= 500",
}

SEED = 2
SETTLE_S = 3.0
"""After the warm-up and after the end: for closed connections to be forgotten."""

WARM_SHARE = 0.02
ANSWER_S = 30.0

ATTACKS: tuple[Attack, ...] = (*WIRE_ATTACKS, bad_control, hostile_sources, bad_ledger)

Say = Callable[[str], None]

SCENARIO = Scenario(
    title="hostile",
    daemons=1,
    steps=[Start(who=0)],
    promises=[Promise(that=NobodyDied())],
    network=NETWORK,
    proxied=False,
    # A council of one: all that a member does is there to be attacked.
    council=Founding(members=0),
    # What is bad is told once and not for each of ten thousand frames.
    config={"log": {"level": "warning"}},
)


def measure(say: Say) -> dict[str, float | int]:
    """Run every attack; the fields of REACH."""
    return trio.run(_measure, say)


async def _measure(say: Say) -> dict[str, float | int]:
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs) / "hostile.toml"
        async with open_world(SCENARIO, path, SEED, say, logs=Path(logs)) as world:
            return await _attack(world, say)


async def _attack(world: World, say: Say) -> dict[str, float | int]:
    daemon = world.daemons[0]
    await world.start(daemon)
    target, draw = Target(daemon), random.Random(SEED)
    # Once, small: code, caches and buffers that are needed once are no growth.
    frames = sum([await attack(target, draw, WARM_SHARE) for attack in ATTACKS])
    await trio.sleep(SETTLE_S)
    before = await trio.to_thread.run_sync(readings, daemon)
    say(f"warm: {frames} frames, {before}")
    worst = before
    for attack in ATTACKS:
        tried = await attack(target, draw, 1.0)
        frames += tried
        if daemon.died:
            break
        now = await trio.to_thread.run_sync(readings, daemon)
        worst = {name: max(value, worst[name]) for name, value in now.items()}
        say(f"{attack.__name__}: {tried} frames, {now}")
    await trio.sleep(SETTLE_S)
    after = before if daemon.died else await trio.to_thread.run_sync(readings, daemon)
    return {
        "frames": frames,
        "deaths": int(daemon.died),
        "rss_growth_mb": round(after["rss_mb"] - before["rss_mb"], 1),
        "stall_p99_ms": worst["p99_ms"],
        "stall_max_ms": worst["max_ms"],
    }


def readings(daemon: Daemon) -> dict[str, float]:
    """The daemon's resident memory, and quantiles of its loop's passes."""
    found: dict[str, float] = {}
    with Client(daemon.places.socket, ANSWER_S) as client:
        for family in text_string_to_metric_families(client.text("/v1/metrics")):
            for sample in family.samples:
                if sample.name.endswith("loop_lag_seconds"):
                    found[f"{sample.labels['quantile']}_ms"] = round(sample.value * 1e3, 1)
                elif sample.name.endswith("resident_bytes"):
                    found["rss_mb"] = round(sample.value / 1e6, 1)
    return found
