"""Gossip: everybody once, through churn and loss, in bounded copies."""

import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from protocols.errors import LimitError
from protocols.gossip.validation import Verdict
from synapsed.net.pubsub import MAX_MESSAGE, SEEN_LIMIT, SEEN_SECONDS, SeenCache
from synapsed.net.router import DEGREE_HIGH
from synapsed.net.rpcqueue import MAX_BYTES, MAX_FRAMES, RpcFrames
from tests.netlab import TOPIC, Node, join, node, nodes, until


async def ring(stack: AsyncExitStack, count: int, reach: int = 2) -> list[Node]:
    """Nodes in a ring, each connected to the `reach` next ones: nobody knows everybody."""
    swarm = [await stack.enter_async_context(node()) for _ in range(count)]
    for one in swarm:
        one.subscribe()
    for at, one in enumerate(swarm):
        for step in range(1, reach + 1):
            await join(one, swarm[(at + step) % count])
    return swarm


async def test_everybody_gets_every_message_once() -> None:
    async with AsyncExitStack() as stack:
        swarm = await ring(stack, 9)
        sent = [b"%d" % n for n in range(45)]
        for n, data in enumerate(sent):
            await swarm[n % 9].net.publish(TOPIC, data)
        for at, one in enumerate(swarm):
            await one.gets([data for n, data in enumerate(sent) if n % 9 != at])
        for one in swarm:
            assert max(Counter(one.got).values()) == 1
            counters = one.net.counters
            assert counters.get("duplicates", 0) <= counters["accepted"] * DEGREE_HIGH


async def test_a_message_reaches_everybody_though_its_way_is_cut() -> None:
    async with AsyncExitStack() as stack:
        swarm = await ring(stack, 6)
        lost = await stack.enter_async_context(node())
        lost.subscribe()
        await join(swarm[0], lost)
        await join(lost, swarm[3])
        await swarm[0].net.publish(TOPIC, b"before")
        await lost.net._switch.close_all()  # the short way is gone
        await swarm[0].net.publish(TOPIC, b"after")
        for one in swarm[1:]:
            await one.gets([b"before", b"after"])


async def test_loss_is_repaired_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    push = RpcFrames.push_frame
    lost = 0

    def lossy(self: RpcFrames, frame: bytes) -> bool:
        nonlocal lost
        if chance.random() < 0.3:
            lost += 1
            return False
        return push(self, frame)

    async with AsyncExitStack() as stack:
        swarm = await ring(stack, 5)
        monkeypatch.setattr(RpcFrames, "push_frame", lossy)
        sent = [b"%d" % n for n in range(30)]
        for data in sent:
            await swarm[0].net.publish(TOPIC, data)
        for one in swarm[1:]:
            await one.gets(sent)
    assert lost > 10


async def test_who_comes_a_little_late_is_told() -> None:
    async with nodes(2) as (one, other):
        for each in (one, other):
            each.subscribe()
        await one.net.publish(TOPIC, b"just before")
        await join(one, other)
        await other.gets([b"just before"])


async def test_own_messages_are_not_delivered_to_ourselves() -> None:
    async with nodes(2) as (one, other):
        for each in (one, other):
            each.subscribe()
        await join(one, other)
        await one.net.publish(TOPIC, b"x")
        await other.gets([b"x"])
        assert one.got == []
        assert one.net.counters["published"] == 1


async def test_the_validator_is_told_who_passed_it_on() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def note(peer: bytes, data: bytes) -> Verdict:
        seen.append((peer, data))
        return Verdict.ACCEPT

    async with nodes(3) as (one, middle, last):
        one.subscribe()
        middle.subscribe()
        last.subscribe(validate=note)
        await join(one, middle)
        await join(middle, last)
        await one.net.publish(TOPIC, b"x")
        await last.gets([b"x"])
        assert seen == [(middle.id, b"x")]


async def test_a_large_message_passes_and_a_larger_one_is_refused() -> None:
    async with nodes(2) as (one, other):
        for each in (one, other):
            each.subscribe()
        await join(one, other)
        largest = bytes(MAX_MESSAGE)
        await one.net.publish(TOPIC, largest)
        await other.gets([largest])
        with pytest.raises(LimitError, match="gossip message of 65537"):
            await one.net.publish(TOPIC, largest + b"!")


async def test_who_subscribes_later_takes_part() -> None:
    async with nodes(2) as (one, other):
        await one.net.connect(other.addr)
        one.subscribe()
        other.subscribe()
        await until(lambda: one.net._gossip.neighbours(TOPIC)[1] == 1)
        await one.net.publish(TOPIC, b"x")
        await other.gets([b"x"])


async def test_a_slow_subscriber_keeps_nobody_else_waiting() -> None:
    async with nodes(2) as (one, other):
        gate = trio.Event()

        async def stuck(_peer: bytes, _data: bytes) -> None:
            await gate.wait()

        other.net.subscribe("/slow", lambda _p, _d: Verdict.ACCEPT, stuck)
        one.net.subscribe("/slow", lambda _p, _d: Verdict.ACCEPT, stuck)
        for each in (one, other):
            each.subscribe()
        await join(one, other)
        for _ in range(5):
            await one.net.publish("/slow", b"x")
        await one.net.publish(TOPIC, b"quick")
        await other.gets([b"quick"])


async def test_a_subscriber_that_fails_is_called_again() -> None:
    got: list[bytes] = []

    async def flaky(_peer: bytes, data: bytes) -> None:
        got.append(data)
        if data == b"bad":
            raise RuntimeError("a bug")

    async with nodes(2) as (one, other):
        one.subscribe()
        other.net.subscribe(TOPIC, lambda _p, _d: Verdict.ACCEPT, flaky)
        await join(one, other)
        await one.net.publish(TOPIC, b"bad")
        await one.net.publish(TOPIC, b"good")
        await until(lambda: got == [b"bad", b"good"])
        assert other.kinds().count("handler.failed") == 1


async def test_the_mesh_stays_within_its_degrees() -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node())
        hub.subscribe()
        for _ in range(12):
            guest = await stack.enter_async_context(node())
            guest.subscribe()
            await join(guest, hub)
        await until(lambda: hub.net._gossip.neighbours(TOPIC) == (6, 12))
        # The pruned are told of messages all the same.
        await hub.net.publish(TOPIC, b"x")


def test_the_seen_cache_forgets_in_generations_and_is_bounded() -> None:
    now = [0.0]
    seen = SeenCache(lambda: now[0])
    assert seen.add(b"a")
    assert not seen.add(b"a")
    now[0] += SEEN_SECONDS + 1
    seen.add(b"b")
    assert seen.has(b"a")
    now[0] += SEEN_SECONDS + 1
    seen.add(b"c")
    assert not seen.has(b"a")
    for n in range(3 * SEEN_LIMIT):
        seen.add(n.to_bytes(4, "big"))
    assert len(seen._young) + len(seen._old) <= SEEN_LIMIT + 2


async def test_the_queue_of_a_neighbour_that_reads_nothing_is_bounded() -> None:
    queue = RpcFrames()
    pushed = sum(queue.push_frame(b"x") for _ in range(MAX_FRAMES + 50))
    assert pushed == MAX_FRAMES
    assert await queue.next_frames() == b"x" * MAX_FRAMES
    assert queue.push(rpc_pb2.RPC())
    big = bytes(1 << 20)
    assert [queue.push_frame(big) for _ in range(3)] == [True, MAX_BYTES > 2 << 20, False]
