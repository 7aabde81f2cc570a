"""A damaged store repairs itself or forgets, says so, and is never a traceback."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protocols.manifest import ModelManifest, encode_manifest
from synapsed.store import (
    DamagedError,
    DiskError,
    Runs,
    Store,
    StoreLockedError,
    StoreVersionError,
)
from synapsed.store.collect import ManifestDamagedError
from tests.store_kit import QUOTA, Events, Made, check_store, made, reopened


@pytest.fixture
def file(tmp_path: Path) -> Made:
    return made(tmp_path)


@pytest.fixture
def full(tmp_path: Path, file: Made) -> Path:
    """The folder of a closed store that holds `file` and a pinned manifest of it."""
    store = Store.open(tmp_path / "store", QUOTA)
    file.feed(file.begin(store))
    store.pin(store.put_block(_manifest(file)), "test")
    store.close()
    return store.root


def _manifest(file: Made) -> bytes:
    return encode_manifest(
        ModelManifest(name="m", description="", files=(file.ref,), depends_on=())
    )


def _folder(root: Path) -> Path:
    (folder,) = (root / "files").iterdir()
    return folder


def _flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_a_cut_off_file_keeps_what_is_in_front_of_the_cut(full: Path, file: Made) -> None:
    data = _folder(full) / "data"
    cut = file.shape.layout.leaf_span(10)[0] + 5
    with data.open("r+b") as raw:
        raw.truncate(cut)
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    assert held.have == Runs([(0, 10)])
    check_store(store)
    file.feed(held, 10)
    assert bytes(held.read(0, file.leaves)) == file.data
    store.close()


def test_a_file_that_is_cut_off_while_open_is_an_error_and_no_crash(full: Path, file: Made) -> None:
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    with held.path.open("r+b") as raw:
        raw.truncate(file.shape.layout.leaf_span(20)[0])
    with pytest.raises(DamagedError, match="damaged"):
        held.read(22, 23)
    assert held.have == Runs([(0, 20)])  # the cut was mended by forgetting
    assert [leaf for _, leaf in store.scrub().bad_leaves] == []
    file.feed(held, 20)
    assert bytes(held.read(0, file.leaves)) == file.data
    store.close()


def test_a_missing_data_file_holds_nothing(full: Path, file: Made) -> None:
    (_folder(full) / "data").unlink()
    store = Store.open(full, QUOTA)
    assert store.file(file.ref.root).have == Runs()
    check_store(store)
    store.close()


def test_a_garbage_record_holds_nothing_that_does_not_verify(full: Path, file: Made) -> None:
    record = _folder(full) / "record"
    record.write_bytes(random.Random(1).randbytes(333))
    store = Store.open(full, QUOTA)
    assert store.file(file.ref.root).have == Runs()
    check_store(store)
    store.close()


def test_a_drop_that_a_bad_record_lost_is_not_believed_to_be_held(full: Path, file: Made) -> None:
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    held.drop(6, 20)
    held.drop(0, 1)
    entries = (held.path.parent / "record").stat().st_size // 16
    store.close()
    # The second last entry, which drops [6, 20), cannot be read; the last still can.
    _flip(_folder(full) / "record", (entries - 2) * 16 + 5)
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    # Dropping leaf 0 kept its bytes (less than a page), so it verifies; dropped pages do not.
    assert held.have.within(6, 20) == []
    assert held.have.covers(20, 26)
    check_store(store)
    store.close()


def test_lost_leaf_hashes_are_made_again_from_whole_sections(full: Path, file: Made) -> None:
    (_folder(full) / "hashes").unlink()
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    assert not held.knows(1)
    assert store.scrub().bad_leaves == []
    assert held.complete
    assert held.leaf_hashes(0, file.leaves) == file.hashes
    store.close()


def test_sub_tiles_that_can_no_more_be_checked_are_forgotten(full: Path, file: Made) -> None:
    store = Store.open(full, QUOTA)
    store.file(file.ref.root).drop(7, 8)
    store.close()
    (_folder(full) / "hashes").write_bytes(b"junk")
    store = Store.open(full, QUOTA)
    found = store.scrub()
    assert {leaf for _, leaf in found.bad_leaves} == {6, *range(8, 26)}
    assert store.file(file.ref.root).have == Runs([(0, 6)])
    store.close()


@pytest.mark.parametrize("damage", [b"", b"junk", b"SYNLAY1\n\xff\xff\xff\xff", None])
def test_a_whole_file_is_recovered_from_its_data(
    full: Path, file: Made, damage: bytes | None
) -> None:
    layout = _folder(full) / "layout"
    if damage is None:
        layout.unlink()
    else:
        layout.write_bytes(damage)
    events = Events()
    store = Store.open(full, QUOTA, on_event=events)
    assert events.kinds() == ["store.file-recovered"]
    held = store.file(file.ref.root)
    assert held.complete
    assert bytes(held.read(0, file.leaves)) == file.data
    check_store(store)
    store.close()


def test_every_flipped_byte_of_a_layout_is_noticed(full: Path, file: Made) -> None:
    layout = _folder(full) / "layout"
    good = layout.read_bytes()
    draw = random.Random(3)
    for _ in range(25):
        layout.write_bytes(good)
        _flip(layout, draw.randrange(len(good)), 1 << draw.randrange(8))
        events = Events()
        store = Store.open(full, QUOTA, on_event=events)
        assert events.kinds() == ["store.file-recovered"]
        store.close()
        assert layout.read_bytes() == good


def test_a_file_in_part_whose_layout_is_lost_is_forgotten(full: Path, file: Made) -> None:
    store = Store.open(full, QUOTA)
    store.file(file.ref.root).drop(7, 9)
    store.close()
    (_folder(full) / "layout").write_bytes(b"junk")
    events = Events()
    store = Store.open(full, QUOTA, on_event=events)
    assert events.kinds() == ["store.file-lost"]
    assert store.files() == []
    check_store(store)
    file.feed(file.begin(store))
    check_store(store)
    store.close()


def test_bits_that_rot_are_found_and_forgotten(full: Path, file: Made) -> None:
    events = Events()
    _flip(_folder(full) / "data", file.shape.layout.leaf_span(9)[0] + 1000)
    store = Store.open(full, QUOTA, on_event=events)
    read = []
    found = store.scrub(read.append)
    assert found.bad_leaves == [(file.ref.root.hex(), 9)]
    assert sum(read) == found.read
    assert ("store.scrub-found", {"bad_leaves": 1, "bad_blocks": 0}) in events
    held = store.file(file.ref.root)
    assert held.missing() == [(9, 10)]
    store = reopened(store)
    assert store.file(file.ref.root).missing() == [(9, 10)]
    file.feed(store.file(file.ref.root), 9, 10)
    check_store(store)
    store.close()


def test_what_rotted_is_never_given_out_and_is_forgotten(full: Path, file: Made) -> None:
    events = Events()
    _flip(_folder(full) / "data", file.shape.layout.leaf_span(9)[0] + 1000)
    store = Store.open(full, QUOTA, on_event=events)
    held = store.file(file.ref.root)
    assert held.read(6, 9) == file.bytes_of(6, 9)
    with pytest.raises(DamagedError, match="1 of the sub-tiles"):
        held.read(6, 12)
    assert held.missing() == [(9, 10)]
    assert ("store.damaged", {"file": file.ref.root.hex(), "leaves": 1}) in events
    assert held.read(10, 12) == file.bytes_of(10, 12)
    store = reopened(store)
    assert store.file(file.ref.root).missing() == [(9, 10)]
    store.close()


def test_a_bad_sector_costs_what_lies_on_it(
    full: Path, file: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read through a mapping it would cost the daemon its life."""
    bad = file.shape.layout.leaf_span(9)[0] + 1000
    pread = os.pread

    def broken(fd: int, count: int, at: int) -> bytes:
        if at <= bad < at + count:
            raise OSError(errno.EIO, "input/output error")
        return pread(fd, count, at)

    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DamagedError):
        held.read(6, 20)
    assert held.missing() == [(9, 10)]
    assert held.read(10, 26) == file.bytes_of(10, 26)
    store.close()


