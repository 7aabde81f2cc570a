"""Exclusions: whoever was caught computing a training's sum or round wrongly loses its offices.

    proposal (the accused, the epoch, the evidence) -> verdicts ("wrong") -> outcome: excluded

Nobody votes on one: whether a sum is what its inputs make is no matter of opinion. The members of
the council of the epoch in which it was proposed recompute it (synapsed/training/proof.py), and
more than two thirds of their seats must find it wrong. So fewer than a third of liars exclude
nobody, and keep nobody in office. The outcome comes as soon as so many have said the same.

What it costs. From the next epoch on the accused is not among the members that tile groups and
aggregators are drawn from, for EXCLUDED epochs, and it has lost LOST of its reputation. Nobody
earns by it, neither who accused nor who judged: otherwise a liar of one's own would pay. An
accusation that members find false counts against its author like any failed proposal; and who has
no reputation cannot make the council compute, nor who has an accusation open already.

Once. Of one who is excluded nobody else says anything more, and afterwards nothing that was done
before the exclusion can be said: cases expire within as many epochs as an exclusion lasts. So
nobody is excluded twice for the same, and nothing but the newest exclusion need be remembered.

The plan. What a round or a sum comes to depends on the training's plan, and is recomputed by the
one in force. So a case must be of an epoch that began with that plan; or be the first plan's.
"""

from protocols.changes import ExclusionChange
from protocols.ledger.entries import NO_INTERVAL, Verdict
from protocols.ledger.errors import (
    ClashError,
    ExpiredError,
    InvalidEntryError,
    NoChangeError,
    NotAMemberError,
    NoWeightError,
    TooEarlyError,
    UnprovenError,
)
from protocols.ledger.quota import distrusted
from protocols.ledger.state import State
from protocols.ledger.trainings import EXCLUDED, LOST, Exclusion, Training
from protocols.ledger.voting import Terms

MILLE = 1000


def check_author(state: State, author: bytes, change: ExclusionChange) -> None:
    """Raise an InvalidEntryError unless this one may accuse that one now."""
    if author == change.accused:
        raise UnprovenError("nobody accuses itself")
    if not state.reputation_of(author):
        raise NoWeightError(
            "an accusation makes the whole council compute: who has no reputation cannot make one",
            remedy="tell the group's replicas: they recompute it, and accuse",
        )
    for proposal in state.open.values():
        if proposal.terms.author == author and isinstance(proposal.terms.change, ExclusionChange):
            raise TooEarlyError(
                "an accusation of its author is open already",
                remedy="wait for its outcome, which takes the council some minutes",
            )


def check_proposed(state: State, change: ExclusionChange) -> None:
    """Raise an InvalidEntryError unless this one could be excluded for what it did then."""
    training = state.trainings.get(change.training)
    if training is None:
        raise ClashError("an exclusion from a training that is not on the ledger")
    if change.epoch > state.epoch:
        raise TooEarlyError(f"a case of epoch {change.epoch}, in epoch {state.epoch}")
    members = state.members_of(change.epoch)
    if state.epoch - change.epoch > EXCLUDED or members is None:
        raise ExpiredError(f"a case of epoch {change.epoch} has expired in epoch {state.epoch}")
    if change.accused not in (member.identity for member in members):
        raise NotAMemberError(f"a case against somebody who had no office in epoch {change.epoch}")
    if change.accused in state.banned:
        raise NoChangeError("the accused was proven guilty, and has no office")
    found = state.exclusions.get(change.accused)
    if found is not None:
        raise NoChangeError(f"the accused is excluded until epoch {found.until}")
    if not plan_known(state, training, change.epoch):
        raise ClashError(
            f"in epoch {change.epoch} another plan than the one in force may have been followed"
        )


def plan_known(state: State, training: Training, epoch: int) -> bool:
    """Whether all that was made in `epoch` was made by the plan that is in force now."""
    council = state.council_of(epoch)
    if council is None:
        return False
    return training.index == training.opened or training.index < council.start.index


def possible(state: State, change: ExclusionChange) -> bool:
    """Whether what verdicts accept can still be carried out."""
    try:
        check_proposed(state, change)
    except InvalidEntryError:
        return False
    return True


def check_verdict(state: State, terms: Terms, member: bytes, said: Verdict) -> None:
    """Raise an InvalidEntryError unless the member judges this one."""
    council = state.council_of(terms.drawn)
    if council is None or council.seat_of(member) is None:
        raise NotAMemberError(f"a verdict of somebody without a seat in epoch {terms.drawn}")
    if said.interval != NO_INTERVAL:
        raise UnprovenError("an interval of what nobody measures")


def needed(seats: int) -> int:
    """Verdicts that exclude, of so many seats: more than two thirds."""
    return seats * 2 // 3 + 1


def fold_accepted(state: State, cid: bytes, change: ExclusionChange, index: int) -> None:
    """Carry out an exclusion, by the outcome at `index`."""
    who = change.accused
    lost = state.reputation_of(who) * LOST // MILLE
    found = Exclusion(
        identity=who,
        training=change.training,
        epoch=change.epoch,
        until=state.epoch + 1 + EXCLUDED,
        lost=lost,
        proposal=cid,
        index=index,
    )
    state.exclusions = {**state.exclusions, who: found}
    state.reweigh({who: state.reputation_of(who) - lost}, index)
    if who in state.revalued:
        state.revalued = {**state.revalued, who: max(0, state.revalued[who] - lost)}
    state.standings.set(who, distrusted(state.standing(who)))


def in_office(state: State, who: bytes) -> bool:
    """Whether one may serve tile groups and regions in the next epoch."""
    found = state.exclusions.get(who)
    return found is None or found.until <= state.epoch + 1


def begin_epoch(state: State) -> None:
    """Exclusions that end with the epoch that begins now."""
    left = {who: each for who, each in state.exclusions.items() if each.until > state.epoch}
    if len(left) < len(state.exclusions):
        state.exclusions = left
