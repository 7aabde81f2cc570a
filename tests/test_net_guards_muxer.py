"""Guards around Yamux: what py-libp2p's lets a peer do, and what ours does about it."""

import random
from contextlib import suppress

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.yamux.yamux import Yamux

from synapsed.net import Stream, muxer, negotiate
from synapsed.net.muxer import MAX_INBOUND, MAX_REFUSED, STREAM_BURST
from synapsed.net.muxstream import INITIAL_WINDOW
from synapsed.net.wire import MAX_PLAINTEXT, WireError
from tests.netlab import (
    ACK,
    DATA,
    FIN,
    PATIENCE,
    PING,
    RST,
    SYN,
    WINDOW,
    Node,
    Raw,
    bare_addr,
    bare_connect,
    bare_host,
    bare_id,
    frame,
    node,
    nodes,
    raw,
    sleepers,
    until,
)

# The bare library warns of much that is its own business.
pytestmark = pytest.mark.filterwarnings("ignore")

HOLD = "/hold/1"
AGREEMENT = negotiate.line(negotiate.HEADER) + negotiate.line(HOLD)


def multiplexer(target: Node) -> object:
    (conn,) = target.net._switch.all_connections()
    return conn.muxed_conn


async def hold(stream: Stream) -> None:
    await trio.sleep_forever()


# -- streams without end


async def test_bare_one_peer_opens_as_many_streams_as_it_likes() -> None:
    async with bare_host() as host, raw(bare_addr(host)) as peer:
        await peer.open_streams(500)

        def muxers() -> list[Yamux]:
            return [c.muxed_conn for cs in host.get_network().connections.values() for c in cs]

        await until(lambda: muxers() and len(muxers()[0].streams) >= 500)


async def test_streams_above_the_limit_are_refused_one_by_one() -> None:
    async with node() as target, raw(target.addr) as peer:
        await peer.open_streams(MAX_INBOUND + 10)
        await until(lambda: len(multiplexer(target).streams) >= MAX_INBOUND)
        assert await peer.answers()
        assert len(multiplexer(target).streams) <= MAX_INBOUND + 1  # and one of ours, for gossip


async def test_a_peer_that_opens_streams_without_end_is_cut() -> None:
    async with node() as target, raw(target.addr) as peer:
        await peer.open_streams(MAX_INBOUND + MAX_REFUSED + 1)
        assert await peer.is_cut()
        await until(lambda: not target.net.peers())


async def test_a_peer_that_opens_and_resets_streams_for_ever_is_cut() -> None:
    async with node() as target, raw(target.addr) as peer:
        churn = b"".join(
            frame(WINDOW, SYN, n, 0) + frame(WINDOW, RST, n, 0)
            for n in range(1, 4 * (int(STREAM_BURST) + MAX_REFUSED), 2)
        )
        with suppress(WireError):
            await peer.send(churn)
        assert await peer.is_cut()


# -- more than the window


async def test_bare_a_peer_may_send_beyond_its_window() -> None:
    async with bare_host() as host, raw(bare_addr(host)) as peer:
        await peer.open_streams(1)
        body = bytes(60_000)
        for _ in range(20):
            await peer.send(frame(DATA, 0, 1, len(body), body))

        def held() -> int:
            return sum(
                len(b)
                for cs in host.get_network().connections.values()
                for c in cs
                for b in c.muxed_conn.stream_buffers.values()
            )

        await until(lambda: held() > 4 * INITIAL_WINDOW)
        assert host.get_connected_peers()


async def test_a_peer_that_sends_beyond_its_window_is_cut() -> None:
    async with node() as target, raw(target.addr) as peer:
        target.net.serve(HOLD, hold)
        await peer.open_streams(1, AGREEMENT)
        body = bytes(60_000)
        with suppress(WireError):
            for _ in range(20):
                await peer.send(frame(DATA, 0, 1, len(body), body))
        assert await peer.is_cut()
        await until(lambda: not target.net.peers())
        assert target.net._switch.budget.unread == 0


async def test_unread_bytes_of_all_peers_have_one_budget() -> None:
    async with node() as target, raw(target.addr) as modest, raw(target.addr) as greedy:
        target.net.serve(HOLD, hold, max_streams_per_peer=50)
        target.net._switch.budget.limit = 3 << 20
        await modest.open_streams(2, AGREEMENT + bytes(100_000))
        await greedy.open_streams(20, AGREEMENT + bytes(200_000))
        assert await greedy.is_cut()
        assert await modest.answers()
        await until(lambda: 0 < target.net._switch.budget.unread <= 200_000)


# -- frames that are wrong


