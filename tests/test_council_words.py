"""Certificates, openings and proofs of guilt: what proves something, and what does not."""

from collections.abc import Callable

import msgspec
import pytest

from protocols.ledger.chain import Head, Header, Spine, path
from protocols.ledger.council import (
    BadCertificateError,
    BadGuiltError,
    Certificate,
    Council,
    Fork,
    Kind,
    Opening,
    Retreat,
    Statement,
    TimeOut,
    WrongEpochError,
    check_certificate,
    check_guilt,
    check_opening,
    signed_bytes,
    start_certificate,
)
from protocols.realm import Realm
from synapsed.keys import verify
from tests.council_kit import NETWORK, REALM, Members

FOUR = Members(4)
OTHERS = (Realm("other", REALM.genesis), Realm(NETWORK, bytes(range(32))))
"""Another network, and another genesis of ours."""
HEAD = Head(9, bytes(range(32)))


def check(certificate: Certificate, council: Council = FOUR.council) -> None:
    check_certificate(REALM, council, certificate, verify)


@pytest.mark.parametrize(
    ("seats", "quorum", "liars"), [(1, 1, 0), (4, 3, 1), (5, 4, 1), (7, 5, 2), (21, 15, 6)]
)
def test_a_quorum_is_more_than_two_thirds_of_the_seats(seats: int, quorum: int, liars: int) -> None:
    council = Members(seats).council
    assert (council.quorum, council.tolerated) == (quorum, liars)
    assert 3 * council.quorum > 2 * seats
    # Two quorums share an honest seat, and the honest alone are one.
    assert 2 * council.quorum - seats > council.tolerated
    assert seats - council.tolerated >= council.quorum


def test_every_seat_leads_in_turn_in_an_order_of_the_beacon() -> None:
    council = Members(7).council
    assert sorted(council.leader(term) for term in range(1, 8)) == list(range(7))
    other = msgspec.structs.replace(council, beacon=bytes(32))
    assert [council.leader(t) for t in range(7)] != [other.leader(t) for t in range(7)]


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.CERTIFICATE_ACK])
def test_a_quorums_signatures_certify(kind: Kind) -> None:
    said = FOUR.statement(2, HEAD, kind)
    check(FOUR.certificate(said, [0, 2, 3]))
    check(FOUR.certificate(said, range(4)))
    check(start_certificate(FOUR.council))


def _duplicate(good: Certificate) -> Certificate:
    return Certificate(good.said, [0, 0, 1], [good.signatures[i] for i in (0, 0, 1)])


def _unsorted(good: Certificate) -> Certificate:
    return Certificate(good.said, [1, 0, 2], [good.signatures[i] for i in (1, 0, 2)])


