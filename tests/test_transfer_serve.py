"""What the server answers, and what it refuses: nothing is read that is not held."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from protocols.cid import cid_of
from protocols.gossip.peerscore import Fault
from protocols.tensors.blocks import (
    PROTOCOL,
    Answer,
    BlockRequest,
    Bytes,
    FetchRequest,
    Hashes,
    HaveRequest,
    Holdings,
    LayoutRequest,
    LeavesRequest,
    Proven,
    ProveRequest,
    Refusal,
    Request,
    Shape,
    decode_answer,
)
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.tensorblock import file_root, section_node, split_hashes, verify_run
from synapsed.hashing import HASHER
from synapsed.net.errors import StreamClosedError
from synapsed.store import HeldFile
from synapsed.transfer.talk import Talk
from tests.store_kit import Made, made
from tests.transfer_rig import Node, World, world


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(60):
        async with world(tmp_path) as made_world:
            yield made_world


@pytest.fixture
def file(tmp_path: Path) -> Made:
    return made(tmp_path)


def asker_of(node: Node) -> Node:
    """The world's other node."""
    return next(other for other in node.world.nodes.values() if other is not node)


async def ask(node: Node, *requests: Request) -> list[tuple[Answer, bytes]]:
    """The answers of `node` to requests sent all at once on one stream."""
    answers = []
    async with asker_of(node).open_stream(node.name, PROTOCOL) as stream:
        talk = Talk(stream)
        for request in requests:
            await talk.send(request)
        for _ in requests:
            answer = decode_answer(await stream.read_frame(1 << 20))
            answers.append((answer, bytes(await stream.read_exactly(answer.length))))
    return answers


@pytest.fixture
async def node(swarm: World, file: Made) -> Node:
    """Holds all but leaf 4 (the tensor of 300 bytes) and the last tensor's leaves from 10 on."""
    swarm_node, _asker = swarm.node(), swarm.node()
    held = file.begin(swarm_node.store)
    for leaf in range(held.layout.leaf_count):
        if leaf != 4 and leaf < 10:
            held.write(leaf, file.bytes_of(leaf, leaf + 1))
    held.commit()
    return swarm_node


async def test_a_block_is_what_its_name_says(node: Node) -> None:
    cid = node.store.put_block(b"\xa0")
    ((answer, data),) = await ask(node, BlockRequest(cid=cid))
    assert isinstance(answer, Bytes)
    assert cid_of(data) == cid


async def test_layout_and_leaf_hashes_lead_to_the_root(node: Node, file: Made) -> None:
    everything = LeavesRequest(root=file.ref.root, sections=((0, 6),))
    (shape, raw), (hashes, leaves) = await ask(node, LayoutRequest(root=file.ref.root), everything)
    assert isinstance(shape, Shape)
    assert raw[: shape.header] == file.shape.header
    nodes = split_hashes(raw[shape.header :])
    assert file_root(HASHER, file.ref.size, nodes) == file.ref.root
    assert isinstance(hashes, Hashes)
    assert hashes.sections == ((0, 6),)
    for section in file.shape.layout.sections:
        its = leaves[section.first_leaf * HASH_BYTES : section.end_leaf * HASH_BYTES]
        assert section_node(HASHER, section, its) == nodes[section.index]


async def test_leaf_hashes_that_are_not_known_are_left_out(swarm: World, file: Made) -> None:
    node, _asker = swarm.node(), swarm.node()
    held = node.store.create(file.ref, file.shape.header, file.shape.nodes)
    second = held.layout.sections[2]
    its = file.hashes[second.first_leaf * HASH_BYTES : second.end_leaf * HASH_BYTES]
    held.put_leaf_hashes(2, its)
    ((answer, raw),) = await ask(node, LeavesRequest(root=file.ref.root, sections=((1, 3), (5, 6))))
    assert isinstance(answer, Hashes)
    assert answer.sections == ((2, 3),)
    assert raw == its


async def test_it_says_what_it_has(node: Node, file: Made) -> None:
    ((answer, _),) = await ask(node, HaveRequest(roots=(file.ref.root, bytes(32))))
    assert isinstance(answer, Holdings)
    ours, other = answer.files
    assert ours.held == ((0, 4), (5, 10))
    assert not ours.complete
    assert not ours.pulling
    assert other.held == ()
    assert not other.complete


