"""The rollout of an accepted upgrade on the ledger: stages, reports, the way on and back."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.changes import NATIVE, CallLimits
from protocols.ledger.entries import (
    StageEntry,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import (
    InvalidEntryError,
    TooEarlyError,
    UnprovenError,
)
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import (
    FULL,
    MAX_FORMER,
    REFERENCE,
    is_heard,
    place,
)
from protocols.ledger.upgrades import rollout_of
from tests.ledger_book import MEMBERS, STRANGER, Book, verify
from tests.test_ledger_proposals import kinds
from tests.upgrade_book import (
    SLOT,
    STAGE,
    accept,
    begin,
    change,
    digest,
    heard,
    network,
    report,
    reputed,
    rollout,
    stage,
    stages,
    way_back,
)

ADA, BEN, CLEO, DAN = MEMBERS
GOOD, BAD = 50_000, -50_000


def go(book: Book, gain: int = GOOD, slot: str = SLOT) -> StageEntry:
    """Everybody reports that gain until the rollout ends; the entry that ended it."""
    people = reputed(len(book.state.reputation))
    while book.state.slot(slot).rollout is not None:
        entry = next(e for e in stage(book, dict.fromkeys(people, gain), slot) if e.slot == slot)
    return entry


def replayed(book: Book) -> LedgerState:
    """The book's entries, read again; and what of them is saved."""
    again = LedgerState.from_genesis(book.state.network, book.payloads[0])
    for payload in book.payloads[1:]:
        again.apply(payload, verify)
    assert again.digest() == book.state.digest()
    assert LedgerState.decode(again.encode()).digest() == again.digest()
    return again


# -- the way on ----------------------------------------------------------------------------------


def test_an_upgrade_goes_through_all_stages_and_settles() -> None:
    book = network(30)
    people = reputed(30)
    wanted = change(book)
    assert book.state.slots == {}
    cid = begin(book, wanted)
    seen, sizes = [rollout(book).permille], [rollout(book).expected]
    assert book.state.slot(SLOT).current == REFERENCE
    while book.state.slot(SLOT).rollout is not None:
        replayed(book)
        (entry,) = stage(book, dict.fromkeys(people, GOOD))
        if entry.event == "open":
            seen.append(rollout(book).permille)
            sizes.append(rollout(book).expected)
    assert (seen, sizes) == ([0, 100, 500, 1000], [3, 3, 15, 30])
    assert (entry.event, entry.reason, entry.low, entry.high) == ("settle", "no-worse", GOOD, GOOD)
    slot = book.state.slot(SLOT)
    assert (slot.current.number, slot.current.module, slot.highest) == (1, wanted.module, 1)
    assert (slot.current.limits, slot.current.manifest) == (wanted.limits, wanted.manifest)
    assert slot.current.proposal == cid
    assert slot.former == (REFERENCE,)
    # B19: what was measured before and after stays to be read.
    assert slot.ended is not None
    figures = [(each.permille, each.reports, each.low, each.traps) for each in slot.ended.stages]
    assert figures == [(0, 3, 0, 0), (100, 3, GOOD, 0), (500, 15, GOOD, 0), (1000, 30, GOOD, 0)]
    replayed(book)


def test_its_author_is_paid_when_it_settles_and_not_before() -> None:
    book = network()
    begin(book, change(book))
    before = dict(book.state.credits)
    while book.state.slot(SLOT).rollout is not None:
        assert book.state.credits == before
        for who in heard(book, MEMBERS):
            book.submit(who, report(book))
        payloads = book.later(STAGE)
    assert kinds(payloads)[-3:] == ["stage", "credit", "reputation"]
    assert book.state.credits[ADA.identity] - before.get(ADA.identity, 0) == 200


def test_of_an_upgrade_that_is_undone_nobody_earns() -> None:
    book = network()
    begin(book, change(book))
    before = dict(book.state.credits)
    assert go(book, BAD).event == "rollback"
    assert book.state.credits == before


