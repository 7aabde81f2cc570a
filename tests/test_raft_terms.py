"""Rule 3 of the council, scripted: suspicion, time-outs, and how a term opens."""

import pytest

from protocols.effects import Blame
from protocols.ledger.council import Kind, Retreat
from protocols.raft.messages import (
    Certified,
    Fetch,
    Opened,
    Suspicion,
    TimedOut,
    TimedOuts,
)
from protocols.raft.ports import Accuse, Ratify
from tests.raft_kit import (
    SETTINGS,
    certify,
    sign_time_out,
)
from tests.raft_lone import Chain, Lone, opening
from tests.raft_scripts import (
    COUNCIL,
    L1,
    L2,
    ME,
    OTHERS,
    START,
    acked,
    certified,
    give_up,
    leader_of_two,
    locked,
)


def test_suspicion_is_no_time_out_and_one_goes_on_signing() -> None:
    lone = Lone(ME)
    lone.wait(SETTINGS.time_out + 0.01)
    assert len({seat for seat, _ in lone.sent(Suspicion)}) == 3
    lone.hear(OTHERS[0], Suspicion(1, 1, 0))
    assert lone.sent(TimedOut) == []
    lone.hear(L1, *Chain(b"n1").append(COUNCIL, 1))
    assert acked(lone) == [(1, 1)]


def test_after_the_time_out_nothing_is_signed_in_the_term_below() -> None:
    lone = Lone(ME)
    give_up(lone)
    assert [message.signed.said.term for _, message in lone.sent(TimedOut)] == [2, 2, 2]
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(lone) == []
    lone.hear(L1, Certified(certified(chain)))
    lone.hear(L1, *chain.fetched(COUNCIL))
    assert locked(lone) == []
    assert lone.replica.high.said.head == chain.head  # held, though nothing is signed for it
    again = lone.restart()
    again.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(again) == []


def test_a_time_out_names_the_highest_certificate_whose_entries_are_held() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    further = Chain(b"n2", after=chain)
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(chain)))
    lone.hear(L1, Certified(certified(further)))  # entries unknown
    give_up(lone)
    for _, message in lone.sent(TimedOut):
        assert (message.signed.said.high_term, message.signed.said.index) == (1, 1)
        assert message.certificate == certified(chain)


def test_a_time_out_is_repeated_until_the_term_opens() -> None:
    lone = Lone(ME)
    give_up(lone)
    lone.wait(2 * SETTINGS.retry + 0.001)
    assert len(lone.sent(TimedOut)) >= 3
    lone.hear(L2, opening(COUNCIL, 2, START, OTHERS))
    lone.wait(4 * SETTINGS.retry)
    assert lone.sent(TimedOut) == []


def test_suspicions_fade() -> None:
    lone = Lone(ME)
    for seat in OTHERS[:2]:
        lone.hear(seat, Suspicion(1, 1, 0))
    lone.wait(SETTINGS.time_out + 0.01)  # this member gives up when the others have gone on
    assert lone.sent(Suspicion)
    assert lone.sent(TimedOut) == []


def test_whoever_missed_the_suspicions_joins_when_more_than_a_third_signed() -> None:
    lone = Lone(ME)
    signed = [sign_time_out(COUNCIL, seat, 2, START) for seat in OTHERS]
    lone.hear(OTHERS[0], TimedOut(signed[0], START))
    assert lone.sent(TimedOut) == []
    lone.hear(OTHERS[1], TimedOut(signed[1], START))
    assert lone.replica.term == 2
    assert len(lone.sent(TimedOut)) == 3


def test_a_quorums_time_outs_are_proof_of_a_term() -> None:
    lone = Lone(ME)
    signed = [sign_time_out(COUNCIL, seat, 5, START) for seat in sorted(OTHERS)]
    lone.hear(OTHERS[0], TimedOuts(signed[:2]))
    assert lone.of(Blame)
    assert lone.replica.term == 1
    lone.hear(OTHERS[0], TimedOuts(signed))
    assert lone.replica.term == 5
    assert len(lone.sent(TimedOut)) == 3


