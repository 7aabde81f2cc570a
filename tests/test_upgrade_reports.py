"""Reports about an upgrade: whose count, in which stage, and how many of them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import decode, decode_plain, encode
from protocols.council.poolitems import most_of, share_of
from protocols.ledger.entries import (
    GuiltProof,
    Report,
    decode_entry,
)
from protocols.ledger.errors import (
    BannedError,
    ExpiredError,
    FullError,
    InvalidEntryError,
    MalformedEntryError,
    NotDrawnError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
    TooEarlyError,
    UnknownProposalError,
    UnprovenError,
)
from protocols.ledger.rollout import (
    MAX_OTHERS,
    MAX_REPORTS,
    filed,
    is_heard,
    report_of,
)
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, verify
from tests.test_ledger_guilt import fork
from tests.test_ledger_proposals import kinds
from tests.upgrade_book import (
    SLOT,
    accept,
    begin,
    change,
    heard,
    network,
    report,
    reputed,
    rollout,
    stage,
)

ADA, BEN, CLEO, DAN = MEMBERS
GOOD = 50_000


def refused(book: Book, who: Person, error: type[InvalidEntryError], **fields: Any) -> None:
    before = book.state.encode()
    with pytest.raises(error):
        book.submit(who, report(book, **fields))
    assert book.state.encode() == before


def test_whoever_has_no_reputation_reports_nothing() -> None:
    book = network()
    begin(book, change(book))
    for status in ("ready", "failed", "refused"):
        refused(book, STRANGER, NoWeightError, status=status)


def test_only_those_drawn_are_heard() -> None:
    book = network(30)
    begin(book, change(book))
    people = reputed(30)
    outside = next(who for who in people if not is_heard(rollout(book), who.identity))
    refused(book, outside, NotDrawnError)
    stage(book, dict.fromkeys(people, GOOD))
    refused(book, outside, NotDrawnError, gain=-1_000_000)
    book.submit(outside, report(book, status="refused"))
    assert report_of(rollout(book), outside.identity).status == "refused"  # type: ignore[union-attr]
    assert rollout(book).reports == ()


def test_a_report_is_of_the_present_stage_and_rollout() -> None:
    book = network()
    cid = accept(book, change(book))
    early = Report(
        proposal=cid, stage=0, status="ready", pairs=0, gain=0, calls=0, traps=0,
        disagreements=0, fuel=0,
    )  # fmt: skip
    with pytest.raises(UnknownProposalError):
        book.submit(ADA, early)
    book.later(1_000)
    who = heard(book, MEMBERS)[0]
    refused(book, who, TooEarlyError, stage=100, status="measured")
    refused(book, who, UnknownProposalError, proposal=cid[:-1] + b"?")
    old = report(book)
    stage(book, dict.fromkeys(MEMBERS, GOOD))
    with pytest.raises(ExpiredError):
        book.submit(who, old)
    last = report(book, status="failed")
    while book.state.slot(SLOT).rollout is not None:
        stage(book, dict.fromkeys(MEMBERS, GOOD))
    with pytest.raises(NotOpenError) as caught:
        book.submit(who, last)
    assert caught.value.permanent
    # Another proposal that is not an upgrade's.
    words = book.propose(ADA, title="words")
    book.later(1_000)
    with pytest.raises(NotOpenError):
        book.submit(who, msgspec.structs.replace(last, proposal=words))


def test_a_report_is_not_played_again() -> None:
    book = network()
    begin(book, change(book))
    stage(book, dict.fromkeys(MEMBERS, GOOD))
    who = heard(book, MEMBERS)[0]
    first = book.submission(who, report(book, gain=1))
    book.add(first)
    book.submit(who, report(book, gain=2))
    with pytest.raises(ReplayedError):
        book.add(first)
    found = report_of(rollout(book), who.identity)
    assert (found and found.gain, found and found.count) == (2, 2)


def test_reports_of_one_identity_are_bounded_in_a_stage() -> None:
    book = network()
    begin(book, change(book))
    for round_ in range(2):
        who = heard(book, MEMBERS)[0]
        for number in range(MAX_REPORTS):
            book.submit(who, report(book, calls=number))
        refused(book, who, ReplayedError)
        if not round_:
            stage(book, dict.fromkeys(heard(book, MEMBERS)[1:], GOOD))


def test_a_report_of_too_few_pairs_proves_nothing() -> None:
    book = network()
    begin(book, change(book))
    stage(book, dict.fromkeys(MEMBERS, GOOD))
    who = heard(book, MEMBERS)[0]
    refused(book, who, UnprovenError, pairs=3)
    book.submit(who, report(book, pairs=4))


@pytest.mark.parametrize(
    "fields",
    [{"traps": 101}, {"disagreements": 101}, {"gain": 1_000_000_001}, {"gain": -1_000_000_001},
     {"pairs": -1}, {"fuel": 1 << 53}, {"status": "wonderful"}, {"stage": 1001},
     {"status": "measured", "stage": 0}, {"status": "ready", "stage": 100}, {"extra": 1}],
    ids=str,
)  # fmt: skip
def test_a_malformed_report_is_its_authors_lie(fields: dict[str, Any]) -> None:
    book = network()
    begin(book, change(book))
    plain = decode_plain(encode(report(book)))
    assert isinstance(plain, dict)
    payload = book.submission(ADA, report(book))
    submission = decode_plain(payload)
    assert isinstance(submission, dict)
    submission["body"] = plain | fields
    with pytest.raises(MalformedEntryError):
        book.state.check(encode(submission), verify)


def test_reports_cost_no_quota_and_no_more_wait_than_the_ledger_takes() -> None:
    book = network(quota__newcomer=1, quota__trusted=1)
    begin(book, change(book))
    used = book.state.standing(BEN.identity).used
    who = heard(book, MEMBERS)[0]
    payload = book.submission(who, report(book))
    said = decode_entry(payload).entry
    share = share_of(said)  # type: ignore[arg-type]
    assert most_of(share, book.state) == MAX_REPORTS
    book.add(payload)
    assert book.state.standing(BEN.identity).used == used


def test_who_is_proven_guilty_is_heard_no_more() -> None:
    book = network(10)
    begin(book, change(book))
    people = reputed(10)
    stage(book, dict.fromkeys(people, GOOD))
    stage(book, dict.fromkeys(people, GOOD))
    assert rollout(book).expected == 5
    liar = next(who for who in heard(book, people) if who in MEMBERS)
    accuser = next(who for who in MEMBERS if who is not liar)
    book.submit(liar, report(book, status="failed"))
    other = next(who for who in heard(book, people) if who is not liar)
    book.submit(accuser, GuiltProof(proof=fork(book, liar)))
    assert book.state.banned
    with pytest.raises(BannedError):
        book.submit(liar, report(book))
    # One of five may lie: with the banned one's word, these two would be too many.
    book.submit(other, report(book, status="failed"))
    assert all(kind != "stage" for kind in kinds(book.later(0)))


def test_reports_from_outside_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.ledger.upgrades.MAX_OTHERS", 5)
    assert MAX_OTHERS == 1024
    book = network(30)
    begin(book, change(book))
    outside = [who for who in reputed(30) if not is_heard(rollout(book), who.identity)]
    for who in outside[:5]:
        book.submit(who, report(book, status="refused"))
    refused(book, outside[5], FullError, status="refused")
    book.submit(outside[0], report(book, status="refused", calls=1))
    book.submit(heard(book, reputed(30))[0], report(book, status="refused"))


COUNT = st.integers(0, (1 << 53) - 1)
REPORTS = st.builds(
    Report,
    proposal=st.binary(min_size=32, max_size=32).map(lambda tail: b"\x01\x71\x12\x20" + tail),
    stage=st.sampled_from([100, 500, 1000]),
    status=st.sampled_from(["measured", "failed", "refused"]),
    pairs=COUNT,
    gain=st.integers(-1_000_000_000, 1_000_000_000),
    calls=st.just((1 << 53) - 1),
    traps=COUNT,
    disagreements=COUNT,
    fuel=COUNT,
)


@given(REPORTS)
def test_every_report_comes_back_from_its_bytes(said: Report) -> None:
    data = encode(said)
    assert decode(data, Report) == said
    assert encode(decode(data, Report)) == data
    kept = filed(said, 1)
    assert (kept.gain, kept.pairs, kept.bad) == (
        said.gain,
        said.pairs,
        said.status == "failed" or said.traps > 0,
    )
