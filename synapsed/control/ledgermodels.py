"""What the control socket says of the ledger, proposals and the council, and is told of them.

As in models.py: ids are text, hashes hexadecimal, times Unix seconds. Weights, reputation and
credits are the ledger's integers; shares (`quorum`, `threshold`) are fractions of 1.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocols.changes import MAX_SETTINGS
from synapsed.control.fields import (
    ApprovalSignature,
    Cids,
    CidText,
    KeyText,
    Name,
    NoteText,
    ParameterName,
    ParameterValue,
    RawSubmission,
    Text,
)

Choice = Literal["yes", "no", "abstain"]
Risk = Literal["low", "medium", "high", "critical"]
ProposalState = Literal["open", "accepted", "rejected"]
Role = Literal["member", "willing", "follower", "lost-state"]
"""In the council; would be; only reads; had a seat, and lost what it had signed (rule 7)."""


class Request(Struct, forbid_unknown_fields=True):
    """A request's body: a field that we do not know is an error, not a wish ignored."""


# -- the ledger -----------------------------------------------------------------------------


class CertificateInfo(Struct):
    """Signatures of more than two thirds of a council over (network, epoch, term, index, hash)."""

    kind: Literal["certified", "ratified"]
    epoch: int
    term: int
    index: int
    hash: str
    signers: list[str]
    """The members whose signatures it carries."""
    seats: int
    """Of their council: more than two thirds of these must sign."""


class LedgerInfo(Struct):
    """The ratified ledger, as far as this daemon has it."""

    network: str
    genesis: str
    """The hash of the first entry, which names the network's founders and rules."""
    index: int
    hash: str
    epoch: int
    time: float
    """The ledger's own: that of its last tick."""
    first: int
    """The oldest entry that is here: 0, or a checkpoint from which this daemon began."""
    heard: int
    """The highest index that a verified certificate has shown."""
    role: Role
    waiting: int
    """Submissions here that are not ratified yet."""
    certificate: CertificateInfo | None = None
    """Of the head. None for the genesis, which everybody was given."""
    warnings: list[str] = []


class LedgerGlance(Struct):
    """The ledger in one line of `status`."""

    index: int
    hash: str
    epoch: int
    time: float
    seats: int
    role: Role
    leader: str | None = None
    open_proposals: int = 0
    behind: int = 0
    """Ratified entries, that we know of, still to be fetched."""


class EntryInfo(Struct):
    """One entry. `body` is what it says, `summary` the same in a line for people."""

    index: int
    hash: str
    kind: str
    epoch: int
    time: float | None
    """The ledger's at that entry; None where its last tick before is not here."""
    size: int
    summary: str
    author: str | None = None
    """Who signed it; None for what the council writes by rule (ticks, outcomes, epochs)."""
    body: dict[str, Any] = {}


class Entries(Struct):
    """A run of the ledger, oldest first."""

    head: int
    entries: list[EntryInfo]


class EntryDetail(Struct):
    """One entry, and the certificate that covers it with all before it."""

    entry: EntryInfo
    previous: str
    payload: str
    """The entry's bytes in hexadecimal: what its hash is made of."""
    certificate: CertificateInfo | None = None


class Submitted(Struct):
    """What became of something that this daemon signed and submitted."""

    id: str
    """The submission's hash."""
    kind: str
    subject: str | None = None
    """The proposal's CID, where it is one or is about one."""
    index: int | None = None
    """Where it was ratified; None where nobody waited for that."""
    certificate: CertificateInfo | None = None
    seconds: float = 0.0
    """From the submission to its ratification."""
    work_seconds: float = 0.0
    """CPU time that a newcomer's proof of work took."""


class NoteRequest(Request):
    """A line for the audit trail, signed by this daemon."""

    text: NoteText


class SubmissionsRequest(Request):
    """Submissions that were signed elsewhere, each as its canonical bytes in base64."""

    submissions: Annotated[list[RawSubmission], Meta(min_length=1, max_length=1024)]


class RefusedSubmission(Struct):
    position: int
    """In the request, from 0."""
    error: str
    message: str
    remedy: str = ""
    status: int = 500
    """As in a Problem."""


