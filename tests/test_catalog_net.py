"""Catalogs and heartbeats over the real network: libp2p, Noise, Yamux, gossipsub."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from synapsed.gossip.catalog import CatalogService
from synapsed.gossip.liveness import LivenessService
from synapsed.net import NetSettings, PeerBook, open_net
from synapsed.process.events import EventBus
from tests.gossip_kit import NETWORK, bodies, cid, identity
from tests.pipes import MemoryTable

SETTINGS = NetSettings(listen=("/ip4/127.0.0.1/tcp/0",))


class Daemon:
    def __init__(self, net: object, number: int, bus: EventBus) -> None:
        self.net = net
        self.bus = bus
        who = identity(number)
        self.catalog = CatalogService(net, who, NETWORK, MemoryTable(), bus.emit)
        self.liveness = LivenessService(
            net, who, NETWORK, bus.emit, agent="test", interval=1.0, learned=net.learned
        )


@asynccontextmanager
async def daemon(number: int) -> AsyncIterator[Daemon]:
    bus = EventBus()
    book = PeerBook(MemoryTable())
    async with (
        open_net(SETTINGS, identity(number), NETWORK, book, bus.emit) as net,
        trio.open_nursery() as nursery,
    ):
        one = Daemon(net, number, bus)
        nursery.start_soon(one.catalog.run)
        await one.catalog.restored()
        nursery.start_soon(one.liveness.run)
        yield one
        await one.liveness.leave()
        nursery.cancel_scope.cancel()


async def until(condition: object) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.02)


async def test_three_daemons_agree_on_what_there_is_and_who_is_there() -> None:
    async with daemon(1) as one, daemon(2) as two:
        one.catalog.announce(bodies()[1])
        await two.net.connect(one.net.addrs()[0])
        await until(lambda: len(two.catalog.catalog) == 1)  # by reconciliation
        two.catalog.announce(bodies()[0])
        await until(lambda: len(one.catalog.catalog) == 2)  # by gossip, or by comparing
        async with daemon(3) as three:
            await three.net.connect(two.net.addrs()[0])
            await until(lambda: len(three.catalog.catalog) == 2)
            assert three.catalog.catalog.holders_of_tile(cid("model"), 0) == [two.net.peer_id]
            everybody = sorted(each.net.peer_id for each in (one, two, three))
            for each in (one, two, three):
                await until(lambda each=each: each.liveness.alive() == everybody)
            # One hop further than anybody told it: by heartbeats it knows where `one` is.
            assert one.net.peer_id in three.net.book
        await until(lambda: one.liveness.alive() == sorted([one.net.peer_id, two.net.peer_id]))
        assert all("liveness.down" in each.bus.counts for each in (one, two))
