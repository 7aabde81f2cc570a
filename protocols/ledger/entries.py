"""Entries of the ledger: what each kind says, what is signed in it, and how large it may be.

    genesis                             the first, made by the founders; nothing signs it
    submission                          signed by its author, with a body of one of these kinds:
      note          a line for the audit trail
      proposal      a ProposalManifest's bytes: their CID is the proposal's name
      verdict       a member's finding about a proposal
      candidacy     willing to serve in the next epoch; a new seat key, a commitment
      reveal        a member's secret behind its commitment: part of the next beacon
      latency       round trips that a member measured
      guilt         the proof that a member lied
      report        what a daemon measured of an upgrade in one stage of its rollout
    votes                               many voters' signed votes
    approval                            a named human key's detached signature
    tick, outcome, parameter, human-key, stage, credit, reputation, epoch, checkpoint
                                        written by the leader, and valid only if they are what
                                        the ledger before them says

An entry is the canonical DAG-CBOR of one of these structs. Signatures are over a domain of the
network and the use, and canonical DAG-CBOR (ledger/signing.py).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import libipld
import msgspec

from protocols.changes import MAX_SETTINGS, Setting, ShortName, SlotName, VersionNumber
from protocols.codec import Message, decode_plain, encode
from protocols.errors import LimitError, MalformedError
from protocols.ledger.chain import Hash, Index
from protocols.ledger.council import MAX_SEATS, Guilt, PeerId, PublicKey, Seat, Signature
from protocols.ledger.errors import EntryTooLargeError, MalformedEntryError
from protocols.manifest import CidBytes

MAX_GENESIS = 1 << 20
"""Bytes: MAX_FOUNDING grants take 740 KB."""
MAX_ENTRY = 128 << 10
"""Bytes of any other entry: an epoch entry with all its members takes 60 KB."""
MAX_SUBMISSION = 64 << 10
"""Bytes: the longest proof of guilt takes 62 KB."""
MAX_NOTE = 1024
MAX_PROPOSAL = 32 << 10
"""Bytes of a proposal's manifest: a full description takes 16 KB, as many links 3 KB."""
MAX_BATCH = 512
"""Votes in one entry: 59 KB, and 20 ms of checking signatures."""
MAX_MEMBERS = 1024
"""Of an epoch, beside its council: those that rank for tiles."""
MAX_MEASURED = 1024
MAX_HUMANS = 64
MAX_MINTS = 256
MAX_FOUNDING = 16384
MAX_NUMBER = 1 << 31
MAX_WEIGHT = 1 << 48
"""Of one identity: rendezvous.MAX_WEIGHT. Sums of all stay below 2^63."""
MAX_TIME = 1 << 53
"""Milliseconds since 1970."""

Millis = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TIME)]
Weight = Annotated[int, msgspec.Meta(ge=0, lt=MAX_WEIGHT)]
Sum = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Index
NoteText = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NOTE)]
LatencyClass = Annotated[int, msgspec.Meta(ge=0, le=16)]

NO, YES, ABSTAIN = 0, 1, 2
CHOICES = ("no", "yes", "abstain")
Choice = Annotated[int, msgspec.Meta(ge=NO, le=ABSTAIN)]
Number = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
Claim = Literal["fetchable", "sound", "improved", "wrong"]
Permille = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
MAX_GAIN = 1_000_000_000
"""Millionths, either way: a thousand times as good, or as bad."""
Gain = Annotated[int, msgspec.Meta(ge=-MAX_GAIN, le=MAX_GAIN)]


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what stands many times in one entry: an array, without names."""


class Interval(Row, frozen=True):
    """By how much a checkpoint is better than its parent, in millionths of a nat a token."""

    low: Gain
    mean: Gain
    high: Gain

    def __post_init__(self) -> None:
        if not self.low <= self.mean <= self.high:
            raise MalformedError("an interval whose ends are not on both sides of its mean")


NO_INTERVAL = Interval(0, 0, 0)
"""Where nothing was measured."""


# -- the beginning ----------------------------------------------------------------------------


class Founder(Row, frozen=True):
    """A seat of the first council."""

    identity: PeerId
    key: PublicKey
    name: Annotated[str, msgspec.Meta(max_length=128)]
    """What people call it; nothing is decided by it."""


class Grant(Row, frozen=True):
    """Reputation that nobody earned: the founders' word."""

    identity: PeerId
    amount: Weight


class HumanKey(Row, frozen=True):
    """A person whose signature high and critical proposals need."""

    name: ShortName
    key: PublicKey


