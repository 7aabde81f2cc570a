"""Catalogs among daemons: gossip, reconciliation, restarts, and peers that do not keep to it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from protocols.gossip.catalog import CatalogLimits
from protocols.gossip.peerscore import Fault
from protocols.gossip.reconcile import MAX_TURNS, PROTOCOL, Conversation, Fingerprint, Turn
from protocols.packing import pack
from synapsed.driver import BACKLOG
from synapsed.driver import BREATH as DRIVERS_BREATH
from synapsed.gossip.catalog import (
    BREATH,
    FAIR_SECONDS,
    MAX_SERVED,
    RECONCILE_LATEST,
    CatalogService,
)
from synapsed.keys import Identity
from synapsed.net.errors import StreamClosedError
from synapsed.process.events import EventBus
from synapsed.store.errors import DiskFullError
from tests.gossip_kit import NETWORK, NOW, bodies, cid, identity, sealed, shard
from tests.pipes import MemoryTable, PipeNet
from tests.steps import Passes


class Daemon:
    """A catalog service on a net in memory."""

    def __init__(self, number: int, nursery: trio.Nursery, table: MemoryTable, clock: Any) -> None:
        self.identity = identity(number)
        self.net = PipeNet(self.identity.peer_id, nursery)
        self.bus = EventBus()
        self.table = table
        self.service = CatalogService(
            self.net,
            self.identity,
            NETWORK,
            table,
            self.bus.emit,
            clock=clock,
            rng=random.Random(number),
        )
        self.catalog = self.service.catalog

    def fill(self, count: int, issuers: int = 10) -> None:
        """As if so many announcements of others had been heard."""
        crowd = [Identity(bytes([100 + n]) * 32) for n in range(issuers)]
        for n in range(count):
            who, body = crowd[n % issuers], shard(f"model {n}")
            self.table.put(who.peer_id + b"shard" + body.model, sealed(who, body))


def now() -> float:
    return NOW


@asynccontextmanager
async def daemons(
    count: int, fill: dict[int, int] | None = None, clock: Any = now
) -> AsyncIterator[list[Daemon]]:
    async with trio.open_nursery() as nursery:
        them = [Daemon(n + 1, nursery, MemoryTable(), clock) for n in range(count)]
        for number, entries in (fill or {}).items():
            them[number].fill(entries)
        for daemon in them:
            nursery.start_soon(daemon.service.run)
            await daemon.service.restored()
        yield them
        nursery.cancel_scope.cancel()


async def until(condition: Any, seconds: float = 60) -> None:
    """Wait for it, without a clock of its own."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_what_one_says_all_know_by_gossip() -> None:
    async with daemons(5) as them:
        for left, right in pairwise(them):
            left.net.connect(right.net)
        for body in bodies():
            them[0].service.announce(body)
        await until(lambda: all(len(one.catalog) == len(bodies()) for one in them))
        assert all(one.catalog.ids() == them[0].catalog.ids() for one in them)
        assert all(len(one.table) == len(bodies()) for one in them)
        assert them[4].bus.counts["announcement.accepted"] == len(bodies())
        (holding,) = them[4].catalog.holders(cid("model"))
        assert holding.peer == them[0].identity.peer_id
        them[0].service.withdraw("adapter", bodies()[1].subject)


