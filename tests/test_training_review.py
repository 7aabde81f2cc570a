"""Committed rounds, recomputed by who did not serve their group."""

from pathlib import Path

import pytest

from protocols.learn.case import RoundCase
from protocols.learn.claims import NOTHING
from synapsed.training import review
from synapsed.training.review import is_ours
from tests.training_kit import Daemon, World, world


async def learned(swarm: World) -> Daemon:
    """Somebody who learns and serves nothing, once some rounds are committed."""
    await swarm.until(lambda: swarm.primary() is not None)
    stranger = next(daemon for daemon in swarm.daemons if not daemon.hosts())
    for daemon in swarm.daemons:
        daemon.join()
    await swarm.came(3, stranger)
    return stranger


async def newest(daemon: Daemon) -> review.Reviewed:
    """What it says of the newest round that it knows: the one whose outer state is kept."""
    chain = daemon.lineage.chains[0]
    return await daemon.lineage.reviewer.review(0, chain.number - 1)


async def test_a_stranger_finds_an_honest_round_right(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=4, tensors=1, learners=2) as swarm:
        stranger = await learned(swarm)
        found = await newest(stranger)
        assert (found.answer, found.why) == ("right", "")
        assert found.record is not None
        assert found.record.round.before != NOTHING
        assert len(found.record.by) >= 2
        assert not stranger.lineage.accuser.waiting
        assert not (stranger.lineage.post.blobs.folder / "tmp" / "review").exists()
        assert stranger.of("training.reviewed")


async def test_what_all_three_forged_is_found_by_a_stranger(tmp_path: Path) -> None:
    """They endorse each other's lie, so it is committed; their signatures condemn them."""
    async with world(tmp_path, daemons=4, tensors=1, learners=2) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        three = [daemon for daemon in swarm.daemons if daemon.hosts()]
        assert len(three) == 3
        for daemon in three:
            daemon.compute.cheats = True
        stranger = await learned(swarm)
        found = await newest(stranger)
        assert found.answer == "wrong"
        assert "head" in found.why
        assert found.record is not None
        signers = {each.replica for each in found.record.by}
        waiting = stranger.lineage.accuser.waiting
        await swarm.until(lambda: signers <= waiting.keys())
        for who in signers:
            case = waiting[who].case
            assert isinstance(case, RoundCase)
            assert case.by.replica == who
            assert case.round == found.record.round


async def test_what_nobody_keeps_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "ASK_S", 0.05)
    async with world(tmp_path, daemons=4, tensors=1, learners=2) as swarm:
        stranger = await learned(swarm)
        found = await stranger.lineage.reviewer.review(0, 10_000)
        assert (found.answer, found.record) == ("gone", None)
        record = stranger.lineage.chains[0].record(1)
        assert record is not None
        for daemon in swarm.daemons:
            daemon.lineage.post.blobs.drop([record.round.before])
        found = await stranger.lineage.reviewer.review(0, 1)
        assert found.answer == "gone"
        assert record.round.before.hex()[:16] in found.why


async def test_whose_turn_it_is_is_drawn_from_the_round(tmp_path: Path) -> None:
    async with world(tmp_path, daemons=4, tensors=1, learners=2) as swarm:
        stranger = await learned(swarm)
        await swarm.came(8, stranger)
        records = [stranger.lineage.chains[0].record(number) for number in range(8)]
        known = [record for record in records if record is not None]
        assert all(is_ours(record, stranger.id, 1) for record in known)
        many = [b"learner %d" % number for number in range(2000)]
        for record in known:
            drawn = sum(is_ours(record, who, 20) for who in many)
            assert 50 < drawn < 150  # one in 20
        sets = {frozenset(who for who in many if is_ours(it, who, 20)) for it in known}
        assert len(sets) == len(known)  # others for each round
