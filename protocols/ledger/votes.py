"""Votes and approvals: whether the ledger allows them, and how they are counted."""

import itertools
from collections.abc import Callable, Sequence

from protocols.envelope import Verify
from protocols.ledger.entries import MAX_BATCH, Approval, Ballot, Poll, Vote, Votes
from protocols.ledger.errors import (
    BadSignatureError,
    BannedError,
    EntryTooLargeError,
    ExpiredError,
    FullError,
    MalformedEntryError,
    NotAHumanKeyError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
)
from protocols.ledger.signing import approval_message, vote_message
from protocols.ledger.state import State
from protocols.ledger.voting import OpenProposal
from protocols.peerid import public_key_of

Signed = tuple[bytes, bytes, bytes]
"""(public key, message, signature)."""
VerifyMany = Callable[[Sequence[Signed]], bool]
"""Whether all of some signatures verify."""


def check_votes(state: State, votes: Votes, verify_many: VerifyMany) -> None:
    """Raise an InvalidEntryError unless every vote of the batch may be counted."""
    polls = votes.polls
    if sum(len(poll.ballots) for poll in polls) > MAX_BATCH:
        raise EntryTooLargeError(f"more than {MAX_BATCH} votes in one entry")
    for one, other in itertools.pairwise(polls):
        if one.proposal >= other.proposal:
            raise MalformedEntryError("the proposals of a batch are out of order, or one is twice")
    signed: list[Signed] = []
    for poll in polls:
        _check_poll(state, poll, signed)
    if not verify_many(signed):
        raise BadSignatureError("a vote that is not its voter's, for this ledger")


def check_vote(state: State, vote: Vote, verify: Verify) -> None:
    """Raise an InvalidEntryError unless the vote may be counted on its own."""
    ballot = Ballot(vote.voter, vote.choice, vote.number, vote.signature)
    signed: list[Signed] = []
    _check_poll(state, Poll(vote.proposal, vote.epoch, [ballot]), signed)
    if not verify(*signed[0]):
        raise BadSignatureError("a vote that is not its voter's, for this ledger")


def _voted_on(state: State, proposal: bytes, epoch: int) -> OpenProposal:
    found = state.opened(proposal, "a vote")
    if state.time >= found.terms.closes_at:
        raise NotOpenError("the vote on the proposal has closed")
    if epoch != found.terms.epoch:
        raise ExpiredError(
            f"a vote for epoch {epoch} on a proposal of epoch {found.terms.epoch}",
            remedy="a vote names the epoch in which its proposal was opened",
        )
    return found


def _check_poll(state: State, poll: Poll, signed: list[Signed]) -> None:
    # 100 votes an entry and thousands a second: this loop is what following a ledger costs
    # beside its signatures.
    cid, epoch = poll.proposal, poll.epoch
    proposal = _voted_on(state, cid, epoch)
    points, banned, realm = proposal.weights.points, state.banned, state.realm
    most = state.params["vote.numbers"]
    messages: dict[tuple[int, int], bytes] = {}
    before = b""
    for ballot in poll.ballots:
        voter, number, choice = ballot.voter, ballot.number, ballot.choice
        if voter <= before:
            raise MalformedEntryError("the voters of a batch are out of order, or one is twice")
        before = voter
        if voter not in points:
            raise NoWeightError("a vote of somebody without reputation when it was opened")
        if voter in banned:
            raise BannedError("a vote of somebody who was proven guilty")
        if number <= proposal.number_of(voter):
            raise ReplayedError("an older vote than the one that is counted")
        if number > most:
            raise FullError(f"a voter's vote number {number}, where {most} is the last")
        said = (choice, number)
        message = messages.get(said)
        if message is None:
            message = messages[said] = vote_message(realm, cid, choice, epoch, number)
        signed.append((public_key_of(voter), message, ballot.signature))


def fold_votes(state: State, votes: Votes) -> None:
    """Count a checked batch."""
    for poll in votes.polls:
        take = state.own(poll.proposal).take
        for ballot in poll.ballots:
            take(ballot)


def check_approval(state: State, approval: Approval, verify: Verify) -> None:
    """Raise an InvalidEntryError unless a named human key approves an open proposal anew."""
    proposal = state.opened(approval.proposal, "an approval")
    if state.time >= proposal.terms.lapses_at:
        raise NotOpenError("the time for approvals is over")
    if approval.key not in state.humans.values():
        raise NotAHumanKeyError("an approval by a key that the ledger does not name")
    if not proposal.terms.approvals:
        raise NotOpenError(f"a proposal of class {proposal.terms.risk.word} needs no approval")
    if approval.key in proposal.approvals:
        raise ReplayedError("a key's second approval of one proposal")
    message = approval_message(state.realm, approval.proposal)
    if not verify(approval.key, message, approval.signature):
        raise BadSignatureError("an approval that the key did not sign, for this ledger")


def fold_approval(state: State, approval: Approval, index: int) -> None:
    """Count a checked approval."""
    proposal = state.own(approval.proposal)
    proposal.approvals = {**proposal.approvals, approval.key: index}
