"""Who connects to whom: networks, identities, duplicates, caps, addresses, round trips."""

import os

import pytest
import trio

from protocols.peerid import peer_id_text
from synapsed.keys import Identity
from synapsed.net import (
    AddressError,
    Fault,
    MemoryTable,
    PeerBook,
    PeerUnreachableError,
    TimedOutError,
    WrongNetworkError,
    discovery,
    muxer,
    network,
)
from synapsed.net import keeper as keeping
from synapsed.net.addresses import parse
from tests.netlab import LOOPBACK, PATIENCE, SYN, holds, node, nodes, until


async def test_a_wrong_network_never_gets_past_the_handshake() -> None:
    async with node(network="one") as one, node(network="other") as other:
        with pytest.raises(WrongNetworkError, match="is not of the network"):
            await one.net.connect(other.addr)
        assert not one.net.peers()
        assert not other.net.peers()
        assert "peer.connected" not in one.kinds() + other.kinds()


async def test_an_address_of_somebody_else_is_refused() -> None:
    async with nodes(2) as (one, other):
        stranger = Identity(os.urandom(32))
        where = other.addr.partition("/p2p/")[0]
        with pytest.raises(PeerUnreachableError, match="PeerIDMismatches"):
            await one.net.connect(f"{where}/p2p/{stranger.text}")
        assert one.net.book.record(stranger.peer_id).failed_dials == 1
        assert not one.net.peers()


async def test_an_address_without_an_identity_finds_out_who_is_there() -> None:
    async with nodes(2) as (one, other):
        where = other.addr.partition("/p2p/")[0]
        assert await one.net.connect(where) == other.id
        assert await one.net.connect(where) == other.id  # and does not connect twice
        assert len(other.net.peers()) == 1
        assert one.kinds().count("peer.connected") == 1


async def test_we_do_not_dial_ourselves() -> None:
    async with node() as one:
        for text in (one.addr, one.addr.partition("/p2p/")[0]):
            with pytest.raises(AddressError, match="our own"):
                await one.net.connect(text)
        assert not one.net.peers()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "not of the one form"),
        ("/ip4/127.0.0.1/udp/4001", "not of the one form"),
        ("/ip4/127.0.0.1/tcp/70000", "no port 70000"),
        ("/ip4/300.0.0.1/tcp/1", "not an address"),
        ("/ip4/127.0.0.1/tcp/1/p2p/nobody", "not the peer id of"),
    ],
)
async def test_bad_addresses_say_what_is_wrong(text: str, why: str) -> None:
    async with node() as one:
        with pytest.raises(AddressError, match=why):
            await one.net.connect(text)


async def test_nobody_there_is_an_error_with_a_reason() -> None:
    async with node() as one, node() as other:
        gone = other.addr
        await other.net._switch.close_all()
    async with node() as one:
        with pytest.raises(PeerUnreachableError, match=r"refused.*is the daemon there running"):
            await one.net.connect(gone)


async def test_both_dial_at_once_and_keep_the_same_connection() -> None:
    async with nodes(2) as (one, other):
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.net.connect, other.addr)
                nursery.start_soon(other.net.connect, one.addr)
            await until(lambda: len(one.net.peers()) == len(other.net.peers()) == 1)
            # One left on each side is the same one on both: a connection has two ends.
            await holds(lambda: len(one.net.peers()) == len(other.net.peers()) == 1, 0.03)
            assert await one.net.ping(other.id) > 0
            assert await other.net.ping(one.id) > 0
            await one.net.disconnect(other.id)
            await until(lambda: not one.net.peers() and not other.net.peers())


async def test_many_dials_of_one_peer_are_one_connection() -> None:
    async with nodes(2) as (one, other):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one.net.connect, other.addr)
        assert len(other.net.peers()) == 1
        assert other.kinds().count("peer.connected") == 1


async def test_callbacks_tell_who_comes_and_goes() -> None:
    seen: list[tuple[str, bytes]] = []
    async with nodes(2) as (one, other):
        one.net.on_peer(lambda p: seen.append(("came", p)), lambda p: seen.append(("went", p)))
        await one.net.connect(other.addr)
        assert seen == [("came", other.id)]
        await other.net.disconnect(one.id)
        await until(lambda: seen == [("came", other.id), ("went", other.id)])


