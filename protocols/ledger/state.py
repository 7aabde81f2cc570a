"""What the ledger's entries add up to: plain data, and how it is copied.

Dicts and tuples here are replaced, never written to, so that a copy shares them; what grows with
every entry is a ForkMap, and an open proposal is forked by whoever writes to it first.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from protocols.changes import Change
from protocols.ledger.chain import Head, Spine
from protocols.ledger.council import Council
from protocols.ledger.election import Candidate
from protocols.ledger.entries import Grant, Measured, Member, Mint, Reason, Row
from protocols.ledger.errors import NotOpenError, UnknownProposalError
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.quota import DAY_MS, NEWCOMER, Standing
from protocols.ledger.reputation import Weights
from protocols.ledger.rollout import SlotState, untouched
from protocols.ledger.trainings import Exclusion, Training, head_of, lineage_of
from protocols.ledger.voting import OpenProposal
from protocols.realm import Realm
from protocols.risk import Risk

MAX_LIFE_MS = 3600 * 1000
"""A submission expires within this of the ledger's time: an hour outlasts a council's worst
stall, and so long is every submission remembered."""
WINDOW_MS = MAX_LIFE_MS // 4
"""Submissions are forgotten by such spans of their expiry."""
ANCHORS = MAX_LIFE_MS // WINDOW_MS + 1
"""A proof of work is good as long as its submission may live."""
MAX_OPEN_OF_ONE = 8
"""Proposals of one author at once."""
MAX_OPEN = 384
"""Proposals at once. Above MAX_OPEN_SMALL there is room only for who has a LARGE part of all
reputation, and enough for everybody who can have: no crowd of names shuts them out."""
MAX_OPEN_SMALL = 128
"""... of which authors with less may fill so many,"""
MAX_OPEN_STRANGERS = 64
"""... and authors without reputation so many."""
LARGE = (MAX_OPEN - MAX_OPEN_SMALL) // MAX_OPEN_OF_ONE
"""One in so many parts of all reputation: 1/32."""
PAST_COUNCILS = 16
"""Epochs back in which guilt is still punished."""


class Origin(Row, frozen=True):
    """What put a parameter's value in force."""

    index: int
    proposal: bytes


class Closed(Row, frozen=True):
    """A proposal that has its outcome."""

    accepted: bool
    reason: Reason
    opened: int
    """Index of the entry that opened it, and of its outcome: `closed`."""
    closed: int
    opened_at: int
    closed_at: int
    risk: Risk


class Reweighing(Row, frozen=True):
    """What an entry changed of the reputation, as it was before it."""

    index: int
    """Of the entry, and of the one that had changed it last: `before`."""
    before: int
    values: tuple[Grant, ...]
    """By rising identity."""


class Execution(Row, frozen=True):
    """An accepted change that is to be in force from `due_at` on."""

    due_at: int
    proposal: bytes
    author: bytes
    earns: bool
    """Whether its author gets the credits."""
    change: Change


class Stats(Row, frozen=True):
    """Counted from the entries (contract B3, B7, I4)."""

    proposals: int = 0
    accepted: int = 0
    rejected: int = 0
    decision_ms: int = 0
    """Sum over outcomes: from the opening to the outcome, in the ledger's time."""
    epochs: int = 0
    """Epoch entries."""
    seats_changed: int = 0
    """Seats that those gave to somebody else."""
    guilt: int = 0

    def plus(self, **more: int) -> "Stats":
        """With some counters raised."""
        raised = {name: getattr(self, name) + count for name, count in more.items()}
        return msgspec.structs.replace(self, **raised)

    @property
    def approval_rate(self) -> float | None:
        """Accepted proposals among those decided."""
        decided = self.accepted + self.rejected
        return self.accepted / decided if decided else None

    @property
    def rotation(self) -> float | None:
        """Seats changed an epoch."""
        return self.seats_changed / self.epochs if self.epochs else None

    @property
    def mean_decision_ms(self) -> float | None:
        """From a proposal's opening to its outcome."""
        decided = self.accepted + self.rejected
        return self.decision_ms / decided if decided else None


