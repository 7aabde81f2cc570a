"""What an owner's daemon does with a training: pauses, leaves, is given another plan, publishes."""

import struct
from pathlib import Path

import pytest

from protocols.learn.evidence import Stand, check_evidence, heads_digest, read_evidence, shares
from protocols.ledger.trainings import NO_ROUNDS
from protocols.manifest import DatasetManifest
from synapsed.keys import verify
from synapsed.models import model_manifest
from synapsed.training.errors import CannotLearnError
from synapsed.training.firsts import widened
from synapsed.training.publish import Made, Publisher
from synapsed.training.study import Course
from tests.training_kit import REALM, Daemon, plan, world


async def test_a_paused_primary_is_succeeded_and_a_resumed_learner_goes_on(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, daemons=4, tensors=1) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        first = swarm.primary()
        assert first is not None
        learners = [first, *[daemon for daemon in swarm.daemons if daemon is not first][:1]]
        for daemon in learners:
            daemon.join()
        await swarm.came(2, *learners)
        await first.pause()
        assert first.lineage.study is not None
        assert first.lineage.study.state == "paused"
        had = learners[1].rounds()
        await swarm.until(lambda: swarm.primary() not in {None, first})
        await swarm.came(had + 2, learners[1])
        first.resume()
        had = learners[1].rounds()
        await swarm.came(had + 2, *learners)
        assert len(await swarm.heads(0, had + 2)) == 1


async def test_who_left_learns_no_more_and_may_join_again(tmp_path: Path) -> None:
    async with world(tmp_path, tensors=1, learners=1) as swarm:
        one = swarm.daemons[0]
        one.join()
        await swarm.came(1, one)
        with pytest.raises(CannotLearnError):
            one.lineage.join(Course(data="elsewhere"))
        await one.lineage.leave()
        assert one.lineage.course is None
        trained = len(one.of("training.trained"))
        await swarm.until(lambda: one.lineage.study is None)
        one.kill()
        await one.start()
        await swarm.until(lambda: one.cut)
        assert one.lineage.course is None
        assert len(one.of("training.trained")) == trained
        one.join()
        had = max(daemon.rounds() for daemon in swarm.daemons)
        await swarm.came(had + 1, one)


async def test_another_plan_holds_from_the_next_round_on(tmp_path: Path) -> None:
    async with world(tmp_path, tensors=1, learners=1) as swarm:
        one = swarm.daemons[0]
        one.join()
        await swarm.came(2, one)
        phase = plan().phases[0]
        swarm.plan = plan(learners=1, phases=(type(phase)(1 << 20, 2, "fp32", "fp32"),))
        swarm.tell()
        await swarm.until(lambda: one.of("training.replanned"))
        had = one.rounds()
        await swarm.came(had + 2, one)
        assert one.lineage.terms.plan.phases[0].steps == 2
        assert len(await swarm.heads(0, had + 2)) == 1


async def test_a_daemon_without_torch_keeps_what_others_learn_and_never_leads(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, daemons=3, tensors=1, learners=1, missing=(0,)) as swarm:
        one, other = swarm.daemons[0], swarm.daemons[1]
        await swarm.until(one.hosts)
        other.join()
        await swarm.came(2, other)
        await swarm.until(lambda: one.rounds() >= 2)
        assert not any(event["own"] for event in one.of("training.primary"))
        assert len(await swarm.heads(0, 2)) == 1


def test_half_precision_is_widened_to_the_bit() -> None:
    values = [0.0, -0.0, 1.0, -2.5, 65504.0, 2.0**-24]
    wide = struct.pack(f"<{len(values)}f", *values)
    assert widened(struct.pack(f"<{len(values)}e", *values), "F16") == wide
    assert widened(wide, "F32") == wide
    coarse = [0.0, 1.0, -3.0, 2.0**100]
    wide = struct.pack(f"<{len(coarse)}f", *coarse)
    assert widened(b"".join(wide[at + 2 : at + 4] for at in range(0, 16, 4)), "BF16") == wide


async def test_a_checkpoint_is_the_model_with_the_rounds_that_made_it(tmp_path: Path) -> None:
    async with world(tmp_path, tensors=2) as swarm:
        learners = swarm.daemons[:2]
        for daemon in learners:
            daemon.join()
        await swarm.came(2, *learners)
        one = learners[0]
        made = await publish(one)
        assert one.store is not None
        child, parent = (model_manifest(one.store, cid) for cid in (made.model, swarm.model))
        assert [ref.path for ref in child.files] == [ref.path for ref in parent.files]
        assert [ref.size for ref in child.files] == [ref.size for ref in parent.files]
        assert child.files[0] == parent.files[0]  # the configuration
        assert child.files[1].root != parent.files[1].root
        dataset = one.store.manifest_of(made.evidence)
        assert isinstance(dataset, DatasetManifest)
        held = one.store.file_of(dataset.files[0])
        assert held is not None
        evidence = read_evidence(held.path.read_bytes())
        check_evidence(
            evidence,
            model=swarm.model,
            began=NO_ROUNDS,
            heads=made.change.heads,
            realm=REALM,
            replicas=lambda epoch, group: one.lineage.seats(group, epoch),
            verify=verify,
        )
        assert made.change.heads == heads_digest(swarm.model, evidence.span.ends)
        elements = [chain.group.elements for chain in one.lineage.chains]
        assert made.change.shares == shares(evidence, elements)
        assert {share.identity for share in made.change.shares} <= {who.id for who in learners}
        assert made.round >= 2


async def test_nothing_learned_is_no_checkpoint(tmp_path: Path) -> None:
    async with world(tmp_path, tensors=1) as swarm:
        one = swarm.daemons[0]
        one.join()
        await swarm.until(lambda: one.lineage.chains[0].ready)
        with pytest.raises(CannotLearnError):
            await publish(one)


async def publish(daemon: Daemon) -> Made:
    """A checkpoint of what this daemon has."""
    assert daemon.store is not None
    lineage = daemon.lineage
    assert lineage.cutting is not None
    files = lineage.materials.files(lineage.cutting)
    begins = [Stand(0, lineage.genesis(chain.group.number)) for chain in lineage.chains]
    publisher = Publisher(daemon.store, lineage, files)
    return await publisher.make(daemon.world.model, begins, "child")
