"""Rounds among daemons: from steps to versions that are the same everywhere."""

from pathlib import Path

from tests.training_kit import world


async def test_rounds_are_committed_and_every_learner_and_replica_has_the_same_versions(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as swarm:
        learners = swarm.daemons[:2]
        for daemon in learners:
            daemon.join()
        await swarm.came(3, *learners)
        for group in (0, 1):
            assert len(await swarm.heads(group, 3)) == 1
