"""failover: a leader dies, or the network comes back; how long until something is ratified again.

In time-outs of the council. Real: four daemons on loopback, the leader killed with -9 again and
again; from the kill to the first certificate of a later term that a survivor reports. Simulated:
the same in virtual time, over many seeds; and, after partitions and liars, from the healing to
the first certificate that every honest member has.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from simnet.checks import of_each, quantile
from simnet.councilparts import Above, Founding, Height, LedgersAgree
from simnet.councils import council
from simnet.daemon import Daemon
from simnet.run import perform, wait_for
from simnet.scenario import NobodyDied, Promise, Scenario, Start
from simnet.virtual.failover import failover, healed
from simnet.world import World, open_world

REACH = {"p99_timeouts": "<= 3", "worst_timeouts_healed": "<= 8"}

KILLS = 20
TIME_OUT_S = 1.0
"""Four daemons share two cores: a message waits for tens of milliseconds, not for seconds."""
PATIENCE_S = 30.0
SEEDS = 400
"""Simulated kills; the 99th percentile is then the fourth from the top."""

SCENARIO = Scenario(
    title="failover",
    daemons=4,
    proxied=False,
    watch=0,
    council=Founding(
        members="all",
        params={"council.time_out_ms": int(TIME_OUT_S * 1000), "council.tick_ms": 200},
    ),
    config={"replication": {"hold": False}},
    steps=[Start(who="all")],
    promises=[Promise(that=NobodyDied())],
)


class BenchError(Exception):
    """A daemon or the council did not do what is measured."""


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some two minutes of kills, and as much of simulation."""
    real = trio.run(_real, say)
    say(f"real: {len(real)} kills, at worst {max(real):.2f} time-outs")
    simulated = failover(range(1, SEEDS + 1))
    say(f"simulated: {len(simulated)} kills, at worst {max(simulated):.2f} time-outs")
    after = healed(range(1, SEEDS + 1))
    p99_real, p99_simulated = quantile(real, 0.99), quantile(simulated, 0.99)
    return {
        "p99_timeouts": round(max(p99_real, p99_simulated), 2),
        "worst_timeouts_healed": round(max(after), 2),
        "p99_timeouts_real": round(p99_real, 2),
        "p50_timeouts_real": round(quantile(real, 0.5), 2),
        "p99_timeouts_simulated": round(p99_simulated, 2),
        "p50_timeouts_simulated": round(quantile(simulated, 0.5), 2),
        "kills_real": len(real),
        "kills_simulated": len(simulated),
        "healed_runs": len(after),
    }


async def _real(say: Callable[[str], None]) -> list[float]:
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(SCENARIO, Path(), 1, say, logs=Path(folder)) as world:
            await perform(Start(who="all"), world)
            await _must(world, LedgersAgree(index=5))
            for number in range(KILLS):
                found.append(await _kill(world) / TIME_OUT_S)
                if (number + 1) % 5 == 0:
                    say(f"{number + 1} of {KILLS} leaders killed")
    return found


async def _kill(world: World) -> float:
    """Kill the leader; seconds until a survivor has a certificate of a later term."""
    infos = await of_each(world.running(), council)
    newest = max(infos, key=lambda info: (info.epoch, info.term))
    (leader,) = [daemon for daemon in world.daemons if daemon.identity.text == newest.leader]
    killed = time.time()
    await leader.signal(world.forks, "KILL")
    seconds = await _next(world, leader, newest.epoch, newest.term) - killed
    await world.start(leader, kind="restart")
    await perform(Height(name="back"), world)
    await _must(world, Above(height="back", more=3))
    return seconds


async def _next(world: World, killed: Daemon, epoch: int, term: int) -> float:
    """When a survivor first called something of a later term ratified."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            for heard in world.council.heard:
                if heard.daemon != killed.index and (heard.epoch, heard.term) > (epoch, term):
                    return heard.at
            await trio.sleep(0.01)
    raise BenchError(f"nothing was ratified within {PATIENCE_S:.0f} s of {killed}'s death")


async def _must(world: World, check: Above | LedgersAgree) -> None:
    finding = await wait_for(world, check, PATIENCE_S)
    if not finding.holds:
        raise BenchError(finding.text)
