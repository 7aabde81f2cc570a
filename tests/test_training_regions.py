"""Learners of one region reach the primary through one aggregator, which is checked."""

from pathlib import Path

from tests.training_kit import Daemon, World, world

NEAR, FAR = 0.001, 0.1


async def region_of(swarm: World, learners: int) -> list[Daemon]:
    """Those who serve no group are near to each other, and far from who does; some of them learn,
    and know whom through."""
    await swarm.until(lambda: swarm.primary() is not None)
    region = [daemon for daemon in swarm.daemons if not daemon.hosts()]
    inside = {daemon.id for daemon in region}
    swarm.round_trip = lambda one, other: NEAR if (one in inside) == (other in inside) else FAR
    for daemon in region[:learners]:
        daemon.join()
    routed = "training.routed"
    await swarm.until(lambda: all(daemon.of(routed) for daemon in region[:learners]))
    return region


def sums(daemon: Daemon) -> int:
    """Sums of two learners that went into rounds, as far as this daemon knows."""
    chain = daemon.lineage.chains[0]
    records = [chain.record(number) for number in range(daemon.rounds())]
    return sum(entry.of == 2 for it in records if it is not None for entry in it.round.inputs)


async def test_a_regions_deltas_go_to_the_primary_as_one_sum(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=6, tensors=1, learners=2) as swarm:
        region = await region_of(swarm, 2)
        await swarm.until(lambda: sums(region[0]) >= 2)
        had = region[0].rounds()
        await swarm.came(had, *region[:2])
        assert len(await swarm.heads(0, had)) == 1
        assert any(daemon.of("training.summed") for daemon in region)


async def test_an_aggregator_that_sums_wrongly_is_caught_and_passed_over(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=7, tensors=1, learners=2, one_in=1) as swarm:
        for daemon in swarm.daemons:
            daemon.compute.lies = True  # only whoever aggregates is ever asked to
        region = await region_of(swarm, 2)
        await swarm.until(lambda: any(daemon.of("training.summed") for daemon in region))
        liar = next(daemon for daemon in region if daemon.of("training.summed"))
        for daemon in swarm.daemons:
            daemon.compute.lies = daemon is liar
        honest = [daemon for daemon in swarm.daemons if daemon is not liar]
        await swarm.until(lambda: any(daemon.of("training.caught") for daemon in honest))
        assert any(
            event["same"] is False for daemon in honest for event in daemon.of("training.audited")
        )
