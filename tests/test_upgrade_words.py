"""What people read of upgrades on the ledger: events, and entries in a line and in full."""

from typing import Any

from protocols.cid import cid_text
from protocols.follow.chain import Advanced
from protocols.ledger.council import Certificate, Kind, Statement
from protocols.ledger.entries import decode_entry
from protocols.peerid import peer_id_text
from synapsed.control.entryview import entry_info
from synapsed.ledger.news import News
from tests.ledger_book import MEMBERS, Book
from tests.upgrade_book import (
    SLOT,
    STAGE,
    accept,
    begin,
    change,
    heard,
    network,
    report,
    rollout,
    stage,
)


class Listener:
    """What a daemon that follows the book tells."""

    def __init__(self, book: Book) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._book = book
        self._seen = len(book.payloads)
        self._news = News(MEMBERS[0].identity, book.state.copy(), self._emit)

    def _emit(self, kind: str, /, **fields: Any) -> None:
        self.told.append((kind, fields))

    def listen(self) -> list[tuple[str, dict[str, Any]]]:
        """Events of upgrades since the last time."""
        self.told.clear()
        head = self._book.state.head
        said = Statement(Kind.CERTIFICATE_ACK, self._book.state.epoch, 1, head.index, head.hash)
        payloads = self._book.payloads[self._seen :]
        news = Advanced(self._seen, payloads, Certificate(said, [], []))
        self._seen = len(self._book.payloads)
        self._news.advanced(news, self._book.state, None)
        return [(kind, fields) for kind, fields in self.told if kind.startswith("upgrade.")]


def test_the_events_of_a_rollout() -> None:
    book = network()
    listener = Listener(book)
    wanted = change(book)
    cid = accept(book, wanted)
    ((kind, fields),) = listener.listen()
    assert kind == "upgrade.accepted"
    assert (fields["slot"], fields["version"], fields["module"]) == (SLOT, 1, wanted.module.hex())
    assert fields["proposal"] == cid_text(cid)
    assert fields["begins"] == book.state.executions[0].due_at / 1000
    book.later(1_000)
    ((kind, fields),) = listener.listen()
    assert (kind, fields["permille"], fields["reason"]) == ("upgrade.stage", 0, "accepted")
    assert fields["index"] == rollout(book).index
    who = heard(book, MEMBERS)
    book.submit(who[0], report(book))
    book.submit(who[1], report(book, status="refused"))
    found = listener.listen()
    assert [kind for kind, _ in found] == ["upgrade.reported", "upgrade.refused"]
    assert [fields["peer"] for _, fields in found] == [peer_id_text(w.identity) for w in who[:2]]
    assert found[0][1]["slot"] == SLOT
    assert found[0][1]["status"] == "ready"
    for each in who:
        book.submit(each, report(book, calls=200))
    while book.state.slot(SLOT).rollout is not None:
        stage(book, dict.fromkeys(MEMBERS, 40_000))
    found = [each for each in listener.listen() if each[0] != "upgrade.reported"]
    assert [(kind, fields["permille"]) for kind, fields in found] == [
        ("upgrade.stage", 100), ("upgrade.stage", 500), ("upgrade.stage", 1000),
        ("upgrade.settled", 1000),
    ]  # fmt: skip
    assert (found[-1][1]["low"], found[-1][1]["reports"]) == (40_000, 4)


def test_the_events_of_the_way_back_and_of_what_lapsed() -> None:
    book = network()
    listener = Listener(book)
    begin(book, change(book))
    book.later(3 * STAGE)
    kinds = [(kind, fields.get("version")) for kind, fields in listener.listen()]
    assert kinds[-2:] == [("upgrade.stage", 1), ("upgrade.rolled-back", 2)]
    accept(book, change(book, "late", expires=book.state.time + 1_500), "late")
    book.later(1_000)
    assert listener.listen()[-1][0] == "upgrade.lapsed"


def lines(book: Book) -> list[str]:
    return [
        entry_info(payload, index=index, epoch=1, chain=bytes(32), time_ms=None).summary
        for index, payload in enumerate(book.payloads)
    ]


def test_entries_in_a_line() -> None:
    book = network()
    cid = begin(book, change(book))
    short = cid_text(cid)[:16]
    for who in heard(book, MEMBERS):
        book.submit(who, report(book))
    book.later(STAGE)
    worse = heard(book, MEMBERS)
    for who in worse:
        book.submit(who, report(book, gain=-50_000, traps=int(who is worse[0])))
    book.later(STAGE)
    found = lines(book)
    assert f"finds {short} sound" in found
    assert f"ready in stage shadow: {short}" in found
    assert f"measured -5.00 % in stage 10 %, 1 trap: {short}" in found
    assert f"{SLOT} version 1 is run in shadow (accepted)" in found
    assert f"{SLOT} version 1 runs for 10 % (ready, 3 reports)" in found
    assert (
        f"{SLOT} version 2 is the version before again (worse, gain -5.00 % to -5.00 %, 3 reports)"
        in found
    )
    accept(book, change(book, "late", expires=book.state.time + 1_500), "late")
    book.later(1_000)
    assert f"{SLOT} version 3 has expired and never begins (expired)" in lines(book)


def test_entries_in_full() -> None:
    book = network()
    wanted = change(book)
    cid = begin(book, wanted)
    for index, payload in enumerate(book.payloads[1:], 1):
        info = entry_info(payload, index=index, epoch=1, chain=bytes(32), time_ms=None)
        if info.kind == "proposal":
            shown = info.body["manifest"]["change"]
            assert shown["module"] == wanted.module.hex()
            assert shown["manifest"] == cid_text(wanted.manifest)
            assert shown["limits"] == {
                "fuel": 1_000_000, "fuel_per_row": 1_000, "memory_pages": 16,
            }  # fmt: skip
        if info.kind == "stage":
            assert info.body == {
                "slot": SLOT, "version": 1, "proposal": cid_text(cid), "permille": 0,
                "event": "open", "reason": "accepted", "low": 0, "high": 0, "reports": 0,
                "traps": 0,
            }  # fmt: skip
            assert decode_entry(payload)
