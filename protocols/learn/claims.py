"""What is signed while a model learns.

    claim    a learner's: these deltas of mine, from these bases; one for each primary
    sum      an aggregator's: this is the sum of these deltas of my region's learners
    record   two of a group's three replicas: this round is committed, and what its inputs make

All in the ledger's domain (realm.py). Deltas and results themselves follow messages raw; here they
are named by sha256. A record with two signatures of the group that the ledger names is proof for
anybody, whoever passes it on: learners apply a result only with it.
"""

import hashlib
from itertools import pairwise
from typing import Annotated

import msgspec

from protocols.codec import Message, encode
from protocols.envelope import Verify
from protocols.errors import MalformedError, NotHeldError
from protocols.ledger.council import PeerId, Signature
from protocols.manifest import CidBytes
from protocols.peerid import public_key_of
from protocols.realm import Realm, realm_domain

MAX_DELTAS = 1024
"""Groups that one claim has deltas of."""
MAX_INPUTS = 512
"""Deltas of one round and group; regions bring theirs as one."""
MAX_DELTA = 256 << 20
"""Bytes of one: a group of 1 GiB by two bits."""
MILLE = 1000
MAX_OUTER = 4 << 30
"""Bytes of an outer state: three values for each of a group's, at most 1 GiB."""
NOTHING = bytes(32)
"""In place of an outer state's digest: there is none."""

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
GroupNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_DELTA)]


class BadClaimError(MalformedError):
    """A claim, sum or record whose parts contradict each other, or whose signature is wrong."""

    code = "bad-claim"


class UnknownGroupError(NotHeldError):
    """A record of an epoch whose groups this daemon cannot compute: it is behind, or far ahead."""

    code = "unknown-group"


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What stands many times in one message: an array, without names."""


class Made(Row, frozen=True):
    """One delta: of which group, from which base, and which bytes."""

    group: GroupNumber
    number: Number
    """The round that it is for: the base is the version that this many rounds made."""
    base: Digest
    """That version's root."""
    digest: Digest
    """sha256 of the delta's bytes."""
    size: Size


class Claim(Message, frozen=True, tag_field="kind", tag="claim"):
    """A learner's deltas, by rising group."""

    model: CidBytes
    """The lineage: the model that the training on the ledger began from."""
    learner: PeerId
    steps: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    """Inner steps behind each of them."""
    made: Annotated[tuple[Made, ...], msgspec.Meta(min_length=1, max_length=MAX_DELTAS)]
    signature: Signature

    def __post_init__(self) -> None:
        _rising([made.group for made in self.made], "a claim's groups")


class Input(Row, frozen=True):
    """A delta that went into a sum or a round."""

    learner: PeerId
    """Or the aggregator, for a region's sum."""
    digest: Digest
    share: Annotated[int, msgspec.Meta(ge=0, le=MILLE)]
    """How much of the result is its doing (rounds.py says how it is counted), in thousandths."""
    of: Annotated[int, msgspec.Meta(ge=0, le=MAX_INPUTS)] = 0
    """Learners whose deltas it is the sum of; 0 for a learner's own."""


class Carried(Row, frozen=True):
    """What the encoding of a sum left out, as an int8 delta: it is added to the next one."""

    digest: Digest
    size: Size


class Sum(Message, frozen=True, tag_field="kind", tag="sum"):
    """A region's deltas of one group and round as one, with what it is made of."""

    model: CidBytes
    aggregator: PeerId
    made: Made
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    """By rising learner; `share` is 0 here."""
    signature: Signature
    carry: Carried | None = None
    """What was added to the inputs' mean: `left` of a sum before, that was acknowledged."""
    left: Carried | None = None
    """What this one leaves."""

    def __post_init__(self) -> None:
        _rising([entry.learner for entry in self.inputs], "a sum's learners")


class Round(Message, frozen=True, tag_field="kind", tag="round"):
    """What a committed round is: the chain of a group's versions, one link."""

    model: CidBytes
    group: GroupNumber
    number: Number
    """Of this round, from 0; the version after it has number + 1."""
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    """Whose group decided."""
    parent: Digest
    """Root of the version before."""
    head: Digest
    """Root of the version after."""
    result: Digest
    """sha256 of the result's bytes."""
    size: Size
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(max_length=MAX_INPUTS)]
    """By rising (learner, digest): a delta that came late is carried into the next round, in
    which its learner has a new one as well."""
    plan: Digest = NOTHING
    """protocols.plan.plan_digest of the plan that it was made by."""
    before: Digest = NOTHING
    """sha256 of the outer optimiser's state that it began from: `after` of the round before, or
    NOTHING, where the primary did not have that: such a round is right, and loses momentum."""
    after: Digest = NOTHING
    """Of the state after it: outer.py says what is in it. NOTHING where none is kept."""
    after_size: Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTER)] = 0

    def __post_init__(self) -> None:
        _rising([entry.learner + entry.digest for entry in self.inputs], "a round's inputs")


class Endorsement(Row, frozen=True):
    """One replica's signature over a round."""

    replica: PeerId
    signature: Signature


class Record(Message, frozen=True, tag_field="kind", tag="record"):
    """A round that two of its group's three replicas have on disk, and each of them computed."""

    round: Round
    by: Annotated[tuple[Endorsement, ...], msgspec.Meta(min_length=1, max_length=3)]


def _rising(values: list[bytes] | list[int], what: str) -> None:
    if any(left >= right for left, right in pairwise(values)):  # type: ignore[operator]
        raise BadClaimError(f"{what} are not in order, or one stands twice")


def claim_message(realm: Realm, claim: Claim | Sum) -> bytes:
    """What a learner, or an aggregator, signs: the message without its signature."""
    use = "delta" if isinstance(claim, Claim) else "delta-sum"
    return realm_domain(realm, use) + encode(msgspec.structs.replace(claim, signature=bytes(64)))


def round_message(realm: Realm, decided: Round) -> bytes:
    """What a replica signs of a committed round."""
    return realm_domain(realm, "learn-round") + hashlib.sha256(encode(decided)).digest()


def check_signed(realm: Realm, claim: Claim | Sum, verify: Verify) -> None:
    """Raise BadClaimError unless its learner, or aggregator, signed it."""
    signer = claim.learner if isinstance(claim, Claim) else claim.aggregator
    if not verify(public_key_of(signer), claim_message(realm, claim), claim.signature):
        raise BadClaimError("a delta's claim is not signed by whom it names, for this ledger")


def check_record(realm: Realm, record: Record, replicas: tuple[bytes, ...], verify: Verify) -> None:
    """Raise BadClaimError unless two of `replicas`, the group of its epoch, endorsed it; and
    UnknownGroupError where that is not known here (yet): () proves nothing against anybody."""
    if not replicas:
        raise UnknownGroupError(
            f"who serves group {record.round.group} in epoch {record.round.epoch} is not known",
            remedy="the ledger brings it",
        )
    message = round_message(realm, record.round)
    signers = {
        one.replica
        for one in record.by
        if one.replica in replicas and verify(public_key_of(one.replica), message, one.signature)
    }
    if len(signers) < 2:
        raise BadClaimError("a round that fewer than two of its group's replicas endorse")
