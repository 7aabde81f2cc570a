"""What learners, aggregators and replicas say to each other (`/synapse/learn/1.0.0`).

    Push       learner or aggregator to whoever takes it: signed deltas, or a region's sum
    Held       an aggregator's first answer: it is here, and will be in a sum
    Acked      the answer: two of three replicas have it on disk (an aggregator passes it on)
    Refused    the answer: why not, and which base is the right one
    Watch      anybody to a replica or aggregator: send me the rounds of these groups from here on
    Ask        anybody to a replica or aggregator: send me the rounds from this one, now
    Records    the answer to both: committed rounds, in order
    Where      who leads a group?
    Here       the answer, as far as the sender knows
    Stage      aggregator to the replica in its region: you will need this sum for the log
    Endorse    replica to replica: my signature over a round that is committed
    Prove      anybody to an aggregator: what a sum of yours was made of
    Proof      the answer: the sum, and the signed claims behind it
    Accuse     anybody to anybody: a sum that is not what its inputs make, with all of them

Each message is one frame; there are no answers in the sense of a call: what is said names what it
is about, so that it may come late, twice, or by another way. Blobs (deltas, sums, results) never
stand in a message: it names them by sha256 and size (`blobs_of`), and the driver has fetched what
it lacks from the sender, and has it on disk, before the machine hears of it. So a machine's
answer always means "I have it".

Rules of this file:
1. Nothing is believed for who sent it: claims, sums, endorsements and records carry signatures.
   Refused, Where and Here are hints, and a wrong one costs a question more.
2. A message names its model and group, and every list in it has a limit.
"""

from typing import Annotated, Literal

import msgspec

from protocols.codec import Message, decode, encode
from protocols.learn.claims import (
    MAX_DELTAS,
    Claim,
    Digest,
    GroupNumber,
    Number,
    Record,
    Size,
    Sum,
)
from protocols.learn.replica_ports import Term
from protocols.ledger.council import PeerId, Signature
from protocols.manifest import CidBytes

PROTOCOL = "/synapse/learn/1.0.0"

MAX_MESSAGE = 512 << 10
"""Bytes of a frame: a Proof of 128 claims of 40 deltas each; a claim of 1,024 takes 100 KB."""
MAX_RECORDS = 64
"""Rounds in one message; a sender stops at RECORDS_BYTES before."""
RECORDS_BYTES = 256 << 10
"""Of records in one message: one of 512 inputs takes 42 KB."""
MAX_MARKS = MAX_DELTAS
"""Groups of one Watch."""
MAX_PROVEN = 128
"""Claims of one Proof: as many learners as an aggregator takes (aggregator.MAX_FAN_IN)."""
MAX_NAMED = MAX_PROVEN
"""Learners that a refusal names."""
Reason = Literal[
    "base", "stale", "duplicate", "overlap", "full", "not-leading", "not-here", "malformed"
]
"""
base         from another base, or for another round: the right ones stand beside it
stale        for a round closed before the last one: its work belongs into the learner's next delta
duplicate    another delta of this learner for this round was taken before
overlap      a sum with learners that were taken before: `learners` names them; sum without them
full         as many as a round, or an aggregator, takes: try another, or the next round
not-leading  not the primary; `hint` may be
not-here     no replica of this group, or none of its rounds
malformed    the blob is no delta of this group and codec
"""


class Blob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bytes that a message speaks of."""

    digest: Digest
    size: Size


class Push(Message, frozen=True, tag_field="say", tag="push"):
    """Take these groups' deltas of what I signed."""

    said: Claim | Sum
    groups: Annotated[tuple[GroupNumber, ...], msgspec.Meta(min_length=1, max_length=MAX_DELTAS)]
    """Those of a claim that are meant for the receiver: others have other primaries."""
    relay: bool = False
    """Take it as an aggregator: into your region's sum, whatever you lead yourself."""


class Held(Message, frozen=True, tag_field="say", tag="held"):
    """These deltas are here, and the aggregator is alive; nothing is promised."""

    model: CidBytes
    number: Number
    digests: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=MAX_DELTAS)]


class Acked(Message, frozen=True, tag_field="say", tag="acked"):
    """Two of the three have this delta, or the sum that it is in, on disk."""

    model: CidBytes
    group: GroupNumber
    number: Number
    """The round that it is for."""
    digest: Digest