def test_three_upgrades_one_after_the_other() -> None:
    book = network()
    modules = [NATIVE]
    for number in range(1, MAX_FORMER + 3):
        wanted = change(book, f"module {number}")
        assert (wanted.version, wanted.previous) == (number, modules[-1])
        begin(book, wanted, f"upgrade {number}")
        assert go(book).event == "settle"
        modules.append(wanted.module)
    slot = book.state.slot(SLOT)
    assert [each.module for each in slot.former] == modules[-1 - MAX_FORMER : -1]
    assert (slot.current.module, slot.highest) == (modules[-1], len(modules) - 1)
    replayed(book)


def test_slots_go_their_own_ways() -> None:
    book = network()
    cid = accept(book, change(book, "one"), "one")
    other = accept(book, change(book, "two", slot="peer_scoring"), "two")
    book.later(1_000)
    for who in heard(book, MEMBERS):
        book.submit(who, report(book))
    entries = stages(book.later(STAGE))
    assert [(each.slot, each.event) for each in entries] == [(SLOT, "open")]
    assert rollout(book).proposal == cid
    assert rollout(book, "peer_scoring").proposal == other
    assert rollout(book, "peer_scoring").permille == 0
    assert go(book).event == "settle"
    ended = book.state.slot("peer_scoring").ended
    assert ended is not None
    assert (ended.event, ended.reason) == ("rollback", "undecided")
    assert book.state.slot("adapter_ranking").highest == 0
    replayed(book)


# -- the way back --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [100, 500, 1000])
def test_a_regression_is_undone_in_any_stage(at: int) -> None:
    """Also what behaves until everybody runs it: the probation still measures."""
    book = network(30)
    wanted = change(book)
    begin(book, wanted)
    people = reputed(30)
    while rollout(book).permille < at:
        stage(book, dict.fromkeys(people, GOOD))
    assert rollout(book).permille == at
    (entry,) = stage(book, dict.fromkeys(people, BAD))
    assert (entry.event, entry.reason, entry.version) == ("rollback", "worse", 2)
    assert (entry.low, entry.high) == (BAD, BAD)
    slot = book.state.slot(SLOT)
    # A new, higher number for the old bytes: whoever has seen 1 takes nothing lower for newer.
    assert (slot.current.number, slot.current.module, slot.highest) == (2, NATIVE, 2)
    assert (slot.rollout, slot.former) == (None, ())
    assert change(book).version == 3
    replayed(book)


def test_after_a_rollback_the_bytes_before_are_in_force_again() -> None:
    book = network()
    first = change(book, "first")
    begin(book, first, "first")
    go(book)
    begin(book, change(book, "second"), "second")
    assert go(book, BAD).event == "rollback"
    current = book.state.slot(SLOT).current
    assert (current.number, current.module, current.limits) == (3, first.module, first.limits)
    assert current.manifest == first.manifest


def test_a_vote_leads_back_at_once_to_what_was_in_force_before_and_to_the_reference() -> None:
    """Nobody measures it: by the goal that it is good at, a harmful module would stay."""
    book = network()
    first = change(book, "first")
    begin(book, first, "first")
    go(book)
    begin(book, change(book, "second"), "second")
    go(book)
    back = change(book, "first", source=first.source)
    assert (back.version, back.module) == (3, first.module)
    assert settled(book, accept(book, back, "back")) == (3, first.module)
    cid = accept(book, way_back(book), "native")  # without verdicts
    assert settled(book, cid) == (4, NATIVE)
    replayed(book)


def test_what_was_voted_out_is_no_way_back_and_answers_for_nothing_that_fails() -> None:
    book = network()
    first = change(book, "first")
    begin(book, first, "first")
    go(book)
    begin(book, change(book, "harmful"), "harmful")
    go(book)
    settled(book, accept(book, change(book, "first", source=first.source), "back"))
    assert [each.module for each in book.state.slot(SLOT).former] == [NATIVE]
    begin(book, change(book, "harmful"), "once more")
    assert rollout(book).permille == 0
    replayed(book)


def test_other_limits_for_former_bytes_go_through_the_stages() -> None:
    book = network()
    first = change(book, "first")
    begin(book, first, "first")
    go(book)
    begin(book, change(book, "second"), "second")
    go(book)
    begin(book, change(book, "first", limits=CallLimits(2_000_000, 1_000, 16)), "not quite back")