class Genesis(Message, frozen=True, tag_field="kind", tag="genesis"):
    """Lists rise by identity, name or parameter."""

    network: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    time: Millis
    seats: Annotated[tuple[Founder, ...], msgspec.Meta(min_length=1, max_length=MAX_SEATS)]
    reputation: Annotated[tuple[Grant, ...], msgspec.Meta(max_length=MAX_FOUNDING)]
    humans: Annotated[tuple[HumanKey, ...], msgspec.Meta(max_length=MAX_HUMANS)]
    parameters: Annotated[tuple[Setting, ...], msgspec.Meta(max_length=1024)]


# -- what authors submit -----------------------------------------------------------------------


class Note(Message, frozen=True, tag_field="kind", tag="note"):
    """A line for the audit trail."""

    text: NoteText


class Proposal(Message, frozen=True, tag_field="kind", tag="proposal"):
    """A ProposalManifest by the submission's author, as the bytes that its CID names."""

    manifest: Annotated[bytes, msgspec.Meta(max_length=MAX_PROPOSAL)]


class Verdict(Message, frozen=True, tag_field="kind", tag="verdict", omit_defaults=True):
    """A member's finding about what a proposal names.

    fetchable  the manifests, with their files, could be fetched and are of the kinds it states
    sound      so could an upgrade's, and its module passed this member's own check
    improved   so could a checkpoint's, its rounds and shares are what its evidence says, and
               `interval`, which this member measured, is above the training's margin
    """

    proposal: CidBytes
    claim: Claim
    holds: bool
    interval: Interval = NO_INTERVAL


class Candidacy(Message, frozen=True, tag_field="kind", tag="candidacy"):
    """Whether its author would serve in `epoch`, the next one.

    `key` is the seat key that it would have, and `possession` that key's signature over
    (identity, epoch, key): nobody can be seated with a key of somebody else's. `commitment` is
    `commitment_to(secret)` of a secret that a member of the present council reveals later.
    """

    epoch: Epoch
    willing: bool
    key: PublicKey
    possession: Signature
    commitment: Hash


class Reveal(Message, frozen=True, tag_field="kind", tag="reveal"):
    """The secret behind a member's commitment for `epoch`."""

    epoch: Epoch
    secret: Hash


class Measured(Row, frozen=True):
    """A round trip to a member or candidate."""

    identity: PeerId
    milliseconds: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class Latency(Message, frozen=True, tag_field="kind", tag="latency"):
    """What a member of the council measured for the election of `epoch`, by rising identity."""

    epoch: Epoch
    measured: Annotated[tuple[Measured, ...], msgspec.Meta(max_length=MAX_MEASURED)]


class GuiltProof(Message, frozen=True, tag_field="kind", tag="guilt"):
    """That a member of the council lied; its author is the reporter."""

    proof: Guilt


class Report(Message, frozen=True, tag_field="kind", tag="report"):
    """What its author found out about an upgrade in one stage of its rollout.

    ready     shadow: the module is here, is compiled, and answers beside the incumbent
    measured  in the stage's cohort: `gain` over `pairs` of operations
    failed    it does not run here
    refused   its owner does not want it
    """

    proposal: CidBytes
    stage: Permille
    status: Literal["ready", "measured", "failed", "refused"]
    pairs: Count
    """Operations with the candidate that have one with the incumbent beside them."""
    gain: Gain
    """Of the slot's goal, in millionths of the incumbent's; positive is better."""
    calls: Count
    """Of the candidate, shadow included."""
    traps: Count
    """... of which ended without an answer,"""
    disagreements: Count
    """... and of which answered otherwise than the incumbent."""
    fuel: Count
    """Of all that both did, in thousandths of the incumbent's; 0 where that is unknown."""

    def __post_init__(self) -> None:
        if max(self.traps, self.disagreements) > self.calls:
            raise MalformedError("a report of more traps or disagreements than calls")
        if self.status == ("ready" if self.stage else "measured"):
            raise MalformedError("a daemon is ready in shadow, and measures in later stages")


Body = Note | Proposal | Verdict | Candidacy | Reveal | Latency | GuiltProof | Report


class Submission(Message, frozen=True, tag_field="kind", tag="submission"):
    """What somebody signs to have it on the ledger before `expires` (the ledger's time).

    `work` is the nonce of a newcomer's proof of work, and 0 for everybody else.
    """

    author: PeerId
    expires: Millis
    body: Body
    work: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    signature: Signature


