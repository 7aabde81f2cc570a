"""Finding liars in what passes by: proofs that convince strangers, and never of the honest."""

import pytest

from protocols.ledger.chain import Head
from protocols.ledger.council import (
    Certificate,
    Fork,
    Kind,
    Retreat,
    check_guilt,
    start_certificate,
)
from protocols.raft.guilt import MAX_ODD, Witness
from protocols.raft.log import Log
from protocols.raft.ports import Accuse
from tests.gossip_kit import mac_verify
from tests.raft_kit import (
    NETWORK,
    REALM,
    ToyLedger,
    certify,
    make_council,
    sign_statement,
    sign_time_out,
)
from tests.raft_lone import Chain

COUNCIL = make_council(4)
START = start_certificate(COUNCIL)
CHAIN = Chain(*[b"n%d" % number for number in range(20)])
LIAR = 2


class Stand:
    """A witness with a log of CHAIN."""

    def __init__(self) -> None:
        self.accused: list[Fork | Retreat] = []
        self.log = Log(NETWORK, 1, ToyLedger(), mac_verify, lambda _: None)
        for payload in CHAIN.payloads:
            self.log.append(payload)
        self.witness = Witness(REALM, COUNCIL, self.log, mac_verify, self.emit)

    def emit(self, effect: object) -> None:
        assert isinstance(effect, Accuse)
        check_guilt(REALM, COUNCIL, effect.guilt, mac_verify)
        self.accused.append(effect.guilt)

    def saw(self, head: Head, term: int = 1, kind: Kind = Kind.ACK, seat: int = LIAR) -> None:
        self.witness.saw(seat, *sign_statement(COUNCIL, seat, kind, term, head))

    def timed_out(self, term: int, high: Certificate) -> None:
        self.witness.timed_out(sign_time_out(COUNCIL, LIAR, term, high))


def elsewhere(index: int) -> Head:
    return Head(index, bytes([index]) * 32)


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.CERTIFICATE_ACK])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_two_at_one_index(kind: Kind, first: str) -> None:
    stand = Stand()
    heads = [CHAIN.heads[6], elsewhere(7)]
    for head in heads if first == "ours" else heads[::-1]:
        stand.saw(head, kind=kind)
    [guilt] = stand.accused
    assert isinstance(guilt, Fork)
    assert guilt.seat == LIAR
    assert guilt.headers == []


@pytest.mark.parametrize("order", [1, -1])
def test_one_below_the_other_is_shown_with_the_headers_between(order: int) -> None:
    stand = Stand()
    for head in [elsewhere(3), CHAIN.heads[16]][::order]:
        stand.saw(head)
    [guilt] = stand.accused
    assert isinstance(guilt, Fork)
    assert guilt.lower.index == 3
    assert 0 < len(guilt.headers) < 13  # by the short cuts


def test_an_odd_one_is_remembered_until_it_can_be_shown() -> None:
    stand = Stand()
    stand.saw(CHAIN.heads[2])
    stand.saw(elsewhere(9))  # its headers are unknown: no proof yet
    assert stand.accused == []
    stand.saw(CHAIN.heads[4])
    assert stand.accused == []
    stand.saw(CHAIN.heads[12])
    assert len(stand.accused) == 1


def test_what_an_honest_member_signs_accuses_nobody() -> None:
    stand = Stand()
    for index in (3, 1, 7, 7, 12):
        stand.saw(CHAIN.heads[index])
        stand.saw(CHAIN.heads[index], kind=Kind.CERTIFICATE_ACK)
    stand.timed_out(2, certify(COUNCIL, Kind.ACK, 1, CHAIN.heads[12], [0, 1, 3]))
    stand.saw(elsewhere(5), term=2)  # another term may take another branch
    stand.saw(elsewhere(5), term=2, kind=Kind.CERTIFICATE_ACK)
    assert stand.accused == []


def test_a_forged_statement_is_no_proof() -> None:
    stand = Stand()
    stand.saw(CHAIN.heads[6])
    said, _ = sign_statement(COUNCIL, LIAR, Kind.ACK, 1, elsewhere(7))
    stand.witness.saw(LIAR, said, bytes(64))
    assert stand.accused == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_retreat_in_either_order(order: int) -> None:
    stand = Stand()

    def ack() -> None:
        stand.saw(CHAIN.heads[5], kind=Kind.CERTIFICATE_ACK)

    def retreat() -> None:
        stand.timed_out(2, certify(COUNCIL, Kind.ACK, 1, CHAIN.heads[4], [0, 1, 3]))

    for step in [ack, retreat][::order]:
        step()
    [guilt] = stand.accused
    assert isinstance(guilt, Retreat)


def test_a_certificate_ack_in_the_new_term_is_no_retreat() -> None:
    stand = Stand()
    stand.timed_out(2, START)
    stand.saw(CHAIN.heads[5], term=2, kind=Kind.CERTIFICATE_ACK)
    assert stand.accused == []


def test_a_certificate_shows_what_each_of_its_seats_signed() -> None:
    stand = Stand()
    stand.witness.certificate(certify(COUNCIL, Kind.ACK, 1, CHAIN.heads[5], [0, 1, LIAR]))
    stand.saw(elsewhere(6))
    assert [guilt.seat for guilt in stand.accused] == [LIAR]


def test_memory_is_bounded() -> None:
    stand = Stand()
    for term in range(1, 200):
        stand.saw(elsewhere(7), term=term)
    assert len(stand.witness._odd[LIAR, Kind.ACK]) <= MAX_ODD
