"""The log: branches, what is kept aside, and what a disk gives back."""

import pytest

from protocols.effects import Effect, Save
from protocols.errors import SynapseError
from protocols.ledger.chain import Head
from protocols.raft.log import KEPT, MAX_ASIDE, AfterEpochError, Log, parse_entry
from tests.gossip_kit import mac_verify
from tests.raft_kit import NETWORK, ToyLedger
from tests.raft_lone import Chain


class Bench:
    """A log, its ratified ledger, and its disk."""

    def __init__(self) -> None:
        self.ledger = ToyLedger()
        self.disk: dict[bytes, bytes] = {}
        self.log = Log(NETWORK, 1, self.ledger, mac_verify, self.perform)

    def perform(self, effect: Effect) -> None:
        assert isinstance(effect, Save)
        if effect.value is None:
            del self.disk[effect.key]
        else:
            assert effect.key not in self.disk
            self.disk[effect.key] = effect.value

    def grow(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.log.append(payload)
        self.log.save(self.log.end.index)

    def ratify(self, index: int) -> None:
        above = self.ledger.head.index
        payloads = self.log.payloads(above, index)
        self.log.ratified(index)
        for payload in payloads:
            self.ledger.apply(payload, mac_verify)

    def names(self) -> set[bytes]:
        return {key[-32:] for key in self.disk}


def test_an_entry_proves_itself_by_its_name() -> None:
    bench = Bench()
    bench.grow(b"n1", b"n2")
    [(one, first), (two, second)] = sorted(bench.disk.items())
    assert parse_entry(NETWORK, one, first) is not None
    assert parse_entry(NETWORK, one, second) is None
    assert parse_entry(NETWORK, two, first) is None
    assert parse_entry(NETWORK, one, first[:-1]) is None
    assert parse_entry(NETWORK, one, b"") is None
    assert parse_entry(NETWORK, one[:-1], first) is None
    for place in range(len(first)):
        flipped = first[:place] + bytes([first[place] ^ 4]) + first[place + 1 :]
        assert parse_entry(NETWORK, one, flipped) is None


def test_invalid_entries_are_not_appended() -> None:
    bench = Bench()
    bench.grow(b"n1")
    with pytest.raises(SynapseError):
        bench.log.append(b"n1")
    assert bench.log.end == Chain(b"n1").head
    bench.grow(b"e1")
    assert bench.log.ended
    with pytest.raises(AfterEpochError):
        bench.log.append(b"n2")


def test_a_branch_is_moved_aside_and_found_again() -> None:
    bench = Bench()
    base = Chain(b"n1")
    old, new = Chain(b"n2", b"n3", after=base), Chain(b"n4", after=base)
    bench.grow(b"n1", b"n2", b"n3")
    bench.log.truncate(1, 1)
    assert bench.log.end == base.head
    bench.grow(b"n4")
    assert bench.log.path(old.head) != []
    assert bench.names() == {h.hash for h in (*base.heads, *old.heads, *new.heads)}
    assert bench.log.switch(old.head, 2)
    assert bench.log.end == old.head
    assert bench.log.head.head == old.head
    assert isinstance(bench.log.path(new.head), list)
    bench.log.forget(2)
    assert isinstance(bench.log.path(new.head), list)  # aside since term 2
    bench.log.forget(3)
    assert bench.log.path(new.head) == new.head
    assert bench.names() == {h.hash for h in (*base.heads, *old.heads)}


def test_what_a_held_certificate_covers_stays() -> None:
    bench = Bench()
    bench.grow(b"n1", b"n2")
    bench.log.truncate(1, 1)
    path = bench.log.path(Chain(b"n1", b"n2").head)
    assert isinstance(path, list)
    bench.log.hold(path, 4)
    bench.log.forget(4)
    assert isinstance(bench.log.path(Chain(b"n1", b"n2").head), list)


def test_nothing_that_is_ratified_is_left_out() -> None:
    bench = Bench()
    bench.grow(b"n1", b"n2")
    bench.ratify(1)
    with pytest.raises(ValueError, match="ratified"):
        bench.log.truncate(0, 1)
    other = Chain(b"nx", b"ny")
    missing = bench.log.path(other.head)
    assert missing == other.head
    for header, payload, head in reversed(
        list(zip(other.headers, other.payloads, other.heads, strict=True))
    ):
        bench.log.take(header, payload, head, 1)
    assert bench.log.path(other.head) is None
    assert not bench.log.switch(other.head, 1)


def test_ratified_entries_leave_the_disk_and_then_the_memory() -> None:
    bench = Bench()
    count = 3 * KEPT
    for number in range(count):
        bench.grow(b"n%d" % number)
        if number % 2:
            bench.ratify(number + 1)
    assert bench.disk == {}
    assert KEPT <= count - bench.log.base.index < 2 * KEPT + 2
    assert bench.log.hash_at(bench.log.base.index) == bench.log.base.hash
    assert bench.log.hash_at(bench.log.base.index - 1) is None
    assert bench.log.entry(Chain(b"n0").head.hash) is None


def test_a_branch_beside_what_is_ratified_is_dropped() -> None:
    bench = Bench()
    bench.grow(b"na")
    bench.log.truncate(0, 5)
    bench.grow(b"nb")
    assert len(bench.disk) == 2
    bench.ratify(1)
    assert bench.disk == {}


def test_fetched_entries_are_what_was_asked_for() -> None:
    bench = Bench()
    chain = Chain(b"n1", b"n2")
    low, high = chain.headers
    wanted = chain.heads[1]
    assert bench.log.take(low, b"n1", wanted, 1) is None
    assert bench.log.take(high, b"n1", wanted, 1) is None
    assert bench.log.take(high, b"n2", Head(3, wanted.hash), 1) is None
    assert bench.log.take(high, b"n2", wanted, 1) is not None
    assert bench.log.path(wanted) == chain.heads[0]
    assert bench.log.take(low, b"n1", chain.heads[0], 1) is not None
    assert bench.log.switch(wanted, 1)
    bench.log.save(2)
    assert bench.names() == {head.hash for head in chain.heads}


def test_a_repaired_entry_below_a_whole_one_goes_to_disk() -> None:
    bench = Bench()
    bench.grow(b"n1", b"n2")
    chain = Chain(b"n1", b"n2")
    disk = dict(bench.disk)
    [lost] = [key for key in disk if key.endswith(chain.heads[0].hash)]
    disk[lost] += b"x"
    again = Bench()
    again.disk = {key: value for key, value in disk.items() if key != lost}
    assert again.log.restore(disk.items(), 1) == [lost]
    assert again.log.path(chain.head) == chain.heads[0]
    again.log.take(chain.headers[0], b"n1", chain.heads[0], 1)
    assert again.log.switch(chain.head, 1)
    again.log.save(2)
    assert set(again.disk) == set(disk)


def test_what_lies_aside_is_bounded_and_the_oldest_goes() -> None:
    bench = Bench()
    count = MAX_ASIDE + 50
    for number in range(count):
        bench.log.append(b"n%d" % number)
        bench.log.truncate(0, 1)
    assert bench.log.entry(Chain(b"n0").head.hash) is None
    assert bench.log.entry(Chain(b"n%d" % (count - 1)).head.hash) is not None
    assert len(bench.log._store) <= MAX_ASIDE


def test_a_branch_without_its_short_cuts_is_no_evidence() -> None:
    bench = Bench()
    bench.grow(b"n1", b"n2", b"n3")
    branch = bench.log.branch(Chain(b"n1", b"n2").head, [b"nx", b"ny"])
    assert [entry.hash for entry in branch] == [
        head.hash for head in Chain(b"n1", b"n2", b"nx", b"ny").heads[2:]
    ]
    ledger = Chain(b"n1", b"n2", b"n3").ledger
    fresh = Log(NETWORK, 1, ledger, mac_verify, lambda _: None)
    assert fresh.branch(ledger.head, [b"nx"]) == []


def test_following_replaces_the_chain() -> None:
    bench = Bench()
    bench.grow(b"nx", b"ny")
    chain = Chain(b"n1", b"n2", b"n3")
    bench.log.follow(chain.ledger, 1)
    assert bench.log.end == bench.log.base == chain.head
    assert bench.disk == {}
    bench.log.append(b"n4")
    assert bench.log.end.index == 4


def test_the_tail_is_counted_once() -> None:
    bench = Bench()
    payloads = [b"n%04d" % number + bytes(1000) for number in range(30)]
    for _ in range(3):  # following is ahead of the seat again and again
        start = bench.ledger.head.index
        bench.grow(*payloads[start : start + 10])
        for payload in payloads[start : start + 5]:
            bench.ledger.apply(payload, mac_verify)
        bench.log.follow(bench.ledger, 1)
        assert bench.log._tail_bytes == 5 * 1005
        bench.log.truncate(start + 5, 1)
        assert bench.log._tail_bytes == 0


def test_the_tail_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.raft.log.MAX_TAIL_BYTES", 20_000)
    bench = Bench()
    for number in range(19):
        assert not bench.log.full()
        bench.grow(b"n%04d" % number + bytes(1100))
    assert bench.log.full()
    bench.ratify(10)
    assert not bench.log.full()
