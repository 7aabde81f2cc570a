"""Upgrades on one daemon: what the ledger has in force answers, as far as the owner lets it.

Read service.py first.
"""

from synapsed.upgrades.board import Board
from synapsed.upgrades.service import UpgradeService

__all__ = ["Board", "UpgradeService"]