async def test_many_requests_on_one_stream_are_answered_in_order(node: Node, file: Made) -> None:
    runs = [(0, 4), (5, 10), (2, 3)]
    answers = await ask(node, *(FetchRequest(root=file.ref.root, lo=lo, hi=hi) for lo, hi in runs))
    for (lo, hi), (answer, data) in zip(runs, answers, strict=True):
        assert isinstance(answer, Bytes)
        assert data == file.bytes_of(lo, hi)


@pytest.mark.parametrize(
    ("ask_for", "code"),
    [
        (lambda root: FetchRequest(root=root, lo=4, hi=5), "not-held"),
        (lambda root: FetchRequest(root=root, lo=3, hi=6), "not-held"),
        (lambda root: FetchRequest(root=root, lo=9, hi=11), "not-held"),
        (lambda root: FetchRequest(root=root, lo=1000, hi=1001), "not-held"),
        (lambda root: FetchRequest(root=root, lo=3, hi=26), "too-large"),
        (lambda root: FetchRequest(root=root[::-1], lo=0, hi=1), "not-held"),
        (lambda root: LayoutRequest(root=root[::-1]), "not-held"),
        (lambda root: ProveRequest(root=root, leaf=4), "not-held"),
        (lambda root: ProveRequest(root=root, leaf=1 << 31), "not-held"),
        (lambda root: BlockRequest(cid=cid_of(b"never")), "not-held"),
    ],
)
async def test_what_it_has_not_is_refused_and_the_stream_goes_on(
    node: Node, file: Made, ask_for: object, code: str
) -> None:
    request = ask_for(file.ref.root)  # type: ignore[operator]
    held = FetchRequest(root=file.ref.root, lo=1, hi=2)
    (refusal, _), (answer, data) = await ask(node, request, held)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert isinstance(answer, Bytes)
    assert data == file.bytes_of(1, 2)
    assert not node.blamed


async def test_a_leaf_comes_with_its_proof(node: Node, file: Made) -> None:
    ((answer, raw),) = await ask(node, ProveRequest(root=file.ref.root, leaf=7))
    assert isinstance(answer, Proven)
    proof, data = raw[: answer.hashes * HASH_BYTES], raw[answer.hashes * HASH_BYTES :]
    verify_run(
        HASHER,
        file.shape.layout,
        file.ref.root,
        7,
        8,
        leaf_hashes=HASHER.leaf(data),
        proof=split_hashes(proof),
    )


@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b"", b"\xa1casksing", bytes(100)])
async def test_junk_is_blamed_and_ends_the_stream(node: Node, junk: bytes) -> None:
    asker = asker_of(node)
    async with asker.open_stream(node.name, PROTOCOL) as stream:
        await stream.write_frame(junk)
        assert decode_answer(await stream.read_frame(1 << 20)) == Refusal(code="malformed")
        with pytest.raises(StreamClosedError):
            await stream.read_exactly(1)
    assert node.blamed == [(asker.name, Fault.MALFORMED)]


