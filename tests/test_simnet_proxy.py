"""The shaping proxy: every fault it claims to make does happen, and nothing else does."""

import hashlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial

import pytest
import trio

from simnet.addresses import claim_port, home_ip, index_of, proxy_ip
from simnet.proxy import Fabric
from simnet.weather import Cut, Shape, Weather

DIALLER, LISTENER = 0, 1
LINK = (DIALLER, LISTENER)
SOON = 60.0


class World:
    """Two daemons' addresses, a fabric between them, and an echo behind the listener's proxy."""

    def __init__(self, fabric: Fabric, nursery: trio.Nursery) -> None:
        self.fabric = fabric
        self.nursery = nursery
        self.seen: list[str] = []  # source addresses that the listener saw
        self.dialled = ExitStack()

    async def start(self) -> None:
        listeners = await trio.open_tcp_listeners(self.fabric.port, host=home_ip(LISTENER))
        self.nursery.start_soon(trio.serve_listeners, self._echo, listeners)
        await self.nursery.start(self.fabric.serve, LISTENER)

    async def _echo(self, stream: trio.SocketStream) -> None:
        self.seen.append(stream.socket.getpeername()[0])
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return

    async def dial(self, source: int = DIALLER) -> trio.SocketStream:
        """A connection to the listener's proxy from daemon `source`'s address."""
        end = self.dialled.enter_context(trio.socket.socket())
        await end.bind((home_ip(source), 0))
        await end.connect((proxy_ip(LISTENER), self.fabric.port))
        return trio.SocketStream(end)


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    held, port = claim_port()
    with held, trio.fail_after(100):
        world = World(Fabric(Weather(seed=7), port), nursery)
        with world.dialled:
            await world.start()
            yield world


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        data = await stream.receive_some()
        assert data, f"the stream ended after {len(got)} of {count} bytes"
        got += data
    return bytes(got)


async def round_trip(stream: trio.SocketStream, data: bytes = b"x") -> float:
    start = trio.current_time()
    await stream.send_all(data)
    assert await receive(stream, len(data)) == data
    return trio.current_time() - start


