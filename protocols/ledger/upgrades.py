"""Upgrades on the ledger: which may be proposed, and how their rollouts go.

    proposal -> votes, verdicts ("sound") -> outcome -> execute.delay_ms -> stage entries

What may be proposed is the successor of what is in force: its version is the highest ever and one
more (no rollback, no fast-forward), it names the module that it replaces (no mix-and-match), and
it expires (no freeze). Proposals for one slot may compete; the first that is accepted makes the
others impossible, as long as its rollout lasts and by its number for ever.
"""

from collections.abc import Iterator

import msgspec

from protocols.changes import NATIVE, UpgradeChange
from protocols.ledger.entries import Mint, Report, StageEntry, StageEvent, Submission
from protocols.ledger.errors import (
    ClashError,
    ExpiredError,
    FullError,
    NotDrawnError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
    TooEarlyError,
    UnknownProposalError,
    UnprovenError,
)
from protocols.ledger.reputation import CREDITS
from protocols.ledger.rollout import (
    FULL,
    MAX_FORMER,
    MAX_OTHERS,
    MAX_REPORTS,
    SHADOW,
    Ended,
    Filed,
    Rollout,
    Ruling,
    SlotState,
    StageRecord,
    Version,
    cohort,
    filed,
    is_heard,
    report_of,
    ruling,
    version_of,
    with_report,
)
from protocols.ledger.state import Execution, State
from protocols.risk import HIGHEST_ABI

MAX_LIFE_MS = 90 * 24 * 3600 * 1000
"""A record is good for so long from its proposal on: three months outlast a vote and its delays,
and what nobody put in force by then was checked against daemons that are no more."""


# -- what may be proposed ----------------------------------------------------------------------


def check_proposed(state: State, change: UpgradeChange) -> None:
    """Raise an InvalidEntryError unless the upgrade may be voted on now."""
    if change.expires <= state.time:
        raise ExpiredError("the upgrade has expired", remedy="propose it with a later expiry")
    if change.expires > state.time + MAX_LIFE_MS:
        raise TooEarlyError(
            f"an upgrade expires within {MAX_LIFE_MS // 86_400_000} days of its proposal",
            remedy="propose it with an earlier expiry",
        )
    if change.abi > HIGHEST_ABI[change.slot]:
        raise ClashError(
            f"{change.slot} has no ABI {change.abi}: {HIGHEST_ABI[change.slot]} is the highest",
            remedy="build the module for that, or wait for the release that brings the other",
        )
    slot = state.slot(change.slot)
    if change.version <= slot.highest:
        raise ReplayedError(
            f"{change.slot} has had a version {slot.highest} already",
            remedy=f"the next one is {slot.highest + 1}",
        )
    if change.version > slot.highest + 1:
        raise TooEarlyError(
            f"version {change.version} of {change.slot}, whose highest is {slot.highest}",
            remedy=f"the next one is {slot.highest + 1}: numbers are never left out",
        )
    if change.previous != slot.current.module:
        raise ClashError(
            f"an upgrade of {change.slot} from a module that is not in force",
            remedy=f"in force is {slot.current.module.hex()}: build and check it against that",
        )
    _check_free(state, slot)


def _check_free(state: State, slot: SlotState) -> None:
    if slot.rollout is not None:
        raise ClashError(
            f"{slot.slot} is being upgraded to version {slot.rollout.candidate.number}",
            remedy="propose it when that is settled or rolled back",
        )
    if _waits(state, slot.slot):
        raise ClashError(
            f"an upgrade of {slot.slot} is accepted and about to begin",
            remedy="propose it when that is settled or rolled back",
        )


def _waits(state: State, slot: str) -> bool:
    changes = (each.change for each in state.executions)
    return any(isinstance(each, UpgradeChange) and each.slot == slot for each in changes)


def possible(state: State, change: UpgradeChange) -> bool:
    """Whether an upgrade that the votes accept can still be carried out."""
    slot = state.slot(change.slot)
    return (
        change.expires > state.time
        and change.version == slot.highest + 1
        and change.previous == slot.current.module
        and slot.rollout is None
        and not _waits(state, change.slot)
    )


# -- the stages --------------------------------------------------------------------------------


