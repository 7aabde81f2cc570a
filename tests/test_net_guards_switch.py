"""Guards of FACTS-libp2p.md around hosts and connections, each against the bare library."""

import gc
import os
import stat
from contextlib import suppress
from pathlib import Path

import libp2p
import libp2p.utils.paths
import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network import swarm
from libp2p.network.config import ConnectionConfig
from multiaddr import Multiaddr

from synapsed import keys
from synapsed.net import ListenError, PeerUnreachableError
from tests.netlab import (
    LOOPBACK,
    PATIENCE,
    bare_addr,
    bare_connect,
    bare_host,
    join,
    node,
    sleepers,
    until,
)

# The bare library warns of much that is its own business.
pytestmark = pytest.mark.filterwarnings("ignore")


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# -- inbound connections stop for ever after 250 in a lifetime


async def test_bare_inbound_slots_are_never_given_back() -> None:
    # By default there are 300 - 50 of them; here 12 - 2.
    config = ConnectionConfig(
        max_connections=12, high_watermark=12, low_watermark=2, min_connections=2
    )
    served = 0
    async with bare_host(config=config) as host:
        for _ in range(14):
            async with node() as guest:
                with suppress(PeerUnreachableError):
                    await guest.net.connect(bare_addr(host))
                    served += 1
            await until(lambda: not host.get_connected_peers())
    assert served == 10


async def test_inbound_connections_never_run_out() -> None:
    async with node(max_connections=4) as hub:
        for _ in range(60):
            async with node() as guest:
                await guest.net.connect(hub.addr)
            await until(lambda: not hub.net.peers(), pause=0.001)


# -- one file descriptor leaks per host


async def test_bare_every_host_that_was_run_leaks_its_socket() -> None:
    before = open_files()
    for _ in range(4):
        async with new_host().run([Multiaddr(LOOPBACK[0])]):
            pass
    assert open_files() >= before + 4


async def test_ours_leak_none() -> None:
    async with node(), node():
        pass
    before = open_files()
    for _ in range(10):
        async with node() as one, node() as other:
            for each in (one, other):
                each.subscribe()
            await join(one, other)
    assert open_files() <= before


# -- the dialler's head start; two hosts on one port


async def test_bare_every_dial_takes_a_quarter_of_a_second() -> None:
    assert swarm._HAPPY_EYEBALLS_DELAY == 0.25
    async with bare_host() as one, bare_host() as other:
        began = trio.current_time()
        await bare_connect(one, bare_addr(other))
        assert trio.current_time() - began > 0.24


async def test_a_dial_gives_nobody_a_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "_HAPPY_EYEBALLS_DELAY", 10 * PATIENCE)
    async with node() as one, node() as other:
        with sleepers(monkeypatch) as slept, trio.fail_after(PATIENCE):
            await one.net.connect(other.addr)
        assert not {name for name in slept if name.startswith("libp2p")}


async def test_bare_a_second_host_shares_the_port_silently() -> None:
    async with bare_host() as one, bare_host() as other:
        port = one.get_transport_addrs()[0].value_for_protocol("tcp")
        assert await other.get_network().listen(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"))


async def test_a_second_node_on_the_port_is_told_so() -> None:
    async with node() as one:
        where = one.addr.partition("/p2p/")[0]
        with pytest.raises(ListenError, match=r"Address already in use.*is another daemon"):
            async with node(listen=(where,)):
                pass


# -- wherever the key is kept


def test_bare_a_saved_key_has_whatever_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its FileSystemKeyStore has learned to by 0.8.1; `save_keypair` has not.
    path = tmp_path / "key.pem"
    monkeypatch.setattr(libp2p.utils.paths, "ED25519_PATH", path)
    old = os.umask(0o022)
    try:
        libp2p.save_keypair(create_new_key_pair(bytes(32)))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_ours_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys.create(tmp_path / "identity")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600


# -- garbage at the door


async def test_garbage_connections_end_nothing() -> None:
    async with node() as target, node() as friend:
        host, port = "127.0.0.1", int(target.addr.split("/")[4])
        for n in range(100):
            stream = await trio.open_tcp_stream(host, port)
            async with stream:
                await stream.send_all(os.urandom(n) + b"\n" * (n % 3))
        await friend.net.connect(target.addr)
        assert [peer.id for peer in target.net.peers()] == [friend.id]
        assert not [e for e in target.events if e["kind"] == "handler.failed"]


async def test_sockets_that_say_nothing_do_not_keep_others_out() -> None:
    async with node() as target, node() as friend:
        port = int(target.addr.split("/")[4])
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(12)]
        await friend.net.connect(target.addr)
        assert len(target.net.peers()) == 1
        for stream in silent:
            await stream.aclose()


async def test_bare_a_stranger_says_how_much_memory_to_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    receive = trio.SocketStream.receive_some

    async def watch(self: trio.SocketStream, count: int | None = None) -> bytes:
        asked.append(count or 0)
        return await receive(self, min(count or 65536, 65536))

    monkeypatch.setattr(trio.SocketStream, "receive_some", watch)
    async with bare_host() as host:
        await _claim_a_gigabyte(bare_addr(host))
        await until(lambda: max(asked) >= 1 << 30)


async def test_a_line_of_a_gigabyte_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    receive = trio.SocketStream.receive_some

    async def watch(self: trio.SocketStream, count: int | None = None) -> bytes:
        asked.append(count or 0)
        return await receive(self, count)

    monkeypatch.setattr(trio.SocketStream, "receive_some", watch)
    async with node() as target:
        await _claim_a_gigabyte(target.addr)
        assert max(asked) <= 1 << 20


async def _claim_a_gigabyte(addr: str) -> None:
    """Connect, and announce a negotiation line of 1 GiB; until the other side hangs up or waits."""
    async with await trio.open_tcp_stream("127.0.0.1", int(addr.split("/")[4])) as stream:
        await stream.send_all(b"\x80\x80\x80\x80\x04")
        with trio.move_on_after(0.3), suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
