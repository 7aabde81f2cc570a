"""`synapsectl doctor`: are machine, configuration and network in order, and if not, what now."""

from synapsed.doctor.checks import CHECKS
from synapsed.doctor.compute import COMPUTE_CHECKS
from synapsed.doctor.ledger import LEDGER_CHECKS
from synapsed.doctor.report import Check, Facts
from synapsed.doctor.upgrades import UPGRADE_CHECKS


def examine(facts: Facts) -> list[Check]:
    """Every check, in a fixed order."""
    return [check(facts) for check in (*CHECKS, *COMPUTE_CHECKS, *LEDGER_CHECKS, *UPGRADE_CHECKS)]
