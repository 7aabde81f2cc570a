"""The event loop keeps its turns while a file of tens of thousands of tensors is dealt with.

Whoever makes such a file, or asks about it, must not hold up heartbeats and everybody else.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocols.manifest import FileRef
from protocols.tensors.blocks import PROTOCOL, Hashes, LeavesRequest, Proven, ProveRequest
from synapsed.models import import_model, model_manifest
from synapsed.transfer.plan import Part
from synapsed.transfer.talk import Talk
from tests.steps import Passes, each_line
from tests.store_kit import reopened, safetensors
from tests.transfer_rig import Node, World, world

TENSORS = 60_000
LIMIT = TENSORS
"""Lines of Python that the loop's thread may run in one pass. Each thing that this looks for goes
through all tensors, and takes 120,000 to 3 million; a pass without any of them 1,500."""
PLANNED = 10 * TENSORS
"""What is missing is made a list of, once: five quick lines for a tensor, 50 ms."""


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(90):
        async with world(tmp_path) as made:
            yield made


class Watch(Passes):
    """The most that the loop's thread did in one pass."""

    def look(self, doing: str, most: int = LIMIT) -> None:
        assert 0 < self.most < most, f"a pass of {self.most} lines while {doing}"
        self.most = 0


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
    with Watch().watching() as watch, each_line(watch.piece):
        await _dealt_with(watch, origin, newcomer, cid, ref)


async def _dealt_with(watch: Watch, origin: Node, newcomer: Node, cid: bytes, ref: FileRef) -> None:
    await newcomer.puller.learn(cid)
    watch.look("its header was fetched and parsed")
    async with newcomer.open_stream(origin.name, PROTOCOL) as stream:
        talk = Talk(stream)
        await talk.send(ProveRequest(root=ref.root, leaf=7))
        answer = await talk.answer(Proven, 60)
        await talk.raw(answer.length, answer.length, 60)
        watch.look("the first proof of it was made")
        await talk.send(LeavesRequest(root=ref.root, sections=((0, TENSORS + 1),)))
        hashes = await talk.answer(Hashes, 60)
        await talk.raw(hashes.length, hashes.length, 60)
        watch.look("leaf hashes were asked for")
    # The whole file is planned, and the pull stopped as soon as it begins.
    with trio.CancelScope() as scope:
        await newcomer.puller.pull(cid, progress=lambda _: scope.cancel())
    watch.look("a pull of it was planned", PLANNED)
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
    with Watch().watching() as watch, each_line(watch.piece):
        async with origin.open_stream(partial.name, PROTOCOL) as stream:
            for _ in range(2):
                await Talk(stream).send(LeavesRequest(root=ref.root, sections=((0, TENSORS + 1),)))
                answer = await Talk(stream).answer(Hashes, 60)
                assert answer.sections == ((0, 1), (10, 11))
                await Talk(stream).raw(answer.length, answer.length, 60)
    watch.look("leaf hashes were looked for")