def settled(book: Book, cid: bytes) -> tuple[int, bytes]:
    """What is in force when an accepted change's time has come, without any stage."""
    (entry,) = stages(book.later(book.state.params["execute.delay_ms"]))
    assert (entry.proposal, entry.event, entry.permille, entry.reason) == (
        cid, "settle", 1000, "accepted",
    )  # fmt: skip
    slot = book.state.slot(SLOT)
    assert (slot.rollout, slot.highest) == (None, entry.version)
    return slot.current.number, slot.current.module


def test_more_failures_than_liars_end_it_at_once() -> None:
    book = network(30)
    begin(book, change(book))
    people = reputed(30)
    for _ in range(2):
        stage(book, dict.fromkeys(people, GOOD))
    assert (rollout(book).permille, rollout(book).expected) == (500, 15)
    running = heard(book, people)
    for who in running[:4]:
        book.submit(who, report(book, status="failed"))
    book.submit(running[4], report(book, traps=1))
    assert not book.state.due()
    book.submit(running[5], report(book, traps=100))
    (payload,) = book.state.due()
    entry = decode_entry(payload).entry
    assert isinstance(entry, StageEntry)
    assert (entry.event, entry.reason, entry.traps) == ("rollback", "failing", 6)
    assert book.state.owed(book.state.time) == payload
    book.add(payload)
    assert book.state.slot(SLOT).rollout is None


def test_failures_outside_of_the_cohort_are_seen_and_decide_nothing() -> None:
    book = network(30)
    begin(book, change(book))
    outside = [who for who in reputed(30) if not is_heard(rollout(book), who.identity)]
    for who in outside:
        book.submit(who, report(book, status="failed"))
    assert not book.state.due()
    assert len(rollout(book).others) == len(outside) == 27


def test_a_module_that_never_arrives_is_given_up() -> None:
    book = network()
    begin(book, change(book))
    assert not stages(book.later(3 * STAGE - 1))
    (entry,) = stages(book.later(100))
    assert (entry.event, entry.reason, entry.reports) == ("rollback", "undecided", 0)
    assert book.state.slot(SLOT).current.native


def test_what_nobody_can_tell_apart_for_long_is_given_up() -> None:
    book = network(4)
    begin(book, change(book))
    stage(book, dict.fromkeys(MEMBERS, GOOD))
    # Two of the three are much worse off, and one is better.
    unsure = dict(zip(heard(book, MEMBERS), (GOOD, BAD, BAD), strict=True))
    assert stage(book, unsure) == []
    assert stages(book.later(STAGE)) == []
    (entry,) = stages(book.later(STAGE))
    assert (entry.event, entry.reason) == ("rollback", "undecided")
    assert (entry.low, entry.high) == (BAD, GOOD)


def test_a_late_report_moves_it_on_without_waiting_for_another_stage() -> None:
    book = network()
    begin(book, change(book))
    running = heard(book, MEMBERS)
    book.submit(running[0], report(book))
    assert not stages(book.later(STAGE + 500))
    book.submit(running[1], report(book))
    assert kinds(book.later(0)) == ["stage"]


def test_the_last_report_of_each_counts() -> None:
    book = network()
    begin(book, change(book))
    stage(book, dict.fromkeys(MEMBERS, GOOD))
    for who in heard(book, MEMBERS):
        book.submit(who, report(book, gain=BAD))
    assert stage(book, dict.fromkeys(MEMBERS, GOOD))[0].event == "open"


# -- what the leader has no say in ---------------------------------------------------------------

