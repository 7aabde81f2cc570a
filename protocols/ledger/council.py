"""The council's words: seats, what members sign, certificates, and proofs of guilt.

A signature is over (realm, kind, epoch, term, index, chain hash); signatures count together
only over the identical tuple. A quorum is more than two thirds of the seats, however much
reputation each holds: who is elected has one voice. Source of the rules: docs/council.md.

    quorum of acks               an entry is *certified*
    quorum of certificate-acks   it is *ratified*, with everything before it
    quorum of time-outs          a term may open
"""

import enum
import hashlib
import itertools
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, NamedTuple

import msgspec

from protocols.envelope import SIGNATURE_LENGTH, Verify
from protocols.errors import SignatureError
from protocols.ledger.chain import BrokenPathError, Hash, Head, Header, Index, ancestor
from protocols.peerid import PEER_ID_LENGTH, PUBLIC_KEY_LENGTH
from protocols.realm import Realm, realm_domain

MAX_SEATS = 64
"""A certificate of 43 signatures is 3 KB; each member hears from each other for every batch."""
MAX_PROOF_HEADERS = 512
"""In one proof of guilt: a path within one epoch's uncertified entries is far shorter."""

Term = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
SeatNumber = Annotated[int, msgspec.Meta(ge=0, lt=MAX_SEATS)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_LENGTH, max_length=SIGNATURE_LENGTH)]
PeerId = Annotated[bytes, msgspec.Meta(min_length=PEER_ID_LENGTH, max_length=PEER_ID_LENGTH)]
PublicKey = Annotated[
    bytes, msgspec.Meta(min_length=PUBLIC_KEY_LENGTH, max_length=PUBLIC_KEY_LENGTH)
]


class BadCertificateError(SignatureError):
    """A certificate, or a term's opening, that does not prove what it says."""

    code = "bad-certificate"


class WrongEpochError(BadCertificateError):
    """A certificate of another epoch's council."""

    code = "wrong-epoch"


class BadGuiltError(SignatureError):
    """An accusation that proves nothing."""

    code = "bad-guilt"


class Instant(NamedTuple):
    """The time as a machine is told it."""

    mono: float
    """Seconds that never go back, for timers."""
    unix_ms: int
    """What this machine's clock shows, for ticks."""


class Kind(enum.IntEnum):
    """What a signature says."""

    ACK = 1
    CERTIFICATE_ACK = 2
    TIME_OUT = 3


class Seat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member of a council."""

    identity: PeerId
    key: PublicKey
    """What it signs with here: lost together with the member's state (rule 7)."""
    weight: Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
    """Reputation at its election; a quorum does not look at it."""
    latency: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    """Latency class: the median round trip that the council measured, in its steps."""


class Council(msgspec.Struct, frozen=True, dict=True):
    """The seats of one epoch, and where its part of the ledger begins."""

    epoch: int
    beacon: bytes
    """32 random bytes that nobody chose alone."""
    seats: tuple[Seat, ...]
    start: Head
    """The epoch entry that named this council, or the genesis entry."""

    @cached_property
    def quorum(self) -> int:
        """Seats whose signatures decide: more than two thirds."""
        return 2 * len(self.seats) // 3 + 1

    @cached_property
    def tolerated(self) -> int:
        """How many seats may lie without forging or forking anything: less than a third."""
        return (len(self.seats) - 1) // 3

    @cached_property
    def _order(self) -> tuple[int, ...]:
        def drawn(number: int) -> bytes:
            return hashlib.sha256(self.beacon + self.seats[number].key).digest()

        return tuple(sorted(range(len(self.seats)), key=drawn))

    def leader(self, term: int) -> int:
        """The seat that leads a term: rule 3, a permutation drawn from the beacon, in turn."""
        return self._order[term % len(self.seats)]

    def seat_of(self, identity: bytes) -> int | None:
        """The seat that an identity holds."""
        return next((n for n, seat in enumerate(self.seats) if seat.identity == identity), None)


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an ack or a certificate-ack signs, beside the realm."""

    kind: Kind
    epoch: Index
    term: Term
    index: Index
    hash: Hash

    @property
    def head(self) -> Head:
        """The place that it speaks of."""
        return Head(self.index, self.hash)


class TimeOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a time-out signs: its signer will sign nothing more in a term below `term`.

    (high_term, index, hash) is the highest certificate whose entries the signer holds.
    """

    epoch: Index
    term: Term
    high_term: Term
    index: Index
    hash: Hash

    @property
    def rank(self) -> tuple[int, int]:
        """Of the certificate that it names."""
        return (self.high_term, self.index)


