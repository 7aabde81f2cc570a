"""A tile group's replicas, rule by rule (protocols/learn/replica.py says which)."""

import pytest

from protocols.effects import Emit, Save, Send
from protocols.learn.replica_messages import (
    Append,
    Ask,
    Install,
    Promise,
    Report,
    Resign,
    Stale,
    described,
    pack,
    unpack,
)
from protocols.learn.replica_ports import (
    MAX_BODY,
    MAX_ENTRY_BLOBS,
    MAX_STATE,
    MAX_STATE_BLOBS,
    Able,
    Committed,
    Damaged,
    Declined,
    Distrusted,
    Entry,
    Established,
    Fetch,
    Folded,
    Following,
    Heard,
    Installed,
    Leading,
    Lost,
    Orphaned,
    Refound,
    Release,
    Retired,
    Seats,
    Snapshot,
    Term,
    Turned,
)
from tests.replica_kit import BEAT, BORN, GROUP, SETTINGS, Homes, blob, peer, seats

LEASE = SETTINGS.lease_ms


def said(effects: list[object]) -> list[object]:
    """The messages among effects."""
    return [unpack(each.data)[1] for each in effects if isinstance(each, Send)]


def kinds(effects: list[object]) -> list[str]:
    """What effects are, with messages by their names."""
    return [
        type(unpack(each.data)[1]).__name__ if isinstance(each, Send) else type(each).__name__
        for each in effects
    ]


# -- the normal case -------------------------------------------------------------------------------


def test_the_first_in_rank_leads_and_two_of_three_commit() -> None:
    homes = Homes().start()
    assert homes.leaders == ["a"]
    homes.cut("c")
    homes["a"].propose(b"one", tag=7)
    homes.run(100)
    assert homes["a"].of(Committed)[-1] == Committed(1, b"one", (), 7, peer("a"))
    homes.heal()
    homes.run(2 * BEAT)
    assert [homes[name].log for name in "abc"] == [[b"one"]] * 3
    assert homes["b"].of(Committed)[-1].tag is None


def test_nothing_is_committed_by_one_alone() -> None:
    homes = Homes().start()
    homes.cut("a")
    homes["a"].propose(b"one")
    homes.run(BEAT)
    assert homes["a"].log == []


def test_everybody_knows_the_primary_of_a_term_and_nobody_else_may_ask_for_it() -> None:
    homes = Homes().start()
    term = homes["a"].replica.leading
    assert term == Term(1, 3)
    assert [homes[n].replica.primary for n in "abc"] == [peer("a")] * 3
    homes.cut("a")
    homes.run(3 * BEAT)
    before = dict(homes["c"].disk)
    # 3 + rank: term (1, 9) is a's to ask for, and not b's.
    homes["c"].do(Heard(peer("b"), pack(GROUP, Ask(Term(1, 9)))))
    homes["c"].do(Heard(peer("stranger"), pack(GROUP, Ask(Term(1, 9)))))
    assert homes["c"].disk == before


# -- rule 1: promise, then report ------------------------------------------------------------------


def test_a_promise_is_on_disk_before_it_is_reported_and_lower_terms_are_refused() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    homes.cut("a")
    homes.run(2 * BEAT)
    effects = homes["c"].do(Heard(peer("b"), pack(GROUP, Ask(Term(1, 7)))))
    shown = kinds(effects)
    assert shown.index("Save") < shown.index("Promise")
    assert said(effects)[-1] == Promise(Term(1, 7), Term(1, 3), 1, 0, 5)
    # The old primary is refused, and nothing of it is kept: the report stays true.
    old = Append(Term(1, 3), Term(0, 0), 0, 0, 1, 1, described([Entry(b"two")]))
    effects = homes["c"].do(Heard(peer("a"), pack(GROUP, old, [b"two"])))
    assert said(effects) == [Stale(Term(1, 7))]
    assert not [each for each in effects if isinstance(each, Save)]
    assert homes["c"].replica.length == 1


