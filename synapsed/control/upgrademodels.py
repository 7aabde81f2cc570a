"""What the control socket says of slots and upgrades, and is told of them.

As in ledgermodels.py: ids are text, hashes hexadecimal, times Unix seconds. Gains and ratios are
fractions of 1 (0.02 is 2 % better for the slot's goal), permille the ledger's own numbers.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from synapsed.config.options import UpgradeMode
from synapsed.control.fields import MAX_JOB, CidText, Name, PathText, SlotText, Text, UpgradeText
from synapsed.control.ledgermodels import ProposalDetail, Request, Risk

State = Literal[
    "open",
    "rejected",
    "due",
    "shadow",
    "stage",
    "settled",
    "rolled-back",
    "lapsed",
    "replaced",
]
"""Of an upgrade: voted on; not accepted; accepted, and about to begin; run beside the incumbent;
in a stage; in force; undone; expired before it began; in force once, and another is now."""

WhyNot = Literal["", "off", "refused", "quarantined", "asking", "late"]
"""Why a version that the ledger names does not answer here: "" where it may."""

Status = Literal["ready", "measured", "failed", "refused"]


# -- slots ----------------------------------------------------------------------------------


class ColumnInfo(Struct):
    """One number of the context, or one of each row."""

    name: str
    unit: str
    least: int
    most: int
    text: str


class TableInfo(Struct):
    """Rows of the same columns."""

    name: str
    most_rows: int
    text: str
    columns: list[ColumnInfo]


class CallLimitsInfo(Struct):
    """What one call may take: `fuel` and `fuel_per_row` for each row, and memory of 64 KiB each."""

    fuel: int
    fuel_per_row: int
    memory_pages: int


class SlotInfo(Struct):
    """A component that an upgrade may replace."""

    name: str
    abi: int
    risk: Risk
    text: str
    goal: str
    goal_unit: str
    higher_is_better: bool
    goal_text: str
    limits: CallLimitsInfo
    context: list[ColumnInfo] = []
    tables: list[TableInfo] = []
    answers: str = ""
    """The table that there is one row of the answer for each row of."""
    outputs: list[ColumnInfo] = []
    invariants: list[str] = []


# -- what the ledger says -------------------------------------------------------------------


class VersionInfo(Struct):
    """One version of a slot. `native` is the daemon's own reference, which has no module."""

    number: int
    native: bool
    module: str = ""
    size: int = 0
    abi: int = 0
    limits: CallLimitsInfo | None = None
    manifest: str | None = None
    proposal: str | None = None
    index: int = 0
    """Of the entry that put it in force, or began its rollout."""
    why_not: WhyNot = ""


class StageInfo(Struct):
    """A stage of a rollout. `low` and `high` are the interval of the gain that was reported."""

    permille: int
    index: int
    """Of the entry that opened it."""
    opened_at: float
    ended_at: float | None = None
    """None for the one under way."""
    low: float | None = None
    high: float | None = None
    """None where too few have measured it."""
    reports: int = 0
    traps: int = 0


class ReportInfo(Struct):
    """What one daemon has said, signed, of the stage under way."""

    peer_id: str
    status: Status
    pairs: int
    gain: float
    calls: int
    traps: int
    disagreements: int
    fuel: float
    """Of the incumbent's."""
    heard: bool = True
    """Whether it counts: it is in the stage's cohort."""
    own: bool = False


class RolloutInfo(Struct):
    """An upgrade on its way, in its present stage."""

    candidate: VersionInfo
    author: str
    permille: int
    """0 is the shadow: it runs beside the incumbent and answers nothing."""
    index: int
    opened_at: float
    members: int
    """Identities with reputation at the opening."""
    expected: int
    """So many of them run it in this stage, and are heard."""
    quorum: int
    """Reports without which nothing is decided by what they measured."""
    next_at: float
    """From then on the stage can end."""
    gives_up_at: float
    """From then on it goes back where nothing was decided."""
    stages: list[StageInfo]
    """The last is the one under way."""
    reports: list[ReportInfo] = []


class EndedInfo(Struct):
    """How the last rollout of a slot ended."""

    version: int
    proposal: str
    event: Literal["settle", "rollback", "lapse", "open"]
    reason: str
    index: int
    stages: list[StageInfo]


# -- this daemon ----------------------------------------------------------------------------


class TrialInfo(Struct):
    """What this daemon has measured in the stage under way."""

    proposal: str
    permille: int
    incumbent: int
    """Operations that ran on it, whose goal is known."""
    candidate: int
    pairs: int
    gain: float
    calls: int
    traps: int
    compared: int
    disagreements: int
    fuel: float
    dropped: int
    reported: int


class SlotStatus(Struct):
    """One slot on this daemon: what the ledger says, and what answers here."""

    slot: str
    risk: Risk
    abi: int
    goal: str
    goal_unit: str
    higher_is_better: bool
    mode: UpgradeMode
    mode_origin: str
    answers: VersionInfo
    """What answers here now, where no coin says otherwise."""
    current: VersionInfo
    """What the ledger has in force."""
    former: list[VersionInfo]
    """What was in force before, the newest last: what `rollback` can bring back."""
    highest: int
    duty: Literal["none", "shadow", "coin", "all"] = "none"
    of_eight: int = 0
    """Operations of eight that the candidate answers here."""
    rollout: RolloutInfo | None = None
    ended: EndedInfo | None = None
    trial: TrialInfo | None = None
    recorded: int = 0
    """Batches that `replay` can try a version on."""
    events: dict[str, int] = {}
    """Since the start, by kind."""
    trouble: str = ""
    """Why the jail did not answer the last call, where it was no module's doing."""


