"""Daemons that die and come back, and epochs that end, while rounds go on."""

import time
from pathlib import Path

import pytest
import trio

from synapsed.training import exchange
from synapsed.training.service import now_ms
from tests.training_kit import Daemon, world


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


async def test_a_primary_that_falls_silent_with_its_log_half_sent_is_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Powered off: no connection ends, and what a follower asked it for never comes. The successor
    needs that follower, and gives it the same blobs."""
    monkeypatch.setattr(exchange, "HURRY_SECONDS", 0.2)
    async with world(tmp_path, daemons=4, tensors=1, learners=1) as swarm:
        swarm.turn(swarm.daemons[:3])
        learner = swarm.daemons[3]
        await swarm.until(lambda: swarm.primary() is not None)
        silent = swarm.primary()
        assert silent is not None
        near, far = (it for it in swarm.daemons[:3] if it is not silent)
        half_sent = trio.Event()

        async def to_one_only(peer: bytes, _size: int) -> None:
            if peer == far.id:
                half_sent.set()
                await trio.sleep_forever()

        assert silent.service is not None
        silent.service.exchange._grant = to_one_only
        learner.join()
        await half_sent.wait()
        await swarm.until(lambda: near.of("training.taken") or near.of("training.round"))
        monkeypatch.setattr(silent.service.links, "say", lambda *_: None)

        def succeeded(by: Daemon) -> bool:
            return by is not silent and by.leads()

        with trio.fail_after(60):
            await swarm.until(lambda: any(map(succeeded, swarm.daemons)))


async def test_what_was_aggregated_for_an_epoch_before_is_no_result_of_this_one(
    tmp_path: Path,
) -> None:
    """Its primary was slow, and leads again: it asks anew, with what has come since."""
    async with world(tmp_path, daemons=3, tensors=1, learners=1) as swarm:
        gate = trio.Event()
        for daemon in swarm.daemons:
            daemon.compute.gates["aggregate"] = gate
        first, second, _ = swarm.daemons
        first.join()
        await swarm.until(lambda: any(it.compute.asked.count("aggregate") for it in swarm.daemons))
        slow = next(it for it in swarm.daemons if it.compute.asked.count("aggregate"))
        second.join()
        host = slow.lineage.hosts[0]
        await swarm.until(lambda: len(host.rounds.log.pending) == 2)
        swarm.turn(swarm.daemons)
        await swarm.until(lambda: host.seats[0].epoch == swarm.epoch)
        await swarm.until(lambda: swarm.primary() is not None)
        gate.set()
        await swarm.came(1, *swarm.daemons)
        assert not [daemon for daemon in swarm.daemons if daemon.of("handler.failed")]
        assert not [daemon for daemon in swarm.daemons if daemon.of("training.wrong-result")]


def test_a_lease_ends_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_MONOTONIC: 1_000_000_000, time.CLOCK_BOOTTIME: 61_000_000_000}
    monkeypatch.setattr(time, "clock_gettime_ns", clocks.__getitem__)
    assert now_ms() == 61_000
