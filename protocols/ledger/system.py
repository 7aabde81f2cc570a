"""What the ledger itself says next: outcomes, what they put in force, credits, epochs.

A leader writes these entries, and has no say in them: each is valid only if it is byte for byte
what the state yields when its time has come.
"""

from collections.abc import Callable, Iterator

from protocols.changes import HumanKeyChange, ParameterChange, UpgradeChange
from protocols.ledger import exclusion, training, upgrades
from protocols.ledger.chain import Head
from protocols.ledger.council import Council, Seat
from protocols.ledger.election import changed_seats, elect, median_class, next_beacon
from protocols.ledger.entries import (
    ABSTAIN,
    MAX_MINTS,
    MAX_WEIGHT,
    NO,
    YES,
    Checkpoint,
    CreditEntry,
    EpochEntry,
    Grant,
    HumanKeyEntry,
    Member,
    Mint,
    Outcome,
    ParameterEntry,
    ReputationEntry,
    StageEntry,
    System,
    Tick,
)
from protocols.ledger.errors import TooEarlyError, UnprovenError
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.possible import effective, fit_in_turn
from protocols.ledger.quota import failed, forgettable, succeeded
from protocols.ledger.reputation import CREDITS, earned
from protocols.ledger.state import (
    ANCHORS,
    PAST_COUNCILS,
    WINDOW_MS,
    Closed,
    Execution,
    Origin,
    State,
)
from protocols.ledger.voting import (
    Decision,
    OpenProposal,
    decided,
    executable,
    passes_without,
)

LEAST_RISE = 4
"""A tick rises by at least such a part of council.tick_ms: a leader whose clock was behind by the
whole skew lets the ledger's time creep on slower than the clocks, and a lying one can write four
times as many ticks as there need be."""

Digest = Callable[[], bytes]
"""The digest of the state, when it is needed: it costs the state's size."""


def due(state: State, digest: Digest) -> System | None:
    """The entry that comes next by itself, or None. An epoch entry only when nothing else does."""
    return next(_all_due(state, digest), None)


def _all_due(state: State, digest: Digest) -> Iterator[System]:
    for cid, proposal in sorted(state.open.items()):
        if (outcome := _outcome(state, cid, proposal)) is not None:
            yield outcome
    if state.executions and state.executions[0].due_at <= state.time:
        yield _execution(state, state.executions[0])
    yield from upgrades.due(state)
    if state.mints:
        yield CreditEntry(mints=state.mints[:MAX_MINTS])
    if state.revalued:
        yield _reputation(state)
    if state.head.index - state.checkpoint >= state.params["council.checkpoint_entries"]:
        yield Checkpoint(digest=digest())
    if state.time >= epoch_ends_at(state):
        yield epoch_entry(state)


def check(state: State, entry: System, digest: Digest) -> None:
    """Raise UnprovenError or TooEarlyError unless the state says the same."""
    if isinstance(entry, Tick):
        if entry.time < state.time + least_rise(state):
            raise UnprovenError("a tick that does not rise, or by less than it must")
        return
    expected = _expected(state, entry, digest)
    if expected is None:
        raise TooEarlyError(f"no {type(entry).__name__} is due")
    if entry != expected:
        raise UnprovenError(f"a {type(entry).__name__} that is not what the ledger says")


