"""What the control socket needs of the daemon about slots and upgrades.

Each method raises NoGenesisError where the daemon was given no genesis: without a ledger nothing
is ever upgraded. `slot` is a slot's name, and one that there is not is an UnknownError.
"""

from typing import Literal, Protocol

from synapsed.control.ledgerapi import Report
from synapsed.control.ledgermodels import Submitted
from synapsed.control.upgrademodels import (
    ModeRequest,
    Modes,
    Replayed,
    ReplayRequest,
    RollbackRequest,
    UpgradeDetail,
    UpgradeRequest,
    Upgrades,
    UpgradeWord,
)


class UpgradeApi(Protocol):
    """The part of NodeApi that is about upgrades. What submits does so as in LedgerApi."""

    async def upgrades(self) -> Upgrades:
        """Every slot on this daemon, and what was proposed."""

    async def upgrade(self, proposal: bytes) -> UpgradeDetail:
        """One that was proposed, with what of it is here; UnknownError."""

    async def fetch_upgrade(self, proposal: bytes, report: Report) -> UpgradeDetail:
        """The same, with manifest, module and source brought here first, and what it replaces;
        what nobody could give is missing in the answer, which says so."""

    async def module_in_force(self, slot: str) -> bytes:
        """The bytes that the ledger has in force; UnknownError where that is the reference, or
        they are not here."""

    async def propose_upgrade(
        self, request: UpgradeRequest, wait: bool, report: Report
    ) -> Submitted:
        """Take a built folder into the store, announce it, and open the proposal."""

    async def propose_rollback(
        self, slot: str, request: RollbackRequest, wait: bool, report: Report
    ) -> Submitted:
        """Propose a former version's bytes under the next number."""

    async def say_of_upgrade(
        self, proposal: bytes, said: Literal["accept", "refuse"]
    ) -> UpgradeWord:
        """The owner's word, which holds at once and is kept."""

    async def set_upgrade_mode(self, request: ModeRequest) -> Modes:
        """The owner's will, which holds at once and is kept."""

    async def replay(self, slot: str, request: ReplayRequest, report: Report) -> Replayed:
        """Try a version on the batches that were recorded here; nothing else notices."""
