"""A proposal while it is open: its terms, its count, and when and how it ends.

Everything that decides is fixed when it is opened: the weights of all voters, the quorum and the
threshold of its risk class, how many human keys and verdicts it needs. Each voter's last vote
before the close counts. A tie rejects.

    opened -- votes --> closes -- approvals and verdicts may still come --> lapses
                        |- rejected by the votes: outcome        |- something is missing: outcome
                        |- nothing missing: outcome
"""

import msgspec

from protocols.changes import (
    AdoptionChange,
    Change,
    CheckpointChange,
    ExclusionChange,
    TrainingChange,
    UpgradeChange,
    touched,
)
from protocols.ledger.entries import ABSTAIN, NO, YES, Ballot, Claim, Interval, Reason
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.reputation import Weights
from protocols.manifest import ProposalManifest
from protocols.risk import Risk

MILLE = 1000


class Terms(msgspec.Struct, frozen=True):
    """What was fixed at the opening."""

    manifest: ProposalManifest
    index: int
    """Of the entry that opened it."""
    epoch: int
    """That votes on it name."""
    opened_at: int
    closes_at: int
    lapses_at: int
    risk: Risk
    quorum: int
    """Thousandths of all weight that must vote."""
    threshold: int
    """Thousandths of yes and no that must be yes."""
    approvals: int
    """Human keys that must approve."""
    verdicts: int
    """Members that must find what it names fetchable, sound, improved or wrong."""
    drawn: int
    """The epoch whose council judges a checkpoint (and whose beacon draws its sample) or an
    exclusion; else 0."""

    @property
    def author(self) -> bytes:
        """Who proposed it."""
        return self.manifest.author

    @property
    def change(self) -> Change | None:
        """What it changes."""
        return self.manifest.change

    @property
    def by_verdicts(self) -> bool:
        """Whether members' verdicts alone decide: nobody votes on what can be recomputed."""
        return isinstance(self.change, ExclusionChange)

    @property
    def claim(self) -> Claim:
        """What verdicts on it say."""
        if isinstance(self.change, CheckpointChange):
            return "improved"
        if self.by_verdicts:
            return "wrong"
        return "sound" if isinstance(self.change, UpgradeChange) else "fetchable"


class Decision(msgspec.Struct, frozen=True):
    """How a proposal ends if it ends now."""

    accepted: bool
    reason: Reason


class OpenProposal:
    """Terms, and what was said since. A fork may be written to, what it came from too."""

    __slots__ = ("approvals", "count", "intervals", "terms", "verdicts", "votes", "weights")

    def __init__(self, terms: Terms, weights: Weights) -> None:
        self.terms = terms
        self.weights = weights
        self.votes: ForkMap[int] = ForkMap()
        """voter -> number * 4 + choice."""
        self.count = [0, 0, 0]
        """Weight of no, yes and abstain."""
        self.verdicts: dict[bytes, bool] = {}
        """By member. Replaced, never written to."""
        self.intervals: dict[bytes, Interval] = {}
        """What those members measured of a checkpoint. Replaced, never written to."""
        self.approvals: dict[bytes, int] = {}
        """By human key: the index of the entry. Replaced, never written to."""

    def fork(self) -> "OpenProposal":
        """A twin that can be written to."""
        twin = OpenProposal(self.terms, self.weights)
        twin.votes = self.votes.fork()
        twin.count = list(self.count)
        twin.verdicts = self.verdicts
        twin.intervals = self.intervals
        twin.approvals = self.approvals
        return twin

    def vote_of(self, voter: bytes) -> tuple[int, int] | None:
        """(number, choice) of a voter's vote in force."""
        packed = self.votes.get(voter)
        return None if packed is None else (packed >> 2, packed & 3)

    def number_of(self, voter: bytes) -> int:
        """Of its vote in force; 0 for none."""
        packed = self.votes.get(voter)
        return 0 if packed is None else packed >> 2

    def take(self, ballot: Ballot) -> None:
        """Count a checked vote in its voter's former one's place."""
        voter = ballot.voter
        weight = self.weights.points[voter]
        before = self.votes.get(voter)
        if before is not None:
            self.count[before & 3] -= weight
        self.count[ballot.choice] += weight
        self.votes.set(voter, ballot.number << 2 | ballot.choice)

    def findings(self) -> tuple[int, int]:
        """Members' verdicts, for and against."""
        holds = sum(self.verdicts.values())
        return holds, len(self.verdicts) - holds

    def fetchable(self) -> bool | None:
        """What the verdicts decided; None where neither side has enough."""
        holds, fails = self.findings()
        if self.terms.verdicts and holds >= self.terms.verdicts:
            return True
        if self.terms.verdicts and fails >= self.terms.verdicts:
            return False
        return None


_MISSING: dict[Claim, Reason] = {
    "fetchable": "not-fetchable",
    "sound": "unsound",
    "improved": "not-improved",
    "wrong": "not-wrong",
}


def needs_verdicts(manifest: ProposalManifest) -> bool:
    """Whether members must have fetched something before it can be accepted."""
    return bool(manifest.depends_on) or bool(touched(manifest.change))


def judged(terms: Terms, count: list[int], total: int) -> Decision:
    """What the votes alone decide, of `total` weight."""
    yes, no = count[YES], count[NO]
    if not total or (yes + no + count[ABSTAIN]) * MILLE < terms.quorum * total:
        return Decision(False, "no-quorum")
    if yes == no:
        return Decision(False, "tie")
    if yes * MILLE < terms.threshold * (yes + no):  # which is at least half
        return Decision(False, "rejected")
    return Decision(True, "accepted")


def decided(proposal: OpenProposal, time: int, approving: int) -> Decision | None:
    """How the proposal ends at the ledger's `time`; None while it is open.

    `approving` is the number of human keys of now that approved it.
    """
    terms = proposal.terms
    if time < terms.closes_at:
        return None
    voted = judged(terms, proposal.count, proposal.weights.total)
    if terms.by_verdicts:
        voted = Decision(True, "accepted")
    if not voted.accepted:
        return voted
    fetchable = proposal.fetchable() if terms.verdicts else True
    missing = _MISSING[terms.claim]
    if fetchable is False:
        return Decision(False, missing)
    if fetchable and approving >= terms.approvals:
        return voted
    if time < terms.lapses_at:
        return None
    return Decision(False, "not-approved" if fetchable else missing)


def passes_without(proposal: OpenProposal, *left_out: bytes) -> bool:
    """Whether the votes accept it without some identities' votes and weight.

    Who would earn by it is left out, so that nobody's own vote helps it to earn. What nobody votes
    on passes so never: nobody earns by it.
    """
    count, total = list(proposal.count), proposal.weights.total
    for voter in set(left_out):
        weight = proposal.weights.points.get(voter, 0)
        total -= weight
        vote = proposal.vote_of(voter)
        if vote is not None:
            count[vote[1]] -= weight
    return judged(proposal.terms, count, total).accepted


def executable(change: Change | None) -> bool:
    """Whether an accepted change is put in force by an entry of its own."""
    return change is not None and not isinstance(
        change, AdoptionChange | TrainingChange | CheckpointChange | ExclusionChange
    )


def kind_of(change: Change | None) -> str:
    """The word for what a proposal does."""
    return "text" if change is None else str(change.__struct_config__.tag)