def test_a_data_file_that_is_gone_is_an_error_and_no_crash(full: Path, file: Made) -> None:
    store = Store.open(full, QUOTA)
    held = store.file(file.ref.root)
    held.path.unlink()
    with pytest.raises(DamagedError):
        held.read(9, 10)
    assert held.have == Runs()
    file.feed(held)
    assert held.complete
    check_store(store)
    store.close()


def test_a_damaged_block_is_forgotten_but_frees_nothing(full: Path, file: Made) -> None:
    (block,) = (full / "blocks").glob("*/*")
    _flip(block, 20)
    events = Events()
    store = Store.open(full, QUOTA, on_event=events)
    (cid,) = store.list_blocks()
    with pytest.raises(DamagedError):
        store.get_block(cid)
    assert "store.block-lost" in events.kinds()
    assert not store.has_block(cid)
    for _ in range(2):
        with pytest.raises(ManifestDamagedError, match="unpin it"):
            store.gc()
        assert store.file(file.ref.root).complete
        store = reopened(store)
    assert store.put_block(_manifest(file)) == cid
    store = reopened(store)
    assert store.gc().files == 0
    store.unpin(cid)
    assert store.gc().files == 1
    store.close()


@pytest.mark.parametrize("junk", [b"not a database" * 400, b"SQLite format 3\0" + b"\7" * 9000])
def test_a_lost_database_keeps_every_model(full: Path, file: Made, junk: bytes) -> None:
    for name in ("state.db-wal", "state.db-shm"):
        (full / name).unlink(missing_ok=True)
    (full / "state.db").write_bytes(junk)
    events = Events()
    store = Store.open(full, QUOTA, on_event=events)
    assert events.kinds() == ["store.database-lost"]
    assert (full / "state.db.damaged-1").read_bytes() == junk
    assert [pin.reason for pin in store.pins()] == ["found"]
    assert store.gc().files == 0
    store.table("peers").put(b"k", b"v")
    store.close()


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_database_that_is_new_again_keeps_every_model(full: Path, how: str) -> None:
    for path in full.glob("state.db*"):
        path.unlink()
    if how == "emptied":
        (full / "state.db").touch()
    store = Store.open(full, QUOTA)
    assert [pin.reason for pin in store.pins()] == ["found"]
    store.unpin(store.pins()[0].cid)
    store = reopened(store)
    assert store.pins() == []  # that was the owner's doing
    assert store.gc().files == 1
    store.close()


