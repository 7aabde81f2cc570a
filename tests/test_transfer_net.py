"""The same pulls over the real thing: TCP, Noise and Yamux between hosts on this machine."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from protocols.gossip.peerscore import Fault
from protocols.tensors.blocks import PROTOCOL
from synapsed.keys import Identity
from synapsed.models import export_model, import_model, model_manifest
from synapsed.net import MemoryTable, Net, NetSettings, PeerBook, Stream, open_net
from synapsed.store import Store
from synapsed.transfer.limits import Uploads
from synapsed.transfer.probe import probe
from synapsed.transfer.pull import Puller
from synapsed.transfer.serve import MAX_STREAMS_PER_PEER, BlockServer
from synapsed.transfer.sources import FixedSources, Source
from tests.store_kit import check_store, model_folder, same_folders
from tests.test_transfer_faults import wrong_bytes
from tests.transfer_rig import QUOTA, Bend, Bent

MiB = 1 << 20


class Host:
    """A store, a net and a transfer layer, as the daemon has them."""

    def __init__(self, store: Store, net: Net) -> None:
        self.store, self.net = store, net
        self.uploads = Uploads()
        self.sources = FixedSources([])
        self.blamed: list[tuple[bytes, Fault]] = []
        self.puller = Puller(
            net.peer_id, store, net, self.sources, blame=self.blame, credit=net.book.transferred
        )
        self.server = BlockServer(store, self.uploads, self.puller, self.blame)
        self.bend: Bend | None = None
        self.asked: list[object] = []
        self.bent: list[object] = []
        net.serve(PROTOCOL, self.serve, MAX_STREAMS_PER_PEER)

    async def serve(self, stream: Stream) -> None:
        await self.server.handle(Bent(self, stream))  # type: ignore[arg-type]

    def blame(self, peer: bytes, fault: Fault, why: str) -> None:
        self.blamed.append((peer, fault))
        self.net.blame(peer, fault, why)

    async def meets(self, *others: "Host") -> None:
        for other in others:
            await self.net.connect(other.net.addrs()[0])
            self.sources.sources.append(Source(other.net.peer_id))


@asynccontextmanager
async def host(folder: Path, number: int) -> AsyncIterator[Host]:
    settings = NetSettings(listen=("/ip4/127.0.0.1/tcp/0",), target_peers=1)
    identity = Identity(bytes([number]) * 32)
    store = Store.open(folder / f"host{number}", QUOTA)
    book = PeerBook(MemoryTable())
    async with (
        open_net(settings, identity, "test", book, lambda kind, /, **fields: None) as net,
        trio.open_nursery() as nursery,
    ):
        made = Host(store, net)
        nursery.start_soon(made.uploads.run)
        yield made
        nursery.cancel_scope.cancel()
    store.close()


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[list[Host]]:
    with trio.fail_after(90):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(host(tmp_path, n)) for n in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", {"a": 300, "big.weight": 13 * MiB, "c": 2 * MiB})


async def test_a_model_crosses_the_net_from_two_holders(hosts: list[Host], folder: Path) -> None:
    left, right, newcomer = hosts
    for holder in (left, right):
        cid = import_model(holder.store, folder, "made").cid
        holder.uploads.set_rate(16 * MiB)
    await newcomer.meets(left, right)
    report = await newcomer.puller.pull(cid)
    export_model(newcomer.store, cid, folder.parent / "out")
    assert same_folders(folder, folder.parent / "out")
    assert {share.peer for share in report.peers} == {left.net.peer_id, right.net.peer_id}
    for share in report.peers:
        assert newcomer.net.book.record(share.peer).throughput is not None
    model = model_manifest(newcomer.store, cid)
    assert await probe(newcomer.net, newcomer.store, left.net.peer_id, model, tile=2, pick=3)


async def test_a_liar_on_the_net_is_blamed_and_done_without(
    hosts: list[Host], folder: Path
) -> None:
    liar, good, newcomer = hosts
    for holder in (liar, good):
        cid = import_model(holder.store, folder, "made").cid
        holder.uploads.set_rate(16 * MiB)
    liar.bend = wrong_bytes
    await newcomer.meets(liar, good)
    await newcomer.puller.pull(cid)
    check_store(newcomer.store)
    assert liar.bent
    assert newcomer.blamed == [(liar.net.peer_id, Fault.MISMATCH)]
    assert newcomer.net.book.record(liar.net.peer_id).faults > 0


async def test_a_holder_that_leaves_the_net_is_replaced(hosts: list[Host], folder: Path) -> None:
    leaving, other, newcomer = hosts
    for holder in (leaving, other):
        cid = import_model(holder.store, folder, "made").cid
        holder.uploads.set_rate(8 * MiB)
    await newcomer.meets(leaving, other)
    gone = trio.Event()

    async def leave() -> None:
        await gone.wait()
        await newcomer.net.disconnect(leaving.net.peer_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        report = await newcomer.puller.pull(
            cid, progress=lambda progress: gone.set() if progress.done > MiB else None
        )
        gone.set()
    check_store(newcomer.store)
    shares = {share.peer: share for share in report.peers}
    assert shares[leaving.net.peer_id].faults == ["closed"]
    assert shares[leaving.net.peer_id].bytes > 0
    assert shares[other.net.peer_id].bytes > shares[leaving.net.peer_id].bytes
