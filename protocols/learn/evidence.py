"""What a checkpoint is made of: the committed rounds since its parent, and whose doing they are.

One flat file:

    b"synapse rounds 1\n"
    message ...     u32 length ‖ canonical DAG-CBOR

    Span      first: where each group's rounds stood in the parent, and stand in the child
    Record    every round between the two, by group and number
    Sum       of each aggregator's input of those, by its delta's digest

A member checks that the records form one chain a group, from where the parent's `heads` say that
it stood to where the child's do, each endorsed by two of the three replicas that the ledger's
epoch entry names; and that the proposal's shares are what follows.

The shares. A group's part of a checkpoint is its part of the model's values; its rounds have equal
parts of that; and within a round each input has the share that the round's record gives it
(robust.py: what of the step a delta points to, judged by the others'). A sum's share is split
evenly among the learners behind it, whom its aggregator names and signs for; without that Sum it
is nobody's, and so is what shares lack of the whole.

What that leaves to liars. A round's shares are its primary's word: the other two endorse what is
committed, and do not recompute it. So a lying primary misdirects the part of its own group, however
many rounds it closes, and no more: whoever has a third of all members has a third of the groups.
(Where replicas would recompute the shares of deltas that they hold, it would take two of three: 7
groups in 27.) Nobody can earn where the checkpoint is not found better: then nobody does.
An aggregator can name learners that sent nothing, for its region's part, until its sum is
recomputed (audit.py). Who sends nothing, noise or the contrary has no share, as far as that is
computed by an honest primary; who copies somebody's delta shares with him.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from protocols.changes import MAX_SHARES, Share
from protocols.codec import Message, decode, encode
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError, SynapseError
from protocols.learn.claims import (
    Digest,
    Number,
    Record,
    Row,
    Sum,
    UnknownGroupError,
    check_record,
    check_signed,
)
from protocols.learn.partition import MAX_GROUPS
from protocols.ledger.trainings import NO_ROUNDS
from protocols.manifest import CidBytes
from protocols.realm import Realm

MAGIC = b"synapse rounds 1\n"
MAX_EVIDENCE = 64 << 20
"""Bytes: some 60,000 records of ten inputs, whose signatures take 20 s to check."""
MAX_MESSAGE = 1 << 22
"""Of one of its messages: a Span of MAX_GROUPS, 2.5 MB."""
WHOLE = 1 << 40
"""Parts of a checkpoint that are counted with."""
MILLE = 1000
_LOST = WHOLE >> 10
"""What divisions may have taken from one identity's part: a thousandth of a thousandth, which does
not add up to one for MAX_SHARES of them."""

_LENGTH = struct.Struct(">I")

Replicas = Callable[[int, int], tuple[bytes, ...]]
"""(epoch, group) -> its three, by the ledger; () for an epoch that it does not remember."""


class BadEvidenceError(MalformedError):
    """Evidence that does not show what its checkpoint says."""

    code = "bad-evidence"


class Stand(Row, frozen=True):
    """Where a group's rounds are: so many, and the root of the version that they made."""

    number: Number
    root: Digest


Stands = Annotated[tuple[Stand, ...], msgspec.Meta(min_length=1, max_length=MAX_GROUPS)]


class Span(Message, frozen=True, tag_field="kind", tag="span"):
    """From where to where a checkpoint's rounds go, by group."""

    model: CidBytes
    """The lineage."""
    begins: Stands
    ends: Stands

    def __post_init__(self) -> None:
        if len(self.begins) != len(self.ends):
            raise BadEvidenceError("evidence of more groups in the parent than in the child")
        for begin, end in zip(self.begins, self.ends, strict=True):
            if end.number < begin.number or (end.number == begin.number and end != begin):
                raise BadEvidenceError("evidence of a group whose rounds go back")


class Evidence(msgspec.Struct, frozen=True):
    """A file, read."""

    span: Span
    records: tuple[Record, ...]
    sums: Mapping[bytes, Sum]
    """By the digest of the delta."""


def heads_digest(model: bytes, stands: Sequence[Stand]) -> bytes:
    """What a CheckpointChange says as `heads`."""
    return hashlib.sha256(b"synapse heads" + encode([model, list(stands)])).digest()


# -- as a file ---------------------------------------------------------------------------------


def write_evidence(span: Span, records: Iterable[Record], sums: Iterable[Sum]) -> bytes:
    """The file. Records and sums may come in any order; LimitError where there are too many."""
    by_place = sorted(records, key=lambda each: (each.round.group, each.round.number))
    by_digest = sorted(sums, key=lambda each: each.made.digest)
    parts = [MAGIC]
    for message in (span, *by_place, *by_digest):
        data = encode(message)
        parts += [_LENGTH.pack(len(data)), data]
    whole = b"".join(parts)
    if len(whole) > MAX_EVIDENCE:
        raise LimitError(
            f"the rounds since the parent take {len(whole)} bytes, and {MAX_EVIDENCE} are the most",
            remedy="propose checkpoints more often",
        )
    return whole


