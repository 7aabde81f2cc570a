"""Pulls between daemons' transfer layers, over streams in memory and real stores."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from protocols.cid import cid_of
from protocols.manifest import ExpertManifest, ModelManifest, encode_manifest
from protocols.tensors.blocks import FetchRequest, Request
from protocols.tensors.tensorblock import SUBTILE
from protocols.transfer.pullpeer import DEPTH
from synapsed.models import (
    UnknownPartError,
    experts,
    export_model,
    import_model,
    model_manifest,
    remove_model,
    sections_of,
)
from synapsed.store import QuotaExceededError
from synapsed.transfer.errors import PullFailedError, StoppedError
from synapsed.transfer.limits import NoRoomError, Room
from synapsed.transfer.plan import Part
from synapsed.transfer.progress import PullProgress, PullReport
from tests.store_kit import Events, check_store, model_folder, moe_tensors, reopened, same_folders
from tests.transfer_rig import End, Node, World, world

MiB = 1 << 20
TENSORS = moe_tensors() | {"big.weight": 9 * MiB}


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(60):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", TENSORS, shards=2)


def imported(node: Node, folder: Path) -> bytes:
    return import_model(node.store, folder, "made").cid


def model_of(node: Node, cid: bytes) -> ModelManifest:
    return model_manifest(node.store, cid)


def whole(node: Node, cid: bytes) -> bool:
    """Whether the node has all of a model, and nothing bad."""
    check_store(node.store)
    helds = [node.store.file(ref.root) for ref in model_of(node, cid).files]
    return all(held is not None and held.complete for held in helds)


async def test_a_pulled_model_is_the_same_on_disk(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    seen: list[PullProgress] = []
    report = await newcomer.puller.pull(cid, progress=seen.append)
    export_model(newcomer.store, cid, swarm.folder / "out")
    assert same_folders(folder, swarm.folder / "out")
    assert whole(newcomer, cid)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert report.total == size
    assert report.copies == 0
    assert [share.peer for share in report.peers] == [origin.name]
    assert seen[-1].done == seen[-1].total == size
    assert seen[-1].tiles_done == seen[-1].tiles_total
    tiles = {(tile.root, tile.tile): tile for progress in seen for tile in progress.changed}
    assert tiles
    assert all(tile.held == tile.leaves for tile in tiles.values())
    assert not newcomer.blamed
    assert newcomer.puller.active == 0


async def test_what_is_here_is_not_fetched_again(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    await newcomer.puller.pull(cid)
    asked = len(origin.asked)
    report = await newcomer.puller.pull(cid)
    assert report.fetched == 0
    assert report.total > 0
    assert len(origin.asked) == asked


async def test_three_holders_give_a_part_each(swarm: World, folder: Path) -> None:
    holders, newcomer = [swarm.node() for _ in range(3)], swarm.node()
    for holder in holders:
        cid = imported(holder, folder)
        holder.uploads.set_rate(4 * MiB)
    newcomer.knows(*holders)
    report = await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    assert {share.peer for share in report.peers} == {holder.name for holder in holders}
    assert min(share.bytes for share in report.peers) > report.fetched / 6


async def test_partial_holders_are_enough_together(swarm: World, folder: Path) -> None:
    origin, left, right, newcomer = (swarm.node() for _ in range(4))
    cid = imported(origin, folder)
    half = experts(origin.store, cid)
    names = sorted(half)
    for holder, part in (
        (left, Part(experts=tuple(names[::2]), tensors=("big.weight",))),
        (right, Part(experts=tuple(names[1::2]))),
    ):
        holder.knows(origin)
        await holder.puller.pull(cid, part)
    origin.cut()
    newcomer.knows(left, right)
    report = await newcomer.puller.pull(cid, Part(experts=tuple(names), tensors=("big.weight",)))
    assert report.fetched == report.total
    assert {share.peer for share in report.peers} == {left.name, right.name}
    check_store(newcomer.store)


# -- parts ----------------------------------------------------------------------------------


async def test_one_expert_moves_only_its_sub_tiles(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    expert = experts(origin.store, cid)["layer1.expert2"]
    ours = {(ref.file, ref.section) for ref in expert.tensors}
    newcomer.knows(origin)
    report = await newcomer.puller.pull(origin.store.put_block(encode_manifest(expert)))
    assert report.total == report.fetched == 3 * 3000
    moved = set()
    model = model_of(newcomer, cid)
    files = {ref.root: number for number, ref in enumerate(model.files)}
    for request in origin.asked:
        layout = origin.store.file(request.root).layout  # type: ignore[union-attr]
        for section in layout.sections_of_run(request.lo, request.hi):
            moved.add((files[request.root], section.index))
    assert moved == ours
    assert origin.sent_leaves == len(ours)


async def test_named_tensors_and_experts_move_alone(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    part = Part(experts=("layer0.expert1",), tensors=("model.layers.1.self_attn.q_proj.weight",))
    report = await newcomer.puller.pull(cid, part)
    assert report.fetched == 4 * 3000
    places = sections_of(newcomer.store, cid, part.experts, part.tensors)
    assert origin.sent_leaves == sum(map(len, places.values())) == 4
    for file, sections in places.items():
        held = newcomer.store.file(model_of(newcomer, cid).files[file].root)
        assert held is not None
        for index in sections:
            section = held.layout.sections[index]
            assert not held.missing(section.first_leaf, section.end_leaf)


async def test_tiles_by_number_move_alone(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    model = model_of(origin, cid)
    before = 0
    for ref in model.files:
        held = origin.store.file(ref.root)
        assert held is not None
        sections = {section.name: section for section in held.layout.sections}
        if "big.weight" in sections:
            tile = before + sections["big.weight"].first_tile
        before += held.layout.tile_count
    newcomer.knows(origin)
    report = await newcomer.puller.pull(cid, Part(tiles=((tile + 1, 2),)))
    assert report.fetched == 5 * MiB
    assert origin.sent_leaves == 5 * MiB // SUBTILE


async def test_learning_a_model_moves_its_headers_only(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    tiles, size = await newcomer.puller.learn(cid)
    assert size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert tiles > 20
    assert not origin.asked


async def test_a_part_that_the_model_lacks_is_named(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    with pytest.raises(UnknownPartError, match=r"layer9\.expert9"):
        await newcomer.puller.pull(cid, Part(experts=("layer9.expert9",)))
    with pytest.raises(UnknownPartError, match="nonsense"):
        await newcomer.puller.pull(cid, Part(tensors=("nonsense",)))


# -- stopping and going on ------------------------------------------------------------------


async def test_a_cancelled_pull_goes_on_where_its_record_ends(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    origin.uploads.set_rate(8 * MiB)
    newcomer.knows(origin)
    with trio.CancelScope() as scope:

        def stop(progress: PullProgress) -> None:
            if progress.done > 3 * MiB:
                scope.cancel()

        await newcomer.puller.pull(cid, progress=stop)
    assert scope.cancelled_caught
    newcomer.store = newcomer.puller.store = reopened(newcomer.store)
    held = {file.root: set(range(file.layout.leaf_count)) for file in newcomer.store.files()}
    for file in newcomer.store.files():
        for lo, hi in file.missing():
            held[file.root] -= set(range(lo, hi))
    assert sum(map(len, held.values())) > 8
    origin.asked.clear()
    origin.uploads.set_rate(0)
    await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    for request in origin.asked:
        assert not held[request.root] & set(range(request.lo, request.hi))


async def test_while_paused_nothing_is_asked_for(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    newcomer.puller.pause()
    with trio.move_on_after(0.3):
        await newcomer.puller.pull(cid)
    assert not origin.asked
    async with trio.open_nursery() as nursery:
        nursery.start_soon(newcomer.puller.pull, cid)
        await trio.sleep(0.1)
        newcomer.puller.resume()
    assert whole(newcomer, cid)


async def test_two_pulls_of_one_daemon_take_each_byte_about_once(
    swarm: World, folder: Path
) -> None:
    """The owner pulls a model that a repair is fetching, or asks for two experts of it at once."""
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    origin.uploads.set_rate(8 * MiB)
    newcomer.knows(origin)
    reports: list[PullReport] = []

    async def pull() -> None:
        reports.append(await newcomer.puller.pull(cid))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull)
        nursery.start_soon(pull)
    assert whole(newcomer, cid)
    size = reports[0].total
    assert origin.uploads.sent < 1.3 * size
    assert sum(report.fetched for report in reports) < 1.05 * size
    assert min(report.fetched for report in reports) > 0.1 * size


async def test_what_another_pull_asked_for_is_waited_for_until_that_ends(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transfer.pullpeer.FIRST_TIMEOUT", 600.0)
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)

    async def unanswered(node: Node, _end: End, request: Request) -> bool:
        if not isinstance(request, FetchRequest) or len(node.bent) == DEPTH:
            return False
        node.bent.append(request)
        return True

    origin.bend = unanswered
    seen: list[PullProgress] = []
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def pull_in_vain() -> None:
            with first:
                await newcomer.puller.pull(cid)

        nursery.start_soon(pull_in_vain)
        while len(origin.bent) < DEPTH:
            await trio.sleep(0.01)
        waited_for = bytes_asked(newcomer, origin.bent)
        nursery.start_soon(partial(newcomer.puller.pull, cid, progress=seen.append))
        while not seen or seen[-1].done + waited_for < seen[-1].total:
            await trio.sleep(0.01)
        assert seen[-1].done + waited_for == seen[-1].total
        assert bytes_asked(newcomer, origin.asked) <= seen[-1].total
        first.cancel()
        with trio.fail_after(60):
            while newcomer.puller.active:
                await trio.sleep(0.01)
    assert first.cancelled_caught
    assert whole(newcomer, cid)


def bytes_asked(node: Node, requests: Sequence[Request]) -> int:
    """The size of all that was asked for, by the layouts that `node` has."""
    total = 0
    for request in requests:
        assert isinstance(request, FetchRequest)
        held = node.store.file(request.root)
        assert held is not None
        start, stop = held.layout.run_span(request.lo, request.hi)
        total += stop - start
    return total


async def test_a_model_that_is_removed_is_not_pulled_on(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    origin.uploads.set_rate(4 * MiB)
    newcomer.knows(origin)
    async with trio.open_nursery() as nursery:

        async def pull() -> None:
            with pytest.raises(StoppedError):
                await newcomer.puller.pull(cid, Part(tensors=("big.weight",)))

        nursery.start_soon(pull)
        while not origin.asked:
            await trio.sleep(0.01)
        await newcomer.puller.stop(cid)
        assert newcomer.puller.active == 0
        remove_model(newcomer.store, cid)
        newcomer.store.gc()
        assert newcomer.store.quota.used == 0


async def test_what_is_fetched_for_others_keeps_to_its_room(swarm: World, folder: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    with pytest.raises(NoRoomError):
        await newcomer.puller.learn(cid, room=Room(100))
    room = Room(1 << 20)
    await newcomer.puller.learn(cid, room=room)
    shapes = sum(len(h.header) + 32 * len(h.nodes) for h in newcomer.store.files())
    assert (1 << 20) - room.left == shapes + len(origin.store.get_block(cid))
    with pytest.raises(NoRoomError):
        await newcomer.puller.pull(cid, Part(tensors=("big.weight",)), room=Room(8 * MiB))
    assert not origin.asked
    await newcomer.puller.pull(cid, Part(tensors=("big.weight",)), room=Room(10 * MiB))


async def test_a_manifest_that_claims_more_than_fits_has_us_fetch_no_header(
    swarm: World, folder: Path
) -> None:
    origin, newcomer = swarm.node(), swarm.node(quota=5 * MiB)
    cid = imported(origin, folder)
    newcomer.knows(origin)
    with pytest.raises(QuotaExceededError):
        await newcomer.puller.pull(cid)
    assert newcomer.store.files() == []


# -- limits of our own ----------------------------------------------------------------------


async def test_a_quota_too_small_is_said_before_anything_is_fetched(
    swarm: World, folder: Path
) -> None:
    origin, newcomer = swarm.node(), swarm.node(quota=5 * MiB)
    cid = imported(origin, folder)
    newcomer.knows(origin)
    with pytest.raises(QuotaExceededError):
        await newcomer.puller.pull(cid)
    assert not origin.asked
    assert not newcomer.blamed
    check_store(newcomer.store)


async def test_a_quota_reached_under_way_ends_the_pull_and_loses_nothing(
    swarm: World, folder: Path
) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    origin.uploads.set_rate(8 * MiB)
    newcomer.knows(origin)

    def shrink(progress: PullProgress) -> None:
        if progress.done > 3 * MiB:
            newcomer.store.quota.limit = newcomer.store.quota.used + SUBTILE

    with pytest.raises(QuotaExceededError):
        await newcomer.puller.pull(cid, progress=shrink)
    assert not newcomer.blamed
    newcomer.store = reopened(newcomer.store, Events())
    check_store(newcomer.store)
    assert sum(held.held_bytes for held in newcomer.store.files()) > 2 * MiB


async def test_a_full_disk_ends_the_pull_with_its_error(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synapsed.store import DiskFullError, HeldFile

    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)

    def full(self: HeldFile) -> None:
        raise DiskFullError("no room on the disk")

    monkeypatch.setattr(HeldFile, "commit", full)
    with pytest.raises(DiskFullError):
        await newcomer.puller.pull(cid)
    assert not newcomer.blamed


# -- sharing --------------------------------------------------------------------------------


async def test_newcomers_who_pull_together_take_each_byte_about_once(
    swarm: World, folder: Path
) -> None:
    origin = swarm.node()
    cid = imported(origin, folder)
    origin.uploads.set_rate(4 * MiB)
    newcomers = [swarm.node() for _ in range(4)]
    for newcomer in newcomers:
        newcomer.knows(origin, *(other for other in newcomers if other is not newcomer))
    async with trio.open_nursery() as nursery:
        for newcomer in newcomers:
            nursery.start_soon(newcomer.puller.pull, cid)
    assert all(whole(newcomer, cid) for newcomer in newcomers)
    size = sum(ref.size for ref in model_of(origin, cid).files)
    assert origin.uploads.sent < 1.3 * size


async def test_co_pullers_who_know_only_the_source_do_not_meet_but_one_finds_the_other(
    swarm: World, folder: Path
) -> None:
    """`first` knows nobody but the source; the other's question tells it of the other."""
    origin, first, second = (swarm.node() for _ in range(3))
    cid = imported(origin, folder)
    origin.uploads.set_rate(4 * MiB)
    first.knows(origin)
    second.knows(origin, first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.puller.pull, cid)
        nursery.start_soon(second.puller.pull, cid)
    assert second.asked, "first took nothing from second"
    size = sum(ref.size for ref in model_of(origin, cid).files)
    assert origin.uploads.sent < 1.4 * size


