"""Finding peers: bootstrap, memory, hearsay, DHT, mDNS; and finding them again."""

import os
import socket
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import trio

from protocols.gossip.peerscore import DIAL_BACKOFF
from protocols.peerid import parse_peer_id
from synapsed.keys import Identity
from synapsed.net import MemoryTable, PeerBook, StreamClosedError, discovery
from synapsed.net.mdns import announce_and_browse, read_properties, service_type
from tests.netlab import LOOPBACK, Node, join, node, nodes, until


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def connected(one: Node) -> set[bytes]:
    return {peer.id for peer in one.net.peers()}


async def test_one_bootstrap_address_is_enough_to_reach_the_target() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(node())
        swarm = [
            await stack.enter_async_context(node(bootstrap=(first.addr,), target_peers=4))
            for _ in range(7)
        ]
        for one in (first, *swarm):
            one.subscribe()
        # What heartbeats do in the daemon: everybody's signed addresses reach everybody.
        for one in swarm:
            for other in swarm:
                one.net.learned(other.id, other.net.addrs())
        await until(lambda: all(len(connected(one)) >= 4 for one in swarm))
        assert all("bootstrap.reached" in one.kinds() for one in swarm)
        await until(lambda: all("discovery.satisfied" in one.kinds() for one in swarm))


async def test_the_target_is_reached_again_after_half_of_them_are_gone() -> None:
    async with AsyncExitStack() as keep, AsyncExitStack() as doomed:
        stays = [await keep.enter_async_context(node(target_peers=3)) for _ in range(5)]
        goes = [await doomed.enter_async_context(node(target_peers=3)) for _ in range(5)]
        for one in stays:
            for other in (*goes, *stays):
                one.net.learned(other.id, other.net.addrs())
        await until(lambda: all(len(connected(one)) >= 3 for one in stays))
        await doomed.aclose()
        alive = {one.id for one in stays}
        await until(lambda: all(len(connected(one) & alive) >= 3 for one in stays))
        assert all(connected(one) <= alive for one in stays)


async def test_a_dead_bootstrap_is_told_of_and_dialled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "DIAL_BACKOFF", 0.2)
    port = closed_port()
    identity = Identity(os.urandom(32))
    addr = f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.text}"
    async with node(bootstrap=(addr,), target_peers=1) as one:
        await until(lambda: one.kinds().count("bootstrap.unreachable") >= 2)
        told = [e for e in one.events if e["kind"] == "bootstrap.unreachable"]
        assert told[0]["addr"] == addr
        assert "refused" in told[0]["why"]
        assert told[1]["failures"] == 2
        assert told[1]["again_in"] > told[0]["again_in"]
        async with node(seed=identity.seed, listen=(f"/ip4/127.0.0.1/tcp/{port}",)):
            await until(lambda: "bootstrap.reached" in one.kinds())
            assert connected(one) == {identity.peer_id}


async def test_a_dead_bootstrap_degrades_to_the_remembered() -> None:
    table = MemoryTable()
    async with node() as friend:
        async with node(book=PeerBook(table)) as one:
            await one.net.connect(friend.addr)
        dead = f"/ip4/127.0.0.1/tcp/{closed_port()}"
        async with node(book=PeerBook(table), bootstrap=(dead,), target_peers=1) as again:
            await until(lambda: connected(again) == {friend.id})
            assert "bootstrap.unreachable" in again.kinds()


async def test_a_bootstrap_of_another_network_says_why() -> None:
    async with (
        node(network="elsewhere") as stranger,
        node(bootstrap=(stranger.addr,), target_peers=1) as one,
    ):
        await until(lambda: "bootstrap.unreachable" in one.kinds())
        event = next(e for e in one.events if e["kind"] == "bootstrap.unreachable")
        assert "handshake" in event["why"]


async def test_being_ones_own_bootstrap_is_nothing_to_dial() -> None:
    seed = os.urandom(32)
    own = f"/ip4/127.0.0.1/tcp/{closed_port()}/p2p/{Identity(seed).text}"
    async with node(seed=seed, bootstrap=(own,), target_peers=1) as one, node() as other:
        one.net.learned(other.id, other.net.addrs())
        await until(lambda: connected(one) == {other.id})
        assert "bootstrap.unreachable" not in one.kinds()


async def test_nothing_is_dialled_beyond_the_target() -> None:
    async with node(target_peers=2) as one, nodes(5) as others:
        for other in others:
            one.net.learned(other.id, other.net.addrs())
        await until(lambda: len(connected(one)) >= 2)
        await trio.sleep(0.2)
        assert len(connected(one)) == 2


