"""ledger.db: what was signed and the key that signed it live and die together."""

import stat
from pathlib import Path
from typing import Any

import pytest

from protocols.effects import Save
from protocols.raft import ports as raftports
from protocols.raft import state as raftstate
from synapsed.ledger.store import SEAT, open_ledger_store
from synapsed.store.db import CorruptDatabaseError
from synapsed.store.errors import DiskError


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


def test_the_key_is_made_once_with_the_state_that_says_it_signed_nothing(tmp_path: Path) -> None:
    told = Told()
    store = open_ledger_store(tmp_path / "ledger.db", told)
    key = store.key
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes) >= {"ledger.db", "ledger.db-wal"}
    assert set(modes.values()) == {0o600}
    saved = dict(store.table(raftports.TABLE).items())
    blank = raftstate.blank_state(key.public_key)
    assert saved == {blank.key: blank.value}
    assert key.seed not in b"".join(saved.values())
    store.close()
    again = open_ledger_store(tmp_path / "ledger.db", told)
    assert again.key.public_key == key.public_key
    assert told.events == []


def test_saves_are_kept_together_and_in_order(tmp_path: Path) -> None:
    store = open_ledger_store(tmp_path / "ledger.db", Told())
    store.save(
        [Save("ledger", b"a", b"1"), Save("council", b"b", b"2"), Save("ledger", b"a", None)]
    )
    store.save([Save("ledger", b"a", None), Save("ledger", b"a", b"3"), Save("ledger", b"c", b"4")])
    store.close()
    store = open_ledger_store(tmp_path / "ledger.db", Told())
    assert store.table("ledger").items() == [(b"a", b"3"), (b"c", b"4")]
    assert store.table("ledger").get(b"a") == b"3"
    assert store.table("council").get(b"b") == b"2"


def test_a_save_that_fails_saves_nothing(tmp_path: Path) -> None:
    store = open_ledger_store(tmp_path / "ledger.db", Told())
    with pytest.raises(CorruptDatabaseError, match="NOT NULL"):
        store.save([Save("ledger", b"a", b"1"), Save("ledger", None, b"2")])  # type: ignore[arg-type]
    assert store.table("ledger").items() == []


def test_a_file_that_is_no_database_is_kept_aside_and_its_key_is_gone(tmp_path: Path) -> None:
    path, told = tmp_path / "ledger.db", Told()
    store = open_ledger_store(path, told)
    lost = store.key
    store.save([Save("ledger", b"a", b"1")])
    store.close()
    data = bytearray(path.read_bytes())
    data[:64] = bytes(64)
    path.write_bytes(data)
    store = open_ledger_store(path, told)
    (event,) = told.events
    assert event[0] == "ledger.lost"
    assert Path(event[1]["kept"]).read_bytes() == data
    assert store.key.public_key != lost.public_key
    assert store.table("ledger").items() == []


def test_a_damaged_key_is_never_used(tmp_path: Path) -> None:
    path, told = tmp_path / "ledger.db", Told()
    store = open_ledger_store(path, told)
    lost = store.key
    record = store.table(SEAT).get(b"key")
    assert record is not None
    store.save([Save(SEAT, b"key", record[:-1] + bytes((record[-1] ^ 1,)))])
    store.close()
    store = open_ledger_store(path, told)
    assert [kind for kind, _ in told.events] == ["ledger.seat-lost"]
    assert store.key.public_key != lost.public_key
    (state,) = store.table(raftports.TABLE).items()
    blank = raftstate.blank_state(store.key.public_key)
    assert state == (blank.key, blank.value)


def test_a_seat_that_lost_its_state_gets_a_new_key(tmp_path: Path) -> None:
    store = open_ledger_store(tmp_path / "ledger.db", Told())
    lost = store.key
    store.save([Save(raftports.TABLE, raftstate.blank_state(lost.public_key).key, None)])
    store.renew()
    fresh = store.key
    assert fresh.public_key != lost.public_key
    store.close()
    store = open_ledger_store(tmp_path / "ledger.db", Told())
    assert store.key.public_key == fresh.public_key
    blank = raftstate.blank_state(fresh.public_key)
    assert store.table(raftports.TABLE).get(blank.key) == blank.value


def test_where_it_cannot_be_opened_the_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(DiskError, match=r"ledger\.db"):
        open_ledger_store(tmp_path / "ledger.db", Told())
