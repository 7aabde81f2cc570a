"""Votes: who may cast one, which counts, and what they decide."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.changes import ParameterChange, Setting
from protocols.ledger.entries import (
    ABSTAIN,
    MAX_BATCH,
    NO,
    YES,
    Ballot,
    Outcome,
    Poll,
    Vote,
    Votes,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import (
    BadSignatureError,
    EntryTooLargeError,
    ExpiredError,
    FullError,
    InvalidEntryError,
    MalformedEntryError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
    UnknownProposalError,
)
from protocols.ledger.params import REGISTRY
from protocols.ledger.reputation import Weights
from protocols.ledger.signing import batch, cast
from protocols.ledger.voting import OpenProposal, Terms, judged
from protocols.risk import Risk
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, genesis, people, verify

ADA, BEN, CLEO, DAN = MEMBERS
UPLOAD = ParameterChange(settings=(Setting("limits.upload", 1000),))


def _outcome(book: Book) -> Outcome:
    found = [decode_entry(payload).entry for payload in book.later(10_000)]
    (outcome,) = [entry for entry in found if isinstance(entry, Outcome)]
    return outcome


def _single(vote: Vote) -> bytes:
    return encode_entry(batch([vote]))


def test_the_last_vote_before_the_close_counts() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, {ADA: YES, BEN: YES, CLEO: NO, DAN: NO})
    book.vote(cid, {CLEO: YES}, number=2)
    outcome = _outcome(book)
    assert (outcome.yes, outcome.no, outcome.voters) == (3000, 1000, 4)
    assert outcome.accepted
    assert outcome.reason == "accepted"


def test_a_tie_rejects() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, {ADA: YES, BEN: YES, CLEO: NO, DAN: NO})
    outcome = _outcome(book)
    assert not outcome.accepted
    assert outcome.reason == "tie"


def test_too_few_votes_reject() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, {ADA: YES})  # 250 ‰ of the weight, where a medium proposal takes 400
    assert _outcome(book).reason == "no-quorum"


def test_abstaining_is_taking_part() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, {ADA: YES, BEN: ABSTAIN})
    outcome = _outcome(book)
    assert outcome.accepted
    assert outcome.abstain == 1000


def test_weight_is_that_of_the_opening_and_not_of_the_vote_or_of_the_close() -> None:
    book = Book(genesis(parameters={"vote.window_ms": 100_000}))
    early = book.propose(ADA, UPLOAD)
    book.state.reweigh({BEN.identity: 9000}, book.state.head.index)
    late = book.propose(ADA, title="another")
    book.vote(early, {BEN: YES, CLEO: NO})
    book.vote(late, {BEN: YES, CLEO: NO})
    assert book.state.open[early].count == [1000, 1000, 0]
    assert book.state.open[late].count == [1000, 9000, 0]
    copied = type(book.state).decode(book.state.encode())
    assert copied.open[early].weights.total == 4000
    assert copied.open[late].weights.total == 12_000


def test_quorum_and_threshold_are_those_of_the_opening() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.state.params = {**book.state.params, "quorum.medium": 1000, "threshold.medium": 1000}
    book.vote(cid, {ADA: YES, BEN: YES, CLEO: NO})
    assert _outcome(book).accepted


def test_an_older_vote_played_again_changes_nothing() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    old, new = book.ballot(BEN, cid, YES, 1), book.ballot(BEN, cid, NO, 2)
    for vote in (old, new):
        book.add(_single(vote))
    for vote in (old, new):
        with pytest.raises(ReplayedError):
            book.add(_single(vote))
        with pytest.raises(ReplayedError):
            book.state.check_waiting(encode_entry(vote), verify)
    assert book.state.open[cid].vote_of(BEN.identity) == (2, NO)


def test_a_vote_after_the_close() -> None:
    book = Book(genesis(parameters={"approval.window_ms": 50_000}))
    cid = book.propose(ADA, ParameterChange(settings=(Setting("quota.newcomer", 21),)))
    book.vote(cid, dict.fromkeys(MEMBERS, YES))
    vote = book.ballot(ADA, cid, NO, 2)
    book.later(10_000)  # closed, and waiting for its approval
    assert cid in book.state.open
    with pytest.raises(NotOpenError):
        book.add(_single(vote))
    book.later(50_000)
    assert cid in book.state.closed
    with pytest.raises(NotOpenError) as caught:
        book.add(_single(vote))
    assert caught.value.permanent


def test_a_vote_on_nothing_may_be_valid_later() -> None:
    book, other = Book(), Book()
    vote = other.ballot(ADA, other.propose(ADA, UPLOAD), YES)
    with pytest.raises(UnknownProposalError) as caught:
        book.state.check_waiting(encode_entry(vote), verify)
    assert caught.value.code == "not-open"
    assert not caught.value.permanent


def test_a_vote_of_another_epoch() -> None:
    book = Book()
    while book.state.epoch < 3:
        book.later(100_000)
    cid = book.propose(ADA, UPLOAD)
    for epoch in (1, 2, 4):
        vote = cast(
            book.state.realm, ADA.identity, cid, choice=YES, epoch=epoch, number=1, sign=ADA.sign
        )
        with pytest.raises(ExpiredError):
            book.add(_single(vote))
    book.vote(cid, {ADA: YES})


def test_a_vote_counts_in_an_epoch_after_its_proposals() -> None:
    book = Book(genesis(parameters={"vote.window_ms": 1_000_000}))
    cid = book.propose(ADA, UPLOAD)
    book.later(500_000)
    assert book.state.epoch == 2
    book.vote(cid, {BEN: YES})
    assert book.state.open[cid].count == [0, 1000, 0]


def test_epoch_choice_number_proposal_and_network_are_signed() -> None:
    book = Book()
    cid, other = book.propose(ADA, UPLOAD), book.propose(ADA, title="other")
    good = book.ballot(BEN, cid, YES, 1)
    elsewhere = Book(genesis(network="elsewhere"), "elsewhere").state.realm
    forged = [
        msgspec.structs.replace(good, choice=NO),
        msgspec.structs.replace(good, number=2),
        msgspec.structs.replace(good, proposal=other),
        msgspec.structs.replace(good, voter=CLEO.identity),
        cast(elsewhere, BEN.identity, cid, choice=YES, epoch=1, number=1, sign=BEN.sign),
        cast(book.state.realm, BEN.identity, cid, choice=YES, epoch=1, number=1, sign=CLEO.sign),
    ]
    for vote in forged:
        with pytest.raises(BadSignatureError):
            book.add(_single(vote))
        with pytest.raises(BadSignatureError):
            book.state.check_waiting(encode_entry(vote), verify)
    book.add(_single(good))


def test_one_bad_vote_refuses_its_batch_and_nothing_of_it_is_counted() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    votes = [book.ballot(who, cid, YES) for who in MEMBERS]
    votes[2] = msgspec.structs.replace(votes[2], choice=NO)
    before = book.state.digest()
    with pytest.raises(BadSignatureError):
        book.add(encode_entry(batch(votes)))
    assert book.state.digest() == before
    assert book.state.open[cid].count == [0, 0, 0]


def test_a_batch_may_be_checked_at_once() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    payload = encode_entry(batch([book.ballot(who, cid, YES) for who in MEMBERS]))
    seen: list[int] = []

    def verify_many(signed: object) -> bool:
        assert isinstance(signed, list)
        seen.append(len(signed))
        return all(verify(*each) for each in signed)

    book.state.check(payload, verify, verify_many)
    assert seen == [4]
    with pytest.raises(BadSignatureError):
        book.state.check(payload, verify, lambda _: False)


def test_without_reputation_there_is_no_vote_and_a_thousand_identities_have_none() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    for who in (STRANGER, *people(*(f"sybil {n}" for n in range(20)))):
        with pytest.raises(NoWeightError):
            book.add(_single(book.ballot(who, cid, YES)))
    assert book.state.open[cid].count == [0, 0, 0]


def test_votes_are_numbered_up_to_a_parameter() -> None:
    book = Book(genesis(parameters={"vote.numbers": 3}))
    cid = book.propose(ADA, UPLOAD)
    book.add(_single(book.ballot(ADA, cid, YES, 3)))
    with pytest.raises(FullError):
        book.add(_single(book.ballot(ADA, cid, YES, 4)))


def _reordered(book: Book, cid: bytes, other: bytes) -> dict[str, Votes]:
    ballots = [
        Ballot(vote.voter, vote.choice, vote.number, vote.signature)
        for vote in (book.ballot(who, cid, YES) for who in MEMBERS)
    ]
    more = [
        Ballot(vote.voter, vote.choice, vote.number, vote.signature)
        for vote in (book.ballot(who, other, YES) for who in MEMBERS)
    ]
    low, high = sorted([(cid, ballots), (other, more)])
    return {
        "voters out of order": Votes(polls=[Poll(cid, 1, ballots[::-1])]),
        "a voter twice": Votes(polls=[Poll(cid, 1, [ballots[0], ballots[0]])]),
        "proposals out of order": Votes(polls=[Poll(high[0], 1, high[1]), Poll(low[0], 1, low[1])]),
        "a proposal twice": Votes(polls=[Poll(cid, 1, ballots[:2]), Poll(cid, 1, ballots[2:])]),
    }


def test_a_batch_has_one_order() -> None:
    book = Book()
    cid, other = book.propose(ADA, UPLOAD), book.propose(ADA, title="other")
    for why, votes in _reordered(book, cid, other).items():
        with pytest.raises(MalformedEntryError):
            book.add(encode_entry(votes))
        assert why


def test_a_batch_is_bounded() -> None:
    voters = people(*(f"v{n}" for n in range(MAX_BATCH // 2 + 1)))
    book = Book(genesis(reputation={each.identity: 1 for each in voters}))
    cids = [book.propose(ADA, UPLOAD), book.propose(ADA, title="other")]
    blank = [Ballot(each.identity, YES, 1, bytes(64)) for each in voters]
    with pytest.raises(EntryTooLargeError):
        book.add(encode_entry(Votes(polls=[Poll(cid, 1, blank) for cid in sorted(cids)])))
    full = Poll(sorted(cids)[0], 1, blank)
    rest = Poll(sorted(cids)[1], 1, blank[: MAX_BATCH - len(blank)])
    with pytest.raises(BadSignatureError):  # not too large any more
        book.add(encode_entry(Votes(polls=[full, rest])))
    empty = {"kind": "votes", "polls": []}
    with pytest.raises(InvalidEntryError):
        book.add(encode_entry(empty))  # type: ignore[arg-type]


def test_a_batch_keeps_the_highest_vote_of_each_voter() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    votes = [
        book.ballot(BEN, cid, NO, 2),
        book.ballot(BEN, cid, YES, 1),
        book.ballot(ADA, cid, YES),
    ]
    book.add(encode_entry(batch(votes)))
    assert book.state.open[cid].count == [1000, 1000, 0]


def _terms(risk: Risk) -> Terms:
    values = {name: each.default for name, each in REGISTRY.items()}
    return Terms(
        manifest=None,  # type: ignore[arg-type]  # the count does not look at it
        index=1, epoch=1, opened_at=0, closes_at=1, lapses_at=2, risk=risk,
        quorum=values[f"quorum.{risk.word}"], threshold=values[f"threshold.{risk.word}"],
        approvals=0, verdicts=0, drawn=0,
    )  # fmt: skip


COUNTS = st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))


@given(st.sampled_from(list(Risk)), COUNTS, st.integers(0, 1000))
def test_outcomes_are_what_the_words_say(
    risk: Risk, count: tuple[int, int, int], silent: int
) -> None:
    no, yes, abstain = count
    total = no + yes + abstain + silent
    terms = _terms(risk)
    found = judged(terms, list(count), total)
    if found.accepted:
        assert (yes + no + abstain) / total >= terms.quorum / 1000
        assert yes > no
        assert yes / (yes + no) >= terms.threshold / 1000 - 1e-12
        assert judged(terms, [no, yes + 1, abstain], total + 1).accepted
    if yes == no:
        assert not found.accepted
    # What a riskier class accepts, a milder one does.
    if found.accepted and risk > Risk.LOW:
        assert judged(_terms(Risk(risk - 1)), list(count), total).accepted


def test_the_documents_example() -> None:
    terms = _terms(Risk.CRITICAL)  # 12 of 15 take part, and 4 in 5 of them agree
    assert judged(terms, [2, 10, 0], 15).accepted
    assert not judged(terms, [2, 9, 0], 15).accepted
    assert judged(terms, [2, 9, 0], 15).reason == "no-quorum"
    assert judged(terms, [3, 10, 0], 15).reason == "rejected"
    assert judged(terms, [2, 8, 2], 15).accepted, "four in five exactly"


@given(
    st.integers(2, 50),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([NO, YES, ABSTAIN])), max_size=30),
    st.data(),
)
def test_splitting_an_identity_gains_no_weight(
    whole: int, votes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """One identity of weight `whole`, or k whose parts sum up to it: the same count."""
    others = {bytes([n]): 10 + n for n in range(5)}
    cuts = sorted(data.draw(st.lists(st.integers(0, whole), max_size=6)))
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, whole], strict=True)]
    choice = data.draw(st.sampled_from([NO, YES, ABSTAIN]))

    def count(mine: dict[bytes, int]) -> tuple[list[int], int]:
        weights = Weights(others | mine, 0)
        open_proposal = OpenProposal(_terms(Risk.LOW), weights)
        cast_by = [(bytes([who]), said) for who, said in votes] + [(who, choice) for who in mine]
        for number, (who, said) in enumerate(cast_by, start=1):
            if who in weights.points:
                open_proposal.take(Ballot(who, said, number, bytes(64)))
        return open_proposal.count, weights.total

    split = {b"me" + bytes([n]): part for n, part in enumerate(parts)}
    assert count({b"me": whole}) == count(split)


@given(
    st.permutations(MEMBERS), st.lists(st.sampled_from([NO, YES, ABSTAIN]), min_size=4, max_size=4)
)
def test_the_order_of_voters_does_not_matter(order: list[Person], choices: list[int]) -> None:
    terms, weights = _terms(Risk.LOW), Weights({each.identity: 7 for each in MEMBERS}, 0)
    said = {each.identity: choice for each, choice in zip(MEMBERS, choices, strict=True)}
    one, other = OpenProposal(terms, weights), OpenProposal(terms, weights)
    for each in MEMBERS:
        one.take(Ballot(each.identity, said[each.identity], 1, bytes(64)))
    for each in order:
        other.take(Ballot(each.identity, said[each.identity], 1, bytes(64)))
    assert one.count == other.count
    assert one.votes.items() == other.votes.items()
