"""Trainings on the ledger: opened, judged on a sample that nobody knew, and earned by."""

from typing import Any

import msgspec
import pytest

from protocols.changes import (
    AdoptionChange,
    BadChangeError,
    Change,
    CheckpointChange,
    TrainingChange,
    touched,
)
from protocols.cid import cid_of
from protocols.codec import decode, encode
from protocols.council.errands import Errands, Finding, SeatKey
from protocols.errors import MalformedError
from protocols.ledger.entries import NO, NO_INTERVAL, YES, Body, Interval, Verdict, decode_entry
from protocols.ledger.errors import (
    ClashError,
    FullError,
    MalformedEntryError,
    NoChangeError,
    NotAMemberError,
    ReplayedError,
    TooEarlyError,
    UnprovenError,
)
from protocols.ledger.fold import LedgerState
from protocols.ledger.possible import why
from protocols.ledger.training import drawn_in, median_interval, seed_of
from protocols.ledger.trainings import MAX_TRAININGS, NO_ROUNDS
from protocols.ledger.voting import executable, kind_of
from protocols.manifest import ProposalManifest, encode_manifest, links
from protocols.risk import Risk
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, people
from tests.training_book import (
    BETTER,
    EPOCH,
    EQUAL,
    EVALUATION,
    MARGIN,
    MODEL,
    PARAMS,
    PLAN,
    WORSE,
    checkpoint,
    drawn,
    ends,
    find,
    judged,
    network,
    opened,
    shares,
    training,
    voted,
)

ADA, BEN, CLEO, DAN = MEMBERS
SEVEN = people("ada", "ben", "cleo", "dan", "eve", "fay", "gus")
ALL_BETTER = dict.fromkeys(MEMBERS, BETTER)


def started(**params: int) -> Book:
    book = network(MEMBERS, **params)
    opened(book)
    return book


# -- trainings -----------------------------------------------------------------------------------


def test_an_accepted_training_is_in_the_state_at_once() -> None:
    book = network()
    cid = opened(book)
    found = book.state.trainings[MODEL]
    assert (found.plan, found.evaluation, found.windows, found.margin) == (
        PLAN, EVALUATION, 64, MARGIN,
    )  # fmt: skip
    assert (found.head, found.heads, found.proposal) == (MODEL, NO_ROUNDS, cid)
    assert found.index == found.opened == book.state.closed.get(cid).closed  # type: ignore[union-attr]
    assert book.state.training_of(MODEL) is found
    assert not book.state.executions


def test_a_training_is_voted_on_as_medium_and_must_be_fetchable() -> None:
    book = network()
    terms = book.state.open[voted(book, training())].terms
    assert terms.risk is Risk.MEDIUM
    assert (terms.claim, terms.verdicts, terms.drawn) == ("fetchable", 3, 0)
    assert set(links(terms.manifest)) == {MODEL, EVALUATION}
    assert "medium" in why(training())
    assert kind_of(training()) == "training"
    assert not executable(training())
    (outcome,) = ends(book, 25_000)
    assert outcome.reason == "not-fetchable"
    assert not book.state.trainings


def test_another_plan_takes_the_place_of_the_first_and_the_head_stays() -> None:
    book = started()
    judged(book, checkpoint(book), ALL_BETTER)
    head = book.state.head_of(MODEL)
    slower = msgspec.structs.replace(PLAN, rate=1000)
    opened(book, "slower", plan=slower, margin=500)
    found = book.state.trainings[MODEL]
    assert (found.plan, found.margin, found.head) == (slower, 500, head)
    assert found.opened < found.index
    assert found.ratified == 1
    with pytest.raises(NoChangeError):
        book.propose(BEN, training(plan=slower, margin=500))


def test_the_groups_of_a_training_are_never_cut_anew() -> None:
    book = started()
    with pytest.raises(ClashError):
        book.propose(ADA, training(plan=msgspec.structs.replace(PLAN, group_bytes=1 << 21)))


