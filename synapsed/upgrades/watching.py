"""How calls went: faults are counted, candidates measured, and what comes of it said.

A fault of a module's own is a strike; too many, and the module is isolated. A candidate's fault is
reported at once, its gain when there are enough pairs. What is nobody's fault (the jail rests, a
layer is missing) is trouble: the owner is told, and nothing is held against the module.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from protocols.errors import SynapseError
from protocols.ledger.rollout import Rollout, Version
from protocols.slots.abi import Slot
from synapsed.ledger.service import LedgerService
from synapsed.upgrades.board import Board, Line, Outcome
from synapsed.upgrades.measure import Trial
from synapsed.upgrades.modules import Key
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.reports import Reporter, Status
from synapsed.upgrades.shadow import Compared, Shadow
from synapsed.upgrades.strikes import Strikes, weight
from synapsed.upgrades.trials import Trials

DUE = (0, 500, 900)
"""When measurements are said, in thousandths of the stage's length: as soon as there are pairs
enough, so that the council hears something; and with what came since, the last time while there is
still a tenth of the stage to ratify it in. The ledger takes four reports of a stage, and one may
have to tell of a failure."""


class Tell(Protocol):
    """Tells an event of a slot."""

    def __call__(self, kind: str, slot: str, /, **fields: Any) -> None: ...


class Watch:
    """The Watcher (board.py) of a daemon that follows a ledger."""

    def __init__(
        self,
        ledger: LedgerService,
        slots: Mapping[str, Slot],
        *,
        board: Board,
        trials: Trials,
        reporter: Reporter,
        recorder: Recorder,
        tell: Tell,
    ) -> None:
        self.trouble: dict[str, SynapseError] = {}
        """Why the last call of a slot was not answered, where it was no module's doing."""
        self.on_isolate: Callable[[str, Version, str], None] = lambda *_: None
        """Called with a slot, a version that is to run no more, and why."""
        self.on_trouble: Callable[[Key, SynapseError], None] = lambda *_: None
        """Called with what could not run, and why, where it was no module's doing."""
        self.shadow = Shadow(board, self._compared, self.failed, self._dropped)
        self._ledger = ledger
        self._slots = slots
        self._board = board
        self._trials = trials
        self._reporter = reporter
        self._recorder = recorder
        self._tell = tell
        self._strikes = Strikes()
        self._objected: dict[str, tuple[int, str]] = {}

    # -- calls -------------------------------------------------------------------------------------

    def called(self, outcome: Outcome) -> None:
        """A call was answered."""
        slot, answered = outcome.line.slot.name, outcome.answered
        self._strikes.answered((slot, answered.module))
        if not answered.native:
            self.trouble.pop(slot, None)
        self._recorder.offer(outcome.batch)
        trying = self._board.lines[slot].trying
        if trying is None:
            return
        if answered == trying.candidate:
            if (trial := self._trials.change(slot, answered.proposal)) is not None:
                trial.calls += 1
        elif not trying.of_eight:
            self.shadow.offer(outcome)

    def failed(self, line: Line, version: Version, error: SynapseError) -> None:
        """A version left a call to the next one."""
        slot, key = line.slot.name, (line.slot.name, version.module)
        strikes = weight(error, version.module)
        if not strikes:
            before, self.trouble[slot] = self.trouble.get(slot), error
            if before is None or before.code != error.code:
                self._tell("upgrade.not-run", slot, error=error.code, message=error.message)
            self.on_trouble(key, error)
            return
        self._tell(
            "upgrade.trapped",
            slot,
            version=version.number,
            module=version.module.hex(),
            error=error.code,
            message=error.message,
        )
        self._trapped(slot, version)
        if self._strikes.add(key, strikes):
            self._strikes.forget(key)
            self.on_isolate(slot, version, error.message)

    def _trapped(self, slot: str, version: Version) -> None:
        rollout = self._ledger.ledger.slot(slot).rollout
        if rollout is None or rollout.candidate != version:
            return
        if (trial := self._trials.change(slot, version.proposal)) is not None:
            trial.calls += 1
            trial.traps += 1
        self.say_failed(slot, rollout)

    def _compared(self, compared: Compared) -> None:
        trial = self._trials.change(compared.line.slot.name, compared.version.proposal)
        if trial is None:
            return
        trial.calls += 1
        trial.compared += 1
        trial.disagreements += not compared.alike
        if compared.incumbent_fuel:
            trial.candidate_fuel += compared.fuel
            trial.incumbent_fuel += compared.incumbent_fuel

    def _dropped(self, line: Line) -> None:
        if line.trying is not None:
            trial = self._trials.change(line.slot.name, line.trying.candidate.proposal)
            if trial is not None:
                trial.dropped += 1

    # -- operations --------------------------------------------------------------------------------

    def achieved(self, line: Line, *, candidate: bool, value: int) -> None:
        """An operation's goal is known."""
        slot, state = line.slot.name, self._ledger.ledger
        rollout = state.slot(slot).rollout
        if rollout is None or line.trying is None:
            return
        trial = self._trials.change(slot, line.trying.candidate.proposal)
        if trial is None or not trial.permille:
            return
        (trial.candidate if candidate else trial.incumbent).add(value)
        if self._is_due(trial, rollout) and self._say(slot, rollout, "measured", trial):
            trial.reported += 1
            trial.reported_pairs = trial.pairs

    def _is_due(self, trial: Trial, rollout: Rollout) -> bool:
        if trial.failed or trial.reported == len(DUE):
            return False
        state = self._ledger.ledger
        after = state.params["upgrade.stage_ms"] * DUE[trial.reported] // 1000
        least = max(state.params["upgrade.pairs"], 2 * trial.reported_pairs)
        return state.time >= rollout.opened_at + after and trial.pairs >= least

    # -- what is said ------------------------------------------------------------------------------

    def say_ready(self, slot: str, rollout: Rollout) -> None:
        """It is here, and answered beside the incumbent."""
        trial = self._trials.of(slot)
        if trial is not None and not trial.failed and not self._reporter.count(rollout):
            self._say(slot, rollout, "ready", trial)

    def say_failed(self, slot: str, rollout: Rollout) -> None:
        """It does not run here."""
        self._object(slot, rollout, "failed")

    def say_refused(self, slot: str, rollout: Rollout) -> None:
        """The owner does not want it."""
        self._object(slot, rollout, "refused")

    def _object(self, slot: str, rollout: Rollout, status: Literal["failed", "refused"]) -> None:
        """Once in a stage, also over a restart."""
        trial = self._trials.change(slot, rollout.proposal) or _blank(rollout)
        trial.failed = True
        about = rollout.index, status
        if self._objected.get(slot) != about and self._reporter.status(rollout) != status:
            self._say(slot, rollout, status, trial)
        self._objected[slot] = about

    def _say(self, slot: str, rollout: Rollout, status: Status, trial: Trial) -> bool:
        gain = trial.gain(self._slots[slot].goal)
        if not self._reporter.say(slot, rollout, status, trial, gain):
            return False
        self._tell(
            "upgrade.reporting",
            slot,
            version=rollout.candidate.number,
            permille=rollout.permille,
            status=status,
            pairs=trial.pairs,
            gain=gain,
            traps=trial.traps,
        )
        return True


def _blank(rollout: Rollout) -> Trial:
    """Of what never ran here."""
    return Trial(proposal=rollout.proposal, permille=rollout.permille)