def least_rise(state: State) -> int:
    """Milliseconds by which a tick must rise, so that no leader fills the ledger with them."""
    return max(1, state.params["council.tick_ms"] // LEAST_RISE)


def _expected(state: State, entry: System, digest: Digest) -> System | None:
    if isinstance(entry, Outcome):
        proposal = state.open.get(entry.proposal)
        return None if proposal is None else _outcome(state, entry.proposal, proposal)
    if isinstance(entry, EpochEntry):
        # The last entry of its council leaves nothing undone that only time was needed for.
        found = due(state, digest)
        return found if isinstance(found, EpochEntry) else None
    return next((each for each in _all_due(state, digest) if type(each) is type(entry)), None)


def fold(state: State, entry: System, index: int) -> None:
    """Take a checked entry, which is that at `index`, into the state."""
    if isinstance(entry, Tick):
        _fold_tick(state, entry.time)
    elif isinstance(entry, Outcome):
        _fold_outcome(state, entry, index)
    elif isinstance(entry, ParameterEntry | HumanKeyEntry):
        _fold_execution(state, entry, index)
    elif isinstance(entry, StageEntry):
        upgrades.fold_stage(state, entry, index)
    elif isinstance(entry, CreditEntry):
        _fold_credit(state, entry)
    elif isinstance(entry, ReputationEntry):
        done = {grant.identity: grant.amount for grant in entry.values}
        state.reweigh(done, index)
        state.revalued = {who: left for who, left in state.revalued.items() if who not in done}
    elif isinstance(entry, Checkpoint):
        state.checkpoint = index


def _fold_tick(state: State, time: int) -> None:
    day, span = state.day, state.time // WINDOW_MS
    state.time = time
    if time // WINDOW_MS > span:
        state.anchors = (*state.anchors, state.head.hash)[-ANCHORS:]
    if any((span + 1) * WINDOW_MS <= time for span in state.recent):
        state.recent = {
            span: known for span, known in state.recent.items() if (span + 1) * WINDOW_MS > time
        }
    if state.day > day:
        state.standings = ForkMap(
            (author, standing)
            for author, standing in state.standings.items()
            if not forgettable(standing, state.day)
        )


# -- outcomes ----------------------------------------------------------------------------------


def _approving(state: State, proposal: OpenProposal) -> list[str]:
    return [name for name, key in sorted(state.humans.items()) if key in proposal.approvals]


def _outcome(state: State, cid: bytes, proposal: OpenProposal) -> Outcome | None:
    if state.time < proposal.terms.closes_at:
        return None
    approvals = _approving(state, proposal)
    decision = decided(proposal, state.time, len(approvals))
    if decision is None:
        if not proposal.terms.by_verdicts or _possible(state, cid, proposal):
            return None
        decision = Decision(False, "impossible")  # the same one was excluded for something else
    if decision.accepted and not _possible(state, cid, proposal):
        decision = Decision(False, "impossible")
    return Outcome(
        proposal=cid,
        accepted=decision.accepted,
        reason=decision.reason,
        yes=proposal.count[YES],
        no=proposal.count[NO],
        abstain=proposal.count[ABSTAIN],
        weight=proposal.weights.total,
        voters=len(proposal.votes),
        fetchable=proposal.findings(),
        approvals=tuple(approvals),
        interval=training.median_interval(list(proposal.intervals.values())),
    )


def _scheduled(state: State, cid: bytes, proposal: OpenProposal) -> tuple[Execution, ...]:
    """The changes that wait, with this proposal's where it comes."""
    terms = proposal.terms
    assert terms.change is not None
    due_at = state.time + state.params["execute.delay_ms"]
    earns = passes_without(proposal, terms.author)
    execution = Execution(due_at, cid, terms.author, earns, terms.change)
    # A stable sort: of what is due at one time, what was decided first is in force first.
    return tuple(sorted((*state.executions, execution), key=lambda each: each.due_at))


def _possible(state: State, cid: bytes, proposal: OpenProposal) -> bool:
    """Whether an accepted change would still change something, and leaves, after those that wait
    before it and with those behind it, parameters that fit together."""
    change = proposal.terms.change
    if change is None:
        return True
    if not executable(change):
        return training.possible(state, proposal.terms)
    if isinstance(change, UpgradeChange):
        return upgrades.possible(state, change)
    changes = (each.change for each in _scheduled(state, cid, proposal))
    return effective(change, state.params, state.humans) and fit_in_turn(state.params, changes)


def _fold_outcome(state: State, entry: Outcome, index: int) -> None:
    cid = entry.proposal
    proposal = state.open.pop(cid)
    state.forget_history()
    terms = proposal.terms
    state.closed.set(
        cid,
        Closed(
            entry.accepted,
            entry.reason,
            terms.index,
            index,
            terms.opened_at,
            state.time,
            terms.risk,
        ),
    )
    state.stats = state.stats.plus(
        accepted=int(entry.accepted),
        rejected=int(not entry.accepted),
        decision_ms=state.time - terms.opened_at,
    )
    if not entry.accepted and not (terms.by_verdicts and entry.reason == "impossible"):
        _judge(state, terms.author, False)  # two who accuse one are both right
    elif entry.accepted and passes_without(proposal, terms.author):  # not by its word alone
        _judge(state, terms.author, True)
    _reward_verdicts(state, cid, proposal, entry.accepted)
    if entry.accepted and executable(terms.change):
        state.executions = _scheduled(state, cid, proposal)
    elif entry.accepted:
        training.fold_accepted(state, cid, proposal, entry.interval, index)


def _judge(state: State, author: bytes, success: bool) -> None:
    step = succeeded if success else failed
    state.standings.set(author, step(state.standing(author), state.params))


def _reward_verdicts(state: State, cid: bytes, proposal: OpenProposal, accepted: bool) -> None:
    found = proposal.fetchable()
    if found is None:
        return
    author = proposal.terms.author
    for member, holds in sorted(proposal.verdicts.items()):
        if holds != found:
            _judge(state, member, False)
        elif accepted and member != author and passes_without(proposal, author, member):
            _judge(state, member, True)
            if member not in state.banned:
                mint = Mint(member, "validation", CREDITS["validation"], cid)
                state.mints = (*state.mints, mint)


# -- what is put in force ----------------------------------------------------------------------


def _execution(state: State, execution: Execution) -> ParameterEntry | HumanKeyEntry | StageEntry:
    change, cid = execution.change, execution.proposal
    if isinstance(change, UpgradeChange):
        return upgrades.begins(state, execution)
    if isinstance(change, ParameterChange):
        return ParameterEntry(proposal=cid, settings=change.settings)
    assert isinstance(change, HumanKeyChange)
    return HumanKeyEntry(proposal=cid, action=change.action, name=change.name, key=change.key)


def _fold_execution(state: State, entry: ParameterEntry | HumanKeyEntry, index: int) -> None:
    execution, *rest = state.executions
    state.executions = tuple(rest)
    changes = effective(execution.change, state.params, state.humans)
    if isinstance(entry, ParameterEntry):
        values = {each.name: each.value for each in entry.settings}
        origin = Origin(index, entry.proposal)
        state.params = {**state.params, **values}
        state.origins = {**state.origins, **dict.fromkeys(values, origin)}
    elif changes and entry.action == "add":
        state.humans = {**state.humans, entry.name: entry.key}
    elif changes:
        state.humans = {name: key for name, key in state.humans.items() if name != entry.name}
    if changes and execution.earns and execution.author not in state.banned:
        amount = CREDITS["migration"]
        mint = Mint(execution.author, "migration", amount, entry.proposal)
        state.mints = (*state.mints, mint)


def _fold_credit(state: State, entry: CreditEntry) -> None:
    credits, revalued = dict(state.credits), dict(state.revalued)
    for mint in entry.mints:
        who = mint.identity
        credits[who] = credits.get(who, 0) + mint.amount
        gain = earned(mint.amount, state.params["reputation.per_credit"])
        if gain and who not in state.banned:
            value = revalued.get(who, state.reputation_of(who)) + gain
            revalued[who] = min(value, MAX_WEIGHT - 1)
    state.credits, state.revalued = credits, revalued
    state.mints = state.mints[len(entry.mints) :]


def _reputation(state: State) -> ReputationEntry:
    values = sorted(state.revalued.items())[: 2 * MAX_MINTS]
    return ReputationEntry(values=tuple(Grant(who, value) for who, value in values))


# -- epochs ------------------------------------------------------------------------------------


def epoch_ends_at(state: State) -> int:
    """The ledger's time from which the epoch entry is due."""
    return state.epoch_started + state.params["council.epoch_ms"]


def epoch_entry(state: State) -> EpochEntry:
    """Who serves in the next epoch, as things are."""
    epoch = state.epoch + 1
    beacon = next_beacon(state.council.beacon, epoch, state.reveals)
    keys = _willing_keys(state)
    weights = {who: state.reputation_of(who) for who in keys}
    sitting = {seat.identity: seat for seat in state.council.seats}
    elected = elect(beacon, list(sitting), weights, state.banned, state.params["council.seats"])
    latency = _latencies(state)
    unknown = median_class((), len(sitting))
    seats = tuple(
        Seat(
            who,
            keys[who] if who in keys else sitting[who].key,
            state.reputation_of(who),
            latency.get(who, unknown),
        )
        for who in elected
    )
    members = tuple(
        Member(who, state.reputation_of(who), latency.get(who, unknown))
        for who in sorted({*keys, *elected})
        if who not in state.banned and exclusion.in_office(state, who)
    )
    return EpochEntry(epoch=epoch, beacon=beacon, seats=seats, members=members)


def _willing_keys(state: State) -> dict[bytes, bytes]:
    """The seat keys of all that would serve: members who say nothing stay with theirs."""
    keys = {seat.identity: seat.key for seat in state.council.seats}
    for who, candidate in state.candidates.items():
        if candidate.willing:
            keys[who] = candidate.key
        else:
            keys.pop(who, None)
    return {who: key for who, key in keys.items() if who not in state.banned}


def _latencies(state: State) -> dict[bytes, int]:
    """Latency classes by identity, of all that anybody measured."""
    measured: dict[bytes, list[int]] = {}
    for report in state.measured.values():
        for each in report:
            measured.setdefault(each.identity, []).append(each.milliseconds)
    seats = len(state.council.seats)
    return {who: median_class(times, seats) for who, times in measured.items()}


def fold_epoch(state: State, entry: EpochEntry, head: Head) -> None:
    """Begin the epoch that the entry at `head` names."""
    state.past = (*state.past, state.council)[-PAST_COUNCILS:]
    state.past_members = (*state.past_members, state.members)[-PAST_COUNCILS:]
    state.stats = state.stats.plus(
        epochs=1, seats_changed=changed_seats(state.council.seats, entry.seats)
    )
    state.council = Council(entry.epoch, entry.beacon, entry.seats, head)
    state.members = entry.members
    state.epoch_started = state.time
    state.candidates, state.reveals, state.measured = {}, {}, {}
    training.begin_epoch(state, entry)
    exclusion.begin_epoch(state)
