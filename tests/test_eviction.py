"""What is held for others gives way to the owner: in which order, how much, and what never."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocols.slots.abi import Batch
from protocols.slots.eviction import CANDIDATES, HEADERS, TILES, WORTH
from synapsed.holdings.eviction import SLACK, Evictor
from synapsed.holdings.replicas import Declined, Replicas
from synapsed.holdings.uses import Uses
from synapsed.models import held_tiles, import_model, model_manifest, promised
from synapsed.models.spare import let_go, spares
from synapsed.store import QuotaExceededError, Store
from synapsed.store.reasons import IMPORTED, OWNER, REPLICA, WATCHED
from synapsed.transfer.errors import StoppedError
from synapsed.transfer.plan import Part, model_tiles
from tests.eviction_kit import Elsewhere, Slots, Told
from tests.pipes import MemoryTable
from tests.store_kit import check_store, model_folder, reopened
from tests.transfer_rig import Node, World, world

MIB = 1 << 20
QUOTA = 64 * MIB
OTHERS = [bytes([n]) * 38 for n in range(1, 5)]
LARGE = 300 * MIB


def copy_of(store: Store, folder: Path, name: str, size: int = 8 * MIB) -> bytes:
    """A model of one file that is held for others."""
    source = model_folder(folder / name, {name: size, "end": 512})
    cid = import_model(store, source / "model.safetensors", name).cid
    store.pin(cid, REPLICA)
    store.unpin(cid, IMPORTED)
    return cid


def tile_count(store: Store, cid: bytes) -> int:
    return model_tiles(store, model_manifest(store, cid)).count


def held(store: Store, cid: bytes) -> int:
    """Bytes of a model that are here, headers aside."""
    if not store.has_block(cid):
        return 0
    helds = [store.file(ref.root) for ref in model_manifest(store, cid).files]
    return sum(it.held_bytes - len(it.header) for it in helds if it is not None)


class Owner:
    """An evictor over a store, and what came of it."""

    def __init__(self, store: Store, slots: Slots | None = None, regret: float = 600.0) -> None:
        self.store = store
        self.changed: list[bytes] = []
        self.told = Told()
        self.elsewhere = Elsewhere()
        self.slots = slots or Slots()
        self.uses = Uses(MemoryTable())
        self.replicas = Replicas(store, Declined(MemoryTable()), self.change)
        self.evictor = Evictor(
            store,
            self.replicas,
            self.elsewhere,
            self.uses,
            wanted=3,
            changed=self.change,
            tell=self.told,
            slots=self.slots,
            regret=regret,
        )

    def change(self, model: bytes, *, at_once: bool = False) -> None:
        assert at_once
        self.changed.append(model)

    def known(self, *models: bytes, peers: int = 3) -> None:
        for model in models:
            self.elsewhere.has(model, tile_count(self.store, model), *OTHERS[:peers])

    async def needs(self, size: int) -> None:
        with self.evictor.room() as room:
            await room.make(size)

    def evicted(self) -> dict[str, int]:
        return {it["model"]: it["bytes"] for it in self.told.of("replication.evicted")}


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(30):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
async def node(swarm: World) -> Node:
    return swarm.node(quota=QUOTA)


async def test_copies_for_others_give_way_and_no_more_than_is_needed(
    node: Node, tmp_path: Path
) -> None:
    owner = Owner(node.store)
    cids = [copy_of(node.store, tmp_path, f"copy{n}") for n in range(6)]
    owner.known(*cids)
    free = QUOTA - node.store.quota.used
    await owner.needs(free)  # it fits: nothing goes
    assert owner.changed == []
    await owner.needs(free + 10 * MIB)
    gone = [cid for cid in cids if not held(node.store, cid)]
    assert len(gone) == 2  # 8 MiB each, and 10 are needed
    assert set(owner.changed) == set(gone)
    assert promised(node.store) == set(cids) - set(gone)
    assert QUOTA - node.store.quota.used >= free + 10 * MIB
    check_store(node.store)


async def test_what_would_leave_too_few_copies_goes_last(node: Node, tmp_path: Path) -> None:
    owner = Owner(node.store)
    scarce, plenty = (copy_of(node.store, tmp_path, name) for name in ("scarce", "plenty"))
    owner.known(scarce, peers=2)
    owner.known(plenty, peers=3)
    owner.uses.gave(model_manifest(node.store, plenty).files[-1].root, 1 << 40)  # loved by all
    await owner.needs(QUOTA - node.store.quota.used + MIB)
    assert held(node.store, scarce) == 8 * MIB + 512
    assert held(node.store, plenty) == 0
    await owner.needs(QUOTA - node.store.quota.used + MIB)  # then that goes, too
    assert held(node.store, scarce) == 0


async def test_another_policy_in_force_evicts_something_else(node: Node, tmp_path: Path) -> None:
    """The same store under the reference and under one that keeps what nobody asks for."""

    def contrary(batch: Batch) -> None:
        served = batch.column(CANDIDATES, "served").tolist()
        batch.answered(WORTH, [(1 << 40) - min(given, 1 << 39) for given in served])

    lost = []
    for slots in (Slots(), Slots(eviction=contrary)):
        store = Store.open(tmp_path / f"store{len(lost)}", QUOTA)
        folder = tmp_path / f"models{len(lost)}"
        loved, ignored = (copy_of(store, folder, name) for name in ("loved", "ignored"))
        owner = Owner(store, slots)
        owner.known(loved, ignored)
        weights = next(r for r in model_manifest(store, loved).files if r.layout == "safetensors")
        owner.uses.gave(weights.root, 1 << 30)
        await owner.needs(QUOTA - store.quota.used + MIB)
        lost.append([cid for cid in (loved, ignored) if not held(store, cid)])
        store.close()
    assert lost == [[ignored], [loved]]


async def test_nothing_of_the_owners_goes_whatever_the_slot_says(
    node: Node, tmp_path: Path
) -> None:
    """Of what is pinned it never hears; and a pin that comes while it decides still counts."""
    store = node.store
    pinned, pulled, late = (copy_of(store, tmp_path, n) for n in ("pinned", "pulled", "late"))
    store.pin(pinned, OWNER)
    store.unpin(pulled)
    store.pin(pulled, "pulled")

    def meanwhile(batch: Batch) -> None:
        store.pin(late, OWNER)
        batch.answered(WORTH, [-1] * batch.rows[0])

    owner = Owner(store, Slots(eviction=meanwhile))
    owner.known(pinned, pulled, late)
    with pytest.raises(QuotaExceededError):
        await owner.needs(QUOTA - store.quota.used + MIB)
    assert [batch.rows for batch in owner.slots.batches] == [(1,)]
    assert [held(store, cid) for cid in (pinned, pulled, late)] == [8 * MIB + 512] * 3
    assert owner.changed == []


async def test_a_small_file_that_copies_share_goes_with_the_last(
    node: Node, tmp_path: Path
) -> None:
    """The same config in two models: to let go of one is not to spoil the other."""
    store = node.store
    cids = []
    for name in ("one", "two"):
        cid = import_model(store, model_folder(tmp_path / name, {name: 2 * MIB}), name).cid
        store.pin(cid, REPLICA)
        store.unpin(cid, IMPORTED)
        cids.append(cid)
    tiles = {cid: sum(count for _, count in held_tiles(store, cid)) for cid in cids}
    first, second = (spare for spare in spares(store) if not spare.watched)
    gone = let_go(store, [first])
    assert gone.fewer == {first.model}
    assert sum(count for _, count in held_tiles(store, second.model)) == tiles[second.model]
    let_go(store, spares(store))
    assert (store.files(), store.pins(), store.quota.used) == ([], [], 0)


async def test_what_is_not_enough_stays(node: Node, tmp_path: Path) -> None:
    owner = Owner(node.store)
    cid = copy_of(node.store, tmp_path, "copy")
    with pytest.raises(QuotaExceededError):
        await owner.needs(QUOTA)
    assert held(node.store, cid) == 8 * MIB + 512
    assert owner.slots.batches == []


async def test_a_large_model_loses_tiles_and_not_all_of_itself(tmp_path: Path) -> None:
    """Groups of 64 tiles, of which the candidates of one model are many."""
    store = Store.open(tmp_path / "store", 2 * LARGE)
    owner = Owner(store)
    tensors = {f"{n:03}": 64 * 1024 for n in range(640)}  # a tile each
    cid = import_model(store, model_folder(tmp_path / "m", tensors), "m").cid
    store.pin(cid, REPLICA)
    store.unpin(cid, IMPORTED)
    owner.known(cid)
    store.quota.limit = store.quota.used
    await owner.needs(2 * MIB)
    (batch,) = owner.slots.batches
    assert batch.rows[0] > 10
    assert sum(owner.evicted().values()) < 2 * MIB + SLACK + 5 * MIB
    tiles = sum(count for _, count in held_tiles(store, cid))
    assert 0 < tiles < 640
    assert REPLICA in [pin.reason for pin in store.pins()]
    check_store(store)
    store.close()


async def test_an_owners_expert_stays_in_a_model_that_gives_way(node: Node, tmp_path: Path) -> None:
    store = node.store
    found = import_model(store, model_folder(tmp_path / "moe"), "moe")
    store.pin(found.cid, REPLICA)
    store.unpin(found.cid, IMPORTED)
    expert = next(iter(found.experts.values()))
    store.pin(expert, "pulled")
    owned = store.reached_bytes([expert])
    owner = Owner(store)
    owner.known(found.cid)
    whole = store.quota.used
    store.quota.limit = whole
    await owner.needs(1)
    assert store.quota.used < whole
    assert store.reached_bytes([expert]) == owned
    assert found.cid in promised(store)
    check_store(store)


async def test_watched_headers_go_where_tiles_are_not_enough(node: Node, tmp_path: Path) -> None:
    store = node.store
    watched, copied = (copy_of(store, tmp_path, name) for name in ("watched", "copied"))
    for cid in (watched, copied):
        store.pin(cid, WATCHED)
    store.unpin(watched, REPLICA)
    store.gc()
    assert held(store, watched) == 0
    owner = Owner(store)
    owner.known(watched, copied)
    kinds = {(spare.watched, spare.model) for spare in spares(store)}
    assert kinds == {(True, watched), (False, copied)}
    total = sum(spare.size for spare in spares(store))
    store.quota.limit = store.quota.used
    await owner.needs(total)
    assert owner.elsewhere.forgotten == [watched]
    assert not store.has_block(watched)
    assert held(store, copied) == 0
    kinds_asked = owner.slots.batches[0].column(CANDIDATES, "kind").tolist()
    assert sorted(kinds_asked) == [TILES, HEADERS]
    check_store(store)


async def test_a_crash_in_between_leaves_what_the_disk_says(node: Node, tmp_path: Path) -> None:
    """Dropped leaves are on record before the pin goes: after a restart nothing is believed that
    is not there, and what is left is announced as it is."""
    store = node.store
    cid = copy_of(store, tmp_path, "copy")
    whole = sum(count for _, count in held_tiles(store, cid))
    (spare,) = spares(store)
    unpin, store.unpin = store.unpin, lambda *_: (_ for _ in ()).throw(OSError("power cut"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="power cut"):
        let_go(store, [spare])
    store.unpin = unpin  # type: ignore[method-assign]
    again = reopened(store)
    node.store = again
    assert sum(count for _, count in held_tiles(again, cid)) < whole
    assert again.pins() == [(cid, REPLICA)]
    check_store(again)
    (husk,) = spares(again)  # headers, and a pin of nothing else
    assert husk.size == again.quota.used
    let_go(again, [husk])
    assert (again.pins(), again.files(), again.quota.used) == ([], [], 0)


async def test_it_is_looked_back_at_what_was_evicted_in_vain(node: Node, tmp_path: Path) -> None:
    store = node.store
    cid = copy_of(store, tmp_path, "copy", 4 * MIB)
    owner = Owner(store, regret=0.05)
    owner.known(cid)
    store.quota.limit = store.quota.used
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.evictor.run)
        await owner.needs(MIB)
        store.quota.limit = QUOTA
        import_model(
            store, tmp_path / "copy" / "model.safetensors", "copy"
        )  # the owner wanted it, after all
        while not owner.slots.achieved:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    need = MIB + SLACK + 1024
    beyond = 4 * MIB + 512 - need
    vain = (beyond + 4 * MIB + 512) * 1_000_000 // need
    ((slot, value),) = owner.slots.achieved
    assert slot == "eviction"
    assert abs(value - vain) < 200_000  # the small files of the folder are a part of it


# -- in a real pull and a real import ------------------------------------------------------------


async def test_the_owners_pull_makes_its_room_and_strangers_wait(
    swarm: World, tmp_path: Path
) -> None:
    holder, puller = swarm.node(), swarm.node(quota=QUOTA)
    wanted = import_model(
        holder.store, model_folder(tmp_path / "wanted", {"w": 30 * MIB}), "wanted"
    ).cid
    puller.knows(holder)
    owner = Owner(puller.store)
    copies = [copy_of(puller.store, tmp_path, f"copy{n}") for n in range(6)]
    owner.known(*copies)
    free: list[int] = []
    with owner.evictor.room() as room:
        puller.store.pin(wanted, "pulled")
        await puller.puller.pull(
            wanted, progress=lambda _: free.append(owner.replicas.free), make_room=room.make
        )
    assert model_manifest(puller.store, wanted)
    assert held(puller.store, wanted) >= 30 * MIB
    assert len([cid for cid in copies if not held(puller.store, cid)]) == 2
    assert max(free) < 8 * MIB  # what was freed is the owner's until it is used
    assert puller.store.quota.used <= QUOTA
    check_store(puller.store)


async def test_a_repair_ends_where_the_owner_needs_its_room(swarm: World, tmp_path: Path) -> None:
    holder, ours = swarm.node(), swarm.node(quota=QUOTA)
    model = import_model(holder.store, model_folder(tmp_path / "m", {"w": 16 * MIB}), "m").cid
    ours.knows(holder)
    holder.uploads.set_rate(4 * MIB)
    owner = Owner(ours.store)
    ours.store.pin(model, REPLICA)
    ended: list[type] = []

    async def repair() -> None:
        try:
            with owner.replicas.repairing() as room:
                await ours.puller.pull(model, Part(tiles=((2, 2),)), room=room)
        except StoppedError as error:
            ended.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair)
        while ours.store.quota.used < 2 * MIB:
            await trio.sleep(0.01)
        owner.known(model)
        ours.store.quota.limit = ours.store.quota.used
        await owner.needs(MIB)
    assert ended == [StoppedError]
    assert owner.evicted()
    check_store(ours.store)


async def test_an_import_makes_its_room(node: Node, tmp_path: Path) -> None:
    owner = Owner(node.store)
    copies = [copy_of(node.store, tmp_path, f"copy{n}") for n in range(7)]
    owner.known(*copies)
    source = model_folder(tmp_path / "own", {"w": 20 * MIB})

    def take(make_room: object) -> bytes:
        return import_model(node.store, source, "own", make_room=make_room).cid  # type: ignore[arg-type]

    with pytest.raises(QuotaExceededError):
        await trio.to_thread.run_sync(take, None)
    with owner.evictor.room() as room:
        cid = await trio.to_thread.run_sync(take, room.make_from_thread)
        assert owner.replicas.claimed < MIB  # nothing is kept free that has been used
    assert held(node.store, cid) >= 20 * MIB
    assert len([one for one in copies if held(node.store, one)]) == 5
    check_store(node.store)


async def test_a_lower_quota_is_kept_as_far_as_copies_go(node: Node, tmp_path: Path) -> None:
    owner = Owner(node.store)
    owned = import_model(node.store, model_folder(tmp_path / "own", {"w": 4 * MIB}), "own").cid
    copies = [copy_of(node.store, tmp_path, f"copy{n}") for n in range(3)]
    owner.known(*copies)
    node.store.quota.limit = 10 * MIB
    await owner.evictor.fit()
    assert node.store.quota.used <= 10 * MIB
    node.store.quota.limit = MIB
    await owner.evictor.fit()  # the owner's alone is more: then nothing more goes
    assert held(node.store, owned) >= 4 * MIB
