"""What one schedule hands out: never twice, never what a peer lacks, never more than is missing."""

from collections.abc import Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocols.slots.tile_assignment import SLOT
from protocols.tensors.blocks import MAX_FETCH_BYTES, Holding
from protocols.tensors.tensorblock import SUBTILE, Layout
from protocols.transfer.pullpeer import FIRST_RUN_BYTES, FIRST_TIMEOUT, MIN_TIMEOUT, Assignment
from protocols.transfer.schedule import Schedule
from tests.schedule_swarm import ROOT, runs_of

ME, A, B, C = (bytes([n]) * 38 for n in (9, 1, 2, 3))
WHOLE = Holding(held=(), complete=True, pulling=False, wants=())
BIG = Layout.flat(100 * SUBTILE)


def part(leaves: Sequence[int], pulling: bool = False) -> Holding:
    return Holding(held=tuple(runs_of(set(leaves))), complete=False, pulling=pulling, wants=())


def schedule_of(layout: Layout = BIG, wanted: Sequence[tuple[int, int]] | None = None) -> Schedule:
    return Schedule(ME, [(ROOT, layout)], [wanted or [(0, layout.leaf_count)]])


def give(schedule: Schedule, run: Assignment, now: float, rate: float = 1e12) -> float:
    """All that is due of a run arrives, `rate` bytes a second from `now` on; until when."""
    for _ in range(run.next, run.hi):
        now += SUBTILE / rate
        schedule.arrived(run, now)
    return now


def test_the_first_request_is_small_and_later_ones_take_half_a_second() -> None:
    schedule = schedule_of(Layout.flat(1000 * SUBTILE))
    schedule.add_peer(A, local=True)
    schedule.heard(A, 0, WHOLE)
    now = 0.0
    sizes = []
    for _ in range(12):
        run = schedule.next_run(A, now)
        assert run is not None
        sizes.append(run.size)
        now = give(schedule, run, now, rate=4e6)
    assert sizes[0] == FIRST_RUN_BYTES
    assert 2e6 - SUBTILE < max(sizes) <= 2e6


def test_a_fast_peer_gets_tiles_and_more_of_them_at_a_time() -> None:
    schedule = schedule_of()
    schedule.add_peer(A, local=True, rate=200e6)
    schedule.heard(A, 0, WHOLE)
    runs = [run for _ in range(10) if (run := schedule.next_run(A, 0.0))]
    assert [run.size for run in runs] == [MAX_FETCH_BYTES] * 4


def test_a_slow_peer_gets_single_sub_tiles_and_two_at_a_time() -> None:
    schedule = schedule_of()
    schedule.add_peer(A, local=True, rate=1000.0)
    schedule.heard(A, 0, WHOLE)
    runs = [run for _ in range(10) if (run := schedule.next_run(A, 0.0))]
    assert [run.size for run in runs] == [SUBTILE] * 2


def test_a_peers_patience_follows_its_speed() -> None:
    schedule = schedule_of()
    schedule.add_peer(A, local=True)
    assert schedule.timeout(A) == FIRST_TIMEOUT
    schedule.add_peer(B, local=True, rate=1e9)
    assert schedule.timeout(B) == MIN_TIMEOUT
    schedule.add_peer(C, local=True, rate=500_000.0)
    assert MIN_TIMEOUT < schedule.timeout(C) < 10


def test_small_tensors_travel_together_and_files_apart() -> None:
    small = Layout("safetensors", 64_000, [(str(n), 1000) for n in range(64)])
    schedule = Schedule(ME, [(ROOT, small), (ROOT[::-1], small)], [[(0, 64)], [(0, 64)]])
    schedule.add_peer(A, local=True)
    for file in (0, 1):
        schedule.heard(A, file, WHOLE)
    runs = [run for _ in range(2) if (run := schedule.next_run(A, 0.0))]
    assert sorted((run.file, run.lo, run.hi) for run in runs) == [(0, 0, 64), (1, 0, 64)]


