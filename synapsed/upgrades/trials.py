"""The measurements under way, one for each slot that an upgrade is tried in; kept over restarts."""

import logging

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.ledger.rollout import Rollout
from synapsed.ports import Table
from synapsed.upgrades.measure import Trial

log = logging.getLogger(__name__)

SAVE_SECONDS = 5.0
"""Between two saves: what a crash costs of a measurement."""


class Trials:
    """`run` saves them now and then."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._trials: dict[str, Trial] = {}
        self._changed: set[str] = set()
        for key, value in table.items():
            try:
                self._trials[key.decode()] = msgspec.msgpack.decode(value, type=Trial)
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("a measurement of an upgrade was damaged, and begins anew")

    def follow(self, slot: str, rollout: Rollout | None) -> None:
        """What is tried in a slot now; each stage is measured anew."""
        before = self._trials.get(slot)
        if rollout is None:
            if self._trials.pop(slot, None) is not None:
                self._changed.add(slot)
            return
        same = before is not None and before.proposal == rollout.proposal
        if before is not None and same and before.permille == rollout.permille:
            return
        trial = Trial(proposal=rollout.proposal, permille=rollout.permille)
        if before is not None and same:  # fuel is only compared in the shadow
            trial.candidate_fuel = before.candidate_fuel
            trial.incumbent_fuel = before.incumbent_fuel
        self._trials[slot] = trial
        self._changed.add(slot)

    def of(self, slot: str) -> Trial | None:
        """What is measured in a slot."""
        return self._trials.get(slot)

    def change(self, slot: str, proposal: bytes) -> Trial | None:
        """The trial of an upgrade, to be written to; None where it is over."""
        trial = self._trials.get(slot)
        if trial is None or trial.proposal != proposal:
            return None
        self._changed.add(slot)
        return trial

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await trio.sleep(SAVE_SECONDS)
                self.save()
        finally:
            self.save()

    def save(self) -> None:
        """Save what has changed."""
        try:
            for slot in sorted(self._changed):
                trial = self._trials.get(slot)
                if trial is None:
                    self._table.delete(slot.encode())
                else:
                    self._table.put(slot.encode(), msgspec.msgpack.encode(trial))
        except SynapseError as error:
            log.warning("measurements of upgrades are not saved: %s", error)
        else:
            self._changed.clear()