def test_a_promise_survives_a_restart() -> None:
    homes = Homes().start()
    homes.cut("a")
    homes.run(2 * BEAT)
    homes["c"].do(Heard(peer("b"), pack(GROUP, Ask(Term(1, 7)))))
    homes["c"].stop()
    homes["c"].start()
    old = Append(Term(1, 3), Term(0, 0), 0, 0, 0, 0, described([Entry(b"one")]))
    effects = homes["c"].do(Heard(peer("a"), pack(GROUP, old, [b"one"])))
    assert said(effects) == [Stale(Term(1, 7))]


# -- rule 2: whose log, and commit it anew ---------------------------------------------------------


def test_the_log_of_the_highest_accepted_term_wins_and_not_the_longest() -> None:
    homes = Homes().start()
    homes.cut("a")
    for body in (b"lost 1", b"lost 2", b"lost 3"):
        homes["a"].propose(body)
    homes.run(8 * BEAT)
    assert homes.leaders == ["b"]
    homes["b"].propose(b"kept")
    homes.run(100)
    assert homes["c"].log == [b"kept"] or homes["c"].replica.length == 1
    # b falls; a, with the longer log of the lower term, comes back.
    homes["b"].stop()
    homes.heal()
    homes.cut("b")
    homes.run(12 * BEAT)
    (leader,) = homes.leaders
    assert homes[leader].log == [b"kept"]
    assert homes["a"].log == [b"kept"]


def test_terms_of_acceptance_are_compared_and_not_those_of_creation() -> None:
    """Raft's figure 8: an entry of an old term, re-stamped and committed by a later primary, must
    outlive a newer entry that only one replica has."""
    homes = Homes().start()
    homes.cuts |= {("a", "c"), ("a", "b")}
    homes["a"].propose(b"two")  # on a alone, created in term 3
    homes["a"].stop()
    homes.heal()
    homes.cut("a")
    homes.run(6 * BEAT)
    assert homes.leaders == ["b"]
    homes.cuts |= {("b", "c")}
    homes["b"].propose(b"three")  # on b alone, created in a higher term
    homes["b"].stop()
    homes.heal()
    homes.cut("b")
    homes["a"].start()
    homes.run(20 * BEAT)
    (leader,) = homes.leaders
    # c accepted b's (empty) log in a higher term than a's: so "two" is given up ...
    assert homes[leader].log == []
    homes[leader].propose(b"new")
    homes.run(100)
    homes[leader].stop()
    homes["b"].start()
    homes.heal()
    homes.run(20 * BEAT)
    # ... and what was committed since outlives "three", created before, accepted by b alone.
    (second,) = homes.leaders
    assert homes[second].log == [b"new"]
    assert homes["b"].log == [b"new"]


def test_a_new_primary_commits_the_old_log_anew_before_it_takes_offers() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    homes["a"].stop()
    homes.filter = lambda source, target, message: not isinstance(message, Report)
    homes.run(4 * BEAT)
    replica = homes["b"].replica
    assert replica.accepted == replica.promised == Term(1, 4)
    assert homes.leaders == []
    assert homes["b"].propose(b"two") == [Declined(1, "not the primary")]
    homes.filter = lambda *_: True
    homes.run(2 * BEAT)
    assert homes.leaders == ["b"]
    told = [each for each in homes["b"].effects if isinstance(each, Committed | Leading)]
    assert [type(each).__name__ for each in told] == ["Committed", "Leading"]


def test_a_candidate_fetches_a_better_log_than_its_own() -> None:
    homes = Homes().start()
    homes.cut("b")
    for number in range(5):
        homes["a"].propose(b"%d" % number, [blob(b"blob %d" % number)])
    homes.run(200)
    assert homes["a"].replica.committed == 5
    homes["a"].stop()
    homes.heal()
    homes.cut("a")
    homes["c"].can_lead = False
    homes["c"].do(Able(False))
    homes.run(10 * BEAT)
    assert homes.leaders == ["b"]
    assert homes["b"].log == [b"0", b"1", b"2", b"3", b"4"]
    assert blob(b"blob 3").digest in homes["b"].blobs


