"""Quotas: 20 and 200 a day, and how trust comes and goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.changes import ParameterChange, Setting
from protocols.ledger.entries import NO, YES, Note
from protocols.ledger.errors import DailyQuotaError
from protocols.ledger.params import defaults
from protocols.ledger.quota import (
    DAY_MS,
    NEWCOMER,
    Standing,
    failed,
    forgettable,
    left,
    limit,
    spent,
    succeeded,
)
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, genesis, people

ADA, BEN, CLEO, DAN = MEMBERS
PARAMS = defaults()
LONG = {"council.epoch_ms": 10 * DAY_MS, "work.bits": 0}


def fill(book: Book, author: Person, tag: str = "") -> int:
    """Submits notes until no more are allowed; how many were."""
    for number in range(10_000):
        try:
            book.submit(author, Note(text=f"{tag}{number}"))
        except DailyQuotaError:
            return number
    raise AssertionError("no quota")


def propose(book: Book, author: Person, number: int, choice: int) -> None:
    change = ParameterChange(settings=(Setting("limits.upload", number),))
    cid = book.propose(author, change, title=f"{number}")
    book.vote(cid, dict.fromkeys(MEMBERS, choice))
    book.later(10_000)


def test_a_newcomer_has_20_a_day_and_the_next_day_again() -> None:
    book = Book(genesis(parameters=LONG))
    assert fill(book, STRANGER) == 20
    with pytest.raises(DailyQuotaError) as caught:
        book.submit(STRANGER, Note(text="one more"))
    assert caught.value.code == "daily-quota"
    assert not caught.value.permanent
    book.later(1_000)
    assert fill(book, STRANGER, "later ") == 0
    book.later(DAY_MS)
    assert fill(book, STRANGER, "next day ") == 20


def test_the_day_is_the_ledgers() -> None:
    book = Book(genesis(parameters=LONG))
    day = book.state.day
    fill(book, STRANGER)
    book.later((day + 1) * DAY_MS - book.state.time - 1)
    assert fill(book, STRANGER, "before midnight ") == 0
    book.later(1_000)
    assert book.state.day == day + 1
    assert fill(book, STRANGER, "after ") == 20


def test_three_successes_in_a_row_make_200_and_five_failures_end_it() -> None:
    book = Book(genesis(parameters=LONG))
    for number in range(1, 4):
        assert not book.state.standing(STRANGER.identity).trusted
        propose(book, STRANGER, number, YES)
    assert book.state.standing(STRANGER.identity).trusted
    book.later(DAY_MS)
    assert fill(book, STRANGER) == 200
    book.later(DAY_MS)
    for number in range(10, 15):
        assert book.state.standing(STRANGER.identity).trusted
        propose(book, STRANGER, number, NO)
    assert not book.state.standing(STRANGER.identity).trusted
    book.later(DAY_MS)
    assert fill(book, STRANGER, "again ") == 20


def test_a_failure_between_begins_the_row_anew() -> None:
    book = Book(genesis(parameters=LONG))
    for number, choice in enumerate([YES, YES, NO, YES, YES], start=1):
        propose(book, STRANGER, number, choice)
    standing = book.state.standing(STRANGER.identity)
    assert not standing.trusted
    assert (standing.successes, standing.failures) == (2, 0)


def test_a_success_gives_one_back() -> None:
    book = Book(genesis(parameters=LONG))
    change = ParameterChange(settings=(Setting("limits.upload", 1),))
    cid = book.propose(STRANGER, change)
    book.vote(cid, dict.fromkeys(MEMBERS, YES))
    assert fill(book, STRANGER) == 19
    book.later(10_000)
    assert fill(book, STRANGER, "back ") == 1


def test_quotas_are_parameters() -> None:
    book = Book(genesis(parameters=LONG | {"quota.newcomer": 3}))
    assert fill(book, STRANGER) == 3


def test_what_members_owe_is_not_counted() -> None:
    book = Book(genesis(parameters=LONG))
    assert fill(book, ADA) == 20
    book.submit(ADA, book.candidacy(ADA))


def test_more_identities_have_more_quota_and_pay_for_each_submission() -> None:
    sybils = people(*(f"sybil {n}" for n in range(5)))
    book = Book(genesis(parameters=LONG))
    assert [fill(book, each) for each in sybils] == [20] * 5
    paying = Book(genesis(parameters=LONG | {"work.bits": 30}))
    for each in sybils:
        with pytest.raises(Exception, match="30 bits"):
            paying.submit(each, Note(text="without work"))


def test_counters_that_say_nothing_are_forgotten() -> None:
    book = Book(genesis(parameters=LONG))
    for each in people("a", "b", "c"):
        book.submit(each, Note(text="hello"))
    propose(book, STRANGER, 1, NO)
    assert len(book.state.standings) == 4
    book.later(2 * DAY_MS)
    assert len(book.state.standings) == 1
    assert book.state.standing(STRANGER.identity).failures == 1


STEPS = st.lists(st.sampled_from(["spend", "success", "failure", "day"]), max_size=60)


@given(STEPS)
def test_standing_is_what_the_rows_say(steps: list[str]) -> None:
    standing, day = NEWCOMER, 0
    said: list[bool] = []
    trusted = False
    for step in steps:
        before = left(standing, day, PARAMS)
        if step == "spend" and before:
            standing = spent(standing, day)
            assert left(standing, day, PARAMS) == before - 1
        elif step == "success":
            standing = succeeded(standing, PARAMS)
            said.append(True)
            assert left(standing, day, PARAMS) >= before
        elif step == "failure":
            standing = failed(standing, PARAMS)
            said.append(False)
        elif step == "day":
            day += 1
            assert left(standing, day, PARAMS) == limit(standing, PARAMS)
        if said[-3:] == [True] * 3:
            trusted = True
        if said[-5:] == [False] * 5:
            trusted = False
        assert standing.trusted == trusted
        assert limit(standing, PARAMS) == (200 if trusted else 20)
        if forgettable(standing, day):
            assert left(standing, day, PARAMS) == left(NEWCOMER, day, PARAMS)
            assert not said or standing == Standing(standing.day, standing.used)