async def test_a_newcomer_waits_for_no_timer_and_takes_a_thousand_breath_by_breath(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the clock's own time it has them at once; others have turns while it verifies."""
    async with daemons(2, {0: 1000}) as (old, new):
        assert len(old.catalog) == 1000
        heard, saved = Passes(), Passes()
        monkeypatch.setattr(new.catalog, "hear", heard.counted(new.catalog.hear))
        monkeypatch.setattr(new.table, "put", saved.counted(new.table.put))
        with heard.watching(), saved.watching():
            start = trio.current_time()
            new.net.connect(old.net)
            with trio.fail_after(5):
                while len(new.catalog) < 1000:
                    await trio.sleep(0.01)
            assert trio.current_time() - start < 1
            await new.service.settle()
        assert new.catalog.ids() == old.catalog.ids()
        assert len(new.table) == 1000
        assert (heard.total, saved.total) == (1000, 1000)
        assert heard.most <= BREATH
        assert saved.most <= DRIVERS_BREATH


async def test_the_same_bytes_do_not_travel_again() -> None:
    async with daemons(2, {0: 1000}) as (old, new):
        new.net.connect(old.net)
        await until(lambda: len(new.catalog) == 1000)
        await until(lambda: new.bus.counts.get("catalog.reconciled") == 1)
        before = old.net.sent + new.net.sent
        assert await new.service.compare(old.identity.peer_id) == 0
        assert old.net.sent + new.net.sent - before < 600


async def test_both_get_what_they_lack() -> None:
    async with daemons(2, {0: 40}) as (one, other):
        for n in range(30):
            other.service.announce(shard(f"own {n}"))
        await until(lambda: len(other.catalog) == 30)
        one.net.connect(other.net)
        await until(lambda: len(one.catalog) == len(other.catalog) == 70)
        assert one.catalog.ids() == other.catalog.ids()


async def test_who_was_connected_to_and_missed_the_gossip_is_told_in_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Gossip is lost, and no new connection is made: comparing now and then finds it."""
    async with daemons(2) as (one, other):
        one.net.connect(other.net)
        other.net.deaf = True
        one.service.announce(shard())
        start = trio.current_time()
        with trio.fail_after(10 * RECONCILE_LATEST):
            while not len(other.catalog):
                await trio.sleep(0.5)
        assert trio.current_time() - start <= 1.3 * RECONCILE_LATEST


async def test_the_catalog_is_there_after_a_restart_and_goes_on_being_renewed() -> None:
    tables = [MemoryTable(), MemoryTable()]
    async with trio.open_nursery() as nursery:
        daemon = Daemon(1, nursery, tables[0], now)
        nursery.start_soon(daemon.service.run)
        await daemon.service.restored()
        daemon.service.announce(shard())
        await daemon.service.settle()
        nursery.cancel_scope.cancel()
    later = NOW + 3600
    async with trio.open_nursery() as nursery:
        again = Daemon(1, nursery, tables[0], lambda: later)
        other = Daemon(2, nursery, tables[1], lambda: later)
        other.net.connect(again.net)  # before either service runs
        nursery.start_soon(again.service.run)
        await again.service.restored()
        nursery.start_soon(other.service.run)
        await other.service.restored()
        await until(lambda: len(other.catalog) == 1)
        own = again.catalog.own("shard", cid("model"))
        assert own is not None
        nursery.cancel_scope.cancel()


async def test_changes_are_told_to_whoever_wants_to_know() -> None:
    async with daemons(2) as (one, other):
        changes: list[tuple[str, bytes]] = []
        other.service.on_changed.append(lambda kind, subject: changes.append((kind, subject)))
        one.net.connect(other.net)
        one.service.announce(shard())
        await until(lambda: changes == [("shard", cid("model"))])


class FullTable(MemoryTable):
    def put(self, key: bytes, value: bytes) -> None:
        raise DiskFullError("no room", remedy="free some")


async def test_what_cannot_be_saved_is_not_said() -> None:
    async with trio.open_nursery() as nursery:
        daemon = Daemon(1, nursery, FullTable(), now)
        other = Daemon(2, nursery, MemoryTable(), now)
        for one in (daemon, other):
            nursery.start_soon(one.service.run)
            await one.service.restored()
        daemon.net.connect(other.net)
        daemon.service.announce(shard())
        await until(lambda: daemon.bus.counts.get("store.failed") == 1)
        await daemon.service.settle()
        assert daemon.net._seen == set()  # nothing was gossiped
        nursery.cancel_scope.cancel()


async def test_a_neighbour_that_is_still_starting_is_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        old = Daemon(1, nursery, MemoryTable(), now)
        nursery.start_soon(old.service.run)
        await old.service.restored()
        old.service.announce(shard())
        starting = PipeNet(identity(2).peer_id, nursery)
        old.net.connect(starting)
        await trio.sleep(0.5)
        new = Daemon(2, nursery, MemoryTable(), now)
        starting._handlers.update(new.net._handlers)
        new.net.joined = starting.joined
        await trio.sleep(0.5)
        assert len(new.catalog) == 0  # its disk is not read yet
        nursery.start_soon(new.service.run)
        await new.service.restored()
        with trio.fail_after(6):
            while not len(new.catalog):
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


# -- hostile peers ---------------------------------------------------------------------------------


async def hostile(frames: list[bytes], daemon: Daemon, guest: PipeNet) -> list[bytes]:
    """Say these frames on one stream; what came back."""
    answers = []
    async with guest.open_stream(daemon.identity.peer_id, PROTOCOL) as stream:
        for frame in frames:
            await stream.write_frame(frame)
            try:
                answers.append(await stream.read_frame(1 << 20, timeout=60))
            except StreamClosedError:
                break
    return answers


async def test_junk_costs_the_peer_and_nothing_else() -> None:
    async with daemons(1, {0: 10}) as (daemon,):
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)
        guest.connect(daemon.net)
        await hostile([b"junk"], daemon, guest)
        await until(lambda: daemon.net.blamed)
        assert daemon.net.blamed[0][:2] == (guest.peer_id, "malformed")
        assert len(daemon.catalog) == 10


async def test_a_lie_ends_the_conversation_and_is_blamed_on_its_bearer() -> None:
    async with daemons(1) as (daemon,):
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)
        guest.connect(daemon.net)
        good, forged = sealed(identity(7)), sealed(identity(8))[:-1] + b"\x00"
        parts = [good, forged, sealed(identity(9))]
        turn = Turn(ranges=(), want=(), lengths=tuple(map(len, parts)))
        assert await hostile([pack(turn, parts)], daemon, guest) == []
        await until(lambda: daemon.net.blamed)
        assert daemon.net.blamed == [(guest.peer_id, Fault.REJECTED, daemon.net.blamed[0][2])]
        assert len(daemon.catalog) == 1  # what came before it was true


async def test_endless_conversations_are_ended_and_many_are_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with daemons(1, {0: 100}) as (daemon,):
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)
        guest.connect(daemon.net)
        lie = pack(
            Turn(ranges=(Fingerprint(upper=b"", digest=bytes(16)),), want=(), lengths=()), []
        )
        answers = await hostile([lie] * (MAX_TURNS + 5), daemon, guest)
        assert len(answers) == MAX_TURNS
        served = [len(await hostile([lie], daemon, guest)) for _ in range(20)]
        assert 1 <= sum(served) <= 6


async def test_one_that_dawdles_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with daemons(2) as (daemon, honest):
        honest.service.announce(shard())
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)

        async def dawdle(stream: Any) -> None:
            await trio.sleep_forever()

        guest.serve(PROTOCOL, dawdle, 5)
        daemon.net.connect(guest)
        daemon.net.connect(honest.net)
        with trio.fail_after(1):  # it does not hold up the others
            while not len(daemon.catalog):
                await trio.sleep(0.01)
        assert await daemon.service.compare(guest.peer_id) is None


async def test_a_flood_of_announcements_does_not_pile_up_in_memory() -> None:
    """They arrive quicker than they are saved: whoever sends them has to wait."""
    async with daemons(1) as (daemon,):
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)
        guest.connect(daemon.net)
        waiting = daemon.service._driver._queue
        most = 0
        crowd = [Identity(bytes([100 + n]) * 32) for n in range(10)]
        parts = [sealed(crowd[n % 10], shard(f"m{n}")) for n in range(1000)]
        async with guest.open_stream(daemon.identity.peer_id, PROTOCOL) as stream:
            for at in range(0, 1000, 100):
                some = parts[at : at + 100]
                turn = Turn(ranges=(), want=(), lengths=tuple(map(len, some)))
                await stream.write_frame(pack(turn, some))
            with trio.fail_after(60):
                while len(daemon.catalog) < 1000:
                    most = max(most, len(waiting))
                    await trio.lowlevel.checkpoint()
        assert most <= BACKLOG + BREATH


async def test_who_was_turned_away_asks_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation that ends before it began has compared nothing."""
    monkeypatch.setattr("synapsed.gossip.catalog.MAX_SERVED", 0)
    async with daemons(2, {0: 5}) as (old, new):
        new.net.connect(old.net)
        await trio.sleep(0.5)
        assert len(new.catalog) == 0
        monkeypatch.setattr("synapsed.gossip.catalog.MAX_SERVED", 4)
        with trio.fail_after(6):
            while len(new.catalog) < 5:
                await trio.sleep(0.1)


async def test_those_who_dawdle_make_room_for_a_newcomer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A stranger in each place, saying nothing for as long as it may."""
    async with daemons(2, {0: 5}) as (old, new), trio.open_nursery() as nursery:

        async def dawdle(number: int) -> None:
            guest = PipeNet(identity(50 + number).peer_id, old.net.nursery)
            guest.connect(old.net)
            while True:
                async with guest.open_stream(old.identity.peer_id, PROTOCOL) as stream:
                    await stream.write_frame(Conversation(guest_catalog).begin())
                    with suppress(StreamClosedError):
                        while True:
                            await stream.read_frame(1 << 20, timeout=60)

        guest_catalog = new.catalog
        for number in range(MAX_SERVED):
            nursery.start_soon(dawdle, number)
        await trio.sleep(FAIR_SECONDS + 1)
        new.net.connect(old.net)
        with trio.fail_after(10):
            while len(new.catalog) < 5:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


def test_limits_that_contradict_each_other_are_our_bug() -> None:
    for wrong in (CatalogLimits(lifetime=0), CatalogLimits(capacity=5, per_issuer=6)):
        with pytest.raises(ValueError, match="announcement"):
            wrong.validate()
