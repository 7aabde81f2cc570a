"""Batches of real runs: some that come with the daemon, and those of its own recorder.

The first are `synapsed/recorded/SLOT.bin`: blocks as daemons of a swarm asked about them, each
behind its length. They are the same on every machine of one version, so that members of a council
judge by the same; a machine's own are for its owner.

    python -m synapsed.authoring.recorded FOLDER...     make them anew from daemons' own folders
"""

import struct
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from protocols.errors import NotHeldError
from protocols.slots.abi import Batch, Slot
from protocols.slots.closed_list import SLOTS
from synapsed.upgrades.recorder import Recorder

FOLDER = "recorded"
_LENGTH = struct.Struct("<I")
MAX_PACKED = 32 << 10
"""Bytes of one slot's file: some dozen batches of a small swarm."""


class NoRecordingsError(NotHeldError):
    """A folder without recorded batches of a slot."""

    code = "no-recordings"


def shipped(slot: Slot) -> Iterator[tuple[str, Batch]]:
    """Those that come with the daemon; none for a slot that was not recorded yet."""
    file = resources.files("synapsed") / FOLDER / f"{slot.name}.bin"
    if not file.is_file():
        return
    for number, block in enumerate(unpack(file.read_bytes())):
        yield f"shipped recording {number}", Batch(slot, memoryview(bytearray(block)))


def own(slot: Slot, folder: Path) -> Iterator[tuple[str, Batch]]:
    """Those that a daemon wrote into a folder. Raises NoRecordingsError, DamagedRecordingError."""
    recorder = Recorder(folder, _tell_nobody)
    if not recorder.count(slot.name):
        raise NoRecordingsError(
            f"{folder} has no recorded batches of {slot.name}",
            remedy="a daemon that uses the slot writes one every ten seconds",
        )
    yield from recorder.batches(slot)


def _tell_nobody(kind: str, /, **fields: object) -> None:
    """A reader has nothing to tell."""


def pack(batches: list[Batch]) -> bytes:
    """As a shipped file holds them: evenly chosen by their size, as many as fit."""
    blocks = sorted({bytes(batch.block.cast("B")) for batch in batches}, key=lambda b: (len(b), b))
    step = 1
    while sum(_LENGTH.size + len(block) for block in blocks[::-step]) > MAX_PACKED:
        step += 1
    return b"".join(_LENGTH.pack(len(block)) + block for block in reversed(blocks[::-step]))


def unpack(data: bytes) -> Iterator[bytes]:
    """The blocks of a shipped file."""
    at = 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + size]
        at += size


def main(folders: list[str]) -> None:
    """Write what daemons recorded into files to be shipped."""
    for slot in SLOTS.values():
        found: list[Batch] = []
        for folder in folders:
            recorder = Recorder(Path(folder), _tell_nobody)
            found += [batch for _, batch in recorder.batches(slot)]
        if found:
            file = Path(__file__).parent.parent / FOLDER / f"{slot.name}.bin"
            file.write_bytes(pack(found))
            print(f"{file}: of {len(found)} batches")


if __name__ == "__main__":
    main(sys.argv[1:])
