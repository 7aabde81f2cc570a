"""state.db: tables, transactions, pins."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapsed.store import Store, StoreError
from synapsed.store.db import Database
from tests.store_kit import QUOTA, reopened

_STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.binary(max_size=3), st.none() | st.binary(max_size=5)),
    max_size=30,
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "state.db")


@given(steps=_STEPS, durable=st.booleans(), prefix=st.binary(max_size=1))
def test_tables_are_ordered_maps(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, bytes, bytes | None]],
    durable: bool,
    prefix: bytes,
) -> None:
    database = Database(tmp_path_factory.mktemp("db") / "state.db")
    models: dict[str, dict[bytes, bytes]] = {"a": {}, "b": {}}
    for name, key, value in steps:
        table = database.table(name, durable=durable)
        if value is None:
            table.delete(key)
            models[name].pop(key, None)
        else:
            table.put(key, value)
            models[name][key] = value
    for name, model in models.items():
        table = database.table(name)
        assert table.items() == sorted(model.items())
        assert table.items(prefix) == [p for p in sorted(model.items()) if p[0].startswith(prefix)]
        assert all(table.get(key) == value for key, value in model.items())
    assert database.table("a").get(b"absent") is None
    database.close()


def test_saved_things_survive_a_restart(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", QUOTA)
    store.table("catalog", durable=False).put(b"k", b"v")
    store.pin(b"c" * 36, "because")
    store.pin(b"c" * 36, "because")
    store.pin(b"c" * 36, "also")
    store = reopened(store)
    assert store.table("catalog").get(b"k") == b"v"
    assert [pin.reason for pin in store.pins()] == ["also", "because"]
    assert store.unpin(b"c" * 36, "also") == 1
    assert store.unpin(b"c" * 36) == 1
    assert store.pins() == []
    store.close()


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    table = database.table("t")

    def save_and_fail() -> None:
        with database.transaction():
            table.put(b"1", b"x")
            with database.transaction():
                table.put(b"2", b"x")
            raise KeyError

    with pytest.raises(KeyError):
        save_and_fail()
    assert table.items() == []
    with database.transaction():
        table.put(b"1", b"x")
    assert table.items() == [(b"1", b"x")]


def test_threads_may_save_at_once(database: Database) -> None:
    def save(number: int) -> None:
        table = database.table("t", durable=number % 2 == 0)
        for at in range(20):
            table.put(b"%d.%d" % (number, at), b"x")

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(database.table("t").items()) == 80


def test_a_closed_store_is_a_typed_error(database: Database) -> None:
    database.close()
    with pytest.raises(StoreError, match="closed"):
        database.table("t").get(b"k")


_KILLED = """
import os, sys
from pathlib import Path
from synapsed.store.db import Database
table = Database(Path(sys.argv[1])).table("t", durable=False)
for number in range(50):
    table.put(b"%03d" % number, b"x")
os.kill(os.getpid(), 9)
"""


def test_what_was_saved_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert len(Database(path).table("t").items()) == 50
