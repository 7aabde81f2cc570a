"""A world's processes: started, stopped, killed, paused; a death is noticed; nothing is left.

The daemons here are stand-ins that only live and die; tests/test_simnet_real.py has real ones.
"""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from simnet.daemon import Life, LifeError
from simnet.run import run_scenario
from simnet.scenario import (
    Happened,
    Kill,
    Let,
    NobodyDied,
    Pause,
    Pick,
    Promise,
    Restart,
    Resume,
    Scenario,
    Start,
    Stop,
)
from simnet.steps import perform
from simnet.world import World, open_world


def stand_in(kind: str) -> list[str]:
    return [sys.executable, "-m", "tests.daemon_standin", kind, "forkserver"]


SCENARIO = Scenario(
    title="lives",
    daemons=3,
    watch=0,
    steps=[
        Start(who="all"),
        Pick(name="victim", out_of="1-2"),
        Kill(who="victim"),
        Restart(who="victim"),
    ],
    promises=[Promise(that=NobodyDied()), Promise(that=Happened(fault="kill"))],
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(
        SCENARIO, tmp_path, 5, print, logs=tmp_path / "logs", server=stand_in("idle")
    ) as world:
        yield world


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


async def test_lives(world: World) -> None:
    await perform(Start(who="0-1"), world)
    first, second = world.daemons[:2]
    assert alive(first.pid)
    assert (first.life, world.daemons[2].life) == (Life.RUNNING, Life.NEW)

    await perform(Pause(who=0), world)
    state = Path(f"/proc/{first.pid}/stat").read_text().split(") ")[1][0]
    assert (state, first.up) == ("T", False)
    await perform(Resume(who=0), world)
    assert first.up

    pid = first.pid
    await perform(Kill(who=0), world)
    assert not alive(pid)
    assert (first.life, first.status, first.died) == (Life.ENDED, -9, False)
    await perform(Stop(who=1), world)
    assert (second.life, second.status, second.died) == (Life.ENDED, 0, False)
    await perform(Restart(who="0-1"), world)
    assert first.up
    assert first.pid != pid
    assert [mark.kind for mark in world.timeline.marks if mark.daemon == 0] == [
        "start",
        "pause",
        "resume",
        "kill",
        "restart",
    ]


async def test_a_death_that_nobody_asked_for_is_noticed(world: World) -> None:
    await perform(Start(who=0), world)
    daemon = world.daemons[0]
    os.kill(daemon.pid, 9)
    with trio.fail_after(60):
        while not daemon.died:
            await trio.sleep(0.01)
    assert world.timeline.marks[-1].kind == "died"


async def test_a_daemon_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    async with open_world(
        SCENARIO, tmp_path, 5, print, logs=logs, server=stand_in("slow")
    ) as world:
        daemon = world.daemons[0]
        daemon.configure("simnet", [], {"net": {"demons": 1}})
        daemon.life = Life.ENDED  # configured: started as it is
        with pytest.raises(LifeError, match="unknown key"):
            await world.start(daemon)
    assert "unknown key" in (logs / "0-daemon.log").read_text()


async def test_identities_and_choices_follow_from_the_seed(tmp_path: Path) -> None:
    async def of(seed: int) -> tuple[list[str], list[int]]:
        async with open_world(
            SCENARIO, tmp_path, seed, print, logs=tmp_path / "l", server=stand_in("idle")
        ) as world:
            await perform(Pick(name="some", count=2, out_of="all"), world)
            return [daemon.identity.text for daemon in world.daemons], world.names["some"]

    first, again, other = await of(1), await of(1), await of(2)
    assert first == again
    assert first[0] != other[0]


async def test_nothing_is_left_of_a_world(tmp_path: Path) -> None:
    async with open_world(
        SCENARIO, tmp_path, 5, print, logs=tmp_path / "l", server=stand_in("hang")
    ) as world:
        await perform(Start(who="all"), world)
        pids, work = [daemon.pid for daemon in world.daemons], world.work
        await perform(Pause(who=1), world)
    assert not any(alive(pid) for pid in pids)
    assert not work.exists()


async def test_a_run_keeps_its_promises(tmp_path: Path) -> None:
    said: list[str] = []
    result = await run_scenario(
        SCENARIO, Path("s.toml"), 5, tmp_path, said.append, server=stand_in("idle")
    )
    assert result.passed, result
    assert [line.what for line in result.steps] == [
        "start all",
        "pick victim out_of=1-2",
        "kill victim",
        "restart victim",
    ]
    assert result.faults == {"kill": 1}
    assert any("kill victim" in line for line in said)
    assert (tmp_path / "timeline.json").exists()
    assert (tmp_path / "logs" / "0-daemon.log").exists()


async def test_a_broken_promise_fails_the_run_and_says_how_to_reproduce_it(tmp_path: Path) -> None:
    scenario = Scenario(
        title="t",
        daemons=1,
        watch=0,
        steps=[Start(who=0)],
        promises=[Promise(that=Happened(fault="kill"), within=0.1), Promise(that=NobodyDied())],
    )
    result = await run_scenario(
        scenario, Path("s.toml"), 9, tmp_path, print, server=stand_in("idle")
    )
    assert not result.passed
    assert [line.passed for line in result.promises] == [False, True]
    assert result.reproduce == "python -m simnet s.toml --seed 9"


async def test_a_run_that_takes_too_long_fails(tmp_path: Path) -> None:
    scenario = Scenario(
        title="t",
        daemons=1,
        watch=0,
        within=0.5,
        steps=[Start(who=0), Let(seconds=600)],
        promises=[Promise(that=NobodyDied())],
    )
    result = await run_scenario(
        scenario, Path("s.toml"), 9, tmp_path, print, server=stand_in("idle")
    )
    assert not result.passed
    assert result.steps[-1].text == "not over within 0 s"
