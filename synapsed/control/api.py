"""What the control socket needs of the daemon: `NodeApi` (ledgerapi.py and
upgradeapi.py have the ledger's part and that of upgrades).

The server knows nothing of the net or the store; the node knows nothing of HTTP. CIDs and
peer ids are bytes here and text in the structs. Long work is one call that reports progress
through a plain callback and returns its result; cancelling the call ends the work, and what
was verified by then stays on record.
"""

from pathlib import Path
from typing import Protocol

from synapsed.control.ledgerapi import LedgerApi, Report
from synapsed.control.meters import MessageMeter
from synapsed.control.models import (
    AnnouncementInfo,
    ConfigReport,
    Counters,
    DoctorReport,
    Draft,
    ExportResult,
    GcResult,
    ImportResult,
    Kind,
    Limits,
    LimitsRequest,
    ModelDetail,
    ModelInfo,
    PeerInfo,
    Pong,
    PullResult,
    Removed,
    ScrubResult,
    Status,
    Which,
)
from synapsed.control.upgradeapi import UpgradeApi
from synapsed.process.events import EventBus
from synapsed.training.api import LearnApi

__all__ = ["NodeApi", "Report"]


class NodeApi(LedgerApi, UpgradeApi, LearnApi, Protocol):
    """The running daemon. Methods raise SynapseError and nothing else.

    control/problems.py has the errors that are made for this (UnknownError, ConflictError,
    PausedError, ...) and gives every error its HTTP status, by its code and then its class.
    """

    @property
    def bus(self) -> EventBus:
        """Where events come from."""

    @property
    def meter(self) -> MessageMeter:
        """Counts every message that the daemon takes or sends."""

    def counters(self) -> Counters:
        """Totals and gauges for Prometheus. Cheap: read every few seconds."""

    async def status(self) -> Status:
        """Everything but `process` and `jobs`, which the server fills in."""

    async def peers(self, which: Which) -> list[PeerInfo]:
        """Peers connected, alive by heartbeat, or all with the banned; this daemon is none."""

    async def ping(self, peer: bytes) -> Pong:
        """One round trip to a peer, connecting first if need be."""

    async def connect(self, addr: str) -> PeerInfo:
        """Dial a multiaddr with /p2p/."""

    async def announcements(
        self, kind: Kind | None, subject: bytes | None
    ) -> list[AnnouncementInfo]:
        """The live catalog, newest first."""

    async def publish(self, draft: Draft) -> AnnouncementInfo:
        """Take a draft's file into the store, write its manifest, pin and announce it.

        control/drafts.py makes the manifest and the announcement's body.
        """

    async def withdraw(self, announcement: bytes) -> AnnouncementInfo:
        """Take back one of our own announcements, by its CID."""

    async def models(self) -> list[ModelInfo]:
        """Models whose manifest is here."""

    async def model(self, cid: bytes) -> ModelDetail:
        """One of them; UnknownError."""

    async def import_model(self, path: Path, name: str | None, report: Report) -> ImportResult:
        """Hash a folder or file into the store, pin it, announce it."""

    async def pull(
        self, cid: bytes, experts: list[str], tensors: list[str], report: Report
    ) -> PullResult:
        """Fetch a model or an expert (by CID), or parts of a model by name, and pin it."""

    async def export(self, cid: bytes, path: Path, report: Report) -> ExportResult:
        """Write a complete model's files, byte-identical, into a folder that is empty or new."""

    async def pin(self, cid: bytes) -> ModelInfo:
        """Keep it through `gc`."""

    async def unpin(self, cid: bytes) -> ModelInfo:
        """Let `gc` take it."""

    async def remove(self, cid: bytes) -> Removed:
        """Forget a model at once, pinned by the user or not, and withdraw its announcement."""

    async def gc(self) -> GcResult:
        """Delete what nothing pinned reaches."""

    async def scrub(self, report: Report) -> ScrubResult:
        """Read and verify every byte held."""

    async def limits(self) -> Limits:
        """The limits in force."""

    async def set_limits(self, change: LimitsRequest) -> Limits:
        """Change them until the restart; LimitError for a quota below what is pinned."""

    async def pause(self) -> None:
        """Stop moving tensor bytes, both ways. Heartbeats and gossip go on."""

    async def resume(self) -> None:
        """Move again."""

    async def doctor(self) -> DoctorReport:
        """The production checklist, each with its remedy."""

    async def config(self) -> ConfigReport:
        """Every setting and where it came from."""
