"""What the replication machine orders is done, and what came of it is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from protocols.transfer.replication import (
    Forget,
    Learn,
    LearnFailed,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    StartProbe,
    StartRepair,
)
from synapsed.holdings.replicas import Declined, Replicas
from synapsed.models import held_tiles, import_model, model_manifest, remove_model
from synapsed.store.reasons import REPLICA, WATCHED
from synapsed.transfer.plan import Part, model_tiles
from synapsed.transfer.repair import Order, Repairs
from tests.pipes import MemoryTable
from tests.store_kit import check_store, model_folder
from tests.transfer_rig import Node, World, world

MiB = 1 << 20


@pytest.fixture
async def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("synapsed.transfer.crew.LONELY_SECONDS", 0.3)
    with trio.fail_after(60):
        async with world(tmp_path) as made:
            yield made


class Machine:
    """Stands where the replication machine does: gives orders, hears of results."""

    def __init__(self, node: Node) -> None:
        self.heard: list[object] = []
        self.changed: list[bytes] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.declined = Declined(MemoryTable())
        self.replicas = Replicas(node.store, self.declined, self.change)
        self.repairs = Repairs(node.puller, self.replicas, self.heard.append, self.emit)

    def change(self, model: bytes, *, at_once: bool = False) -> None:
        self.changed.append(model)

    def emit(self, kind: str, /, **fields: Any) -> None:
        self.events.append((kind, fields))

    async def order(self, *orders: Order) -> list[object]:
        """What is heard when all orders are done."""
        self.heard.clear()
        async with trio.open_nursery() as nursery:
            for order in orders:
                self.repairs.perform(order, nursery)
        return self.heard


@pytest.fixture
async def holder(swarm: World, tmp_path: Path) -> tuple[Node, bytes]:
    node = swarm.node()
    folder = model_folder(tmp_path / "model", {"a": 300, "big.weight": 9 * MiB, "c": 2 * MiB})
    return node, import_model(node.store, folder, "made").cid


async def test_learning_probing_and_repairing(swarm: World, holder: tuple[Node, bytes]) -> None:
    node, cid = holder
    repairer = swarm.node()
    repairer.knows(node)
    machine = Machine(repairer)
    tiles = model_tiles(node.store, model_manifest(node.store, cid)).count
    size = sum(ref.size for ref in model_manifest(node.store, cid).files)

    assert await machine.order(Learn(cid, (node.name,))) == [ModelKnown(cid, tiles, size)]
    probes = [StartProbe(node.name, cid, tile, 7) for tile in range(tiles)]
    proven = [ProbeResult(cid, node.name, True)] * tiles
    assert await machine.order(*probes) == proven

    order = StartRepair(cid, 0, ((3, 2), (6, 1)))
    assert await machine.order(order) == [RepairEnded(cid, 0, True)]
    held = {
        tile
        for start, count in held_tiles(repairer.store, cid)
        for tile in range(start, start + count)
    }
    assert held >= {3, 4, 6}
    assert "replication.repaired" in [kind for kind, _ in machine.events]
    assert set(machine.changed) == {cid}
    check_store(repairer.store)


async def test_a_repair_that_cannot_be_done_says_so(
    swarm: World, holder: tuple[Node, bytes]
) -> None:
    node, cid = holder
    repairer = swarm.node()
    repairer.knows(node)
    machine = Machine(repairer)
    await machine.order(Learn(cid, (node.name,)))
    node.cut()
    repairer.knows()
    heard = await machine.order(StartRepair(cid, 2, ((3, 2),)), StartProbe(node.name, cid, 3, 0))
    assert RepairEnded(cid, 2, False) in heard
    assert ProbeResult(cid, node.name, None) in heard
    ((_, fields),) = [event for event in machine.events if event[0] == "replication.repair-failed"]
    assert fields["code"] == "pull-failed"


async def test_what_nobody_gives_is_not_known(swarm: World, holder: tuple[Node, bytes]) -> None:
    node, cid = holder
    repairer = swarm.node()
    node.cut()
    machine = Machine(repairer)
    # Only ourselves: nobody to ask.
    assert await machine.order(Learn(cid, (repairer.name,))) == [LearnFailed(cid)]
    assert [kind for kind, _ in machine.events] == ["replication.unknown"]


async def test_a_lost_tile_shows_in_a_probe(swarm: World, holder: tuple[Node, bytes]) -> None:
    node, cid = holder
    prober = swarm.node()
    machine = Machine(prober)
    await machine.order(Learn(cid, (node.name,)))
    model = model_manifest(node.store, cid)
    file, lo, hi = model_tiles(node.store, model).leaves(3)
    held = node.store.file(model.files[file].root)
    assert held is not None
    held.drop(lo, hi)
    heard = await machine.order(StartProbe(node.name, cid, 3, 0), StartProbe(node.name, cid, 4, 0))
    assert ProbeResult(cid, node.name, False) in heard
    assert ProbeResult(cid, node.name, True) in heard


# -- what is kept of it ---------------------------------------------------------------------------


async def test_what_was_learned_is_kept_from_gc_and_forgotten_when_it_is_not_needed(
    swarm: World, holder: tuple[Node, bytes]
) -> None:
    node, cid = holder
    watcher = swarm.node()
    machine = Machine(watcher)
    await machine.order(Learn(cid, (node.name,)))
    assert machine.replicas.watched() == [cid]
    used = watcher.store.quota.used
    watcher.store.gc()
    assert watcher.store.quota.used == used > 0
    assert await machine.order(StartProbe(node.name, cid, 3, 0)) == [
        ProbeResult(cid, node.name, True)
    ]
    assert await machine.order(Forget(cid)) == []
    assert watcher.store.quota.used == 0
    assert watcher.store.pins() == []
    assert machine.replicas.watched() == []


async def test_what_is_forgotten_and_kept_for_another_reason_stays(
    swarm: World, holder: tuple[Node, bytes]
) -> None:
    node, cid = holder
    machine = Machine(node)
    await machine.order(Learn(cid, (node.name,)))
    await machine.order(Forget(cid))
    assert [held.complete for held in node.store.files()] == [True] * len(node.store.files())
    assert [pin.reason for pin in node.store.pins()] == ["imported"]


async def test_a_repair_is_kept_and_told_and_one_that_brought_nothing_is_neither(
    swarm: World, holder: tuple[Node, bytes]
) -> None:
    node, cid = holder
    repairer = swarm.node()
    repairer.knows(node)
    machine = Machine(repairer)
    await machine.order(Learn(cid, (node.name,)))
    assert machine.changed == []
    repairer.knows()
    await machine.order(StartRepair(cid, 0, ((3, 2),)))
    assert machine.changed == []
    assert [pin.reason for pin in repairer.store.pins()] == [WATCHED]
    repairer.knows(node)
    assert await machine.order(StartRepair(cid, 0, ((3, 2),))) == [RepairEnded(cid, 0, True)]
    assert set(machine.changed) == {cid}
    assert [pin.reason for pin in repairer.store.pins()] == [REPLICA, WATCHED]


async def test_what_the_owner_removed_is_not_repaired_back(
    swarm: World, holder: tuple[Node, bytes]
) -> None:
    """Whether the repair begins after the removal, or runs while it happens."""
    node, cid = holder
    repairer = swarm.node()
    repairer.knows(node)
    machine = Machine(repairer)
    await machine.order(Learn(cid, (node.name,)))
    node.uploads.set_rate(4 * MiB)
    order = StartRepair(cid, 0, ((2, 4),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.order, order)
        while not machine.changed:
            await trio.sleep(0.02)
        await machine.declined.add(cid)
        await repairer.puller.stop(cid)
        remove_model(repairer.store, cid)
    machine.changed.clear()
    assert await machine.order(order) == [RepairEnded(cid, 0, False)]
    assert (repairer.store.pins(), repairer.store.files(), machine.changed) == ([], [], [])


# -- how much of it -------------------------------------------------------------------------------


async def test_strangers_get_a_share_of_the_quota_and_no_more(
    swarm: World, holder: tuple[Node, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.holdings.replicas.LOOK_SECONDS", 0.02)
    node, cid = holder
    repairer = swarm.node(quota=16 * MiB)
    repairer.knows(node)
    machine = Machine(repairer)
    replicas = machine.replicas
    swarm.nursery.start_soon(replicas.run)
    await machine.order(Learn(cid, (node.name,)))
    assert await machine.order(StartRepair(cid, 0, ((4, 1),))) == [RepairEnded(cid, 0, True)]
    while replicas.free > 4 * MiB:  # half of 16, less the 4 that are here
        await trio.sleep(0.02)
    machine.events.clear()
    assert await machine.order(StartRepair(cid, 0, ((5, 2),))) == [RepairEnded(cid, 0, False)]
    assert [fields["code"] for kind, fields in machine.events] == ["no-room-for-others"]
    # What is the owner's is not counted as others'.
    repairer.store.pin(cid, "pulled")
    await repairer.puller.pull(cid, Part(tensors=("c",)))
    while replicas.free < 7 * MiB:
        await trio.sleep(0.02)


async def test_junk_headers_are_bounded_in_all_and_of_each_model(
    swarm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.holdings.replicas.MAX_WATCHED", 200_000)
    monkeypatch.setattr("synapsed.holdings.replicas.MAX_LEARN", 60_000)
    sybil, victim = swarm.node(), swarm.node()
    machine = Machine(victim)
    junk = {f"{n:064}": 1 for n in range(300)}  # a header of 40 KB, and 10 KB of nodes
    cids = []
    for number in range(8):
        folder = model_folder(tmp_path / f"junk{number}", junk | {f"{number}": 1})
        cids.append(import_model(sybil.store, folder, f"junk {number}").cid)
    orders = [Learn(cid, (sybil.name,)) for cid in cids]
    for order in orders:
        await machine.order(order)
    learned = [cid for cid in cids if victim.store.has_block(cid)]
    assert 3 <= len(list(victim.store.files())) <= 4
    assert victim.store.quota.used < 2 * 200_000
    for cid in learned:
        await machine.order(Forget(cid))
    assert victim.store.quota.used == 0
    assert [type(it) for it in await machine.order(orders[-1])] == [ModelKnown]