class Approval(Message, frozen=True, tag_field="kind", tag="approval"):
    """A human key's detached signature over a proposal's CID; whoever relays it does not matter."""

    proposal: CidBytes
    key: PublicKey
    signature: Signature


# -- votes -------------------------------------------------------------------------------------


class Vote(Message, frozen=True, tag_field="kind", tag="vote"):
    """One vote on its way into a batch.

    `epoch` is that in which the proposal was opened. `number` counts a voter's votes on one
    proposal from 1: the highest is in force, so that an older one cannot be played again.
    """

    proposal: CidBytes
    voter: PeerId
    choice: Choice
    epoch: Epoch
    number: Number
    signature: Signature


class Ballot(Row, frozen=True):
    """One vote in a batch."""

    voter: PeerId
    choice: Choice
    number: Number
    signature: Signature


class Poll(Row, frozen=True):
    """Votes on one proposal, by rising voter."""

    proposal: CidBytes
    epoch: Epoch
    ballots: Annotated[list[Ballot], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Votes(Message, frozen=True, tag_field="kind", tag="votes"):
    """A batch, by rising proposal; at most MAX_BATCH votes in all."""

    polls: Annotated[list[Poll], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


# -- what the ledger itself says ---------------------------------------------------------------


class Tick(Message, frozen=True, tag_field="kind", tag="tick"):
    """The ledger's time rises to `time`."""

    time: Millis


Reason = Literal[
    "accepted",
    "no-quorum",
    "rejected",
    "tie",
    "not-fetchable",
    "unsound",
    "not-improved",
    "not-wrong",
    "not-approved",
    "impossible",
]
StageEvent = Literal["open", "settle", "rollback", "lapse"]
StageReason = Literal["accepted", "expired", "ready", "no-worse", "worse", "failing", "undecided"]


class Outcome(Message, frozen=True, tag_field="kind", tag="outcome"):
    """How a proposal ended, with the count that decided it (weights)."""

    proposal: CidBytes
    accepted: bool
    reason: Reason
    yes: Sum
    no: Sum
    abstain: Sum
    weight: Sum
    """Of all that could vote."""
    voters: Sum
    fetchable: tuple[int, int]
    """Members' verdicts, for and against."""
    approvals: Annotated[tuple[ShortName, ...], msgspec.Meta(max_length=MAX_HUMANS)]
    interval: Interval
    """Of a checkpoint: the lower medians of what the verdicts say."""


class ParameterEntry(Message, frozen=True, tag_field="kind", tag="parameter"):
    """Parameters in force from this index on, by an accepted proposal."""

    proposal: CidBytes
    settings: Annotated[tuple[Setting, ...], msgspec.Meta(min_length=1, max_length=MAX_SETTINGS)]


class HumanKeyEntry(Message, frozen=True, tag_field="kind", tag="human-key"):
    """A person's key that counts from this index on, or no longer, by an accepted proposal."""

    proposal: CidBytes
    action: Literal["add", "remove"]
    name: ShortName
    key: PublicKey


class StageEntry(Message, frozen=True, tag_field="kind", tag="stage"):
    """A step of an accepted upgrade's rollout: from this index on a part of all daemons run it.

    open      at `permille`: 0 is shadow, where it answers nothing
    settle    the version is in force everywhere
    rollback  the module before is in force again, as `version`: numbers only rise
    lapse     it expired before its rollout began, and changes nothing
    """

    slot: SlotName
    version: VersionNumber
    proposal: CidBytes
    permille: Permille
    event: StageEvent
    reason: StageReason
    low: Gain
    """The interval of the gain in the stage before (rollout.py); 0 and 0 where there is none."""
    high: Gain
    reports: Count
    """That counted in the stage before,"""
    traps: Count
    """... and those of them that tell of traps or failure."""


Contribution = Literal["training", "dataset", "migration", "validation", "detection"]


class Mint(Row, frozen=True):
    """Credits for one contribution; `evidence` is a proposal's CID or a guilt's hash."""

    identity: PeerId
    contribution: Contribution
    amount: Weight
    evidence: Annotated[bytes, msgspec.Meta(min_length=32, max_length=36)]


class CreditEntry(Message, frozen=True, tag_field="kind", tag="credit"):
    """Credits that are due to those who contributed, in the order in which it was proven."""

    mints: Annotated[tuple[Mint, ...], msgspec.Meta(min_length=1, max_length=MAX_MINTS)]


class ReputationEntry(Message, frozen=True, tag_field="kind", tag="reputation"):
    """New values of identities' reputation, by rising identity."""

    values: Annotated[tuple[Grant, ...], msgspec.Meta(min_length=1, max_length=2 * MAX_MINTS)]


class Member(Row, frozen=True):
    """Who serves in an epoch: its weight is its reputation; `latency` as in Seat."""

    identity: PeerId
    weight: Weight
    latency: LatencyClass


class EpochEntry(Message, frozen=True, tag_field="kind", tag="epoch"):
    """The last entry of an epoch: who serves in the next one, by rising identity."""

    epoch: Epoch
    beacon: Hash
    seats: Annotated[tuple[Seat, ...], msgspec.Meta(min_length=1, max_length=MAX_SEATS)]
    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=MAX_MEMBERS + MAX_SEATS)]