def test_only_what_is_wanted_is_asked_for() -> None:
    schedule = schedule_of(wanted=[(3, 5), (17, 18)])
    assert schedule.left_bytes == 3 * SUBTILE
    schedule.add_peer(A, local=True)
    schedule.heard(A, 0, WHOLE)
    asked = set()
    while run := schedule.next_run(A, 0.0):
        asked |= set(range(run.lo, run.hi))
        give(schedule, run, 0.1)
    assert asked == {3, 4, 17}
    assert schedule.finished


def test_what_a_dropped_peer_was_to_send_is_asked_of_another() -> None:
    schedule = schedule_of(Layout.flat(4 * SUBTILE))
    for peer in (A, B):
        schedule.add_peer(peer, local=True)
        schedule.heard(peer, 0, WHOLE)
    first = schedule.next_run(A, 0.0)
    assert first is not None
    schedule.arrived(first, 0.1)
    others = [run for peer in (A, B, B) if (run := schedule.next_run(peer, 0.1))]
    assert [run.peer for run in others] == [A, B, B]
    assert schedule.next_run(B, 0.1) is None
    schedule.drop_peer(A)
    for run in others[1:]:
        give(schedule, run, 0.2)
    run = schedule.next_run(B, 0.3)
    assert run is not None
    assert (run.lo, run.hi) == (others[0].lo, others[0].hi)
    give(schedule, run, 0.4)
    assert schedule.finished


def test_at_the_end_a_late_run_is_asked_of_a_quicker_peer_once() -> None:
    schedule = schedule_of(Layout.flat(2 * SUBTILE))
    schedule.add_peer(A, local=True, rate=10e6)
    schedule.heard(A, 0, WHOLE)
    late = [run for _ in range(2) if (run := schedule.next_run(A, 0.0))]
    schedule.add_peer(B, local=True, rate=10e6)
    schedule.add_peer(C, local=True, rate=10e6)
    for peer in (B, C):
        schedule.heard(peer, 0, WHOLE)
    assert schedule.next_run(B, 0.1) is None, "nobody is late yet"
    copies = [run for peer in (B, C, B, C) if (run := schedule.next_run(peer, 2.0))]
    assert sorted((run.lo, run.hi) for run in copies) == sorted((run.lo, run.hi) for run in late)
    for run in copies:
        give(schedule, run, 2.1)
    assert schedule.finished
    assert all(schedule.have(0, leaf) for leaf in range(2))


def test_a_copy_states_its_exact_size() -> None:
    """The rest of a late run has leaves of all sizes; a peer is blamed for another length."""
    sizes = [1000, 2 * SUBTILE, 70_000]
    layout = Layout("safetensors", sum(sizes), [(str(n), size) for n, size in enumerate(sizes)])
    schedule = schedule_of(layout)
    schedule.add_peer(A, local=True, rate=10e6)
    schedule.heard(A, 0, WHOLE)
    late = []
    while run := schedule.next_run(A, 0.0):
        late.append(run)
    schedule.arrived(late[0], 0.1)
    schedule.add_peer(B, local=True, rate=10e6)
    schedule.heard(B, 0, WHOLE)
    copies = []
    while run := schedule.next_run(B, 5.0):
        copies.append(run)
        give(schedule, run, 5.1)
    assert copies
    for run in copies:
        start, stop = layout.run_span(run.lo, run.hi)
        assert run.size == stop - start


def test_a_co_puller_that_has_a_chunk_is_asked_before_the_source() -> None:
    schedule = schedule_of(Layout.flat(4 * SUBTILE))
    schedule.add_peer(A, local=True)
    schedule.heard(A, 0, WHOLE)
    schedule.add_peer(B, local=True)
    schedule.heard(B, 0, part(range(4), pulling=True))
    assert schedule.next_run(A, 0.0) is None
    assert schedule.next_run(B, 0.0) is not None


