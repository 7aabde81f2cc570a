"""Blobs on disk, and how they get there: nobody can send us any."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from protocols.codec import decode, encode
from protocols.errors import MalformedError
from protocols.tensors.tensorblock import SUBTILE
from synapsed.net.errors import PeerUnreachableError
from synapsed.training.blobs import Blobs
from synapsed.training.errors import BlobUnknownError, TooManyBlobsError, WrongBlobError
from synapsed.training.exchange import HURRY_SECONDS, PROTOCOL, Exchange, Traffic, Want
from tests.pipes import PipeNet

MODEL = b"\x01\x71\x12\x20" + bytes(32)
LIMIT = 4 << 20
DATA = bytes(range(256)) * 2048
"""Two sub-tiles."""


def name(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Side:
    """One daemon's shelf and exchange."""

    def __init__(self, number: int, folder: Path, nursery: trio.Nursery) -> None:
        self.id = bytes([number])
        self.net = PipeNet(self.id, nursery)
        self.traffic = Traffic()
        self.exchange = Exchange(self.net, self._connect, self.traffic)
        self.blobs = self.exchange.shelves[MODEL] = Blobs(folder / f"{number}", LIMIT)

    async def _connect(self, peer: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if peer not in self.net.joined:
            raise PeerUnreachableError("not connected")


@asynccontextmanager
async def sides(folder: Path) -> AsyncIterator[tuple[Side, Side]]:
    async with trio.open_nursery() as nursery:
        one, other = (Side(number, folder, nursery) for number in (1, 2))
        one.net.connect(other.net)
        yield one, other
        nursery.cancel_scope.cancel()


def test_a_blob_is_there_when_it_is_whole_and_what_it_was_named(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, LIMIT)
    coming = blobs.begin(name(DATA), len(DATA))
    coming.write(DATA[:-1])
    assert not blobs.has(name(DATA))
    with pytest.raises(WrongBlobError):
        blobs.end(coming, keep=True)
    assert not blobs.has(name(DATA))
    assert blobs.used == 0
    assert blobs.put(DATA) == name(DATA)
    assert Blobs(tmp_path, LIMIT).read(name(DATA)) == DATA


def test_what_the_worker_wrote_is_named_by_its_bytes_unless_it_is_believed(tmp_path: Path) -> None:
    """A worker's slip in a name is found; of a large state of ours, whoever reads it looks."""
    blobs, wrong = Blobs(tmp_path / "shelf", LIMIT), tmp_path / name(b"other").hex()
    wrong.write_bytes(DATA)
    assert blobs.take(wrong) == name(DATA)
    believed = tmp_path / name(b"other").hex()
    believed.write_bytes(b"state")
    assert blobs.take(believed, durable=False, believed=True) == name(b"other")
    assert blobs.size(name(b"other")) == 5
    assert blobs.unsynced == {name(b"other")}
    assert blobs.used == len(DATA) + 5


def test_more_than_was_promised_is_refused_before_it_is_written(tmp_path: Path) -> None:
    coming = Blobs(tmp_path, LIMIT).begin(name(DATA), 10)
    with pytest.raises(WrongBlobError):
        coming.write(bytes(11))
    coming.close()


def test_what_comes_counts_before_it_is_there(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 2 * len(DATA))
    first = blobs.begin(name(DATA), len(DATA))
    blobs.begin(bytes(32), len(DATA))
    with pytest.raises(TooManyBlobsError):
        blobs.check_room(1)
    blobs.end(first, keep=False)
    blobs.check_room(len(DATA))


def test_unfinished_work_is_gone_after_a_restart(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, LIMIT)
    blobs.begin(name(DATA), len(DATA)).write(DATA)
    again = Blobs(tmp_path, LIMIT)
    assert not again.has(name(DATA))
    assert again.used == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_sweeping_spares_what_is_named(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, LIMIT)
    kept, gone = blobs.put(b"kept"), blobs.put(b"gone")
    assert blobs.sweep((), ()) == 0, "nothing that has just come"
    assert blobs.sweep({kept}, (), 0) == len(b"gone")
    assert blobs.has(kept)
    assert not blobs.has(gone)
    assert not (tmp_path / "blobs" / gone.hex()).exists()


async def test_what_was_kept_without_a_sync_is_on_disk_when_it_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner's own delta, which its own replica then vouches for."""
    synced: list[Path] = []
    monkeypatch.setattr("synapsed.training.blobs.sync_data", synced.append)
    async with sides(tmp_path) as (one, _):
        path = one.blobs.aside().with_name(name(DATA).hex())
        path.write_bytes(DATA)
        digest = one.blobs.take(path, durable=False)
        assert synced == []
        await one.exchange.fetch(one.id, MODEL, {digest: len(DATA)})
        await one.exchange.fetch(one.id, MODEL, {digest: len(DATA)})
        assert synced == [one.blobs.path(digest)]


async def test_a_blob_is_fetched_once_and_counted(tmp_path: Path) -> None:
    async with sides(tmp_path) as (one, other):
        digest = other.blobs.put(DATA)
        wanted = {digest: len(DATA)}
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one.exchange.fetch, other.id, MODEL, wanted)
        assert one.blobs.read(digest) == DATA
        assert one.traffic.bytes["in", "blob"] == len(DATA)
        assert other.traffic.bytes["out", "blob"] == len(DATA)
        assert one.traffic.total("out") < 200