class Checkpoint(Message, frozen=True, tag_field="kind", tag="checkpoint"):
    """The digest of the state that all entries before this one leave."""

    digest: Hash


System = (
    Tick
    | Outcome
    | ParameterEntry
    | HumanKeyEntry
    | StageEntry
    | CreditEntry
    | ReputationEntry
    | EpochEntry
    | Checkpoint
)
Entry = Genesis | Submission | Votes | Approval | System
Waiting = Submission | Vote | Approval
"""What travels on its own, to be put into the ledger by a leader."""


def _by_tag(*kinds: type[Message]) -> dict[str, type[Message]]:
    return {str(kind.__struct_config__.tag): kind for kind in kinds}


# By tag and not as unions: msgspec takes a union apart anew in each call.
_WAITING = _by_tag(Submission, Vote, Approval)
_GENESIS = _by_tag(Genesis)
_ENTRIES = _GENESIS | _by_tag(
    Submission,
    Votes,
    Approval,
    Tick,
    Outcome,
    ParameterEntry,
    HumanKeyEntry,
    StageEntry,
    CreditEntry,
    ReputationEntry,
    EpochEntry,
    Checkpoint,
)


# -- bytes -------------------------------------------------------------------------------------


class Decoded(msgspec.Struct, frozen=True):
    """An entry, or what waits to be one, with what its signature is over ("" if nothing is)."""

    entry: Entry | Vote
    signed: bytes


def decode_entry(payload: bytes) -> Decoded:
    """An entry. Raises MalformedEntryError, EntryTooLargeError."""
    return _decode(payload, MAX_ENTRY, _ENTRIES)


def decode_genesis(payload: bytes) -> Genesis:
    """The first entry. Raises MalformedEntryError, EntryTooLargeError."""
    entry = _decode(payload, MAX_GENESIS, _GENESIS).entry
    assert isinstance(entry, Genesis)
    return entry


def decode_waiting(data: bytes) -> Decoded:
    """A submission, a vote or an approval. Raises MalformedEntryError, EntryTooLargeError."""
    return _decode(data, MAX_SUBMISSION, _WAITING)


def _decode(data: bytes, limit: int, kinds: Mapping[str, type[Message]]) -> Decoded:
    if len(data) > limit:
        raise EntryTooLargeError(f"an entry of {len(data)} bytes where {limit} are allowed")
    try:
        plain = decode_plain(data, limit)
        tag = plain.get("kind") if isinstance(plain, dict) else None
        kind = kinds.get(tag) if isinstance(tag, str) else None
        if kind is None or not isinstance(plain, dict):
            raise MalformedEntryError("no entry of a kind that is known here")
        entry = msgspec.convert(plain, kind, builtin_types=(bytes,))
    except (MalformedError, LimitError) as error:
        raise MalformedEntryError(error.message) from error
    except msgspec.ValidationError as error:
        raise MalformedEntryError(f"not a valid entry: {error}") from error
    signed = b""
    if kind is Submission:
        if len(data) > MAX_SUBMISSION:
            raise EntryTooLargeError(f"a submission of {len(data)} bytes: {MAX_SUBMISSION} is most")
        del plain["signature"]
        signed = libipld.encode_dag_cbor(plain)
    return Decoded(entry, signed)  # type: ignore[arg-type]  # one of `kinds`


def encode_entry(entry: Entry | Vote) -> bytes:
    """The one encoding of an entry, or of what waits to be one."""
    return encode(entry)


def settings_of(values: Iterable[tuple[str, int]]) -> tuple[Setting, ...]:
    """In the order in which entries have them."""
    return tuple(Setting(name, value) for name, value in sorted(values))
