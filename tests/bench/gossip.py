"""A hundred real daemons, one announcement a second in all: who gets it, and how late?

Each daemon's own event says when it accepted an announcement; all clocks are this machine's.
Then a newcomer: how long until it has a catalog of a thousand?
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from simnet.checks import Finding, catalog, delivery_delays, quantile
from simnet.daemon import Daemon
from simnet.scenario import (
    Announce,
    CatalogsEqual,
    Checks,
    Met,
    NobodyDied,
    Promise,
    Scenario,
    Start,
    Steps,
    Stop,
)
from simnet.steps import announce, at_once, perform, wait_for
from simnet.world import World, open_world

REACH = {"delivered": ">= 1.0", "p99_s": "<= 2", "join_s": "<= 5"}

DAEMONS = 100
SECONDS = 60
CATALOG = 1000
KEPT = 20
"""Daemons that stay to fill the catalog up to 1,000. Each announces some fifty, which is within
an issuer's burst; with all hundred it would take 100,000 deliveries, minutes on two cores."""

SETTLE_S = 30.0
"""After the last announcement: what has not arrived by then counts as lost."""

Say = Callable[[str], None]

STEPS: list[Steps] = [
    Start(who=f"0-{DAEMONS - 1}", at_once=4),
    Announce(who="running", count=SECONDS, every=1.0),
]

SCENARIO = Scenario(
    title="gossip",
    daemons=DAEMONS + 1,
    steps=STEPS,
    promises=[Promise(that=NobodyDied())],
    network="gossip",
    bootstrap=3,
    proxied=False,
    config={
        "net": {"target_peers": 6},
        # A hundred daemons on one machine need no faster heartbeats; by themselves they stretch
        # the interval to N / 8 s anyway.
        "liveness": {"interval": "15s"},
        "log": {"level": "warning"},
    },
)


def measure(say: Say) -> dict[str, float | int]:
    """The fields of REACH, and what they were made of."""
    return trio.run(_measure, say)


async def _measure(say: Say) -> dict[str, float | int]:
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs) / "gossip.toml"
        async with open_world(SCENARIO, path, 1, say, logs=Path(logs)) as world:
            await perform(STEPS[0], world)
            await _need(world, Met(peers=4), 180)
            say(f"{DAEMONS} daemons have met after {world.now:.0f} s")
            found = await _deliver(world, say)
            found["join_s"] = await _join(world, say)
            found["died"] = sum(daemon.died for daemon in world.daemons)
            return found


async def _need(world: World, check: Checks, within: float) -> Finding:
    finding = await wait_for(world, check, within)
    if not finding.holds:
        raise RuntimeError(f"not within {within:.0f} s: {finding.text}")
    return finding


async def _deliver(world: World, say: Say) -> dict[str, float | int]:
    await perform(STEPS[1], world)
    wanted = SECONDS * (DAEMONS - 1)
    with trio.move_on_after(SETTLE_S):
        while len(delivery_delays(world)) < wanted:
            await trio.sleep(0.2)
    delays = delivery_delays(world)
    say(f"{len(delays)} of {wanted} pairs arrived")
    return {
        "delivered": len(delays) / wanted,
        "p50_s": round(quantile(delays, 0.5), 3),
        "p99_s": round(quantile(delays, 0.99), 3),
        "max_s": round(max(delays), 3),
    }


async def _join(world: World, say: Say) -> float:
    """Seconds from a newcomer's start to its having the whole catalog of CATALOG."""
    await perform(Stop(who=f"{KEPT}-{DAEMONS - 1}"), world)
    kept = world.running()
    say(f"{len(kept)} daemons fill the catalog up to {CATALOG}")

    async def publish(daemon: Daemon) -> None:
        for number in range(SECONDS + daemon.index, CATALOG, len(kept)):
            await announce(world, daemon, number)

    await at_once(kept, publish)
    await _need(world, CatalogsEqual(count=CATALOG), 180)
    newcomer = world.daemons[DAEMONS]
    began = time.monotonic()
    await world.start(newcomer)
    with trio.fail_after(60):
        while len(await catalog(newcomer)) < CATALOG:
            await trio.sleep(0.05)
    return round(time.monotonic() - began, 2)
