"""Exclusions on the ledger: verdicts alone decide, once, and for a while."""

import random
from typing import Any

import pytest

from protocols.changes import BadChangeError, ExclusionChange, touched
from protocols.cid import cid_of
from protocols.codec import decode, encode
from protocols.council.errands import Errands, Finding, SeatKey
from protocols.errors import MalformedError
from protocols.learn.placement import beacons_at, limit_for, place
from protocols.ledger.entries import YES, GuiltProof, Outcome, Verdict, decode_entry
from protocols.ledger.errors import (
    ClashError,
    ExpiredError,
    InvalidEntryError,
    NoChangeError,
    NotAMemberError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
    TooEarlyError,
    UnprovenError,
)
from protocols.ledger.exclusion import needed
from protocols.ledger.fold import LedgerState
from protocols.ledger.possible import why
from protocols.ledger.trainings import EXCLUDED, LOST
from protocols.ledger.voting import executable, kind_of
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, people
from tests.test_ledger_guilt import fork
from tests.training_book import BETTER, EPOCH, MODEL, PLAN, ends, network, opened

ADA, BEN, CLEO, DAN = MEMBERS
SEVEN = people("ada", "ben", "cleo", "dan", "eve", "fay", "gus")


def started(members: list[Person] = MEMBERS, **params: int) -> Book:
    book = network(members, **params)
    opened(book)
    return book


def exclusion(book: Book, accused: Person = DAN, **fields: Any) -> ExclusionChange:
    plain: dict[str, Any] = {
        "training": MODEL,
        "accused": accused.identity,
        "epoch": book.state.epoch,
        "case": cid_of(b"what it signed"),
        "evidence": cid_of(b"what that is made of"),
    }
    return ExclusionChange(**plain | fields)


def said(book: Book, cid: bytes, who: Person, *, holds: bool = True) -> None:
    book.submit(who, Verdict(proposal=cid, claim="wrong", holds=holds))


def outcome_of(book: Book) -> list[Outcome]:
    """What is decided without any time that passes."""
    found = (decode_entry(each).entry for each in book.later(0))
    return [each for each in found if isinstance(each, Outcome)]


def excluded(book: Book, accused: Person = DAN, title: str = "wrong") -> Outcome:
    """Proposed by the first of the others, and found wrong by all."""
    others = [each for each in MEMBERS if each is not accused]
    cid = book.propose(others[0], exclusion(book, accused), title=title)
    for each in others:
        said(book, cid, each)
    (outcome,) = outcome_of(book)
    return outcome


