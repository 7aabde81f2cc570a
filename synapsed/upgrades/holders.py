"""Who has an upgrade's module: whoever announces it, our neighbours, and the council."""

from collections.abc import Callable

from protocols.ledger.fold import LedgerState
from synapsed.transfer.sources import Source, Sources


class Holders:
    """Sources for modules. A proposer may have left; the council's members fetched and checked what
    they voted in, and keep what is in force as everybody does."""

    def __init__(self, others: Sources, ledger: Callable[[], LedgerState], me: bytes) -> None:
        self._others = others
        self._ledger = ledger
        self._me = me

    def find(self, subject: bytes) -> list[Source]:
        """Those that any pull would ask, and then the council."""
        found = self._others.find(subject)
        known = {source.peer for source in found} | {self._me}
        seats = (seat.identity for seat in self._ledger().council.seats)
        return [*found, *(Source(peer) for peer in seats if peer not in known)]