LIES: list[dict[str, Any]] = [
    {"permille": 500},
    {"permille": 1000, "event": "settle"},
    {"event": "rollback", "permille": FULL, "version": 2, "reason": "failing"},
    {"version": 2},
    {"slot": "peer_scoring"},
    {"reason": "no-worse"},
    {"low": 1},
    {"high": -1},
    {"reports": 99},
    {"traps": 1},
    {"event": "lapse", "reason": "expired"},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_stage_is_what_the_ledger_says(lie: dict[str, Any]) -> None:
    book = network()
    begin(book, change(book))
    for who in heard(book, MEMBERS):
        book.submit(who, report(book))
    due = encode_entry(
        StageEntry(
            slot=SLOT, version=1, proposal=rollout(book).proposal, permille=100, event="open",
            reason="ready", low=0, high=0, reports=3, traps=0,
        )
    )  # fmt: skip
    with pytest.raises(TooEarlyError):  # before its time
        book.add(due)
    tick = book.state.tick(book.state.time + STAGE)
    assert tick is not None
    book.add(tick)
    assert book.state.due() == [due]
    entry = decode_entry(due).entry
    with pytest.raises(UnprovenError):
        book.add(encode_entry(msgspec.structs.replace(entry, **lie)))
    book.add(due)
    with pytest.raises(TooEarlyError):  # twice
        book.add(due)


def test_an_epoch_does_not_end_before_a_stage_that_is_due() -> None:
    book = network(council__epoch_ms=4 * STAGE + 2_000)
    begin(book, change(book))
    payloads = book.later(4 * STAGE)
    assert kinds(payloads)[-2:] == ["stage", "epoch"]
    book = network(council__epoch_ms=2 * STAGE + 2_000)
    begin(book, change(book))
    epoch, beacon = book.state.epoch, rollout(book).beacon
    people = dict.fromkeys(MEMBERS, GOOD)
    while book.state.epoch == epoch:
        stage(book, people)
    # The order is drawn once: a stage's cohort holds the one before, whatever the epoch's beacon.
    assert rollout(book).beacon == beacon != book.state.council.beacon


def test_a_waiting_upgrade_and_an_ending_rollout_are_due_one_after_the_other() -> None:
    book = network()
    begin(book, change(book, "one"), "one")
    other = accept(book, change(book, "two", slot="peer_scoring"), "two")
    payloads = book.later(3 * STAGE)
    entries = stages(payloads)
    assert [(each.slot, each.event) for each in entries] == [
        ("peer_scoring", "open"), (SLOT, "rollback"),
    ]  # fmt: skip
    assert rollout(book, "peer_scoring").proposal == other
    assert rollout_of(book.state, other) == book.state.slot("peer_scoring")
    replayed(book)


# -- a walk --------------------------------------------------------------------------------------

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["report", "report", "report", "later", "later", "upgrade", "stranger"]),
        st.integers(0, 9),
        st.sampled_from([GOOD, BAD, -20_000, 0]),
    ),
    max_size=40,
)


def _act(book: Book, what: str, number: int, gain: int) -> None:
    who = reputed(10)[number]
    if what == "later":
        book.later(200 * number)
    elif what == "upgrade":
        begin(book, change(book, f"{number}"), f"{book.state.head.index}")
    elif what == "stranger" and book.state.slot(SLOT).rollout is not None:
        book.submit(STRANGER, report(book))
    elif what == "report" and book.state.slot(SLOT).rollout is not None:
        status = ("failed", "refused", None, None, None)[number // 2]
        book.submit(who, report(book, gain=gain, **({"status": status} if status else {})))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ACTS)
def test_whatever_comes_numbers_rise_and_one_version_is_in_force(
    acts: list[tuple[str, int, int]],
) -> None:
    book = network(10)
    begin(book, change(book))
    modules = {NATIVE}
    highest = 1
    for what, number, gain in acts:
        before = book.state.encode()
        try:
            _act(book, what, number, gain)
        except InvalidEntryError:
            if what != "upgrade":
                assert book.state.encode() == before
        slot = book.state.slot(SLOT)
        assert slot.highest >= highest
        assert slot.current.number <= slot.highest
        if slot.rollout is not None:
            assert slot.rollout.candidate.number == slot.highest > slot.current.number
            assert slot.rollout.candidate.module != slot.current.module
            assert len(slot.rollout.reports) <= 10
        highest = slot.highest
        modules.add(slot.current.module)
    with contextlib.suppress(InvalidEntryError):
        book.later(10 * STAGE)
    replayed(book)


def test_places_are_63_bits_and_differ() -> None:
    found = [place(b"beacon", b"proposal", digest(f"{n}")) for n in range(1_000)]
    assert len(set(found)) == 1_000
    assert max(found) < 1 << 63
