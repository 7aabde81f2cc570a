"""What the control socket needs of the daemon about the ledger, proposals and the council.

Each method raises NoGenesisError where the daemon was given no genesis, and otherwise typed
errors by the codes of problems.py.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from synapsed.control.ledgermodels import (
    Choice,
    CouncilInfo,
    Entries,
    EntryDetail,
    LedgerInfo,
    ParamInfo,
    ProposalDetail,
    ProposalInfo,
    ProposalRequest,
    ProposalState,
    Reputations,
    Submissions,
    Submitted,
)
from synapsed.control.models import Progress

Report = Callable[[Progress], None]
"""Takes progress: never blocks, keeps only the newest, may be called from any thread."""


class LedgerApi(Protocol):
    """The ledger's part of NodeApi.

    What submits signs as this daemon, does a newcomer's proof of work in a thread, and with
    `wait` returns when it is ratified. Cancelling it ends the waiting, not the submission.
    """

    async def ledger(self) -> LedgerInfo:
        """The ratified head, and what proves it."""

    async def ledger_entries(self, first: int, count: int) -> Entries:
        """Up to `count` entries from `first` (below 0: that many before the end), 4 MiB at most.

        UnknownError for what is beyond the head, or before the snapshot that we began from.
        """

    async def ledger_entry(self, index: int) -> EntryDetail:
        """One entry whole; UnknownError."""

    async def ledger_proof(self, index: int) -> bytes:
        """A file that proves one entry to whoever has the genesis; UnknownError."""

    def ledger_export(self) -> AsyncGenerator[bytes, None]:
        """The ledger with its certificates as a file, in pieces."""

    async def proposals(self, state: ProposalState | None) -> list[ProposalInfo]:
        """Those of one state, or all; newest first."""

    async def proposal(self, cid: bytes) -> ProposalDetail:
        """One with its votes, approvals and outcome; UnknownError."""

    async def council(self) -> CouncilInfo:
        """The council of this epoch."""

    async def reputations(self, peer: bytes | None, limit: int) -> Reputations:
        """One identity's (zeros for one that the ledger does not know), or the `limit` highest."""

    async def params(self) -> list[ParamInfo]:
        """All parameters, by name."""

    async def propose(self, request: ProposalRequest, wait: bool, report: Report) -> Submitted:
        """Open a proposal; `artefact-unavailable` where something that it links cannot be had."""

    async def vote(self, proposal: bytes, choice: Choice, wait: bool, report: Report) -> Submitted:
        """Cast this daemon's vote; the last before the close counts."""

    async def approve(
        self, proposal: bytes, key: bytes, signature: bytes, wait: bool, report: Report
    ) -> Submitted:
        """Submit a human key's detached signature."""

    async def note(self, text: str, wait: bool, report: Report) -> Submitted:
        """Put a line into the audit trail."""

    async def submit(self, submissions: list[bytes]) -> Submissions:
        """Send what was signed elsewhere on its way, each if it is valid. Nobody waits."""
