"""Proposals: their class of risk, who must approve, and how they come into force."""

import contextlib

import msgspec
import pytest

from protocols.changes import (
    AdoptionChange,
    BadChangeError,
    Change,
    HumanKeyChange,
    ParameterChange,
    Setting,
)
from protocols.cid import cid_of
from protocols.ledger.entries import (
    NO,
    NO_INTERVAL,
    YES,
    HumanKeyEntry,
    Outcome,
    ParameterEntry,
    Proposal,
    Verdict,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import (
    BadSignatureError,
    ClashError,
    EntryTooLargeError,
    GenesisError,
    MalformedEntryError,
    NoChangeError,
    NotAHumanKeyError,
    NotAMemberError,
    NotOpenError,
    OutOfRangeError,
    ReplayedError,
    TooEarlyError,
    UnknownParameterError,
    UnprovenError,
)
from protocols.ledger.params import REGISTRY
from protocols.ledger.possible import why
from protocols.ledger.signing import approve
from protocols.ledger.state import (
    LARGE,
    MAX_OPEN,
    MAX_OPEN_OF_ONE,
    MAX_OPEN_SMALL,
    MAX_OPEN_STRANGERS,
    Origin,
)
from protocols.ledger.voting import kind_of
from protocols.manifest import (
    FileRef,
    ModelManifest,
    ProposalManifest,
    decode_manifest,
    encode_manifest,
)
from protocols.risk import Risk
from tests.ledger_book import (
    HUMAN,
    MEMBERS,
    OTHER_HUMAN,
    STRANGER,
    Book,
    Person,
    genesis,
    people,
    verify,
)

ADA, BEN, CLEO, DAN = MEMBERS
ALL = dict.fromkeys(MEMBERS, YES)
LINK = cid_of(b"an adapter")
NEW_KEY = Person("new human")


def setting(**values: int) -> ParameterChange:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return ParameterChange(settings=tuple(Setting(*pair) for pair in sorted(named.items())))


UPLOAD = setting(limits__upload=1000)
QUOTA = setting(quota__newcomer=30)
VOTING = setting(vote__window_ms=20_000)
ADD_KEY = HumanKeyChange(action="add", name="carol", key=NEW_KEY.key)


def kinds(payloads: list[bytes]) -> list[str]:
    return [str(type(decode_entry(each).entry).__struct_config__.tag) for each in payloads]


def outcome_of(payloads: list[bytes]) -> Outcome:
    (found,) = [
        entry
        for entry in (decode_entry(each).entry for each in payloads)
        if isinstance(entry, Outcome)
    ]
    return found


# -- in force ----------------------------------------------------------------------------------


def test_an_accepted_parameter_is_in_force_from_one_index_on() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, ALL)
    assert kinds(book.later(9_999)) == ["tick"]
    assert kinds(book.later(1_000)) == ["tick", "outcome"]
    assert book.state.params["limits.upload"] == 0
    payloads = book.later(5_000)
    assert kinds(payloads) == ["tick", "parameter", "credit", "reputation"]
    assert book.state.params["limits.upload"] == 1000
    index = book.payloads.index(payloads[1])
    assert book.state.origins["limits.upload"] == Origin(index, cid)


def test_several_parameters_are_set_together() -> None:
    book = Book()
    cid = book.propose(ADA, setting(limits__upload=5, limits__download=6))
    book.vote(cid, ALL)
    book.later(10_000)
    book.later(5_000)
    assert [book.state.params[f"limits.{way}load"] for way in ("up", "down")] == [5, 6]


def test_a_rejected_one_changes_nothing_ever() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, dict.fromkeys(MEMBERS, NO))
    assert kinds(book.later(10_000)) == ["tick", "outcome"]
    assert kinds(book.later(100_000)) == ["tick"]
    assert book.state.params["limits.upload"] == 0


def test_deadlines_are_the_ledgers_and_not_a_clocks() -> None:
    book = Book()
    book.vote(book.propose(ADA, UPLOAD), ALL)
    # However late it is anywhere, without a tick nothing is due.
    assert book.state.due() == []
    assert book.state.due(book.state.time + 999) == []
    assert kinds(book.state.due(book.state.time + 10**9))[:2] == ["tick", "outcome"]