class Refused(Message, frozen=True, tag_field="say", tag="refused"):
    """This delta, or sum, is not taken."""

    model: CidBytes
    group: GroupNumber
    number: Number
    """The round that is open here."""
    base: Digest
    """Its base."""
    digest: Digest
    """Of what is refused."""
    reason: Reason
    hint: PeerId | None = None
    """Who may take it."""
    learners: Annotated[tuple[PeerId, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()


class Mark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A group, and the first round of it that is lacking."""

    group: GroupNumber
    number: Number


class Watch(Message, frozen=True, tag_field="say", tag="watch"):
    """Send me the rounds of these groups as they are committed, those that I lack first. It holds
    for WATCH_MS (rounds.py); without marks it ends."""

    model: CidBytes
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(max_length=MAX_MARKS)]


class Ask(Message, frozen=True, tag_field="say", tag="ask"):
    """Send me the rounds of this group from `number` on, once."""

    model: CidBytes
    group: GroupNumber
    number: Number


class Records(Message, frozen=True, tag_field="say", tag="records"):
    """Committed rounds of one group, one after another; their results are blobs."""

    model: CidBytes
    group: GroupNumber
    oldest: Number
    """The first round whose result is still here: whoever is behind it takes a version instead."""
    number: Number
    """The round that is open."""
    base: Digest
    """Its base: the version to take."""
    records: Annotated[tuple[Record, ...], msgspec.Meta(max_length=MAX_RECORDS)]


class Where(Message, frozen=True, tag_field="say", tag="where"):
    """Who leads this group?"""

    model: CidBytes
    group: GroupNumber


class Here(Message, frozen=True, tag_field="say", tag="here"):
    """Who led last, as far as I know, and which round is open."""

    model: CidBytes
    group: GroupNumber
    term: Term
    primary: PeerId | None
    number: Number


class Stage(Message, frozen=True, tag_field="say", tag="stage"):
    """This sum goes to the primary: have it here when the log brings it, so that it crosses to our
    region once and not back. The receiver fetches it, if it is a replica, and says nothing."""

    model: CidBytes
    group: GroupNumber
    blob: Blob


class Endorse(Message, frozen=True, tag_field="say", tag="endorse"):
    """My signature over the round that we committed (claims.round_message)."""

    model: CidBytes
    group: GroupNumber
    number: Number
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    """That the signed round names."""
    signature: Signature


class Prove(Message, frozen=True, tag_field="say", tag="prove"):
    """Send me what this sum is made of."""

    model: CidBytes
    group: GroupNumber
    number: Number
    digest: Digest
    """Of the sum."""


class Proof(Message, frozen=True, tag_field="say", tag="proof"):
    """A sum and the claims of its learners, by rising learner; the deltas are blobs. An aggregator
    takes no more of them than fit (aggregator.py)."""

    sum: Sum
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(max_length=MAX_PROVEN)]
    before: Sum | None = None
    """Whose `left` it carries."""


class Accuse(Message, frozen=True, tag_field="say", tag="accuse"):
    """A Proof that condemns its aggregator: whoever hears it recomputes the sum (audit.py)."""

    proof: Proof


Said = (
    Push
    | Held
    | Acked
    | Refused
    | Watch
    | Ask
    | Records
    | Where
    | Here
    | Stage
    | Endorse
    | Prove
    | Proof
    | Accuse
)


def pack(message: Said) -> bytes:
    """The frame of a message."""
    return encode(message)


def unpack(frame: bytes) -> Said:
    """The message in a frame. Raises MalformedError, LimitError."""
    message: Said = decode(frame, Said, MAX_MESSAGE)  # type: ignore[arg-type]  # a union
    return message


def blobs_of(message: Said) -> tuple[Blob, ...]:
    """What the receiver needs on its disk before its machine hears of `message`, without repeats.

    Of a Push, only the deltas of the groups that it is for; of a Proof, those of its sum's group.
    """
    found: list[Blob] = []
    match message:
        case Push(said=said, groups=groups):
            wanted = set(groups)
            made = said.made if isinstance(said, Claim) else (said.made,)
            found = [Blob(one.digest, one.size) for one in made if one.group in wanted]
        case Records():
            found = [Blob(one.round.result, one.round.size) for one in message.records]
        case Stage():
            found = [message.blob]
        case Proof():
            found = _proven(message)
        case Accuse(proof):
            found = _proven(proof)
        case _:
            pass
    return tuple(dict.fromkeys(found))


def _proven(proof: Proof) -> list[Blob]:
    made = proof.sum.made
    others = (proof.sum.carry, proof.sum.left)
    return [
        Blob(made.digest, made.size),
        *(Blob(one.digest, one.size) for one in others if one is not None),
        *(
            Blob(one.digest, one.size)
            for claim in proof.claims
            for one in claim.made
            if one.group == made.group
        ),
    ]


def group_of(message: Said) -> tuple[bytes, int | None]:
    """The model that a message is about, and its group, where it is about one alone."""
    match message:
        case Push(said=said):
            return said.model, said.made.group if isinstance(said, Sum) else None
        case Watch() | Held():
            return message.model, None
        case Proof():
            return message.sum.model, message.sum.made.group
        case Accuse(proof):
            return proof.sum.model, proof.sum.made.group
        case _:
            return message.model, message.group
