"""Heartbeats among daemons: the same list everywhere, goodbyes, broken streams, rude neighbours."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import msgspec
import trio
import trio.testing

from protocols.codec import encode
from protocols.envelope import domain, seal
from protocols.gossip.heartbeat import PAYLOAD_TYPE, PROTOCOL, USE, Counters, pack_batch
from protocols.gossip.liveness import Hearsay
from protocols.gossip.peerscore import Fault
from synapsed.gossip.liveness import FRAME_BURST, LivenessService
from synapsed.process.events import EventBus
from tests.gossip_kit import NETWORK, NOW, identity
from tests.pipes import PipeNet

INTERVAL = 5.0


def clock() -> float:
    """Unix time that goes with trio's (virtual) clock."""
    return NOW + trio.current_time()


class Daemon:
    def __init__(self, number: int, nursery: trio.Nursery) -> None:
        self.identity = identity(number)
        self.net = PipeNet(self.identity.peer_id, nursery)
        self.bus = EventBus()
        self.learned: dict[bytes, Sequence[str]] = {}
        self.free = 1000
        self.service = LivenessService(
            self.net,
            self.identity,
            NETWORK,
            self.bus.emit,
            agent=f"test/{number}",
            interval=INTERVAL,
            counters=lambda: Counters(held=number, free=self.free, upload=0),
            learned=self.learned.__setitem__,
            clock=clock,
        )
        self.scope = trio.CancelScope()
        nursery.start_soon(self.run)

    async def run(self) -> None:
        with self.scope:
            await self.service.run()

    def stop(self) -> None:
        self.scope.cancel()
        for other, _ in list(self.net.joined.values()):
            self.net.disconnect(other)


@asynccontextmanager
async def chain(count: int) -> AsyncIterator[list[Daemon]]:
    """Daemons in a row, each connected to the next: the longest way there is."""
    async with trio.open_nursery() as nursery:
        them = [Daemon(n + 1, nursery) for n in range(count)]
        await trio.testing.wait_all_tasks_blocked()
        for left, right in pairwise(them):
            left.net.connect(right.net)
        yield them
        nursery.cancel_scope.cancel()


def agreed(them: Sequence[Daemon]) -> bool:
    everybody = sorted(one.identity.peer_id for one in them)
    return all(one.service.alive() == everybody for one in them)


async def test_all_know_all_and_where_they_are(autojump_clock: trio.testing.MockClock) -> None:
    async with chain(5) as them:
        await trio.sleep(4 * 1.0 + 0.5)  # four hops, a flush each
        assert agreed(them)
        assert them[0].learned[them[4].identity.peer_id] == tuple(them[4].net.addrs())
        (last,) = (
            peer
            for peer in them[0].service.liveness.peers(clock())
            if peer.heartbeat.issuer == them[4].identity.peer_id
        )
        assert (last.heartbeat.agent, last.heartbeat.counters.held) == ("test/5", 5)
        await trio.sleep(600)
        assert agreed(them)
        assert all("liveness.down" not in one.bus.counts for one in them)


async def test_who_falls_silent_is_missed_by_all_and_found_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with chain(4) as them:
        await trio.sleep(10)
        gone = them.pop()
        gone.stop()
        await trio.sleep(4 * INTERVAL + 3 * 1.0 + 1.0)
        assert agreed(them)
        assert all(one.bus.counts["liveness.down"] == 1 for one in them)
        again = Daemon(4, gone.net.nursery)
        await trio.testing.wait_all_tasks_blocked()
        again.net.connect(them[0].net)
        await trio.sleep(4)
        assert agreed([*them, again])


async def test_goodbye_is_quicker(autojump_clock: trio.testing.MockClock) -> None:
    async with chain(4) as them:
        await trio.sleep(10)
        start = trio.current_time()
        gone = them.pop()
        await gone.service.leave()
        assert trio.current_time() - start < 0.5
        gone.stop()
        await trio.sleep(4)
        assert agreed(them)


async def test_who_was_connected_before_is_a_neighbour_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        them = [Daemon(n + 1, nursery) for n in range(2)]
        them[0].net.connect(them[1].net)  # before either service runs
        await trio.sleep(3)
        assert agreed(them)
        nursery.cancel_scope.cancel()


