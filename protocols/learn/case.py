"""A case: what somebody signed that is not what its inputs make, for strangers to see.

    SumCase     a region's sum: its aggregator signed it, its learners signed what it was made
                from, and a round took it
    RoundCase   a round: the accused signed what base, outer state and inputs make

Both are claims of their own signers, about named bytes: whoever has these bytes makes the sum or
the round again, and needs to believe neither the accuser nor anybody else. What a round's base
should have been, and which inputs it left out, only its own group can tell: that is no case.

It is published as two datasets, and judged in two steps: first, from the small one, everything that
can be seen without computing; then, with the other, the recomputation. So an accusation without the
accused's own signature costs a member one small file.

    about               in the first: SumCase or RoundCase. In the second:

    base.safetensors    of a RoundCase: the version before it, whose tree root is the round's parent
    before.safetensors  ... and the outer state that it began from, if any
    delta-<sha256>      its inputs; of a SumCase the learners' deltas, the sum, and what it carried
                        and left
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from protocols.changes import ExclusionChange
from protocols.codec import Message, decode, encode
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError
from protocols.learn.audit import check_proof
from protocols.learn.claims import (
    MAX_DELTA,
    MAX_OUTER,
    NOTHING,
    BadClaimError,
    Endorsement,
    Record,
    Round,
    UnknownGroupError,
    check_record,
    round_message,
)
from protocols.learn.messages import Blob, Proof, blobs_of
from protocols.manifest import FileRef
from protocols.peerid import public_key_of
from protocols.realm import Realm

ABOUT, BASE, STATE, DELTA = "about", "base.safetensors", "before.safetensors", "delta-"
"""Names of a case's files."""
MAX_ABOUT = 1 << 20
"""Bytes of the small file: a Proof (messages.MAX_MESSAGE) with a record of 512 inputs."""
MAX_BYTES = 8 << 30
"""Of all others. A group of the usual 2 MiB to 64 MiB has cases of 10 to 400 MiB; a round of 20
two-bit deltas for one of 1 GiB has 6 GiB. Of more nobody can be accused before the council."""

Replicas = Callable[[int, int], tuple[bytes, ...]]
"""(epoch, group) -> its three, by the ledger; () for an epoch that it does not remember."""


class BadCaseError(MalformedError):
    """A case that does not show what its proposal says, whatever its inputs make."""

    code = "bad-case"


class Wrong(msgspec.Struct, frozen=True):
    """What a replica found out: it recomputed `round`, which `by` signed, and it is another."""

    round: Round
    by: Endorsement


class SumCase(Message, frozen=True, tag_field="case", tag="sum"):
    """A sum, and a round that took it: so it is known when its aggregator was in office."""

    proof: Proof
    record: Record


class RoundCase(Message, frozen=True, tag_field="case", tag="round"):
    """A round, with the accused's own signature."""

    round: Round
    by: Endorsement


Case = SumCase | RoundCase


def pack(case: Case) -> bytes:
    """The small file. LimitError where it is too large."""
    data = encode(case)
    if len(data) > MAX_ABOUT:
        raise LimitError(f"a case of {len(data)} bytes, of {MAX_ABOUT} at most")
    return data


def unpack(data: bytes) -> Case:
    """What `pack` wrote. Raises MalformedError, LimitError."""
    case: Case = decode(data, Case, MAX_ABOUT)  # type: ignore[arg-type]  # a union
    return case


def decided(case: Case) -> Round:
    """The round that it is about."""
    return case.record.round if isinstance(case, SumCase) else case.round


def accused(case: Case) -> bytes:
    """Who signed what is wrong."""
    return case.proof.sum.aggregator if isinstance(case, SumCase) else case.by.replica


def number_of(case: Case) -> int:
    """The round for which it was computed: a sum may go into the one after."""
    return case.proof.sum.made.number if isinstance(case, SumCase) else case.round.number


