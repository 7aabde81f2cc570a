"""Proofs of guilt on the ledger: what they cost, and what reporting one earns."""

import pytest

from protocols.ledger.chain import Head, chain_hash
from protocols.ledger.council import Fork, Kind, Retreat, Statement, TimeOut, signed_bytes
from protocols.ledger.entries import YES, GuiltProof, Mint, Note, Verdict
from protocols.ledger.errors import (
    BannedError,
    ExpiredError,
    ReplayedError,
    UnprovenError,
)
from protocols.ledger.state import PAST_COUNCILS
from tests.ledger_book import MEMBERS, NETWORK, STRANGER, Book, Person, genesis, people

ADA, BEN, CLEO, DAN = MEMBERS
EPOCH_MS = 400_000


def other_head(book: Book, text: bytes) -> Head:
    """An entry that could stand after the book's head."""
    header = book.state.spine.next_header(book.state.epoch, text)
    return Head(header.index, chain_hash(NETWORK, header))


def fork(
    book: Book, who: Person, *, epoch: int | None = None, signer: Person | None = None
) -> Fork:
    """Two acks of one term for two entries at one index."""
    signer = signer or who.seat
    epoch = book.state.epoch if epoch is None else epoch
    council = book.state.council_of(epoch) or book.state.council
    said = [
        Statement(Kind.ACK, epoch, 1, head.index, head.hash)
        for head in (other_head(book, b"one"), other_head(book, b"two"))
    ]
    signatures = [signer.sign(signed_bytes(book.state.realm, each)) for each in said]
    seat = council.seat_of(who.identity)
    assert seat is not None
    return Fork(seat, said[0], signatures[0], said[1], signatures[1], [])


def report(book: Book, reporter: Person, proof: Fork | Retreat) -> None:
    book.submit(reporter, GuiltProof(proof=proof))


def end_epoch(book: Book) -> None:
    book.later(book.state.epoch_started + EPOCH_MS - book.state.time)


def test_guilt_takes_the_reputation_at_once_and_the_seat_at_the_next_epoch() -> None:
    book = Book()
    report(book, BEN, fork(book, ADA))
    state = book.state
    assert state.banned == {ADA.identity: state.head.index}
    assert state.reputation_of(ADA.identity) == 0
    assert state.council.seat_of(ADA.identity) is not None
    assert ADA.identity not in state.ranking(b"a group")
    end_epoch(book)
    assert state.council.seat_of(ADA.identity) is None
    assert len(state.council.seats) == 3
    assert state.stats.guilt == 1


def test_its_seat_goes_to_a_candidate() -> None:
    eve = Person("eve")
    book = Book(genesis(reputation={eve.identity: 10}))
    book.submit(eve, book.candidacy(eve))
    report(book, BEN, fork(book, ADA))
    end_epoch(book)
    seats = {seat.identity for seat in book.state.council.seats}
    assert seats == {each.identity for each in (BEN, CLEO, DAN, eve)}


def test_who_reports_earns_75_once() -> None:
    book = Book()
    report(book, BEN, fork(book, ADA))
    book.later(1_000)
    assert book.state.credits == {BEN.identity: 75}
    assert book.state.reputation_of(BEN.identity) == 1075
    again = fork(book, ADA)
    with pytest.raises(ReplayedError):
        report(book, CLEO, again)
    assert book.state.credits == {BEN.identity: 75}


def test_a_puppet_is_not_worth_reporting() -> None:
    """A seat that cost less reputation than the report earns: nothing is paid for it."""
    puppet = Person("puppet")
    members = [*MEMBERS[:3], puppet]
    book = Book(genesis(members, reputation={puppet.identity: 74}))
    report(book, ADA, fork(book, puppet))
    book.later(1_000)
    assert puppet.identity in book.state.banned
    assert book.state.credits == {}


@pytest.mark.parametrize(("reputation", "paid"), [(149, 0), (150, 75), (151, 75)])
def test_a_puppet_must_lose_what_its_reporter_gains(reputation: int, paid: int) -> None:
    puppet = Person("puppet")
    payload = genesis(
        [*MEMBERS[:3], puppet],
        reputation={puppet.identity: reputation},
        parameters={"reputation.per_credit": 2000},
    )
    book = Book(payload)
    before = sum(book.state.reputation.values())
    report(book, ADA, fork(book, puppet))
    book.later(1_000)
    assert book.state.credits.get(ADA.identity, 0) == paid
    assert sum(book.state.reputation.values()) <= before


