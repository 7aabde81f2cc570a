"""Daemons that die and come back, and epochs that end, while rounds go on."""

from pathlib import Path

from tests.training_kit import world


async def test_a_killed_primary_is_succeeded_and_comes_back_to_what_was_committed(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, daemons=5, tensors=1) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        first = swarm.primary()
        assert first is not None
        learners = [daemon for daemon in swarm.daemons if daemon is not first][:2]
        for daemon in learners:
            daemon.join()
        await swarm.came(2, *learners)
        first.kill()
        had = min(daemon.rounds() for daemon in learners)
        await swarm.came(had + 3, *learners)
        second = swarm.primary()
        assert second is not None
        assert second is not first
        await first.start()
        await swarm.came(had + 5, *learners)
        await swarm.until(lambda: first.service is not None and first.rounds() >= had + 5)
        assert len(await swarm.heads(0, had + 5)) == 1


async def test_a_killed_learner_goes_on_from_its_disk(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=4, tensors=1, learners=1) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        killed, other = [daemon for daemon in swarm.daemons if not daemon.leads()][:2]
        killed.join()
        other.join()
        await swarm.came(2, killed, other)
        killed.kill()
        had = other.rounds()
        await swarm.came(had + 2, other)
        await killed.start()
        await swarm.came(had + 4, killed, other)
        assert killed.learns
        assert len(await swarm.heads(0, had + 4)) == 1


async def test_a_new_epochs_group_goes_on_where_the_old_one_was_sealed(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=7, tensors=1) as swarm:
        old, learners = swarm.daemons[:3], swarm.daemons[5:]
        swarm.turn(old)
        for daemon in learners:
            daemon.join()
        await swarm.came(2, *learners)
        new = swarm.daemons[2:5]
        swarm.turn(new)
        had = min(daemon.rounds() for daemon in learners)
        await swarm.came(had + 3, *learners)
        assert {daemon for daemon in swarm.daemons if daemon.leads()} <= set(new)
        await swarm.until(lambda: not any(daemon.hosts() for daemon in old[:2]))
        assert len(await swarm.heads(0, had + 3)) == 1
