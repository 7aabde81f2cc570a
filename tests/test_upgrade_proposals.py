"""Upgrades as proposals: what may be replaced, by what, and what the record must say."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

import protocols
from protocols.changes import (
    MAX_FUEL,
    MAX_MODULE,
    MAX_PAGES,
    NATIVE,
    NO_LIMITS,
    BadChangeError,
    CallLimits,
    UpgradeChange,
    touched,
)
from protocols.cid import cid_of
from protocols.codec import decode, encode
from protocols.errors import MalformedError
from protocols.ledger.entries import NO, YES, Proposal, Verdict
from protocols.ledger.errors import (
    ClashError,
    ExpiredError,
    InvalidEntryError,
    MalformedEntryError,
    NotOpenError,
    ProtectedError,
    ReplayedError,
    TooEarlyError,
)
from protocols.ledger.possible import why
from protocols.ledger.upgrades import MAX_LIFE_MS
from protocols.ledger.voting import executable, kind_of, needs_verdicts
from protocols.manifest import ProposalManifest
from protocols.risk import HIGHEST_ABI, REPLACEABLE, Risk, protected
from protocols.slots.closed_list import SLOTS
from tests.ledger_book import MEMBERS, Book
from tests.test_ledger_proposals import kinds, outcome_of
from tests.upgrade_book import (
    DAY,
    SLOT,
    accept,
    begin,
    change,
    digest,
    network,
    reputed,
    stage,
    stages,
    way_back,
)

ADA, BEN, CLEO, DAN = MEMBERS
ALL = dict.fromkeys(MEMBERS, YES)


# -- what may be replaced ------------------------------------------------------------------------

HOME = Path(protocols.__file__).parent
OURS = sorted(".".join(path.relative_to(HOME).with_suffix("").parts) for path in HOME.rglob("*.py"))


@pytest.mark.parametrize(
    "name",
    ["raft_consensus", "validator_manager", "identity", "crypto", "council", "ed25519", "sha256",
     "noise", "beacon", "driver", "keys", "jail", "eviction.keys", "protocols.chain", "router",
     *(name for name in OURS if not name.endswith("__init__"))],
)  # fmt: skip
def test_consensus_identity_cryptography_and_council_are_never_replaced(name: str) -> None:
    assert protected(name)
    book = network()
    with pytest.raises(ProtectedError):
        book.propose(ADA, change(book, slot=name))


def test_what_the_ledger_lets_replace_are_the_daemons_slots() -> None:
    assert {name: slot.risk for name, slot in SLOTS.items()} == REPLACEABLE
    assert {name: slot.abi for name, slot in SLOTS.items()} == HIGHEST_ABI


@pytest.mark.parametrize("name", sorted(REPLACEABLE))
def test_an_upgrade_is_as_risky_as_its_slot(name: str) -> None:
    book = network()
    wanted = change(book, slot=name)
    terms = book.state.open[book.propose(ADA, wanted)].terms
    assert terms.risk is REPLACEABLE[name] is SLOTS[name].risk
    assert terms.risk in (Risk.MEDIUM, Risk.HIGH)
    assert (terms.verdicts, terms.claim) == (3, "sound")
    assert name in why(wanted)
    assert kind_of(wanted) == "upgrade"
    assert executable(wanted)


# -- its form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"risks": "\x1b[2J"},
        {"benefits": "\u202egood"},
        {"size": 0},
        {"limits": CallLimits(0, 1, 1)},
        {"limits": CallLimits(1, 1, 0)},
        {"source": NATIVE},
        {"manifest": b""},
        {"manifest": bytes(36)},
        {"module": digest("same"), "previous": digest("same")},
        {"module": NATIVE, "previous": digest("old")},
        {"module": NATIVE, "previous": NATIVE, "size": 0, "limits": NO_LIMITS, "source": NATIVE,
         "manifest": b""},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    good = change(network())
    with pytest.raises(BadChangeError):
        msgspec.structs.replace(good, **fields)
    # ... and so are its bytes.
    plain = msgspec.to_builtins(good, builtin_types=(bytes,)) | msgspec.to_builtins(
        fields, builtin_types=(bytes,)
    )
    with pytest.raises(MalformedError):
        decode(encode(plain), UpgradeChange)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": MAX_MODULE + 1},
        {"size": -1},
        {"version": 0},
        {"version": 1 << 31},
        {"abi": 0},
        {"module": bytes(31)},
        {"source": bytes(33)},
        {"limits": [MAX_FUEL + 1, 1, 1]},
        {"limits": [1, 1, MAX_PAGES + 1]},
        {"limits": [1, -1, 1]},
        {"slot": "Eviction"},
        {"slot": "e" * 65},
        {"expires": 1 << 53},
        {"risks": "x" * 2049},
        {"surprise": 1},
    ],
    ids=str,
)
def test_the_record_is_bounded(fields: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(change(network()), builtin_types=(bytes,))
    assert decode(encode(plain), UpgradeChange) == msgspec.convert(
        plain, UpgradeChange, builtin_types=(bytes,)
    )
    with pytest.raises(MalformedError):
        decode(encode(plain | fields), UpgradeChange)


def test_a_proposal_that_is_malformed_is_its_authors_lie() -> None:
    book = network()
    manifest = bytearray(book.manifest(ADA, change(book)))
    at = manifest.index(b"dsize") + 5
    manifest[at : at + 3] = b"\x19\x00\x00"
    with pytest.raises(MalformedEntryError):
        book.submit(ADA, Proposal(manifest=bytes(manifest)))


def test_limits_grow_with_the_rows() -> None:
    assert CallLimits(1_000, 20, 1).fuel_of(50) == 2_000


def test_what_an_upgrade_touches_is_its_manifest_and_a_way_back_touches_nothing() -> None:
    book = network()
    upgrade = change(book)
    assert touched(upgrade) == (upgrade.manifest,)
    back = way_back(book, previous=digest("old"))
    assert touched(back) == ()
    assert back.native
    text = ProposalManifest(
        title="t", description="", author=ADA.identity, depends_on=(), change=back
    )
    assert not needs_verdicts(text)


# -- when it may be proposed ---------------------------------------------------------------------


def settled(book: Book, text: str = "first") -> UpgradeChange:
    """After a whole rollout of that module."""
    first = change(book, text)
    begin(book, first, text)
    while book.state.slot(SLOT).rollout is not None:
        stage(book, dict.fromkeys(reputed(len(book.state.reputation)), 0))
    assert book.state.slot(SLOT).current.module == first.module
    return first


def refused(book: Book, error: type[InvalidEntryError], words: str, **fields: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        book.propose(ADA, change(book, "next", **fields))
    assert caught.value.remedy


def test_the_version_is_the_highest_ones_successor() -> None:
    """Rollback and fast-forward: no number twice, and none left out."""
    book = network()
    refused(book, TooEarlyError, "highest is 0", version=2)
    refused(book, TooEarlyError, "highest is 0", version=(1 << 31) - 1)
    settled(book)
    refused(book, ReplayedError, "has had a version 1", version=1)
    refused(book, TooEarlyError, "highest is 1", version=3)
    book.propose(ADA, change(book, "next", version=2))


def test_it_names_what_it_replaces() -> None:
    book = network()
    refused(book, ClashError, "not in force", previous=digest("something else"))
    first = settled(book)
    refused(book, ClashError, first.module.hex()[:8] + "|not in force", previous=NATIVE)


def test_it_expires_soon_enough() -> None:
    book = network()
    now = book.state.time
    refused(book, ExpiredError, "expired", expires=now)
    refused(book, TooEarlyError, "90 days", expires=now + MAX_LIFE_MS + 1)
    book.propose(ADA, change(book, "next", expires=now + MAX_LIFE_MS))


def test_it_is_for_a_layout_that_the_slot_has_had() -> None:
    book = network()
    refused(book, ClashError, "no ABI", abi=HIGHEST_ABI[SLOT] + 1)


def test_none_is_proposed_while_another_is_on_its_way() -> None:
    book = network()
    accept(book, change(book))
    refused(book, ClashError, "about to begin")
    # Other slots have their own.
    book.propose(ADA, change(book, slot="peer_scoring"))
    book.later(1_000)
    assert book.state.slot(SLOT).rollout is not None
    refused(book, ClashError, "being upgraded", version=2)


# -- how it is decided ---------------------------------------------------------------------------


def test_verdicts_say_that_it_is_sound_and_nothing_less() -> None:
    book = network()
    cid = book.propose(ADA, change(book))
    about = book.propose(ADA, title="words", depends_on=(cid_of(b"a model"),))
    with pytest.raises(NotOpenError, match="sound"):
        book.submit(BEN, Verdict(proposal=cid, claim="fetchable", holds=True))
    with pytest.raises(NotOpenError, match="fetchable"):
        book.submit(BEN, Verdict(proposal=about, claim="sound", holds=True))
    book.submit(BEN, Verdict(proposal=cid, claim="sound", holds=True))


@pytest.mark.parametrize(("holds", "fails"), [(0, 3), (1, 3), (2, 1), (0, 0)])
def test_what_no_majority_finds_sound_is_unsound(holds: int, fails: int) -> None:
    book = network()
    cid = book.propose(ADA, change(book))
    book.vote(cid, ALL)
    for number, member in enumerate(MEMBERS[: holds + fails]):
        book.submit(member, Verdict(proposal=cid, claim="sound", holds=number < holds))
    outcome = outcome_of(book.later(7_000))
    assert (outcome.accepted, outcome.reason, outcome.fetchable) == (
        False,
        "unsound",
        (holds, fails),
    )
    assert book.state.slots == {}
    assert not book.state.executions


def test_the_first_of_competing_proposals_makes_the_others_impossible() -> None:
    book = network()
    cids = [book.propose(who, change(book, who.name), title=who.name) for who in MEMBERS]
    for cid in cids:
        book.vote(cid, ALL)
        for member in (BEN, CLEO, DAN):
            book.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
    payloads = book.later(1_000)
    closed = [book.state.closed.get(cid) for cid in cids]
    assert sorted(each.reason for each in closed if each) == ["accepted"] + 3 * ["impossible"]
    assert kinds(payloads).count("outcome") == 4
    assert len(book.state.executions) == 1
    book.later(1_000)
    slot = book.state.slot(SLOT)
    assert slot.rollout is not None
    (winner,) = [cid for cid in cids if (found := book.state.closed.get(cid)) and found.accepted]
    assert slot.rollout.proposal == winner


def test_a_competitor_that_closes_during_the_rollout_or_after_it_is_impossible() -> None:
    for stage_ms in (5_000, 50):
        book = network(
            vote__window_ms=1_000, execute__delay_ms=100, upgrade__stage_ms=stage_ms,
            upgrade__patience=1, council__tick_ms=20,
        )  # fmt: skip
        quick = book.propose(ADA, change(book, "quick"), title="quick")
        book.later(800)
        slow = book.propose(BEN, change(book, "slow"), title="slow")
        for cid in (quick, slow):
            book.vote(cid, ALL)
            for member in (BEN, CLEO, DAN):
                book.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
        book.later(200)
        book.later(100)
        assert book.state.slot(SLOT).rollout is not None
        book.later(500)
        assert (book.state.slot(SLOT).rollout is None) == (stage_ms == 50)
        book.later(500)
        ended = book.state.closed.get(slow)
        assert ended is not None
        assert (ended.accepted, ended.reason) == (False, "impossible")
        assert not book.state.executions


def test_an_upgrade_that_expires_during_the_vote_is_impossible() -> None:
    """Freeze: a record that is held back until it is stale puts nothing in force."""
    book = network()
    cid = book.propose(ADA, change(book, expires=book.state.time + 500))
    book.vote(cid, ALL)
    for member in (BEN, CLEO, DAN):
        book.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
    outcome = outcome_of(book.later(1_000))
    assert (outcome.accepted, outcome.reason) == (False, "impossible")


def test_an_upgrade_that_expires_before_its_rollout_lapses() -> None:
    """Freeze, after the outcome: the wait before it comes into force is part of its life."""
    book = network()
    accept(book, change(book, expires=book.state.time + 1_500))
    entries = stages(book.later(1_000))
    assert [(each.event, each.reason, each.version) for each in entries] == [
        ("lapse", "expired", 1)
    ]
    slot = book.state.slot(SLOT)
    assert (slot.rollout, slot.highest, slot.current.module) == (None, 0, NATIVE)
    assert slot.ended is not None
    assert not book.state.executions
    # The number was never used, and the slot is free.
    begin(book, change(book, "another"), "another")


def test_a_rejected_upgrade_touches_nothing() -> None:
    book = network()
    cid = book.propose(ADA, change(book, expires=book.state.time + DAY))
    book.vote(cid, dict.fromkeys(MEMBERS, NO))
    assert not outcome_of(book.later(1_000)).accepted
    assert book.state.slots == {}


def test_the_same_bytes_again_after_a_failure_are_another_version() -> None:
    book = network()
    first = change(book)
    begin(book, first)
    (entry,) = stages(book.later(3_000))
    assert (entry.event, entry.reason, entry.version) == ("rollback", "undecided", 2)
    with pytest.raises(ReplayedError):
        book.propose(ADA, first, title="once more")
    again = change(book)
    assert (again.version, again.module) == (3, first.module)
    begin(book, again, "once more")
