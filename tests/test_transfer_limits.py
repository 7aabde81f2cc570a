"""The upload limit, in the time of a mock clock: rate, fairness, changes, pauses, slots."""

from collections import Counter
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from synapsed.transfer.limits import (
    CHUNK,
    MAX_UPLOADS,
    MIN_CHUNK,
    MIN_SHARE,
    Downloads,
    Uploads,
    UploadsPausedError,
)

MB = 1_000_000


async def upload(uploads: Uploads, peer: bytes, sent: Counter[bytes]) -> None:
    """A stream that sends for ever."""
    while True:
        size = uploads.chunk()
        await uploads.grant(peer, size)
        sent[peer] += size
        await trio.lowlevel.checkpoint()


async def sent_in(seconds: float, uploads: Uploads, streams: list[bytes]) -> Counter[bytes]:
    """What each of these streams (by their peers) gets in so many seconds."""
    sent: Counter[bytes] = Counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uploads.run)
            for peer in streams:
                nursery.start_soon(partial(upload, uploads, peer, sent))
    return sent


@pytest.mark.parametrize("rate", [50_000, 10 * MB])
async def test_all_peers_together_get_the_rate_and_no_more(
    rate: int, autojump_clock: MockClock
) -> None:
    sent = await sent_in(20.0, Uploads(rate), [b"a", b"b", b"c"])
    assert 0.95 * rate < sent.total() / 20.0 < 1.05 * rate


async def test_a_peer_with_many_streams_gets_no_more_than_one_with_one(
    autojump_clock: MockClock,
) -> None:
    sent = await sent_in(20.0, Uploads(10 * MB), [b"greedy"] * 8 + [b"modest"])
    assert 0.9 < sent[b"modest"] / sent[b"greedy"] < 1.1


async def test_small_requests_get_as_many_bytes_as_large_ones(autojump_clock: MockClock) -> None:
    uploads, sent = Uploads(MB), Counter[bytes]()

    async def small() -> None:
        while True:
            await uploads.grant(b"small", CHUNK // 16)
            sent[b"small"] += CHUNK // 16

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uploads.run)
            nursery.start_soon(upload, uploads, b"large", sent)
            for _ in range(32):
                nursery.start_soon(small)
    assert 0.9 < sent[b"small"] / sent[b"large"] < 1.1


async def test_the_rate_can_be_changed_under_way(autojump_clock: MockClock) -> None:
    uploads, sent = Uploads(MIN_CHUNK), Counter[bytes]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(uploads.run)
        nursery.start_soon(upload, uploads, b"a", sent)
        await trio.sleep(10)
        slow = sent.total()
        uploads.set_rate(10 * MB)
        await trio.sleep(10)
        assert slow < 12 * MIN_CHUNK
        assert sent.total() - slow > 95 * MB
        assert uploads.sent == sent.total()
        nursery.cancel_scope.cancel()


async def test_no_limit_waits_for_nobody() -> None:
    uploads = Uploads()
    await uploads.grant(b"a", CHUNK)
    assert uploads.sent == CHUNK


async def test_a_pause_refuses_those_who_wait_and_those_who_come(
    autojump_clock: MockClock,
) -> None:
    uploads = Uploads(1000)

    async def waits() -> None:
        await uploads.grant(b"a", CHUNK)  # leaves a debt of minutes
        with pytest.raises(UploadsPausedError):
            await uploads.grant(b"a", CHUNK)

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uploads.run)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(waits)
                await trio.sleep(1)
                uploads.pause()
            with pytest.raises(UploadsPausedError):
                await uploads.grant(b"b", 1)
            uploads.resume()
            await uploads.grant(b"b", 1)
            nursery.cancel_scope.cancel()


async def test_who_gives_up_waiting_takes_no_turn(autojump_clock: MockClock) -> None:
    uploads = Uploads(MIN_CHUNK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(uploads.run)
        await uploads.grant(b"a", CHUNK)  # leaves a debt of many seconds
        with trio.move_on_after(1):
            await uploads.grant(b"b", CHUNK)
        await uploads.grant(b"a", 1)
        assert uploads.sent == CHUNK + 1
        nursery.cancel_scope.cancel()


def test_no_more_peers_are_served_than_get_their_share() -> None:
    uploads = Uploads(3 * MIN_SHARE)
    with uploads.serving(b"a"), uploads.serving(b"b"), uploads.serving(b"c") as third:
        assert third
        with uploads.serving(b"d") as fourth, uploads.serving(b"a") as again:
            assert not fourth
            assert again
    with uploads.serving(b"d") as later:
        assert later


def test_even_without_a_limit_the_peers_served_are_bounded() -> None:
    uploads = Uploads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synapsed.transfer.limits.MAX_UPLOADS", 1)
        with uploads.serving(b"a"), uploads.serving(b"b") as second:
            assert not second
    assert MAX_UPLOADS > 8


async def test_what_is_asked_for_is_paid_before_more_is(mock_clock: MockClock) -> None:
    downloads = Downloads()
    downloads.ask(1 << 40)
    assert not downloads.spent  # no limit
    downloads.set_rate(1 << 20)
    assert not downloads.spent
    downloads.ask(3 << 20)
    assert downloads.spent
    mock_clock.jump(2.9)
    assert downloads.spent
    mock_clock.jump(0.2)
    assert not downloads.spent
    downloads.ask(100 << 20)
    downloads.set_rate(0)
    assert not downloads.spent
