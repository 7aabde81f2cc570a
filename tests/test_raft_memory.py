"""What outlives a restart: rules 7 and 8 of the council, scripted, and damaged disks."""

import pytest

from protocols.effects import Blame, Emit, Save
from protocols.ledger.council import Kind
from protocols.raft.log import ENTRY
from protocols.raft.messages import (
    Append,
    Certified,
    Fetch,
    Fetched,
    Opened,
    Signed,
    TimedOut,
    TimedOuts,
)
from protocols.raft.ports import Ratified, Ratify, Submitted
from protocols.raft.state import OPENING, STATE
from tests.gossip_kit import mac_verify
from tests.raft_kit import (
    SETTINGS,
    SKEW,
    certify,
    sign_statement,
    sign_time_out,
    tick,
)
from tests.raft_lone import Chain, Lone, opening
from tests.raft_scripts import (
    COUNCIL,
    L1,
    L2,
    L3,
    ME,
    OTHERS,
    START,
    acked,
    certified,
    give_up,
    leader_of_two,
    locked,
)

# -- rule 7: lost state ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "torn", "flipped", "misdirected"])
def test_a_seat_without_its_state_signs_nothing(how: str) -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    record = lone.disk[STATE]
    match how:
        case "missing":
            del lone.disk[STATE]
        case "torn":
            lone.disk[STATE] = record[: len(record) // 2]
        case "flipped":
            lone.disk[STATE] = record[:40] + bytes([record[40] ^ 1]) + record[41:]
        case "misdirected":
            lone.disk[STATE] = next(
                value for key, value in lone.disk.items() if key.startswith(ENTRY)
            )
    again = lone.restart()
    assert again.replica.lost
    assert [e.kind for e in again.of(Emit)] == ["council.lost-state"]
    again.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(again) == []
    again.hear(L1, Certified(certified(chain)))
    assert locked(again) == []
    give_up(again)
    assert again.sent(TimedOut) == []
    again.hear(L2, opening(COUNCIL, 2, START, OTHERS))
    assert acked(again) == []
    assert not [e for e in again.effects if isinstance(e, Save) and e.key == STATE]
    assert again.restart().replica.lost  # nothing healed it
    again.hear(L1, Certified(certified(chain, kind=Kind.CERTIFICATE_ACK)))
    assert again.of(Ratify)  # it follows all the same


def test_a_record_of_another_key_is_no_state() -> None:
    lone = Lone(ME)
    other = Lone(OTHERS[0])
    lone.disk[STATE] = other.disk[STATE]
    assert lone.restart().replica.lost


def test_a_forgotten_ack_comes_to_light() -> None:
    """A disk that came back from an old image looks whole: a certificate tells."""
    lone = Lone(ME)
    image = dict(lone.disk)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(lone) == [(1, 1)]
    again = Lone(ME, disk=image)
    mine = certify(COUNCIL, Kind.ACK, 1, chain.head, [ME, *OTHERS[:2]])
    again.hear(L1, Certified(mine))
    assert again.replica.lost
    again.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(again) == []


def rolled_back() -> tuple[Lone, Chain]:
    """A seat whose disk came back as it was before it acknowledged anything."""
    lone = Lone(ME)
    image = dict(lone.disk)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(chain)))
    assert locked(lone) == [(1, 1)]
    return Lone(ME, disk=image), chain


def test_a_forgotten_lock_comes_to_light() -> None:
    again, chain = rolled_back()
    mine = certify(COUNCIL, Kind.CERTIFICATE_ACK, 1, chain.head, [ME, *OTHERS[:2]])
    again.hear(L1, Certified(mine))
    assert again.replica.lost
    again.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(again) == []
    third = again.restart()
    assert third.replica.lost == again.replica.lost  # which is not forgotten, too
    third.hear(L1, *Chain(b"n2", after=chain).append(COUNCIL, 1))
    assert acked(third) == []