def test_a_proof_of_an_earlier_epoch_counts_while_its_council_is_remembered() -> None:
    book = Book()
    proof = fork(book, ADA)
    for _ in range(PAST_COUNCILS):
        end_epoch(book)
    old = Book(book.payloads[0])
    for payload in book.payloads[1:]:
        old.add(payload)
    report(old, BEN, proof)
    assert ADA.identity in old.state.banned
    end_epoch(book)
    with pytest.raises(ExpiredError):
        report(book, BEN, proof)


def test_retreat_is_guilt_too() -> None:
    book = Book()
    head = other_head(book, b"certified")
    acked = Statement(Kind.CERTIFICATE_ACK, 1, 1, head.index, head.hash)
    later = TimeOut(1, 2, 0, 0, book.state.genesis)
    proof = Retreat(
        book.state.council.seat_of(ADA.identity) or 0,
        acked,
        ADA.seat.sign(signed_bytes(book.state.realm, acked)),
        later,
        ADA.seat.sign(signed_bytes(book.state.realm, later)),
    )
    report(book, BEN, proof)
    assert ADA.identity in book.state.banned


def test_what_proves_nothing() -> None:
    book = Book()
    good = fork(book, ADA)
    same = Fork(good.seat, good.lower, good.lower_signature, good.lower, good.lower_signature, [])
    forged = fork(book, ADA, signer=BEN.seat)
    by_identity = fork(book, ADA, signer=ADA)
    other_seat = Fork(
        (good.seat + 1) % 4, good.lower, good.lower_signature, good.upper, good.upper_signature, []
    )
    for proof in (same, forged, by_identity, other_seat):
        with pytest.raises(UnprovenError):
            report(book, CLEO, proof)
    with pytest.raises(UnprovenError):
        report(book, ADA, good)
    with pytest.raises(ExpiredError):
        report(book, CLEO, fork(book, ADA, epoch=9))
    assert book.state.banned == {}


def test_the_guilty_neither_propose_nor_stand_nor_vote_nor_judge() -> None:
    book = Book(genesis(parameters={"work.bits": 0, "vote.window_ms": 500_000}))
    link = b"\x01\x71\x12\x20" + bytes(32)
    cid = book.propose(BEN, depends_on=(link,))
    candidacy, vote = book.candidacy(ADA), book.ballot(ADA, cid, YES)
    report(book, BEN, fork(book, ADA))
    with pytest.raises(BannedError):
        book.propose(ADA, title="once more")
    with pytest.raises(BannedError):
        book.submit(ADA, candidacy)
    with pytest.raises(BannedError):
        book.submit(ADA, Verdict(proposal=cid, claim="fetchable", holds=True))
    with pytest.raises(BannedError):
        book.vote(vote.proposal, {ADA: YES})
    book.submit(ADA, Note(text="I was hacked"))


def test_what_the_guilty_had_earned_is_not_paid_out_to_them() -> None:
    book = Book()
    book.state.revalued = {ADA.identity: 5000}
    report(book, BEN, fork(book, ADA))
    book.later(10_000)
    assert book.state.reputation_of(ADA.identity) == 0


def test_credits_that_the_guilty_had_earned_give_no_reputation() -> None:
    book = Book()
    book.state.mints = (Mint(ADA.identity, "migration", 200, bytes(32)),)
    report(book, BEN, fork(book, ADA))
    book.later(1_000)
    assert book.state.credits == {ADA.identity: 200, BEN.identity: 75}
    assert book.state.reputation_of(ADA.identity) == 0


def test_anybody_may_report_without_quota_or_work() -> None:
    book = Book(genesis(parameters={"work.bits": 40, "quota.newcomer": 1}))
    report(book, STRANGER, fork(book, ADA))
    book.later(1_000)
    assert book.state.credits == {STRANGER.identity: 75}


def test_more_guilty_than_the_bound_all_lose_their_seats() -> None:
    members = people(*(f"m{n}" for n in range(7)))
    book = Book(genesis(members, parameters={"council.seats": 7}))
    for guilty in members[:4]:
        report(book, members[6], fork(book, guilty))
    end_epoch(book)
    seats = [seat.identity for seat in book.state.council.seats]
    assert seats == [each.identity for each in members[4:]]