def returns(slot: SlotState, change: UpgradeChange) -> bool:
    """Whether a change is the way back: to the reference, or to what was in force before.

    It is in force at once, and nobody measures it: it went through the stages in its time, and
    people vote for it where a module does harm that its slot's goal does not see. Measured by that
    goal the harmful one would stay.
    """
    if change.module == NATIVE:
        return True
    known = (change.module, change.manifest, change.abi, change.limits)
    return any(known == (each.module, each.manifest, each.abi, each.limits) for each in slot.former)


def begins(state: State, execution: Execution) -> StageEntry:
    """The entry that an accepted upgrade's time has come for."""
    change = execution.change
    assert isinstance(change, UpgradeChange)
    event: StageEvent = "settle" if returns(state.slot(change.slot), change) else "open"
    lapsed = change.expires <= state.time
    return StageEntry(
        slot=change.slot,
        version=change.version,
        proposal=execution.proposal,
        permille=FULL if event == "settle" and not lapsed else SHADOW,
        event="lapse" if lapsed else event,
        reason="expired" if lapsed else "accepted",
        low=0,
        high=0,
        reports=0,
        traps=0,
    )


def due(state: State) -> Iterator[StageEntry]:
    """The entries that rollouts are ripe for, by slot."""
    for _, slot in sorted(state.slots.items()):
        if slot.rollout is None:
            continue
        counting = _counting(state, slot.rollout)
        said = ruling(slot.rollout, counting, state.time, state.params)
        if said is not None:
            yield _entry(slot.slot, slot.rollout, counting, said)


def _counting(state: State, rollout: Rollout) -> list[Filed]:
    """Without the reports of who was proven guilty since."""
    return [each for who, each in rollout.reports if who not in state.banned]


def _entry(slot: str, rollout: Rollout, counting: list[Filed], said: Ruling) -> StageEntry:
    number = rollout.candidate.number
    return StageEntry(
        slot=slot,
        # The way back is a version of its own: whoever has seen the candidate's number takes no
        # lower one for newer.
        version=number + 1 if said.event == "rollback" else number,
        proposal=rollout.proposal,
        permille=said.permille,
        event=said.event,
        reason=said.reason,
        low=said.low,
        high=said.high,
        reports=len(counting),
        traps=sum(each.bad for each in counting),
    )


def fold_stage(state: State, entry: StageEntry, index: int) -> None:
    """Take a checked entry, which is that at `index`, into the state."""
    slot = state.slot(entry.slot)
    if slot.rollout is None:
        execution, *rest = state.executions
        state.executions = tuple(rest)
        if entry.event == "lapse":
            _set(state, slot, ended=_ended(entry, index, ()))
            return
        if entry.event == "settle":
            assert isinstance(execution.change, UpgradeChange)
            current = version_of(execution.change, execution.proposal, index)
            # What is left was voted out: it answers for nothing that fails, and it would have to
            # go through the stages again.
            former = tuple(each for each in slot.former if each.module != current.module)
            _in_force(state, slot, current, former, _ended(entry, index, ()))
            return
        rollout = _begun(state, execution, index)
        _set(state, slot, highest=entry.version, rollout=rollout, ended=None)
        return
    rollout = slot.rollout
    stages = (*rollout.stages, _record(state, rollout, entry))
    if entry.event == "open":
        later = msgspec.structs.replace(rollout, stages=stages)
        _set(state, slot, rollout=_in_stage(state, later, entry.permille, index))
    elif entry.event == "settle":
        current = msgspec.structs.replace(rollout.candidate, index=index)
        former = (*slot.former, slot.current)[-MAX_FORMER:]
        _in_force(state, slot, current, former, _ended(entry, index, stages))
        if rollout.earns and rollout.author not in state.banned:
            amount = CREDITS["migration"]
            mint = Mint(rollout.author, "migration", amount, entry.proposal)
            state.mints = (*state.mints, mint)
    else:
        current = msgspec.structs.replace(slot.current, number=entry.version, index=index)
        ended = _ended(entry, index, stages)
        _set(state, slot, current=current, highest=entry.version, rollout=None, ended=ended)


def _in_force(
    state: State, slot: SlotState, current: Version, former: tuple[Version, ...], ended: Ended
) -> None:
    highest = max(slot.highest, current.number)
    _set(state, slot, current=current, former=former, highest=highest, rollout=None, ended=ended)


def _set(state: State, slot: SlotState, **changed: object) -> None:
    now = msgspec.structs.replace(slot, **changed)
    state.slots = {**state.slots, slot.slot: now}