class Submissions(Struct):
    """Those that were valid here are on their way; being ratified is another matter."""

    accepted: list[str]
    """Hashes, in the order of the request."""
    refused: list[RefusedSubmission] = []


# -- proposals ------------------------------------------------------------------------------


class ChangeInfo(Struct):
    """One parameter that a proposal would set."""

    name: str
    value: int
    before: int | None = None
    """In force now, or when it was decided; None where that is not known here any more."""
    unit: str = ""


class ProposalInfo(Struct):
    """A proposal and its count. Weights are the reputation of when it was opened."""

    cid: str
    title: str
    kind: str
    """What it would do: parameter, human-key, text, ..."""
    state: ProposalState
    risk: Risk
    """Computed from what it touches; its author has no say in it."""
    author: str
    opened: int
    opened_at: float
    closes_at: float
    """Of the vote, by the ledger's ticks; once it is closed, when it was."""
    lapses_at: float
    """Until then approvals and verdicts may still come."""
    weight: int
    """All weight there was when it was opened."""
    quorum: float | None = None
    """Share of all weight that must vote; None in a list of what is closed."""
    threshold: float | None = None
    """Share of yes among yes and no that it needs; likewise."""
    yes: int = 0
    no: int = 0
    abstain: int = 0
    voters: int = 0
    approvals: list[str] = []
    """Names of the human keys that approved it."""
    approvals_needed: int = 0
    fetchable: int = 0
    """Members that could fetch what it is about ..."""
    not_fetchable: int = 0
    """... and members that could not."""
    verdicts_needed: int = 0
    our_vote: Choice | None = None
    our_weight: int = 0
    closed: int | None = None
    """The index of its outcome, and `reason`, how it ended."""
    reason: str | None = None
    due_at: float | None = None
    """When an accepted change is to be in force; it is not yet."""
    in_force: int | None = None
    """The index from which its parameters are in force, until others replaced them all."""


class Proposals(Struct):
    proposals: list[ProposalInfo]


class VoteInfo(Struct):
    voter: str
    choice: Choice
    weight: int | None
    """None where it is not known here any more: the proposal is closed long since."""
    own: bool = False


class ApprovalInfo(Struct):
    name: str
    key: str
    index: int


class OutcomeInfo(Struct):
    """How it ended, and the entry that says so."""

    accepted: bool
    reason: str
    index: int
    time: float
    certificate: CertificateInfo | None = None


class ProposalDetail(Struct):
    """A proposal with all that the ledger has about it."""

    proposal: ProposalInfo
    text: str
    why: str
    """Why its risk class is what it is."""
    change: dict[str, Any] = {}
    """What would be done, as the manifest says it."""
    changes: list[ChangeInfo] = []
    links: list[str] = []
    votes: list[VoteInfo] = []
    """The last of each voter, heaviest first."""
    approvals: list[ApprovalInfo] = []
    outcome: OutcomeInfo | None = None
    ledger: str = ""
    """Of an open one: NETWORK/HASH, what approvals are signed for (`human sign --ledger`)."""


class ParameterChange(Request):
    name: ParameterName
    value: ParameterValue


class _Draft(Request, kw_only=True):
    """What every proposal has; `links` are manifests that it is about, fetched beforehand."""

    title: Name
    text: Text = ""
    links: Cids = []


class ParameterProposal(_Draft, tag_field="kind", tag="parameter"):
    """Set parameters of the network (`synapsectl params`), all or none."""

    changes: Annotated[list[ParameterChange], Meta(min_length=1, max_length=MAX_SETTINGS)]


class TextProposal(_Draft, tag_field="kind", tag="text"):
    """Decide something in words, upon which no daemon acts."""


class HumanKeyProposal(_Draft, tag_field="kind", tag="human-key"):
    """Let a human key approve what is risky, or no longer."""

    action: Literal["add", "remove"]
    name: Name
    key: KeyText


class AdoptionProposal(_Draft, tag_field="kind", tag="adoption"):
    """Have every daemon adopt a manifest of the kind that is stated."""

    what: Literal["adapter", "dataset", "expert", "kernel", "model"]
    manifest: CidText


