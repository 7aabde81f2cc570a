"""Following the ledger: which version of each slot answers here, and what is said of it.

    the ledger     state.slots: what is in force, what is tried by whom           (rollout.py)
    Modules        the bytes of it, here and compiled before they are needed      (modules.py)
    Memory         the owner's mode and words, the quarantine                     (memory.py)
    Board          a Line for each slot: what answers now                         (board.py)
    Watch          how calls went: faults, measurements       (watching.py, shadow.py, trials.py)
    Prover         a candidate, tried before this daemon says that it is ready    (proving.py)
    Reporter       ... and what is said, signed                                   (reports.py)

Rule 1. What answers follows from the state that the ratified entries leave, the memory, and which
modules are ready, and from nothing else: `refresh` derives all of it anew whenever one of the three
has changed. So nothing can be half switched, and a daemon that was killed comes up where it would
be without that.
Rule 2. Nothing is in the way of an answer: what is late, refused, broken or in quarantine is left
out of the Line, whose last version is native.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import trio

from protocols.cid import cid_text
from protocols.errors import SynapseError
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import FULL, REFERENCE, Duty, SlotState, Version, duty
from protocols.slots.abi import Slot
from synapsed.config.options import UpgradeMode
from synapsed.jail.errors import NotCompiledError
from synapsed.ledger.service import LedgerService
from synapsed.ports import Identity
from synapsed.process import supervise
from synapsed.upgrades.board import Board, Line, Trying
from synapsed.upgrades.memory import Memory, Said
from synapsed.upgrades.modules import Key, Modules, Wanted
from synapsed.upgrades.named import Running, running, wanted
from synapsed.upgrades.proving import Prover
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.reports import Reporter
from synapsed.upgrades.trials import Trials
from synapsed.upgrades.watching import Watch

log = logging.getLogger(__name__)

MAX_WHY = 200
"""Characters of an error that a warning repeats; the log and the event have it in full."""


class UpgradeService:
    """One daemon's upgrades. `run` is a task; the rest is called in its trio thread."""

    def __init__(
        self,
        ledger: LedgerService,
        identity: Identity,
        *,
        board: Board,
        slots: Mapping[str, Slot],
        memory: Memory,
        modules: Modules,
        recorder: Recorder,
        trials: Trials,
        emit: supervise.Emit,
    ) -> None:
        self.ledger = ledger
        self.slots = slots
        self.board = board
        self.memory = memory
        self.modules = modules
        self.recorder = recorder
        self.trials = trials
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in slots}
        """Events by slot and kind since the start: statistics are sums of what was told."""
        self._me = identity.peer_id
        self._emit = emit
        self._reporter = Reporter(ledger, identity)
        self.watch = Watch(
            ledger,
            slots,
            board=board,
            trials=trials,
            reporter=self._reporter,
            recorder=recorder,
            tell=self.tell,
        )
        self._prover = Prover(board, recorder, self.watch)
        self._running: dict[str, Running] = {}
        self._missed: dict[str, Running] = {}
        self._asked: dict[str, bytes] = {}
        self._seen: tuple[object, ...] = ()
        self.watch.on_isolate = self._isolate
        self.watch.on_trouble = self._in_trouble
        modules.on_ready = self._is_ready
        modules.on_unfit = self._is_unfit
        board.watcher = self.watch
        ledger.on_changed.append(self._ledger_changed)

    # -- running -----------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Come up with what the ledger says, as far as its bytes are here."""
        self._want(self.ledger.ledger)
        await self.modules.restore()
        self.refresh()

    async def run(self) -> None:
        """Until cancelled. May be run again after it has failed."""
        watch = self.watch
        tasks = (self.modules, self.recorder, watch.shadow, self._reporter, self.trials)
        async with trio.open_nursery() as nursery:
            for task in (*tasks, self._prover):
                nursery.start_soon(task.run)
            self._prover.begin_anew()
            self.refresh()

    # -- what answers ------------------------------------------------------------------------------

    def _ledger_changed(self) -> None:
        """Most entries say nothing of upgrades: what is looked at is replaced, never written to.
        What the ledger passes through while it is read from the disk was in force long ago."""
        if not self.ledger.loaded:
            return
        state = self.ledger.ledger
        seen = (state.slots, state.executions, state.weights)
        before, self._seen = self._seen, seen
        if any(old is not new for old, new in zip_longest(before, seen)):
            # A fault here must not hold up the ledger, which would meet it again and again.
            with supervise.guard("upgrades", self._emit):
                self.refresh()

    def refresh(self) -> None:
        """Derive everything anew."""
        state = self.ledger.ledger
        self._want(state)
        for name, slot in self.slots.items():
            self._set(name, slot, state.slot(name))

    def _want(self, state: LedgerState) -> None:
        for name in self.slots:
            if self.memory.mode(name) == "auto":
                self._keep(self.memory.ran, name, state.slot(name).current.module)
        self.modules.want(wanted(state, self.slots, self._is_off))

    def _is_off(self, slot: str) -> bool:
        return self.memory.mode(slot) == "off"

    def _set(self, name: str, slot: Slot, state: SlotState) -> None:
        steady: dict[bytes, Version] = {}
        for each in (state.current, *reversed(state.former)):
            if self._may(name, each):
                steady.setdefault(each.module, each)
        trying = self._trying(name, state)
        line = Line(slot, (*steady.values(), REFERENCE), trying)
        if line != self.board.lines[name]:
            self.board.lines[name] = line
        self.trials.follow(name, state.rollout if trying is not None else None)
        self._tell_running(name, state, line)
        self._act(name, state, line)

    def _act(self, name: str, state: SlotState, line: Line) -> None:
        """Try a candidate that is new here; object to one that is not to run."""
        rollout = state.rollout
        if rollout is None:
            return
        if line.trying is not None:
            if not rollout.permille:
                self._prover.prove(name, rollout)
            return
        why = self.why_not(name, rollout.candidate)
        if why == "refused":
            self.watch.say_refused(name, rollout)
        elif why == "quarantined":
            self.watch.say_failed(name, rollout)
        elif why == "asking" and self._asked.get(name) != rollout.proposal:
            self._asked[name] = rollout.proposal
            self._ask(name, rollout.candidate)

    def _trying(self, name: str, state: SlotState) -> Trying | None:
        rollout, ours = state.rollout, self.duty(state)
        if rollout is None or ours.kind == "none" or not self._may(name, rollout.candidate):
            return None
        return Trying(rollout.candidate, rollout.permille, ours.of_eight)

    def duty(self, state: SlotState) -> Duty:
        """What the ledger has this daemon do with a slot."""
        return duty(state, self._me, self.ledger.ledger.reputation_of(self._me) > 0)

    def _may(self, slot: str, version: Version) -> bool:
        return not self.why_not(slot, version)

    def why_not(self, slot: str, version: Version) -> str:
        """Why a version does not answer here: refused, off, other-abi, quarantined, asking or late;
        "" where it may."""
        memory, mode = self.memory, self.memory.mode(slot)
        word = memory.word_on(version.proposal, slot, version.module)
        foreign = not version.native
        asked = word == "accept" or memory.has_run(slot, version.module)
        reasons = {
            "refused": word == "refuse",  # first: everybody is told, also by who has it off
            "off": mode == "off",
            # Of a daemon that is newer than this one, or older.
            "other-abi": foreign and version.abi != self.slots[slot].abi,
            "quarantined": foreign and memory.broken(slot, version.module) is not None,
            "asking": foreign and mode == "ask" and not asked,
            "late": foreign and (slot, version.module) not in self.modules.ready,
        }
        return next((why for why, holds in reasons.items() if holds), "")

    # -- what is told of it ------------------------------------------------------------------------

    def _tell_running(self, name: str, state: SlotState, line: Line) -> None:
        """Events where what answers is another than before, or where it should and does not."""
        meant, version = running(state, self.duty(state).of_eight)
        on_candidate = line.trying is not None and line.trying.of_eight > 0
        incumbent = Running(line.incumbent.number, FULL, line.incumbent.index)
        now = meant if on_candidate else incumbent
        if now != meant and self._missed.get(name) != meant:
            self._missed[name] = meant
            why = self.why_not(name, version)
            if why == "late":
                self.tell("upgrade.late", name, **meant.fields, module=version.module.hex())
            elif why == "asking" and state.rollout is None:
                self._ask(name, version)
        before = self._running.get(name)
        self._running[name] = now
        if before is None and now.version:
            self.tell("upgrade.in-force", name, **now.fields)
        elif before is not None and before != now:
            late = self._missed.get(name) == now
            self.tell("upgrade.switched", name, **now.fields, late=late)
        if now == meant:
            self._missed.pop(name, None)

    def _ask(self, name: str, version: Version) -> None:
        proposal, module = cid_text(version.proposal), version.module.hex()
        self.tell("upgrade.asking", name, version=version.number, proposal=proposal, module=module)

    def tell(self, kind: str, slot: str, /, **fields: Any) -> None:
        """Tell an event of a slot, and count it."""
        self.counts[slot][kind] += 1
        self._emit(kind, slot=slot, **fields)

    def warnings(self) -> list[str]:
        """What the owner should know now."""
        lines = []
        for (slot, _), error in sorted(self.modules.late.items()):
            why = error.message[:MAX_WHY]  # some name all that were asked
            why += f" ({error.remedy})" if error.remedy else ""
            lines.append(f"an upgrade of {slot} is not here, and the one before answers: {why}")
        for slot, error in sorted(self.watch.trouble.items()):
            lines.append(f"upgrades of {slot} do not run, and the reference answers: {error}")
        for slot in self.slots:
            state = self.ledger.ledger.slot(slot)
            candidate = () if state.rollout is None else (state.rollout.candidate,)
            for version in (state.current, *candidate):
                lines += self._objections(slot, version)
        return lines

    def _objections(self, slot: str, version: Version) -> list[str]:
        """Why a version that the ledger names does not answer here, to its owner."""
        what = f"version {version.number} of {slot}"
        match self.why_not(slot, version):
            case "quarantined":
                broken = self.memory.broken(slot, version.module)
                why = "" if broken is None else f": {broken.why}"
                return [f"{what} is in quarantine here, and the one before answers{why}"]
            case "asking":
                cid = cid_text(version.proposal)
                return [f"{what} waits for your word: `synapsectl upgrade accept|refuse {cid}`"]
            case "other-abi":
                return [f"{what} is for another version of this daemon: install that"]
        return []

    # -- the owner's say ---------------------------------------------------------------------------

    def set_mode(self, mode: UpgradeMode | None, slot: str | None) -> None:
        """From now on, of one slot or of all; None is what the config says. StoreError."""
        # Before it: what runs while nobody is to be asked is not asked about afterwards.
        self._want(self.ledger.ledger)
        self.memory.set_mode(mode, slot)
        for name in self.slots if slot is None else (slot,):
            self.tell("upgrade.mode", name, mode=self.memory.mode(name))
        self.refresh()

    def say(self, slot: str, version: Version, said: Said) -> None:
        """The owner's word on an upgrade. StoreError."""
        self.memory.say(version.proposal, slot, version.module, said)
        proposal = cid_text(version.proposal)
        self.tell("upgrade.said", slot, proposal=proposal, version=version.number, said=said)
        self.refresh()

    # -- modules -----------------------------------------------------------------------------------

    def _is_ready(self, _wanted: Wanted) -> None:
        self.refresh()

    def _is_unfit(self, unfit: Wanted, error: SynapseError) -> None:
        self._quarantine(unfit.slot, unfit.module, unfit.version, error.message)

    def _isolate(self, slot: str, version: Version, why: str) -> None:
        self._quarantine(slot, version.module, version.number, why)

    def _quarantine(self, slot: str, module: bytes, version: int, why: str) -> None:
        """Run a module no more, and say so."""
        self._keep(self.memory.isolate, slot, module, version, why)
        self.tell("upgrade.quarantined", slot, version=version, module=module.hex(), why=why)
        self.refresh()

    def _in_trouble(self, key: Key, error: SynapseError) -> None:
        if isinstance(error, NotCompiledError):
            self.modules.again(key)
            self.refresh()

    def _keep(self, how: Callable[..., None], *what: object) -> None:
        """Remember, as far as the disk lets us."""
        try:
            how(*what)
        except SynapseError as error:
            log.error("upgrades: cannot save: %s", error)
            self._emit("store.failed", name="upgrades", error=error.code, message=error.message)