def on_to(book: Book, epoch: int) -> None:
    """Until that epoch has begun, with everybody a candidate throughout."""
    while book.state.epoch < epoch:
        for each in MEMBERS:
            if each.identity not in book.state.candidates:
                book.submit(each, book.candidacy(each))
        before = book.state.epoch
        while book.state.epoch == before:
            book.later(EPOCH // 8)


def serving(book: Book) -> set[bytes]:
    return {member.identity for member in book.state.members}


# -- what it comes to --------------------------------------------------------------------------


def test_three_of_four_exclude_at_once_and_nobody_votes() -> None:
    book = started()
    cid = book.propose(ADA, exclusion(book))
    terms = book.state.open[cid].terms
    assert (terms.claim, terms.verdicts, terms.drawn) == ("wrong", 3, book.state.epoch)
    assert (kind_of(terms.change), executable(terms.change)) == ("exclusion", False)
    assert "nobody votes" in why(terms.change)
    assert set(touched(terms.change)) == {terms.change.case, terms.change.evidence}  # type: ignore[union-attr]
    with pytest.raises(NotOpenError):
        book.vote(cid, {BEN: YES})
    said(book, cid, ADA)
    said(book, cid, BEN)
    assert not outcome_of(book)
    said(book, cid, CLEO)
    (outcome,) = outcome_of(book)
    assert (outcome.accepted, outcome.fetchable) == (True, (3, 0))
    found = book.state.exclusions[DAN.identity]
    assert (found.training, found.proposal) == (MODEL, cid)
    assert found.until == book.state.epoch + 1 + EXCLUDED
    assert found.lost == 1000 * LOST // 1000 == 500
    assert book.state.reputation_of(DAN.identity) == 500
    assert not book.state.mints  # nobody gains by a liar


def test_it_costs_the_next_epochs_and_then_ends() -> None:
    book = started()
    on_to(book, 2)
    assert DAN.identity in serving(book)
    excluded(book)
    assert DAN.identity in serving(book)  # the epoch's groups stand
    first = book.state.epoch + 1
    for epoch in range(first, first + EXCLUDED):
        on_to(book, epoch)
        assert serving(book) == {each.identity for each in (ADA, BEN, CLEO)}, epoch
        assert DAN.identity in book.state.exclusions
        assert DAN.identity in {seat.identity for seat in book.state.council.seats}
    on_to(book, first + EXCLUDED)
    assert DAN.identity in serving(book)
    assert not book.state.exclusions
    assert book.state.reputation_of(DAN.identity) == 500  # that is gone


def test_who_is_excluded_is_placed_nowhere() -> None:
    book = started()
    excluded(book)
    on_to(book, book.state.epoch + 1)
    state = book.state
    beacons = beacons_at((*state.past, state.council), 1, state.epoch)
    assert beacons is not None
    keys = [bytes([number]) for number in range(6)]
    placed = place(beacons, state.epoch, state.members, keys, limit_for(6, 3))
    assert {each for three in placed for each in three or ()} == serving(book)


# -- false accusations --------------------------------------------------------------------------


def test_a_false_one_costs_its_author_alone() -> None:
    book = started()
    before = {each: book.state.reputation_of(each.identity) for each in MEMBERS}
    cid = book.propose(ADA, exclusion(book))
    used = book.state.standing(ADA.identity).used
    assert used
    for each in (BEN, CLEO, DAN):
        said(book, cid, each, holds=False)
    (outcome,) = outcome_of(book)
    assert (outcome.accepted, outcome.reason) == (False, "not-wrong")
    assert not book.state.exclusions
    assert book.state.standing(ADA.identity).failures == 1
    assert [book.state.standing(each.identity).failures for each in (BEN, CLEO, DAN)] == [0] * 3
    assert {each: book.state.reputation_of(each.identity) for each in MEMBERS} == before
    with pytest.raises(ReplayedError):
        book.propose(ADA, exclusion(book))


def test_silence_excludes_nobody() -> None:
    book = started()
    cid = book.propose(ADA, exclusion(book))
    said(book, cid, ADA)
    said(book, cid, BEN)
    (outcome,) = ends(book, 30_000)
    assert (outcome.accepted, outcome.reason) == (False, "not-wrong")
    assert not book.state.exclusions


@pytest.mark.parametrize("seats", range(4, 65))
def test_so_many_are_more_than_two_thirds(seats: int) -> None:
    assert 3 * needed(seats) > 2 * seats >= 3 * (needed(seats) - 1)


def test_two_councils_do_not_add_up() -> None:
    """Only whoever had a seat when it was proposed judges it."""
    book = network(SEVEN, council__seats=4)
    opened(book)
    cid = book.propose(ADA, exclusion(book))
    seated = {seat.identity for seat in book.state.council.seats}
    for each in SEVEN:
        if each.identity in seated:
            said(book, cid, each)
            break
    outside = [each for each in SEVEN if each.identity not in seated]
    for each in outside:
        with pytest.raises(NotAMemberError):
            said(book, cid, each)
    with pytest.raises(NotAMemberError):
        said(book, cid, STRANGER)


def test_one_verdict_each_and_without_an_interval() -> None:
    book = started()
    cid = book.propose(ADA, exclusion(book))
    said(book, cid, BEN)
    with pytest.raises(ReplayedError):
        said(book, cid, BEN, holds=False)
    with pytest.raises(UnprovenError):
        book.submit(CLEO, Verdict(proposal=cid, claim="wrong", holds=True, interval=BETTER))
    with pytest.raises(NotOpenError):
        book.submit(CLEO, Verdict(proposal=cid, claim="fetchable", holds=True))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"training": cid_of(b"another model")}, ClashError),
        ({"epoch": 99}, TooEarlyError),
        ({"accused": STRANGER}, NotAMemberError),
    ],
    ids=["training", "epoch", "accused"],
)
def test_what_cannot_be_judged_is_not_taken(
    fields: dict[str, Any], error: type[InvalidEntryError]
) -> None:
    book = started()
    with pytest.raises(error):
        book.propose(ADA, exclusion(book, **fields))


def test_who_may_accuse() -> None:
    book = started()
    with pytest.raises(UnprovenError):
        book.propose(DAN, exclusion(book))
    with pytest.raises(NoWeightError):
        book.propose(STRANGER, exclusion(book))
    book.propose(ADA, exclusion(book))
    with pytest.raises(TooEarlyError):  # one at a time
        book.propose(ADA, exclusion(book, BEN), title="another")
    book.propose(BEN, exclusion(book), title="another's")


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": -1}, {"accused": b"me"}, {"case": bytes(36)}, {"evidence": bytes(36)},
        {"training": bytes(36)}, {"surprise": 1}, {"case": cid_of(b"x"), "evidence": cid_of(b"x")},
    ],
    ids=str,
)  # fmt: skip
def test_an_exclusion_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    good = exclusion(started())
    plain = decode_plain(good) | fields
    with pytest.raises((MalformedError, BadChangeError)):
        decode(encode(plain), ExclusionChange)
    assert decode(encode(good), ExclusionChange) == good


def decode_plain(change: ExclusionChange) -> dict[str, Any]:
    return {"kind": "exclusion"} | {
        name: getattr(change, name) for name in change.__struct_fields__
    }


# -- once --------------------------------------------------------------------------------------


