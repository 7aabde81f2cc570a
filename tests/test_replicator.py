"""Driving the replication machine: one look for many changes, and nothing left behind."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from protocols.gossip.shelf import Holding
from protocols.peerid import peer_id_of
from protocols.transfer.replication import Settings
from synapsed.holdings.replicas import Declined, Replicas
from synapsed.holdings.replicator import Replicator
from synapsed.models import import_model, remove_model
from synapsed.store.reasons import WATCHED
from tests.gossip_kit import cid
from tests.pipes import MemoryTable
from tests.store_kit import model_folder
from tests.transfer_rig import Node, world

THEM = peer_id_of(bytes([2]) * 32)
"""The other node of the world: alive, and not to be reached."""


TICK = 0.05
ORPHANS = 0.5


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr("synapsed.holdings.replicator.TICK_SECONDS", TICK)
    monkeypatch.setattr("synapsed.holdings.replicator.ORPHAN_SECONDS", ORPHANS)
    async with world(tmp_path) as made:
        node, away = made.node(), made.node()
        away.reachable = False
        assert away.name == THEM
        yield node


class Driven:
    """A replicator of `node`, whose catalog and heartbeats are written down."""

    def __init__(self, node: Node) -> None:
        self.holdings: dict[bytes, list[Holding]] = {}
        self.looked: Counter[bytes] = Counter()
        self.told: list[str] = []
        self.replicas = Replicas(node.store, Declined(MemoryTable()), lambda *_, **__: None)
        self.replicator = Replicator(
            node.name,
            Settings(),
            node.puller,
            self.replicas,
            holders=self._holders,
            room=lambda: {node.name: 1 << 40, THEM: 0},
            blame=node.blame,
            tell=lambda kind, /, **_: self.told.append(kind),
        )

    def _holders(self, model: bytes) -> list[Holding]:
        self.looked[model] += 1
        return self.holdings.get(model, [])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Replicator]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.replicas.run)
            nursery.start_soon(self.replicator.run)
            await trio.testing.wait_all_tasks_blocked()
            yield self.replicator
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(TICK / 5)


async def test_a_model_that_a_thousand_announce_is_looked_at_once(node: Node) -> None:
    """Each look goes through all its holders: a thousand looks would be a million steps."""
    driven = Driven(node)
    async with driven.running() as replicator:
        for _ in range(1000):
            replicator.holders_changed(cid("model"))
        assert not driven.looked
        await until(lambda: driven.looked)
        await trio.sleep(3 * TICK)
    assert driven.looked == {cid("model"): 1}


async def test_what_an_earlier_run_learned_of_a_model_that_is_gone_is_let_go_of(
    node: Node, tmp_path: Path
) -> None:
    store = node.store
    cids = []
    for name in ("gone", "there"):
        folder = model_folder(tmp_path / name, {name: 3000})
        cids.append(import_model(store, folder, name).cid)
        store.pin(cids[-1], WATCHED)
        store.unpin(cids[-1], "imported")
    driven = Driven(node)
    driven.holdings[cids[1]] = [Holding(THEM, ((0, 1),))]
    began = trio.current_time()
    async with driven.running() as replicator:
        replicator.holders_changed(cids[1])
        await until(lambda: not store.has_block(cids[0]))
        assert trio.current_time() - began > ORPHANS / 2
    assert [pin.cid for pin in store.pins()] == [cids[1]]
    assert store.has_block(cids[1])


async def test_what_the_owner_removed_is_watched_no_more(node: Node, tmp_path: Path) -> None:
    model = import_model(node.store, model_folder(tmp_path / "m", {"a": 3000}), "m").cid
    driven = Driven(node)
    driven.holdings[model] = [Holding(node.name, ((0, 4),)), Holding(THEM, ((0, 4),))]
    async with driven.running() as replicator:
        replicator.holders_changed(model)
        await until(lambda: replicator.standing(model).tiles)
        await driven.replicas.declined.add(model)
        replicator.holders_changed(model)
        remove_model(node.store, model)
        await until(lambda: not replicator.standing(model).tiles)
        await trio.sleep(3 * TICK)
    assert node.store.pins() == []
    assert node.store.quota.used == 0


def test_declined_models_are_remembered(tmp_path: Path) -> None:
    table = MemoryTable()

    async def main() -> None:
        declined = Declined(table)
        await declined.add(cid("a"))
        await declined.add(cid("b"))
        await declined.discard(cid("a"))
        await declined.discard(cid("never"))

    trio.run(main)
    again = Declined(table)
    assert cid("b") in again
    assert cid("a") not in again
