"""A primary whose worker lies: the other two find it out, depose it, and rounds go on."""

from itertools import pairwise
from pathlib import Path

from protocols.learn.case import Wrong
from protocols.learn.claims import NOTHING, Endorsement
from protocols.learn.round_ports import Lied
from protocols.peerid import peer_id_text
from synapsed.training.blobs import sha256_of
from tests.training_kit import Daemon, World, world


async def deposed(swarm: World) -> tuple[Daemon, list[Daemon], list[Wrong]]:
    """Rounds, then a lie: who lied, the two who saw it, and what they would accuse it with."""
    await swarm.until(lambda: swarm.primary() is not None)
    liar = swarm.primary()
    assert liar is not None
    others = [daemon for daemon in swarm.daemons if daemon is not liar]
    for daemon in others:
        daemon.join()
    await swarm.came(2, *others)
    found: list[Wrong] = []
    for daemon in others:
        daemon.lineage.hosts[0].on_wrong = found.append
    had = min(daemon.rounds() for daemon in others)
    liar.compute.cheats = True
    await swarm.came(had + 3, *others)
    await swarm.until(lambda: found)
    return liar, others, found


async def test_a_lying_primary_is_deposed_and_training_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=3, tensors=1) as swarm:
        liar, others, found = await deposed(swarm)
        assert not liar.leads()
        for daemon in others:
            (event, *_) = daemon.of("training.wrong-result")
            assert event["primary"] == peer_id_text(liar.id)
            chain = daemon.lineage.chains[0]
            for number in range(daemon.rounds()):
                assert len(await swarm.heads(0, number + 1)) == 1
                record = chain.record(number)
                assert record is None or record.round.head not in {it.round.head for it in found}
        assert {it.by.replica for it in found} == {liar.id}
        wrong, host = found[0].round, others[0].lineage.hosts[0]
        blobs = others[0].lineage.post.blobs
        assert wrong.before != NOTHING
        for name in (wrong.before, *(it.digest for it in wrong.inputs)):
            assert sha256_of(blobs.path(name)) == name
        base = await host._bench.working(wrong.parent)
        assert base.path.exists()


async def test_who_lied_is_followed_no_more_after_a_restart_either(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=3, tensors=1) as swarm:
        liar, others, _ = await deposed(swarm)
        one, other = others
        one.kill()
        await one.start()
        await swarm.until(lambda: swarm.primary() not in (None, liar))
        had = min(daemon.rounds() for daemon in others)
        await swarm.came(had + 2, other, one)
        assert not liar.leads()
        assert liar.id not in one.lineage.hosts[0].replica._others()


async def test_a_replica_without_a_worker_follows_and_two_that_have_one_go_on(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, daemons=3, tensors=1, learners=1) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        idle = next(daemon for daemon in swarm.daemons if not daemon.leads())
        able = [daemon for daemon in swarm.daemons if daemon is not idle]
        await idle.pause()
        able[0].join()
        await swarm.came(3, *swarm.daemons)
        asked = idle.compute.asked.count("aggregate")
        chain = idle.lineage.chains[0]
        await swarm.until(lambda: chain.record(2) is not None)
        record = chain.record(2)
        assert record is not None
        assert idle.id not in {one.replica for one in record.by}
        idle.resume()
        had = idle.rounds()
        await swarm.came(had + 3, *swarm.daemons)
        await swarm.until(lambda: idle.compute.asked.count("aggregate") > asked)


async def test_the_outer_state_outlives_its_primary_and_its_group(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=6, tensors=1, learners=1) as swarm:
        old, new, learner = swarm.daemons[:3], swarm.daemons[2:5], swarm.daemons[5]
        swarm.turn(old)
        learner.join()
        await swarm.came(2, learner)
        await swarm.until(lambda: swarm.primary() is not None)
        first = swarm.primary()
        assert first is not None
        if first is not old[2]:
            first.kill()  # a take-over in the group, then a group that hardly knows it
        had = learner.rounds()
        await swarm.came(had + 2, learner)
        swarm.turn(new)
        had = learner.rounds()
        await swarm.came(had + 3, learner)
        chain = learner.lineage.chains[0]
        rounds = [chain.record(number) for number in range(chain.number)]
        decided = [one.round for one in rounds if one is not None]
        assert len(decided) > 5
        for before, after in pairwise(decided):
            assert after.before == before.after != NOTHING
        lost = [daemon for daemon in swarm.daemons if daemon.of("training.momentum-lost")]
        assert not lost


async def test_whose_own_disk_rots_accuses_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=3, tensors=1, learners=1) as swarm:
        daemon, *others = swarm.daemons
        others[0].join()
        await swarm.came(3, *swarm.daemons)
        host = daemon.lineage.hosts[0]
        found: list[Wrong] = []
        host.on_wrong = found.append
        decided = host.rounds.log.last
        assert decided is not None
        blobs = daemon.lineage.post.blobs
        by = Endorsement(others[0].id, bytes(64))
        await host._accuse(Lied(decided, by))
        assert [it.round for it in found] == [decided], "what is on this disk is whole"
        path = blobs.path(decided.inputs[0].digest)
        path.write_bytes(bytes(path.stat().st_size))
        await host._accuse(Lied(decided, by))
        assert len(found) == 1
        await swarm.until(lambda: daemon.of("training.replica-damaged"))