# -- rule 3: own disk first, and a new term after a restart ----------------------------------------


def test_a_primary_writes_before_it_sends() -> None:
    homes = Homes().start()
    effects = homes["a"].propose(b"one")
    assert kinds(effects) == ["Save", "Append", "Append"]


def test_a_restarted_primary_asks_for_a_new_term() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    homes["a"].stop()
    homes["a"].start()
    assert not homes["a"].leads
    homes.run(200)
    assert homes.leaders == ["a"]
    assert homes["a"].replica.leading == Term(1, 6)
    assert homes["a"].log == [b"one"]


# -- rule 4: wiped disks ---------------------------------------------------------------------------


def test_a_wiped_replica_neither_grants_nor_acknowledges_until_the_next_epoch() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    wiped = homes["c"]
    wiped.stop()
    wiped.disk.clear()
    wiped.born = homes.index  # what replica_birth.Birth would say
    wiped.start()
    homes.run(4 * BEAT)
    assert not wiped.of(Report)
    reports = [m for source, _, m in homes.sent if source == "c" and isinstance(m, Report)]
    before = len(reports)
    homes["a"].propose(b"two")
    homes.run(4 * BEAT)
    after = [m for source, _, m in homes.sent if source == "c" and isinstance(m, Report)]
    assert len(after) == before
    # b's candidacy gets c's promise, which does not count: a's and b's are lost together else.
    homes.cut("a")
    homes.run(30 * BEAT)
    assert homes.leaders == []
    # From the next epoch on it counts, and gets the log.
    homes.heal()
    homes.cut("a")
    homes.turn(seats(2, "bca", began=homes.index + 1), "bc")
    homes.run(4 * BEAT)
    assert homes.leaders == []  # the seal of two of the old three is not to be had
    homes.heal()
    homes.turn(seats(2, "bca", began=homes.index + 1), "a")
    homes.run(20 * BEAT)
    assert homes.leaders
    assert homes["c"].log == [b"one", b"two"]


def test_damage_is_as_good_as_a_wipe() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(2 * BEAT)
    hurt = homes["c"]
    hurt.stop()
    key = next(key for key in hurt.disk if key[len(GROUP.key) :].startswith(b"e"))
    hurt.disk[key] = hurt.disk[key][:-1] + b"?"
    hurt.start()
    assert any(each.kind == "learn.replica-damaged" for each in hurt.of(Emit))
    assert hurt.replica.length == 0
    homes.sent.clear()
    homes["a"].propose(b"two")
    homes.run(2 * BEAT)
    assert not [m for source, _, m in homes.sent if source == "c" and isinstance(m, Report)]
    # And it remembers that it was: the next life is no better.
    hurt.stop()
    hurt.start()
    homes.run(2 * BEAT)
    assert not [m for source, _, m in homes.sent if source == "c" and isinstance(m, Report)]


def test_a_driver_that_misses_a_blob_says_so_and_the_replica_is_out_for_the_epoch() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one", [blob(b"x")])
    homes.run(100)
    homes["b"].do(Damaged("a blob is gone"))
    homes.sent.clear()
    homes["a"].propose(b"two")
    homes.run(2 * BEAT)
    assert not [m for source, _, m in homes.sent if source == "b" and isinstance(m, Report)]
    assert homes["b"].of(Installed)[-1].snapshot == Snapshot(0, b"", ())


# -- rule 5: seals, handover, leases ---------------------------------------------------------------


