"""Peers that are silent, slow, wrong, greedy with claims, or gone: noticed, blamed, done without.

Each fault is a real server bent in one place, and each test shows that the fault was met.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from protocols.codec import encode
from protocols.errors import NotHeldError
from protocols.gossip.peerscore import Fault
from protocols.manifest import ModelManifest, encode_manifest
from protocols.tensors.blocks import (
    BlockRequest,
    Bytes,
    FetchRequest,
    Hashes,
    HaveRequest,
    Holding,
    Holdings,
    LayoutRequest,
    LeavesRequest,
    Refusal,
    Request,
    Shape,
)
from synapsed.models import held_tiles, model_state
from synapsed.transfer.errors import PullFailedError
from synapsed.transfer.plan import ManifestLieError
from synapsed.transfer.progress import PullReport
from tests.store_kit import check_store, model_folder
from tests.test_transfer_pull import imported, model_of, whole
from tests.transfer_rig import Bend, End, Node, World, world

MiB = 1 << 20
RATE = 12 * MiB
"""Honest holders are limited to it, so that a pull takes half a second and meets everybody."""
SLOW = 4 * MiB
"""The same where a time-out has to pass before the end."""


@pytest.fixture
async def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # The waits of the real thing, a tenth as long.
    for name, seconds in (
        ("protocols.transfer.pullpeer.FIRST_TIMEOUT", 1.0),
        ("protocols.transfer.pullpeer.MIN_TIMEOUT", 1.0),
        ("synapsed.transfer.crew.WATCH_SECONDS", 0.05),
        ("synapsed.transfer.crew.HEDGE_SECONDS", 0.2),
        ("synapsed.transfer.crew.AGAIN_SECONDS", 0.1),
        ("synapsed.transfer.crew.RETRY_SECONDS", 0.2),
        ("synapsed.transfer.crew.LONELY_SECONDS", 0.5),
        ("synapsed.transfer.session.ASK_SECONDS", 1.0),
        ("synapsed.transfer.session.POLL_SECONDS", 0.1),
    ):
        monkeypatch.setattr(name, seconds)
    with trio.fail_after(60):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", {"a": 300, "big.weight": 5 * MiB, "c": 2 * MiB})


async def lie(node: Node, end: End, request: Request, head: object, raw: bytes = b"") -> bool:
    """An answer of the liar's own making."""
    node.bent.append(request)
    await end.write_frame(encode(head))
    if raw:
        await end.write(raw)
    return True


# -- the faults -----------------------------------------------------------------------------


