"""Our own shard announcements: what is held is what is said, wherever it lies."""

from pathlib import Path

import pytest
import trio

from protocols.cid import cid_of
from protocols.errors import LimitError
from protocols.gossip.announcement import ShardBody
from protocols.tensors.tiles import ModelTiles
from synapsed.holdings.shards import Shards
from synapsed.models import import_model, layouts_of, remove_model
from synapsed.store import Store
from synapsed.store.reasons import REPLICA, WATCHED

MIB = 1 << 20
SETTLE = 0.3


class Said:
    """What was announced and withdrawn, in order."""

    def __init__(self) -> None:
        self.bodies: list[ShardBody] = []
        self.withdrawn: list[bytes] = []
        self.pulling = False
        self._news = trio.Event()

    def shards(self, store: Store) -> Shards:
        return Shards(store, self._said, self._withdrew, lambda _cid: self.pulling, settle=SETTLE)

    def _said(self, body: ShardBody) -> None:
        self.bodies.append(body)
        self._news.set()

    def _withdrew(self, model: bytes) -> None:
        self.withdrawn.append(model)
        self._news.set()

    async def news(self) -> None:
        """Wait until something more is said or taken back."""
        with trio.fail_after(60):
            await self._news.wait()
        self._news = trio.Event()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", 1 << 30)


@pytest.fixture
def model(tmp_path: Path, store: Store) -> bytes:
    """A model of two flat files, 12 MiB and 1 MiB: tiles 0 to 2, and 3."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(bytes(range(256)) * (12 * MIB // 256))
    (folder / "more.json").write_bytes(b"{}" * (MIB // 2))
    safetensors = (2).to_bytes(8, "little") + b"{}"
    (folder / "z.safetensors").write_bytes(safetensors)
    return import_model(store, folder).cid


async def test_what_is_held_is_said_at_the_start(store: Store, model: bytes) -> None:
    said = Said()
    shards = said.shards(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        shards.all_changed()
        await said.news()
        nursery.cancel_scope.cancel()
    assert said.bodies == [ShardBody(model=model, tiles=((0, 5),))]


@pytest.mark.parametrize("kept", [(0, 1), (1, 2), (2, 4), (3, 4)])
async def test_a_part_in_any_place_is_said_as_it_is(
    store: Store, model: bytes, kept: tuple[int, int]
) -> None:
    manifest = store.manifest_of(model)
    tiles = ModelTiles(layouts_of(store, manifest))
    for tile in range(4):
        if not kept[0] <= tile < kept[1]:
            file, lo, hi = tiles.leaves(tile)
            store.file(manifest.files[file].root).drop(lo, hi)
    said = Said()
    shards = said.shards(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        shards.changed(model, at_once=True)
        await said.news()
        nursery.cancel_scope.cancel()
    runs = [(start, start + count) for start, count in said.bodies[0].tiles]
    held = {tile for start, stop in runs for tile in range(start, stop)}
    assert held == {*range(*kept), 4}


async def test_progress_is_said_now_and_then_and_a_removal_taken_back(
    store: Store, model: bytes
) -> None:
    said = Said()
    shards = said.shards(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        began = trio.current_time()
        for _ in range(50):
            shards.changed(model)
            await trio.sleep(SETTLE / 25)
        await said.news()
        periods = (trio.current_time() - began) / SETTLE
        assert 1 <= len(said.bodies) <= periods + 1
        remove_model(store, model)
        shards.changed(model, at_once=True)
        while not said.withdrawn:
            await said.news()
        nursery.cancel_scope.cancel()
    assert said.withdrawn == [model]


async def test_what_is_here_by_the_way_is_not_announced(store: Store, model: bytes) -> None:
    """Headers of models that we watch over, or what the owner has unpinned: were they announced,
    no model would ever vanish from a network that has once heard of it."""
    said = Said()
    shards = said.shards(store)
    store.unpin(model)
    store.pin(model, WATCHED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        shards.all_changed()
        shards.changed(model, at_once=True)
        await said.news()
        assert (said.bodies, said.withdrawn) == ([], [model])
        store.pin(model, REPLICA)
        shards.all_changed()
        await said.news()
        nursery.cancel_scope.cancel()
    assert [body.model for body in said.bodies] == [model]


async def test_more_models_than_may_be_announced_stop_nothing(
    store: Store, model: bytes, tmp_path: Path
) -> None:
    said = Said()
    full = True
    refused = trio.Event()

    def announce(body: ShardBody) -> None:
        if full:
            refused.set()
            raise LimitError("this daemon has 1024 announcements out already")
        said._said(body)

    shards = Shards(store, announce, said._withdrew, lambda _cid: False, settle=SETTLE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        shards.changed(model, at_once=True)
        with trio.fail_after(60):
            await refused.wait()
        full = False
        shards.changed(model, at_once=True)
        await said.news()
        nursery.cancel_scope.cancel()
    assert [body.model for body in said.bodies] == [model]


async def test_who_has_begun_to_collect_says_so(store: Store) -> None:
    said = Said()
    said.pulling = True
    unknown = cid_of(b"a model that is not here yet")
    shards = said.shards(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shards.run)
        shards.changed(unknown, at_once=True)
        await said.news()
        nursery.cancel_scope.cancel()
    assert said.bodies == [ShardBody(model=unknown, tiles=())]
