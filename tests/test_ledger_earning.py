"""Credits and reputation: what the ledger proves, once, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.changes import ParameterChange, Setting
from protocols.cid import cid_of
from protocols.ledger.entries import (
    ABSTAIN,
    NO,
    YES,
    Body,
    CreditEntry,
    Grant,
    Mint,
    Proposal,
    ReputationEntry,
    Verdict,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import InvalidEntryError, TooEarlyError, UnprovenError
from protocols.ledger.reputation import CREDITS, Weights, earned
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, genesis, people

ADA, BEN, CLEO, DAN = MEMBERS
ALL = dict.fromkeys(MEMBERS, YES)
LINK = cid_of(b"something to fetch")


def upload(value: int) -> ParameterChange:
    return ParameterChange(settings=(Setting("limits.upload", value),))


def verdict(cid: bytes, holds: bool = True) -> Verdict:
    return Verdict(proposal=cid, claim="fetchable", holds=holds)


def execute(book: Book, author: Person, votes: dict[Person, int], value: int = 1000) -> bytes:
    cid = book.propose(author, upload(value), title=f"{value} by {author.name}")
    book.vote(cid, votes)
    book.later(10_000)
    book.later(5_000)
    return cid


def test_the_five_kinds_have_the_documents_amounts() -> None:
    assert sorted(CREDITS.values()) == [25, 50, 75, 100, 200]
    assert CREDITS["training"] == 100
    assert CREDITS["dataset"] == 50
    assert CREDITS["migration"] == 200
    assert CREDITS["validation"] == 25
    assert CREDITS["detection"] == 75


def test_an_executed_proposal_earns_its_author_credits_and_reputation_once() -> None:
    book = Book()
    cid = execute(book, ADA, ALL)
    assert book.state.credits == {ADA.identity: 200}
    assert book.state.reputation_of(ADA.identity) == 1200
    mints = [
        mint
        for entry in (decode_entry(each).entry for each in book.payloads[1:])
        if isinstance(entry, CreditEntry)
        for mint in entry.mints
    ]
    assert mints == [Mint(ADA.identity, "migration", 200, cid)]
    book.later(100_000)
    assert book.state.credits == {ADA.identity: 200}


def test_what_is_accepted_and_changes_nothing_earns_nothing() -> None:
    book = Book()
    cid = book.propose(ADA)
    book.vote(cid, ALL)
    book.later(50_000)
    assert book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    assert book.state.credits == {}


def test_what_an_earlier_one_made_so_earns_nothing() -> None:
    book = Book()
    first, second = (book.propose(who, upload(1000)) for who in (ADA, BEN))
    for cid in (first, second):
        book.vote(cid, ALL)
    book.later(10_000)
    book.later(5_000)
    assert sum(book.state.credits.values()) == 200


@pytest.mark.parametrize("own", [YES, NO, None])
def test_an_author_whose_own_weight_decides_earns_nothing(own: int | None) -> None:
    # 3000 of 5000 are the author's: without them 1000 of 2000 vote, and all yes: half.
    book = Book(genesis(MEMBERS[:3], reputation={ADA.identity: 3000}))
    votes = {BEN: YES} | ({} if own is None else {ADA: own})
    cid = execute(book, ADA, votes)
    accepted = book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    assert accepted is (own == YES)
    # Without the author 500 of 1000 thousandths have voted, all yes: enough; so it earns.
    assert book.state.credits == ({ADA.identity: 200} if accepted else {})


def test_self_dealing_earns_no_trust_either() -> None:
    book = Book(genesis(reputation={ADA.identity: 100_000}))
    for number in range(4):
        book.vote(book.propose(ADA, title=f"mine {number}", depends_on=(LINK,)), {ADA: YES})
        for member in (ADA, BEN, CLEO):
            book.submit(member, verdict(sorted(book.state.open)[0]))
        book.later(10_000)
    assert book.state.stats.accepted == 4
    assert not book.state.standing(ADA.identity).trusted
    assert book.state.standing(ADA.identity).successes == 0
    # Nor do the verdicts on what its author alone wanted.
    assert book.state.standing(BEN.identity).successes == 0


def test_self_dealing_earns_nothing() -> None:
    book = Book(genesis(reputation={ADA.identity: 100_000}))
    cid = execute(book, ADA, {ADA: YES})
    assert book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    assert book.state.params["limits.upload"] == 1000
    assert book.state.credits == {}
    assert book.state.reputation_of(ADA.identity) == 100_000


VOTES = st.sampled_from([NO, YES, ABSTAIN, None])
WEIGHT = st.integers(1, 3000)


@given(st.lists(WEIGHT, min_size=4, max_size=4), st.lists(VOTES, min_size=3, max_size=3))
def test_an_authors_own_vote_never_earns_it_anything(
    weights: list[int], others: list[int | None]
) -> None:
    """Whatever the others say: with its own vote, each way or none, an author earns what it would
    earn for a proposal that passes by the others alone, or nothing where it did not pass."""
    reputation = {who.identity: weight for who, weight in zip(MEMBERS, weights, strict=True)}
    payload = genesis(reputation=reputation)
    said = dict(zip((BEN, CLEO, DAN), others, strict=True))
    earned_by = {}
    for own in (None, NO, ABSTAIN, YES):
        book = Book(payload)
        votes = {who: vote for who, vote in (said | {ADA: own}).items() if vote is not None}
        cid = book.propose(ADA, upload(1000))
        if votes:
            book.vote(cid, votes)
        book.later(10_000)
        book.later(5_000)
        passed = book.state.closed.get(cid).accepted  # type: ignore[union-attr]
        earned_by[own] = book.state.credits.get(ADA.identity, 0) if passed else None
    paid = {amount for amount in earned_by.values() if amount is not None}
    assert len(paid) <= 1
    yes, no = (
        sum(weights[n] for n, who in enumerate(MEMBERS) if said.get(who) == choice)
        for choice in (YES, NO)
    )
    if yes <= no:
        assert paid <= {0}, "the others did not want it"


@given(st.integers(1, 6), st.integers(1, 6))
def test_reports_and_proposals_pay_once_however_many_claim_them(
    claimants: int, proposals: int
) -> None:
    """Many identities divide what there is to earn; they do not multiply it."""
    sybils = people(*(f"s{n}" for n in range(claimants)))
    book = Book(genesis(parameters={"work.bits": 0, "quota.newcomer": 1000}))
    for number in range(proposals):
        author = sybils[number % claimants]
        cid = book.propose(author, upload(1 + number), title=f"{number}")
        book.vote(cid, ALL)
        manifest = book.manifest(author, upload(1 + number), title=f"{number}")
        for copycat in sybils:
            with pytest.raises(InvalidEntryError):
                book.add(book.submission(copycat, Proposal(manifest=manifest), life=90_000))
    book.later(10_000)
    book.later(5_000)
    assert sum(book.state.credits.values()) == 200 * proposals


def test_a_puppet_without_reputation_does_not_help() -> None:
    book = Book(genesis(reputation={ADA.identity: 100_000}, parameters={"work.bits": 0}))
    # A newcomer proposes and its master alone votes: the newcomer earns; but if the master
    # validates for it, that is paid by nobody else's vote.
    cid = book.propose(STRANGER, depends_on=(LINK,))
    book.vote(cid, {ADA: YES})
    for member in MEMBERS:
        book.submit(member, verdict(cid))
    book.later(10_000)
    assert book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    assert ADA.identity not in book.state.credits
    assert book.state.credits == {each.identity: 25 for each in (BEN, CLEO, DAN)}


def test_verdicts_that_agree_earn_25_but_not_the_authors_own() -> None:
    book = Book()
    cid = book.propose(ADA, depends_on=(LINK,))
    book.vote(cid, ALL)
    for member in (ADA, BEN, CLEO):
        book.submit(member, verdict(cid))
    book.submit(DAN, verdict(cid, holds=False))
    book.later(10_000)
    assert book.state.credits == {BEN.identity: 25, CLEO.identity: 25}
    assert book.state.standing(DAN.identity).failures == 1
    assert book.state.standing(BEN.identity).successes == 1


def test_verdicts_on_what_nobody_wants_earn_nothing() -> None:
    book = Book(genesis(parameters={"work.bits": 0}))
    for number in range(3):
        cid = book.propose(STRANGER, title=f"spam {number}", depends_on=(LINK,))
        for member in MEMBERS:
            book.submit(member, verdict(cid))
    book.later(30_000)
    assert len(book.state.closed) == 3
    assert book.state.credits == {}


def test_reputation_for_credits_is_a_parameter() -> None:
    book = Book(genesis(parameters={"reputation.per_credit": 500}))
    execute(book, ADA, ALL)
    assert book.state.credits == {ADA.identity: 200}
    assert book.state.reputation_of(ADA.identity) == 1100
    none = Book(genesis(parameters={"reputation.per_credit": 0}))
    execute(none, ADA, ALL)
    assert none.state.reputation_of(ADA.identity) == 1000


def test_what_is_earned_weighs_in_the_next_vote_and_not_in_an_open_one() -> None:
    book = Book()
    execute(book, ADA, ALL)
    cid = book.propose(BEN, upload(7))
    assert book.state.open[cid].weights.total == 4200
    execute(book, CLEO, ALL, 8)
    assert book.state.weights.total == 4400


FORGED: dict[str, Body | CreditEntry | ReputationEntry] = {
    "training": CreditEntry(mints=(Mint(ADA.identity, "training", 100, bytes(32)),)),
    "dataset": CreditEntry(mints=(Mint(ADA.identity, "dataset", 50, bytes(32)),)),
    "migration": CreditEntry(mints=(Mint(ADA.identity, "migration", 200, bytes(32)),)),
    "a gift": ReputationEntry(values=(Grant(ADA.identity, 10**6),)),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_leader_cannot_mint(what: str) -> None:
    with pytest.raises(TooEarlyError):
        Book().add(encode_entry(FORGED[what]))  # type: ignore[arg-type]


def test_a_leader_cannot_mint_more_other_or_less_than_is_due() -> None:
    book = Book()
    cid = book.propose(ADA, upload(5))
    book.vote(cid, ALL)
    book.later(10_000)
    tick = book.state.tick(book.state.time + 5_000)
    assert tick is not None
    book.add(tick)
    book.add(book.state.due()[0])
    good = Mint(ADA.identity, "migration", 200, cid)
    for wrong in (
        (Mint(BEN.identity, "migration", 200, cid),),
        (Mint(ADA.identity, "migration", 201, cid),),
        (Mint(ADA.identity, "training", 200, cid),),
        (good, good),
    ):
        with pytest.raises(UnprovenError):
            book.add(encode_entry(CreditEntry(mints=wrong)))
    book.add(encode_entry(CreditEntry(mints=(good,))))
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(CreditEntry(mints=(good,))))
    with pytest.raises(UnprovenError):
        book.add(encode_entry(ReputationEntry(values=(Grant(ADA.identity, 1201),))))


def test_there_is_no_transfer() -> None:
    tags = {"transfer", "buy", "pay", "spend", "gift"}
    for tag in tags:
        with pytest.raises(InvalidEntryError):
            Book().add(encode_entry({"kind": tag}))  # type: ignore[arg-type]


def test_work_divided_among_many_identities_earns_what_one_would() -> None:
    """Splitting gains nothing: three proposals by one author, or one by each of three."""
    split = people("one", "two", "three")

    def total(authors: list[Person]) -> int:
        book = Book(genesis(parameters={"work.bits": 0}))
        before = sum(book.state.reputation.values())
        for number, author in enumerate(authors):
            execute(book, author, ALL, 1 + number)
        return sum(book.state.reputation.values()) - before

    assert total([STRANGER] * 3) == total(split) == 600


def test_weights_leave_out_who_has_none() -> None:
    weights = Weights({b"a": 0, b"b": 2}, 0).changed([(b"b", 0), (b"c", 3)], 5)
    assert (dict(weights.points), weights.total, weights.index) == ({b"c": 3}, 3, 5)
    assert [earned(25, 1000), earned(25, 39), earned(25, 0)] == [25, 0, 0]
