"""What the replication machine orders is done, and what came of it is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from protocols.replication import (
    Learn,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    StartProbe,
    StartRepair,
)
from synapsed.models import held_tiles, import_model, model_manifest
from synapsed.transfer.plan import model_tiles
from synapsed.transfer.repair import Repairs
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
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.moved: list[bytes] = []
        self.repairs = Repairs(node.puller, self.heard.append, self.emit, moved=self.moved.append)

    def emit(self, kind: str, /, **fields: Any) -> None:
        self.events.append((kind, fields))

    async def order(self, *orders: Learn | StartProbe | StartRepair) -> list[object]:
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
    assert set(machine.moved) == {cid}
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
    assert await machine.order(Learn(cid, (repairer.name,))) == []
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
