"""Probes: who has a sub-tile proves it, who has not is found out, who is away is neither."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocols.codec import encode
from protocols.manifest import ModelManifest
from protocols.tensors.blocks import Proven, ProveRequest, Refusal, Request
from protocols.tensors.tensorblock import LeafRangeError
from synapsed.models import IncompleteError, import_model, model_manifest
from synapsed.transfer.plan import model_tiles
from synapsed.transfer.probe import probe
from tests.store_kit import model_folder
from tests.transfer_rig import End, Node, World, world

MiB = 1 << 20


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(60):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
async def pair(swarm: World, tmp_path: Path) -> tuple[Node, Node, ModelManifest]:
    """A holder, one who knows the headers, and the model."""
    holder, asker = swarm.node(), swarm.node()
    folder = model_folder(tmp_path / "model", {"a": 300, "big.weight": 5 * MiB, "c": 2 * MiB})
    cid = import_model(holder.store, folder, "made").cid
    asker.knows(holder)
    await asker.puller.learn(cid)
    return holder, asker, model_manifest(asker.store, cid)


async def ask(pair: tuple[Node, Node, ModelManifest], tile: int, pick: int = 0) -> bool | None:
    holder, asker, model = pair
    return await probe(asker, asker.store, holder.name, model, tile=tile, pick=pick)


async def test_every_tile_of_a_holder_can_be_proven(
    pair: tuple[Node, Node, ModelManifest],
) -> None:
    count = model_tiles(pair[1].store, pair[2]).count
    assert count > 6
    for tile in range(count):
        for pick in (0, 5, 12_345_678):
            assert await ask(pair, tile, pick) is True
    with pytest.raises(LeafRangeError):
        await ask(pair, count)


async def test_the_pick_chooses_the_sub_tile(pair: tuple[Node, Node, ModelManifest]) -> None:
    holder, _, model = pair
    asked: set[int] = set()

    async def look(node: Node, end: End, request: Request) -> bool:
        if isinstance(request, ProveRequest):
            asked.add(request.leaf)
        return False

    holder.bend = look
    tiles = model_tiles(holder.store, model)
    big = max(range(tiles.count), key=lambda t: tiles.leaves(t)[2] - tiles.leaves(t)[1])
    for pick in range(32):
        assert await ask(pair, big, pick)
    assert asked == set(range(*tiles.leaves(big)[1:]))


async def test_who_lost_a_sub_tile_is_refuted(pair: tuple[Node, Node, ModelManifest]) -> None:
    holder, _, model = pair
    file, lo, hi = model_tiles(holder.store, model).leaves(4)
    held = holder.store.file(model.files[file].root)
    assert held is not None
    held.drop(lo, hi)
    assert await ask(pair, 4) is False


@pytest.mark.parametrize("where", [0, -1])
async def test_who_sends_other_bytes_or_another_proof_is_refuted(
    pair: tuple[Node, Node, ModelManifest], where: int
) -> None:
    holder, *_ = pair
    bent = 0

    async def forge(node: Node, end: End, request: Request) -> bool:
        nonlocal bent
        if not isinstance(request, ProveRequest):
            return False
        bent += 1
        held = node.store.file(request.root)
        assert held is not None
        proof = held.prove(request.leaf, request.leaf + 1)
        raw = bytearray(b"".join(proof) + held.read(request.leaf, request.leaf + 1))
        raw[where] ^= 1
        await end.write_frame(encode(Proven(length=len(raw), hashes=len(proof))))
        await end.write(bytes(raw))
        return True

    holder.bend = forge
    tiles = model_tiles(holder.store, pair[2])
    big = max(range(tiles.count), key=lambda t: tiles.leaves(t)[2] - tiles.leaves(t)[1])
    assert await ask(pair, big) is False
    assert bent


@pytest.mark.parametrize("code", ["busy", "paused"])
async def test_who_has_no_time_is_neither(
    pair: tuple[Node, Node, ModelManifest], code: str
) -> None:
    async def refuse(node: Node, end: End, request: Request) -> bool:
        await end.write_frame(encode(Refusal(code=code)))  # type: ignore[arg-type]
        return True

    pair[0].bend = refuse
    assert await ask(pair, 1) is None


async def test_who_is_away_or_silent_is_neither(
    pair: tuple[Node, Node, ModelManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.transfer.probe.PROBE_SECONDS", 0.2)

    async def silent(node: Node, end: End, request: Request) -> bool:
        await trio.sleep_forever()
        return True

    pair[0].bend = silent
    assert await ask(pair, 1) is None
    pair[0].cut()
    assert await ask(pair, 1) is None


async def test_without_the_headers_nobody_can_be_probed(
    swarm: World, pair: tuple[Node, Node, ModelManifest]
) -> None:
    stranger = swarm.node()
    with pytest.raises(IncompleteError):
        await probe(stranger, stranger.store, pair[0].name, pair[2], tile=1, pick=0)