async def test_while_paused_bytes_are_refused_and_claims_are_not(node: Node, file: Made) -> None:
    node.uploads.pause()
    fetch = FetchRequest(root=file.ref.root, lo=1, hi=2)
    (refusal, _), (answer, _) = await ask(node, fetch, HaveRequest(roots=(file.ref.root,)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "paused"
    assert refusal.retry_ms > 0
    assert isinstance(answer, Holdings)
    node.uploads.resume()
    ((answer, _),) = await ask(node, fetch)
    assert isinstance(answer, Bytes)


async def test_too_many_peers_at_once_are_told_to_come_back(
    node: Node, file: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.transfer.limits.MAX_UPLOADS", 0)
    ((refusal, _),) = await ask(node, FetchRequest(root=file.ref.root, lo=1, hi=2))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "busy"
    assert refusal.retry_ms > 0


async def test_a_pause_under_way_ends_the_stream(node: Node, file: Made) -> None:
    node.uploads.set_rate(1000)
    async with asker_of(node).open_stream(node.name, PROTOCOL) as stream:
        talk = Talk(stream)
        await talk.send(FetchRequest(root=file.ref.root, lo=6, hi=10))
        answer = await talk.answer(Bytes, 5)
        node.uploads.pause()
        with pytest.raises(StreamClosedError):
            await stream.read_exactly(answer.length)
    assert not asker_of(node).blamed


# -- who asks for much ----------------------------------------------------------------------------


async def test_leaf_hashes_in_more_runs_than_an_answer_has_are_cut_off_cleanly(
    swarm: World, file: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the answer is what the answer says, or the asker would blame us."""
    monkeypatch.setattr("synapsed.transfer.serve.MAX_RUNS", 2)
    node, _asker = swarm.node(), swarm.node()
    held = node.store.create(file.ref, file.shape.header, file.shape.nodes)
    for index in (2, 5):  # and 0, which comes with the header, and 3, which is empty
        section = held.layout.sections[index]
        at, end = section.first_leaf, section.end_leaf
        held.put_leaf_hashes(index, file.hashes[at * HASH_BYTES : end * HASH_BYTES])
    ((answer, raw),) = await ask(node, LeavesRequest(root=file.ref.root, sections=((0, 6),)))
    assert isinstance(answer, Hashes)
    assert len(answer.sections) == 2
    sections = [held.layout.sections[i] for lo, hi in answer.sections for i in range(lo, hi)]
    assert len(raw) == sum(section.leaves for section in sections) * HASH_BYTES


async def test_who_asks_for_much_work_waits_for_it_and_others_do_not(
    autojump_clock: trio.testing.MockClock,
    swarm: World,
    file: Made,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = 0.0
    monkeypatch.setattr("synapsed.transfer.serve.time", SimpleNamespace(thread_time=lambda: spent))
    # Fractions that are whole in binary: in the clock's own time nothing is ever almost over.
    monkeypatch.setattr("synapsed.transfer.serve.WORK_BURST", 1 / 16)
    monkeypatch.setattr("synapsed.transfer.serve.WORK_SHARE", 1 / 8)
    node, greedy, modest = swarm.node(), swarm.node(), swarm.node()
    file.feed(file.begin(node.store))
    work = 0

    def find(request: Request) -> tuple[Answer, list[bytes]]:
        nonlocal work, spent
        work += 1
        spent += 1 / 32
        return Bytes(length=0), []

    monkeypatch.setattr(node.server, "_find", find)
    request = ProveRequest(root=file.ref.root, leaf=7)

    async def ask_on(asker: Node, times: int) -> None:
        async with asker.open_stream(node.name, PROTOCOL) as stream:
            for _ in range(times):
                await Talk(stream).send(request)
            for _ in range(times):
                await stream.read_frame(1 << 20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_on, greedy, 100)
        began = trio.current_time()
        while work < 3:
            await trio.sleep(0.01)
        await ask_on(modest, 1)
        assert trio.current_time() - began < 1
        await trio.sleep_until(began + 2)
        # 1/32 s each, and 1/16 + 2/8 s of them in this time, and the modest one's.
        assert 8 <= work <= 13
        nursery.cancel_scope.cancel()


async def test_one_peer_is_served_two_fetches_at_a_time(node: Node, file: Made) -> None:
    """Each holds a piece in memory, and a peer that does not read may open dozens."""
    reading = 0
    read = node.server._read

    def slow(held: HeldFile, lo: int, hi: int) -> bytes:
        nonlocal reading
        reading += 1
        return read(held, lo, hi)

    node.server._read = slow  # type: ignore[method-assign]
    asker = asker_of(node)
    async with AsyncExitStack() as stack:
        for _ in range(10):
            stream = await stack.enter_async_context(asker.open_stream(node.name, PROTOCOL))
            for _ in range(4):  # more than the stream's window
                await Talk(stream).send(FetchRequest(root=file.ref.root, lo=5, hi=10))
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert 2 <= reading <= 2 * 4
    assert not node.blamed


async def test_what_is_dropped_while_it_is_sent_ends_the_stream_and_sends_no_zeros(
    node: Node, file: Made
) -> None:
    """A collection may take a file from under an upload."""
    held = node.store.file(file.ref.root)
    assert held is not None
    node.uploads.set_rate(1 << 20)
    async with asker_of(node).open_stream(node.name, PROTOCOL) as stream:
        talk = Talk(stream)
        await talk.send(FetchRequest(root=file.ref.root, lo=5, hi=10))
        await talk.answer(Bytes, 5)
        first = await stream.read_exactly(256 << 10)
        held.drop(5, 10)
        got = bytearray(first)

        async def rest() -> None:
            while True:
                got.extend(await stream.read_exactly(16 << 10))

        with pytest.raises(StreamClosedError):
            await rest()
        assert bytes(got) == file.bytes_of(5, 10)[: len(got)]