BAD: dict[str, Callable[[Certificate], Certificate]] = {
    "too few": lambda good: Certificate(good.said, good.seats[:2], good.signatures[:2]),
    "none": lambda good: Certificate(good.said, [], []),
    "a seat twice": _duplicate,
    "out of order": _unsorted,
    "a seat that is not there": lambda good: Certificate(good.said, [0, 1, 4], good.signatures),
    "a signature less": lambda good: Certificate(good.said, good.seats, good.signatures[:2]),
    "swapped signatures": lambda good: Certificate(good.said, good.seats, good.signatures[::-1]),
    "another term": lambda good: msgspec.structs.replace(
        good, said=msgspec.structs.replace(good.said, term=3)
    ),
    "another hash": lambda good: msgspec.structs.replace(
        good, said=msgspec.structs.replace(good.said, hash=bytes(32))
    ),
    "another index": lambda good: msgspec.structs.replace(
        good, said=msgspec.structs.replace(good.said, index=10)
    ),
    "acks shown as certificate-acks": lambda good: msgspec.structs.replace(
        good, said=msgspec.structs.replace(good.said, kind=Kind.CERTIFICATE_ACK)
    ),
    "term 0 elsewhere": lambda good: msgspec.structs.replace(
        good, said=msgspec.structs.replace(good.said, term=0)
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_quorum_over_one_statement_is_refused(name: str) -> None:
    good = FOUR.certificate(FOUR.statement(2, HEAD), range(3))
    check(good)
    with pytest.raises(BadCertificateError):
        check(BAD[name](good))


def test_another_epochs_and_another_networks_certificates_are_refused() -> None:
    good = FOUR.certificate(FOUR.statement(2, HEAD), range(3))
    with pytest.raises(WrongEpochError):
        check(good, Members(4, epoch=2).council)
    for other in OTHERS:
        with pytest.raises(BadCertificateError):
            check_certificate(other, FOUR.council, good, verify)
    late = Members(4, start=Head(10, bytes(32)))
    with pytest.raises(BadCertificateError, match="before its epoch"):
        check(good, late.council)


def test_no_two_statements_are_signed_alike() -> None:
    """A time-out's bytes are never an ack's, whatever the numbers."""
    said = FOUR.statement(2, HEAD)
    time_out = TimeOut(1, 2, 3, HEAD.index, HEAD.hash)
    kinds = [msgspec.structs.replace(said, kind=kind) for kind in (Kind.ACK, Kind.CERTIFICATE_ACK)]
    messages = {signed_bytes(REALM, each) for each in (*kinds, time_out)}
    messages |= {signed_bytes(other, said) for other in OTHERS}
    assert len(messages) == 5


def test_a_term_opens_with_a_quorum_of_time_outs_at_a_certificate_that_none_tops() -> None:
    low = FOUR.certificate(FOUR.statement(1, Head(3, bytes(32))), range(3))
    high = FOUR.certificate(FOUR.statement(2, HEAD), range(3))
    good = FOUR.opening(3, high, range(3))

    def attempt(opening: Opening, council: Council = FOUR.council) -> None:
        check_opening(REALM, council, opening, verify)

    attempt(good)
    attempt(Opening(1, 1, start_certificate(FOUR.council), []))
    mixed = [*FOUR.opening(3, low, [0]).time_outs, *good.time_outs[1:]]
    attempt(msgspec.structs.replace(good, time_outs=mixed))
    bad = [
        msgspec.structs.replace(good, certificate=low),
        msgspec.structs.replace(good, time_outs=good.time_outs[:2]),
        msgspec.structs.replace(good, time_outs=[good.time_outs[0]] * 3),
        msgspec.structs.replace(good, time_outs=good.time_outs[::-1]),
        msgspec.structs.replace(good, term=4),
        msgspec.structs.replace(good, epoch=2),
        FOUR.opening(2, high, range(3)),
        msgspec.structs.replace(good, term=1),
        Opening(1, 1, high, []),
        Opening(1, 0, start_certificate(FOUR.council), []),
    ]
    forged = msgspec.structs.replace(good.time_outs[2], signature=good.time_outs[1].signature)
    bad.append(msgspec.structs.replace(good, time_outs=[*good.time_outs[:2], forged]))
    for opening in bad:
        with pytest.raises(BadCertificateError):
            attempt(opening)


def chains() -> tuple[list[Header], list[Head], list[Header], list[Head]]:
    """Two chains of six entries that part after the second."""
    spine = Spine.begin(NETWORK, b"genesis")
    common: list[Header] = []
    heads = [spine.head]
    for number in (1, 2):
        header = spine.next_header(1, b"%d" % number)
        spine = spine.extended(NETWORK, header)
        common.append(header)
        heads.append(spine.head)
    branches: list[tuple[list[Header], list[Head]]] = []
    for name in (b"a", b"b"):
        branch, tops, on = list(common), list(heads), spine
        for number in range(3, 7):
            header = on.next_header(1, name + b"%d" % number)
            on = on.extended(NETWORK, header)
            branch.append(header)
            tops.append(on.head)
        branches.append((branch, tops))
    return (*branches[0], *branches[1])


A, A_HEADS, B, B_HEADS = chains()


def fork(
    lower: Statement, upper: Statement, headers: list[Header], seat: int = 1, signer: int = 1
) -> Fork:
    return Fork(seat, lower, FOUR.sign(signer, lower), upper, FOUR.sign(signer, upper), headers)


def test_two_acks_of_one_term_that_are_not_on_one_chain_are_guilt() -> None:
    lower, upper = FOUR.statement(1, A_HEADS[3]), FOUR.statement(1, B_HEADS[6])
    headers = path(lambda index: B[index - 1], 6, 3)
    seat = check_guilt(REALM, FOUR.council, fork(lower, upper, headers), verify)
    assert seat is FOUR.council.seats[1]
    same = fork(FOUR.statement(1, A_HEADS[3]), FOUR.statement(1, B_HEADS[3]), [])
    check_guilt(REALM, FOUR.council, same, verify)


def test_what_does_not_contradict_is_no_guilt() -> None:
    headers = path(lambda index: B[index - 1], 6, 3)
    upper = FOUR.statement(1, B_HEADS[6])
    apart = FOUR.statement(1, A_HEADS[3])
    innocent = [
        fork(FOUR.statement(1, B_HEADS[3]), upper, headers),  # one chain
        fork(apart, FOUR.statement(2, B_HEADS[6]), headers),  # another term
        fork(apart, FOUR.statement(1, B_HEADS[6], Kind.CERTIFICATE_ACK), headers),
        fork(apart, upper, headers[1:]),
        fork(apart, upper, path(lambda index: A[index - 1], 6, 3)),
        fork(upper, apart, []),
        fork(apart, upper, headers, signer=2),  # somebody else's signatures
        fork(apart, upper, headers, seat=9, signer=1),
    ]
    for guilt in innocent:
        with pytest.raises(BadGuiltError):
            check_guilt(REALM, FOUR.council, guilt, verify)
    with pytest.raises(WrongEpochError):
        check_guilt(REALM, Members(4, epoch=2).council, fork(apart, upper, headers), verify)
    for other in OTHERS:
        with pytest.raises(BadGuiltError):
            check_guilt(other, FOUR.council, fork(apart, upper, headers), verify)


def retreat(acked: Statement, later: TimeOut, seat: int = 2, signer: int = 2) -> Retreat:
    return Retreat(seat, acked, FOUR.sign(signer, acked), later, FOUR.sign(signer, later))


def test_a_certificate_ack_above_what_a_later_time_out_names_is_guilt() -> None:
    acked = FOUR.statement(2, HEAD, Kind.CERTIFICATE_ACK)
    check_guilt(REALM, FOUR.council, retreat(acked, TimeOut(1, 3, 2, 8, bytes(32))), verify)
    check_guilt(REALM, FOUR.council, retreat(acked, TimeOut(1, 5, 1, 20, bytes(32))), verify)
    innocent = [
        retreat(acked, TimeOut(1, 3, 2, 9, HEAD.hash)),
        retreat(acked, TimeOut(1, 3, 2, 12, bytes(32))),
        retreat(acked, TimeOut(1, 2, 1, 8, bytes(32))),  # signed before the ack
        retreat(acked, TimeOut(2, 3, 1, 8, bytes(32))),
        retreat(FOUR.statement(2, HEAD), TimeOut(1, 3, 1, 8, bytes(32))),
        retreat(acked, TimeOut(1, 3, 2, 8, bytes(32)), signer=1),
    ]
    for guilt in innocent:
        with pytest.raises(BadGuiltError):
            check_guilt(REALM, FOUR.council, guilt, verify)