def test_a_forgotten_lock_comes_to_light_by_following() -> None:
    again, chain = rolled_back()
    mine = certify(COUNCIL, Kind.CERTIFICATE_ACK, 1, chain.head, [ME, *OTHERS[:2]])
    again.ledger.apply(b"n1", mac_verify)
    again.handle(Ratified([b"n1"], mine))
    assert again.replica.lost
    assert again.signed(Kind.ACK) == []


@pytest.mark.parametrize("how", ["opened", "time-outs"])
def test_a_forgotten_time_out_comes_to_light(how: str) -> None:
    lone = Lone(ME)
    seats = sorted([ME, *OTHERS[:2]])
    if how == "opened":
        lone.hear(L2, opening(COUNCIL, 2, START, seats))
    else:
        lone.hear(L2, TimedOuts([sign_time_out(COUNCIL, seat, 2, START) for seat in seats]))
    assert lone.replica.lost
    assert acked(lone) == []
    assert lone.sent(TimedOut) == []


# -- rule 8: truncation, and what is remembered ------------------------------------------------


def test_what_was_acknowledged_is_kept_until_a_later_terms_certificate() -> None:
    lone = Lone(ME)
    base, tail = Chain(b"n1"), None
    lone.hear(L1, *base.append(COUNCIL, 1))
    tail = Chain(b"nold", after=base)
    lone.hear(L1, *tail.append(COUNCIL, 1))
    assert acked(lone) == [(1, 2)]
    lone.hear(L2, opening(COUNCIL, 2, certified(base), OTHERS))
    new = Chain(b"nnew", after=base)
    lone.hear(L2, *new.append(COUNCIL, 2))
    assert acked(lone) == [(2, 2)]
    again = lone.restart()
    for each in (lone, again):
        each.hear(L3, Fetch(1, tail.head, 0))
        [(_, message)] = each.sent(Fetched)
        assert message.headers[0] == tail.headers[0]
    lone.hear(L2, Certified(certified(new, 2)))
    lone.now += 1
    lone.hear(L3, Fetch(1, tail.head, 0))
    assert lone.sent(Fetched) == []
    assert not [key for key in lone.disk if key.endswith(tail.head.hash)]


def test_a_vote_is_not_forgotten_on_restart() -> None:
    lone = Lone(ME)
    a, b = Chain(b"na"), Chain(b"nb", b"nc")
    lone.hear(L1, *a.append(COUNCIL, 1))
    again = lone.restart()
    again.hear(L1, *b.append(COUNCIL, 1))
    assert acked(again) == []
    again.hear(L1, *Chain(b"nd", after=a).append(COUNCIL, 1))
    assert acked(again) == [(1, 2)]


def test_a_lock_is_not_forgotten_on_restart() -> None:
    lone = Lone(ME)
    chain = Chain(b"na")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(chain)))
    assert locked(lone) == [(1, 1)]
    again = lone.restart()
    give_up(again)
    assert again.sent(TimedOut)[0][1].signed.said.rank == (1, 1)


def test_a_time_out_is_not_forgotten_on_restart() -> None:
    lone = Lone(ME)
    give_up(lone)
    again = lone.restart()
    assert again.replica.term == 2
    again.wait(SETTINGS.retry + 0.01)
    assert again.sent(TimedOut)


def test_a_leader_saves_before_it_sends_and_resumes_what_it_signed() -> None:
    lone = Lone(L1)
    lone.pool.waiting[b"n1"] = lone.now
    effects = lone.handle(Submitted())
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds.index("Send") > max(n for n, kind in enumerate(kinds) if kind == "Save")
    first = lone.sent(Append)[0][1]
    lone.pool.waiting = {b"n2": lone.now}
    again = lone.restart()
    again.pool.waiting = {b"n2": again.now}
    again.handle(Submitted())
    again.wait(0.5)
    batches = [message for _, message in again.sent(Append)]
    assert batches
    assert again.replica.end.index == 2
    assert all(message.prev.index != 1 or message.prev == Chain(b"n1").head for message in batches)
    assert first.prev == Chain().head


