"""Rounds among daemons: from steps to versions that are the same everywhere."""

from pathlib import Path

from synapsed.process.events import Event
from synapsed.training.study import Course
from synapsed.training.tally import TrainingTally
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


async def test_learners_who_make_the_same_bytes_are_both_in_the_round(tmp_path: Path) -> None:
    """As all do of tiles that no token of theirs touched."""
    async with world(tmp_path, tensors=1) as swarm:
        learners = swarm.daemons[:2]
        for daemon in learners:
            daemon.lineage.join(Course(data=str(daemon.folder), seed=7))
        chain = learners[0].lineage.chains[0]

        def both() -> bool:
            decided = [chain.round(number) for number in range(learners[0].rounds())]
            return any(
                one is not None
                and len(one.inputs) == 2
                and len({it.digest for it in one.inputs}) == 1
                for one in decided
            )

        await swarm.until(both)
        refused = [event for daemon in swarm.daemons for event in daemon.of("training.refused")]
        assert "stale" not in {event["reason"] for event in refused}


async def test_what_the_metrics_and_the_list_say_is_what_happened(tmp_path: Path) -> None:
    """Real events and real bytes, of a learner that serves as well and of one that only serves."""
    async with world(tmp_path) as swarm:
        learners = swarm.daemons[:2]
        for daemon in learners:
            daemon.join()
        await swarm.came(3, *learners)
        for daemon in swarm.daemons:
            tally = TrainingTally()
            for event in list(daemon.events):
                fields = {name: value for name, value in event.items() if name != "kind"}
                tally.heard(Event(0.0, event["kind"], fields))
            assert daemon.service is not None
            traffic = daemon.service.traffic
            for way in ("in", "out"):
                roles = {role: size for (of, role), size in traffic.roles.items() if of == way}
                assert sum(roles.values()) == traffic.total(way)  # every byte has a role
                assert ("learner" in roles) == (daemon in learners)
            serves, takes_part = daemon.lineage.hosts, daemon.lineage.hosts or daemon in learners
            assert tally.rounds.total() == len(daemon.of("training.round"))
            assert (tally.rounds.total() > 0) == (tally.deltas["taken"] > 0) == bool(serves)
            assert (tally.steps > 0) == (daemon in learners)
            assert tally.ours["acknowledged"] == len(daemon.of("training.acked"))
            assert daemon.lineage.learners in ((1, 2) if takes_part else (None,))
            assert daemon.lineage.name
        own = [event["own"] for daemon in swarm.daemons for event in daemon.of("training.round")]
        assert True in own
        assert False in own
