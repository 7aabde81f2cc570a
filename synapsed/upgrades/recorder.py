"""The last batches of each slot, on disk: what a version can be tried on that did not run then.

    <folder>/<slot>/<number>.batch     a line: what it is; a SHA-256; a block (slots/abi.py)

Only what went in is kept, with the answer that was given. A batch is taken now and then, not each
time, and the oldest make room: the folder has a bound for each slot. Nothing else depends on these
files, so they are not synced; what a crash left half written does not bear its hash, and is
refused by name when it is read.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from protocols.errors import MalformedError
from protocols.slots.abi import BadBatchError, Batch, Slot
from synapsed.process import supervise
from synapsed.store.errors import StoreError, disk_errors

log = logging.getLogger(__name__)

HEAD = b"synapse batch 1\n"
SECONDS = 10.0
"""Between two batches of one slot: 64 of them reach ten minutes back."""
MAX_FILES = 64
MAX_BYTES = 16 << 20
"""Of one slot: two of the largest blocks, and every batch of a usual day's."""


class DamagedRecordingError(MalformedError):
    """A recorded batch that is not what was written."""

    code = "recording-damaged"


class Recorder:
    """`offer` batches; `run` writes them. Reading needs no running daemon."""

    def __init__(
        self,
        folder: Path,
        emit: supervise.Emit,
        *,
        seconds: float = SECONDS,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._folder = folder
        self._emit = emit
        self._seconds = seconds
        self._now = now
        self._due: dict[str, float] = {}
        self._waiting: dict[str, bytes] = {}
        self._wake = trio.Event()
        self._failing = False

    def offer(self, batch: Batch) -> None:
        """Keep an answered batch, if it is time for one."""
        slot, now = batch.slot.name, self._now()
        if now < self._due.get(slot, 0.0):
            return
        self._due[slot] = now + self._seconds
        self._waiting[slot] = bytes(batch.block.cast("B"))
        self._wake.set()

    async def run(self) -> None:
        """Write what was offered, until cancelled."""
        while True:
            waiting, self._waiting = self._waiting, {}
            for slot, block in waiting.items():
                await self._write(slot, block)
            self._wake = trio.Event()
            if not self._waiting:
                await self._wake.wait()

    async def _write(self, slot: str, block: bytes) -> None:
        try:
            await trio.to_thread.run_sync(self.keep, slot, block)
        except StoreError as error:
            if not self._failing:  # once, and not every ten seconds of a full disk's
                log.warning("batches of %s are not recorded: %s", slot, error)
                self._emit("upgrade.not-recorded", slot=slot, message=error.message)
            self._failing = True
        else:
            self._failing = False

    def keep(self, slot: str, block: bytes) -> None:
        """Write a block, and drop the oldest beyond the bounds. DiskFullError, DiskError."""
        folder = self._folder / slot
        with disk_errors(folder, "recording a batch"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = self._files(slot)
            number = _number(files[-1]) + 1 if files else 1
            part = folder / "part"
            part.write_bytes(HEAD + hashlib.sha256(block).digest() + block)
            path = folder / f"{number:08}.batch"
            os.replace(part, path)
            self._drop_oldest([*files, path])

    def _drop_oldest(self, files: list[Path]) -> None:
        sizes = [path.stat().st_size for path in files]
        while len(files) > MAX_FILES or (sum(sizes) > MAX_BYTES and len(files) > 1):
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def _files(self, slot: str) -> list[Path]:
        folder = self._folder / slot
        return sorted(folder.glob("*.batch"), key=_number) if folder.is_dir() else []

    def count(self, slot: str) -> int:
        """Batches of a slot that are kept."""
        return len(self._files(slot))

    def batches(self, slot: Slot) -> Iterator[tuple[str, Batch]]:
        """The recorded batches of a slot with their files' names, the oldest first.

        Raises DamagedRecordingError at the first that is not what was written, or is one of
        another ABI; DiskError.
        """
        for path in self._files(slot.name):
            with disk_errors(path, "reading a recorded batch"):
                data = path.read_bytes()
            yield path.name, _batch(slot, path, data)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _batch(slot: Slot, path: Path, data: bytes) -> Batch:
    at = len(HEAD) + hashlib.sha256().digest_size
    block = data[at:]
    if not data.startswith(HEAD) or hashlib.sha256(block).digest() != data[len(HEAD) : at]:
        raise DamagedRecordingError(
            f"{path} is not what was recorded", remedy="delete it; the others can be replayed"
        )
    try:
        return Batch(slot, memoryview(bytearray(block)))
    except (BadBatchError, TypeError, ValueError) as error:
        raise DamagedRecordingError(
            f"{path} is no batch of {slot.name}, ABI {slot.abi}: {error}",
            remedy="it is of another version of the slot; delete it",
        ) from error