async def test_pullers_of_different_parts_do_not_wait_for_each_other(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transfer.schedule.PATIENCE", 600.0)
    origin, left, right = (swarm.node() for _ in range(3))
    cid = imported(origin, folder)
    origin.uploads.set_rate(4 * MiB)
    reports: dict[bytes, PullReport] = {}

    async def pull(node: Node, part: Part) -> None:
        reports[node.name] = await node.puller.pull(cid, part)

    left.knows(origin, right)
    right.knows(origin, left)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull, left, Part(experts=("layer0.expert0", "layer1.expert1")))
        nursery.start_soon(pull, right, Part(tensors=("big.weight",)))
    for report in reports.values():
        assert [share.peer for share in report.peers] == [origin.name]


async def test_what_has_arrived_is_served_before_the_pull_is_over(
    swarm: World, folder: Path
) -> None:
    origin, middle, last = (swarm.node() for _ in range(3))
    cid = imported(origin, folder)
    origin.uploads.set_rate(6 * MiB)
    middle.knows(origin)
    last.knows(middle)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(middle.puller.pull, cid)
        with trio.fail_after(60):
            while not middle.store.has_block(cid):
                await trio.sleep(0.01)
        served_early = False

        def look(_: PullProgress) -> None:
            nonlocal served_early
            served_early = served_early or bool(middle.asked and middle.puller.active)

        await last.puller.pull(cid, progress=look)
    assert served_early
    assert whole(last, cid)
    assert all(isinstance(request, FetchRequest) for request in middle.asked)