async def test_a_connection_that_takes_anothers_place_is_told_of_in_turn() -> None:
    seed = os.urandom(32)
    seen: list[str] = []
    async with node() as one, node(seed=seed) as first, node(seed=seed) as second:
        one.net.on_peer(lambda _: seen.append("came"), lambda _: seen.append("went"))
        await first.net.connect(one.addr)
        await until(lambda: seen == ["came"])
        await second.net.connect(one.addr)
        await until(lambda: seen == ["came", "went", "came"])
        await until(lambda: not first.net.peers())
        await holds(lambda: len(one.net.peers()) == 1 and len(seen) == 3, 0.1)
        assert await one.net.ping(second.id) > 0


async def test_dials_leave_from_the_chosen_address() -> None:
    async with node(dial_from="127.0.0.77") as one, node() as other:
        await one.net.connect(other.addr)
        await until(other.net.peers)
        assert parse(other.net.peers()[0].addr).host == "127.0.0.77"


async def test_announced_addresses_replace_the_bound_ones() -> None:
    told = ("/ip4/198.51.100.7/tcp/4001", "/dns/example.org/tcp/4001")
    async with node(announce=told) as one:
        assert one.net.addrs() == [f"{text}/p2p/{peer_id_text(one.id)}" for text in told]


async def test_a_wildcard_listener_states_real_addresses() -> None:
    async with node(listen=("/ip4/0.0.0.0/tcp/0",)) as one, node() as other:
        assert "/ip4/0.0.0.0/" not in one.addr
        await other.net.connect(one.addr)


async def test_listeners_may_be_several() -> None:
    async with node(listen=("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0")) as one:
        assert len(one.net.addrs()) == 2
        for addr in one.net.addrs():
            async with node() as other:
                await other.net.connect(addr)


async def test_where_an_inbound_peer_listens_is_learned_from_its_signed_record() -> None:
    async with nodes(2) as (one, other):
        await one.net.connect(other.addr)
        await until(lambda: other.net.book.record(one.id).addrs == (one.addr,))


async def test_a_full_node_keeps_the_worthiest() -> None:
    async with node(max_connections=2, target_peers=0) as hub, nodes(3) as guests:
        first, second, third = guests
        for guest in (first, second):
            await guest.net.connect(hub.addr)
        await until(lambda: len(hub.net.peers()) == 2)
        hub.net.blame(first.id, Fault.TIMEOUT, "for the test")
        hub.net.book.transferred(second.id, 1 << 30, 10.0)
        hub.net.book.transferred(third.id, 1 << 20, 10.0)
        await third.net.connect(hub.addr)
        await until(lambda: {p.id for p in hub.net.peers()} == {second.id, third.id})
        # And a stranger is not let in at the cost of a friend.
        async with node() as stranger:
            await stranger.net.connect(hub.addr)
            await until(lambda: not stranger.net.peers())
        await holds(lambda: {p.id for p in hub.net.peers()} == {second.id, third.id}, 0.1)


async def test_a_refused_dial_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "DIAL_BACKOFF", 10 * PATIENCE)
    async with (
        node(max_connections_per_ip=0) as full,
        node(target_peers=1, bootstrap=(full.addr,)) as one,
    ):
        one.net.learned(full.id, full.net.addrs())
        await until(lambda: "bootstrap.unreachable" in one.kinds())
        event = next(e for e in one.events if e["kind"] == "bootstrap.unreachable")
        assert "hung up at once" in event["why"]
        assert one.book.record(full.id).failed_dials >= 1
        before = one.kinds().count("peer.connected")
        await trio.sleep(0.5)
        assert one.kinds().count("peer.connected") == before <= 2


async def test_a_full_node_takes_visitors_and_sees_them_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "TICK", 0.05)
    monkeypatch.setattr(keeping, "SURPLUS_AFTER", 10 * PATIENCE)
    async with node(max_connections=4) as hub, nodes(5) as guests:
        for guest in guests:
            await guest.net.connect(hub.addr)
        await until(lambda: len(hub.net.peers()) == 5)
        monkeypatch.setattr(keeping, "SURPLUS_AFTER", 0.3)
        await until(lambda: len(hub.net.peers()) == 4)
        await holds(lambda: len(hub.net.peers()) == 4, 0.2)


