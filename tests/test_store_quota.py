"""The quota is asked before anything is written, and warns once."""

from pathlib import Path

import pytest

from protocols.cid import RAW
from protocols.codec import MAX_BLOCK
from protocols.errors import LimitError
from protocols.tensors.tensorblock import SUBTILE
from synapsed.store import QuotaExceededError, Store
from tests.store_kit import Events, check_store, made, made_flat


def test_a_pull_that_reaches_it_stops_and_loses_nothing(tmp_path: Path) -> None:
    file = made(tmp_path)
    store = Store.open(tmp_path / "s", 2 << 20)
    held = file.begin(store)
    with pytest.raises(QuotaExceededError) as caught:
        file.feed(held)
    error = caught.value
    assert error.used == store.quota.used <= error.quota == 2 << 20
    assert error.used + error.need > error.quota
    for part in (str(error.used), str(error.quota), str(error.need), "raise store.quota"):
        assert part in str(error)
    held.commit()
    before = held.have
    assert before.count > 5
    check_store(store)
    stopped_at = held.missing()[0][0]
    blocks = held.path.stat().st_blocks
    with pytest.raises(QuotaExceededError):
        held.write(stopped_at, file.bytes_of(stopped_at, stopped_at + 1))
    assert held.path.stat().st_blocks == blocks
    assert held.have == before
    store.quota.limit = 20 << 20
    file.feed(held)
    assert held.complete
    check_store(store)
    store.close()


def test_a_new_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    file = made(tmp_path)
    store = Store.open(tmp_path / "s", 100)
    with pytest.raises(QuotaExceededError):
        file.begin(store)
    assert list((store.root / "files").iterdir()) == []
    assert store.quota.used == 0
    store.close()


def test_blocks_count_too(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", 1000)
    cid = store.put_block(b"x" * 600, RAW)
    assert store.put_block(b"x" * 600, RAW) == cid
    assert store.quota.used == 600
    with pytest.raises(QuotaExceededError):
        store.put_block(b"y" * 401, RAW)
    assert len(list((store.root / "blocks").glob("*/*"))) == 1
    store.put_block(b"y" * 400, RAW)
    assert store.delete_block(cid) == 600
    assert store.quota.used == 400
    with pytest.raises(LimitError, match="1048577"):
        store.put_block(bytes(MAX_BLOCK + 1), RAW)
    store.close()


def test_it_warns_once_and_again_after_it_fell(tmp_path: Path) -> None:
    events = Events()
    file = made_flat(tmp_path, 10 * SUBTILE)
    store = Store.open(tmp_path / "s", 10 * SUBTILE, on_event=events)
    held = file.begin(store)
    file.feed(held, 0, 8)
    assert events == []
    file.feed(held, 8, 9)
    (warning,) = events
    assert warning == (
        "store.quota-warning",
        {"used": store.quota.used, "quota": 10 * SUBTILE},
    )
    held.drop(0, 1)
    file.feed(held, 0, 1)
    assert len(events) == 2
    store.quota.limit = 20 * SUBTILE
    assert len(events) == 2
    store.quota.limit = 10 * SUBTILE
    assert len(events) == 3
    store.close()
    Store.open(tmp_path / "s", 9 * SUBTILE, on_event=events).close()
    assert len(events) == 4


def test_a_store_above_its_quota_opens_and_takes_no_more(tmp_path: Path) -> None:
    file = made_flat(tmp_path, 4 * SUBTILE)
    store = Store.open(tmp_path / "s", 10 * SUBTILE)
    file.feed(file.begin(store), 0, 3)
    store.close()
    store = Store.open(tmp_path / "s", SUBTILE)
    with pytest.raises(QuotaExceededError):
        file.feed(store.file(file.ref.root))
    assert bytes(store.file(file.ref.root).read(0, 3)) == file.bytes_of(0, 3)
    store.close()