class State:
    """The fold's fields. Times are the ledger's, in milliseconds."""

    __slots__ = (
        "_digest",
        "_known",
        "_owned",
        "anchors",
        "banned",
        "candidates",
        "checkpoint",
        "closed",
        "council",
        "credits",
        "datasets",
        "epoch_started",
        "exclusions",
        "executions",
        "genesis",
        "history",
        "humans",
        "measured",
        "members",
        "mints",
        "network",
        "open",
        "origins",
        "params",
        "past",
        "past_members",
        "recent",
        "revalued",
        "reveals",
        "slots",
        "spine",
        "standings",
        "stats",
        "time",
        "trainings",
        "weights",
    )

    network: str
    genesis: bytes
    """The chain hash of the first entry."""
    spine: Spine
    council: Council
    past: tuple[Council, ...]
    """Of the epochs before, the newest last."""
    past_members: tuple[tuple[Member, ...], ...]
    """... and who served in them: what was decided in a tile group is checked against its members
    of then."""
    time: int
    epoch_started: int
    params: Mapping[str, int]
    origins: Mapping[str, Origin]
    """Of the parameters that a proposal has set."""
    weights: Weights
    history: tuple[Reweighing, ...]
    """How the reputation came to be what it is, back to what the oldest open proposal was opened
    with: so that a saved state has the whole of it once, and not once for each proposal."""
    revalued: Mapping[bytes, int]
    """Reputation that is earned and stands in no entry yet."""
    credits: Mapping[bytes, int]
    mints: tuple[Mint, ...]
    """Credits that are proven and stand in no entry yet."""
    humans: Mapping[str, bytes]
    banned: Mapping[bytes, int]
    """Who was proven guilty, and the index of the entry that did it."""
    open: dict[bytes, OpenProposal]
    closed: ForkMap[Closed]
    executions: tuple[Execution, ...]
    """In the order in which they are due."""
    standings: ForkMap[Standing]
    recent: Mapping[int, ForkMap[bool]]
    """Submissions that have not expired, by the span (WINDOW_MS) of their expiry."""
    anchors: tuple[bytes, ...]
    """Chain hashes of the first tick of each of the last spans (WINDOW_MS), the newest last: what
    proofs of work are made for."""
    candidates: Mapping[bytes, Candidate]
    reveals: Mapping[int, bytes]
    """Secrets by seat."""
    measured: Mapping[int, tuple[Measured, ...]]
    """Round trips by the seat that measured them."""
    members: tuple[Member, ...]
    slots: Mapping[str, SlotState]
    """By name, those that an upgrade ever touched."""
    trainings: Mapping[bytes, Training]
    """By lineage."""
    datasets: Mapping[bytes, int]
    """Adopted ones, and the index of the outcome: each earns its author credits once."""
    exclusions: Mapping[bytes, Exclusion]
    """By identity, those that have not ended."""
    checkpoint: int
    """Index of the last checkpoint entry; 0 for none."""
    stats: Stats

    def __init__(self) -> None:
        self._owned: set[bytes] = set()
        self._digest: bytes | None = None
        self._known: dict[tuple[bytes, bytes], Any] = {}
        """What was applied to a copy of this state: see LedgerState.apply_again."""

    # -- reading --

    @property
    def head(self) -> Head:
        """The newest entry."""
        return self.spine.head

    @property
    def realm(self) -> Realm:
        """What signatures for this ledger name."""
        return Realm(self.network, self.genesis)

    @property
    def epoch(self) -> int:
        """Whose council the next entry is for."""
        return self.council.epoch

    @property
    def start(self) -> int:
        """Index of the epoch entry (or genesis) that began this epoch."""
        return self.council.start.index

    @property
    def reputation(self) -> Mapping[bytes, int]:
        """By identity; who is not there has none."""
        return self.weights.points

    @property
    def day(self) -> int:
        """The ledger's, for quotas."""
        return self.time // DAY_MS

    def reputation_of(self, identity: bytes) -> int:
        """0 for whom the ledger does not know."""
        return self.weights.points.get(identity, 0)

    @property
    def anchor(self) -> bytes:
        """What a proof of work is to be made for."""
        return self.anchors[-1]

    def standing(self, author: bytes) -> Standing:
        """An author's counters."""
        return self.standings.get(author) or NEWCOMER

    def slot(self, name: str) -> SlotState:
        """A slot's versions and its rollout; the reference where nothing ever touched it."""
        return self.slots.get(name) or untouched(name)

    def council_of(self, epoch: int) -> Council | None:
        """The council of this epoch or one of the last."""
        for council in (self.council, *reversed(self.past)):
            if council.epoch == epoch:
                return council
        return None

    def members_of(self, epoch: int) -> tuple[Member, ...] | None:
        """Who served in this epoch or one of the last."""
        if epoch == self.epoch:
            return self.members
        for council, members in zip(self.past, self.past_members, strict=True):
            if council.epoch == epoch:
                return members
        return None

    def head_of(self, model: bytes) -> bytes:
        """The manifest that newcomers pull and `generate` uses for a model: the newest ratified
        checkpoint of its training, itself where there is none."""
        return head_of(self.trainings, model)

    def training_of(self, model: bytes) -> Training | None:
        """The training that a model began, or is a ratified checkpoint of."""
        return self.trainings.get(lineage_of(self.trainings, model) or b"")

    def opened(self, proposal: bytes, what: str) -> OpenProposal:
        """A proposal without outcome, for `what` about it. Raises NotOpenError."""
        found = self.open.get(proposal)
        if found is not None:
            return found
        if proposal in self.closed:
            raise NotOpenError(f"{what} about a proposal that has its outcome")
        raise UnknownProposalError(
            f"{what} about a proposal that is not on the ledger",
            remedy="wait until the proposal is ratified",
        )

    # -- writing --

    def reweigh(self, values: Mapping[bytes, int], index: int) -> None:
        """Give some identities new reputation, by the entry at `index`."""
        former = tuple(Grant(who, self.reputation_of(who)) for who in sorted(values))
        self.history = (*self.history, Reweighing(index, self.weights.index, former))
        self.weights = self.weights.changed(values.items(), index)
        self.forget_history()

    def forget_history(self) -> None:
        """Drop what no open proposal was opened before."""
        oldest = min(
            (proposal.weights.index for proposal in self.open.values()), default=self.weights.index
        )
        if self.history and self.history[0].index <= oldest:
            self.history = tuple(each for each in self.history if each.index > oldest)

    def own(self, proposal: bytes) -> OpenProposal:
        """An open proposal, to be written to."""
        found = self.open[proposal]
        if proposal not in self._owned:
            found = self.open[proposal] = found.fork()
            self._owned.add(proposal)
        return found

    def copy_into(self, twin: "State") -> None:
        """Make `twin`, new or not, the same, and independent."""
        for name in _SHARED:
            setattr(twin, name, getattr(self, name))
        twin.open = dict(self.open)
        twin.closed = self.closed.fork()
        twin.standings = self.standings.fork()
        twin.recent = {span: known.fork() for span, known in self.recent.items()}
        self._owned, twin._owned = set(), set()


_SHARED = tuple(
    name
    for name in State.__slots__
    if name not in ("_owned", "open", "closed", "standings", "recent")
)
