"""Whom a pull may ask, in which order, and how many streams it opens to one peer."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from protocols.gossip.catalog import Catalog, Heard
from protocols.gossip.peerscore import Fault
from synapsed.holdings.sources import CatalogSources
from synapsed.net import MemoryTable, PeerBook, PeerUnreachableError
from synapsed.reach import MAX_STREAMS, Reach
from synapsed.transfer.serve import MAX_STREAMS_PER_PEER
from tests.gossip_kit import NOW, MacIdentity, bodies, catalog, cid, sealed, shard

US = MacIdentity("us")


class FakeNet:
    """What sources and reach ask of the net."""

    def __init__(self, connected: Iterable[bytes] = ()) -> None:
        self.peer_id = US.peer_id
        self.book = PeerBook(MemoryTable())
        self.connected = list(connected)
        self.open = 0

    def peers(self) -> list[Any]:
        return [SimpleNamespace(id=peer) for peer in self.connected]

    def peer(self, peer: bytes) -> Any:
        return peer if peer in self.connected else None

    @asynccontextmanager
    async def open_stream(self, peer: bytes, protocol: str) -> AsyncIterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


def heard(*who: MacIdentity) -> Catalog:
    """A catalog in which these announce the model."""
    ours = catalog(US)
    for one in who:
        ours.hear(Heard(one.peer_id, sealed(one, shard()), None), NOW)
    return ours


def sources(
    known: Catalog, net: FakeNet, alive: Iterable[MacIdentity] | None = None
) -> CatalogSources:
    living = None if alive is None else {one.peer_id for one in alive}
    return CatalogSources(
        SimpleNamespace(catalog=known),  # type: ignore[arg-type]
        net,  # type: ignore[arg-type]
        lambda peer: living is None or peer in living,
    )


CROWD = [MacIdentity(f"peer {n}") for n in range(40)]


def test_who_served_us_well_stands_first_and_who_is_at_fault_last() -> None:
    net = FakeNet()
    good, bad = CROWD[7], CROWD[3]
    net.book.transferred(good.peer_id, 50 << 20, 1.0)
    net.book.fault(bad.peer_id, Fault.TIMEOUT)
    found = sources(heard(*CROWD), net).find(cid("model"))
    assert len(found) == len(CROWD)
    assert found[0].peer == good.peer_id
    assert found[0].rate > 0
    assert found[-1].peer == bad.peer_id


def test_strangers_stand_in_an_order_that_they_cannot_choose() -> None:
    """By their ids, whoever makes many identities would always stand first."""
    known = heard(*CROWD)
    orders = [
        [source.peer for source in sources(known, FakeNet()).find(cid("model"))] for _ in range(3)
    ]
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == sorted(one.peer_id for one in CROWD) for order in orders)
    steady = sources(known, FakeNet())
    assert steady.find(cid("model")) == steady.find(cid("model"))


def test_the_dead_are_left_out_unless_they_are_connected_and_neighbours_come_last() -> None:
    holder, dead, silent, neighbour = CROWD[:4]
    net = FakeNet([silent.peer_id, neighbour.peer_id])
    found = sources(heard(holder, dead, silent), net, alive=[holder]).find(cid("model"))
    peers = [source.peer for source in found]
    assert set(peers[:2]) == {holder.peer_id, silent.peer_id}
    assert peers[2:] == [neighbour.peer_id]


def test_issuers_of_other_kinds_are_found() -> None:
    ours = catalog(US)
    adapter = bodies()[1]
    ours.hear(Heard(CROWD[0].peer_id, sealed(CROWD[0], adapter), None), NOW)
    found = sources(ours, FakeNet()).find(adapter.subject)
    assert [source.peer for source in found] == [CROWD[0].peer_id]


async def test_to_one_peer_no_more_streams_are_opened_than_it_serves() -> None:
    """It would reset the others, and we would hold that against it."""
    peer, other = CROWD[0].peer_id, CROWD[1].peer_id
    net = FakeNet([peer, other])
    reach = Reach(net)  # type: ignore[arg-type]
    assert MAX_STREAMS < MAX_STREAMS_PER_PEER
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            async with reach.open_stream(peer, "/x"):
                await trio.sleep_forever()

        for _ in range(MAX_STREAMS):
            nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        assert net.open == MAX_STREAMS
        with pytest.raises(PeerUnreachableError, match="streams"):
            async with reach.open_stream(peer, "/x"):
                pass
        async with reach.open_stream(other, "/x"):
            assert net.open == MAX_STREAMS + 1
        nursery.cancel_scope.cancel()
    async with reach.open_stream(peer, "/x"):
        assert net.open == 1