def test_a_new_group_takes_the_sealed_log_over_before_it_serves() -> None:
    homes = Homes("abcdef").start()
    for number in range(3):
        homes["a"].propose(b"%d" % number, [blob(b"%d" % number)])
    homes.run(200)
    homes.turn(seats(2, "def"), "def")
    homes.run(6 * BEAT)
    assert homes.leaders == ["a"]  # the old three have not heard of the epoch, and seal nothing
    homes.turn(seats(2, "def"), "abc")
    homes.run(3 * BEAT)
    assert homes.leaders == ["d"]
    assert [homes[name].log for name in "def"] == [[b"0", b"1", b"2"]] * 3
    assert blob(b"1").digest in homes["e"].blobs
    assert homes["d"].of(Established) == [Established(2)]


def test_a_new_group_waits_for_the_seal_of_two_of_the_old_three() -> None:
    homes = Homes("abcdef").start()
    homes["a"].propose(b"one")
    homes.run(100)
    for name in "bc":
        homes.cut(name)
    homes.turn(seats(2, "def", started_ms=homes.now), "abcdef")
    homes.run(20 * BEAT)
    assert homes.leaders == []
    homes.heal()
    homes.run(8 * BEAT)
    assert homes.leaders
    assert homes["d"].log == [b"one"]


def test_a_sealed_group_acknowledges_nothing() -> None:
    homes = Homes("abcdef").start()
    effects = homes["a"].do(Turned((seats(2, "def"), seats(1, "abc"))))
    assert "Save" in kinds(effects)
    assert not homes["a"].leads
    assert homes["a"].propose(b"late") == [Declined(1, "not the primary")]
    homes["b"].do(Turned((seats(2, "def"), seats(1, "abc"))))
    old = Append(Term(1, 3), Term(0, 0), 0, 0, 0, 0, described([Entry(b"one")]))
    effects = homes["b"].do(Heard(peer("a"), pack(GROUP, old, [b"one"])))
    assert said(effects) == [Stale(Term(2, 0))]
    assert homes["b"].replica.length == 0


def test_the_old_three_forget_only_when_the_new_epoch_is_established() -> None:
    homes = Homes("abcdef").start()
    homes["a"].propose(b"one", [blob(b"x")])
    homes.run(100)
    homes.cut("e")
    homes.cut("f")
    homes.turn(seats(2, "def"), "abcdef")
    homes.run(10 * BEAT)
    assert homes["a"].disk  # d has the log, and is alone with it
    assert not homes["a"].of(Retired)
    homes.heal()
    homes.run(10 * BEAT)
    for name in "abc":
        assert homes[name].of(Retired)
        assert homes[name].disk == {}
        assert homes[name].blobs == set()
    assert homes["e"].log == [b"one"]


def test_a_forced_epoch_begins_with_one_of_the_old_three_after_its_lease() -> None:
    homes = Homes("abcdef").start()
    homes["a"].propose(b"one")
    homes.run(2 * BEAT)
    homes["a"].stop()
    homes["b"].stop()
    homes.turn(seats(2, "def", started_ms=homes.now), "cdef")
    homes.run(2 * LEASE - 20 * BEAT)
    assert homes.leaders == []
    homes.run(60 * BEAT)
    (leader,) = homes.leaders
    assert homes[leader].log == [b"one"]
    assert any(each.kind == "learn.forced" for each in homes[leader].of(Emit))


def test_who_had_more_than_a_forced_epoch_began_with_gives_it_up() -> None:
    homes = Homes("abcdef").start()
    homes.cut("c")
    for number in range(5):
        homes["a"].propose(b"old %d" % number)
        homes.run(60)  # so that rows say what was committed before them
    assert homes["b"].replica.committed >= 4
    homes["a"].stop()
    homes["b"].stop()
    homes.heal()
    homes.turn(seats(2, "cde", started_ms=homes.now), "cde")
    homes.run(2 * LEASE + 60 * BEAT)
    (leader,) = homes.leaders
    for number in range(9):  # until it is longer than what was lost
        homes[leader].propose(b"new %d" % number)
    homes.run(100)
    for name in "ab":
        homes[name].start((seats(2, "cde", started_ms=homes.now), seats(1, "abc")))
    homes.turn(seats(3, "abc", started_ms=homes.now), "abcde")
    homes.run(20 * BEAT)
    (leader,) = homes.leaders
    homes[leader].propose(b"more")
    homes.run(2 * BEAT)
    wanted = [b"new %d" % number for number in range(9)] + [b"more"]
    assert [homes[name].log for name in "abc"] == [wanted] * 3
    assert any(each.kind == "learn.lost" for each in homes["b"].of(Emit))