def test_there_are_no_more_trainings_than_there_may_be() -> None:
    book = started()
    found = book.state.trainings[MODEL]
    book.state.trainings = {
        cid_of(bytes([n])): msgspec.structs.replace(found, model=cid_of(bytes([n])))
        for n in range(MAX_TRAININGS)
    }
    with pytest.raises(FullError):
        book.propose(ADA, training())


@pytest.mark.parametrize(
    "fields",
    [
        {"margin": 0}, {"windows": 31}, {"windows": 4097}, {"model": bytes(36)},
        {"evaluation": MODEL}, {"plan": 1}, {"surprise": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_training_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(training(), builtin_types=(bytes,)) | fields
    with pytest.raises(MalformedError):
        decode(encode(plain), TrainingChange)


@pytest.mark.parametrize(
    "fields",
    [
        {"manifest": MODEL},
        {"parent": cid_of(b"x"), "manifest": cid_of(b"x")},
        {"shares": ((BEN.identity, 10), (ADA.identity, 10))},
        {"shares": ((ADA.identity, 10), (ADA.identity, 10))},
        {"shares": ((ADA.identity, 501), (BEN.identity, 500))},
        {"shares": ((ADA.identity, 0),)},
        {"shares": ((b"a", 1),)},
        {"heads": b"short"},
        {"evidence": bytes(36)},
    ],
    ids=str,
)
def test_a_checkpoint_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    good = checkpoint(started())
    plain = msgspec.to_builtins(good, builtin_types=(bytes,)) | fields
    with pytest.raises(MalformedError):
        decode(encode(plain), CheckpointChange)
    assert decode(encode(good), CheckpointChange) == good


def test_a_full_checkpoint_fits_a_proposal() -> None:
    who = people(*(f"learner {n}" for n in range(256)))
    book = started()
    full = checkpoint(book, shares=shares(dict.fromkeys(who, 3)))
    book.propose(ADA, full)
    with pytest.raises(BadChangeError):
        msgspec.structs.replace(full, shares=shares(dict.fromkeys(who, 4)))


# -- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "accepted"), [(BETTER, True), (EQUAL, False), (WORSE, False)])
def test_a_better_one_is_accepted_an_equal_one_and_a_worse_one_are_not(
    interval: Interval, accepted: bool
) -> None:
    book = started()
    wanted = checkpoint(book)
    outcome = judged(book, wanted, dict.fromkeys(MEMBERS, interval))
    assert outcome.accepted is accepted
    assert outcome.reason == ("accepted" if accepted else "not-improved")
    assert outcome.interval == interval
    head = book.state.head_of(MODEL)
    assert head == (wanted.manifest if accepted else MODEL)
    if accepted:
        found = book.state.trainings[MODEL]
        assert found.interval == interval
        assert found.heads == wanted.heads
        assert book.state.training_of(wanted.manifest) == found
        assert book.state.head_of(wanted.manifest) == wanted.manifest


def test_a_model_in_no_training_stands_for_itself() -> None:
    assert network().state.head_of(EVALUATION) == EVALUATION
    assert network().state.training_of(EVALUATION) is None


def test_the_head_moves_along_the_chain_and_every_link_leads_to_it() -> None:
    book = started()
    first, second = checkpoint(book, "first"), None
    assert judged(book, first, ALL_BETTER, "one").accepted
    second = checkpoint(book, "second")
    assert second.parent == first.manifest
    assert judged(book, second, ALL_BETTER, "two").accepted
    for model in (MODEL, first.manifest, second.manifest):
        assert book.state.head_of(model) == second.manifest
    assert [each.manifest for each in book.state.trainings[MODEL].chain] == [
        first.manifest, second.manifest,
    ]  # fmt: skip


def test_what_is_no_child_of_the_head_cannot_be_proposed() -> None:
    book = started()
    first = checkpoint(book, "first")
    assert judged(book, first, ALL_BETTER).accepted
    with pytest.raises(ClashError):
        book.propose(BEN, checkpoint(book, "another", parent=MODEL))
    with pytest.raises(ReplayedError):
        book.propose(BEN, msgspec.structs.replace(first, evidence=cid_of(b"other rounds")))
    with pytest.raises(NoChangeError):
        book.propose(BEN, checkpoint(book, "idle", heads=first.heads))
    with pytest.raises(ClashError):
        book.propose(BEN, checkpoint(book, training=EVALUATION))


def test_of_two_children_one_becomes_the_head_and_the_other_impossible() -> None:
    book = started()
    one, two = checkpoint(book, "one"), checkpoint(book, "two")
    cids = [voted(book, one, "one"), voted(book, two, "two")]
    for cid in cids:
        drawn(book, cid)
    for cid in cids:
        find(book, cid, ALL_BETTER)
    outcomes = ends(book)
    assert sorted(each.reason for each in outcomes) == ["accepted", "impossible"]
    assert len(book.state.trainings[MODEL].chain) == 1


def test_a_checkpoint_that_was_judged_by_another_plan_is_impossible() -> None:
    book = started(vote__window_ms=10_000)
    plan = voted(book, training(margin=5 * MARGIN), "harder")
    for member in (ADA, BEN, CLEO):
        book.submit(member, Verdict(proposal=plan, claim="fetchable", holds=True))
    book.later(3_000)
    cid = voted(book, checkpoint(book))
    drawn(book, cid)
    find(book, cid, dict.fromkeys(MEMBERS, BETTER))
    reasons = [each.reason for _ in range(12) for each in ends(book, 1_000)]
    assert reasons == ["accepted", "impossible"]


# -- the sample ----------------------------------------------------------------------------------


def test_the_sample_is_drawn_by_a_beacon_that_nobody_knew() -> None:
    book = started()
    while book.state.epoch_started + EPOCH // 2 < book.state.time:
        book.later(500)
    early = voted(book, checkpoint(book))
    now = book.state.epoch
    assert book.state.open[early].terms.drawn == now + 1
    # In the last quarter of an epoch members reveal: its successor's beacon is no secret.
    while book.state.time < book.state.epoch_started + EPOCH * 3 // 4:
        book.later(200)
    assert book.state.epoch == now
    assert drawn_in(book.state) == now + 2
    late = voted(book, checkpoint(book, "late"), "late")
    assert book.state.open[late].terms.drawn == now + 2
    assert seed_of(book.state, early) is None
    drawn(book, early)
    assert book.state.council.beacon in (seed_of(book.state, early) or b"")
    assert seed_of(book.state, late) is None
    drawn(book, late)
    assert seed_of(book.state, late) is not None
    assert seed_of(book.state, late) != seed_of(book.state, early)


def test_nobody_judges_before_the_sample_is_drawn() -> None:
    book = started()
    cid = voted(book, checkpoint(book))
    with pytest.raises(TooEarlyError):
        find(book, cid, {ADA: BETTER})
    drawn(book, cid)
    find(book, cid, {ADA: BETTER})
    with pytest.raises(ReplayedError):
        find(book, cid, {ADA: BETTER})


def test_a_checkpoint_waits_for_its_sample_however_short_the_vote() -> None:
    book = started(council__epoch_ms=60_000, approval__window_ms=5_000)
    cid = voted(book, checkpoint(book))
    terms = book.state.open[cid].terms
    assert terms.lapses_at >= book.state.epoch_started + 60_000 + 5_000
    book.later(30_000)
    assert cid in book.state.open


def test_a_verdict_says_what_its_interval_shows() -> None:
    book = started()
    cid = voted(book, checkpoint(book))
    drawn(book, cid)
    for interval in (EQUAL, NO_INTERVAL, Interval(MARGIN - 1, 5000, 9000)):
        lie = Verdict(proposal=cid, claim="improved", holds=True, interval=interval)
        with pytest.raises(UnprovenError):
            book.submit(BEN, lie)
    # ... but what is measured to be better can have been made otherwise than is said.
    said = Verdict(proposal=cid, claim="improved", holds=False, interval=BETTER)
    book.submit(BEN, said)
    with pytest.raises(NotAMemberError):
        find(book, cid, {STRANGER: BETTER})


def test_what_is_only_fetched_has_no_interval() -> None:
    book = network()
    cid = voted(book, training())
    with pytest.raises(UnprovenError):
        book.submit(ADA, Verdict(proposal=cid, claim="fetchable", holds=True, interval=BETTER))


def test_an_interval_of_nothing_is_left_out_and_not_spelled_out() -> None:
    book = network()
    cid = voted(book, training())
    spelled = Verdict(proposal=cid, claim="fetchable", holds=True, interval=Interval(0, 0, 0))
    assert b"interval" in book.submission(ADA, spelled)
    with pytest.raises(MalformedEntryError):
        book.submit(ADA, spelled)
    plain = Verdict(proposal=cid, claim="fetchable", holds=True)
    assert b"interval" not in book.submission(ADA, plain)
    book.submit(ADA, plain)


@pytest.mark.parametrize("ends_", [(2, 1, 3), (1, 3, 2), (0, 0, -1), (0, 0, 1 << 60)], ids=str)
def test_an_interval_has_its_mean_within(ends_: tuple[int, int, int]) -> None:
    good = Verdict(proposal=MODEL, claim="improved", holds=False, interval=BETTER)
    plain = msgspec.to_builtins(good, builtin_types=(bytes,)) | {"interval": ends_}
    with pytest.raises(MalformedError):
        decode(encode(plain), Verdict)


# -- liars ---------------------------------------------------------------------------------------


LIE = Interval(900_000, 900_000, 900_000)
SLANDER = Interval(-900_000, -900_000, -900_000)


@pytest.mark.parametrize("truth", [EQUAL, WORSE])
def test_liars_below_a_third_carry_nothing(truth: Interval) -> None:
    book = network(SEVEN, council__seats=7)
    cid = voted(book, training(), voters=SEVEN, author=SEVEN[0])
    for member in SEVEN[:4]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(book)
    liars, honest = SEVEN[:2], SEVEN[2:]
    outcome = _judged_by_seven(book, dict.fromkeys(liars, LIE) | dict.fromkeys(honest, truth))
    assert outcome.reason == "not-improved"
    assert outcome.interval == truth
    assert book.state.head_of(MODEL) == MODEL


def test_liars_below_a_third_hold_up_nothing() -> None:
    book = network(SEVEN, council__seats=7)
    cid = voted(book, training(), voters=SEVEN, author=SEVEN[0])
    for member in SEVEN[:4]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(book)
    found = dict.fromkeys(SEVEN[:2], SLANDER) | dict.fromkeys(SEVEN[2:], BETTER)
    outcome = _judged_by_seven(book, found)
    assert outcome.accepted
    assert outcome.interval == BETTER


def test_more_than_two_thirds_of_the_seats_must_find_it_better() -> None:
    book = network(SEVEN, council__seats=7)
    cid = voted(book, training(), voters=SEVEN, author=SEVEN[0])
    for member in SEVEN[:4]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(book)
    cid = voted(book, checkpoint(book), voters=SEVEN, author=SEVEN[0])
    drawn(book, cid)
    assert book.state.open[cid].terms.verdicts == 5
    find(book, cid, dict.fromkeys(SEVEN[:4], BETTER))  # and three who cannot evaluate
    assert not ends(book)
    book.submit(SEVEN[4], Verdict(proposal=cid, claim="improved", holds=True, interval=BETTER))
    (outcome,) = ends(book)
    assert outcome.accepted


def _judged_by_seven(book: Book, found: Any) -> Any:
    cid = voted(book, checkpoint(book), voters=SEVEN, author=SEVEN[0])
    drawn(book, cid)
    find(book, cid, found)
    (outcome,) = ends(book)
    return outcome


def test_those_judge_who_sit_when_the_sample_is_drawn() -> None:
    """A fixed set of seats: liars of several epochs cannot add up."""
    book = network(SEVEN, council__seats=7)
    cid = voted(book, training(), voters=SEVEN, author=SEVEN[0])
    for member in SEVEN[:4]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(book)
    cid = voted(book, checkpoint(book), voters=SEVEN, author=SEVEN[0])
    # Two of them leave with the epoch in which it was proposed.
    for member in SEVEN[:2]:
        book.submit(member, book.candidacy(member, willing=False))
    drawn(book, cid)
    seated = {seat.identity for seat in book.state.council.seats}
    assert len(seated) == 5
    assert book.state.open[cid].terms.verdicts == 4
    gone = [each for each in SEVEN if each.identity not in seated]
    with pytest.raises(NotAMemberError):
        find(book, cid, {gone[0]: BETTER})
    # ... and who leaves after that is heard all the same.
    leaves = next(each for each in SEVEN if each.identity in seated)
    while book.state.time < book.state.epoch_started + EPOCH // 8:
        book.later(100)
    book.submit(leaves, book.candidacy(leaves, willing=False))
    now = book.state.epoch
    while book.state.epoch == now:
        book.later(500)
    assert book.state.council.seat_of(leaves.identity) is None
    find(book, cid, {leaves: BETTER})


def test_the_lower_medians_lie_within_what_the_honest_measured() -> None:
    honest = [Interval(10 + n, 20 + n, 30 + n) for n in range(5)]
    for lie in (LIE, SLANDER):
        found = median_interval([*honest, lie, lie])
        assert 10 <= found.low <= 14
        assert 20 <= found.mean <= 24
        assert 30 <= found.high <= 34
    assert median_interval([]) is NO_INTERVAL


# -- credits -------------------------------------------------------------------------------------


def credits_of(book: Book, *who: Any) -> list[int]:
    book.later(500)
    return [book.state.credits.get(each.identity, 0) for each in who]


LEARNERS = people("learner 1", "learner 2", "learner 3")


def test_contributors_earn_by_their_shares_of_what_is_accepted() -> None:
    book = started()
    one, two, three = LEARNERS
    parts = shares({one: 500, two: 250, three: 5})
    before = dict(book.state.reputation)
    assert judged(book, checkpoint(book, shares=parts), ALL_BETTER).accepted
    assert credits_of(book, one, two, three) == [50, 25, 0]
    assert book.state.reputation_of(one.identity) == before.get(one.identity, 0) + 50
    # Half a credit is not lost.
    assert judged(book, checkpoint(book, "next", shares=parts), ALL_BETTER, "next").accepted
    assert credits_of(book, one, two, three) == [100, 50, 1]
    found = {each.identity: each.milli for each in book.state.trainings[MODEL].contributions}
    assert found[three.identity] == 1000


def test_nobody_earns_by_what_is_refused() -> None:
    book = started()
    parts = shares(dict.fromkeys(LEARNERS, 300))
    assert not judged(book, checkpoint(book, shares=parts), dict.fromkeys(MEMBERS, EQUAL)).accepted
    assert credits_of(book, *LEARNERS) == [0, 0, 0]


def test_a_member_earns_only_where_the_others_carry_it() -> None:
    book = started()
    cid = voted(book, checkpoint(book, shares=shares({ADA: 400, STRANGER: 400})))
    drawn(book, cid)
    find(book, cid, {ADA: BETTER, BEN: BETTER, CLEO: BETTER})
    ends(book)
    earned = _training_credits(book)
    assert earned == {ADA.identity: 40, STRANGER.identity: 40}  # two of the three others


def test_who_carries_its_own_checkpoint_by_its_weight_earns_nothing() -> None:
    heavy = network()
    heavy.state.reweigh({ADA.identity: 10_000}, 0)
    cid = heavy.propose(ADA, training())
    heavy.vote(cid, {ADA: YES})
    for member in (ADA, BEN, CLEO):
        heavy.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(heavy)
    cid = heavy.propose(ADA, checkpoint(heavy, shares=shares({ADA: 400, STRANGER: 400})))
    heavy.vote(cid, {ADA: YES})
    drawn(heavy, cid)
    find(heavy, cid, ALL_BETTER)
    (outcome,) = ends(heavy)
    assert outcome.accepted
    assert _training_credits(heavy) == {STRANGER.identity: 40}


def _training_credits(book: Book) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for payload in book.payloads[1:]:
        entry = decode_entry(payload).entry
        for mint in getattr(entry, "mints", ()):
            if mint.contribution == "training":
                found[mint.identity] = found.get(mint.identity, 0) + mint.amount
    for mint in book.state.mints:
        if mint.contribution == "training":
            found[mint.identity] = found.get(mint.identity, 0) + mint.amount
    return found


def test_an_adopted_dataset_earns_its_author_once() -> None:
    book = network()
    data = AdoptionChange(what="dataset", manifest=EVALUATION)
    _adopt(book, data, "data")
    assert _contributions(book, "dataset") == {ADA.identity: 50}
    with pytest.raises(NoChangeError):
        book.propose(BEN, data, title="the same again")


def test_two_proposals_of_one_dataset_earn_once() -> None:
    book = network()
    data = AdoptionChange(what="dataset", manifest=EVALUATION)
    cids = [book.propose(who, data, title=who.name) for who in (ADA, BEN)]
    for cid in cids:
        book.vote(cid, dict.fromkeys(MEMBERS, YES))
        for member in MEMBERS[1:]:
            book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    assert sorted(each.reason for each in ends(book)) == ["accepted", "impossible"]
    assert list(_contributions(book, "dataset").values()) == [50]


def test_a_dataset_that_only_its_author_carries_earns_nothing() -> None:
    book = network()
    book.state.reweigh({ADA.identity: 10_000}, 0)
    _adopt(book, AdoptionChange(what="dataset", manifest=EVALUATION), "mine", [ADA])
    assert EVALUATION in book.state.datasets
    assert not _contributions(book, "dataset")


def _adopt(book: Book, change: Change, title: str, voters: Any = MEMBERS) -> None:
    cid = book.propose(ADA, change, title=title)
    book.vote(cid, dict.fromkeys(voters, YES))
    for member in MEMBERS[1:]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    (outcome,) = ends(book)
    assert outcome.accepted


def _contributions(book: Book, kind: str) -> dict[bytes, int]:
    book.later(500)
    found: dict[bytes, int] = {}
    for payload in book.payloads[1:]:
        for mint in getattr(decode_entry(payload).entry, "mints", ()):
            if mint.contribution == kind:
                found[mint.identity] = found.get(mint.identity, 0) + mint.amount
    return found


# -- the state -----------------------------------------------------------------------------------


def test_a_saved_state_has_all_of_it() -> None:
    book = started()
    assert judged(book, checkpoint(book, shares=shares({STRANGER: 7})), ALL_BETTER).accepted
    cid = voted(book, checkpoint(book, "open"), "open")
    drawn(book, cid)
    find(book, cid, {BEN: WORSE, CLEO: BETTER})
    again = LedgerState.decode(book.state.encode(), book.state.genesis)
    assert again.trainings == book.state.trainings
    assert again.open[cid].intervals == {BEN.identity: WORSE, CLEO.identity: BETTER}
    assert again.open[cid].terms == book.state.open[cid].terms
    assert again.digest() == book.state.digest()
    before = book.state.digest()
    find(book, cid, {DAN: BETTER, ADA: BETTER})
    assert again.digest() == before  # a copy is not written to


def test_who_served_in_the_last_epochs_is_remembered() -> None:
    book = network()
    before = {book.state.epoch: book.state.members}
    while book.state.epoch < 20:
        book.later(EPOCH // 2)
        before.setdefault(book.state.epoch, book.state.members)
    for epoch in range(4, 21):
        assert book.state.members_of(epoch) == before[epoch]
        assert book.state.council_of(epoch) is not None
    assert book.state.members_of(3) is None
    assert book.state.members_of(21) is None
    again = LedgerState.decode(book.state.encode())
    assert again.members_of(5) == before[5]


def test_the_votes_alone_do_not_make_a_checkpoint_nor_verdicts_alone() -> None:
    book = started()
    cid = book.propose(ADA, checkpoint(book))
    book.vote(cid, dict.fromkeys(MEMBERS, NO))
    (outcome,) = ends(book)
    assert outcome.reason == "rejected"
    cid = voted(book, checkpoint(book, "silence"), "silence")
    drawn(book, cid)
    (outcome,) = ends(book, PARAMS["approval.window_ms"] + EPOCH)
    assert (outcome.reason, outcome.interval) == ("not-improved", NO_INTERVAL)


def test_a_checkpoint_is_about_the_child_and_its_evidence() -> None:
    wanted = checkpoint(started())
    assert touched(wanted) == (wanted.manifest, wanted.evidence)
    manifest = ProposalManifest(
        title="t", description="", author=ADA.identity, depends_on=(), change=wanted
    )
    assert encode_manifest(manifest)
    assert links(manifest) == (wanted.manifest, wanted.evidence)


# -- what a member's daemon does by itself -------------------------------------------------------


def errands(who: Person) -> Errands:
    return Errands(who.identity, SeatKey(who.seat.key, who.seat.sign, who.secret), willing=True)


def verdicts_of(said: list[Body]) -> list[Verdict]:
    return [each for each in said if isinstance(each, Verdict)]


def test_a_member_looks_when_the_votes_carry_it_and_the_sample_is_drawn() -> None:
    book = started(vote__window_ms=60_000)
    mine = errands(ADA)
    cid = book.propose(ADA, checkpoint(book))
    drawn(book, cid)
    assert not mine.questions(book.state)
    cid = voted(book, checkpoint(book, "another"), "another")
    assert not mine.questions(book.state)
    drawn(book, cid)
    (asked,) = mine.questions(book.state)
    assert asked.proposal == cid
    assert not mine.questions(book.state)
    assert not errands(STRANGER).questions(book.state)


@pytest.mark.parametrize("interval", [BETTER, EQUAL, NO_INTERVAL, Interval(0, 0, 0)], ids=str)
def test_a_member_says_what_it_found(interval: Interval) -> None:
    book = started()
    cid = voted(book, checkpoint(book))
    mine = errands(ADA)
    mine.findings[cid] = Finding(interval.low >= MARGIN, interval)
    assert not verdicts_of(mine.bodies(book.state, 0.0))  # the sample is not drawn
    drawn(book, cid)
    (said,) = verdicts_of(mine.bodies(book.state, 100.0))
    assert (said.holds, said.interval) == (interval is BETTER, interval)
    book.submit(ADA, said)
    assert not verdicts_of(mine.bodies(book.state, 200.0))


def test_who_lost_the_seat_since_still_says_what_it_found() -> None:
    book = network(SEVEN, council__seats=7)
    cid = voted(book, training(), voters=SEVEN, author=SEVEN[0])
    for member in SEVEN[:4]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    ends(book)
    cid = voted(book, checkpoint(book), voters=SEVEN, author=SEVEN[0])
    drawn(book, cid)
    leaves = next(each for each in SEVEN if book.state.council.seat_of(each.identity) is not None)
    book.submit(leaves, book.candidacy(leaves, willing=False))
    now = book.state.epoch
    while book.state.epoch == now:
        book.later(500)
    mine = errands(leaves)
    assert book.state.council.seat_of(leaves.identity) is None
    assert [each.proposal for each in mine.questions(book.state)] == [cid]
    mine.findings[cid] = Finding(True, BETTER)
    assert verdicts_of(mine.bodies(book.state, 0.0))
