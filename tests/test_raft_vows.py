"""What one seat may sign: each rule of raft/state.py by itself."""

from collections.abc import Callable

import pytest

from protocols.effects import Effect, Save
from protocols.ledger.chain import Head
from protocols.ledger.council import Kind, signed_bytes, start_certificate
from protocols.raft.state import STATE, Vows, blank_state, opening_record, saved_opening
from tests.gossip_kit import mac_verify
from tests.raft_kit import REALM, certify, make_council, signer
from tests.raft_lone import Chain, opening

COUNCIL = make_council(4)
START = start_certificate(COUNCIL)
FLOOR = START.said.head
CHAIN = Chain(b"n1", b"n2", b"n3")
SEAT = 2


def anything(head: Head) -> bool:
    return True


def on(*heads: Head) -> Callable[[Head], bool]:
    return lambda head: head in heads


class Desk:
    """A seat's vows, and the disk that they are saved on."""

    def __init__(self, disk: dict[bytes, bytes] | None = None) -> None:
        blank = blank_state(COUNCIL.seats[SEAT].key)
        self.disk = {blank.key: blank.value or b""} if disk is None else disk
        self.vows = Vows(REALM, COUNCIL, SEAT, signer(SEAT), self.save)
        self.vows.load(self.disk)

    def save(self, effect: Effect) -> None:
        assert isinstance(effect, Save)
        assert effect.value is not None
        self.disk[effect.key] = effect.value

    def again(self) -> "Desk":
        return Desk(self.disk)


def test_an_ack_is_saved_and_verifies() -> None:
    desk = Desk()
    before = dict(desk.disk)
    signed = desk.vows.ack(1, CHAIN.heads[0], FLOOR, anything)
    assert signed is not None
    said, signature = signed
    assert (said.kind, said.term, said.head) == (Kind.ACK, 1, CHAIN.heads[0])
    assert mac_verify(COUNCIL.seats[SEAT].key, signed_bytes(REALM, said), signature)
    assert desk.disk[STATE] != before[STATE]
    assert desk.again().vows.acked_in(1) == CHAIN.heads[0]


def test_each_ack_of_a_term_extends_the_one_before() -> None:
    for desk in (first := Desk(), first.again()):
        desk.vows.ack(1, CHAIN.heads[1], FLOOR, anything)
        elsewhere = on(FLOOR)
        assert desk.vows.ack(1, CHAIN.heads[2], FLOOR, elsewhere) is None
        assert desk.vows.ack(1, CHAIN.heads[0], FLOOR, anything) is None
        assert desk.vows.ack(1, CHAIN.heads[1], FLOOR, anything) is not None  # the same again
    assert desk.vows.ack(1, CHAIN.heads[2], FLOOR, on(FLOOR, CHAIN.heads[1])) is not None


def test_a_later_term_may_leave_the_chain() -> None:
    desk = Desk()
    desk.vows.ack(1, CHAIN.heads[2], FLOOR, anything)
    other = Chain(b"nx")
    assert desk.vows.ack(2, other.head, FLOOR, on(FLOOR, other.head)) is not None
    assert desk.vows.ack(1, CHAIN.heads[2], FLOOR, anything) is None


def test_no_ack_below_the_floor_or_beside_it() -> None:
    desk = Desk()
    assert desk.vows.ack(1, CHAIN.heads[0], CHAIN.heads[1], anything) is None
    assert desk.vows.ack(1, CHAIN.heads[2], CHAIN.heads[1], on(CHAIN.heads[0])) is None
    assert desk.vows.ack(1, CHAIN.heads[1], CHAIN.heads[1], anything) is not None


def test_nothing_below_a_time_out() -> None:
    first = Desk()
    signed = first.vows.sign_time_out(3)
    assert signed is not None
    for desk in (first, first.again()):
        certificate = certify(COUNCIL, Kind.ACK, 2, CHAIN.head, [0, 1, 3])
        desk.vows.adopt(certificate)
        assert desk.vows.ack(2, CHAIN.head, FLOOR, anything) is None
        assert desk.vows.certificate_ack(certificate, 2) is None
        assert desk.vows.sign_time_out(3) is None
        assert desk.vows.sign_time_out(2) is None
        assert desk.vows.term == 3
    assert desk.vows.ack(3, CHAIN.head, FLOOR, anything) is not None


def test_a_time_out_names_the_highest_certificate() -> None:
    desk = Desk()
    certificate = certify(COUNCIL, Kind.ACK, 1, CHAIN.head, [0, 1, 3])
    desk.vows.adopt(certificate)
    signed = desk.again().vows.sign_time_out(2)
    assert signed is not None
    assert signed.said.rank == (1, 3)
    assert signed.said.hash == CHAIN.head.hash


@pytest.mark.parametrize("held", [False, True])
def test_only_a_certificate_that_is_held_is_acknowledged(held: bool) -> None:
    desk = Desk()
    certificate = certify(COUNCIL, Kind.ACK, 1, CHAIN.head, [0, 1, 3])
    if held:
        desk.vows.adopt(certificate)
        assert desk.again().vows.high == certificate
    assert (desk.vows.certificate_ack(certificate, 1) is not None) == held


def test_only_the_current_terms_certificates_are_acknowledged() -> None:
    desk = Desk()
    certificate = certify(COUNCIL, Kind.ACK, 1, CHAIN.head, [0, 1, 3])
    desk.vows.adopt(certificate)
    assert desk.vows.certificate_ack(certificate, 2) is None


def test_who_lost_its_state_signs_nothing_and_saves_nothing() -> None:
    desk = Desk({})
    assert desk.vows.lost
    certificate = certify(COUNCIL, Kind.ACK, 1, CHAIN.head, [0, 1, 3])
    desk.vows.adopt(certificate)
    assert desk.vows.ack(1, CHAIN.head, FLOOR, anything) is None
    assert desk.vows.certificate_ack(certificate, 1) is None
    assert desk.vows.sign_time_out(2) is None
    assert desk.vows.last_ack(1) is None
    assert desk.disk == {}


def test_a_record_of_a_later_epoch_is_not_ours_to_use() -> None:
    later = make_council(4, epoch=5)
    ahead = Vows(REALM, later, SEAT, signer(SEAT), Desk().save)
    desk = Desk()
    ahead._emit = desk.save
    ahead.load(desk.disk)
    ahead.ack(1, CHAIN.head, FLOOR, anything)
    assert desk.again().vows.lost


def test_openings_are_kept_by_epoch() -> None:
    saved = opening_record(opening(COUNCIL, 2, START, [0, 1, 3]).opening)
    assert saved.value is not None
    disk = {saved.key: saved.value}
    found = saved_opening(disk, 1)
    assert found is not None
    assert found.term == 2
    assert saved_opening(disk, 2) is None
    assert saved_opening({}, 1) is None
    assert saved_opening({saved.key: saved.value[:-1]}, 1) is None