def _ended(entry: StageEntry, index: int, stages: tuple[StageRecord, ...]) -> Ended:
    return Ended(entry.version, entry.proposal, entry.event, entry.reason, index, stages)


def _record(state: State, rollout: Rollout, entry: StageEntry) -> StageRecord:
    return StageRecord(
        rollout.permille,
        rollout.index,
        rollout.opened_at,
        state.time,
        entry.low,
        entry.high,
        entry.reports,
        entry.traps,
    )


def _begun(state: State, execution: Execution, index: int) -> Rollout:
    change = execution.change
    assert isinstance(change, UpgradeChange)
    candidate: Version = version_of(change, execution.proposal, index)
    blank = Rollout(
        candidate=candidate,
        author=execution.author,
        earns=execution.earns,
        beacon=state.council.beacon,
        permille=SHADOW,
        index=index,
        opened_at=state.time,
        members=0,
        running=0,
        heard=0,
        expected=0,
        reports=(),
        others=(),
        stages=(),
    )
    return _in_stage(state, blank, SHADOW, index)


def _in_stage(state: State, rollout: Rollout, permille: int, index: int) -> Rollout:
    drawn = cohort(rollout.beacon, rollout.proposal, state.reputation, permille)
    return msgspec.structs.replace(
        rollout,
        permille=permille,
        index=index,
        opened_at=state.time,
        members=drawn.members,
        running=drawn.running,
        heard=drawn.heard,
        expected=drawn.expected,
        reports=(),
        others=(),
    )


# -- reports -----------------------------------------------------------------------------------


def rollout_of(state: State, proposal: bytes) -> SlotState | None:
    """The slot that a proposal is being rolled out in."""
    for slot in state.slots.values():
        if slot.rollout is not None and slot.rollout.proposal == proposal:
            return slot
    return None


def check_report(state: State, said: Submission) -> None:
    """Raise an InvalidEntryError unless the report may be filed."""
    body = said.body
    assert isinstance(body, Report)
    rollout = _reported_on(state, body)
    if not state.reputation_of(said.author):
        raise NoWeightError("a report of somebody without reputation")
    if body.status == "measured" and body.pairs < state.params["upgrade.pairs"]:
        raise UnprovenError(
            f"a report of {body.pairs} pairs of operations",
            remedy=f"at least {state.params['upgrade.pairs']} are to be measured",
        )
    heard = is_heard(rollout, said.author)
    if not heard and body.status in ("ready", "measured"):
        raise NotDrawnError("its author is not among those whose reports count in this stage")
    before = report_of(rollout, said.author)
    if before is not None and before.count >= MAX_REPORTS:
        raise ReplayedError(f"{MAX_REPORTS} reports of one stage are the most")
    if before is None and not heard and len(rollout.others) >= MAX_OTHERS:
        raise FullError(f"{MAX_OTHERS} reports from outside of a stage are the most")


def _reported_on(state: State, body: Report) -> Rollout:
    slot = rollout_of(state, body.proposal)
    if slot is None or slot.rollout is None:
        waits = any(each.proposal == body.proposal for each in state.executions)
        if waits or body.proposal not in state.closed:
            raise UnknownProposalError("a report about an upgrade whose rollout has not begun")
        raise NotOpenError("a report about an upgrade that is not being rolled out")
    if body.stage < slot.rollout.permille:
        raise ExpiredError(f"a report of stage {body.stage} in {slot.rollout.permille}")
    if body.stage > slot.rollout.permille:
        raise TooEarlyError(f"a report of stage {body.stage} in {slot.rollout.permille}")
    return slot.rollout


def fold_report(state: State, said: Submission, _: int) -> None:
    """File a checked report."""
    body = said.body
    assert isinstance(body, Report)
    slot = rollout_of(state, body.proposal)
    assert slot is not None
    rollout = slot.rollout
    assert rollout is not None
    before = report_of(rollout, said.author)
    new = filed(body, 1 if before is None else before.count + 1)
    if is_heard(rollout, said.author):
        later = msgspec.structs.replace(
            rollout, reports=with_report(rollout.reports, said.author, new)
        )
    else:
        later = msgspec.structs.replace(
            rollout, others=with_report(rollout.others, said.author, new)
        )
    _set(state, slot, rollout=later)
