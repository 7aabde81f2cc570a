"""A crash at every single disk operation, and with it a power cut that loses all unsynced bytes.

`PowerCut` stands in front of the system calls that the store writes with. At the n-th it
raises, and so does every later one: nothing runs on, as after kill -9. Then all bytes that no
fsync or fdatasync made durable are taken back from data and hash files, while records keep
what was appended: the worst that an honest disk may do. What is left must open, hold the
record to be true, and let the work be finished.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synapsed.models import import_model
from synapsed.models.spare import let_go, spares
from synapsed.store import Store
from synapsed.store.reasons import IMPORTED, REPLICA
from tests.store_kit import QUOTA, Made, check_store, made, model_folder

CALLS = ("pwrite", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "mkdir", "unlink")


class Killed(BaseException):
    """The process is gone."""


class PowerCut:
    """Lets `after` writing calls through, then none; remembers what no sync made durable."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        self.unsynced: dict[Path, list[tuple[int, bytes]]] = {}
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            if name == "pwrite":
                return self._write(real, *args)
            if name in ("fsync", "fdatasync"):
                self.unsynced.pop(_path(args[0]), None)
            return real(*args, **kwargs)

        return call

    def _write(self, real: Callable[..., int], fd: int, data: Any, offset: int) -> int:
        if self.left == 0:  # the last call before the cut writes only half
            data = memoryview(data)[: len(data) // 2]
        path = _path(fd)
        with path.open("rb") as file:
            file.seek(offset)
            before = file.read(len(data))
        self.unsynced.setdefault(path, []).append((offset, before.ljust(len(data), b"\0")))
        return real(fd, data, offset)

    def lose(self) -> int:
        """Take back what was not durable; how many files lost something."""
        lost = 0
        for path, writes in self.unsynced.items():
            if path.name in ("data", "hashes") and path.exists():
                lost += 1
                with path.open("r+b") as file:
                    for offset, before in reversed(writes):
                        file.seek(offset)
                        file.write(before)
        return lost


def _path(fd: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def _pull(root: Path, file: Made) -> None:
    """What a pull does: a file begun, fed in runs, committed now and then, some of it dropped."""
    store = Store.open(root, QUOTA)
    try:
        store.put_block(b"\xa1" + b"x" * 10)
        held = file.begin(store)
        for lo in range(1, file.leaves, 3):
            hi = min(lo + 3, file.leaves)
            held.write(lo, file.bytes_of(lo, hi))
            if lo % 2:
                held.commit()
        held.commit()
        held.drop(6, 12)
        file.feed(held, 6, 8)
    finally:
        store.close()


def _calls_of(tmp_path: Path, work: Callable[[Path], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        cut = PowerCut(patch, 1 << 30)
        work(tmp_path / "counting")
    return (1 << 30) - cut.left


def _crash(root: Path, after: int, work: Callable[[Path], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        cut = PowerCut(patch, after)
        with pytest.raises(Killed):
            work(root)
    return cut.lose()


def test_an_eviction_cut_off_at_every_disk_operation(tmp_path: Path) -> None:
    """Of two copies for others beside a model of the owner's: that one stays whole, of the others
    nothing is believed that is not there, and the eviction can be done again."""
    names = ("copied", "half", "own")
    folders = {name: model_folder(tmp_path / name, {name: 1 << 20}) for name in names}
    owned = 0

    def work(root: Path) -> None:
        nonlocal owned
        store = Store.open(root, QUOTA)
        try:
            cids = {name: import_model(store, folder, name).cid for name, folder in folders.items()}
            owned = store.reached_bytes([cids["own"]])
            for name in ("copied", "half"):
                store.pin(cids[name], REPLICA)
                store.unpin(cids[name], IMPORTED)
            let_go(store, spares(store))
        finally:
            store.close()

    calls = _calls_of(tmp_path, work)
    before = 0

    def only_import(root: Path) -> None:
        store = Store.open(root, QUOTA)
        for name, folder in folders.items():
            import_model(store, folder, name)
        store.close()

    before = _calls_of(tmp_path / "only", only_import)
    assert calls > before + 4
    for after in range(before, calls):
        root = tmp_path / f"cut{after}"
        _crash(root, after, work)
        store = Store.open(root, QUOTA)
        check_store(store)
        own = next(pin.cid for pin in store.pins() if pin.reason == IMPORTED)
        assert store.reached_bytes([own]) == owned
        let_go(store, spares(store))
        store.gc()
        assert spares(store) == []
        assert store.quota.used == owned
        assert [pin.reason for pin in store.pins()] == [IMPORTED]
        check_store(store)
        store.close()
        shutil.rmtree(root)


def test_a_pull_cut_off_at_every_disk_operation(tmp_path: Path) -> None:
    file = made(tmp_path)

    def work(root: Path) -> None:
        _pull(root, file)

    calls = _calls_of(tmp_path, work)
    assert calls > 60
    lost = 0
    for after in range(calls):
        root = tmp_path / f"store{after}"
        lost += _crash(root, after, work)
        store = Store.open(root, QUOTA)
        check_store(store)
        held = file.begin(store)
        file.feed(held)
        assert bytes(held.read(0, file.leaves)) == file.data
        store.close()
        shutil.rmtree(root)
    assert lost > 10  # the cuts did lose bytes, or this test shows nothing


def test_an_import_cut_off_at_every_disk_operation(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {"a": 700_000, "b": 300})
    for name in ("empty.txt", "tokenizer.json", "1_Pooling/config.json"):
        (folder / name).unlink()

    def work(root: Path) -> None:
        store = Store.open(root, QUOTA)
        try:
            import_model(store, folder)
        finally:
            store.close()

    calls = _calls_of(tmp_path, work)
    for after in range(0, calls, 2):
        root = tmp_path / f"store{after}"
        _crash(root, after, work)
        store = Store.open(root, QUOTA)
        check_store(store)
        if not store.pins():  # the manifest is pinned last
            store.gc()
            assert (store.files(), store.list_blocks(), store.quota.used) == ([], [], 0)
        assert import_model(store, folder).manifest.name == "model"
        check_store(store)
        for pin in store.pins():
            store.unpin(pin.cid)
        store.gc()
        assert store.quota.used == 0
        store.close()
        shutil.rmtree(root)


_VICTIM = """
import sys
from pathlib import Path
from synapsed.models import import_model
from synapsed.store import Store
store = Store.open(Path(sys.argv[1]), 1 << 30)
print("go", flush=True)
while True:
    imported = import_model(store, Path(sys.argv[2]))
    store.unpin(imported.cid)
    store.gc()
"""


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {f"t{n}": 3 << 20 for n in range(6)}, shards=2)
    root = tmp_path / "store"
    draw = random.Random(7)
    unfinished = 0
    for _ in range(8):
        command = [sys.executable, "-c", _VICTIM, str(root), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"go\n"
            time.sleep(draw.uniform(0, 0.15))  # the moment is what is drawn, not waited for
            victim.send_signal(signal.SIGKILL)
        store = Store.open(root, QUOTA)
        check_store(store)
        unfinished += any(not held.complete for held in store.files())
        store.close()
    assert unfinished > 0  # some kills did hit an import half-way
