"""Slots and versions in the control socket's words."""

from typing import get_args

import msgspec

from protocols.changes import CallLimits, UpgradeChange
from protocols.cid import cid_text
from protocols.ledger.rollout import SHADOW, Filed, StageRecord, Version
from protocols.manifest import Tool, UpgradeManifest
from protocols.peerid import peer_id_text
from protocols.slots.abi import Column, Limits, Slot
from synapsed.control import upgrademodels as said
from synapsed.control.proposalview import risk_word

PPM = 1_000_000
UNKNOWN_VERSION = "any"
"""Of a tool that is a part of the daemon."""
MILLE = 1000


def slot_info(slot: Slot) -> said.SlotInfo:
    """A slot's definition."""
    return said.SlotInfo(
        name=slot.name,
        abi=slot.abi,
        risk=risk_word(slot.risk),
        text=slot.text,
        goal=slot.goal.name,
        goal_unit=slot.goal.unit,
        higher_is_better=slot.goal.higher_is_better,
        goal_text=slot.goal.text,
        limits=limits_info(slot.limits),
        context=[_column(each) for each in slot.context],
        tables=[
            said.TableInfo(
                name=table.name,
                most_rows=table.most_rows,
                text=table.text,
                columns=[_column(each) for each in table.columns],
            )
            for table in slot.tables
        ],
        answers=slot.answers,
        outputs=[_column(each) for each in slot.outputs],
        invariants=[f"{each.name}: {each.text}" for each in slot.invariants],
    )


def _column(column: Column) -> said.ColumnInfo:
    return said.ColumnInfo(column.name, column.unit, column.least, column.most, column.text)


def limits_info(limits: Limits | CallLimits) -> said.CallLimitsInfo:
    """What a call may take."""
    return said.CallLimitsInfo(limits.fuel, limits.fuel_per_row, limits.memory_pages)


def version_info(version: Version, why_not: str = "") -> said.VersionInfo:
    """A version of a slot; `why_not` it does not answer on this daemon."""
    return said.VersionInfo(
        number=version.number,
        native=version.native,
        module="" if version.native else version.module.hex(),
        size=version.size,
        abi=version.abi,
        limits=None if version.native else limits_info(version.limits),
        manifest=cid_text(version.manifest) if version.manifest else None,
        proposal=cid_text(version.proposal) if version.proposal else None,
        index=version.index,
        why_not=msgspec.convert(why_not, said.WhyNot) if why_not in get_args(said.WhyNot) else "",
    )


def record_info(change: UpgradeChange) -> said.RecordInfo:
    """What is voted on."""
    return said.RecordInfo(
        slot=change.slot,
        version=change.version,
        abi=change.abi,
        module="" if change.native else change.module.hex(),
        native=change.native,
        size=change.size,
        limits=limits_info(change.limits),
        source="" if change.native else change.source.hex(),
        previous=change.previous.hex(),
        expires=change.expires / 1000,
        manifest=cid_text(change.manifest) if change.manifest else None,
        risks=change.risks,
        benefits=change.benefits,
    )


def stage_info(record: StageRecord) -> said.StageInfo:
    """A stage that is over."""
    known = record.permille != SHADOW and record.reports > 0
    return said.StageInfo(
        permille=record.permille,
        index=record.index,
        opened_at=record.opened_at / 1000,
        ended_at=record.ended_at / 1000,
        low=record.low / PPM if known else None,
        high=record.high / PPM if known else None,
        reports=record.reports,
        traps=record.traps,
    )


def report_info(who: bytes, filed: Filed, *, heard: bool, own: bool) -> said.ReportInfo:
    """A daemon's report."""
    return said.ReportInfo(
        peer_id=peer_id_text(who),
        status=filed.status,
        pairs=filed.pairs,
        gain=filed.gain / PPM,
        calls=filed.calls,
        traps=filed.traps,
        disagreements=filed.disagreements,
        fuel=filed.fuel / MILLE,
        heard=heard,
        own=own,
    )


def manifest_info(
    manifest: UpgradeManifest, source: said.SourceInfo, *, changed: bool
) -> said.ManifestInfo:
    """What the author says; `source` as far as it is here."""
    return said.ManifestInfo(
        author=peer_id_text(manifest.author),
        description=manifest.description,
        module_size=manifest.module.size,
        source=source,
        evidence=[
            said.EvidenceInfo(
                metric=each.metric,
                unit=each.unit,
                workload=each.workload,
                value=each.value / MILLE,
                baseline=each.baseline / MILLE,
            )
            for each in manifest.evidence
        ],
        changed=changed,
    )


def _tool(tool: Tool) -> str:
    return tool.name if tool.version == UNKNOWN_VERSION else f"{tool.name} {tool.version}"


def source_info(manifest: UpgradeManifest, text: bytes | None, why_not: str) -> said.SourceInfo:
    """The source that a manifest names; `text` where it is here, else `why_not`."""
    shown = None
    if text is not None:
        try:
            shown = text.decode()
        except UnicodeDecodeError:
            why_not = "it is no text"
    return said.SourceInfo(
        path=manifest.source.path,
        size=manifest.source.size,
        language=manifest.language,
        tools=[_tool(each) for each in manifest.tools],
        text=shown,
        why_not=why_not,
    )