def read_evidence(data: bytes) -> Evidence:
    """Raises BadEvidenceError, or another MalformedError or LimitError."""
    if len(data) > MAX_EVIDENCE or not data.startswith(MAGIC):
        raise BadEvidenceError("not a file of rounds, or one that is too large")
    parts = _cut(data)
    if not parts:
        raise BadEvidenceError("evidence that holds nothing")
    span = decode(parts[0], Span, MAX_MESSAGE)
    records: list[Record] = []
    sums: dict[bytes, Sum] = {}
    for part in parts[1:]:
        said = decode(part, Record | Sum, MAX_MESSAGE)  # type: ignore[arg-type]  # a type form
        if isinstance(said, Sum):
            sums[said.made.digest] = said
        else:
            records.append(said)
    return Evidence(span, tuple(records), sums)


def _cut(data: bytes) -> list[bytes]:
    parts, at = [], len(MAGIC)
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise BadEvidenceError("evidence that is cut off")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise BadEvidenceError("evidence that is cut off")
        parts.append(data[at : at + length])
        at += length
    return parts


# -- what it shows -----------------------------------------------------------------------------


def check_evidence(
    evidence: Evidence,
    *,
    model: bytes,
    began: bytes,
    heads: bytes,
    realm: Realm,
    replicas: Replicas,
    verify: Verify,
) -> None:
    """Raise BadEvidenceError unless it leads from `began` to `heads` (digests), of `model`;
    UnknownGroupError where a round's epoch is not remembered here.

    Where `began` is NO_ROUNDS the groups stood at version 0 of the lineage: whoever calls compares
    the roots of `span.begins` with the model's own.
    """
    span = evidence.span
    if span.model != model:
        raise BadEvidenceError("evidence of another model's rounds")
    first = all(stand.number == 0 for stand in span.begins)
    if began == NO_ROUNDS and not first:
        raise BadEvidenceError("evidence of a first checkpoint that begins in the middle")
    if began not in (NO_ROUNDS, heads_digest(model, span.begins)):
        raise BadEvidenceError("evidence that does not begin where the parent ends")
    if heads != heads_digest(model, span.ends):
        raise BadEvidenceError("evidence that does not end where the checkpoint says")
    _check_chains(evidence)
    for record in evidence.records:
        _check_one(evidence, record, realm, replicas, verify)


def _check_chains(evidence: Evidence) -> None:
    stands = list(evidence.span.begins)
    for record in evidence.records:
        made = record.round
        if made.model != evidence.span.model or made.group >= len(stands):
            raise BadEvidenceError("a round of another model, or of a group that it has not")
        if stands[made.group] != Stand(made.number, made.parent):
            raise BadEvidenceError(
                f"round {made.number} of group {made.group} does not follow the one before"
            )
        stands[made.group] = Stand(made.number + 1, made.head)
    if tuple(stands) != evidence.span.ends:
        raise BadEvidenceError("rounds that do not end where the evidence says")


def _check_one(
    evidence: Evidence, record: Record, realm: Realm, replicas: Replicas, verify: Verify
) -> None:
    made = record.round
    try:
        check_record(realm, record, replicas(made.epoch, made.group), verify)
        for each in made.inputs:
            said = evidence.sums.get(each.digest)
            if each.of and said is not None:
                _check_sum(said, record, each.of, each.learner)
                check_signed(realm, said, verify)
    except UnknownGroupError:
        raise  # which says nothing about the evidence
    except SynapseError as error:
        raise BadEvidenceError(
            f"round {made.number} of group {made.group}: {error.message}"
        ) from error


def _check_sum(said: Sum, record: Record, of: int, aggregator: bytes) -> None:
    made = record.round
    named = (said.model, said.aggregator, said.made.group, len(said.inputs))
    if named != (made.model, aggregator, made.group, of):
        raise BadEvidenceError("a sum that is not the one that went into the round")


# -- whose doing it is -------------------------------------------------------------------------


def shares(evidence: Evidence, elements: Sequence[int]) -> tuple[Share, ...]:
    """By rising identity, in thousandths of the checkpoint, of those who have most of it at most
    MAX_SHARES. `elements` are the groups' values, and the evidence is checked."""
    if len(elements) != len(evidence.span.ends):
        raise BadEvidenceError(f"evidence of {len(evidence.span.ends)} of {len(elements)} groups")
    whole = sum(elements)
    parts: dict[bytes, int] = {}
    for record in evidence.records:
        group = record.round.group
        begin, end = evidence.span.begins[group], evidence.span.ends[group]
        round_part = WHOLE * elements[group] // whole // (end.number - begin.number)
        total = max(MILLE, sum(each.share for each in record.round.inputs))
        for each in record.round.inputs:
            part = round_part * each.share // total
            for learner in _behind(evidence, each.digest, each.of) if each.of else [each.learner]:
                parts[learner] = parts.get(learner, 0) + part // max(1, each.of)
    most = sorted(parts.items(), key=lambda each: (-each[1], each[0]))[:MAX_SHARES]
    counted = [(who, (part * MILLE + _LOST) // WHOLE) for who, part in sorted(most)]
    return tuple(Share(who, permille) for who, permille in counted if permille)


def _behind(evidence: Evidence, digest: bytes, of: int) -> list[bytes]:
    """The learners of an aggregator's sum, one entry for each delta; none without the sum."""
    said = evidence.sums.get(digest)
    if said is None or len(said.inputs) != of:
        return []
    return [each.learner for each in said.inputs]