def test_chunks_are_shared_among_co_pullers_without_a_word() -> None:
    """Two pullers with one source: each chunk is taken from it by exactly one of them."""
    asked = []
    for me, other in ((A, B), (B, A)):
        schedule = Schedule(me, [(ROOT, BIG)], [[(0, 100)]])
        schedule.add_peer(C, local=True, rate=1e6)
        schedule.heard(C, 0, WHOLE)
        schedule.add_peer(other, local=True)
        schedule.heard(other, 0, part([], pulling=True))
        mine = set()
        while run := schedule.next_run(C, 0.0):
            mine |= set(range(run.lo, run.hi))
            give(schedule, run, 0.0)
        asked.append(mine)
    assert asked[0] | asked[1] == set(range(100))
    assert not asked[0] & asked[1]
    assert min(map(len, asked)) > 25


def test_patience_with_co_pullers_ends() -> None:
    schedule = schedule_of()
    schedule.add_peer(A, local=True, rate=1e6)
    schedule.heard(A, 0, WHOLE)
    for peer in (B, C):
        schedule.add_peer(peer, local=True)
        schedule.heard(peer, 0, part([], pulling=True))
    now, taken = 0.0, []
    while not schedule.finished and now < 60:
        run = schedule.next_run(A, now)
        if run is None:
            now += 0.1
            continue
        now = give(schedule, run, now, rate=1e6)
        taken.append(now)
    assert schedule.finished
    assert now < 3 * 100 * SUBTILE / 1e6


def test_news_is_told_once() -> None:
    schedule = schedule_of()
    schedule.add_peer(A, local=True)
    assert schedule.heard(A, 0, part([1, 2]))
    assert not schedule.heard(A, 0, part([1, 2]))
    assert schedule.heard(A, 0, part([1, 2], pulling=True))
    assert schedule.heard(A, 0, WHOLE)
    assert not schedule.heard(A, 0, WHOLE)


def test_what_is_lacking_can_be_named() -> None:
    schedule = schedule_of(wanted=[(4, 6), (17, 18)])
    assert schedule.lacking() == [(0, (4, 6)), (0, (17, 18))]


SIZES = [70_000, 5 * SUBTILE, 0, 1000, 1000, 9 * SUBTILE + 1, 3000]
MIXED = Layout("safetensors", sum(SIZES), [(str(n), size) for n, size in enumerate(SIZES)])
ALL = set(range(MIXED.leaf_count))


