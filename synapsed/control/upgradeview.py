"""Upgrades in the control socket's words: readings of the ratified state and of one daemon.

What became of an upgrade follows from the state while it is under way or in force; of older ones
the numbers tell: the version after a settled one is the next, an undone one took a number more,
and one that lapsed took none.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple, Protocol

from protocols.changes import UpgradeChange
from protocols.cid import cid_text
from protocols.follow.history import History
from protocols.ledger.rollout import SHADOW, Duty, Rollout, SlotState, Version, interval
from protocols.ledger.state import Closed
from protocols.manifest import ProposalManifest
from protocols.peerid import peer_id_text
from protocols.risk import Risk
from protocols.slots.abi import Slot
from synapsed.config.options import UpgradeMode
from synapsed.control import upgrademodels as said
from synapsed.control.problems import UnknownError
from synapsed.control.proposalview import MAX_PROPOSALS, ProposalView, risk_word
from synapsed.control.slotview import (
    PPM,
    record_info,
    report_info,
    stage_info,
    version_info,
)

ENDED: Mapping[str, said.State] = {
    "settle": "settled",
    "rollback": "rolled-back",
    "lapse": "lapsed",
}

OVER: tuple[said.State, ...] = ("rejected", "rolled-back", "lapsed")
"""What never runs again, unless it is proposed again."""


class Here(Protocol):
    """What one daemon has of slots beside the ledger."""

    def mode(self, slot: str) -> tuple[UpgradeMode, str]:
        """The owner's will, and where it comes from."""

    def why_not(self, slot: str, version: Version) -> str:
        """Why a version does not answer here; "" where it may."""

    def word(self, proposal: bytes, slot: str, module: bytes) -> str:
        """What the owner said of an upgrade: accept, refuse or nothing."""

    def answers(self, slot: str) -> Version:
        """What answers where no coin says otherwise."""

    def duty(self, state: SlotState) -> Duty:
        """What the ledger has this daemon do."""

    def trial(self, slot: str) -> said.TrialInfo | None:
        """What it has measured in the stage under way."""

    def recorded(self, slot: str) -> int:
        """Batches that are kept."""

    def events(self, slot: str) -> dict[str, int]:
        """What was told of it since the start, by kind."""

    def trouble(self, slot: str) -> str:
        """Why the jail did not answer lately, if it did not."""

    def quarantine(self) -> list[said.BrokenInfo]:
        """Modules that are not run here any more."""


class Proposed(NamedTuple):
    """An upgrade that was proposed."""

    cid: bytes
    manifest: ProposalManifest
    change: UpgradeChange
    opened_at: int
    ended: Closed | None