async def test_one_address_gets_no_more_than_its_share() -> None:
    async with node(max_connections_per_ip=2) as hub, nodes(3) as guests:
        for guest in guests:
            await guest.net.connect(hub.addr)
        await until(lambda: not guests[2].net.peers())
        assert len(hub.net.peers()) == 2
        async with node(dial_from="127.0.0.9") as elsewhere:
            await elsewhere.net.connect(hub.addr)
            await until(lambda: len(hub.net.peers()) == 3)


async def test_faults_ban_and_a_ban_holds_both_ways() -> None:
    seed = os.urandom(32)
    async with node() as one, node(seed=seed) as other:
        await one.net.connect(other.addr)
        one.net.blame(other.id, Fault.LIED, "it claimed what it lacks")
        assert one.net.peers()
        one.net.blame(other.id, Fault.LIED, "and again")
        await until(lambda: not one.net.peers())
        assert "peer.banned" in one.kinds()
        with pytest.raises(PeerUnreachableError, match="banned"):
            await one.net.connect(other.addr)
        await other.net.connect(one.addr)
        await until(lambda: not other.net.peers())
        assert not one.net.peers()


async def test_the_book_survives_a_restart_and_a_ban_does() -> None:
    table = MemoryTable()
    async with node(book=PeerBook(table)) as one, node() as other:
        await one.net.connect(other.addr)
        await one.net.ping(other.id)
        one.net.book.transferred(other.id, 5_000_000, 2.0)
    again = PeerBook(table).record(other.id)
    assert again.addrs == (other.addr,)
    assert again.rtt is not None
    assert again.throughput == 2_500_000
    assert again.connections == 1


async def test_pings_measure_and_unknown_peers_are_unreachable() -> None:
    async with nodes(2) as (one, other):
        with pytest.raises(PeerUnreachableError):
            await one.net.ping(other.id)
        await one.net.connect(other.addr)
        assert one.net.peers()[0].rtt is None
        rtt = await one.net.ping(other.id)
        assert rtt > 0
        assert one.net.peers()[0].rtt == pytest.approx(rtt, rel=0.5)


async def test_a_peer_that_falls_silent_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "TICK", 0.05)
    monkeypatch.setattr(keeping, "PING_INTERVAL", 0.1)
    async with nodes(2) as (one, other):
        await one.net.connect(other.addr)
        (conn,) = other.net._switch.all_connections()
        answered = 0
        answer = conn.muxed_conn._on_ping

        def count(flags: int, nonce: int) -> None:
            nonlocal answered
            answered += 1
            answer(flags, nonce)

        monkeypatch.setattr(conn.muxed_conn, "_on_ping", count)
        await until(lambda: answered > 5)
        assert one.net.peers()
        monkeypatch.setattr(keeping, "DEAD_AFTER", 0.3)
        monkeypatch.setattr(
            conn.muxed_conn, "_on_ping", lambda *said: said[0] & SYN or answer(*said)
        )
        await until(lambda: "peer.disconnected" in one.kinds())
        assert "no answer" in next(e["why"] for e in one.events if e["kind"] == "peer.disconnected")


async def test_a_changed_round_trip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "TICK", 0.02)
    monkeypatch.setattr(keeping, "PING_INTERVAL", 0.02)
    async with nodes(2) as (one, other):
        await one.net.connect(other.addr)
        await until(lambda: one.net.book.record(other.id).rtt)
        (conn,) = other.net._switch.all_connections()
        answer = conn.muxed_conn._on_ping

        def slowly(flags: int, nonce: int) -> None:
            async def later() -> None:
                await trio.sleep(0.1)
                answer(flags, nonce)

            conn.start_soon(later)

        monkeypatch.setattr(conn.muxed_conn, "_on_ping", slowly)
        await until(lambda: "peer.rtt" in one.kinds())
        assert (one.net.peers()[0].rtt or 0) > 0.02


async def test_closing_waits_for_no_timer_and_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "CLOSE_TIMEOUT", 10 * PATIENCE)
    monkeypatch.setattr(muxer, "CLOSE_FLUSH", 10 * PATIENCE)
    with trio.fail_after(PATIENCE):
        async with node(listen=LOOPBACK) as one, nodes(5) as others:
            for other in others:
                await other.net.connect(one.addr)
            await until(lambda: len(one.net.peers()) == 5)
    assert trio.lowlevel.current_statistics().tasks_living < 12


def test_typed_errors_have_stable_codes() -> None:
    assert (PeerUnreachableError.code, TimedOutError.code) == ("peer-unreachable", "timed-out")