def test_nobody_is_excluded_twice_for_the_same() -> None:
    book = started()
    on_to(book, 2)
    epoch = book.state.epoch
    excluded(book)
    with pytest.raises(NoChangeError):
        book.propose(ADA, exclusion(book, epoch=epoch), title="again")
    over = book.state.exclusions[DAN.identity].until
    on_to(book, over)
    assert DAN.identity not in book.state.exclusions
    for told in range(epoch + 1):  # whatever was done before the exclusion
        with pytest.raises(ExpiredError):
            book.propose(ADA, exclusion(book, epoch=told), title=f"once more {told}")
    book.propose(ADA, exclusion(book, epoch=over), title="something new")


def test_of_two_cases_the_second_ends_without_a_loss() -> None:
    book = started()
    first = book.propose(ADA, exclusion(book), title="one")
    second = book.propose(BEN, exclusion(book, case=cid_of(b"another")), title="two")
    for each in (ADA, BEN, CLEO):
        said(book, first, each)
    one, two = outcome_of(book)
    assert (one.proposal, one.accepted) == (first, True)
    assert (two.proposal, two.reason) == (second, "impossible")
    assert book.state.standing(BEN.identity).failures == 0
    assert book.state.exclusions[DAN.identity].lost == 500


def test_who_was_proven_guilty_has_no_office_to_lose() -> None:
    book = started()
    cid = book.propose(ADA, exclusion(book))
    book.submit(CLEO, GuiltProof(proof=fork(book, DAN)))
    (outcome,) = outcome_of(book)
    assert (outcome.proposal, outcome.reason) == (cid, "impossible")
    with pytest.raises(NoChangeError):
        book.propose(BEN, exclusion(book), title="again")


def test_what_another_plan_may_have_made_is_no_case() -> None:
    book = started()
    on_to(book, 2)
    slower = type(PLAN)(**{n: getattr(PLAN, n) for n in PLAN.__struct_fields__} | {"rate": 1000})
    opened(book, "slower", plan=slower)
    with pytest.raises(ClashError):
        book.propose(ADA, exclusion(book))
    with pytest.raises(ClashError):
        book.propose(ADA, exclusion(book, epoch=1))
    on_to(book, book.state.epoch + 1)
    book.propose(ADA, exclusion(book))


# -- members, and the state as bytes ------------------------------------------------------------


def test_members_look_at_it_at_once_and_say_what_they_found() -> None:
    book = started()
    cid = book.propose(ADA, exclusion(book))
    errands = Errands(BEN.identity, SeatKey(BEN.seat.key, BEN.seat.sign, b"s"), willing=False)
    (question,) = errands.questions(book.state)
    assert question.proposal == cid
    assert not errands.questions(book.state)  # each once
    errands.findings[cid] = Finding(holds=True)
    verdicts = [each for each in errands.bodies(book.state, 0.0) if isinstance(each, Verdict)]
    assert [(each.claim, each.holds) for each in verdicts] == [("wrong", True)]
    book.submit(BEN, verdicts[0])


def test_the_saved_state_has_it() -> None:
    book = started()
    excluded(book)
    again = LedgerState.decode(book.state.encode(), book.state.genesis)
    assert again.exclusions == book.state.exclusions != {}
    assert again.digest() == book.state.digest()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_said_nobody_is_out_without_two_thirds(seed: int) -> None:
    """A walk: accusations of anybody by anybody, verdicts as they fall, epochs that pass."""
    rng = random.Random(seed)
    book = started()
    told: dict[bytes, dict[bytes, bool]] = {}
    for step in range(60):
        state = book.state
        who, whom = rng.sample(MEMBERS, 2)
        cases = [cid for cid, each in state.open.items() if each.terms.by_verdicts]
        before = dict(state.exclusions)
        reputation = {each: state.reputation_of(each.identity) for each in MEMBERS}
        try:
            if rng.random() < 0.3:
                about = exclusion(book, whom, epoch=rng.randint(0, state.epoch + 1))
                told[book.propose(who, about, title=f"{step}")] = {}
            elif cases and rng.random() < 0.8:
                cid, holds = rng.choice(cases), rng.random() < 0.7
                said(book, cid, who, holds=holds)
                told[cid][who.identity] = holds
            else:
                for each in MEMBERS:
                    if each.identity not in state.candidates:
                        book.submit(each, book.candidacy(each))
                book.later(EPOCH // 4)
        except InvalidEntryError:
            continue
        book.later(0)
        state = book.state
        for identity, found in state.exclusions.items():
            if identity not in before or before[identity] != found:
                assert sum(told[found.proposal].values()) >= needed(4)
                assert before.get(identity) is None  # never one over another
                assert found.until == state.epoch + 1 + EXCLUDED
        for each in MEMBERS:
            new = each.identity in state.exclusions and each.identity not in before
            lost = reputation[each] - state.reputation_of(each.identity)
            assert lost == (reputation[each] * LOST // 1000 if new else 0)
        assert not state.mints
    replayed = Book(book.payloads[0])
    for payload in book.payloads[1:]:
        replayed.add(payload)
    assert replayed.state.digest() == book.state.digest()
    assert LedgerState.decode(book.state.encode()).digest() == book.state.digest()
