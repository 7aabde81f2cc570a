"""Batches of real runs: some that come with the daemon, and those of its own recorder.

The first are `synapsed/recorded/SLOT.bin`: blocks as daemons of a swarm asked about them, each
behind its length. They are the same on every machine of one version, so that members of a council
judge by the same; a machine's own are for its owner.
"""

import struct
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from protocols.errors import NotHeldError
from protocols.slot_abi import Batch, Slot
from synapsed.upgrades.recorder import Recorder

_LENGTH = struct.Struct("<I")
MAX_PACKED = 256 << 10
"""Bytes of one slot's file: a few dozen batches, the largest not among them."""


class NoRecordingsError(NotHeldError):
    """A folder without recorded batches of a slot."""

    code = "no-recordings"


def shipped(slot: Slot) -> Iterator[tuple[str, Batch]]:
    """Those that come with the daemon; none for a slot that was not recorded yet."""
    file = resources.files("synapsed") / "recorded" / f"{slot.name}.bin"
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
    """As a shipped file holds them: the small ones first, as many as fit."""
    parts: list[bytes] = []
    for batch in sorted(batches, key=lambda each: each.block.nbytes):
        block = bytes(batch.block.cast("B"))
        if sum(map(len, parts)) + _LENGTH.size + len(block) > MAX_PACKED:
            break
        parts.append(_LENGTH.pack(len(block)) + block)
    return b"".join(parts)


def unpack(data: bytes) -> Iterator[bytes]:
    """The blocks of a shipped file."""
    at = 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + size]
        at += size
