"""Learners of one region reach the primary through one aggregator, which is checked."""

from pathlib import Path

from protocols.peerid import peer_id_text
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


async def test_two_regions_each_gather_and_a_liar_loses_all_of_its_learners(tmp_path: Path) -> None:
    """Groups' replicas are in either region, and so are learners; sums of two groups are equal to
    the byte here (what they leave out is nothing), and are made at once."""
    async with world(tmp_path, daemons=8, tensors=4, one_in=2) as swarm:
        near = {daemon.id for daemon in swarm.daemons[:4]}
        swarm.round_trip = lambda one, other: NEAR if (one in near) == (other in near) else FAR
        learners = [*swarm.daemons[1:4], *swarm.daemons[5:8]]
        for daemon in learners:
            daemon.join()
        await swarm.until(lambda: all(daemon.lineage.aggregator for daemon in learners))
        await swarm.came(3, *learners)
        sides = {daemon.id in near: daemon.lineage.aggregator for daemon in learners}
        assert len(set(sides.values())) == 2
        names = {peer_id_text(daemon.id): daemon for daemon in swarm.daemons}
        assert all(names[one].of("training.summed") for one in sides.values())
        liar = names[sides[True]]
        liar.compute.lies = True
        cheated = [daemon for daemon in learners[:3] if daemon is not liar]
        await swarm.until(lambda: all(daemon.of("training.caught") for daemon in cheated))
        text = peer_id_text(liar.id)
        await swarm.until(lambda: all(it.lineage.aggregator not in ("", text) for it in cheated))
        await swarm.came(max(daemon.rounds() for daemon in learners) + 2, *cheated, *learners[3:])
        for number in range(4):
            assert len(await swarm.heads(number, 3)) == 1
        honest = [daemon for daemon in swarm.daemons if daemon is not liar]
        said = [event for daemon in honest for event in daemon.of("training.caught")]
        assert {event.get("aggregator", text) for event in said} == {text}
        assert not any(daemon.of("handler.failed") for daemon in swarm.daemons)


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


async def test_a_region_whose_links_become_long_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=6, tensors=1, learners=2) as swarm:
        region = await region_of(swarm, 2)
        assert [daemon.lineage.aggregator != "" for daemon in region[:2]] == [True, True]
        swarm.round_trip = lambda _one, _other: FAR

        def alone() -> bool:
            for daemon in region[:2]:
                assert daemon.lineage.region is not None
                daemon.lineage.region.way.look()  # else it looks every few seconds
            return all(it.lineage.aggregator in ("", peer_id_text(it.id)) for it in region[:2])

        await swarm.until(alone)
        had = max(daemon.rounds() for daemon in region[:2])
        await swarm.came(had + 2, *region[:2])


async def test_an_aggregator_that_cannot_compute_is_passed_over(tmp_path: Path) -> None:
    """Its learners are refused before they send anything, take another, and rounds go on."""
    async with world(tmp_path, daemons=6, tensors=1, learners=2) as swarm:
        region = await region_of(swarm, 2)
        (first,) = {daemon.lineage.aggregator for daemon in region[:2]}
        chosen = next(daemon for daemon in swarm.daemons if peer_id_text(daemon.id) == first)
        chosen.compute.missing = True
        had = max(daemon.rounds() for daemon in region[:2])
        others = [daemon for daemon in region[:2] if daemon is not chosen]
        await swarm.until(lambda: all(it.lineage.aggregator != first for it in others))
        await swarm.came(had + 2, *others)
