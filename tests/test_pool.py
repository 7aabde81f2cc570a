"""What waits to be ratified: who may wait, for how long, in which order, and when it is late."""

from typing import Any

import pytest

from protocols.council.pool import LATE, Pool
from protocols.council.poolitems import Limits, PoolFullError, Verified
from protocols.ledger.council import Instant
from protocols.ledger.entries import (
    MAX_BATCH,
    Approval,
    Note,
    Vote,
    Votes,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import (
    BadSignatureError,
    DailyQuotaError,
    EntryTooLargeError,
    ExpiredError,
    MalformedEntryError,
    NotOpenError,
    ReplayedError,
)
from tests.gossip_kit import MacIdentity, mac_verify
from tests.ledger_world import Branch, at

TIME_OUT = 4.0


class Counted:
    """`mac_verify`, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, key: bytes, message: bytes, signature: bytes) -> bool:
        self.count += 1
        return mac_verify(key, message, signature)


def made(branch: Branch, **limits: Any) -> Pool:
    return Pool(branch.ledger, Verified(mac_verify), Limits(**limits))


def ratify(branch: Branch, pool: Pool, payloads: list[bytes]) -> list[Any]:
    first = len(branch.heads)
    branch.append(*payloads)
    return pool.ratified(first, payloads)


@pytest.fixture
def branch() -> Branch:
    return Branch()


def test_first_come_first_taken_and_gone_when_ratified(branch: Branch) -> None:
    pool = made(branch)
    notes = [branch.note() for _ in range(5)]
    for note in notes:
        assert pool.add(note, at(1)) is not None
    taken = pool.take(branch.ledger.copy(), at(1), 3, 1 << 20)
    assert taken == notes[:3]
    assert len(pool) == 5
    gone = ratify(branch, pool, taken)
    assert [(one.item.data, one.index, one.error) for one in gone] == [
        (note, index, None) for index, note in enumerate(notes[:3], 1)
    ]
    assert pool.take(branch.ledger.copy(), at(1), 9, 1 << 20) == notes[3:]
    assert len(pool) == 2
    assert pool.size == sum(map(len, notes[3:]))


def test_what_waits_already_and_what_was_ratified_is_not_taken_twice(branch: Branch) -> None:
    pool = made(branch)
    note = branch.note()
    assert pool.add(note, at(1)) is not None
    assert pool.add(note, at(2)) is None
    ratify(branch, pool, [note])
    with pytest.raises(ReplayedError):
        pool.add(note, at(3))


def test_bytes_bound_what_is_taken(branch: Branch) -> None:
    pool = made(branch)
    notes = [branch.note(f"{number:0500}") for number in range(3)]
    for note in notes:
        pool.add(note, at(1))
    assert pool.take(branch.ledger, at(1), 9, len(notes[0]) * 2) == notes[:2]


def forged(branch: Branch) -> bytes:
    return branch.note()[:-3] + b"abc"


def foreign(branch: Branch) -> bytes:
    return Branch(network="elsewhere").note()


def expired(branch: Branch) -> bytes:
    return branch.submission(Note(text="late"), life=0)


REFUSED = {
    "noise": (lambda _: b"noise", MalformedEntryError),
    "a genesis": (lambda branch: branch.genesis, MalformedEntryError),
    "a tick": (lambda branch: branch.ledger.tick(branch.ledger.time + 10**6), MalformedEntryError),
    "too long": (lambda _: bytes(70_000), EntryTooLargeError),
    "forged": (forged, BadSignatureError),
    "of another network": (foreign, BadSignatureError),
    "expired": (expired, ExpiredError),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_ledger_would_refuse_is_refused_by_name(branch: Branch, what: str) -> None:
    make, error = REFUSED[what]
    pool = made(branch)
    with pytest.raises(error):
        pool.add(make(branch), at(1))  # type: ignore[no-untyped-call]
    assert len(pool) == 0


def test_a_signature_is_verified_once() -> None:
    branch = Branch()
    counted = Counted()
    verify = Verified(counted)
    pool = Pool(branch.ledger, verify)
    note = branch.note()
    pool.add(note, at(1))
    branch.ledger.copy().apply(note, verify)
    branch.ledger.apply(note, verify)
    assert counted.count == 1
    assert not verify(b"k" * 32, b"m", b"s" * 64)
    assert not verify(b"k" * 32, b"m", b"s" * 64)
    assert counted.count == 3  # what is bad is not remembered


def test_what_is_remembered_of_signatures_is_bounded() -> None:
    counted = Counted()
    verify = Verified(counted, limit=2)
    who = MacIdentity("who")
    signed = [(who.public_key, b"%d" % n, who.sign(b"%d" % n)) for n in range(3)]
    assert all(verify(*one) for one in signed)
    assert verify(*signed[2])
    assert counted.count == 3
    assert verify(*signed[0])
    assert counted.count == 4


def test_an_author_has_its_share(branch: Branch) -> None:
    pool = made(branch, per_author=3)
    for _ in range(3):
        pool.add(branch.note(), at(1))
    with pytest.raises(PoolFullError):
        pool.add(branch.note(), at(1))
    assert pool.add(branch.note(who=branch.members[0]), at(1)) is not None


def test_strangers_make_room_for_those_with_reputation(branch: Branch) -> None:
    pool = made(branch, items=4)
    strangers = [MacIdentity(f"stranger {n}") for n in range(5)]
    for stranger in strangers[:4]:
        pool.add(branch.note(who=stranger), at(1))
    with pytest.raises(PoolFullError):
        pool.add(branch.note(who=strangers[4]), at(1))
    assert pool.add(branch.note(), at(1)) is not None
    assert len(pool) == 4
    for member in branch.members[:3]:
        pool.add(branch.note(who=member), at(1))
    with pytest.raises(PoolFullError):
        pool.add(branch.note(who=MacIdentity("late")), at(1))


def test_our_own_submission_is_not_crowded_out(branch: Branch) -> None:
    pool = made(branch, items=2)
    mine = branch.note(who=MacIdentity("me"))
    pool.add(mine, at(1), mine=True)
    pool.add(branch.note(who=MacIdentity("other")), at(1))
    pool.add(branch.note(), at(1))
    assert mine in pool.take(branch.ledger, at(1), 9, 1 << 20)


# -- votes --------------------------------------------------------------------------------------


@pytest.fixture
def voters() -> list[MacIdentity]:
    return [MacIdentity(f"voter {number}") for number in range(10)]


@pytest.fixture
def voting(voters: list[MacIdentity]) -> tuple[Branch, bytes]:
    branch = Branch(reputation={voter.peer_id: 5 for voter in voters})
    return branch, branch.propose()


def votes_of(branch: Branch, cid: bytes, voters: list[Any], number: int = 1) -> list[Vote]:
    return branch.ballots(cid, voters, number)


def test_votes_are_gathered_into_one_entry(
    voting: tuple[Branch, bytes], voters: list[MacIdentity]
) -> None:
    branch, cid = voting
    pool = made(branch, gather=0.05)
    for vote in votes_of(branch, cid, voters):
        pool.add(encode_entry(vote), at(1))
    assert pool.take(branch.ledger, at(1.01), 9, 1 << 20) == []
    assert pool.wake_at() == pytest.approx(1.05)
    (entry,) = pool.take(branch.ledger, at(1.05), 9, 1 << 20)
    votes = decode_entry(entry).entry
    assert isinstance(votes, Votes)
    assert [ballot.voter for ballot in votes.polls[0].ballots] == sorted(
        voter.peer_id for voter in voters
    )
    gone = ratify(branch, pool, [entry])
    assert len(gone) == 10
    assert {one.index for one in gone} == {2}
    assert len(pool) == 0
    assert branch.ledger.open[cid].number_of(voters[0].peer_id) == 1


def test_a_full_batch_waits_for_nobody() -> None:
    crowd = [MacIdentity(f"voter {number}") for number in range(MAX_BATCH + 3)]
    branch = Branch(reputation={voter.peer_id: 5 for voter in crowd})
    cid = branch.propose()
    pool = made(branch, items=10_000)
    for vote in votes_of(branch, cid, crowd):
        pool.add(encode_entry(vote), at(1))
    (entry,) = pool.take(branch.ledger, at(1), 9, 1 << 20)
    branch.append(entry)
    assert len(branch.ledger.open[cid].votes) == MAX_BATCH


def test_a_changed_mind_replaces_the_vote_that_waits(
    voting: tuple[Branch, bytes], voters: list[MacIdentity]
) -> None:
    branch, cid = voting
    pool = made(branch)
    first, second = (votes_of(branch, cid, voters[:1], number)[0] for number in (1, 2))
    pool.add(encode_entry(first), at(1))
    pool.add(encode_entry(second), at(1))
    assert len(pool) == 1
    assert pool.add(encode_entry(first), at(1)) is None
    (entry,) = pool.take(branch.ledger, at(1.5), 9, 1 << 20)
    branch.append(entry)
    assert branch.ledger.open[cid].number_of(voters[0].peer_id) == 2


def test_votes_on_what_is_decided_wait_no_longer(
    voting: tuple[Branch, bytes], voters: list[MacIdentity]
) -> None:
    branch, cid = voting
    pool = made(branch)
    for vote in votes_of(branch, cid, voters):
        pool.add(encode_entry(vote), at(1), mine=True)
    vote = votes_of(branch, cid, voters[:1], 2)[0]
    first = len(branch.heads)
    branch.tick(branch.ledger.params["vote.window_ms"])
    assert cid not in branch.ledger.open
    gone = pool.ratified(first, branch.payloads[first:])
    assert len(gone) == 10
    assert {type(one.error) for one in gone} == {ExpiredError}
    with pytest.raises(NotOpenError):
        pool.add(encode_entry(vote), at(1))
    with pytest.raises(NotOpenError):
        pool.add(encode_entry(Approval(proposal=cid, key=bytes(32), signature=bytes(64))), at(1))


def test_a_submission_that_expires_is_told(branch: Branch) -> None:
    pool = made(branch)
    note = branch.submission(Note(text="soon"), life=5000)
    pool.add(note, at(1), mine=True)
    branch.tick(6000)
    (gone,) = pool.ratified(1, branch.payloads[1:])
    assert gone.item.data == note
    assert isinstance(gone.error, ExpiredError)
    assert len(pool) == 0


# -- leaders ------------------------------------------------------------------------------------


def test_what_the_ledger_owes_itself_comes_first() -> None:
    branch = Branch(council__checkpoint_entries=3)
    branch.notes(3)
    pool = made(branch)
    note = branch.note()
    pool.add(note, at(1))
    taken = pool.take(branch.ledger, at(0.1), 9, 1 << 20)
    assert b"checkpoint" in taken[0]
    assert taken[1] == note


def test_nothing_follows_the_end_of_an_epoch() -> None:
    branch = Branch(council__epoch_ms=60_000)
    pool = made(branch)
    pool.add(branch.note(), at(1))
    late = Instant(100.0, branch.ledger.time + 60_000)
    taken = pool.take(branch.ledger, late, 9, 1 << 20)
    branch.append(*taken)
    assert branch.ledger.epoch == 2
    assert len(pool) == 1


def test_what_was_put_into_a_log_that_was_replaced_is_taken_anew(branch: Branch) -> None:
    pool = made(branch)
    notes = [branch.note() for _ in range(4)]
    for note in notes:
        pool.add(note, at(1))
    lost = branch.ledger.copy()
    for payload in pool.take(lost, at(1), 2, 1 << 20):
        lost.apply(payload, mac_verify)
    assert pool.take(lost, at(1), 9, 1 << 20) == notes[2:]  # goes on behind the first two
    assert pool.take(branch.ledger.copy(), at(1), 9, 1 << 20) == notes


def test_waiting_for_a_time_out_is_suspicious(branch: Branch) -> None:
    pool = made(branch)
    pool.add(branch.note(), at(0))
    assert not pool.overdue(at(TIME_OUT - 0.1), TIME_OUT)
    assert pool.overdue(at(TIME_OUT), TIME_OUT)


def test_a_busy_leader_is_not_suspected_before_it_had_its_turn(branch: Branch) -> None:
    pool = made(branch)
    notes = [branch.note() for _ in range(10)]
    for note in notes:
        pool.add(note, at(0))
    pool.add(branch.note(), at(1))
    ratify(branch, pool, notes[:5])
    assert pool.overdue(at(TIME_OUT), TIME_OUT)  # the sixth's turn has come
    ratify(branch, pool, notes[5:9])
    assert pool.overdue(at(TIME_OUT), TIME_OUT)
    ratify(branch, pool, notes[9:])
    assert not pool.overdue(at(TIME_OUT), TIME_OUT)


def test_nothing_excuses_a_leader_for_ever(branch: Branch) -> None:
    pool = made(branch)
    others = [branch.note() for _ in range(10)]
    for note in others:
        pool.add(note, at(0))
    last = branch.note()
    pool.add(last, at(0))
    pool._items = {name: item for name, item in pool._items.items() if item.data == last}
    assert not pool.overdue(at(TIME_OUT * 2), TIME_OUT)
    assert pool.overdue(at(TIME_OUT * LATE), TIME_OUT)


def test_what_cannot_be_ratified_yet_suspects_nobody() -> None:
    branch = Branch(quota__newcomer=2)
    pool = made(branch)
    first, second, elsewhere = (branch.note() for _ in range(3))
    pool.add(first, at(0))
    pool.add(second, at(0))
    ratify(branch, pool, [first, elsewhere])
    assert not pool.overdue(at(TIME_OUT), TIME_OUT)
    assert len(pool) == 1
    assert pool.take(branch.ledger, at(1), 9, 1 << 20) == [second]


def test_an_author_has_no_more_waiting_than_the_ledger_would_take() -> None:
    branch = Branch(quota__newcomer=3)
    pool = made(branch)
    for _ in range(3):
        pool.add(branch.note(), at(0))
    with pytest.raises(DailyQuotaError):
        pool.add(branch.note(), at(0))
    taken = pool.take(branch.ledger, at(0), 2, 1 << 20)
    ratify(branch, pool, taken)
    with pytest.raises(DailyQuotaError):
        pool.add(branch.note(), at(0))
    assert pool.add(branch.note(who=branch.members[0]), at(0)) is not None


def test_what_a_log_refused_waits_behind_what_it_would_take() -> None:
    """One author's surplus, which was well within its quota when it came, holds up nobody."""
    branch = Branch(quota__newcomer=4)
    pool = made(branch)
    surplus = [branch.note() for _ in range(4)]
    for note in surplus:
        pool.add(note, at(0))
    others = [branch.note(who=member) for member in branch.members]
    for note in others:
        pool.add(note, at(0))
    log = branch.ledger.copy()
    for _ in range(4):
        log.apply(branch.note(), mac_verify)
    assert pool.take(log, at(0), 4, 1 << 20) == surplus
    assert pool.take(log, at(0), 4, 1 << 20) == others


def test_a_crowd_cannot_keep_out_whoever_has_more_for_each_that_waits(branch: Branch) -> None:
    pool = made(branch, items=12)
    for _ in range(12):
        pool.add(branch.note(), at(0))  # the author has 10 of reputation
    founder = branch.members[0]  # 100
    assert pool.add(branch.note(who=founder), at(0)) is not None
    waiting = [item.author for item in pool._items.values()]
    assert waiting.count(founder.peer_id) == 1
    assert len(waiting) == 12
    with pytest.raises(PoolFullError):
        pool.add(branch.note(), at(0.5))


def test_gathered_votes_ask_for_the_leader_once(
    voting: tuple[Branch, bytes], voters: list[MacIdentity]
) -> None:
    branch, cid = voting
    pool = made(branch)
    first, second = votes_of(branch, cid, voters[:2])
    pool.add(encode_entry(first), at(1))
    assert pool.wake_at() is not None
    pool.woken()
    assert pool.wake_at() is None
    pool.take(branch.ledger, at(1.5), 9, 1 << 20)
    pool.add(encode_entry(second), at(1.5))
    assert pool.wake_at() is not None


def test_a_leader_that_lets_the_ledgers_time_stand_is_suspected(branch: Branch) -> None:
    pool = made(branch)
    late = branch.ledger.params["council.tick_ms"] + branch.ledger.params["council.skew_ms"]
    began = late / 1000 + 0.1
    assert not pool.overdue(at(began), TIME_OUT)
    ratify(branch, pool, [branch.note()])
    assert not pool.overdue(at(began + TIME_OUT - 0.1), TIME_OUT)
    assert pool.overdue(at(began + TIME_OUT), TIME_OUT)
    branch.tick(int(began * 1000 + TIME_OUT * 1000))
    assert not pool.overdue(at(began + TIME_OUT), TIME_OUT)


def test_a_leader_that_keeps_back_what_is_due_is_suspected() -> None:
    branch = Branch(council__checkpoint_entries=3, council__tick_ms=1000)
    pool = made(branch)
    branch.notes(3)
    assert not pool.overdue(at(1), TIME_OUT)
    for second in range(2, 5):
        tick = branch.ledger.tick(branch.ledger.time + 1000)
        assert tick is not None
        branch.append(tick)
        assert not pool.overdue(at(second), TIME_OUT)
    assert pool.overdue(at(1 + TIME_OUT), TIME_OUT)


# -- telling the leader -------------------------------------------------------------------------

LEADER, NEXT = MacIdentity("leader").peer_id, MacIdentity("next").peer_id


def test_nobody_is_suspected_for_what_it_was_not_sent(branch: Branch) -> None:
    pool = made(branch)
    pool.led_by(LEADER, 0)
    item = pool.add(branch.note(), at(0))
    assert item is not None
    assert not pool.overdue(at(TIME_OUT + 1), TIME_OUT)
    pool.told(item, 5)
    assert not pool.overdue(at(5 + TIME_OUT - 0.1), TIME_OUT)
    assert pool.overdue(at(5 + TIME_OUT), TIME_OUT)


def test_a_new_leader_is_told_what_still_waits_and_has_its_own_time(branch: Branch) -> None:
    pool = made(branch, items=1000)
    pool.led_by(LEADER, 0)
    for _ in range(100):
        item = pool.add(branch.note(), at(0))
        assert item is not None
        pool.told(item, 0)
    assert pool.overdue(at(TIME_OUT), TIME_OUT)
    assert pool.to_tell(TIME_OUT, 1) == []
    pool.led_by(NEXT, TIME_OUT)
    assert not pool.overdue(at(TIME_OUT), TIME_OUT)
    assert pool.to_tell(TIME_OUT, 2.0) == []
    assert pool.tell_at(2.0) == TIME_OUT + 2
    first = pool.to_tell(TIME_OUT + 2, 2.0)
    assert len(first) == 64
    again = pool.tell_at(2.0)
    assert again is not None
    assert TIME_OUT + 2 < again < TIME_OUT + 3
    second = pool.to_tell(again, 2.0)
    assert len(second) == 36
    assert not {item.name for item in first} & {item.name for item in second}
    assert pool.tell_at(2.0) is None
    assert not pool.overdue(at(TIME_OUT + 2 + TIME_OUT - 0.1), TIME_OUT)
    assert pool.overdue(at(TIME_OUT + 2 + TIME_OUT), TIME_OUT)


def test_a_leader_tells_nobody(branch: Branch) -> None:
    pool = made(branch)
    pool.led_by(LEADER, 0)
    pool.add(branch.note(), at(0))
    pool.led_by(None, 1)
    assert pool.tell_at(1.0) is None
    assert pool.overdue(at(1 + TIME_OUT), TIME_OUT)
