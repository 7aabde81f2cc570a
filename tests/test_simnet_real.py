"""Worlds of real daemons, small: what the runner claims to do to them does happen to them."""

from pathlib import Path
from typing import Any

import trio

from simnet import scenario as s
from simnet.checks import look
from simnet.run import run_scenario
from simnet.steps import perform, wait_for
from simnet.weather import Cut, Shape
from simnet.world import World, open_world
from synapsed.control.models import PeerRequest, Pong

CONFIG: dict[str, dict[str, Any]] = {"liveness": {"interval": "0.5s"}, "replication": {"copies": 1}}


def scenario(daemons: int) -> s.Scenario:
    return s.Scenario(
        title="real",
        daemons=daemons,
        steps=[s.Start(who="all")],
        promises=[s.Promise(that=s.NobodyDied())],
        models={"small": s.ModelSource(made=1)},
        config=CONFIG,
    )


async def must(world: World, check: s.Checks, within: float = 30) -> None:
    finding = await wait_for(world, check, within)
    assert finding.holds, finding.text


async def test_links_and_partitions_are_felt_by_daemons(tmp_path: Path) -> None:
    async with open_world(scenario(3), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, s.Met(peers=2))
        first, second = world.daemons[:2]

        async def ping() -> float:
            asked = PeerRequest(peer_id=second.identity.text)
            return (await first.client.call("POST", "/v1/ping", Pong, asked)).rtt_ms

        assert await ping() > 0
        await perform(s.Links(senders=0, receivers=1, shape=Shape(delay=0.1)), world)
        assert await ping() >= 200
        await perform(s.Links(senders=0, receivers=1), world)

        await perform(s.Partition(groups=[0, "1-2"], cut=Cut.RESET), world)
        with trio.fail_after(30):
            while (await first.get_status()).connected:
                await trio.sleep(0.05)
        assert world.weather.faults["partition-reset"] >= 1
        await must(world, s.Met(peers=1, who="1-2"), within=30)
        await perform(s.Heal(), world)
        await must(world, s.Met(peers=2))
        await must(world, s.LiveListsEqual())


async def test_a_liar_is_blamed_and_the_model_arrives(tmp_path: Path) -> None:
    async with open_world(scenario(2), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who="all"), world)
        await must(world, s.Met(peers=1))
        await perform(s.Import(who=0, model="small"), world)
        await perform(s.Rates(who=0, up=1e6), world)
        await perform(s.Lie(name="flippers", model="small", how="wrong-bytes"), world)
        await must(world, s.CatalogsEqual(count=2))
        assert not (await look(s.Blamed(liars="flippers", by=1), world)).holds
        await must(world, s.Lacks(who=1, model="small"), within=30)
        await perform(s.Pull(who=1, model="small"), world)
        await perform(s.Export(who=1, model="small"), world)
        await must(world, s.ExportsEqual(count=1), within=30)
        await must(world, s.Blamed(liars="flippers", by=1), within=30)
        await must(world, s.SentAtMost(who=0, model="small", times=1.5), within=30)
        await must(world, s.NobodyDied(), within=30)


async def test_a_whole_run_and_its_announcements(tmp_path: Path) -> None:
    small = scenario(3)
    small.watch = 0.2
    small.steps = [
        s.Start(who="all"),
        s.Wait(until=s.Met(peers=2), within=30),
        s.Announce(who="all", count=6, every=0.1),
        s.Wait(until=s.Delivered(share=1.0, p99=5), within=30),
        s.Pause(who=2),
        s.Announce(who="0-1", count=2, every=0.1),
        s.Resume(who=2),
    ]
    small.promises = [
        s.Promise(that=s.CatalogsEqual(count=8)),
        s.Promise(that=s.Happened(fault="pause")),
        s.Promise(that=s.NobodyDied()),
    ]
    result = await run_scenario(small, Path("s.toml"), 3, tmp_path, print)
    assert result.passed, result
    assert result.moved > 0


async def test_checks_do_not_hold_where_nothing_has_happened(tmp_path: Path) -> None:
    async with open_world(scenario(2), tmp_path, 1, print, logs=tmp_path) as world:
        await perform(s.Start(who=0), world)
        never: list[s.Checks] = [
            s.Met(peers=1),
            s.CatalogsEqual(count=1),
            s.Delivered(),
            s.ExportsEqual(),
            s.Pulled(),
            s.Happened(fault="kill"),
            s.Holds(who=0, model="small"),
            s.LiveListsEqual(who="all"),
        ]
        for check in never:
            assert not (await look(check, world)).holds, check


def test_every_check_and_step_is_known() -> None:
    from simnet.checks import ask
    from simnet.scenarioload import tags

    def handled(function: object) -> set[str]:
        kinds = set(function.registry)  # type: ignore[attr-defined]
        return {str(kind.__struct_config__.tag) for kind in kinds if kind is not object}

    assert handled(ask) >= set(tags(s.Checks))
    assert handled(perform) >= set(tags(s.Steps))