def test_an_opening_is_not_forgotten_by_its_leader() -> None:
    lone = leader_of_two()
    others = [seat for seat in range(4) if seat != L2]
    for seat in others[:2]:
        lone.hear(seat, TimedOut(sign_time_out(COUNCIL, seat, 2, START), START))
    assert OPENING in lone.disk
    again = lone.restart()
    assert again.replica.leading
    assert [message.opening.term for _, message in again.sent(Opened)] == [2, 2, 2]


def test_a_term_whose_opening_its_leader_lost_is_not_opened_at_its_own_certificate() -> None:
    lone = leader_of_two()
    others = [seat for seat in range(4) if seat != L2]
    time_outs = [TimedOut(sign_time_out(COUNCIL, seat, 2, START), START) for seat in others[:2]]
    for seat, message in zip(others, time_outs, strict=False):
        lone.hear(seat, message)
    lone.wait(2 * SETTINGS.tick)
    where = lone.replica.end
    assert where.index == 1
    for seat in others[:2]:
        lone.hear(seat, Signed(*sign_statement(COUNCIL, seat, Kind.ACK, 2, where)))
    assert lone.replica.high.rank == (2, 1)
    del lone.disk[OPENING]
    again = lone.restart()
    for seat, message in zip(others, time_outs, strict=False):
        again.hear(seat, message)
    again.wait(4 * SETTINGS.retry)
    assert again.sent(Opened) == []
    again.hear(others[0], opening(COUNCIL, 2, START, others))  # others have it
    assert again.replica.leading
    assert again.replica.end == where


# -- damage ------------------------------------------------------------------------------------


def test_a_damaged_entry_is_named_and_fetched_before_anything_is_signed() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1", b"n2")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(chain)))
    [key] = [key for key in lone.disk if key.endswith(chain.heads[0].hash)]
    lone.disk[key] = lone.disk[key][:-1] + b"x"
    again = lone.restart()
    assert [e.kind for e in again.of(Emit)] == ["council.damaged"]
    assert [message.top for _, message in again.sent(Fetch)] == [chain.heads[0]]
    give_up(again)
    assert again.sent(TimedOut) == []
    more = Chain(b"n3", after=chain)
    again.hear(L1, *more.append(COUNCIL, 1))
    assert acked(again) == []
    again.now += 1
    again.hear(L3, *Chain(b"n1").fetched(COUNCIL))
    assert [key for key in again.disk if key.endswith(chain.heads[0].hash)]
    again.hear(L1, *more.append(COUNCIL, 1))
    assert again.replica.end.index >= 2
    assert not again.replica.lost


def test_an_untimely_tick_waits_and_blames_nobody() -> None:
    lone = Lone(ME)
    early = Chain(b"n1", tick(lone.unix_ms + SKEW + 500), b"n2")
    lone.hear(L1, *early.append(COUNCIL, 1))
    assert acked(lone) == []
    assert lone.of(Blame) == []
    lone.wait(0.7)
    assert acked(lone) == [(1, 3)]


def test_what_a_quorum_certified_need_not_be_timely() -> None:
    lone = Lone(ME)
    stale = Chain(b"n1", tick(lone.unix_ms - 10 * SKEW))
    lone.hear(L1, *stale.append(COUNCIL, 1))
    lone.wait(0.5)
    assert acked(lone) == []
    lone.hear(L1, Certified(certified(stale)))
    assert locked(lone) == [(1, 2)]
    lone.hear(L1, *Chain(b"n2", after=stale).append(COUNCIL, 1))
    assert acked(lone) == [(1, 3)]


def test_an_invalid_entry_is_the_leaders_fault() -> None:
    lone = Lone(ME)
    message, _ = Chain(b"n1").append(COUNCIL, 1)
    lone.hear(L1, message, [b"xx"])
    assert acked(lone) == []
    assert [blame.peer for blame in lone.of(Blame)] == [COUNCIL.seats[L1].identity]