async def exchange(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send all of `data` while receiving its echo."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        return await receive(stream, len(data))


async def broken(stream: trio.SocketStream) -> None:
    """Return once the stream proves to have been reset."""

    async def press_on() -> None:
        while True:
            await stream.send_all(b"x")

    with trio.fail_after(SOON), pytest.raises(trio.BrokenResourceError):
        await press_on()


async def test_bytes_pass_unaltered_and_the_daemon_sees_who_dials(world: World) -> None:
    data = random.Random(1).randbytes(8 << 20)
    async with await world.dial() as stream:
        got = await exchange(stream, data)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert world.seen == [home_ip(DIALLER)]
    assert world.fabric.weather.moved[LINK] == len(data)
    assert world.fabric.weather.moved[LISTENER, DIALLER] == len(data)


async def test_a_half_close_passes(world: World) -> None:
    async with await world.dial() as stream:
        await stream.send_all(b"the end")
        await stream.send_eof()
        assert await receive(stream, 7) == b"the end"
        assert await stream.receive_some() == b""


async def test_delay_comes_on_its_own_link_only(world: World) -> None:
    async with await world.dial() as stream, await world.dial(source=2) as other:
        await round_trip(stream)
        world.fabric.change(lambda weather: weather.set_link(LINK, Shape(delay=0.15)))
        assert await round_trip(stream) >= 0.15
        reverse = (LISTENER, DIALLER)
        world.fabric.change(lambda weather: weather.set_link(reverse, Shape(delay=0.15)))
        assert await round_trip(stream) >= 0.3
        for link in (LINK, reverse):
            world.fabric.change(partial(Weather.set_link, link=link, shape=Shape(delay=3600)))
        await round_trip(other)


async def test_jitter_keeps_the_order(world: World) -> None:
    world.fabric.change(lambda weather: weather.set_default(Shape(delay=0.01, jitter=0.05)))
    data = bytes(range(256)) * 8
    async with await world.dial() as stream, trio.open_nursery() as nursery:

        async def trickle() -> None:
            for at in range(0, len(data), 64):
                await stream.send_all(data[at : at + 64])
                await trio.sleep(0.002)

        nursery.start_soon(trickle)
        assert await receive(stream, len(data)) == data


async def test_a_delayed_link_is_not_a_slow_one(world: World) -> None:
    """Chunk by chunk, each waiting for the last, this would take 64 x 4 s: nobody waits so long."""
    world.fabric.change(lambda weather: weather.set_default(Shape(delay=2.0)))
    data = bytes(16 << 20)
    async with await world.dial() as stream:
        assert len(await exchange(stream, data)) == len(data)


async def test_a_rate_holds_over_all_connections_of_a_node(world: World) -> None:
    rate, size = 2_000_000, 500_000
    world.fabric.change(lambda weather: weather.set_uplink(LISTENER, rate))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            stream = await world.dial()
            nursery.start_soon(exchange, stream, bytes(size))
    assert trio.current_time() - start >= 0.8 * 2 * size / rate


async def test_a_links_rate_leaves_other_links_alone(world: World) -> None:
    world.fabric.change(lambda weather: weather.set_link(LINK, Shape(rate=1_000_000)))
    async with await world.dial() as slow, await world.dial(source=2) as fast:
        assert await round_trip(slow, bytes(400_000)) >= 0.3
        # Of this, nobody would wait for the end on a link of that rate.
        world.fabric.change(lambda weather: weather.set_link(LINK, Shape(rate=1_000)))
        await round_trip(fast, bytes(400_000))


async def test_loss_costs_a_retransmission(world: World) -> None:
    world.fabric.change(lambda weather: weather.set_default(Shape(loss=1.0)))
    async with await world.dial() as stream:
        assert await round_trip(stream) >= 0.4
    assert world.fabric.weather.faults["loss"] >= 2


async def test_a_partition_that_stalls_and_heals(world: World) -> None:
    stream = await world.dial()
    await round_trip(stream)
    world.fabric.change(lambda weather: weather.partition([[DIALLER], [LISTENER]], Cut.STALL))
    await stream.send_all(b"held back")
    late = await world.dial()
    await late.send_all(b"so is this")
    with trio.move_on_after(0.2) as silence:
        await stream.receive_some()
    assert silence.cancelled_caught
    with trio.move_on_after(0.1) as silence:
        await late.receive_some()
    assert silence.cancelled_caught
    world.fabric.change(Weather.heal)
    assert await receive(stream, 9) == b"held back"
    assert await receive(late, 10) == b"so is this"
    assert world.fabric.weather.faults["stall"] >= 2


async def test_a_partition_that_resets(world: World) -> None:
    cut, kept = await world.dial(), await world.dial(source=2)
    await round_trip(cut)
    await round_trip(kept)
    sides = [[DIALLER], [LISTENER, 2]]
    world.fabric.change(lambda weather: weather.partition(sides, Cut.RESET))
    await broken(cut)
    await broken(await world.dial())
    await round_trip(kept)
    assert world.fabric.weather.faults["partition-reset"] == 1
    assert world.fabric.weather.faults["refused"] == 1
    world.fabric.change(Weather.heal)
    await round_trip(await world.dial())


async def test_a_stalled_link_still_carries_the_other_way(world: World) -> None:
    stream = await world.dial()
    await round_trip(stream)
    world.fabric.change(
        lambda weather: weather.set_link((LISTENER, DIALLER), Shape(stall=True)),
    )
    await stream.send_all(b"heard")
    with trio.fail_after(SOON):
        while world.fabric.weather.moved[LINK] < 6:
            await trio.sleep(0.01)
    with trio.move_on_after(0.1) as silence:
        await stream.receive_some()
    assert silence.cancelled_caught


async def test_random_resets_come_at_about_their_mean(world: World) -> None:
    world.fabric.change(lambda weather: weather.set_default(Shape(reset_every=0.05)))
    start = trio.current_time()
    for _ in range(10):
        await broken(await world.dial())
    assert world.fabric.weather.faults["random-reset"] == 10
    assert trio.current_time() - start >= 0.1


async def test_reset_of_one_node_by_command(world: World) -> None:
    one, other = await world.dial(), await world.dial(source=2)
    await round_trip(one)
    await round_trip(other)
    assert world.fabric.connections(DIALLER) == 1
    world.fabric.reset_all(DIALLER)
    await broken(one)
    await round_trip(other)


async def test_a_dead_daemon_is_a_reset(nursery: trio.Nursery) -> None:
    held, port = claim_port()
    with held:
        world = World(Fabric(Weather(), port), nursery)
        await nursery.start(world.fabric.serve, LISTENER)
        with world.dialled:
            await broken(await world.dial())
        nursery.cancel_scope.cancel()


def test_addresses_name_daemons() -> None:
    for index in (0, 1, 249, 250, 999):
        assert index_of(home_ip(index)) == index
        assert index_of(proxy_ip(index)) == index
    assert index_of("127.0.0.1") is None


def test_two_worlds_never_share_a_port() -> None:
    (one, first), (other, second) = claim_port(), claim_port()
    with one, other:
        assert first != second
        with socket.socket() as third, pytest.raises(OSError, match="in use"):
            third.bind(("127.78.255.1", first))
