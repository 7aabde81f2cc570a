"""Streams between two nodes: bytes, frames, ends, time-outs, and handlers that fail."""

import os

import pytest
import trio

from protocols.errors import LimitError, MalformedError
from synapsed.net import (
    Fault,
    PeerUnreachableError,
    ProtocolUnsupportedError,
    Stream,
    StreamClosedError,
    TimedOutError,
)
from synapsed.net.muxstream import INITIAL_WINDOW
from tests.netlab import PATIENCE, Node, node, nodes, until

ECHO = "/synapse/echo/1.0.0"


async def echo(stream: Stream) -> None:
    while True:
        try:
            frame = await stream.read_frame()
        except StreamClosedError:
            return
        await stream.write_frame(frame)


async def test_frames_go_both_ways_on_one_stream() -> None:
    async with nodes(2) as (one, other):
        other.net.serve(ECHO, echo)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            assert stream.peer == other.id
            assert stream.local
            for size in (0, 1, 1000, INITIAL_WINDOW, 1 << 20):
                frame = os.urandom(size)
                await stream.write_frame(memoryview(frame))
                assert await stream.read_frame() == frame


async def test_bulk_is_exact_whatever_the_pieces() -> None:
    data = os.urandom(5_000_011)

    async def send(stream: Stream) -> None:
        view = memoryview(data)
        for at in range(0, len(data), 777_777):
            await stream.write(view[at : at + 777_777])

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, send)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            start = await stream.read_exactly(1_000_003)
            rest = bytearray(len(data) - len(start))
            await stream.read_into(memoryview(rest))
            assert start + rest == data
            assert await stream.read_some(10) == b""


async def test_many_streams_share_a_connection_fairly() -> None:
    async def count(stream: Stream) -> None:
        for _ in range(64):
            await stream.write(bytes(65536))

    finished: list[int] = []

    async def pull(one: Node, other: Node, number: int) -> None:
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.read_exactly(64 * 65536)
        finished.append(number)

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, count)
        await one.net.connect(other.addr)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(pull, one, other, number)
    assert sorted(finished) == list(range(8))


async def test_what_was_written_before_leaving_the_block_arrives() -> None:
    got: list[bytes] = []
    done = trio.Event()

    async def take(stream: Stream) -> None:
        got.append(await stream.read_frame())
        with pytest.raises(StreamClosedError) as caught:
            await stream.read_frame()
        assert caught.value.clean
        done.set()

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, take)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.write_frame(b"last words")
        with trio.fail_after(PATIENCE):
            await done.wait()
    assert got == [b"last words"]


async def test_typed_errors() -> None:
    async with nodes(2) as (one, other):
        with pytest.raises(PeerUnreachableError, match="not connected"):
            async with one.net.open_stream(other.id, ECHO):
                pass
        await one.net.connect(other.addr)
        with pytest.raises(ProtocolUnsupportedError, match="does not speak /synapse/echo"):
            async with one.net.open_stream(other.id, ECHO):
                pass
        other.net.serve(ECHO, echo)
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.write((1 << 21).to_bytes(4, "big"))
            with pytest.raises(StreamClosedError):
                await stream.read_frame()  # the other side refused the length
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.write_frame(bytes(100))
            with pytest.raises(LimitError, match="frame of 100 bytes"):
                await stream.read_frame(limit=99)


async def test_silence_times_out_and_resets_the_stream() -> None:
    reset = trio.Event()

    async def silent(stream: Stream) -> None:
        with pytest.raises(StreamClosedError):
            await stream.read_frame(timeout=30)
        reset.set()

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, silent)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            with pytest.raises(TimedOutError, match=r"nothing moved for 0\.1 s"):
                await stream.read_exactly(1, timeout=0.1)
            with pytest.raises(StreamClosedError):
                await stream.write(b"too late")
        with trio.fail_after(PATIENCE):
            await reset.wait()


async def test_a_peer_that_does_not_read_stops_the_writer_and_nothing_else() -> None:
    async def never_reads(_stream: Stream) -> None:
        await trio.sleep_forever()

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, never_reads)
        other.net.serve("/other", echo)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            with pytest.raises(TimedOutError):
                await stream.write(bytes(INITIAL_WINDOW + 1), timeout=0.2)
        async with one.net.open_stream(other.id, "/other") as stream:
            await stream.write_frame(b"still here")
            assert await stream.read_frame() == b"still here"