class Pulls(RuleBasedStateMachine):
    """A pull with peers that come, go, know, send and fail in any order."""

    @initialize(missing=st.sets(st.integers(0, MIXED.leaf_count - 1), min_size=1))
    def begin(self, missing: set[int]) -> None:
        self.missing = set(missing)
        self.schedule = schedule_of(MIXED, runs_of(missing))
        self.held: dict[bytes, set[int]] = {}
        self.flying: list[Assignment] = []
        self.now = 0.0

    @rule(peer=st.sampled_from([A, B, C]), local=st.booleans())
    def come(self, peer: bytes, local: bool) -> None:
        if peer not in self.held:
            self.schedule.add_peer(peer, local=local)
            self.held[peer] = set()

    @rule(
        peer=st.sampled_from([A, B, C]),
        held=st.sets(st.integers(0, MIXED.leaf_count - 1)),
        complete=st.booleans(),
        pulling=st.booleans(),
    )
    def tell(self, peer: bytes, held: set[int], complete: bool, pulling: bool) -> None:
        if peer in self.held:
            self.held[peer] = ALL if complete else held
            self.schedule.heard(peer, 0, WHOLE if complete else part(sorted(held), pulling))

    @rule(peer=st.sampled_from([A, B, C]))
    def go(self, peer: bytes) -> None:
        if self.held.pop(peer, None) is not None:
            self.schedule.drop_peer(peer)
            self.flying = [run for run in self.flying if run.peer != peer]

    @rule(peer=st.sampled_from([A, B, C]))
    def ask(self, peer: bytes) -> None:
        if peer not in self.held:
            return
        run = self.schedule.next_run(peer, self.now)
        if run is None:
            return
        leaves = set(range(run.lo, run.hi))
        start, stop = MIXED.run_span(run.lo, run.hi)
        assert run.size == stop - start <= MAX_FETCH_BYTES
        assert leaves <= self.held[peer]
        assert run.copied or leaves <= self.missing
        others = {leaf for other in self.flying for leaf in range(other.next, other.hi)}
        assert run.copied or not leaves & others
        self.flying.append(run)

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 100), failed=st.booleans())
    def send(self, pick: int, failed: bool) -> None:
        run = self.flying[pick % len(self.flying)]
        if failed:
            self.schedule.failed(run)
            self.flying.remove(run)
            return
        self.missing.discard(run.next)
        self.schedule.arrived(run, self.now)
        if run.next == run.hi:
            self.flying.remove(run)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agrees(self) -> None:
        lacking = {leaf for _, (lo, hi) in self.schedule.lacking(1000) for leaf in range(lo, hi)}
        assert lacking == self.missing
        assert self.schedule.finished == (not self.missing)
        spans = [MIXED.leaf_span(leaf) for leaf in self.missing]
        assert self.schedule.left_bytes == sum(stop - start for start, stop in spans)
        assert all(self.schedule.have(0, leaf) == (leaf not in self.missing) for leaf in ALL)

    def teardown(self) -> None:
        """Whatever went wrong before, a good peer that comes now completes the pull."""
        if not hasattr(self, "schedule"):
            return
        for peer in list(self.held):
            self.go(peer)
        self.come(A, True)
        self.tell(A, set(), True, False)
        for _ in range(1000):
            if not self.missing:
                break
            self.now += 0.1
            self.ask(A)
            while self.flying:
                self.send(0, False)
        self.agrees()
        assert not self.missing


TestPulls = Pulls.TestCase


@given(st.integers(0, MIXED.leaf_count - 1))
def test_a_leaf_that_never_was_missing_counts_as_there(leaf: int) -> None:
    schedule = schedule_of(MIXED, [(leaf, leaf + 1)])
    assert not schedule.have(0, leaf)
    assert all(schedule.have(0, other) for other in ALL - {leaf})


def test_two_pulls_of_one_daemon_find_what_the_other_brought() -> None:
    """Both want all of a file from one source, at the same time."""
    schedules = [
        Schedule(ME, [(ROOT, BIG)], [[(0, BIG.leaf_count)]], order=order) for order in (0, 1)
    ]
    for schedule in schedules:
        schedule.add_peer(A, local=True)
        schedule.heard(A, 0, WHOLE)
    fetched, now = 0, 0.0
    while not all(schedule.finished for schedule in schedules):
        for schedule, other in (schedules, schedules[::-1]):
            run = schedule.next_run(A, now)
            for leaf in range(run.next, run.hi) if run is not None else ():
                now += 0.01
                schedule.arrived(run, now)
                fetched += 1
                other.found(0, leaf)
            now += 0.1
    assert fetched < 1.2 * BIG.leaf_count
    assert schedules[0].left_bytes == schedules[1].left_bytes == 0
    assert not schedules[0].found(0, 5)


def siblings(*wanted: Sequence[tuple[int, int]], layout: Layout) -> list[Schedule]:
    """Schedules of one daemon's pulls that know of each other; each wants its runs of ROOT."""
    made: list[Schedule] = []
    for at, runs in enumerate(wanted):
        others = partial(_others, made, at)
        made.append(Schedule(ME, [(ROOT, layout)], [runs], order=at, siblings=others))
    return made


def _others(schedules: list[Schedule], at: int) -> list[Schedule]:
    return schedules[:at] + schedules[at + 1 :]