def test_where_nobody_of_the_old_three_is_left_the_epoch_begins_with_what_others_know() -> None:
    homes = Homes("abcdef").start()
    homes["a"].propose(b"one")
    homes.run(2 * BEAT)
    for name in "abc":
        homes[name].stop()
    homes.turn(seats(2, "def", started_ms=homes.now), "def")
    homes.run(2 * LEASE + 60 * BEAT)
    assert homes.leaders == []
    asked = [name for name in "def" if homes[name].of(Orphaned)]
    assert asked
    for name in "def":
        homes[name].do(Refound(Snapshot(1, b"round 12", ())))
    homes.run(60 * BEAT)
    (leader,) = homes.leaders
    homes[leader].propose(b"next")
    homes.run(100)
    assert homes[leader].log == [b"round 12", b"next"]


def test_an_epoch_in_which_nobody_served_is_passed_over() -> None:
    homes = Homes("abcdef").start()
    homes["a"].propose(b"one")
    homes.run(100)
    empty = Seats(2, (), 20, 0)
    for name in "abc":
        homes[name].turn((empty, *homes[name].seats))
    homes.run(4 * BEAT)
    assert homes.leaders == []
    known = (seats(3, "def"), empty, seats(1, "abc"))
    for name in "def":
        homes[name].start(known)
    for name in "abc":
        homes[name].turn(known)
    homes.run(4 * BEAT)
    assert homes.leaders == ["d"]
    assert homes["d"].log == [b"one"]


def test_who_does_not_know_an_epoch_does_not_take_it_for_empty() -> None:
    """Epoch 2 committed something of which the three of epoch 1 know nothing."""
    homes = Homes("abcdefghi").start()
    homes["a"].propose(b"one")
    homes.run(100)
    homes.turn(seats(2, "def"), "abcdef")
    homes.run(4 * BEAT)
    homes["d"].propose(b"two")
    homes.run(100)
    for name in "def":
        homes[name].stop()
    for name in "ghi":
        homes[name].start((seats(3, "ghi"), seats(1, "abc")))
    for name in "abc":
        homes[name].start((seats(3, "ghi"), seats(1, "abc")))
    homes.run(30 * BEAT)
    assert homes.leaders == []


def test_who_has_no_fresh_tick_acknowledges_and_commits_nothing() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    homes.run(LEASE - 2_000, ticking=False)
    assert homes.leaders == ["a"]
    homes.run(4_000, ticking=False)
    assert homes.leaders == []
    homes.sent.clear()
    homes.run(10 * BEAT, ticking=False)
    assert not [m for _, _, m in homes.sent if isinstance(m, Report | Append | Ask)]
    homes.run(20 * BEAT)  # ticks again
    assert homes.leaders


def test_a_follower_whose_ledger_is_old_acknowledges_nothing_to_a_primary_whose_is_not() -> None:
    homes = Homes().start()
    homes.run(LEASE + 1_000, ticking="a")
    homes.sent.clear()
    homes.run(3 * BEAT, ticking="a")
    assert [m for source, _, m in homes.sent if source == "a" and isinstance(m, Append)]
    assert not [m for _, _, m in homes.sent if isinstance(m, Report)]


def test_a_primary_whose_ledger_became_old_commits_nothing_of_what_followers_report() -> None:
    homes = Homes().start()
    began = homes.now
    homes.run(LEASE - 500, ticking="bc")
    homes["a"].propose(b"late")
    homes.now = began + LEASE + 100
    homes.deliver()
    assert [m for _, _, m in homes.sent if isinstance(m, Report)][-1].length == 1
    assert homes["a"].log == []


