"""Upgrades in a ledger for tests: the shortest way from a change to its rollout's stages."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from protocols.changes import NATIVE, NO_LIMITS, CallLimits, UpgradeChange
from protocols.cid import cid_of
from protocols.ledger.entries import YES, Report, StageEntry, Verdict, decode_entry
from protocols.ledger.rollout import Filed, Rollout, is_heard
from tests.ledger_book import HUMAN, MEMBERS, Book, Person, genesis, people

SLOT = "eviction"
STAGE = 1_000
DAY = 24 * 3600 * 1000
PARAMS = {
    "upgrade.stage_ms": STAGE,
    "upgrade.pairs": 4,
    "upgrade.patience": 3,
    "vote.window_ms": 1_000,
    "approval.window_ms": 5_000,
    "execute.delay_ms": 1_000,
    "council.tick_ms": 100,
    "council.epoch_ms": 30 * DAY,
}
LIMITS = CallLimits(1_000_000, 1_000, 16)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def reputed(count: int) -> list[Person]:
    """So many with reputation in `network(count)`: the members, and others."""
    return [*MEMBERS, *people(*(f"reporter {n}" for n in range(count - len(MEMBERS))))]


def network(count: int = 4, **params: int) -> Book:
    """A ledger with so many reputed identities."""
    return Book(
        genesis(
            reputation={who.identity: 10 for who in reputed(count)[len(MEMBERS) :]},
            parameters=PARAMS | {k.replace("__", "."): value for k, value in params.items()},
        )
    )


def change(book: Book, text: str = "better", **fields: Any) -> UpgradeChange:
    """The successor of what is in force, of a module that is named by its text."""
    slot = book.state.slot(fields.get("slot", SLOT))
    plain: dict[str, Any] = {
        "slot": SLOT,
        "version": slot.highest + 1,
        "abi": 1,
        "module": digest(text),
        "size": 300,
        "limits": LIMITS,
        "source": digest(f"source of {text}"),
        "previous": slot.current.module,
        "expires": book.state.time + DAY,
        "manifest": cid_of(text.encode()),
        "risks": "",
        "benefits": "",
    }
    return UpgradeChange(**plain | fields)


def way_back(book: Book, **fields: Any) -> UpgradeChange:
    """To the daemon's own reference."""
    none: dict[str, Any] = {
        "module": NATIVE,
        "size": 0,
        "limits": NO_LIMITS,
        "source": NATIVE,
        "manifest": b"",
    }
    return change(book, **(none | fields))


def accept(book: Book, what: UpgradeChange, title: str = "an upgrade") -> bytes:
    """Its proposal, voted for and accepted: it waits for its time."""
    cid = book.propose(MEMBERS[0], what, title=title)
    book.vote(cid, dict.fromkeys(MEMBERS, YES))
    terms = book.state.open[cid].terms
    if terms.approvals:
        book.approve(cid, HUMAN)
    for member in MEMBERS[: terms.verdicts]:
        book.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
    book.later(book.state.params["vote.window_ms"])
    assert book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    return cid


def begin(book: Book, what: UpgradeChange, title: str = "an upgrade") -> bytes:
    """... and its rollout begun."""
    cid = accept(book, what, title)
    book.later(book.state.params["execute.delay_ms"])
    assert book.state.slot(what.slot).rollout is not None
    return cid


def rollout(book: Book, slot: str = SLOT) -> Rollout:
    found = book.state.slot(slot).rollout
    assert found is not None
    return found


def heard(book: Book, who: Iterable[Person], slot: str = SLOT) -> list[Person]:
    """Those whose reports count in the present stage."""
    return [each for each in who if is_heard(rollout(book, slot), each.identity)]


def report(book: Book, slot: str = SLOT, **fields: Any) -> Report:
    """What an honest daemon says in the present stage, or what `fields` make of it."""
    going_on = rollout(book, slot)
    plain: dict[str, Any] = {
        "proposal": going_on.proposal,
        "stage": going_on.permille,
        "status": "measured" if going_on.permille else "ready",
        "pairs": 10,
        "gain": 50_000,
        "calls": 100,
        "traps": 0,
        "disagreements": 0,
        "fuel": 1000,
    }
    return Report(**plain | fields)


def stage(book: Book, said: Mapping[Person, int], slot: str = SLOT) -> list[StageEntry]:
    """Reports of those of `said` that are heard, by their gain; then the stage's length; what
    came of it."""
    for who in heard(book, said, slot):
        book.submit(who, report(book, slot, gain=said[who]))
    return stages(book.later(STAGE))


def stages(payloads: Iterable[bytes]) -> list[StageEntry]:
    found = (decode_entry(each).entry for each in payloads)
    return [each for each in found if isinstance(each, StageEntry)]


def filing(*gains: int, **fields: Any) -> list[Filed]:
    """Reports of these gains, as the ledger keeps them."""
    plain: dict[str, Any] = {
        "status": "measured",
        "pairs": 10,
        "calls": 100,
        "traps": 0,
        "disagreements": 0,
        "fuel": 1000,
        "count": 1,
    }
    return [Filed(gain=each, **plain | fields) for each in gains]
