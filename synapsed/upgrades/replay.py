"""Recorded batches, run again through any version of a slot: what would it have answered?"""

import msgspec
import trio

from protocols.ledger.rollout import Version
from protocols.slots.abi import Batch, Slot
from synapsed.jail.errors import ModuleTrapError
from synapsed.upgrades.modules import Wanted
from synapsed.upgrades.service import UpgradeService
from synapsed.upgrades.shadow import alike


class Replayed(msgspec.Struct):
    """What came of it."""

    slot: str
    module: bytes
    batches: int = 0
    rows: int = 0
    changed: int = 0
    """Batches answered otherwise than they were."""
    traps: int = 0
    """... and not answered."""
    first_trap: str = ""
    fuel: int = 0
    seconds: float = 0.0


async def replay(service: UpgradeService, slot: Slot, version: Version) -> Replayed:
    """Run all recorded batches of a slot. Raises DamagedRecordingError, MixedUpError,
    ModuleRefusedError, NotHeldError, JailError."""
    if not version.native:
        await service.modules.prepare(
            Wanted(
                slot=slot.name,
                abi=slot.abi,
                version=version.number,
                module=version.module,
                size=version.size,
                manifest=version.manifest,
            )
        )
    recorded = await trio.to_thread.run_sync(lambda: list(service.recorder.batches(slot)))
    found = Replayed(slot=slot.name, module=version.module)
    began = trio.current_time()
    for _, batch in recorded:
        await _one(service, version, batch, found)
    found.seconds = trio.current_time() - began
    return found


async def _one(service: UpgradeService, version: Version, batch: Batch, found: Replayed) -> None:
    twin = batch.copy()
    found.batches += 1
    found.rows += batch.total_rows
    line = service.board.lines[batch.slot.name]
    try:
        found.fuel += await service.board.answer(line, version, twin)
    except ModuleTrapError as error:
        found.traps += 1
        found.first_trap = found.first_trap or error.message
    else:
        found.changed += not alike(twin, batch)
    await trio.lowlevel.checkpoint()