def test_two_that_set_the_same_are_in_force_in_the_order_in_which_they_were_decided() -> None:
    book = Book()
    first = book.propose(ADA, setting(limits__upload=1))
    book.vote(first, ALL)
    book.later(5_000)
    second = book.propose(BEN, setting(limits__upload=2))
    book.vote(second, ALL)
    book.later(5_000)
    book.later(5_000)
    assert book.state.params["limits.upload"] == 1
    book.later(5_000)
    assert book.state.params["limits.upload"] == 2


def test_what_is_so_already_when_it_is_decided_is_impossible() -> None:
    book = Book(genesis(parameters={"execute.delay_ms": 0}))
    first, second = book.propose(ADA, UPLOAD), book.propose(BEN, UPLOAD)
    book.vote(first, ALL)
    book.later(1_000)
    third = book.propose(CLEO, UPLOAD, title="once more")
    book.vote(second, ALL)
    book.vote(third, ALL)
    book.later(9_000)
    book.later(1_000)
    assert book.state.params["limits.upload"] == 1000
    assert book.state.closed.get(third).reason == "impossible"  # type: ignore[union-attr]


def test_an_idle_leader_ticks_several_times_within_a_time_out() -> None:
    """Parameters that contradict each other are refused, also when two proposals make them so."""
    with pytest.raises(GenesisError, match="a quarter"):
        genesis(parameters={"council.tick_ms": 1001, "council.time_out_ms": 4000})
    book = Book(genesis(parameters={"council.tick_ms": 1000, "council.time_out_ms": 8000}))
    with pytest.raises(ClashError, match="a quarter"):
        book.propose(ADA, setting(council__tick_ms=2001))
    slower = book.propose(ADA, setting(council__tick_ms=2000))
    faster = book.propose(BEN, setting(council__time_out_ms=4000))
    for cid in (slower, faster):
        book.vote(cid, ALL)
        for human in (HUMAN, OTHER_HUMAN):
            book.approve(cid, human)
    book.later(10_000)
    closed = {cid: book.state.closed.get(cid) for cid in (slower, faster)}
    assert sorted(each.reason for each in closed.values() if each) == ["accepted", "impossible"]
    book.later(5_000)
    params = book.state.params
    assert params["council.tick_ms"] * 4 <= params["council.time_out_ms"]


# -- who wrote it, and what it says --------------------------------------------------------------


def test_a_proposal_is_named_by_the_bytes_in_its_entry() -> None:
    book = Book()
    manifest = book.manifest(ADA, UPLOAD)
    book.submit(ADA, Proposal(manifest=manifest))
    assert list(book.state.open) == [cid_of(manifest)]


def test_the_same_is_not_proposed_twice() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    manifest = book.manifest(ADA, UPLOAD)
    again = book.submission(ADA, Proposal(manifest=manifest), life=90_000)
    with pytest.raises(ReplayedError):
        book.add(again)
    book.later(10_000)
    assert cid in book.state.closed
    with pytest.raises(ReplayedError):
        book.add(again)


def test_nobody_proposes_in_anothers_name() -> None:
    book = Book()
    with pytest.raises(BadSignatureError):
        book.submit(BEN, Proposal(manifest=book.manifest(ADA, UPLOAD)))


MODEL = ModelManifest(
    name="m",
    description="",
    files=(FileRef(path="a", size=0, root=bytes(32), layout="flat"),),
    depends_on=(),
)


@pytest.mark.parametrize(
    "manifest", [b"", b"\xa0", encode_manifest(MODEL)], ids=["empty", "no fields", "a model's"]
)
def test_a_manifest_that_is_no_proposals(manifest: bytes) -> None:
    with pytest.raises(MalformedEntryError):
        Book().submit(ADA, Proposal(manifest=manifest))


def test_todays_manifests_without_a_change_stay_valid() -> None:
    plain = ProposalManifest(title="t", description="", author=ADA.identity, depends_on=())
    data = encode_manifest(plain)
    assert b"change" not in data
    assert decode_manifest(data) == plain
    changing = msgspec.structs.replace(plain, change=UPLOAD)
    assert decode_manifest(encode_manifest(changing)) == changing


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (setting(no__such=1), UnknownParameterError),
        (setting(council__seats=65), OutOfRangeError),
        (setting(threshold__low=499), OutOfRangeError),
        (setting(limits__upload=0), NoChangeError),
        (HumanKeyChange(action="add", name="alice", key=NEW_KEY.key), NoChangeError),
        (HumanKeyChange(action="add", name="again", key=HUMAN.key), NoChangeError),
        (HumanKeyChange(action="remove", name="carol", key=NEW_KEY.key), NotAHumanKeyError),
        (HumanKeyChange(action="remove", name="alice", key=NEW_KEY.key), NotAHumanKeyError),
    ],
    ids=str,
)
def test_changes_that_cannot_be(change: Change, error: type[Exception]) -> None:
    with pytest.raises(error):
        Book().propose(ADA, change)