ProposalRequest = ParameterProposal | TextProposal | HumanKeyProposal | AdoptionProposal
"""What `proposal create` submits: told apart by `kind`. Upgrades have a request of their own."""


class VoteRequest(Request):
    choice: Choice


class ApprovalRequest(Request):
    """A detached signature by a human key; `name` is the key's on the ledger."""

    key: KeyText
    signature: ApprovalSignature


# -- the council ----------------------------------------------------------------------------


class SeatInfo(Struct):
    """One member of the council."""

    seat: int
    peer_id: str
    weight: int
    """Its reputation when it was seated: the draw's, not its vote's, for each seat signs once."""
    latency_class: int
    """The median of the round trips that members measured is below 2**this ms; 16: unknown."""
    key: str
    live: bool
    last_signed: int | None = None
    """The highest index that its signature in a certificate of this epoch covers, seen here."""
    own: bool = False
    leads: bool = False


class CandidateInfo(Struct):
    """A daemon that stands for the next epoch's council."""

    peer_id: str
    reputation: int
    own: bool = False


class CouncilInfo(Struct):
    """The council of this epoch."""

    epoch: int
    start: int
    """The index of the epoch entry (or genesis) that seated it."""
    ends_at: float
    """When its epoch is due to end, by the ledger's ticks."""
    beacon: str
    term: int
    """The newest that this daemon has seen."""
    leader: str | None
    quorum: int
    liars: int
    """So many members may lie, and no two ratified entries have one index."""
    down: int
    """So many may be down, and it goes on."""
    role: Role
    seats: list[SeatInfo]
    seat: int | None = None
    """Ours."""
    candidates: list[CandidateInfo] = []
    guilty: list[str] = []
    """Members proven to have signed what excludes each other: out at the next epoch."""
    warnings: list[str] = []
    """Where nothing is ratified: since when, and who is missing, as far as this daemon sees."""


class ReputationInfo(Struct):
    """What the ledger says of one identity."""

    peer_id: str
    reputation: int
    share: float
    """Of all reputation: its share of a vote that opens now."""
    credits: int
    trust: Literal["newcomer", "trusted"]
    successes: int
    """In a row: three make a newcomer trusted."""
    failures: int
    """In a row: five make it a newcomer again."""
    quota: int
    """Submissions a day."""
    left: int
    work_bits: int
    """Of the proof of work that each submission of it needs; 0 for none."""
    banned: bool = False
    """Proven guilty: it has lost all weight."""
    own: bool = False
    seat: int | None = None


class Reputations(Struct):
    """Identities that the ledger knows, highest first."""

    total: int
    reputations: list[ReputationInfo]


class ParamInfo(Struct):
    """A parameter of the network, and what made it so."""

    name: str
    value: int
    default: int
    least: int
    most: int
    unit: str
    risk: Risk
    text: str
    origin: Literal["default", "genesis", "ledger"]
    index: int | None = None
    """The parameter entry, where the ledger changed it."""
    proposal: str | None = None
    certificate: CertificateInfo | None = None
    local: str | None = None
    """What this daemon uses instead, and why: its owner's configuration comes first."""


class Params(Struct):
    params: list[ParamInfo]


# -- counters -------------------------------------------------------------------------------


class LedgerCounters(Struct):
    """Of the ratified ledger, for Prometheus. All but the last five are the log's own."""

    index: int
    epoch: int
    time: float
    proposals: dict[str, int]
    """By state: open, accepted, rejected."""
    decision_s: float
    """Sum over outcomes: from the opening to it, in the ledger's time (contract B3)."""
    seats: int
    seats_changed: int
    """Seats that epochs gave to somebody else (contract B7)."""
    epochs: int
    guilt: int
    entries: dict[str, int]
    """Ratified here since the start, by kind."""
    term: int
    terms_lost: int
    """Terms that ended by time-outs since the start."""
    consensus_ms: dict[str, float]
    """p50 and p99 from an entry's first sight here to its ratification here, lately."""
    waiting: int