async def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    async with nodes(2) as (one, other):
        other.net.serve(ECHO, echo)
        await one.net.connect(other.addr)
        for _ in range(20):
            async with one.net.open_stream(other.id, ECHO) as stream:
                with trio.move_on_after(0.002):
                    while True:
                        await stream.write(bytes(300_000))
                stream.reset()
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.write_frame(b"whole")
            assert await stream.read_frame() == b"whole"
        assert len(one.net.peers()) == 1


async def test_handlers_may_fail_in_any_way() -> None:
    raised: list[BaseException] = [
        ValueError("a bug"),
        KeyError("another"),
        RuntimeError(),
        ExceptionGroup("several", [OSError("x"), UnicodeError()]),
        MalformedError("their fault"),
        StreamClosedError("gone"),
    ]

    async def fail(_stream: Stream) -> None:
        raise raised[0]

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, fail)
        other.net.serve("/ok", echo)
        await one.net.connect(other.addr)
        while raised:
            # At once, or at the first read: the reset may overtake the agreement.
            with pytest.raises(StreamClosedError):
                async with one.net.open_stream(other.id, ECHO) as stream:
                    await stream.read_exactly(1)
            raised.pop(0)
        async with one.net.open_stream(other.id, "/ok") as stream:
            await stream.write_frame(b"alive")
            assert await stream.read_frame() == b"alive"
        assert other.kinds().count("handler.failed") == 5  # each leaf that is nobody's fault
        # Only the malformed one is held against the peer.
        assert other.book.record(one.id).fault_counts == {Fault.MALFORMED.value: 1}


async def test_streams_of_one_protocol_are_limited_for_each_peer() -> None:
    async def hold(stream: Stream) -> None:
        await stream.write(b"!")
        await stream.read_some(1)

    async with nodes(3) as (one, two, other):
        other.net.serve(ECHO, hold, max_streams_per_peer=2)
        for caller in (one, two):
            await caller.net.connect(other.addr)
        async with (
            one.net.open_stream(other.id, ECHO) as first,
            one.net.open_stream(other.id, ECHO) as second,
            two.net.open_stream(other.id, ECHO) as elsewhere,
        ):
            for stream in (first, second, elsewhere):
                assert await stream.read_exactly(1) == b"!"
            with pytest.raises(StreamClosedError):
                async with one.net.open_stream(other.id, ECHO) as third:
                    await third.read_exactly(1)
        async with one.net.open_stream(other.id, ECHO) as again:
            with trio.fail_after(PATIENCE):
                assert await again.read_exactly(1) == b"!"


async def test_a_lost_connection_ends_its_streams_and_handlers() -> None:
    cancelled = trio.Event()

    async def wait_for_ever(stream: Stream) -> None:
        await stream.write(b"!")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with nodes(2) as (one, other):
        other.net.serve(ECHO, wait_for_ever)
        await one.net.connect(other.addr)
        async with one.net.open_stream(other.id, ECHO) as stream:
            await stream.read_exactly(1)
            await other.net.disconnect(one.id)
            with pytest.raises(StreamClosedError):
                await stream.read_exactly(1)
        with trio.fail_after(PATIENCE):
            await cancelled.wait()
        await until(lambda: not one.net.peers() and not other.net.peers())


async def test_abandoned_streams_are_forgotten() -> None:
    async def never_ends(stream: Stream) -> None:
        await stream.write(b"!")
        await trio.sleep_forever()

    async with node() as one, node() as other:
        other.net.serve(ECHO, never_ends, max_streams_per_peer=50)
        await one.net.connect(other.addr)
        conn = one.net._switch.connection(other.id)
        assert conn is not None
        await until(lambda: len(conn.muxed_conn.streams) == 2)  # gossip's, one each way
        for _ in range(20):
            async with one.net.open_stream(other.id, ECHO) as stream:
                await stream.read_exactly(1)
        conn.muxed_conn.sweep()  # what the keeper does now and then
        assert len(conn.muxed_conn.streams) == 2