async def test_holders_on_the_local_network_are_asked_first(swarm: World, folder: Path) -> None:
    near, far, newcomer = swarm.node(), swarm.node(far=True), swarm.node()
    for node in (near, far):
        cid = imported(node, folder)
    newcomer.knows(far, near)
    report = await newcomer.puller.pull(cid)
    assert [share.peer for share in report.peers] == [near.name]
    assert not far.asked


async def test_a_source_that_comes_later_is_used(swarm: World, folder: Path) -> None:
    slow, fast, newcomer = (swarm.node() for _ in range(3))
    for node in (slow, fast):
        cid = imported(node, folder)
    slow.uploads.set_rate(MiB)
    newcomer.knows(slow)

    def learn(progress: PullProgress) -> None:
        if progress.done:
            newcomer.knows(slow, fast)

    report = await newcomer.puller.pull(cid, progress=learn)
    assert fast.name in {share.peer for share in report.peers}


async def test_nobody_to_ask_is_said_by_name(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.transfer.crew.LONELY_SECONDS", 0.2)
    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    with pytest.raises(PullFailedError, match="nobody is known to have it"):
        await newcomer.puller.pull(cid)


async def test_an_expert_manifest_that_contradicts_its_model_is_refused(
    swarm: World, folder: Path
) -> None:
    from protocols.errors import MalformedError
    from protocols.manifest import TensorRef

    origin, newcomer = swarm.node(), swarm.node()
    cid = imported(origin, folder)
    newcomer.knows(origin)
    for place in (TensorRef(file=0, section=9999), TensorRef(file=4000, section=1)):
        lie = ExpertManifest(model=cid, name="layer0.expert0", tensors=(place,), depends_on=())
        with pytest.raises(MalformedError):
            await newcomer.puller.pull(origin.store.put_block(encode_manifest(lie)))


async def test_a_download_limit_holds_for_all_pulls_together(swarm: World, tmp_path: Path) -> None:
    """And may be lifted while they run: what waits then goes on at once."""
    holder, puller = swarm.node(), swarm.node()
    cids = [
        import_model(holder.store, model_folder(tmp_path / name, {name: 4 * MiB}), name).cid
        for name in ("one", "two")
    ]
    puller.knows(holder)
    puller.puller.downloads.set_rate(2 * MiB)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for cid in cids:
            nursery.start_soon(puller.puller.pull, cid)
        while puller.store.quota.used < 4 * MiB:
            await trio.sleep(0.02)
        assert trio.current_time() - began > 0.5
        puller.puller.downloads.set_rate(1024)  # an hour for the rest
        await trio.sleep(0.5)
        assert puller.puller.active == 2
        puller.puller.downloads.set_rate(0)


async def test_what_all_say_they_lack_is_not_waited_for(
    swarm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked again for a while, since one may just be getting it."""
    monkeypatch.setattr("synapsed.transfer.crew.LONELY_SECONDS", 0.5)
    monkeypatch.setattr("synapsed.transfer.crew.AGAIN_SECONDS", 0.1)
    puller, *others = [swarm.node() for _ in range(4)]
    puller.knows(*others)
    began = trio.current_time()
    with pytest.raises(PullFailedError, match="nobody of those who are asked has it"):
        await puller.puller.pull(cid_of(b"nobody's"))
    assert trio.current_time() - began >= 0.5
    assert puller.blamed == []