def leaves_of(*runs: Assignment | None) -> set[int]:
    return {leaf for run in runs if run is not None for leaf in range(run.next, run.hi)}


def asked_at_once(schedule: Schedule, peer: bytes, now: float) -> list[Assignment]:
    """All that a schedule asks a peer for before anything comes."""
    asked = []
    while run := schedule.next_run(peer, now):
        asked.append(run)
    return asked


def test_what_a_sibling_has_in_flight_is_waited_for_until_it_fails() -> None:
    one, two = siblings([(0, 8)], [(0, 8)], layout=Layout.flat(8 * SUBTILE))
    for schedule in (one, two):
        schedule.add_peer(A, local=True, rate=100e6)
        schedule.heard(A, 0, WHOLE)
    mine = asked_at_once(one, A, 0.0)
    theirs = asked_at_once(two, A, 0.0)
    assert not leaves_of(*mine) & leaves_of(*theirs)
    for run in theirs:
        for leaf in range(run.lo, run.hi):
            one.found(0, leaf)
        give(two, run, 0.1)
    assert not asked_at_once(two, A, 0.1)
    free = leaves_of(mine[0])
    one.failed(mine[0])
    again = asked_at_once(two, A, 0.2)
    assert leaves_of(*again) == free
    assert not asked_at_once(one, A, 0.2), "now the other one waits"
    one.drop_peer(A)
    rest = leaves_of(*mine[1:])
    for run in again:
        give(two, run, 0.3)
    while not two.finished:
        for run in asked_at_once(two, A, 0.4):
            assert leaves_of(run) <= rest
            give(two, run, 0.4)


def test_siblings_know_a_file_by_its_root() -> None:
    """It has another number in each pull; what flies of another file is no reason to wait."""
    small = Layout.flat(4 * SUBTILE)
    other = Schedule(ME, [(ROOT[::-1], small), (ROOT, small)], [[], [(0, 4)]])
    apart = Schedule(ME, [(ROOT[::-1], small)], [[(3, 4)]])
    schedule = Schedule(ME, [(ROOT, small)], [[(0, 4)]], siblings=lambda: [apart, other])
    for pull, file in ((other, 1), (apart, 0), (schedule, 0)):
        pull.add_peer(A, local=True, rate=10e6)
        pull.heard(A, file, WHOLE)
    assert leaves_of(*asked_at_once(apart, A, 0.0)) == {3}
    assert leaves_of(*asked_at_once(other, A, 0.0)) == {0, 1, 2}
    assert leaves_of(*asked_at_once(schedule, A, 0.0)) == {3}


def test_what_a_sibling_is_late_with_is_asked_of_a_quicker_peer_once() -> None:
    one, two = siblings([(0, 2)], [(0, 2)], layout=Layout.flat(2 * SUBTILE))
    late, own, strange, idle = A, B, C, bytes([4]) * 38
    for peer in (late, own, idle):
        one.add_peer(peer, local=True, rate=10e6)
    one.heard(late, 0, WHOLE)
    assert leaves_of(*asked_at_once(one, late, 0.0)) == {0, 1}
    for peer, rate in ((late, 10e6), (strange, 0.0)):
        two.add_peer(peer, local=True, rate=rate)
        two.heard(peer, 0, WHOLE)
    assert two.next_run(strange, 0.1) is None, "nobody is late yet"
    assert two.next_run(late, 30.0) is None, "it is the late one"
    for peer in (own, idle):
        one.heard(peer, 0, WHOLE)
    copied = one.next_run(own, 30.0)
    taken = two.next_run(strange, 30.0)
    assert copied is not None
    assert taken is not None
    assert leaves_of(copied) | leaves_of(taken) == {0, 1}
    assert one.next_run(idle, 30.0) is None, "both have just been asked for"
    give(two, taken, 30.1)
    one.found(0, taken.lo)
    assert two.next_run(strange, 30.1) is None, "so was what is left"
    give(one, copied, 30.1)
    two.found(0, copied.lo)
    assert one.finished
    assert two.finished