def test_the_parts_of_a_change_have_one_order() -> None:
    with pytest.raises(BadChangeError):
        ParameterChange(settings=(Setting("b.b", 1), Setting("a.a", 1)))
    with pytest.raises(BadChangeError):
        ParameterChange(settings=(Setting("a.a", 1), Setting("a.a", 2)))


def test_no_more_are_open_than_can_be_overlooked_and_strangers_leave_room() -> None:
    small = people(*(f"small {n}" for n in range(20)))
    parameters = {"quota.newcomer": 10**6, "work.bits": 0}
    grants = {each.identity: 1 for each in small}
    book = Book(genesis(reputation=grants, parameters=parameters))

    def fill(authors: list[Person]) -> int:
        before = len(book.state.open)
        for author in authors:
            for number in range(MAX_OPEN_OF_ONE):
                with contextlib.suppress(TooEarlyError):
                    book.propose(author, title=f"{author.name} {number}")
            with pytest.raises(TooEarlyError) as caught:
                book.propose(author, title="one more")
            assert not caught.value.permanent
        return len(book.state.open) - before

    strangers = people(*(f"stranger {n}" for n in range(10)))
    assert fill(strangers) == MAX_OPEN_STRANGERS
    assert fill(small) == MAX_OPEN_SMALL - MAX_OPEN_STRANGERS
    # With however many names the others come: who has a part of 1/32 is not shut out.
    assert fill(MEMBERS) == 4 * MAX_OPEN_OF_ONE
    assert MAX_OPEN_SMALL + LARGE * MAX_OPEN_OF_ONE == MAX_OPEN


# -- risk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "risk"),
    [
        (None, Risk.LOW),
        (UPLOAD, Risk.MEDIUM),
        (QUOTA, Risk.HIGH),
        (VOTING, Risk.CRITICAL),
        (setting(limits__upload=1, quota__newcomer=30), Risk.HIGH),
        (setting(limits__upload=1, council__seats=5), Risk.CRITICAL),
        (ADD_KEY, Risk.CRITICAL),
        (AdoptionChange(what="adapter", manifest=LINK), Risk.MEDIUM),
        (AdoptionChange(what="model", manifest=LINK), Risk.HIGH),
        (AdoptionChange(what="kernel", manifest=LINK), Risk.CRITICAL),
    ],
    ids=str,
)
def test_the_class_is_computed_from_what_is_touched(change: Change | None, risk: Risk) -> None:
    book = Book()
    # The title is the author's word, and has none in it.
    cid = book.propose(ADA, change, title="low risk, harmless, approved by a human")
    terms = book.state.open[cid].terms
    assert terms.risk is risk
    assert terms.quorum == book.state.params[f"quorum.{risk.word}"]
    assert terms.threshold == book.state.params[f"threshold.{risk.word}"]
    assert why(change)
    assert kind_of(change) == ("text" if change is None else change.__struct_config__.tag)


def test_every_parameter_of_the_vote_and_the_council_is_critical() -> None:
    for name, known in REGISTRY.items():
        if name.split(".")[0] in (
            "vote", "quorum", "threshold", "approvals", "council", "upgrade",
        ):  # fmt: skip
            assert known.risk is Risk.CRITICAL, name


# -- people ------------------------------------------------------------------------------------


def test_a_high_proposal_waits_for_a_human_key() -> None:
    book = Book()
    cid = book.propose(ADA, QUOTA)
    book.vote(cid, ALL)
    assert kinds(book.later(10_000)) == ["tick"]
    book.approve(cid, HUMAN)
    payloads = book.later(1_000)
    assert kinds(payloads)[:2] == ["tick", "outcome"]
    assert outcome_of(payloads).approvals == ("alice",)
    book.later(5_000)
    assert book.state.params["quota.newcomer"] == 30