_STATEMENT = struct.Struct(">BQQQ32s")
_TIME_OUT = struct.Struct(">BQQQ32sQ")


def signed_bytes(realm: Realm, said: Statement | TimeOut) -> bytes:
    """The message that a seat's key signs. No two different tuples have the same."""
    if isinstance(said, Statement):
        packed = _STATEMENT.pack(said.kind, said.epoch, said.term, said.index, said.hash)
    else:
        packed = _TIME_OUT.pack(
            Kind.TIME_OUT, said.epoch, said.term, said.index, said.hash, said.high_term
        )
    return realm_domain(realm, "council") + packed


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A quorum's signatures over one statement: of `seats[i]` is `signatures[i]`.

    The certificate of term 0 has none: it stands for the ratification that began the epoch.
    """

    said: Statement
    seats: Annotated[list[SeatNumber], msgspec.Meta(max_length=MAX_SEATS)]
    """Rising."""
    signatures: Annotated[list[Signature], msgspec.Meta(max_length=MAX_SEATS)]

    @property
    def rank(self) -> tuple[int, int]:
        """Certificates of one epoch compare by (term, index)."""
        return (self.said.term, self.said.index)

    @property
    def ratifies(self) -> bool:
        """Whether it is made of certificate-acks."""
        return self.said.kind is Kind.CERTIFICATE_ACK


def start_certificate(council: Council) -> Certificate:
    """Rule 6: an epoch starts from the ratification before it, as its certificate of term 0."""
    start = council.start
    return Certificate(Statement(Kind.ACK, council.epoch, 0, start.index, start.hash), [], [])


def check_certificate(
    realm: Realm, council: Council, certificate: Certificate, verify: Verify
) -> None:
    """Raise BadCertificateError unless a quorum of `council` signed what it says."""
    said = certificate.said
    if said.epoch != council.epoch:
        raise WrongEpochError(f"a certificate of epoch {said.epoch}, not {council.epoch}")
    if said.term == 0:
        if certificate != start_certificate(council):
            raise BadCertificateError("a certificate of term 0 that is not the epoch's start")
        return
    if said.kind not in (Kind.ACK, Kind.CERTIFICATE_ACK):
        raise BadCertificateError("a certificate of something that cannot be certified")
    if said.index < council.start.index:
        raise BadCertificateError("a certificate from before its epoch")
    seats, signatures = certificate.seats, certificate.signatures
    if len(seats) != len(signatures) or any(a >= b for a, b in itertools.pairwise(seats)):
        raise BadCertificateError("a certificate whose seats are out of order or counted twice")
    if len(seats) < council.quorum or seats[-1] >= len(council.seats):
        raise BadCertificateError(
            f"a certificate of {len(seats)} seats where {council.quorum} of "
            f"{len(council.seats)} are a quorum"
        )
    message = signed_bytes(realm, said)
    for number, signature in zip(seats, signatures, strict=True):
        if not verify(council.seats[number].key, message, signature):
            raise BadCertificateError(f"seat {number}'s signature in a certificate is not its own")


class SignedTimeOut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One seat's time-out."""

    seat: SeatNumber
    said: TimeOut
    signature: Signature