def test_on_the_proof_members_acknowledge_against_a_higher_lock() -> None:
    lone = Lone(ME)
    low = Chain(b"n1")
    high = Chain(b"n2", b"n3", after=low)
    lone.hear(L1, *low.append(COUNCIL, 1))
    lone.hear(L1, *high.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(high)))
    assert locked(lone) == [(1, 3)]
    lone.hear(L2, opening(COUNCIL, 2, certified(low), OTHERS))
    assert acked(lone) == [(2, 1)]
    lone.hear(L2, *Chain(b"nx", after=low).append(COUNCIL, 2))
    assert acked(lone) == [(2, 2)]


@pytest.mark.parametrize("flaw", ["few", "twice", "above", "forged", "later"])
def test_a_false_opening_opens_nothing(flaw: str) -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    message = {
        "few": opening(COUNCIL, 2, START, OTHERS[:2]),
        "twice": opening(COUNCIL, 2, START, [OTHERS[0], OTHERS[0], OTHERS[1]]),
        "above": opening(COUNCIL, 2, START, OTHERS, certified(chain)),
        "forged": opening(COUNCIL, 2, certify(COUNCIL, Kind.ACK, 1, chain.head, [0, 1]), OTHERS),
        "later": opening(COUNCIL, 2, certified(chain, 2), OTHERS, START),
    }[flaw]
    lone.hear(L2, message)
    assert lone.replica.term == 1
    assert acked(lone) == []
    assert len(lone.of(Blame)) == 1


def test_the_next_leader_opens_with_a_quorum_of_time_outs() -> None:
    lone = leader_of_two()
    others = [seat for seat in range(4) if seat != L2]
    lone.hear(others[0], TimedOut(sign_time_out(COUNCIL, others[0], 2, START), START))
    assert lone.sent(Opened) == []
    lone.hear(others[1], TimedOut(sign_time_out(COUNCIL, others[1], 2, START), START))
    opened = lone.sent(Opened)
    assert sorted(seat for seat, _ in opened) == others
    assert len(opened[0][1].opening.time_outs) == 3
    assert lone.replica.leading


def test_the_leader_fetches_what_the_highest_certificate_covers() -> None:
    lone = leader_of_two()
    others = [seat for seat in range(4) if seat != L2]
    chain = Chain(b"n1", b"n2")
    high = certify(COUNCIL, Kind.ACK, 1, chain.head, others)
    lone.hear(others[0], TimedOut(sign_time_out(COUNCIL, others[0], 2, START), START))
    lone.hear(others[1], TimedOut(sign_time_out(COUNCIL, others[1], 2, high), high))
    assert lone.sent(Opened) == []
    assert [(seat, message.top) for seat, message in lone.sent(Fetch)] == [(others[1], chain.head)]
    lone.hear(others[1], *chain.fetched(COUNCIL))
    [opened, *_] = [message for _, message in lone.sent(Opened)]
    assert opened.opening.certificate == high


def test_the_leader_may_leave_out_whoever_names_what_nobody_has() -> None:
    lone = leader_of_two()
    others = [seat for seat in range(4) if seat != L2]
    high = certify(COUNCIL, Kind.ACK, 1, Chain(b"n1").head, others)
    for seat, named in ((others[0], START), (others[1], high)):
        lone.hear(seat, TimedOut(sign_time_out(COUNCIL, seat, 2, named), named))
    lone.wait(3 * SETTINGS.retry)
    assert lone.sent(Opened) == []  # without that one there is no quorum
    lone.hear(others[2], TimedOut(sign_time_out(COUNCIL, others[2], 2, START), START))
    [opened, *_] = [message for _, message in lone.sent(Opened)]
    assert opened.opening.certificate == START
    assert others[1] not in [each.seat for each in opened.opening.time_outs]


def test_whoever_is_behind_is_sent_the_terms_proof() -> None:
    lone = Lone(ME)
    lone.hear(L2, opening(COUNCIL, 2, START, OTHERS))
    lone.hear(L1, Suspicion(1, 1, 0))
    [(seat, message)] = lone.sent(Opened)
    assert seat == L1
    assert message.opening.term == 2


def test_a_retreat_is_accused() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(chain, kind=Kind.CERTIFICATE_ACK)))
    assert lone.of(Ratify)
    liar = OTHERS[0]
    lone.hear(liar, TimedOut(sign_time_out(COUNCIL, liar, 2, START), START))
    [accuse] = lone.of(Accuse)
    assert isinstance(accuse.guilt, Retreat)
    assert accuse.guilt.seat == liar