async def test_a_broken_stream_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    async with chain(2) as them:
        await trio.sleep(2)
        for _ in range(3):
            for one in them:
                for streams in one.net._streams.values():
                    for stream in streams:
                        stream.close()
            await trio.sleep(60)
            assert agreed(them)
        assert all("liveness.down" not in one.bus.counts for one in them)


async def test_a_peer_of_another_kind_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with chain(1) as (daemon,):
        stranger = PipeNet(identity(50).peer_id, daemon.net.nursery)
        daemon.net.connect(stranger)
        await trio.sleep(100)
        assert daemon.service.alive() == [daemon.identity.peer_id]
        assert daemon.net.blamed == []


async def test_many_full_frames_at_once_are_no_single_stall(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Between any two frames the others of the loop have a turn."""
    async with chain(1) as (daemon,):
        guests = [PipeNet(identity(50 + n).peer_id, daemon.net.nursery) for n in range(20)]
        turns: list[str] = []
        heard = daemon.service.liveness.handle

        def handle(event: object, now: float) -> object:
            if isinstance(event, Hearsay):
                turns.append("frame")
            return heard(event, now)

        daemon.service.liveness.handle = handle  # type: ignore[method-assign]

        async def other() -> None:
            while len(turns) < 60:
                turns.append("other")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for guest in guests:
                guest.connect(daemon.net)
                nursery.start_soon(_tell_once, guest, daemon)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(other)
        frames = [at for at, turn in enumerate(turns) if turn == "frame"]
        assert len(frames) == len(guests)
        assert all(later - one > 1 for one, later in pairwise(frames))


async def _tell_once(guest: PipeNet, daemon: Daemon) -> None:
    async with guest.open_stream(daemon.identity.peer_id, PROTOCOL) as stream:
        await stream.write_frame(pack_batch([(0, b"x" * 100)]))
        await trio.sleep(1)


async def test_forgers_are_blamed_and_floods_are_held_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with chain(2) as (one, other):
        await trio.sleep(3)
        guest = PipeNet(identity(50).peer_id, one.net.nursery)
        guest.connect(one.net)
        peer = one.service.liveness.peer(other.identity.peer_id)
        assert peer is not None
        newer = msgspec.structs.replace(peer.heartbeat, seq=peer.heartbeat.seq + 60_000)
        forged = seal(
            domain(NETWORK, USE),
            PAYLOAD_TYPE,
            encode(newer),
            other.identity.public_key,
            identity(50).sign,
        )
        async with guest.open_stream(one.identity.peer_id, PROTOCOL) as stream:
            start = trio.current_time()
            # Copies of what is known are no lie: they are only read slowly.
            for _ in range(int(FRAME_BURST) + 80):
                await stream.write_frame(pack_batch([(0, peer.envelope)]))
            await stream.write_frame(pack_batch([(0, forged)]))
            with trio.fail_after(60):
                while not one.net.blamed:
                    await trio.sleep(0.1)
            assert trio.current_time() - start > 4
            assert one.net.blamed[0][:2] == (guest.peer_id, Fault.REJECTED)
        assert agreed([one, other])


async def test_junk_is_blamed(autojump_clock: trio.testing.MockClock) -> None:
    async with chain(1) as (daemon,):
        guest = PipeNet(identity(50).peer_id, daemon.net.nursery)
        guest.connect(daemon.net)
        async with guest.open_stream(daemon.identity.peer_id, PROTOCOL) as stream:
            await stream.write_frame(b"\xff" * 50)
            await trio.sleep(1)
        assert daemon.net.blamed[0][:2] == (guest.peer_id, Fault.MALFORMED)


async def test_what_twenty_neighbours_cost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        them = [Daemon(n + 1, nursery) for n in range(21)]
        await trio.testing.wait_all_tasks_blocked()
        for n, one in enumerate(them):
            for other in them[:n]:
                one.net.connect(other.net)
        await trio.sleep(10)
        assert agreed(them)
        before = sum(one.net.sent for one in them)
        await trio.sleep(20)
        assert agreed(them)
        each = (sum(one.net.sent for one in them) - before) / 20 / len(them)
        assert each < 10_000  # bytes a second
        nursery.cancel_scope.cancel()