def test_a_tick_that_came_late_is_as_old_as_it_is() -> None:
    homes = Homes().start()
    homes.now += LEASE + 1_000
    for home in homes.homes.values():
        home.tick_ledger()  # of ledger_ms, a lease ago
    homes.run(10 * BEAT, ticking=False)
    assert homes.leaders == []


# -- blobs, chunks, windows ------------------------------------------------------------------------


def test_an_entry_counts_as_stored_only_after_its_blobs_are_on_disk() -> None:
    homes = Homes().start()
    homes.hold_blobs = True
    homes["a"].propose(b"one", [blob(b"x")])
    homes.run(3 * BEAT)
    assert homes["a"].log == []
    assert homes["b"].of(Fetch)[0] == Fetch(peer("a"), (blob(b"x"),))
    assert homes["b"].replica.length == 0
    homes.hold_blobs = False
    homes.run(2 * BEAT)
    assert homes["a"].log == [b"one"]
    assert homes["b"].replica.length == 1


def test_a_follower_that_lags_catches_up_in_bounded_messages() -> None:
    homes = Homes().start()
    homes.cut("c")
    for number in range(300):
        homes["a"].propose(b"%d" % number + bytes(2_000))
        homes.run(20)
    assert homes["a"].replica.committed >= 295
    homes.run(10 * BEAT)
    homes.heal()
    homes.sent.clear()
    homes.run(10 * BEAT)
    assert homes["c"].replica.committed == 300
    sizes = [len(m.entries) for _, to, m in homes.sent if to == "c" and isinstance(m, Append)]
    assert max(sizes) <= SETTINGS.chunk


def test_what_is_under_way_is_bounded() -> None:
    homes = Homes().start()
    homes.cuts |= {("b", "a"), ("c", "a")}
    declined = 0
    for number in range(SETTINGS.window + 5):
        declined += isinstance(homes["a"].propose(b"%d" % number)[0], Declined)
    assert declined == 5
    assert homes["a"].replica.room == 0


def test_what_others_could_not_take_is_not_taken() -> None:
    homes = Homes().start()
    (declined,) = homes["a"].propose(bytes(MAX_BODY + 1), tag=3)
    assert isinstance(declined, Declined)
    assert declined.tag == 3
    homes["a"].propose(bytes(MAX_BODY), [blob(b"%d" % n) for n in range(MAX_ENTRY_BLOBS)])
    homes.run(2 * BEAT)
    assert homes["b"].replica.committed == 1
    homes["a"].do(Folded(1, bytes(MAX_STATE + 1)))
    assert homes["a"].replica.snapshot is None
    many = tuple(blob(b"%d" % n) for n in range(MAX_STATE_BLOBS))
    homes["a"].do(Folded(1, bytes(MAX_STATE), many))
    homes["c"].stop()
    homes["c"].disk.clear()
    homes["c"].born = BORN
    homes["c"].start()
    homes.run(2 * BEAT)
    assert homes["c"].replica.snapshot == homes["a"].replica.snapshot


def test_a_snapshot_prunes_the_log_and_says_which_blobs_may_go() -> None:
    homes = Homes().start()
    for home in homes.homes.values():
        home.fold_at = 4
    for number in range(10):
        homes["a"].propose(b"%d" % number, [blob(b"%d" % number)])
        homes.run(40)
    homes.run(3 * BEAT)
    for home in homes.homes.values():
        assert home.replica.snapshot.index == 8
        rows = [key for key in home.disk if key[len(GROUP.key) :].startswith(b"e")]
        assert len(rows) == 2
        assert sum(len(each.blobs) for each in home.of(Release)) == 8
        assert home.blobs == {blob(b"8").digest, blob(b"9").digest}
    homes["b"].stop()
    homes["b"].start()
    homes.run(3 * BEAT)
    assert homes["b"].log == [b"%d" % n for n in range(10)]


