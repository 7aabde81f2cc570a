"""A served MemoryNode, and ways to talk to it. Test modules import the fixtures that they use."""

import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from synapsed.control.client import AsyncClient
from synapsed.control.server import serve_control
from synapsed.models import import_model
from synapsed.store import Store
from tests import cli_child
from tests.control_node import MemoryNode, write_model

CLI = (sys.executable, "-m", "synapsed.cli.main")


class Ran(msgspec.Struct):
    """What one run of synapsectl left."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Its stdout, which must be exactly one line of JSON."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


class Daemon:
    """A node that is served at a real socket."""

    def __init__(self, node: MemoryNode, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.socket = folder / "control.sock"

    def http(self) -> httpx.AsyncClient:
        """Plain HTTP to the socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://d", timeout=20)

    def client(self) -> AsyncClient:
        """Our own client."""
        return AsyncClient(self.socket, 20)

    async def connect(self) -> trio.SocketStream:
        """A bare connection."""
        return await trio.open_unix_socket(str(self.socket))

    async def run(self, *arguments: str, stdin: bytes = b"", **env: str) -> Ran:
        """The command line, in a process of its own."""
        ours = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        environment = {**ours, "SYNAPSED_HOME": str(self.folder), **env}
        run = partial(cli_child.run, list(arguments), environment, stdin)
        return Ran(*await trio.to_thread.run_sync(run))


@pytest.fixture(name="origin")
def origin_fixture(tmp_path: Path) -> Store:
    """A store from which the node pulls."""
    store = Store.open(tmp_path / "origin", 64 << 20)
    yield store
    store.close()


@pytest.fixture(name="big")
def big_fixture(origin: Store, tmp_path: Path) -> bytes:
    """The CID of a model of 4 MB in `origin`: 18 sub-tiles, five tensors, four experts."""
    return import_model(origin, write_model(tmp_path / "big", megabytes=4)).cid


@pytest.fixture(name="daemon")
async def daemon_fixture(
    tmp_path: Path, origin: Store, nursery: trio.Nursery
) -> AsyncIterator[Daemon]:
    """A MemoryNode at `<tmp_path>/home/control.sock`."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    node = MemoryNode(folder, origin)
    served = Daemon(node, folder)
    await nursery.start(serve_control, node, served.socket)
    yield served
    node.close()


def run_cli(*arguments: str, **env: str) -> Ran:
    """The command line in a process of its own, with no event loop about."""
    return Ran(*cli_child.run(list(arguments), {**os.environ, **env}, b""))
