"""What this daemon has of slots beside the ledger, as the owner's view of them asks for it."""

from protocols.cid import cid_text
from protocols.ledger.rollout import Duty, SlotState, Version
from synapsed.config.options import UpgradeMode
from synapsed.control import slotview
from synapsed.control import upgrademodels as said
from synapsed.upgrades.service import UpgradeService


class Here:
    """One daemon's part (control/upgradeview.py): readings of its service."""

    def __init__(self, service: UpgradeService) -> None:
        self._service = service

    def mode(self, slot: str) -> tuple[UpgradeMode, str]:
        """The owner's will, and where it comes from."""
        memory = self._service.memory
        return memory.mode(slot), memory.origin(slot)

    def why_not(self, slot: str, version: Version) -> str:
        """Why a version does not answer here; "" where it may."""
        return self._service.why_not(slot, version)

    def word(self, proposal: bytes, slot: str, module: bytes) -> str:
        """What the owner said of an upgrade."""
        return self._service.memory.word_on(proposal, slot, module)

    def answers(self, slot: str) -> Version:
        """What answers where no coin says otherwise."""
        return self._service.board.lines[slot].incumbent

    def duty(self, state: SlotState) -> Duty:
        """What the ledger has this daemon do."""
        return self._service.duty(state)

    def trial(self, slot: str) -> said.TrialInfo | None:
        """What it has measured in the stage under way."""
        trial = self._service.trials.of(slot)
        if trial is None:
            return None
        return said.TrialInfo(
            proposal=cid_text(trial.proposal),
            permille=trial.permille,
            incumbent=trial.incumbent.count,
            candidate=trial.candidate.count,
            pairs=trial.pairs,
            gain=trial.gain(self._service.slots[slot].goal) / slotview.PPM,
            calls=trial.calls,
            traps=trial.traps,
            compared=trial.compared,
            disagreements=trial.disagreements,
            fuel=trial.fuel_ratio() / slotview.MILLE,
            dropped=trial.dropped,
            reported=trial.reported,
        )

    def recorded(self, slot: str) -> int:
        """Batches that are kept."""
        return self._service.recorder.count(slot)

    def events(self, slot: str) -> dict[str, int]:
        """What was told of it since the start, by kind."""
        return dict(self._service.counts[slot])

    def trouble(self, slot: str) -> str:
        """Why its modules do not run, or are not here, if that is so."""
        service = self._service
        found = service.watch.trouble.get(slot)
        late = [error for (name, _), error in service.modules.late.items() if name == slot]
        return "; ".join(str(error) for error in ([found] if found else late))

    def quarantine(self) -> list[said.BrokenInfo]:
        """Modules that are not run here any more."""
        return [
            said.BrokenInfo(
                slot=each.slot,
                module=each.module.hex(),
                version=each.version,
                why=each.why,
                at=each.at,
            )
            for each in self._service.memory.quarantine()
        ]