def test_a_follower_behind_the_snapshot_gets_it_also_when_it_waits_for_blobs_that_are_gone() -> (
    None
):
    homes = Homes().start()
    for home in homes.homes.values():
        home.fold_at = 4
    stuck = homes["c"]
    fetched, stuck.fetched = stuck.fetched, lambda blobs: None  # type: ignore[method-assign]
    for number in range(9):
        homes["a"].propose(b"%d" % number, [blob(b"%d" % number)])
        homes.run(40)
    homes.run(BEAT)
    assert stuck.replica.length == 0
    assert blob(b"1").digest not in homes["a"].blobs
    stuck.fetched = lambda blobs: fetched(  # type: ignore[method-assign]
        [each for each in blobs if each.digest in homes["a"].blobs]
    )
    homes.run(12 * BEAT)
    assert stuck.replica.committed == 9
    assert any(to == "c" and isinstance(m, Install) for _, to, m in homes.sent)


# -- who leads -------------------------------------------------------------------------------------


def test_who_cannot_compute_stores_and_acknowledges_and_seeks_no_term() -> None:
    homes = Homes()
    homes["a"].can_lead = False
    homes.start()
    homes.run(10 * BEAT)
    assert homes.leaders == ["b"]
    homes.cut("c")
    homes["b"].propose(b"one")
    homes.run(100)
    assert homes["b"].log == [b"one"]
    homes["b"].stop()
    homes.run(40 * BEAT)
    assert homes.leaders == []


def test_a_primary_that_pauses_hands_over_at_once() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    effects = homes["a"].do(Able(False))
    assert Resign(Term(1, 3)) in said(effects)
    homes.run(100)
    assert homes.leaders == ["b"]
    assert homes["b"].log == [b"one"]


def test_a_replica_that_hears_nobody_deposes_nobody() -> None:
    homes = Homes().start()
    homes.cuts |= {("a", "c"), ("b", "c")}
    homes.run(30 * BEAT)
    assert homes.leaders == ["a"]
    assert homes["a"].replica.leading == Term(1, 3)


def test_who_comes_back_follows_the_primary_that_it_finds() -> None:
    homes = Homes().start()
    homes.cut("c")
    homes.run(30 * BEAT)  # it asked and asked, and promised nothing
    assert [m for source, _, m in homes.sent if source == "c" and isinstance(m, Ask)]
    homes.heal()
    homes.run(4 * BEAT)
    assert homes["a"].replica.leading == Term(1, 3)
    assert homes["c"].replica.primary == peer("a")
    homes["a"].stop()
    homes.run(4 * BEAT)
    assert homes.leaders == ["b"]
    homes["a"].start()
    homes.run(20 * BEAT)
    assert homes.leaders == ["b"]
    assert homes["b"].replica.leading == Term(1, 4)
    assert homes["a"].replica.primary == peer("b")


def test_of_two_candidates_the_higher_term_wins() -> None:
    homes = Homes().start()
    homes.cut("a")
    homes.cuts |= {("b", "c"), ("c", "b")}
    homes.run(8 * BEAT)  # b and c both ask, and hear nobody
    homes.heal()
    homes.cut("a")
    homes.run(6 * BEAT)
    assert len(homes.leaders) == 1


def test_a_primary_that_nobody_answers_steps_down_and_says_what_became_of_offers() -> None:
    homes = Homes().start()
    homes.cuts |= {("b", "a"), ("c", "a")}
    homes["a"].propose(b"one", tag=9)
    homes.run(8 * BEAT)
    assert homes.leaders == ["b"]
    assert [each.tag for each in homes["a"].of(Declined)] == [9]
    assert homes["a"].of(Following)[-1].primary is None