async def wrong_bytes(node: Node, end: End, request: Request) -> bool:
    """Sub-tiles with one flipped bit each run."""
    if not isinstance(request, FetchRequest):
        return False
    held = node.store.file(request.root)
    assert held is not None
    data = bytearray(held.read(request.lo, request.hi))
    data[len(data) // 2] ^= 1
    return await lie(node, end, request, Bytes(length=len(data)), bytes(data))


async def wrong_length(node: Node, end: End, request: Request) -> bool:
    if not isinstance(request, FetchRequest):
        return False
    return await lie(node, end, request, Bytes(length=3), b"abc")


async def silence(node: Node, end: End, request: Request) -> bool:
    """Takes requests for sub-tiles, and says nothing."""
    if isinstance(request, FetchRequest):
        node.bent.append(request)
        await trio.sleep_forever()
    return False


async def half_an_answer(node: Node, end: End, request: Request) -> bool:
    """Breaks off in the middle."""
    if not isinstance(request, FetchRequest):
        return False
    held = node.store.file(request.root)
    assert held is not None
    data = bytes(held.read(request.lo, request.hi))
    await lie(node, end, request, Bytes(length=len(data)), data[: len(data) // 2])
    end.reset()
    await trio.sleep_forever()
    return True


async def trickle(node: Node, end: End, request: Request) -> bool:
    """A byte now and then, so that something always moves."""
    if not isinstance(request, FetchRequest) or _size(node, request) < 1000:
        return False
    await lie(node, end, request, Bytes(length=_size(node, request)))
    while True:
        await end.write(b"\0")
        await trio.sleep(0.1)


async def junk(node: Node, end: End, request: Request) -> bool:
    if not isinstance(request, FetchRequest):
        return False
    node.bent.append(request)
    await end.write_frame(b"\xff\xff")
    return True


async def wrong_header(node: Node, end: End, request: Request) -> bool:
    """A layout that does not lead to the root."""
    if not isinstance(request, LayoutRequest):
        return False
    held = node.store.file(request.root)
    assert held is not None
    nodes = [bytes(32), *held.nodes[1:]]
    raw = held.header + b"".join(nodes)
    shape = Shape(
        length=len(raw),
        header=len(held.header),
        size=held.size,
        layout=held.layout.kind,  # type: ignore[arg-type]
    )
    return await lie(node, end, request, shape, raw)


async def wrong_hashes(node: Node, end: End, request: Request) -> bool:
    if not isinstance(request, LeavesRequest):
        return False
    held = node.store.file(request.root)
    assert held is not None
    sections = held.layout.sections[request.sections[0][0] : request.sections[0][1]]
    raw = bytes(32 * sum(section.leaves for section in sections))
    return await lie(
        node, end, request, Hashes(length=len(raw), sections=request.sections[:1]), raw
    )


async def wrong_block(node: Node, end: End, request: Request) -> bool:
    if not isinstance(request, BlockRequest):
        return False
    return await lie(node, end, request, Bytes(length=3), b"abc")


def _size(node: Node, request: FetchRequest) -> int:
    held = node.store.file(request.root)
    assert held is not None
    start, stop = held.layout.run_span(request.lo, request.hi)
    return stop - start


FAULTS: list[tuple[Bend, Fault]] = [
    (wrong_bytes, Fault.MISMATCH),
    (wrong_length, Fault.MALFORMED),
    (silence, Fault.TIMEOUT),
    (half_an_answer, Fault.CLOSED),
    (trickle, Fault.TIMEOUT),
    (junk, Fault.MALFORMED),
    (wrong_header, Fault.MISMATCH),
    (wrong_hashes, Fault.MISMATCH),
    (wrong_block, Fault.MISMATCH),
]


@pytest.mark.parametrize(("bend", "fault"), FAULTS, ids=[bend.__name__ for bend, _ in FAULTS])
async def test_a_bad_peer_is_blamed_and_the_pull_completes_from_the_others(
    swarm: World, folder: Path, bend: Bend, fault: Fault
) -> None:
    bad, good, newcomer = (swarm.node() for _ in range(3))
    for node in (bad, good):
        cid = imported(node, folder)
        node.uploads.set_rate(SLOW if fault is Fault.TIMEOUT else RATE)
    bad.bend = bend
    newcomer.knows(bad, good)
    report = await newcomer.puller.pull(cid)
    assert bad.bent, "the fault was not met"
    assert whole(newcomer, cid)
    assert (bad.name, fault) in newcomer.blamed
    assert {peer for peer, _ in newcomer.blamed} == {bad.name}
    shares = {share.peer: share for share in report.peers}
    assert fault.value in shares[bad.name].faults
    assert shares[good.name].faults == []


@pytest.mark.parametrize(("bend", "fault"), FAULTS[:3], ids=["wrong", "length", "silent"])
async def test_a_bad_peer_alone_fails_the_pull_by_name(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch, bend: Bend, fault: Fault
) -> None:
    monkeypatch.setattr("synapsed.transfer.crew.STARVE_SECONDS", 3.0)
    bad, newcomer = swarm.node(), swarm.node()
    cid = imported(bad, folder)
    bad.bend = bend
    newcomer.knows(bad)
    with pytest.raises(PullFailedError) as failure:
        await newcomer.puller.pull(cid)
    assert bad.bent
    assert set(failure.value.peers) == {bad.name}
    assert (bad.name, fault) in newcomer.blamed
    check_store(newcomer.store)


async def test_one_flipped_bit_costs_one_sub_tile_and_no_other(swarm: World, folder: Path) -> None:
    """What came before and after the bad sub-tile is kept; only it is fetched again."""
    bad, good, newcomer = (swarm.node() for _ in range(3))
    cid = imported(bad, folder)
    imported(good, folder)
    flipped: list[tuple[bytes, int]] = []

    async def bend(node: Node, end: End, request: Request) -> bool:
        if not isinstance(request, FetchRequest) or request.hi - request.lo < 3 or flipped:
            return False
        held = node.store.file(request.root)
        assert held is not None
        data = bytearray(held.read(request.lo, request.hi))
        start = held.layout.run_span(request.lo, request.hi)[0]
        data[held.layout.leaf_span(request.lo + 2)[0] - start] ^= 0x80
        flipped.append((request.root, request.lo + 2))
        return await lie(node, end, request, Bytes(length=len(data)), bytes(data))

    bad.bend = bend
    newcomer.knows(bad)
    newcomer.blame = _then(newcomer.blame, lambda: newcomer.knows(good))  # type: ignore[method-assign]
    newcomer.puller.blame = newcomer.blame
    report = await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    assert len(flipped) == 1
    assert newcomer.blamed == [(bad.name, Fault.MISMATCH)]
    again = {(r.root, leaf) for r in good.asked for leaf in range(r.lo, r.hi)}
    kept = _leaves(report, bad)
    assert kept >= 2
    assert flipped[0] in again
    assert kept + len(again) == sum(share.leaves for share in report.peers)


def _then(first: Callable[..., None], second: Callable[[], None]) -> Callable[..., None]:
    def both(*args: object) -> None:
        first(*args)
        second()

    return both


def _leaves(report: PullReport, node: Node) -> int:
    return next(share.leaves for share in report.peers if share.peer == node.name)


async def test_who_claims_what_it_lacks_is_found_out(swarm: World, folder: Path) -> None:
    liar, good, newcomer = (swarm.node() for _ in range(3))
    cid = imported(good, folder)
    good.uploads.set_rate(RATE)
    claimed = 0

    async def claims(node: Node, end: End, request: Request) -> bool:
        nonlocal claimed
        if not isinstance(request, HaveRequest):
            return False
        claimed += 1
        all_of_it = Holding(held=(), complete=True, pulling=False, wants=())
        return await lie(node, end, request, Holdings(files=(all_of_it,) * len(request.roots)))

    liar.bend = claims
    newcomer.knows(liar, good)
    await newcomer.puller.pull(cid)
    assert claimed
    assert whole(newcomer, cid)
    assert newcomer.blamed == [(liar.name, Fault.LIED)]


async def test_who_claims_leaves_beyond_the_file_is_malformed(swarm: World, folder: Path) -> None:
    liar, good, newcomer = (swarm.node() for _ in range(3))
    cid = imported(good, folder)
    good.uploads.set_rate(RATE)

    async def claims(node: Node, end: End, request: Request) -> bool:
        if not isinstance(request, HaveRequest):
            return False
        beyond = Holding(held=((0, 1 << 30),), complete=False, pulling=False, wants=())
        return await lie(node, end, request, Holdings(files=(beyond,) * len(request.roots)))

    liar.bend = claims
    newcomer.knows(liar, good)
    await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    assert newcomer.blamed == [(liar.name, Fault.MALFORMED)]


@pytest.mark.parametrize("code", ["busy", "paused"])
async def test_who_refuses_is_left_alone_for_a_while_and_not_blamed(
    swarm: World, folder: Path, code: str
) -> None:
    shy, good, newcomer = (swarm.node() for _ in range(3))
    for node in (shy, good):
        cid = imported(node, folder)
    good.uploads.set_rate(RATE)
    refused = 0

    async def refuses(node: Node, end: End, request: Request) -> bool:
        nonlocal refused
        if not isinstance(request, FetchRequest) or refused > 1:
            return False
        refused += 1
        return await lie(node, end, request, Refusal(code=code, retry_ms=300))  # type: ignore[arg-type]

    shy.bend = refuses
    newcomer.knows(shy, good)
    report = await newcomer.puller.pull(cid)
    assert refused
    assert whole(newcomer, cid)
    assert not newcomer.blamed
    assert _leaves(report, shy) > 0, "it was not asked again"


async def test_a_peer_that_goes_and_comes_back_is_used_again(swarm: World, folder: Path) -> None:
    only, newcomer = swarm.node(), swarm.node()
    cid = imported(only, folder)
    only.uploads.set_rate(RATE)
    newcomer.knows(only)
    cuts = 0

    def cut(progress: object) -> None:
        nonlocal cuts
        if getattr(progress, "done") > MiB and not cuts:  # noqa: B009
            cuts += 1
            only.cut()
            only.reachable = True

    await newcomer.puller.pull(cid, progress=cut)
    assert cuts
    assert whole(newcomer, cid)


async def test_a_holder_that_dies_is_replaced_by_the_others(swarm: World, folder: Path) -> None:
    dying, other, newcomer = (swarm.node() for _ in range(3))
    for node in (dying, other):
        cid = imported(node, folder)
        node.uploads.set_rate(RATE)
    newcomer.knows(dying, other)

    def die(progress: object) -> None:
        if getattr(progress, "done") > MiB:  # noqa: B009
            dying.cut()

    await newcomer.puller.pull(cid, progress=die)
    assert not dying.reachable
    assert whole(newcomer, cid)


async def test_a_pretended_co_puller_delays_and_does_not_stop(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transfer.schedule.PATIENCE", 0.3)
    pretender, origin, newcomer = (swarm.node() for _ in range(3))
    cid = imported(origin, folder)
    origin.uploads.set_rate(RATE)

    async def pretends(node: Node, end: End, request: Request) -> bool:
        if not isinstance(request, HaveRequest):
            return False
        pulls = Holding(held=(), complete=False, pulling=True, wants=())
        return await lie(node, end, request, Holdings(files=(pulls,) * len(request.roots)))

    pretender.bend = pretends
    newcomer.knows(pretender, origin)
    with trio.fail_after(60):
        await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)


@pytest.mark.parametrize("when", ["from the start", "of the leaves"])
async def test_strangers_who_sit_in_all_places_keep_no_holder_out(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """They announce the model, answer politely, and have nothing. They stand first in the list."""
    monkeypatch.setattr("synapsed.transfer.crew.MAX_SESSIONS", 4)
    monkeypatch.setattr("synapsed.transfer.crew.REST_SECONDS", 0.3)
    sitters = [swarm.node() for _ in range(8)]
    good, newcomer = swarm.node(), swarm.node()
    cid = imported(good, folder)
    if when == "of the leaves":
        newcomer.knows(good)
        await newcomer.puller.learn(cid)
    newcomer.knows(*sitters, good)
    with trio.fail_after(60):
        await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    assert sum(bool(sitter.ends) for sitter in sitters) > 4  # all had their turn
    assert not newcomer.blamed


async def test_a_lying_manifest_is_not_held_against_those_who_hold_the_file(
    swarm: World, folder: Path
) -> None:
    """It names the root of a file that honest peers have, with another size, or layout."""
    good, newcomer = swarm.node(), swarm.node()
    model = model_of(good, imported(good, folder))
    newcomer.knows(good)
    true = next(ref for ref in model.files if ref.layout == "safetensors")
    for lie in ({"size": true.size + 1}, {"layout": "flat"}):
        ref = msgspec.structs.replace(true, **lie)
        lying = ModelManifest(name="lie", description="", files=(ref,), depends_on=())
        cid = good.store.put_block(encode_manifest(lying))
        for _ in range(2):  # the second time the file's own root is known
            with pytest.raises(ManifestLieError, match="lies"):
                await newcomer.puller.pull(cid)
        assert held_tiles(good.store, cid) == []
        assert not model_state(good.store, cid).complete
    assert newcomer.blamed == []
    assert newcomer.store.files() == []


async def test_what_the_disk_spoiled_is_not_sent_and_not_held_against_the_holder(
    swarm: World, folder: Path
) -> None:
    rotten, good, newcomer = (swarm.node() for _ in range(3))
    for node in (rotten, good):
        cid = imported(node, folder)
        node.uploads.set_rate(SLOW)
    big = max(rotten.store.files(), key=lambda held: held.size)
    leaf = big.layout.leaf_count - 3
    with big.path.open("r+b") as data:
        data.seek(big.layout.leaf_span(leaf)[0] + 10)
        data.write(b"rot")
    newcomer.knows(rotten, good)
    await newcomer.puller.pull(cid)
    assert whole(newcomer, cid)
    assert newcomer.blamed == []
    if big.missing():  # it was asked for it, and found out
        assert big.missing() == [(leaf, leaf + 1)]
    newcomer.knows(rotten)
    with pytest.raises(NotHeldError):
        big.read(leaf, leaf + 1)
