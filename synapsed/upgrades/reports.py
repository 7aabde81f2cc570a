"""What this daemon says of an upgrade, signed, until it stands on the ledger.

A report is submitted once more where it does not get there: the council may have lost it, or be
without a quorum. Only the newest about a slot is said, and only in its own stage.
"""

import logging
from typing import Literal

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.ledger.entries import Report
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.rollout import MAX_REPORTS, Rollout, filed, is_heard, report_of
from protocols.ledger.signing import submit
from synapsed.ledger.service import LedgerService
from synapsed.ports import Identity
from synapsed.upgrades.measure import Trial

log = logging.getLogger(__name__)

LIFE_MS = 10 * 60 * 1000
"""From the ledger's time at the submission to its expiry: several stalls that heal."""
AGAIN = 15.0
"""Seconds until what is not on the ledger is said once more: longer than a failover."""
TRIES = 8

Status = Literal["ready", "measured", "failed", "refused"]


class Due(msgspec.Struct):
    """A report on its way."""

    report: Report
    tries: int = 0
    at: float = 0.0
    """When it is to be said (again)."""


class Reporter:
    """`say` a report; `run` sees to it that it is filed."""

    def __init__(self, ledger: LedgerService, identity: Identity) -> None:
        self._ledger = ledger
        self._identity = identity
        self._due: dict[str, Due] = {}
        self._wake = trio.Event()

    def say(self, slot: str, rollout: Rollout, status: Status, trial: Trial, gain: int) -> bool:
        """Whether it is one that the ledger takes from us; then it will be submitted."""
        me = self._identity.peer_id
        if not self._ledger.ledger.reputation_of(me):
            return False
        if status in ("ready", "measured") and not is_heard(rollout, me):
            return False
        if self.count(rollout) >= MAX_REPORTS:
            return False
        report = Report(
            proposal=rollout.proposal,
            stage=rollout.permille,
            status=status,
            pairs=trial.pairs,
            gain=gain,
            calls=trial.calls,
            traps=trial.traps,
            disagreements=trial.disagreements,
            fuel=trial.fuel_ratio(),
        )
        self._due[slot] = Due(report)
        self._wake.set()
        return True

    def count(self, rollout: Rollout) -> int:
        """Reports of ours in this stage that stand on the ledger."""
        stands = report_of(rollout, self._identity.peer_id)
        return 0 if stands is None else stands.count

    def status(self, rollout: Rollout) -> str:
        """Of our last report that stands there; "" for none."""
        stands = report_of(rollout, self._identity.peer_id)
        return "" if stands is None else stands.status

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            for slot, due in list(self._due.items()):
                if self._settled(slot, due):
                    del self._due[slot]
                elif due.at <= now:
                    self._submit(slot, due, now)
            with trio.move_on_at(min((due.at for due in self._due.values()), default=float("inf"))):
                await self._wake.wait()

    def _settled(self, slot: str, due: Due) -> bool:
        """Whether it stands, or would say nothing any more."""
        rollout, report = self._ledger.ledger.slot(slot).rollout, due.report
        if rollout is None or (rollout.proposal, rollout.permille) != (
            report.proposal,
            report.stage,
        ):
            return True
        stands = report_of(rollout, self._identity.peer_id)
        stands_so = stands is not None and stands == filed(report, stands.count)
        return stands_so or due.tries >= TRIES

    def _submit(self, slot: str, due: Due, now: float) -> None:
        state, me = self._ledger.ledger, self._identity
        due.tries += 1
        due.at = now + AGAIN
        data = submit(
            state.realm, me.peer_id, due.report, expires=state.time + LIFE_MS, sign=me.sign
        )
        try:
            self._ledger.submit(data)
        except InvalidEntryError as error:
            log.info("a report about %s is not taken: %s", slot, error)
            due.tries = TRIES
        except SynapseError as error:
            log.info("a report about %s waits: %s", slot, error)