def change_of(case: Case, published: bytes, evidence: bytes) -> ExclusionChange:
    """What is proposed with it: the CIDs of the two datasets."""
    its = decided(case)
    return ExclusionChange(
        training=its.model,
        accused=accused(case),
        epoch=its.epoch,
        case=published,
        evidence=evidence,
    )


class Needed(NamedTuple):
    """A file of a case's evidence."""

    name: str
    digest: bytes
    """sha256 of its bytes; the tree root of BASE."""
    size: int
    """Of it exactly, or, where nobody signed that, at most."""
    exact: bool


def needed(case: Case) -> list[Needed]:
    """Everything that it is recomputed from."""
    if isinstance(case, SumCase):
        found = blobs_of(case.proof)
        return [Needed(delta_name(each.digest), *_size_of(each), exact=True) for each in found]
    its = case.round
    inputs = dict.fromkeys(each.digest for each in its.inputs)
    files = [Needed(delta_name(digest), digest, MAX_DELTA, exact=False) for digest in inputs]
    files.append(Needed(BASE, its.parent, MAX_BYTES, exact=False))
    if its.before != NOTHING:
        files.append(Needed(STATE, its.before, MAX_OUTER, exact=False))
    return files


def _size_of(blob: Blob) -> tuple[bytes, int]:
    return blob.digest, blob.size


def delta_name(digest: bytes) -> str:
    """Of the file of a delta."""
    return DELTA + digest.hex()


def check_files(case: Case, files: Iterable[FileRef]) -> None:
    """Raise BadCaseError, or LimitError, unless these are the evidence of a case like this. That a
    delta or a state is what its name says, its bytes show (check them by `needed`)."""
    found = {ref.path: ref for ref in files}
    wanted = needed(case)
    if found.keys() != {each.name for each in wanted}:
        raise BadCaseError("a case with other files than what it was made from")
    for each in wanted:
        ref = found[each.name]
        if ref.size > each.size or (each.exact and ref.size != each.size):
            raise BadCaseError(f"a case in which {each.name} has {ref.size} bytes")
        if each.name == BASE and (ref.root, ref.layout) != (each.digest, "safetensors"):
            raise BadCaseError("a case with another base than its round's")
    if sum(ref.size for ref in found.values()) > MAX_BYTES:
        raise LimitError(f"a case of more than {MAX_BYTES >> 30} GiB")


def check_case(
    case: Case, change: ExclusionChange, *, realm: Realm, replicas: Replicas, verify: Verify
) -> None:
    """Raise BadCaseError, or another MalformedError, unless the accused signed this, in an office
    of that epoch, and everybody else in it what it says they did; UnknownGroupError where the
    epoch's groups are not known here."""
    if change_of(case, change.case, change.evidence) != change:
        raise BadCaseError("a case against somebody else than its proposal, or of another epoch")
    its = decided(case)
    if isinstance(case, SumCase):
        _check_taken(case)
        check_proof(realm, case.proof, verify)
        check_record(realm, case.record, replicas(its.epoch, its.group), verify)
        return
    three = replicas(its.epoch, its.group)
    if not three:
        raise UnknownGroupError(f"who served group {its.group} in epoch {its.epoch} is not known")
    if case.by.replica not in three:
        raise BadCaseError("a round, and somebody who did not serve its group")
    key = public_key_of(case.by.replica)
    if not verify(key, round_message(realm, its), case.by.signature):
        raise BadClaimError("a round that the accused did not sign, for this ledger")


def _check_taken(case: SumCase) -> None:
    """Raise BadCaseError unless the record's round is one that took this very sum."""
    said, its = case.proof.sum, case.record.round
    made = said.made
    if (its.model, its.group) != (said.model, made.group):
        raise BadCaseError("a sum, and the round of another group")
    if its.number not in (made.number, made.number + 1):
        raise BadCaseError("a sum, and a round that it is not for")
    for each in its.inputs:
        if each.digest == made.digest and (each.learner, each.of) == (
            said.aggregator,
            len(said.inputs),
        ):
            return
    raise BadCaseError("a sum, and a round that did not take it")
