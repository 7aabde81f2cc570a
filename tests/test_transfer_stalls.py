"""The event loop keeps its turns while a file of tens of thousands of tensors is dealt with.

Whoever makes such a file, or asks about it, must not hold up heartbeats and everybody else.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocols.blocks import PROTOCOL, Hashes, LeavesRequest, Proven, ProveRequest
from protocols.manifest import FileRef
from synapsed.models import import_model, model_manifest
from synapsed.transfer.plan import Part
from synapsed.transfer.talk import Talk
from tests.store_kit import reopened, safetensors
from tests.transfer_rig import Node, World, world

TENSORS = 60_000
LIMIT = 0.08
"""Seconds of the loop's own CPU time in one turn, which no other process can add to. Each thing
that this looks for would take 0.1 to 0.4 s."""


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(90):
        async with world(tmp_path) as made:
            yield made


class Watch:
    """The longest turn of the loop's thread."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            before = time.thread_time()
            await trio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - before)

    def look(self, doing: str) -> None:
        assert self.longest < LIMIT, f"a turn of {self.longest:.2f} s while {doing}"
        self.longest = 0.0


def crowded(node: Node, folder: Path) -> tuple[bytes, FileRef]:
    """A model of so many small tensors, held by `node` as after a restart."""
    path = folder / "crowded.safetensors"
    path.write_bytes(safetensors({f"model.layers.{n}.bias": 1 for n in range(TENSORS)}))
    cid = import_model(node.store, path, "crowded").cid
    node.store = node.puller.store = reopened(node.store)
    node.server._store = node.store
    (ref,) = model_manifest(node.store, cid).files
    return cid, ref


async def test_a_crowded_file_stalls_nobody(swarm: World, tmp_path: Path) -> None:
    origin, newcomer = swarm.node(), swarm.node()
    cid, ref = crowded(origin, tmp_path)
    newcomer.knows(origin)
    watch = Watch()
    swarm.nursery.start_soon(watch.run)
    await newcomer.puller.learn(cid)
    watch.look("its header was fetched and parsed")
    async with newcomer.open_stream(origin.name, PROTOCOL) as stream:
        talk = Talk(stream)
        await talk.send(ProveRequest(root=ref.root, leaf=7))
        answer = await talk.answer(Proven, 30)
        await talk.raw(answer.length, answer.length, 5)
        watch.look("the first proof of it was made")
        await talk.send(LeavesRequest(root=ref.root, sections=((0, TENSORS + 1),)))
        hashes = await talk.answer(Hashes, 30)
        await talk.raw(hashes.length, hashes.length, 5)
        watch.look("leaf hashes were asked for")
    # The whole file is planned, and the pull stopped as soon as it begins.
    with trio.CancelScope() as scope:
        await newcomer.puller.pull(cid, progress=lambda _: scope.cancel())
    watch.look("a pull of it was planned")
    newcomer.store = await trio.to_thread.run_sync(reopened, newcomer.store)
    newcomer.puller.store = newcomer.store
    await newcomer.puller.pull(cid, Part(tensors=("model.layers.9.bias",)))
    watch.look("a part of it was pulled after a restart")


async def test_a_holder_of_one_tensor_looks_for_the_others_once(
    swarm: World, tmp_path: Path
) -> None:
    """Whose leaf hashes are not known is found out by reading, and then remembered."""
    origin, partial = swarm.node(), swarm.node()
    cid, ref = crowded(origin, tmp_path)
    partial.knows(origin)
    await partial.puller.pull(cid, Part(tensors=("model.layers.9.bias",)))
    watch = Watch()
    swarm.nursery.start_soon(watch.run)
    took = []
    async with origin.open_stream(partial.name, PROTOCOL) as stream:
        for _ in range(2):
            began = time.perf_counter()
            await Talk(stream).send(LeavesRequest(root=ref.root, sections=((0, TENSORS + 1),)))
            answer = await Talk(stream).answer(Hashes, 30)
            took.append(time.perf_counter() - began)
            assert answer.sections == ((0, 1), (10, 11))
            await Talk(stream).raw(answer.length, answer.length, 5)
    watch.look("leaf hashes were looked for")
    assert took[1] < 0.5