def test_without_one_it_lapses_whatever_the_votes_say() -> None:
    book = Book()
    cid = book.propose(ADA, QUOTA)
    book.vote(cid, ALL)
    book.later(10_000)
    outcome = outcome_of(book.later(10_000))
    assert not outcome.accepted
    assert outcome.reason == "not-approved"
    assert outcome.yes == 4000


def test_an_approval_does_not_replace_the_vote() -> None:
    book = Book()
    cid = book.propose(ADA, QUOTA)
    book.approve(cid, HUMAN)
    assert outcome_of(book.later(10_000)).reason == "no-quorum"


def test_a_critical_proposal_needs_two() -> None:
    book = Book()
    cid = book.propose(ADA, VOTING)
    book.vote(cid, ALL)
    book.approve(cid, HUMAN)
    assert kinds(book.later(10_000)) == ["tick"]
    book.approve(cid, OTHER_HUMAN)
    assert outcome_of(book.later(1_000)).accepted


def test_approvals_that_do_not_count() -> None:
    book = Book()
    cid, low = book.propose(ADA, QUOTA), book.propose(ADA, UPLOAD)
    with pytest.raises(NotAHumanKeyError):
        book.approve(cid, ADA)
    for signed in (
        approve(book.state.realm, cid, HUMAN.key, OTHER_HUMAN.sign),
        approve(
            Book(genesis(network="elsewhere"), "elsewhere").state.realm, cid, HUMAN.key, HUMAN.sign
        ),
        msgspec.structs.replace(
            approve(book.state.realm, low, HUMAN.key, HUMAN.sign), proposal=cid
        ),
    ):
        with pytest.raises(BadSignatureError):
            book.add(encode_entry(signed))
    with pytest.raises(NotOpenError):
        book.approve(low, HUMAN)
    with pytest.raises(NotOpenError):
        book.approve(LINK, HUMAN)
    book.approve(cid, HUMAN)
    with pytest.raises(ReplayedError):
        book.approve(cid, HUMAN)
    book.vote(cid, {ADA: NO, BEN: NO, CLEO: NO})
    late = encode_entry(approve(book.state.realm, cid, OTHER_HUMAN.key, OTHER_HUMAN.sign))
    book.later(10_000)
    with pytest.raises(NotOpenError):
        book.state.check_waiting(late, verify)


def test_approvals_and_verdicts_come_before_the_proposal_lapses() -> None:
    book = Book()
    cid = book.propose(ADA, QUOTA, depends_on=(LINK,))
    book.vote(cid, ALL)
    book.later(10_000)
    tick = book.state.tick(book.state.time + 10_000)
    assert tick is not None
    early = book.state.copy()
    book.add(tick)
    for data in (
        encode_entry(approve(book.state.realm, cid, HUMAN.key, HUMAN.sign)),
        book.submission(BEN, verdict(cid)),
    ):
        early.apply(data, verify)
        with pytest.raises(NotOpenError):
            book.add(data)


def _ratify(book: Book, change: Change, *humans: Person) -> None:
    cid = book.propose(ADA, change)
    book.vote(cid, ALL)
    for human in humans:
        book.approve(cid, human)
    book.later(10_000)
    book.later(5_000)


def test_a_human_key_that_was_ratified_counts() -> None:
    book = Book()
    _ratify(book, ADD_KEY, HUMAN, OTHER_HUMAN)
    assert book.state.humans["carol"] == NEW_KEY.key
    assert any(isinstance(decode_entry(each).entry, HumanKeyEntry) for each in book.payloads[1:])
    _ratify(book, QUOTA, NEW_KEY)
    assert book.state.params["quota.newcomer"] == 30


def test_a_human_key_that_was_removed_does_not_count() -> None:
    book = Book()
    _ratify(book, HumanKeyChange(action="remove", name="alice", key=HUMAN.key), HUMAN, OTHER_HUMAN)
    assert list(book.state.humans) == ["bob"]
    cid = book.propose(ADA, QUOTA)
    with pytest.raises(NotAHumanKeyError):
        book.approve(cid, HUMAN)


def test_an_approval_by_a_key_that_is_removed_before_the_outcome_is_not_counted() -> None:
    book = Book()
    cid = book.propose(ADA, QUOTA)
    book.vote(cid, ALL)
    book.approve(cid, HUMAN)
    book.state.humans = {"bob": OTHER_HUMAN.key}
    assert kinds(book.later(10_000)) == ["tick"]
    assert outcome_of(book.later(10_000)).reason == "not-approved"


