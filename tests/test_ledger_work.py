"""Proofs of work: what they cost, and that they are checked."""

import hashlib
import statistics

import pytest

from protocols.ledger.entries import Note
from protocols.ledger.errors import WorkNeededError
from protocols.ledger.params import REGISTRY
from protocols.ledger.signing import submit, work_subject
from protocols.ledger.state import MAX_LIFE_MS, WINDOW_MS
from protocols.ledger.work import MAX_BITS, STEP, expected_hashes, proves, search
from protocols.realm import Realm
from tests.ledger_book import MEMBERS, NETWORK, STRANGER, Book, genesis, verify

BITS = 6
REALM = Realm(NETWORK, bytes(32))


def _subject(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def _cost(number: int, bits: int) -> int:
    """Hashes until the first proof."""
    found = search(REALM, _subject(number), bits, 0, 1 << 20)
    assert found is not None
    return found + 1


def test_work_costs_what_it_says() -> None:
    costs = [_cost(number, BITS) for number in range(1500)]
    # Geometric: the mean is 2^bits with a standard error of 2^bits / sqrt(1500), 2.6 %.
    assert statistics.mean(costs) == pytest.approx(expected_hashes(BITS), rel=0.11)
    assert statistics.median(costs) == pytest.approx(0.693 * expected_hashes(BITS), rel=0.15)
    # Without memory: of those that needed more than the mean, as many need as much again.
    long = [cost for cost in costs if cost > expected_hashes(BITS)]
    assert len(long) / len(costs) == pytest.approx(0.368, abs=0.05)


def test_the_default_is_some_millions_of_hashes() -> None:
    """The 3 s of the documents are those of a core that makes three million in each."""
    assert 5e6 < expected_hashes(REGISTRY["work.bits"].default) < 2e7


def test_each_bit_doubles_it() -> None:
    means = [statistics.mean(_cost(number, bits) for number in range(1000)) for bits in (4, 5, 6)]
    assert means[1] / means[0] == pytest.approx(2, rel=0.2)
    assert means[2] / means[1] == pytest.approx(2, rel=0.2)


def test_a_proof_is_for_one_subject_one_network_and_its_bits() -> None:
    subject = _subject(1)
    nonce = search(REALM, subject, 10, 0, 1 << 20)
    assert nonce is not None
    assert proves(REALM, subject, nonce, 10)
    assert not proves(Realm("other", REALM.genesis), subject, nonce, 10)
    assert not proves(Realm(NETWORK, bytes(range(32))), subject, nonce, 10)
    assert not proves(REALM, _subject(2), nonce, 10)
    assert not proves(REALM, subject, nonce, MAX_BITS)
    assert all(not proves(REALM, subject, lower, 10) for lower in range(nonce))


def test_a_search_goes_on_where_the_last_one_ended() -> None:
    subject = _subject(3)
    whole = search(REALM, subject, 10, 0, 1 << 20)
    start, found = 0, None
    while found is None:
        found = search(REALM, subject, 10, start, 100)
        start += 100
    assert found == whole
    assert STEP > 0


def test_a_newcomer_pays_and_whoever_has_reputation_does_not() -> None:
    book = Book(genesis(parameters={"work.bits": 8}))
    book.submit(MEMBERS[0], Note(text="known"))
    body = Note(text="new")
    with pytest.raises(WorkNeededError) as caught:
        book.submit(STRANGER, body)
    assert caught.value.remedy
    expires = book.state.time + 60_000
    nonce = search(
        book.state.realm, work_subject(book.state.anchor, STRANGER.identity, expires, body), 8, 0
    )
    assert nonce is not None
    book.add(book.submission(STRANGER, body, work=nonce))


def test_work_is_not_lent_to_another_body_author_or_expiry() -> None:
    book = Book(genesis(parameters={"work.bits": 12}))
    body = Note(text="paid for")
    expires = book.state.time + 60_000
    nonce = search(
        book.state.realm, work_subject(book.state.anchor, STRANGER.identity, expires, body), 12, 0
    )
    assert nonce is not None
    for payload in (
        book.submission(STRANGER, Note(text="another"), work=nonce),
        book.submission(STRANGER, body, life=60_001, work=nonce),
        book.submission(STRANGER, body, work=nonce + 1),
    ):
        with pytest.raises(WorkNeededError):
            book.add(payload)


def test_work_is_good_for_an_hour_and_is_not_done_in_advance() -> None:
    book = Book(genesis(parameters={"work.bits": 8, "council.epoch_ms": 10**9}))
    body = Note(text="made early")
    expires = book.state.time + 4 * WINDOW_MS
    old = work_subject(book.state.anchor, STRANGER.identity, expires, body)
    nonce = search(book.state.realm, old, 8, 0, 1 << 16)
    assert nonce is not None
    payload = submit(
        book.state.realm, STRANGER.identity, body, expires=expires, sign=STRANGER.sign, work=nonce
    )
    for _ in range(4):
        book.state.check(payload, verify)
        book.later(WINDOW_MS - 1_000)
        assert len(book.state.anchors) <= MAX_LIFE_MS // WINDOW_MS + 1
    # Of a later day's submission, made for what was known on this one:
    late = book.state.time + 27 * MAX_LIFE_MS + MAX_LIFE_MS // 2
    nonce = search(
        book.state.realm, work_subject(book.state.anchor, STRANGER.identity, late, body), 8, 0
    )
    assert nonce is not None
    for _ in range(27):
        book.later(MAX_LIFE_MS)
    payload = submit(
        book.state.realm, STRANGER.identity, body, expires=late, sign=STRANGER.sign, work=nonce
    )
    assert book.state.time < late < book.state.time + MAX_LIFE_MS
    with pytest.raises(WorkNeededError):
        book.state.check(payload, verify)


def test_the_difficulty_is_a_parameter() -> None:
    book = Book(genesis(parameters={"work.bits": 0}))
    book.submit(STRANGER, Note(text="free"))