class UpgradeView(ProposalView):
    """What one daemon, `me`, has; `here` is what it has of its own."""

    @property
    def history(self) -> History:
        """The entries that it comes from."""
        return self._history

    def upgrades(self, slots: Mapping[str, Slot], here: Here) -> said.Upgrades:
        """All of it but the jail."""
        return said.Upgrades(
            slots=[self.slot(slot, here) for slot in slots.values()],
            upgrades=self.proposed(here),
            quarantine=here.quarantine(),
        )

    # -- a slot -----------------------------------------------------------------------------------

    def slot(self, slot: Slot, here: Here) -> said.SlotStatus:
        """One slot."""
        state = self._state.slot(slot.name)
        (mode, origin), ours = here.mode(slot.name), here.duty(state)
        ended = state.ended
        return said.SlotStatus(
            slot=slot.name,
            risk=risk_word(slot.risk),
            abi=slot.abi,
            goal=slot.goal.name,
            goal_unit=slot.goal.unit,
            higher_is_better=slot.goal.higher_is_better,
            mode=mode,
            mode_origin=origin,
            answers=version_info(here.answers(slot.name)),
            current=self._version(slot.name, state.current, here),
            former=[self._version(slot.name, each, here) for each in state.former],
            highest=state.highest,
            duty=ours.kind,
            of_eight=ours.of_eight,
            rollout=self.rollout(state, here),
            ended=None
            if ended is None
            else said.EndedInfo(
                version=ended.version,
                proposal=cid_text(ended.proposal),
                event=ended.event,
                reason=ended.reason,
                index=ended.index,
                stages=[stage_info(each) for each in ended.stages],
            ),
            trial=here.trial(slot.name),
            recorded=here.recorded(slot.name),
            events=here.events(slot.name),
            trouble=here.trouble(slot.name),
        )

    def _version(self, slot: str, version: Version, here: Here) -> said.VersionInfo:
        return version_info(version, here.why_not(slot, version))

    def rollout(self, state: SlotState, here: Here) -> said.RolloutInfo | None:
        """What is under way in a slot."""
        rollout, params = state.rollout, self._state.params
        if rollout is None:
            return None
        opened, stage_ms = rollout.opened_at, params["upgrade.stage_ms"]
        return said.RolloutInfo(
            candidate=self._version(state.slot, rollout.candidate, here),
            author=peer_id_text(rollout.author),
            permille=rollout.permille,
            index=rollout.index,
            opened_at=opened / 1000,
            members=rollout.members,
            expected=rollout.expected,
            quorum=rollout.quorum,
            next_at=(opened + stage_ms) / 1000,
            gives_up_at=(opened + stage_ms * params["upgrade.patience"]) / 1000,
            stages=[*(stage_info(each) for each in rollout.stages), self._under_way(rollout)],
            reports=[
                report_info(who, filed, heard=heard, own=who == self._me)
                for heard, reports in ((True, rollout.reports), (False, rollout.others))
                for who, filed in reports
            ],
        )

    def _under_way(self, rollout: Rollout) -> said.StageInfo:
        """The stage that is not over."""
        counting = [each for who, each in rollout.reports if who not in self._state.banned]
        gains = [each.gain for each in counting if each.status == "measured"]
        found = None if rollout.permille == SHADOW else interval(gains, rollout.expected)
        return said.StageInfo(
            permille=rollout.permille,
            index=rollout.index,
            opened_at=rollout.opened_at / 1000,
            low=None if found is None else found[0] / PPM,
            high=None if found is None else found[1] / PPM,
            reports=len(counting),
            traps=sum(each.bad for each in counting),
        )

    # -- what was proposed ------------------------------------------------------------------------

    def proposed(self, here: Here) -> list[said.UpgradeInfo]:
        """Upgrades that were proposed, the newest first."""
        found = sorted(self._proposed, key=lambda each: -each.opened_at)
        return [self._info(each, here) for each in found[:MAX_PROPOSALS]]

    @cached_property
    def _proposed(self) -> list[Proposed]:
        return list(self._read())

    def _read(self) -> Iterator[Proposed]:
        for cid, being in self._state.open.items():
            change = being.terms.change
            if isinstance(change, UpgradeChange):
                yield Proposed(cid, being.terms.manifest, change, being.terms.opened_at, None)
        closed = sorted(self._state.closed.items(), key=lambda pair: -pair[1].opened)
        for cid, ended in closed[:MAX_PROPOSALS]:
            manifest = self._manifest(ended)
            if manifest is not None and isinstance(manifest.change, UpgradeChange):
                yield Proposed(cid, manifest, manifest.change, ended.opened_at, ended)

    def found(self, cid: bytes) -> Proposed:
        """One of them; UnknownError, also for a proposal of another kind."""
        state = self._state
        being, ended = state.open.get(cid), state.closed.get(cid)
        if being is not None:
            manifest, opened_at = being.terms.manifest, being.terms.opened_at
        elif ended is not None:
            read = self._manifest(ended)
            if read is None:
                raise UnknownError(
                    f"{cid_text(cid)} is from before the checkpoint that this daemon began with",
                    remedy="ask a daemon that has followed since the genesis",
                )
            manifest, opened_at = read, ended.opened_at
        else:
            raise UnknownError(
                f"the ledger has no proposal {cid_text(cid)}",
                remedy="`synapsectl upgrade ls` lists the upgrades that it has",
            )
        if not isinstance(manifest.change, UpgradeChange):
            raise UnknownError(
                f"{cid_text(cid)} proposes no upgrade",
                remedy="`synapsectl proposal show` tells what it does",
            )
        return Proposed(cid, manifest, manifest.change, opened_at, ended)

    def info(self, cid: bytes, here: Here) -> said.UpgradeInfo:
        """One of them in a line; UnknownError."""
        return self._info(self.found(cid), here)

    def _info(self, it: Proposed, here: Here) -> said.UpgradeInfo:
        change, (state, reason) = it.change, self._state_of(it)
        rollout = self._state.slot(change.slot).rollout
        under_way = rollout is not None and rollout.proposal == it.cid
        word = here.word(it.cid, change.slot, change.module)
        waits = state in ("open", "due", "shadow", "stage", "settled") and not word
        return said.UpgradeInfo(
            proposal=cid_text(it.cid),
            title=it.manifest.title,
            slot=change.slot,
            version=change.version,
            state=state,
            risk=risk_word(self._risk(it)),
            author=peer_id_text(it.manifest.author),
            opened_at=it.opened_at / 1000,
            native=change.native,
            module="" if change.native else change.module.hex(),
            permille=rollout.permille if rollout is not None and under_way else None,
            reason=reason,
            word="accept" if word == "accept" else "refuse" if word == "refuse" else "",
            asks=waits and not change.native and here.mode(change.slot)[0] == "ask",
        )

    def _risk(self, it: Proposed) -> Risk:
        being = self._state.open.get(it.cid)
        if being is not None:
            return being.terms.risk
        assert it.ended is not None
        return it.ended.risk

    def _state_of(self, it: Proposed) -> tuple[said.State, str]:
        """How far it has come, and why it ended so."""
        if it.ended is None:
            return "open", ""
        if not it.ended.accepted:
            return "rejected", it.ended.reason
        slot = self._state.slot(it.change.slot)
        if slot.ended is not None and slot.ended.proposal == it.cid:
            return ENDED[slot.ended.event], slot.ended.reason
        if slot.rollout is not None and slot.rollout.proposal == it.cid:
            return ("stage" if slot.rollout.permille else "shadow"), ""
        due = any(each.proposal == it.cid for each in self._state.executions)
        return "due" if due else self._older(it, slot), ""

    def _older(self, it: Proposed, slot: SlotState) -> said.State:
        """By what is in force, or the number of the accepted one after it in its slot."""
        assert it.ended is not None
        if slot.current.proposal == it.cid:
            return "settled"
        later = [
            (each.ended.closed, each.change.version)
            for each in self._proposed
            if each.ended is not None
            and each.ended.accepted
            and each.change.slot == it.change.slot
            and each.ended.closed > it.ended.closed
        ]
        step = min(later)[1] - it.change.version if later else 1
        return "lapsed" if step == 0 else "replaced" if step == 1 else "rolled-back"

    # -- one in full ------------------------------------------------------------------------------

    def detail(self, cid: bytes, here: Here) -> said.UpgradeDetail:
        """One with what the ledger has of it; manifest and sources are for others to fill in.
        Stages that are long over are not in the state: `Stages` finds them."""
        it = self.found(cid)
        slot = self._state.slot(it.change.slot)
        rollout, ended = slot.rollout, slot.ended
        under_way = rollout is not None and rollout.proposal == cid
        stages: list[said.StageInfo] = []
        if ended is not None and ended.proposal == cid:
            stages = [stage_info(each) for each in ended.stages]
        shown = self.rollout(slot, here) if under_way else None
        return said.UpgradeDetail(
            upgrade=self._info(it, here),
            proposal=self.proposal(cid),
            record=record_info(it.change),
            replaces=version_info(self.replaced(it.change)),
            stages=stages if shown is None else shown.stages,
            rollout=shown,
            mode=here.mode(it.change.slot)[0],
        )

    def replaced(self, change: UpgradeChange) -> Version:
        """The version whose module an upgrade says that it replaces; without number, manifest and
        proposal where it is long gone."""
        slot = self._state.slot(change.slot)
        for each in (slot.current, *reversed(slot.former)):
            if each.module == change.previous and each.number < change.version:
                return each
        return Version(0, change.previous, 0, 0, change.limits, b"", b"", 0)