def test_a_network_without_human_keys_cannot_do_what_is_risky() -> None:
    book = Book()
    book.state.humans = {}
    cid = book.propose(ADA, QUOTA)
    assert book.state.open[cid].terms.approvals == 1
    book.vote(cid, ALL)
    book.later(20_000)
    assert not book.state.closed.get(cid).accepted  # type: ignore[union-attr]


# -- verdicts ----------------------------------------------------------------------------------


def verdict(cid: bytes, holds: bool = True) -> Verdict:
    return Verdict(proposal=cid, claim="fetchable", holds=holds)


def test_what_is_linked_must_be_fetchable_for_a_majority_of_the_members() -> None:
    book = Book()
    cid = book.propose(ADA, depends_on=(LINK,))
    book.vote(cid, ALL)
    for member in (BEN, CLEO):
        book.submit(member, verdict(cid))
    assert kinds(book.later(10_000)) == ["tick"]
    book.submit(DAN, verdict(cid))
    outcome = outcome_of(book.later(1_000))
    assert outcome.accepted
    assert outcome.fetchable == (3, 0)


def test_an_artefact_that_cannot_be_fetched() -> None:
    book = Book()
    cid = book.propose(ADA, AdoptionChange(what="adapter", manifest=LINK))
    book.vote(cid, ALL)
    for member in (BEN, CLEO, DAN):
        book.submit(member, verdict(cid, holds=False))
    outcome = outcome_of(book.later(10_000))
    assert outcome.reason == "not-fetchable"
    assert outcome.fetchable == (0, 3)


def test_without_verdicts_it_lapses() -> None:
    book = Book()
    book.vote(book.propose(ADA, depends_on=(LINK,)), ALL)
    book.later(10_000)
    assert outcome_of(book.later(10_000)).reason == "not-fetchable"


def test_verdicts_that_do_not_count() -> None:
    book = Book()
    cid, plain = book.propose(ADA, depends_on=(LINK,)), book.propose(ADA)
    with pytest.raises(NotAMemberError):
        book.submit(STRANGER, verdict(cid))
    with pytest.raises(NotOpenError):
        book.submit(BEN, verdict(plain))
    with pytest.raises(NotOpenError):
        book.submit(BEN, verdict(LINK))
    book.submit(BEN, verdict(cid))
    with pytest.raises(ReplayedError):
        book.submit(BEN, verdict(cid, holds=False))


# -- what a leader cannot make up ----------------------------------------------------------------


def test_outcomes_and_parameters_are_what_the_ledger_says_or_refused() -> None:
    book = Book()
    cid = book.propose(ADA, UPLOAD)
    book.vote(cid, {ADA: YES, BEN: YES, CLEO: NO})
    settings = (Setting("limits.upload", 1000),)
    early = ParameterEntry(proposal=cid, settings=settings)
    book.add(book.state.tick(book.state.time + 9_000))  # type: ignore[arg-type]
    ready = Outcome(
        proposal=cid, accepted=True, reason="accepted", yes=2000, no=1000, abstain=0,
        weight=4000, voters=3, fetchable=(0, 0), approvals=(), interval=NO_INTERVAL,
    )  # fmt: skip
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(ready))
    book.add(book.state.tick(book.state.time + 1_000))  # type: ignore[arg-type]
    for field, value in {
        "accepted": False, "reason": "rejected", "yes": 2001, "no": 0, "abstain": 1,
        "weight": 3000, "voters": 4, "fetchable": (3, 0), "approvals": ("alice",),
    }.items():  # fmt: skip
        with pytest.raises(UnprovenError):
            book.add(encode_entry(msgspec.structs.replace(ready, **{field: value})))
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(early))
    book.add(encode_entry(ready))
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(ready))
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(early))
    book.add(book.state.tick(book.state.time + 5_000))  # type: ignore[arg-type]
    for wrong in (
        msgspec.structs.replace(early, settings=(Setting("limits.upload", 1001),)),
        msgspec.structs.replace(early, proposal=LINK),
    ):
        with pytest.raises(UnprovenError):
            book.add(encode_entry(wrong))
    book.add(encode_entry(early))


def test_sizes() -> None:
    book = Book()
    with pytest.raises((MalformedEntryError, EntryTooLargeError)):
        book.submit(ADA, Proposal(manifest=bytes(33_000)))
