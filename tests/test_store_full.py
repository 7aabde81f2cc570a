"""A full disk is a typed error, and the store stays what it was.

A small tmpfs where one can be mounted (as root, or in a user namespace: the test runs itself
again in one); everywhere, a file-size limit in a process of its own.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from synapsed.models import import_model
from synapsed.store import DiskFullError, Store, StoreError, Table
from tests.store_kit import QUOTA, check_store, made, model_folder, reopened


def _fill(root: Path, scratch: Path) -> None:
    """Write until the disk is full, and look at what is left."""
    file = made(scratch)
    store = Store.open(root, QUOTA)
    held = file.begin(store)
    with pytest.raises(DiskFullError, match="no room on the disk"):
        file.feed(held)
    with pytest.raises(DiskFullError):
        _put_blocks(store)
    folder = model_folder(scratch / "model", {"big": 9 << 20})
    with pytest.raises(DiskFullError, match="are free"):
        import_model(store, folder)
    # Had the room been taken by another meanwhile:
    with patch("synapsed.models.imports.check_free"), pytest.raises(DiskFullError, match="no room"):
        import_model(store, folder)
    assert store.pins() == []
    assert [one.root for one in store.files()] == [file.ref.root]
    check_store(store)
    store = reopened(store)
    check_store(store)
    held = store.file(file.ref.root)
    assert not held.complete
    for cid in store.list_blocks():
        store.delete_block(cid)
    store.close()


def _limited(root: Path, scratch: Path) -> None:
    """The same with files that may not grow beyond 2 MiB: EFBIG instead of ENOSPC."""
    file = made(scratch)
    store = Store.open(root, QUOTA)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
    with pytest.raises(DiskFullError):
        file.begin(store)
    assert list((root / "files").iterdir()) == []
    assert store.quota.used == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    held = file.begin(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
    with pytest.raises(DiskFullError):
        file.feed(held)
    held.commit()
    count = held.have.count
    assert 5 <= count <= 10
    check_store(store)
    store = reopened(store)
    assert store.file(file.ref.root).have.count == count
    store.close()


def _database(root: Path, scratch: Path) -> None:
    """A table that no more fits."""
    store = Store.open(root, QUOTA)
    table = store.table("t")
    table.put(b"before", b"x")
    with pytest.raises(StoreError, match=r"no room|disk"):
        _put_values(table)
    assert table.get(b"before") == b"x"
    count = len(table.items())
    store = reopened(store)
    assert len(store.table("t").items()) == count
    store.close()


def _put_blocks(store: Store) -> None:
    for number in range(100):
        store.put_block(number.to_bytes(4, "big") * 100_000)


def _put_values(table: Table) -> None:
    for number in range(10_000):
        table.put(b"%d" % number, bytes(10_000))


_CASES = {"fill": _fill, "limited": _limited, "database": _database}


def _again(case: str, *prefix: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "tests.test_store_full", case, str(scratch)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def _can_mount() -> bool:
    probe = "mount -t tmpfs none /mnt"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", probe], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("case", ["fill", "database"])
def test_a_full_file_system(tmp_path: Path, case: str) -> None:
    if not _can_mount():
        pytest.skip("no user namespaces here: a tmpfs cannot be mounted")
    (tmp_path / "small").mkdir()
    mount = f'mount -t tmpfs -o size=4m none {tmp_path}/small && exec "$@"'
    done = _again(case, "unshare", "-Urm", "sh", "-c", mount, "sh", scratch=tmp_path)
    assert done.returncode == 0, done.stderr


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    done = _again("limited", scratch=tmp_path)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    _CASES[sys.argv[1]](folder / "small" / "store", folder)
