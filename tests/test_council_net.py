"""Frames between members: in order, across connections, and nobody holds up anybody else."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from synapsed.ledger import net as council_net
from synapsed.ledger.net import CouncilNet, Inbox, Lane, Link
from synapsed.net.errors import PeerUnreachableError
from tests.pipes import PipeNet

PROTOCOL = "/synapse/test/1.0.0"
OTHER = "/synapse/test-bulk/1.0.0"


class Side:
    """One daemon's end."""

    def __init__(self, name: bytes, nursery: trio.Nursery, urgent: Sequence[bytes] = ()) -> None:
        self.pipes = PipeNet(name, nursery)
        self.dials: list[bytes] = []
        self.frames = CouncilNet(
            self.pipes, self.dial, {PROTOCOL: 1000, OTHER: 1000}, lambda peer: peer in urgent
        )
        nursery.start_soon(self.frames.run)

    async def dial(self, peer: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.dials.append(peer)
        if peer not in self.pipes.joined:
            raise PeerUnreachableError("not now")

    async def take(self, count: int) -> list[tuple[bytes, str, bytes]]:
        taken: list[tuple[bytes, str, bytes]] = []
        with trio.fail_after(100):
            while len(taken) < count:
                while (found := self.frames.inbox.take()) is not None:
                    lane, frame = found
                    taken.append((lane.peer, lane.protocol, frame))
                self.frames.inbox.arrived = trio.Event()
                if len(taken) < count:
                    await self.frames.inbox.arrived.wait()
        return taken


async def test_frames_arrive_in_order_whoever_dialled(nursery: Any) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    a.pipes.connect(b.pipes)
    await trio.testing.wait_all_tasks_blocked()
    sent = [b"%d" % n for n in range(200)]
    for frame in sent:
        a.frames.send(b"b", PROTOCOL, frame)
        b.frames.send(b"a", PROTOCOL, frame)
    assert await b.take(200) == [(b"a", PROTOCOL, frame) for frame in sent]
    assert await a.take(200) == [(b"b", PROTOCOL, frame) for frame in sent]


async def test_what_is_said_before_it_runs_goes_out_when_it_does(nursery: Any) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    a.pipes.connect(b.pipes)
    a.frames.send(b"b", PROTOCOL, b"first")
    assert await b.take(1) == [(b"a", PROTOCOL, b"first")]


async def test_once_it_ends_it_takes_no_more_and_breaks_nothing(nursery: Any) -> None:
    pipes = PipeNet(b"a", nursery)
    side = CouncilNet(pipes, pipes.connect, {PROTOCOL: 1000}, lambda _peer: False)  # type: ignore[arg-type]
    async with trio.open_nursery() as life:
        life.start_soon(side.run)
        await trio.testing.wait_all_tasks_blocked()
        life.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            side.send(b"b", PROTOCOL, b"late")


async def test_a_peer_that_cannot_be_reached_is_dialled_again_and_gets_what_waits(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    await trio.testing.wait_all_tasks_blocked()
    a.frames.send(b"b", PROTOCOL, b"early")
    await trio.sleep(60)
    assert 10 < len(a.dials) < 120  # again and again, and not without pause
    before = trio.current_time()
    a.pipes.connect(b.pipes)
    assert await b.take(1) == [(b"a", PROTOCOL, b"early")]
    assert trio.current_time() - before < 0.01  # being connected is news enough


async def test_a_peer_that_takes_the_connection_and_hangs_up_is_given_time(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """As one does that has banned us: each dial of ours is news to the links that wait."""
    a, b = Side(b"a", nursery), Side(b"b", nursery)

    banned = True

    async def dial(peer: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if peer not in a.pipes.joined:
            a.dials.append(peer)
            assert len(a.dials) < 1000  # without a pause no time passes at all
            a.pipes.connect(b.pipes)
            if banned:
                a.pipes.disconnect(b.pipes)

    a.frames._connect = dial
    await trio.testing.wait_all_tasks_blocked()
    for protocol in (PROTOCOL, OTHER):
        a.frames.send(b"b", protocol, b"let me in")
    await trio.sleep(60)
    assert 20 < len(a.dials) < 100  # of two links
    banned = False
    before = trio.current_time()
    await b.take(2)
    assert trio.current_time() - before < 2 * council_net.REOPEN_LATEST


async def test_what_was_being_sent_when_the_connection_broke_is_sent_again(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    a.pipes.connect(b.pipes)
    await trio.testing.wait_all_tasks_blocked()
    a.frames.send(b"b", PROTOCOL, b"one")
    await b.take(1)
    a.pipes.disconnect(b.pipes)
    a.frames.send(b"b", PROTOCOL, b"two")
    await trio.sleep(5)
    a.pipes.connect(b.pipes)
    assert [frame for _, _, frame in await b.take(1)] == [b"two"]


async def test_an_idle_stream_is_given_up_and_opened_again(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    a.pipes.connect(b.pipes)
    await trio.testing.wait_all_tasks_blocked()
    for frame in (b"one", b"two"):
        a.frames.send(b"b", PROTOCOL, frame)
        assert [found for _, _, found in await b.take(1)] == [frame]
        await trio.sleep(3 * council_net.IDLE_SECONDS)
    assert len(a.dials) == 2


async def test_who_is_not_read_holds_up_nobody_else(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    a, b = Side(b"a", nursery), Side(b"b", nursery)
    a.pipes.connect(b.pipes)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(10 * council_net.LANE_FRAMES):
        a.frames.send(b"b", OTHER, b"flood")
    await trio.sleep(1)
    waiting = 0
    while b.frames.inbox.take() is not None:
        waiting += 1
    assert waiting == council_net.LANE_FRAMES  # its reader waits, and the stream with it
    a.frames.send(b"b", PROTOCOL, b"other")
    taken = await b.take(council_net.LANE_FRAMES + 1)
    assert (b"a", PROTOCOL, b"other") in taken


def test_members_go_first_mostly_and_everybody_in_turn() -> None:
    inbox = Inbox(lambda peer: peer == b"member")
    lanes = [Lane(b"x", "p"), Lane(b"y", "p"), Lane(b"member", "p")]
    for lane in lanes:
        for n in range(3):
            inbox.put(lane, b"%d" % n)
    order = []
    while (found := inbox.take()) is not None:
        order.append((found[0].peer, found[1]))
    assert order == [
        (b"member", b"0"),
        (b"member", b"1"),
        (b"member", b"2"),
        (b"x", b"0"),
        (b"y", b"0"),
        (b"x", b"1"),
        (b"y", b"1"),
        (b"x", b"2"),
        (b"y", b"2"),
    ]
    assert not inbox


def test_a_member_that_always_has_something_waiting_starves_nobody() -> None:
    inbox = Inbox(lambda peer: peer == b"member")
    member, stranger = Lane(b"member", "p"), Lane(b"stranger", "p")
    inbox.put(member, b"junk")
    served = 0
    for _ in range(1000):
        inbox.put(member, b"junk")
        if not stranger.frames:
            inbox.put(stranger, b"a newcomer's submission")
        found = inbox.take()
        assert found is not None
        served += found[0] is stranger
    assert served == 1000 // council_net.OTHERS_TURN


@pytest.mark.parametrize(
    ("size", "kept"),
    [(1, council_net.MAX_FRAMES), (64 << 10, council_net.MAX_WAITING // (64 << 10))],
)
def test_what_waits_is_bounded_and_the_newest_stays(size: int, kept: int) -> None:
    link = Link(b"p", PROTOCOL)
    for n in range(council_net.MAX_FRAMES + 10):
        link.push(n.to_bytes(4, "big").ljust(size, b"."))
    frames: list[bytes] = []
    while taken := link.take():
        assert sum(map(len, taken)) <= max(council_net.WRITE_BYTES, size)
        frames += taken
    assert len(frames) == kept
    assert link.lost == council_net.MAX_FRAMES + 10 - kept
    assert int.from_bytes(frames[-1][:4], "big") == council_net.MAX_FRAMES + 9
