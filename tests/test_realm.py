"""A network founded twice under one name, by the same people with the same keys: what is signed
in one of its ledgers says nothing in the other."""

import itertools

import pytest

from protocols.changes import ParameterChange, Setting
from protocols.council.participant import Received
from protocols.council.submitting import PROTOCOL as SUBMITTING
from protocols.council.submitting import SUBMISSIONS, pack_items
from protocols.envelope import domain
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.chain import Head, chain_hash
from protocols.ledger.council import (
    Fork,
    Kind,
    Retreat,
    Seat,
    Statement,
    TimeOut,
    check_guilt,
    signed_bytes,
)
from protocols.ledger.entries import YES, GuiltProof, Note, Proposal, encode_entry
from protocols.ledger.errors import BadSignatureError, InvalidEntryError, WorkNeededError
from protocols.ledger.signing import approve, batch, cast, work_subject
from protocols.ledger.work import search
from protocols.realm import Realm, realm_domain
from tests.ledger_book import HUMAN, MEMBERS, START, STRANGER, Book, genesis, verify
from tests.ledger_world import Branch
from tests.participant_world import World

ADA, BEN, CLEO, DAN = MEMBERS
UPLOAD = ParameterChange(settings=(Setting("limits.upload", 1_234_567),))
QUOTA = ParameterChange(settings=(Setting("quota.trusted", 7),))


def founded_again(first: Book) -> Book:
    """The same network, seats and people, a moment later."""
    payload = genesis(parameters={"vote.window_ms": 10_001})
    again = Book(payload)
    assert again.state.network == first.state.network
    assert again.state.council.seats == first.state.council.seats
    assert again.state.genesis != first.state.genesis
    return again


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def again(book: Book) -> Book:
    return founded_again(book)


def seat_of(book: Book) -> tuple[int, Seat]:
    number = book.state.council.seat_of(ADA.identity)
    assert number is not None
    return number, book.state.council.seats[number]


def head_of(book: Book, text: bytes) -> Head:
    header = book.state.spine.next_header(1, text)
    return Head(header.index, chain_hash(book.state.network, header))


def acks(book: Book, kind: Kind = Kind.ACK) -> tuple[Statement, bytes]:
    """An honest seat's word in one of the histories."""
    head = head_of(book, b"entry")
    said = Statement(kind, 1, 1, head.index, head.hash)
    return said, ADA.seat.sign(signed_bytes(book.state.realm, said))


def test_no_use_of_a_realm_is_signed_like_another_or_like_one_of_the_network() -> None:
    realms = [Realm(network, bytes([n]) * 32) for network in ("a", "b") for n in (1, 2)]
    uses = ("council", "vote")
    domains = {realm_domain(realm, use) for realm, use in itertools.product(realms, uses)}
    domains |= {domain(network, use) for network in ("a", "b") for use in uses}
    assert len(domains) == 12
    assert not any(one != two and two.startswith(one) for one in domains for two in domains)


def test_a_seat_that_serves_both_histories_is_guilty_in_neither(book: Book, again: Book) -> None:
    number, _ = seat_of(book)
    (lower, lower_signature), (upper, upper_signature) = acks(book), acks(again)
    assert (lower.term, lower.index) == (upper.term, upper.index)
    assert lower.hash != upper.hash
    fork = Fork(number, lower, lower_signature, upper, upper_signature, [])
    locked, locked_signature = acks(book, Kind.CERTIFICATE_ACK)
    left = TimeOut(1, 2, 0, 0, again.state.genesis)
    retreat = Retreat(
        number,
        locked,
        locked_signature,
        left,
        ADA.seat.sign(signed_bytes(again.state.realm, left)),
    )
    for guilt, ledger in itertools.product((fork, retreat), (book, again)):
        with pytest.raises(MalformedError, match="not the accused's"):
            check_guilt(ledger.state.realm, ledger.state.council, guilt, verify)
        with pytest.raises(InvalidEntryError):
            ledger.submit(BEN, GuiltProof(proof=guilt))
        assert not ledger.state.banned


def test_the_same_two_words_in_one_history_are_guilt(book: Book) -> None:
    """So that what the test above relies on is the realm, and nothing else of the proof."""
    number, seat = seat_of(book)
    said = [
        Statement(Kind.ACK, 1, 1, head.index, head.hash)
        for head in (head_of(book, b"one"), head_of(book, b"two"))
    ]
    signed = [ADA.seat.sign(signed_bytes(book.state.realm, each)) for each in said]
    fork = Fork(number, said[0], signed[0], said[1], signed[1], [])
    assert check_guilt(book.state.realm, book.state.council, fork, verify) == seat


def test_a_submission_a_vote_and_an_approval_of_one_are_refused_by_the_other(
    book: Book, again: Book
) -> None:
    manifest = book.manifest(ADA, UPLOAD)
    proposal = book.submission(ADA, Proposal(manifest=manifest))
    cid = book.propose(ADA, QUOTA)
    assert again.propose(ADA, QUOTA) == cid  # the same proposal in both
    vote = cast(book.state.realm, BEN.identity, cid, choice=YES, epoch=1, number=1, sign=BEN.sign)
    approval = approve(book.state.realm, cid, HUMAN.key, HUMAN.sign)
    seat = book.submission(CLEO, book.candidacy(CLEO))
    for data in (proposal, book.submission(DAN, Note(text="hello")), seat):
        with pytest.raises(BadSignatureError):
            again.add(data)
    with pytest.raises(BadSignatureError):
        again.add(encode_entry(batch([vote])))
    with pytest.raises(BadSignatureError):
        again.add(encode_entry(approval))
    for data in (encode_entry(batch([vote])), encode_entry(approval), seat):
        book.add(data)


def test_a_seat_keys_possession_is_not_lent(book: Book, again: Book) -> None:
    """Whoever has a candidacy of the one ledger cannot submit it as its own in the other."""
    stands = book.candidacy(CLEO)
    with pytest.raises(InvalidEntryError):
        again.add(again.submission(CLEO, stands))
    again.add(again.submission(CLEO, again.candidacy(CLEO)))


def test_work_for_one_is_none_for_the_other(book: Book, again: Book) -> None:
    body, expires = Note(text="paid for"), START + 60_000
    subject = work_subject(again.state.anchor, STRANGER.identity, expires, body)
    nonce = search(book.state.realm, subject, 6, 0, 1 << 16)
    assert nonce is not None
    with pytest.raises(WorkNeededError):
        again.add(again.submission(STRANGER, body, work=nonce))


def test_who_passes_on_what_the_other_ledger_takes_is_not_blamed_and_a_companion_is() -> None:
    made = World(4, 1)
    made.start()
    made.run(1)
    member, companion, stranger = made.members[0], made.members[1].peer, b"stranger"
    assert member.part.follower.shares(companion)
    foreign = Branch(limits__upload=1_000_000).note()
    forged = made.branch.note()[:-3] + b"abc"
    for data in (foreign, forged):
        assert member.part.hear(stranger, SUBMISSIONS, data, made.instant)[0] is Verdict.IGNORE
        assert member.part.hear(companion, SUBMISSIONS, data, made.instant)[0] is Verdict.REJECT
        (frame,) = pack_items([data])
        member.do(Received(stranger, SUBMITTING, frame))
        assert not member.blamed
        member.do(Received(companion, SUBMITTING, frame))
        assert [blame.fault for blame in member.blamed] == [Fault.REJECTED]
        member.blamed.clear()
    noise = member.part.hear(stranger, SUBMISSIONS, b"noise", made.instant)[0]
    assert noise is Verdict.REJECT
