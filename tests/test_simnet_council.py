"""A small council in real processes: what its scenarios do to it does happen, and is noticed."""

from pathlib import Path

import pytest

from simnet import councilparts as c
from simnet import scenario as s
from simnet.checks import look
from simnet.run import perform, run_scenario, wait_for
from simnet.steps import StepError
from simnet.world import World, open_world

PARAMS = {
    "council.tick_ms": 250,
    "council.time_out_ms": 2000,
    "work.bits": 8,
    "vote.window_ms": 2500,
    "approval.window_ms": 500,
    "execute.delay_ms": 0,
}


def scenario(daemons: int, **params: int) -> s.Scenario:
    return s.Scenario(
        title="real",
        daemons=daemons,
        network="council",
        watch=0,
        steps=[s.Start(who="all")],
        promises=[s.Promise(that=s.NobodyDied())],
        council=c.Founding(members="0-3", others=40, params={**PARAMS, **params}),
        config={"replication": {"hold": False}, "liveness": {"interval": "1s"}},
    )


async def must(world: World, check: s.Checks, within: float = 40) -> None:
    finding = await wait_for(world, check, within)
    assert finding.holds, finding.text


async def test_a_leader_dies_and_nothing_that_was_ratified_is_lost(tmp_path: Path) -> None:
    async with open_world(scenario(5), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, c.LedgersAgree(index=3))
        await perform(c.Load(who="all", count=5), world)
        await perform(c.Leader(name="first"), world)
        await perform(s.Kill(who="first"), world)
        await perform(c.Height(name="killed"), world)
        await must(world, c.Above(height="killed", more=2))
        await perform(s.Restart(who="first"), world)
        await perform(c.Leader(name="second", asked="running"), world)
        assert world.names["first"] != world.names["second"]
        await perform(c.Load(who="all", count=5), world)
        await must(world, c.LedgersAgree(index=12))
        await must(world, c.NotesRatified(count=10), within=30)
        await must(world, c.OneHistory(), within=30)
        await must(world, c.RoleIs(who="0-3", role="member"), within=30)
        await must(world, c.RoleIs(who=4, role="follower"), within=30)


async def test_a_parameter_is_in_force_everywhere_from_one_index(tmp_path: Path) -> None:
    async with open_world(scenario(5), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, c.LedgersAgree(index=3))
        wanted = c.Parameter(name="limits.upload", value=5_000_000)
        assert not (await look(wanted, world)).holds
        proposal = c.Propose(name="upload", who=4, set={"limits.upload": 5_000_000})
        await perform(proposal, world)
        await perform(c.Height(name="opened"), world)
        await must(world, c.Above(height="opened"))
        await perform(c.Vote(who="all", proposal="upload"), world)
        await must(world, wanted)


async def test_a_wiped_member_does_not_sign_and_is_no_liar(tmp_path: Path) -> None:
    async with open_world(scenario(5), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, c.LedgersAgree(index=3))
        with pytest.raises(StepError, match="daemon 2 runs"):
            await perform(c.Wipe(who=2), world)
        await perform(s.Kill(who=2), world)
        await perform(c.Wipe(who=2), world)
        await perform(s.Restart(who=2), world)
        await must(world, c.RoleIs(who=2, role="lost-state"))
        await must(world, c.LedgersAgree(index=8))
        assert not (await look(c.Guilty(members=2), world)).holds


async def test_a_member_that_signs_twice_is_found_guilty(tmp_path: Path) -> None:
    async with open_world(scenario(5), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, c.LedgersAgree(index=3))
        await perform(s.Kill(who=1), world)
        await perform(c.DoubleSign(who=1), world)
        await must(world, c.Guilty(members=1))
        await must(world, c.LedgersAgree(index=10))
        await must(world, c.OneHistory(), within=30)
        assert not (await look(c.Guilty(members=[1, 2]), world)).holds
        assert world.weather.faults["double-sign"] == 1


async def test_checks_do_not_hold_where_nothing_has_happened(tmp_path: Path) -> None:
    async with open_world(scenario(5), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who=0), world)  # alone, it ratifies nothing
        await perform(c.Height(name="start"), world)
        never: list[s.Checks] = [
            c.LedgersAgree(index=1),
            c.Above(height="start"),
            c.OneHistory(),
            c.NotesRatified(),
            c.Parameter(name="limits.upload", value=1),
            c.Parameter(name="no.such", value=1),
            c.Seated(members=0, epoch=2),
            c.Seated(members=4),
            c.Seated(out=0),
            c.Guilty(members=1),
            c.RoleIs(who=0, role="follower"),
        ]
        for check in never:
            assert not (await look(check, world)).holds, check
        assert (await look(c.Seated(members="0-3", out=4), world)).holds


async def test_a_whole_run_with_its_picture(tmp_path: Path) -> None:
    small = scenario(4)
    small.watch = 0.5
    small.steps = [
        s.Start(who="all"),
        s.Wait(until=c.LedgersAgree(index=2), within=40),
        c.Load(who="all", count=4, background=True),
        s.Let(seconds=1),
    ]
    small.promises = [
        s.Promise(that=c.NotesRatified(count=4)),
        s.Promise(that=c.OneHistory()),
        s.Promise(that=s.NobodyDied()),
    ]
    result = await run_scenario(small, Path("s.toml"), 3, tmp_path, print)
    assert result.passed, result
    assert (tmp_path / "timeline.json").exists()