async def test_whoever_falls_silent_does_not_hold_up_who_asks_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A primary whose power fails while it sends, and its successor."""
    async with trio.open_nursery() as nursery:
        one, silent, other = (Side(number, tmp_path, nursery) for number in (1, 2, 3))
        one.net.connect(silent.net)
        one.net.connect(other.net)
        for side in (silent, other):
            side.blobs.put(DATA)
        sends = trio.Event()

        async def falls_silent(_peer: bytes, _size: int) -> None:
            sends.set()
            await trio.sleep_forever()

        silent.exchange._grant = falls_silent
        wanted = {name(DATA): len(DATA)}
        nursery.start_soon(one.exchange.fetch, silent.id, MODEL, wanted)
        await sends.wait()
        began = trio.current_time()
        await one.exchange.fetch(other.id, MODEL, wanted)
        assert trio.current_time() - began <= HURRY_SECONDS
        assert one.blobs.read(name(DATA)) == DATA
        await trio.testing.wait_all_tasks_blocked()
        assert one.exchange.coming == set()
        assert one.blobs.used == len(DATA)
        nursery.cancel_scope.cancel()


async def test_what_moves_is_waited_for_and_not_asked_for_twice(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        one, slow, other = (Side(number, tmp_path, nursery) for number in (1, 2, 3))
        for side in (slow, other):
            one.net.connect(side.net)
            side.blobs.put(DATA)

        async def slowly(_peer: bytes, _size: int) -> None:
            await trio.sleep(0.9 * HURRY_SECONDS)

        slow.exchange._grant = slowly
        wanted = {name(DATA): len(DATA)}
        nursery.start_soon(one.exchange.fetch, slow.id, MODEL, wanted)
        await trio.testing.wait_all_tasks_blocked()
        await one.exchange.fetch(other.id, MODEL, wanted)
        assert one.traffic.bytes["in", "blob"] == len(DATA)
        assert other.traffic.total("out") == 0
        nursery.cancel_scope.cancel()


async def test_who_does_not_have_it_is_asked_and_not_blamed(tmp_path: Path) -> None:
    async with sides(tmp_path) as (one, other):
        with pytest.raises(BlobUnknownError):
            await one.exchange.fetch(other.id, MODEL, {name(DATA): len(DATA)})
        assert one.net.blamed == []


async def test_a_blob_of_another_size_than_was_signed_is_not_taken(tmp_path: Path) -> None:
    async with sides(tmp_path) as (one, other):
        digest = other.blobs.put(DATA)
        with pytest.raises(WrongBlobError):
            await one.exchange.fetch(other.id, MODEL, {digest: 10})
        assert one.traffic.bytes["in", "blob"] == 0
        assert one.blobs.used == 0


async def test_wrong_bytes_are_blamed_and_not_kept(tmp_path: Path) -> None:
    async with sides(tmp_path) as (one, other):
        digest = other.blobs.put(DATA)
        other.blobs.path(digest).write_bytes(bytes(len(DATA)))
        with pytest.raises(WrongBlobError):
            await one.exchange.fetch(other.id, MODEL, {digest: len(DATA)})
        assert [(peer, fault) for peer, fault, _ in one.net.blamed] == [(other.id, "mismatch")]
        assert one.blobs.used == 0


async def test_a_version_is_fetched_by_its_root_and_asked_for_where_it_is_no_file(
    tmp_path: Path,
) -> None:
    async with sides(tmp_path) as (one, other):
        missing: list[bytes] = []
        other.exchange.on_missing = lambda _model, root: missing.append(root)
        with pytest.raises(BlobUnknownError):
            await one.exchange.fetch_version([other.id], MODEL, bytes(32), 100)
        assert missing == [bytes(32)]


async def test_nobody_can_make_us_take_bytes(tmp_path: Path) -> None:
    """Whoever opens a stream may ask, and what else it writes ends the stream."""
    async with sides(tmp_path) as (one, other):
        async with one.net.open_stream(other.id, PROTOCOL) as stream:
            await stream.write_frame(bytes(SUBTILE))
            with pytest.raises(Exception, match=r"ended|closed|broken"):
                await stream.read_frame(8)
        assert other.blobs.used == 0
        assert [fault for _, fault, _ in other.net.blamed] == ["malformed"]


async def test_a_question_is_answered_again_and_again_on_one_stream(tmp_path: Path) -> None:
    async with sides(tmp_path) as (one, other):
        digest = other.blobs.put(b"small")
        async with one.net.open_stream(other.id, PROTOCOL) as stream:
            for _ in range(2):
                await stream.write_frame(encode(Want(model=MODEL, kind="blob", name=digest)))
                assert int.from_bytes(await stream.read_frame(8), "big") == 5
                assert await stream.read_frame(100) == b"small"


def test_a_want_names_one_thing() -> None:
    fields: dict[str, Any] = {"model": MODEL, "kind": "blob", "name": bytes(31)}
    data = encode(Want(**fields))
    with pytest.raises(MalformedError):
        decode(data, Want)
