"""When a leader is given up."""

import pytest

from protocols.ledger.council import start_certificate
from protocols.raft.messages import TimedOut
from protocols.raft.pacemaker import LONGER, MOST_LONGER, PATIENCE, Pacemaker
from tests.raft_kit import make_council, sign_time_out

COUNCIL = make_council(7)
START = start_certificate(COUNCIL)


def pacemaker() -> Pacemaker:
    pace = Pacemaker(COUNCIL, 0, 2.0)
    pace.enter(1, 100.0)
    return pace


def time_out(pace: Pacemaker, seat: int, term: int) -> bool:
    return pace.heard_time_out(TimedOut(sign_time_out(COUNCIL, seat, term, START), START))


def test_only_progress_and_a_new_term_reset_the_timer() -> None:
    pace = pacemaker()
    assert pace.deadline == 102.0
    pace.heard_suspicion(1, 1, 101.0)
    time_out(pace, 2, 2)
    assert pace.deadline == 102.0
    pace.progress(101.0)
    assert pace.deadline == 103.0
    pace.suspect()
    pace.enter(2, 104.0)
    assert pace.deadline == 106.0
    assert not pace.suspecting


def test_fruitless_terms_last_longer_up_to_a_bound() -> None:
    pace = pacemaker()
    lengths = []
    for term in range(2, 2 + PATIENCE + MOST_LONGER + 3):
        pace.enter(term, 100.0 * term)
        lengths.append(pace.deadline - 100.0 * term)
    assert lengths[:PATIENCE] == [2.0] * PATIENCE
    assert lengths[PATIENCE] == 2.0 * (1 + LONGER)
    assert lengths[-1] == lengths[-2] == 2.0 * (1 + LONGER * MOST_LONGER)
    pace.progress(5000.0)
    assert pace.deadline == 5002.0


def test_a_quorum_is_needed_and_this_member_counts() -> None:
    pace = pacemaker()
    for seat in (1, 2, 3, 4):
        pace.heard_suspicion(seat, 1, 101.9)
    assert pace.wanted_term(102.0) is None
    pace.suspect()
    assert pace.wanted_term(102.0) == 2


def test_a_time_out_is_suspicion_of_every_term_below() -> None:
    pace = pacemaker()
    pace.suspect()
    for seat in (1, 2, 3):
        pace.heard_suspicion(seat, 1, 101.9)
    assert pace.wanted_term(102.0) is None
    time_out(pace, 4, 9)
    assert pace.wanted_term(102.0) == 2


def test_suspicions_of_later_terms_carry_further() -> None:
    pace = pacemaker()
    for seat in (1, 2, 3, 4, 5):
        pace.heard_suspicion(seat, 4, 101.9)
    assert pace.wanted_term(102.0) == 5


def test_suspicions_fade_and_time_outs_do_not() -> None:
    pace = pacemaker()
    pace.suspect()
    for seat in (1, 2, 3, 4):
        pace.heard_suspicion(seat, 1, 102.0)
    assert pace.wanted_term(102.9) == 2
    assert pace.wanted_term(103.1) is None
    for seat in (1, 2, 3):
        time_out(pace, seat, 3)
    assert pace.wanted_term(1000.0) == 3  # more than a third: join


@pytest.mark.parametrize(("liars", "joins"), [(1, False), (2, False), (3, True)])
def test_a_third_of_liars_moves_nobody(liars: int, joins: bool) -> None:
    pace = pacemaker()
    for seat in range(1, 1 + liars):
        time_out(pace, seat, 50 + seat)
    assert (pace.wanted_term(101.0) is not None) == joins


def test_of_each_seat_the_highest_time_out_counts() -> None:
    pace = pacemaker()
    assert time_out(pace, 1, 3)
    assert not time_out(pace, 1, 2)
    assert not time_out(pace, 1, 3)
    assert time_out(pace, 1, 4)
    assert pace.of_term(3) == []
    assert [told.signed.seat for told in pace.of_term(4)] == [1]