class Opening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a term opens with: time-outs of a quorum, and a certificate that none of them tops."""

    epoch: Index
    term: Term
    certificate: Certificate
    time_outs: Annotated[list[SignedTimeOut], msgspec.Meta(max_length=MAX_SEATS)]
    """By rising seat; none for term 1 (rule 3)."""


def check_opening(realm: Realm, council: Council, opening: Opening, verify: Verify) -> None:
    """Raise BadCertificateError unless the term may begin at the opening's certificate.

    The certificate itself is checked by `check_certificate`.
    """
    if opening.epoch != council.epoch or opening.term < 1:
        raise WrongEpochError(f"an opening of epoch {opening.epoch}, term {opening.term}")
    if opening.term == 1:
        if opening.time_outs or opening.certificate != start_certificate(council):
            raise BadCertificateError("term 1 opens at its epoch's start, without time-outs")
        return
    if opening.certificate.said.term >= opening.term:
        raise BadCertificateError("a term that opens at a certificate of its own or later")
    seats = [each.seat for each in opening.time_outs]
    if any(a >= b for a, b in itertools.pairwise(seats)):
        raise BadCertificateError("time-outs out of order or counted twice")
    if len(seats) < council.quorum or seats[-1] >= len(council.seats):
        raise BadCertificateError(f"{len(seats)} time-outs where {council.quorum} are a quorum")
    for each in opening.time_outs:
        said = each.said
        if said.epoch != opening.epoch or said.term != opening.term:
            raise BadCertificateError("a time-out of another term")
        if said.rank > opening.certificate.rank:
            raise BadCertificateError(f"seat {each.seat} names a higher certificate")
        key = council.seats[each.seat].key
        if not verify(key, signed_bytes(realm, said), each.signature):
            raise BadCertificateError(f"seat {each.seat}'s time-out is not signed by it")


class Fork(msgspec.Struct, frozen=True, tag_field="guilt", tag="fork", forbid_unknown_fields=True):
    """Rule 1: two statements of one kind and term, by one seat, that are not on one chain.

    `headers` lead from the upper one down to the lower one's index (chain.path).
    """

    seat: SeatNumber
    lower: Statement
    lower_signature: Signature
    upper: Statement
    upper_signature: Signature
    headers: Annotated[list[Header], msgspec.Meta(max_length=MAX_PROOF_HEADERS)]

    @property
    def epoch(self) -> int:
        """Whose seat it is about."""
        return self.lower.epoch


class Retreat(
    msgspec.Struct, frozen=True, tag_field="guilt", tag="retreat", forbid_unknown_fields=True
):
    """Rule 3: a certificate-ack above what the same seat's later time-out names."""

    seat: SeatNumber
    acked: Statement
    acked_signature: Signature
    time_out: TimeOut
    time_out_signature: Signature

    @property
    def epoch(self) -> int:
        """Whose seat it is about."""
        return self.acked.epoch


Guilt = Fork | Retreat


def check_guilt(realm: Realm, council: Council, guilt: Guilt, verify: Verify) -> Seat:
    """The seat whose holder is proven to have lied. Raises BadGuiltError, WrongEpochError."""
    if guilt.epoch != council.epoch:
        raise WrongEpochError(f"guilt of epoch {guilt.epoch}, not {council.epoch}")
    if guilt.seat >= len(council.seats):
        raise BadGuiltError(f"there is no seat {guilt.seat}")
    if isinstance(guilt, Fork):
        _check_fork(realm, guilt)
        signed: Sequence[tuple[Statement | TimeOut, bytes]] = (
            (guilt.lower, guilt.lower_signature),
            (guilt.upper, guilt.upper_signature),
        )
    else:
        _check_retreat(guilt)
        signed = (
            (guilt.acked, guilt.acked_signature),
            (guilt.time_out, guilt.time_out_signature),
        )
    seat = council.seats[guilt.seat]
    for said, signature in signed:
        if not verify(seat.key, signed_bytes(realm, said), signature):
            raise BadGuiltError("a signature in the proof is not the accused's")
    return seat


def _check_fork(realm: Realm, guilt: Fork) -> None:
    lower, upper = guilt.lower, guilt.upper
    if (lower.kind, lower.epoch, lower.term) != (upper.kind, upper.epoch, upper.term):
        raise BadGuiltError("two statements of different kinds or terms do not contradict")
    if lower.kind not in (Kind.ACK, Kind.CERTIFICATE_ACK) or lower.index > upper.index:
        raise BadGuiltError("not two acks, the lower one first")
    try:
        found = ancestor(realm.network, upper.head, guilt.headers, lower.index)
    except BrokenPathError as error:
        raise BadGuiltError(f"the headers between prove nothing: {error}") from error
    if found == lower.hash:
        raise BadGuiltError("both statements are on one chain")


def _check_retreat(guilt: Retreat) -> None:
    acked, later = guilt.acked, guilt.time_out
    if acked.kind is not Kind.CERTIFICATE_ACK or acked.epoch != later.epoch:
        raise BadGuiltError("not a certificate-ack and a time-out of one epoch")
    if acked.term >= later.term or later.rank >= (acked.term, acked.index):
        raise BadGuiltError("the time-out is not later, or names enough")