async def test_hearsay_of_ourselves_and_nonsense_is_not_believed() -> None:
    async with node(target_peers=1) as one:
        before = len(one.book)
        one.net.learned(one.id, ["/ip4/127.0.0.1/tcp/1"])
        one.net.learned(b"nobody", ["/ip4/127.0.0.1/tcp/1"])
        stranger = Identity(os.urandom(32)).peer_id
        one.net.learned(stranger, ["rubbish", "/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/0"])
        other = Identity(os.urandom(32))
        one.net.learned(stranger, [f"/ip4/127.0.0.1/tcp/9/p2p/{other.text}"])
        assert len(one.book) == before


async def test_the_dht_finds_peers_of_peers() -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node(dht=True))
        leaves = [
            await stack.enter_async_context(node(dht=True, bootstrap=(hub.addr,))) for _ in range(4)
        ]
        await until(lambda: len(connected(hub)) == 4)
        await until(lambda: all(hub.net.book.record(leaf.id).addrs for leaf in leaves))
        seeker = await stack.enter_async_context(
            node(dht=True, bootstrap=(hub.addr,), target_peers=4)
        )
        await until(lambda: len(connected(seeker)) >= 4)
        learned = [seeker.book.record(leaf.id).source for leaf in leaves]
        assert "dht" in learned


async def test_the_dht_stores_nothing_for_strangers() -> None:
    async with node(dht=True) as one, node() as other:
        await other.net.connect(one.addr)
        async with other.net.open_stream(one.id, "/ipfs/kad/1.0.0") as stream:
            # PUT_VALUE {key: "k", record: {key: "k", value: "v"}}
            body = b"\x08\x00\x12\x01k\x1a\x06\x0a\x01k\x12\x01v"
            await stream.write(bytes((len(body),)) + body)
            with pytest.raises(StreamClosedError, match="reset by the peer"):
                await stream.read_some(100)


def test_mdns_names_the_network_and_reads_only_addresses() -> None:
    assert service_type("a") != service_type("b")
    assert len(service_type("main").split(".")[0]) <= 16
    identity = Identity(bytes(32))
    good = f"/ip4/192.168.1.5/tcp/4817/p2p/{identity.text}"
    found = read_properties(
        {
            b"dnsaddr": good.encode(),
            b"dnsaddr2": b"/ip4/1.2.3.4/tcp/5",
            b"dnsaddr3": b"\xff\xfe",
            b"dnsaddr4": None,
            b"other": good.encode(),
        }
    )
    assert found == {parse_peer_id(identity.text): [good]}


async def test_mdns_finds_the_neighbours_of_the_same_network() -> None:
    found: dict[str, dict[bytes, list[str]]] = {"a": {}, "b": {}, "c": {}}
    ids = {name: Identity(name.encode() * 32) for name in found}

    async with trio.open_nursery() as nursery:
        for name, network in (("a", "lan"), ("b", "lan"), ("c", "elsewhere")):
            addr = f"/ip4/192.0.2.1/tcp/4817/p2p/{ids[name].text}"
            nursery.start_soon(announce_and_browse, network, (addr,), 4817, found[name].__setitem__)
        try:
            await until(
                lambda: ids["b"].peer_id in found["a"] and ids["a"].peer_id in found["b"],
                seconds=8,
            )
        except trio.TooSlowError:
            pytest.skip("multicast does not come back on this machine")
        assert found["c"] == {}
        nursery.cancel_scope.cancel()


async def test_two_nodes_meet_by_mdns_alone() -> None:
    async with (
        node(mdns=True, target_peers=1, listen=("/ip4/0.0.0.0/tcp/0",)) as one,
        node(mdns=True, target_peers=1, listen=("/ip4/0.0.0.0/tcp/0",)) as other,
    ):
        try:
            await until(lambda: connected(one) == {other.id}, seconds=8)
        except trio.TooSlowError:
            pytest.skip("multicast does not come back on this machine")


async def test_a_swarm_on_gossip_alone_learns_addresses() -> None:
    async with nodes(2, listen=LOOPBACK) as (one, other):
        for each in (one, other):
            each.subscribe()
        await join(one, other)
        # The record in the hello is signed, so it may be believed of an inbound peer.
        await until(lambda: other.book.record(one.id).source != "")
        assert other.book.record(one.id).addrs == (one.addr,)


def test_the_back_off_grows_to_its_limit() -> None:
    entry = discovery.Bootstrap(discovery.parse("/ip4/192.0.2.1/tcp/1"))
    pauses = [entry.failed(0.0) for _ in range(12)]
    assert DIAL_BACKOFF <= pauses[0] <= DIAL_BACKOFF * 1.25
    assert all(b > a * 1.5 for a, b in pairwise(pauses[:6]))
    assert max(pauses) <= discovery.MAX_DIAL_BACKOFF * 1.25
