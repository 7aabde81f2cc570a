"""What an owner proposes as an upgrade, as its manifest and the change that is voted on."""

from collections.abc import Sequence

from protocols.changes import NATIVE, NO_LIMITS, CallLimits, UpgradeChange
from protocols.cid import cid_of
from protocols.ledger.rollout import SlotState, Version
from protocols.manifest import Benchmark, FileRef, Tool, UpgradeManifest
from protocols.slots.abi import Slot
from synapsed.authoring.build import Built
from synapsed.authoring.check import CHANGED
from synapsed.control import upgrademodels as said
from synapsed.control.slotview import UNKNOWN_VERSION

MONTH = 30 * 24 * 3600
"""Seconds that a record is good for where its author says nothing: a vote, its delays and the
stages take about a week with the defaults."""
MILLE = 1000


def upgrade_change(
    request: said.UpgradeRequest, built: Built, slot: Slot, here: SlotState, now: int
) -> UpgradeChange:
    """What would be voted on, after what is in force, at the ledger's time `now`. The manifest's
    name is still that of an empty block."""
    limits = slot.limits
    return UpgradeChange(
        slot=slot.name,
        version=here.highest + 1,
        abi=built.abi,
        module=bytes.fromhex(built.module_hash),
        size=built.size,
        limits=CallLimits(
            request.fuel or limits.fuel,
            request.fuel_per_row or limits.fuel_per_row,
            request.memory_pages or limits.memory_pages,
        ),
        source=bytes.fromhex(built.source_hash),
        previous=here.current.module,
        expires=now + MILLE * (request.expires_in or MONTH),
        manifest=cid_of(b""),
        risks=request.risks,
        benefits=request.benefits,
    )


def upgrade_manifest(
    request: said.UpgradeRequest, built: Built, refs: Sequence[FileRef], author: bytes
) -> UpgradeManifest:
    """The manifest of a module and a source that are in the store, in this order. MalformedError
    for what is wrong."""
    module, source = refs
    evidence: tuple[Benchmark, ...] = ()
    if request.changed_ppm is not None:
        value = MILLE * request.changed_ppm
        evidence = (Benchmark(CHANGED, "ppm", "generated", value, 0),)
    return UpgradeManifest(
        slot=built.slot,
        abi=built.abi,
        description=request.description,
        module=module,
        module_hash=bytes.fromhex(built.module_hash),
        source=source,
        source_hash=bytes.fromhex(built.source_hash),
        language=built.language,
        tools=_tools(built.tools),
        evidence=evidence,
        author=author,
        depends_on=(),
    )


def _tools(named: Sequence[str]) -> tuple[Tool, ...]:
    """Of "rustc 1.63.0": name and version."""
    parted = dict(each.partition(" ")[::2] for each in named)
    return tuple(Tool(name, parted[name] or UNKNOWN_VERSION) for name in sorted(parted))


def rollback_change(
    request: said.RollbackRequest,
    slot: Slot,
    here: SlotState,
    *,
    to: Version,
    source: bytes,
    now: int,
) -> UpgradeChange:
    """What would be voted on to have the bytes of `to` again, built from `source`."""
    what = name_of(to)
    return UpgradeChange(
        slot=slot.name,
        version=here.highest + 1,
        abi=slot.abi if to.native else to.abi,
        module=to.module,
        size=to.size,
        limits=NO_LIMITS if to.native else to.limits,
        source=NATIVE if to.native else source,
        previous=here.current.module,
        expires=now + MILLE * MONTH,
        manifest=to.manifest,
        risks=request.risks or f"What {name_of(here.current)} does better is lost.",
        benefits=request.benefits or f"Brings back {what} of {slot.name}, as it was in force.",
    )


def name_of(version: Version) -> str:
    """In words."""
    return "the native reference" if version.native else f"version {version.number}"