def test_a_connection_that_ends_is_a_hint_and_no_more() -> None:
    homes = Homes().start()
    homes.run(BEAT)
    for name in "bc":  # a flap: the primary lives
        homes[name].do(Lost(peer("a")))
    homes.run(6 * BEAT)
    assert homes.leaders == ["a"]
    assert homes["a"].replica.leading == Term(1, 3)
    homes["a"].stop()
    for name in "bc":
        homes[name].do(Lost(peer("a")))
    homes.run(BEAT * 3 // 2)
    assert homes.leaders == ["b"]


@pytest.mark.parametrize("whom", ["a", "b", "c"])
def test_an_acknowledged_entry_survives_kill_9_of_any_one(whom: str) -> None:
    homes = Homes().start()
    for number in range(4):
        homes["a"].propose(b"%d" % number)
    homes.run(60)
    committed = list(homes["a"].log)
    assert committed
    homes[whom].stop()
    homes.run(6 * BEAT)
    (leader,) = homes.leaders
    assert homes[leader].log[: len(committed)] == committed


def test_a_takeover_costs_less_than_four_heartbeats() -> None:
    homes = Homes().start()
    homes["a"].stop()
    homes.run(4 * BEAT - STEP_SPARE)
    assert homes.leaders == ["b"]


STEP_SPARE = 200
"""Milliseconds to spare."""


# -- who lied --------------------------------------------------------------------------------------


def distrust(homes: Homes, who: str, by: str) -> None:
    for name in by:
        homes[name].do(Distrusted(peer(who)))


def test_a_primary_that_two_distrust_is_replaced_and_followed_no_more() -> None:
    homes = Homes().start()
    homes["a"].propose(b"one")
    homes.run(100)
    distrust(homes, "a", by="bc")
    homes.run(BEAT)  # and not the patience: nobody waits for a silence
    assert homes["b"].replica.leading
    homes.run(BEAT)
    assert homes.leaders == ["b"]
    homes["b"].propose(b"two")
    homes.run(100)
    assert homes["c"].log == [b"one", b"two"]
    assert homes["a"].log == [b"one"], "nothing is sent to it"


def test_what_one_alone_distrusts_leads_on() -> None:
    homes = Homes().start()
    distrust(homes, "a", by="c")
    homes.run(20 * BEAT)  # it asks for terms all the while
    assert homes.leaders == ["a"]
    homes["a"].propose(b"one")
    homes.run(100)
    assert homes["b"].log == [b"one"]
    distrust(homes, "a", by="b")
    homes.run(6 * BEAT)
    assert homes.leaders in (["b"], ["c"])
    assert homes["c"].log == [b"one"], "what two had is not lost"


def test_whoever_is_distrusted_is_granted_nothing_and_counted_nowhere() -> None:
    homes = Homes().start()
    distrust(homes, "c", by="ab")
    before = dict(homes["b"].disk)
    homes["b"].do(Heard(peer("c"), pack(GROUP, Ask(Term(1, 8)))))
    homes["b"].do(Heard(peer("c"), pack(GROUP, Append(Term(1, 8), Term(1, 8), 0, 0, 0, 0, ()))))
    assert homes["b"].disk == before
    homes.cut("b")
    homes["a"].propose(b"one")
    homes.run(100)
    assert homes["a"].log == [], "one and a liar are not two"


def test_an_epoch_later_it_is_one_of_three_again() -> None:
    homes = Homes().start()
    distrust(homes, "a", by="bc")
    homes.run(BEAT)
    homes.index = 25
    for name in "abc":
        homes[name].turn((seats(2, "abc"), seats(1, "abc")))
        homes[name].tick_ledger()
    homes.run(6 * BEAT)
    assert homes.leaders == ["a"]


def test_who_wrote_an_entry_is_said_of_the_primary_that_leads_alone() -> None:
    homes = Homes().start()
    homes.cut("c")
    homes["a"].propose(b"one")
    homes.run(100)
    homes.heal()
    homes.cut("a")
    homes.run(6 * BEAT)
    (leader,) = homes.leaders[-1:]
    homes[leader].propose(b"two")
    homes.run(100)
    written = {entry.body: entry.writer for entry in homes["c"].of(Committed)}
    assert written == {b"one": None, b"two": peer(leader)}