WRONG = {
    "version": frame(DATA, SYN, 1, 0, version=9),
    "type": frame(7, 0, 0, 0),
    "our own stream id": frame(WINDOW, SYN, 2, 0),
    "stream 0": frame(WINDOW, SYN, 0, 0),
    "twice the same stream": frame(WINDOW, SYN, 1, 0) * 2,
    "a body larger than any window": frame(DATA, 0, 99, 1 << 30),
    "pings without end": frame(PING, SYN, 0, 1) * 100,
    "empty frames without end": frame(WINDOW, 0, 99, 0) * 200_000,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_a_peer_that_breaks_the_rules_is_cut(wrong: bytes) -> None:
    async with node() as target, raw(target.addr) as peer:
        with suppress(WireError):
            await peer.send(wrong)
        assert await peer.is_cut()
        await until(lambda: not target.net.peers())


HARMLESS = {
    "data for a stream that is over": frame(DATA, 0, 99, 5, b"hello"),
    "a window for a stream that is over": frame(WINDOW, 0, 99, 100),
    "a reset of nothing": frame(WINDOW, RST, 99, 0),
    "an answer to no ping": frame(PING, ACK, 0, 1234),
    "opened, ended and reset at once": frame(DATA, SYN | FIN | RST, 1, 3, b"abc"),
    "a window of 4 GiB": frame(WINDOW, SYN, 1, 0xFFFFFFFF) + frame(WINDOW, 0, 1, 0xFFFFFFFF),
    "a body in pieces": frame(WINDOW, SYN, 1, 0) + frame(DATA, FIN, 1, 3, b"abc"),
}


@pytest.mark.parametrize("odd", HARMLESS.values(), ids=HARMLESS.keys())
async def test_what_is_odd_and_allowed_cuts_nobody(odd: bytes) -> None:
    async with node() as target, raw(target.addr) as peer:
        for byte in odd:  # each byte a record of its own: no frame boundary is relied on
            await peer.send(bytes((byte,)))
        assert await peer.answers()


async def test_random_frames_never_hurt_others() -> None:
    chance = random.Random(11)
    async with node() as target, node() as friend:
        await friend.net.connect(target.addr)
        for _ in range(40):
            async with raw(target.addr) as peer:
                with suppress(WireError):
                    for _ in range(10):
                        await peer.send(
                            frame(
                                chance.randrange(5),
                                chance.randrange(16),
                                chance.randrange(20),
                                chance.choice((0, 1, 12, 70_000, 0xFFFFFFFF)),
                                chance.randbytes(chance.randrange(40)),
                                version=chance.choice((0, 0, 0, 0, 1)),
                            )
                        )
        assert await friend.net.ping(target.id) > 0
        await until(lambda: len(target.net.peers()) == 1)
        assert not [e for e in target.events if e["kind"] == "handler.failed"]


# -- a cancelled write, and closing


async def _read_on(peer: Raw) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            await peer.wire.receive()


async def test_bare_a_cancelled_write_breaks_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = trio.Event()
    send_all = trio.SocketStream.send_all

    async def fills_up(self: trio.SocketStream, data: bytes) -> None:
        """As where the peer does not read: most of a record goes out, and the rest has to wait."""
        if len(data) < MAX_PLAINTEXT or full.is_set():
            return await send_all(self, data)
        await send_all(self, data[:-8])
        full.set()
        await trio.sleep_forever()

    monkeypatch.setattr(trio.SocketStream, "send_all", fills_up)
    async with bare_host() as host, raw(bare_addr(host)) as peer:
        await until(host.get_connected_peers)
        (conn,) = next(iter(host.get_network().connections.values()))
        stream = await conn.muxed_conn.open_stream()
        await peer.send(frame(WINDOW, 0, stream.stream_id, 64 << 20))
        await until(lambda: stream.send_window > 32 << 20)
        async with trio.open_nursery() as writing:
            writing.start_soon(stream.write, bytes(1 << 20))
            with trio.fail_after(PATIENCE):
                await full.wait()
            writing.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.muxed_conn._write_frame, frame(PING, SYN, 0, 5))
            with pytest.raises(WireError, match="a record does not authenticate"):
                await _read_on(peer)
            nursery.cancel_scope.cancel()


async def test_a_cancelled_write_resets_its_stream_only() -> None:
    async with node() as target, raw(target.addr) as peer:
        await until(target.net.peers)
        muxer = multiplexer(target)
        stream = await muxer.open_stream()
        await peer.send(frame(WINDOW, 0, stream.stream_id, 64 << 20))
        async with trio.open_nursery() as writing:
            writing.start_soon(stream.write, bytes(48 << 20))
            await trio.testing.wait_all_tasks_blocked()
            assert not stream.dead
            writing.cancel_scope.cancel()
        assert stream.dead
        assert await peer.answers()  # and all before it authenticates


async def test_bare_closing_a_connection_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bare_host() as one, bare_host() as other:
        await bare_connect(one, bare_addr(other))
        (conn,) = one.get_network().connections[next(iter(one.get_network().connections))]
        with sleepers(monkeypatch) as slept:
            await conn.close()
        assert "libp2p.network.connection.swarm_connection" in slept


async def test_closing_connections_waits_for_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "CLOSE_FLUSH", 10 * PATIENCE)
    async with node(max_connections=40) as hub, nodes(16) as guests:
        for guest in guests:
            await guest.net.connect(hub.addr)
        await until(lambda: len(hub.net.peers()) == 16)
        with sleepers(monkeypatch) as slept, trio.fail_after(PATIENCE):
            await hub.net._switch.close_all()
            await until(lambda: not any(guest.net.peers() for guest in guests))
        assert not hub.net.peers()
        assert not {name for name in slept if name.startswith(("libp2p", muxer.__name__))}


async def test_bare_hosts_and_ours_understand_each_other() -> None:
    async with node() as ours, bare_host() as bare:
        await ours.net.connect(bare_addr(bare))
        rtt = await ours.net.ping(bare_id(bare))
        assert rtt > 0
        async with ours.net.open_stream(bare_id(bare), "/ipfs/ping/1.0.0") as stream:
            await stream.write(bytes(32))
            assert await stream.read_exactly(32) == bytes(32)
