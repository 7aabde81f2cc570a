"""Trainings in a ledger for tests: the shortest way from a change to a ratified checkpoint."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from protocols.changes import CheckpointChange, Share, TrainingChange
from protocols.cid import cid_of
from protocols.ledger.entries import NO_INTERVAL, YES, Interval, Outcome, Verdict, decode_entry
from protocols.plan import Phase, Plan
from tests.ledger_book import MEMBERS, Book, Person, genesis

PARAMS = {
    "vote.window_ms": 1_000,
    "approval.window_ms": 20_000,
    "execute.delay_ms": 1_000,
    "council.tick_ms": 100,
    "council.epoch_ms": 8_000,
    "work.bits": 0,
}
EPOCH = PARAMS["council.epoch_ms"]
MARGIN = 1000
MODEL = cid_of(b"the model that it begins with")
EVALUATION = cid_of(b"text that nobody trains on")
PLAN = Plan(
    phases=(Phase(1, 1, "int8", "int8"), Phase(10, 15, "two-bit", "two-bit")),
    group_bytes=1 << 20,
    batch=8,
    context=64,
    rate=3000,
    decay=100,
    outer_rate=700,
    outer_momentum=500,
    learners=2,
    patience_ms=5000,
)
BETTER, WORSE, EQUAL = (
    Interval(2_000, 5_000, 8_000),
    Interval(-8_000, -5_000, -2_000),
    Interval(-3_000, 0, 3_000),
)


def network(members: Iterable[Person] = MEMBERS, **params: int) -> Book:
    """A ledger with short epochs."""
    given = {name.replace("__", "."): value for name, value in params.items()}
    return Book(genesis(members, parameters=PARAMS | given))


def training(**fields: Any) -> TrainingChange:
    plain: dict[str, Any] = {
        "model": MODEL,
        "plan": PLAN,
        "evaluation": EVALUATION,
        "windows": 64,
        "margin": MARGIN,
    }
    return TrainingChange(**plain | fields)


def checkpoint(book: Book, text: str = "better", **fields: Any) -> CheckpointChange:
    """A child of the head, named by its text."""
    head = book.state.head_of(MODEL)
    plain: dict[str, Any] = {
        "training": MODEL,
        "parent": head,
        "manifest": cid_of(text.encode()),
        "evidence": cid_of(f"rounds of {text}".encode()),
        "heads": hashlib.sha256(text.encode()).digest(),
        "shares": (),
    }
    return CheckpointChange(**plain | fields)


def shares(parts: Mapping[Person, int]) -> tuple[Share, ...]:
    return tuple(sorted((Share(who.identity, part) for who, part in parts.items()), key=_who))


def _who(share: Share) -> bytes:
    return share.identity


def voted(
    book: Book,
    what: TrainingChange | CheckpointChange,
    title: str = "learn",
    voters: Iterable[Person] = MEMBERS,
    author: Person = MEMBERS[0],
) -> bytes:
    """Its proposal, with everybody's yes."""
    cid = book.propose(author, what, title=title)
    book.vote(cid, dict.fromkeys(voters, YES))
    return cid


def opened(book: Book, title: str = "train it", **fields: Any) -> bytes:
    """A training that is accepted."""
    cid = voted(book, training(**fields), title)
    for member in MEMBERS[: book.state.open[cid].terms.verdicts]:
        book.submit(member, Verdict(proposal=cid, claim="fetchable", holds=True))
    book.later(book.state.params["vote.window_ms"])
    assert book.state.closed.get(cid).accepted  # type: ignore[union-attr]
    return cid


def drawn(book: Book, cid: bytes) -> None:
    """Go on until a checkpoint's sample is drawn."""
    while book.state.epoch < book.state.open[cid].terms.drawn:
        book.later(EPOCH // 8)


def find(book: Book, cid: bytes, found: Mapping[Person, Interval], margin: int = MARGIN) -> None:
    """Members' verdicts: each says what it measured, and what follows."""
    for member, interval in found.items():
        holds = interval is not NO_INTERVAL and interval.low >= margin
        said = Verdict(proposal=cid, claim="improved", holds=holds, interval=interval)
        book.submit(member, said)


def ends(book: Book, milliseconds: int = 2_000) -> list[Outcome]:
    """The outcomes of the time that passes."""
    found = (decode_entry(each).entry for each in book.later(milliseconds))
    return [each for each in found if isinstance(each, Outcome)]


def judged(
    book: Book, what: CheckpointChange, found: Mapping[Person, Interval], title: str = "better"
) -> Outcome:
    """What becomes of a checkpoint that all vote for and these members measured."""
    cid = voted(book, what, title)
    drawn(book, cid)
    find(book, cid, found)
    (outcome,) = ends(book)
    return outcome