class BrokenInfo(Struct):
    """A module that is not run here any more, because it broke."""

    slot: str
    module: str
    version: int
    why: str
    at: float


class JailInfo(Struct):
    """What foreign modules are held by on this machine."""

    layers: list[str]
    missing: list[str] = []
    weaker_allowed: bool = False


class UpgradeInfo(Struct):
    """An upgrade that was proposed, in a line."""

    proposal: str
    title: str
    slot: str
    version: int
    state: State
    risk: Risk
    author: str
    opened_at: float
    native: bool = False
    module: str = ""
    permille: int | None = None
    """Of the stage under way."""
    reason: str = ""
    """Why it ended so."""
    word: Literal["", "accept", "refuse"] = ""
    """This owner's."""
    asks: bool = False
    """Whether it waits for this owner's word."""


class Upgrades(Struct):
    """Everything about upgrades on this daemon."""

    slots: list[SlotStatus]
    upgrades: list[UpgradeInfo]
    """Those that were proposed, newest first."""
    quarantine: list[BrokenInfo] = []
    jail: JailInfo | None = None


# -- one upgrade ----------------------------------------------------------------------------


class RecordInfo(Struct):
    """What is voted on: the ratified record, field by field."""

    slot: str
    version: int
    abi: int
    module: str
    native: bool
    size: int
    limits: CallLimitsInfo
    source: str
    previous: str
    expires: float
    manifest: str | None
    risks: str
    benefits: str


class EvidenceInfo(Struct):
    """One claim of its author."""

    metric: str
    unit: str
    workload: str
    value: float
    baseline: float


class SourceInfo(Struct):
    """The source that a module was built from, as far as it is here."""

    path: str
    size: int
    language: str
    tools: list[str]
    text: str | None = None
    """None where it is not here, or is no text."""
    why_not: str = ""


class ManifestInfo(Struct):
    """What its author says beside the record: none of it was voted on but by its hashes."""

    author: str
    description: str
    module_size: int
    source: SourceInfo
    evidence: list[EvidenceInfo]
    changed: bool
    """Whether it says that it answers otherwise than what it replaces."""


class UpgradeDetail(Struct):
    """One upgrade: what is asked, by whom, on what evidence, and how far it has come."""

    upgrade: UpgradeInfo
    proposal: ProposalDetail
    record: RecordInfo
    replaces: VersionInfo
    """What it is voted on to replace: the version in force, or that was."""
    manifest: ManifestInfo | None = None
    manifest_why_not: str = ""
    """Why the manifest is not here."""
    replaced: SourceInfo | None = None
    """The source of what it replaces; None for the native reference."""
    stages: list[StageInfo] = []
    rollout: RolloutInfo | None = None
    mode: UpgradeMode = "auto"


# -- what is asked for ----------------------------------------------------------------------


ExpirySeconds = Annotated[int, Meta(ge=1, le=MAX_JOB // 1000)]
Fuel = Annotated[int, Meta(ge=1, le=MAX_JOB)]
Pages = Annotated[int, Meta(ge=1, le=1 << 16)]
VersionNumber = Annotated[int, Meta(ge=0, le=MAX_JOB)]


class UpgradeRequest(Request):
    """Propose what `upgrade build` left in a folder."""

    path: PathText
    risks: UpgradeText
    benefits: UpgradeText
    title: Name | None = None
    text: Text = ""
    description: Text = ""
    """Goes into the manifest."""
    expires_in: ExpirySeconds | None = None
    """Seconds from now; None for 30 days."""
    fuel: Fuel | None = None
    fuel_per_row: Fuel | None = None
    memory_pages: Pages | None = None
    """Of one call; None for the slot's own."""
    changed_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Rows in a million that it answers otherwise than what it replaces; None where it claims to
    answer the same."""


class RollbackRequest(Request):
    """Propose the bytes of a former version, under the next number."""

    to: VersionNumber | None = None
    """The former version's; None for the last one before. 0 is the native reference."""
    title: Name | None = None
    text: Text = ""
    risks: UpgradeText = ""
    benefits: UpgradeText = ""


class ModeRequest(Request):
    """The owner's will; `mode` None for what the configuration says."""

    mode: UpgradeMode | None
    slot: SlotText | None = None
    """None for all of them."""


class ModeInfo(Struct):
    slot: str
    mode: UpgradeMode
    origin: str


class Modes(Struct):
    modes: list[ModeInfo]


class UpgradeWord(Struct):
    """What the owner said of an upgrade, and what follows of it here."""

    proposal: str
    slot: str
    version: int
    said: Literal["accept", "refuse"]
    reported: bool = False
    """Whether a signed refusal is on its way to the ledger."""
    why_not: WhyNot = ""


class ReplayRequest(Request):
    """Try a version on the batches that were recorded here."""

    version: VersionNumber | None = None
    """One that the ledger names: in force (None), before, or in rollout. 0: the reference."""
    proposal: CidText | None = None
    """Or that of a proposal."""


class Replayed(Struct):
    """What a version answers to recorded batches."""

    slot: str
    version: int
    module: str
    """Empty for the native reference."""
    batches: int
    rows: int
    changed: int
    """Batches that it answers otherwise than they were answered."""
    traps: int
    """Batches that it did not answer."""
    first_trap: str
    fuel: int
    seconds: float