def test_a_database_that_is_no_file_says_so(full: Path) -> None:
    for path in full.glob("state.db*"):
        path.unlink()
    (full / "state.db").mkdir()
    with pytest.raises(DiskError, match=r"state\.db.*check the disk"):
        Store.open(full, QUOTA)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_database_with_a_damaged_page_is_set_aside(full: Path, page: int) -> None:
    store = Store.open(full, QUOTA)
    table = store.table("peers")
    with store.saving():
        for number in range(2000):
            table.put(b"%d" % number, bytes(100))
    store.close()
    with (full / "state.db").open("r+b") as raw:
        raw.seek(page * 4096)
        raw.write(b"\xa5" * 4096)
    events = Events()
    store = Store.open(full, QUOTA, on_event=events)
    assert events.kinds() == ["store.database-lost"]
    assert store.gc().files == 0
    store.close()


def test_another_version_is_refused_by_name(full: Path) -> None:
    (full / "format").write_text("synapsed store 2\n")
    with pytest.raises(StoreVersionError, match=r"synapsed store 2.*another home folder"):
        Store.open(full, QUOTA)
    (full / "format").write_text("synapsed store 1\n")
    Store.open(full, QUOTA).close()  # the refusal left no lock behind


def test_another_schema_is_refused_by_name(full: Path) -> None:
    import sqlite3

    with sqlite3.connect(full / "state.db") as connection:
        connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(StoreVersionError, match="schema 7"):
        Store.open(full, QUOTA)


def test_a_second_process_is_refused(full: Path) -> None:
    store = Store.open(full, QUOTA)
    with pytest.raises(StoreLockedError, match="another process"):
        Store.open(full, QUOTA)
    store.close()
    Store.open(full, QUOTA).close()


def _stray_file(root: Path) -> None:
    (root / "files" / "stray").write_text("x")


def _stray_folder(root: Path) -> None:
    (root / "files" / "stray").mkdir()
    (root / "blocks" / "zz").mkdir()
    (root / "blocks" / "zz" / "stray").write_text("x")


def _renamed(root: Path) -> None:
    shutil.copytree(_folder(root), root / "files" / ("0" * 64))


@pytest.mark.parametrize("stray", [_stray_file, _stray_folder, _renamed])
def test_strangers_in_the_folders_do_no_harm(
    full: Path, file: Made, stray: Callable[[Path], None]
) -> None:
    stray(full)
    store = Store.open(full, QUOTA)
    assert [held.root for held in store.files()] == [file.ref.root]
    assert store.file(file.ref.root).complete
    check_store(store)
    store.close()


def test_unfinished_work_is_cleared(full: Path) -> None:
    (full / "tmp" / "half").mkdir()
    (full / "tmp" / "half" / "data").write_bytes(b"x" * 1000)
    Store.open(full, QUOTA).close()
    assert list((full / "tmp").iterdir()) == []


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="opening the store"):
        Store.open(tmp_path / "file" / "store", QUOTA)
