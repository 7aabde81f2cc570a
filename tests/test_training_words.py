"""What people read of trainings and checkpoints on the ledger: events, and entries in a line."""

from typing import Any

from protocols.changes import Share
from protocols.cid import cid_text
from protocols.ledger.entries import Outcome, Submission, Verdict, decode_entry
from protocols.peerid import peer_id_text
from synapsed.control.entryview import entry_info
from tests.ledger_book import MEMBERS, Book
from tests.test_upgrade_words import Listener
from tests.training_book import (
    BETTER,
    EQUAL,
    MODEL,
    WORSE,
    checkpoint,
    drawn,
    ends,
    find,
    network,
    opened,
    voted,
)

ADA, BEN, CLEO, DAN = MEMBERS


class Hearing(Listener):
    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        """Events of trainings and checkpoints since the last time."""
        self.listen()
        return [each for each in self.told if each[0].startswith(("training.", "checkpoint."))]


def summaries(book: Book, since: int, kind: type) -> list[str]:
    found = []
    for index, payload in enumerate(book.payloads[since:], since):
        entry = decode_entry(payload).entry
        if isinstance(entry.body if isinstance(entry, Submission) else entry, kind):
            shown = entry_info(payload, index=index, epoch=1, chain=bytes(32), time_ms=0)
            found.append(shown.summary)
    return found


def test_the_events_of_a_training() -> None:
    book = network()
    listener = Hearing(book)
    cid = opened(book)
    ((kind, fields),) = listener.heard()
    assert kind == "training.opened"
    assert fields["model"] == cid_text(MODEL)
    assert fields["proposal"] == cid_text(cid)
    assert fields["index"] == book.state.trainings[MODEL].index
    wanted = checkpoint(book, shares=(Share(ADA.identity, 500),))
    cid = voted(book, wanted)
    drawn(book, cid)
    find(book, cid, {ADA: BETTER, BEN: BETTER, CLEO: EQUAL, DAN: BETTER})
    found = listener.heard()
    assert [kind for kind, _ in found] == ["checkpoint.judged"] * 4
    assert [(fields["peer"], fields["holds"]) for _, fields in found] == [
        (peer_id_text(who.identity), who is not CLEO) for who in MEMBERS
    ]
    assert (found[0][1]["low"], found[0][1]["mean"], found[0][1]["high"]) == (2000, 5000, 8000)
    (outcome,) = ends(book)
    assert outcome.accepted
    ((kind, fields),) = listener.heard()
    assert kind == "checkpoint.ratified"
    assert (fields["model"], fields["checkpoint"]) == (
        cid_text(MODEL), cid_text(wanted.manifest),
    )  # fmt: skip
    assert (fields["low"], fields["mean"], fields["high"]) == (2000, 5000, 8000)


def test_nothing_is_told_of_a_head_that_stays() -> None:
    book = network()
    opened(book)
    listener = Hearing(book)
    cid = voted(book, checkpoint(book))
    drawn(book, cid)
    find(book, cid, dict.fromkeys(MEMBERS, WORSE))
    ends(book)
    assert {kind for kind, _ in listener.heard()} == {"checkpoint.judged"}


def test_the_audit_trail_says_what_was_measured() -> None:
    book = network()
    opened(book)
    since = len(book.payloads)
    cid = voted(book, checkpoint(book))
    drawn(book, cid)
    find(book, cid, {ADA: BETTER, BEN: WORSE, CLEO: BETTER, DAN: BETTER})
    ends(book)
    named = cid_text(cid)[:16]
    gain = "better by +0.005000 nats (+0.002000 to +0.008000)"
    said = summaries(book, since, Verdict)
    assert said[0] == f"finds {named} improved, {gain}"
    assert said[1].startswith(f"finds {named} not improved, better by -0.005000 nats")
    (outcome,) = summaries(book, since, Outcome)
    assert outcome == f"{named} accepted: 4050 yes, 0 no of 4050, {gain}"
    payload = next(
        each for each in book.payloads[since:] if isinstance(decode_entry(each).entry, Outcome)
    )
    shown = entry_info(payload, index=1, epoch=1, chain=bytes(32), time_ms=0)
    assert shown.body["interval"] == {"low": 2000, "mean": 5000, "high": 8000}
