"""The peer book: what it remembers, forgets, and whom it would dial."""

import os

from hypothesis import given
from hypothesis import strategies as st

from protocols.gossip.peerscore import BAN_SECONDS, DIAL_BACKOFF, Fault
from synapsed.keys import Identity
from synapsed.net import MemoryTable, PeerBook
from synapsed.net import peers as peers_module
from synapsed.net.peers import Score


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def someone() -> bytes:
    return Identity(os.urandom(32)).peer_id


def book() -> tuple[PeerBook, Clock, MemoryTable]:
    clock, table = Clock(), MemoryTable()
    return PeerBook(table, clock), clock, table


ADDR = "/ip4/192.0.2.1/tcp/4817"


def test_what_is_flushed_is_there_again_and_nothing_else() -> None:
    one, clock, table = book()
    kept, lost = someone(), someone()
    one.learned(kept, [ADDR], "heartbeat")
    one.round_trip(kept, 0.05)
    one.flush()
    one.learned(lost, [ADDR], "heartbeat")
    again = PeerBook(table, clock)
    assert again.record(kept) == one.record(kept)
    assert lost not in again


def test_an_unreadable_record_is_forgotten() -> None:
    table = MemoryTable()
    good = someone()
    table[good] = b"\xc1 not a record"
    table[b"short"] = b"\x80"
    assert len(PeerBook(table)) == 0
    assert table == {}


def test_the_best_are_dialled_first_and_the_failed_later() -> None:
    one, clock, _ = book()
    friend, stranger, failed, banned, connected = (someone() for _ in range(5))
    for peer in (friend, stranger, failed, banned, connected):
        one.learned(peer, [ADDR], "dht")
    one.transferred(friend, 1 << 30, 10)
    one.dial_failed(failed)
    for _ in range(3):
        one.fault(banned, Fault.LIED)
    assert [peer for peer, _ in one.to_dial([connected], 10)] == [friend, stranger]
    clock.now += DIAL_BACKOFF + 1
    assert [peer for peer, _ in one.to_dial([connected], 10)] == [friend, stranger, failed]
    assert [peer for peer, _ in one.to_dial([connected], 1)] == [friend]
    clock.now += BAN_SECONDS
    assert banned in [peer for peer, _ in one.to_dial([connected], 10)]


def test_a_success_ends_the_back_off() -> None:
    one, clock, _ = book()
    peer = someone()
    one.learned(peer, [ADDR], "dht")
    for _ in range(10):
        one.dial_failed(peer)
    clock.now += DIAL_BACKOFF + 1
    assert one.to_dial([], 10) == []
    one.connected(peer, None, "dial")
    assert [found for found, _ in one.to_dial([], 10)] == [peer]


def test_the_book_is_bounded_and_forgets_those_never_met(monkeypatch: object) -> None:
    one, _, table = book()
    met = someone()
    one.connected(met, ADDR, "dial")
    original, peers_module.MAX_REMEMBERED = peers_module.MAX_REMEMBERED, 20
    try:
        for _ in range(100):
            one.learned(someone(), [ADDR], "dht")
    finally:
        peers_module.MAX_REMEMBERED = original
    assert len(one) == 20
    assert met in one
    one.flush()
    assert len(table) == 20


@given(st.lists(st.text(max_size=40), max_size=20))
def test_hearsay_of_any_kind_leaves_addresses_only(texts: list[str]) -> None:
    one, _, _ = book()
    peer = Identity(bytes(32)).peer_id
    one.learned(peer, texts, "gossip")
    assert all(text.startswith("/") for text in one.record(peer).addrs)


def test_who_scores_best_is_dialled_first_and_the_worst_last() -> None:
    one, _, _ = book()
    low, high, unscored = (someone() for _ in range(3))
    for peer in (low, high, unscored):
        one.learned(peer, [ADDR], "gossip")
    one.scored({low: Score(-1.0, 0.0), high: Score(1.0, 0.0)})
    assert [peer for peer, _ in one.to_dial([], 9)] == [high, unscored, low]
    one.scored({low: Score(1.0, 0.0), high: Score(-1.0, 0.0)})
    assert [peer for peer, _ in one.to_dial([], 9)] == [low, unscored, high]


def test_counts_of_messages_fade_and_go_with_the_record() -> None:
    one, _, _ = book()
    known, unknown = someone(), someone()
    one.seen(known)
    for peer in (known, unknown):
        for _ in range(8):
            one.brought(peer, first=True)
        one.brought(peer, first=False)
    one.fade(0.5)
    assert set(one.service) == {known}
    its = one.service[known]
    assert (its.delivered, its.first, its.duplicates) == (8, 4.0, 0.5)
