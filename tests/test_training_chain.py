"""A group's chain on disk: what is kept, what is made again from it, and when it is compacted."""

from array import array
from pathlib import Path

import pytest

from protocols.learn.claims import Endorsement, Input, Record, Round
from protocols.learn.partition import Group, Tile, version_header
from synapsed.store.db import Database
from synapsed.store.shape import shape_of_file
from synapsed.training import chain as chains
from synapsed.training.blobs import Blobs
from synapsed.training.chain import Chain, sweep
from synapsed.training.errors import BlobUnknownError, WrongHeadError
from tests.training_toy import added, read_version, write_delta, write_version

LINEAGE = b"\x01\x71\x12\x20" + bytes(32)
COUNT = 1000
GROUP = Group(0, (Tile(0, 1, 0, 0, COUNT),))
LIMIT = 1 << 30
WHO = b"\x00\x24\x08\x01\x12\x20" + bytes(32)


class Shelf:
    """A chain with its folder, and rounds of it that really add up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open()
        first = write_version(folder, GROUP, array("f", bytes(4 * COUNT)))
        self.blobs.take_version(Path(first.path), first.head)
        self.chain.begin(0, first.head)
        self.values = array("f", bytes(4 * COUNT))

    def open(self) -> None:
        self.blobs = Blobs(self.folder / "shelf", LIMIT)
        self.database = Database(self.folder / "records.db")
        self.chain = Chain(self.database, self.blobs, LINEAGE, GROUP)

    def again(self) -> None:
        """After a restart."""
        self.database.close()
        self.open()

    def made(self, step: float = 0.25) -> Round:
        """One more round, whose result is on disk."""
        chain = self.chain
        change = array("f", [step + chain.number] * COUNT)
        blob = write_delta(self.folder, change, [COUNT])
        digest = self.blobs.take(Path(blob.path))
        self.values = added(self.values, change)
        return Round(
            model=LINEAGE,
            group=0,
            number=chain.number,
            epoch=1,
            parent=chain.head,
            head=self.root_of(self.values),
            result=digest,
            size=blob.size,
            inputs=(Input(WHO, digest, 1000),),
        )

    def root_of(self, values: "array[float]") -> bytes:
        path = self.folder / "values"
        path.write_bytes(version_header(GROUP.tiles) + values.tobytes())
        return shape_of_file(path, "safetensors", lambda _count: None)[0].root

    def grow(self, rounds: int) -> None:
        for _ in range(rounds):
            assert self.chain.follow(self.made())

    def replayed(self, number: int | None = None) -> bytes:
        """What a version's files come to; also kept as a file."""
        how = self.chain.replay(number)
        values, _ = read_version(how.path)
        for path, _ in how.links:
            body = path.read_bytes()[-4 * COUNT :]
            change = array("f")
            change.frombytes(body)
            values = added(values, change)
        version = write_version(self.folder, GROUP, values)
        return self.blobs.take_version(Path(version.path))

    def compact(self) -> None:
        number = self.chain.number
        self.chain.compacted(number, self.replayed(number))
        self.chain.trim()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_chain_survives_a_restart(shelf: Shelf) -> None:
    shelf.grow(3)
    head = shelf.chain.head
    shelf.again()
    assert (shelf.chain.number, shelf.chain.head) == (3, head)
    assert shelf.replayed() == head


def test_a_round_whose_result_is_not_here_is_no_link(shelf: Shelf) -> None:
    decided = shelf.made()
    shelf.blobs.drop([decided.result])
    with pytest.raises(BlobUnknownError):
        shelf.chain.follow(decided)
    shelf.again()
    assert shelf.chain.number == 0


def test_a_round_that_follows_another_head_is_refused(shelf: Shelf) -> None:
    shelf.grow(1)
    decided = shelf.made()
    other = Round(
        **{name: getattr(decided, name) for name in Round.__struct_fields__} | {"parent": bytes(32)}
    )
    with pytest.raises(WrongHeadError):
        shelf.chain.follow(other)


def test_a_round_that_is_not_the_next_one_changes_nothing(shelf: Shelf) -> None:
    first = shelf.made()
    assert shelf.chain.follow(first)
    assert not shelf.chain.follow(first)
    assert shelf.chain.number == 1