def test_at_the_end_what_a_sibling_has_in_flight_counts_as_handed_out() -> None:
    one, two = siblings([(0, 8)], [(0, 4)], layout=Layout.flat(8 * SUBTILE))
    two.add_peer(C, local=True, rate=100e6)
    two.heard(C, 0, WHOLE)
    assert leaves_of(*asked_at_once(two, C, 0.0)) == set(range(4))
    for peer in (A, B):
        one.add_peer(peer, local=True, rate=10e6)
        one.heard(peer, 0, part(range(4, 8)))
    late = leaves_of(*asked_at_once(one, A, 0.0))
    assert leaves_of(*asked_at_once(one, B, 0.0)) == set(range(4, 8)) - late
    for run in list(one.peers[B].runs):
        give(one, run, 0.1)
    assert set() < leaves_of(*asked_at_once(one, B, 3.0)) <= late


SIBLING_FILE = Layout.flat(24 * SUBTILE)


@given(st.data())
def test_siblings_finish_whatever_fails_and_share_nothing_in_flight(data: st.DataObject) -> None:
    """Three pulls of overlapping parts from one peer, who comes and goes and in the end stays.

    Nothing is asked for twice: only another peer than the late one would be asked for a copy.
    """
    pulls = siblings([(0, 24)], [(4, 20)], [(0, 3), (10, 24)], layout=SIBLING_FILE)
    now = 0.0
    for _ in range(data.draw(st.integers(0, 40))):
        now += 0.01
        what = data.draw(st.sampled_from(["add", "go", "ask", "send"]))
        step(pulls, data.draw(st.integers(0, 2)), what, now)
    for pull in pulls:
        pull.drop_peer(A)
        pull.add_peer(A, local=True)
        pull.heard(A, 0, WHOLE)
    for _ in range(200):
        now += 0.01
        for at in range(3):
            step(pulls, at, "ask", now)
            step(pulls, at, "send", now)
    assert all(pull.finished for pull in pulls)


def step(pulls: list[Schedule], at: int, what: str, now: float) -> None:
    """One thing that happens in the pull number `at`, whose only peer is A."""
    pull = pulls[at]
    if what == "add" and A not in pull.peers:
        pull.add_peer(A, local=True)
        pull.heard(A, 0, WHOLE)
    elif what == "go":
        pull.drop_peer(A)
    elif A in pull.peers and what == "ask":
        others = leaves_of(*(run for it in pulls for p in it.peers.values() for run in p.runs))
        run = pull.next_run(A, now)
        assert not leaves_of(run) & others
    elif A in pull.peers and pull.peers[A].runs:
        run = pull.peers[A].runs[0]
        leaf = run.next
        pull.arrived(run, now)
        for other in pulls:
            if other is not pull:
                other.found(0, leaf)


def test_liars_with_thousands_of_runs_do_not_make_us_look_without_end() -> None:
    """Sorting chunks by rarity looks at every run that is said to be held; who changes what it
    says with every poll must not have us do that each time."""
    layout = Layout.flat(20_000 * SUBTILE)
    schedule = schedule_of(layout)
    looked = 0
    liars = [bytes([100 + n]) * 38 for n in range(20)]
    for liar in liars:
        schedule.add_peer(liar, local=True)
    now = 0.0
    for poll in range(20):
        for liar in liars:
            schedule.heard(liar, 0, part(range(poll % 2, 8000, 2)))
            batch = schedule.wants_order(now)
            if batch is not None:
                looked += now > 0.4  # by then all have said something
                SLOT.reference(batch)
                schedule.ordered(batch)
            schedule.next_run(liar, now)
            now += 0.01
    # 80,000 runs take 0.1 s to look at: once or twice in 3.6 s, and not twenty times.
    assert 1 <= looked <= 2