def test_more_than_ten_results_are_due(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "SHARE", 0)
    shelf.grow(chains.MAX_RESULTS)
    assert shelf.chain.due() == ""
    shelf.grow(1)
    assert shelf.chain.due() == "results"


def test_results_of_more_than_half_a_version_are_due(shelf: Shelf) -> None:
    assert shelf.chain.due() == ""
    shelf.grow(1)  # fp32: as large as the version
    assert shelf.chain.due() == "bytes"


def test_a_replay_that_takes_more_than_fifty_milliseconds_is_due(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "SHARE", 0)
    shelf.grow(1)
    shelf.chain.replay_ms = chains.MAX_REPLAY_MS
    assert shelf.chain.due() == ""
    shelf.chain.replay_ms = chains.MAX_REPLAY_MS + 1
    assert shelf.chain.due() == "time"


def test_a_compacted_chain_has_the_replays_hash_and_old_heads_can_be_made(shelf: Shelf) -> None:
    shelf.grow(2)
    old = shelf.chain.head
    shelf.grow(2)
    head = shelf.chain.head
    shelf.compact()
    assert shelf.chain.base == chains.Base(4, head)
    assert shelf.blobs.has_version(head)
    assert shelf.chain.due() == ""
    assert shelf.replayed(2) == old
    shelf.again()
    assert shelf.chain.head == head
    assert shelf.replayed(2) == old


def test_a_replay_to_another_head_is_no_base(shelf: Shelf) -> None:
    shelf.grow(2)
    wrong = write_version(shelf.folder, GROUP, array("f", [1.0] * COUNT))
    shelf.blobs.take_version(Path(wrong.path))
    with pytest.raises(WrongHeadError):
        shelf.chain.compacted(2, wrong.head)
    assert shelf.chain.base.number == 0


def test_what_was_released_is_swept_and_cannot_be_made_any_more(shelf: Shelf) -> None:
    shelf.grow(2)
    shelf.compact()
    shelf.grow(1)
    results = {shelf.chain.round(number).result for number in range(3)}  # type: ignore[union-attr]
    shelf.chain.release(2)
    freed = sweep(shelf.blobs, [shelf.chain], set, 0)
    assert freed > 0
    assert {digest for digest in results if shelf.blobs.has(digest)} == shelf.chain.results
    with pytest.raises(BlobUnknownError):
        shelf.chain.replay(1)
    assert shelf.replayed(3) == shelf.chain.head


def test_former_bases_go_when_enough_newer_ones_are_here(shelf: Shelf) -> None:
    for _ in range(chains.KEPT_BASES + 2):
        shelf.grow(2)
        shelf.compact()
    assert shelf.chain.oldest == 4
    assert len(shelf.chain.versions) == chains.KEPT_BASES + 1
    assert shelf.replayed(shelf.chain.oldest + 1) == shelf.chain.head_at(shelf.chain.oldest + 1)


def test_a_result_that_is_lost_is_asked_for_again(shelf: Shelf) -> None:
    shelf.grow(3)
    lost = shelf.chain.round(1)
    assert lost is not None
    shelf.blobs.drop([lost.result])
    shelf.again()
    assert shelf.chain.number == 1


def test_results_that_do_not_make_their_head_are_fetched_again(shelf: Shelf) -> None:
    shelf.grow(2)
    shelf.compact()
    shelf.grow(3)
    shelf.chain.rewind()
    assert shelf.chain.number == 2
    assert shelf.replayed() == shelf.chain.head
    shelf.again()
    assert shelf.chain.number == 2


def test_records_stay_although_their_results_went(shelf: Shelf) -> None:
    decided = shelf.made()
    assert shelf.chain.follow(decided)
    record = Record(round=decided, by=(Endorsement(WHO, bytes(64)),))
    shelf.chain.prove(record)
    shelf.compact()
    shelf.chain.release(1)
    sweep(shelf.blobs, [shelf.chain], set, 0)
    shelf.again()
    assert shelf.chain.record(0) == record
    assert shelf.chain.round(0) is None
