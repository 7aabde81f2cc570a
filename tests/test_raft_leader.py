"""The leader: batches, tallies, sending again; and how long all of it takes."""

import statistics
from functools import partial

import pytest

from protocols.effects import Blame
from protocols.ledger.council import Kind, check_certificate, start_certificate
from protocols.raft.fetch import BUDGET, TIMES
from protocols.raft.log import MAX_TAIL_BYTES
from protocols.raft.messages import (
    Append,
    Certified,
    Fetch,
    Fetched,
    Signed,
    Suspicion,
    TimedOut,
    unpack,
)
from protocols.raft.ports import Alarm, Ratify, Settings, Submitted
from tests.gossip_kit import mac_verify
from tests.raft_kit import (
    REALM,
    SETTINGS,
    Node,
    World,
    certify,
    make_council,
    sign_statement,
    sign_time_out,
    tick,
)
from tests.raft_lone import Chain, Lone

COUNCIL = make_council(4)
START = start_certificate(COUNCIL)
L1, L2 = COUNCIL.leader(1), COUNCIL.leader(2)
OTHERS = [seat for seat in range(4) if seat != L1]


def leader(*payloads: bytes) -> Lone:
    lone = Lone(L1)
    submit(lone, *payloads)
    return lone


def submit(lone: Lone, *payloads: bytes) -> None:
    for payload in payloads:
        lone.pool.waiting[payload] = lone.now
    lone.handle(Submitted())


def sign(lone: Lone, seat: int, kind: Kind, head: object = None, term: int = 1) -> None:
    where = lone.replica.end if head is None else head
    lone.hear(seat, Signed(*sign_statement(COUNCIL, seat, kind, term, where)))  # type: ignore[arg-type]


def batches(lone: Lone) -> list[tuple[int, int]]:
    """(entry before it, entries) of each batch that the first other member was sent."""
    return [(m.prev.index, len(m.lengths)) for seat, m in lone.sent(Append) if seat == OTHERS[0]]


def test_two_quorums_ratify() -> None:
    lone = leader(b"n1", b"n2")
    assert batches(lone) == [(0, 2)]
    assert sorted({seat for seat, _ in lone.sent(Append)}) == OTHERS
    sign(lone, OTHERS[0], Kind.ACK)
    assert lone.sent(Certified) == []
    sign(lone, OTHERS[1], Kind.ACK)
    [(_, certified), *rest] = lone.sent(Certified)
    assert len(rest) == 2
    check_certificate(REALM, COUNCIL, certified.certificate, mac_verify)
    sign(lone, OTHERS[2], Kind.CERTIFICATE_ACK)
    assert lone.of(Ratify) == []
    sign(lone, OTHERS[0], Kind.CERTIFICATE_ACK)
    [ratify] = lone.of(Ratify)
    assert list(ratify.payloads) == [b"n1", b"n2"]
    check_certificate(REALM, COUNCIL, ratify.certificate, mac_verify)
    assert [m.certificate for _, m in lone.sent(Certified)] == [ratify.certificate] * 3


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.CERTIFICATE_ACK])
def test_one_seat_counts_once_and_a_forger_not_at_all(kind: Kind) -> None:
    lone = leader(b"n1")
    if kind is Kind.CERTIFICATE_ACK:
        for seat in OTHERS[:2]:
            sign(lone, seat, Kind.ACK)
    lone.effects = []
    for _ in range(3):
        sign(lone, OTHERS[0], kind)
    said, _ = sign_statement(COUNCIL, OTHERS[1], kind, 1, lone.replica.end)
    lone.hear(OTHERS[1], Signed(said, bytes(64)))
    assert lone.of(Blame)
    assert lone.sent(Certified) == []
    assert lone.of(Ratify) == []


def test_acks_of_an_old_term_do_not_count() -> None:
    lone = leader(b"n1")
    for seat in OTHERS[:2]:
        sign(lone, seat, Kind.ACK, term=0)
    assert lone.sent(Certified) == []


def test_a_certificate_covers_the_marks_before_it() -> None:
    lone = leader(b"n1")
    lone.now += 1
    submit(lone, b"n2")
    end = lone.replica.end
    assert end.index == 2
    for seat in OTHERS[:2]:
        sign(lone, seat, Kind.ACK, end)
    assert lone.sent(Certified)[0][1].certificate.said.head == end
    for seat in OTHERS[:2]:
        sign(lone, seat, Kind.CERTIFICATE_ACK, end)
    assert [len(ratify.payloads) for ratify in lone.of(Ratify)] == [2]


def test_batches_follow_at_once_or_after_the_gap() -> None:
    lone = leader(b"n1")
    submit(lone, b"n2")
    submit(lone, b"n3")
    assert batches(lone) == []
    lone.wait(SETTINGS.gap)
    assert batches(lone) == [(1, 2)]


def test_the_pipeline_is_bounded() -> None:
    lone = leader(b"n0")
    for number in range(1, SETTINGS.pipeline + 10):
        lone.now += SETTINGS.gap
        submit(lone, b"n%d" % number)
    assert lone.replica.end.index == SETTINGS.pipeline
    first = Chain(b"n0").head
    for seat in OTHERS[:2]:
        sign(lone, seat, Kind.ACK, first)
    assert lone.replica.end.index == SETTINGS.pipeline + 10
    assert batches(lone) == [(SETTINGS.pipeline, 10)]


def test_a_batch_is_bounded() -> None:
    lone = leader(*[b"n%d" % number for number in range(SETTINGS.max_batch + 3)])
    assert batches(lone) == [(0, SETTINGS.max_batch)]


def test_entries_that_are_not_valid_behind_others_are_left_out() -> None:
    lone = leader(b"n1", b"xx", b"n2")
    assert batches(lone) == [(0, 2)]


def test_what_is_not_answered_is_sent_again_ever_more_rarely() -> None:
    lone = leader(b"n1")
    lone.wait(SETTINGS.time_out * 0.9)
    early = [seat for seat, _ in lone.sent(Append)]
    assert sorted(set(early)) == OTHERS
    lone.wait(20 * SETTINGS.time_out)
    late = [seat for seat, _ in lone.sent(Append)]
    assert len(late) / 20 < len(early)  # a time-out between two, for one that keeps silent
    assert len(late) >= 15


def test_only_whoever_did_not_answer_is_sent_it_again() -> None:
    lone = leader(b"n1")
    sign(lone, OTHERS[0], Kind.ACK)
    lone.wait(SETTINGS.retry * 1.5)
    assert sorted({seat for seat, _ in lone.sent(Append)}) == OTHERS[1:]


def test_whoever_says_it_again_is_shown_the_certificate() -> None:
    lone = leader(b"n1")
    head = lone.replica.end
    for kind in (Kind.ACK, Kind.CERTIFICATE_ACK):
        for seat in OTHERS[:2]:
            sign(lone, seat, kind)
    lone.now += SETTINGS.retry
    sign(lone, OTHERS[0], Kind.CERTIFICATE_ACK, head)
    [(seat, message)] = lone.sent(Certified)
    assert seat == OTHERS[0]
    assert message.certificate.ratifies
    sign(lone, OTHERS[0], Kind.CERTIFICATE_ACK, head)
    assert lone.sent(Certified) == []  # not for each copy


def test_an_idle_leader_proposes_a_tick() -> None:
    lone = Lone(L1)
    lone.wait(SETTINGS.tick + 0.01)
    assert batches(lone) == [(0, 1)]
    lone.wait(3 * SETTINGS.tick)
    assert lone.replica.end.index == 1  # one is enough until it is ratified


def test_ticks_that_have_become_old_are_not_proposed_again() -> None:
    lone = Lone(L2)
    chain = Chain(b"n1", tick(lone.unix_ms), b"n2")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.now += 100
    lone.handle(Alarm())
    for seat in [seat for seat in range(4) if seat != L2][:2]:
        lone.hear(seat, Suspicion(1, 1, 0))
        lone.hear(seat, TimedOut(sign_time_out(COUNCIL, seat, 2, START), START))
    found = [m for _, m in lone.sent(Append)]
    lone.wait(0.01)
    found += [m for _, m in lone.sent(Append)]
    assert found[0].prev.index == 0
    assert len(found[0].lengths) == 1
    lone.hear(L1, Fetch(1, chain.head, 0))
    assert len(lone.sent(Fetched)[0][1].headers) == 3  # moved aside, not forgotten


def test_a_lagging_member_is_brought_up_from_where_it_stands() -> None:
    world = World(4)
    late = next(node for node in world.nodes if node is not world.leader)
    world.isolate(late.seat)
    for number in range(40):
        world.leader.submit(b"n%d" % number)
        world.run(0.05)
    assert late.replica.ratified.index == 0
    world.heal()
    assert world.run(2 * SETTINGS.time_out, lambda: late.replica.ratified.index >= 40)
    world.run(1.0)
    assert late.replica.end == world.leader.replica.end


def test_a_starved_member_learns_what_is_ratified_from_the_others() -> None:
    world = World(4)
    late = next(node for node in world.nodes if node is not world.leader)
    world.cuts.add((world.leader.seat, late.seat))
    world.submit(b"n1")
    assert world.run(3 * SETTINGS.time_out, world.everywhere(b"n1"))
    term = world.leader.replica.term
    world.run(20)
    assert late.replica.ratified.index > 50
    assert world.leader.replica.term == term  # one who suspects is no quorum


def test_fetching_is_bounded() -> None:
    lone = leader(*[b"n%d" % number + bytes(50_000) for number in range(40)])
    top, below = lone.replica.end, Chain(*lone.pool.waiting).heads[-2]
    assert lone.replica.end.index < 40  # a frame's worth
    answers = bytes_sent = 0
    for number in range(1000):
        lone.hear(OTHERS[0], Fetch(1, (top, below)[number % 2], 0))
        answers += len(lone.sent(Fetched))
        bytes_sent += sum(sum(message.lengths) for _, message in lone.sent(Fetched))
        lone.now += 2 * SETTINGS.time_out / 1000
    windows = 3  # that two time-outs can touch
    assert 2 <= answers <= 2 * TIMES * windows * 2
    assert bytes_sent <= TIMES * windows * 50_010 * lone.replica.end.index
    assert BUDGET >= 2 * MAX_TAIL_BYTES


def test_the_bytes_of_all_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.raft.fetch.BUDGET", 120_000)
    lone = leader(*[b"n%d" % number + bytes(50_000) for number in range(8)])
    sent = 0
    for head in Chain(*lone.pool.waiting).heads:
        lone.hear(OTHERS[0], Fetch(1, head, head.index - 1))
        sent += len(lone.sent(Fetched))
    assert sent == 2
    lone.now += SETTINGS.time_out / 2
    lone.hear(OTHERS[0], Fetch(1, lone.replica.end, lone.replica.end.index - 1))
    assert len(lone.sent(Fetched)) == 1


def test_a_long_tail_that_was_kept_from_a_member_is_fetched_in_time() -> None:
    """The leader certifies 3 MB with two members, sends the third nothing, and falls silent."""
    world = World(4, 2)
    world.run(0.5)
    liar = world.leader.seat
    starved = next(seat for seat in range(4) if seat != liar)
    silent = False

    def keep(sender: int, receiver: int, data: bytes) -> bool:
        message = unpack(data)[0]
        if sender != liar:
            return True
        if silent or (receiver == starved and isinstance(message, Append | Certified)):
            return False
        return not (isinstance(message, Certified) and message.certificate.ratifies)

    world.filters.append(keep)
    for number in range(60):
        world.nodes[liar].submit(b"n%d-" % number + bytes(50_000))
    world.run(0.4)
    silent = True
    others = [node for node in world.nodes if node.seat != liar]
    assert max(node.replica.high.said.index for node in others) > 55
    before, when = max(len(node.history) for node in others), world.now
    assert world.run(8, lambda: max(len(node.history) for node in others) > before)
    assert (world.now - when) / SETTINGS.time_out < 4


def test_the_same_place_is_not_sent_twice_in_a_row() -> None:
    lone = leader(b"n1")
    lone.hear(OTHERS[0], Fetch(1, lone.replica.end, 0))
    assert len(lone.sent(Fetched)) == 1
    lone.hear(OTHERS[0], Fetch(1, lone.replica.end, 0))
    assert lone.sent(Fetched) == []
    lone.now += SETTINGS.retry
    lone.hear(OTHERS[0], Fetch(1, lone.replica.end, 0))
    assert len(lone.sent(Fetched)) == 1


def test_ratified_entries_are_for_followers() -> None:
    lone = leader(b"n1")
    head = lone.replica.end
    for kind in (Kind.ACK, Kind.CERTIFICATE_ACK):
        for seat in OTHERS[:2]:
            sign(lone, seat, kind)
    lone.hear(OTHERS[2], Fetch(1, head, 0))
    assert lone.sent(Fetched) == []
    [(_, message)] = lone.sent(Certified)
    assert message.certificate.ratifies


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5, 7, 10])
def test_councils_of_any_size(members: int) -> None:
    world = World(members)
    world.submit(b"n1", b"n2")
    assert world.run(2, world.everywhere(b"n1", b"n2"))
    world.agree()
    assert not world.blamed


@pytest.mark.parametrize("rate", [5, 200])
def test_two_round_trips_and_a_half(rate: int) -> None:
    """100 ms between any two of seven members; entries in even intervals."""
    world = World(7, delay=(0.05, 0.05), settings=Settings())
    lead = world.leader
    for number in range(rate * 4):
        world.later(0.5 + number / rate, partial(lead.submit, b"n%d" % number))
    seen: list[tuple[bool, float]] = []

    def note(node: Node, payload: bytes) -> None:
        if payload[:1] == b"n":
            seen.append((node is lead, world.now - 0.5 - int(payload[1:]) / rate))

    world.on_ratified = note
    world.run(6)
    commit = statistics.median(took for leads, took in seen if leads) / 0.1
    certificate = statistics.median(took for leads, took in seen if not leads) / 0.1
    assert len(seen) > rate * 20
    assert 1.9 < commit <= 2.2
    assert 2.4 < certificate <= 2.7
    assert {node.replica.term for node in world.nodes} == {1}


def higher(world: World, than: int) -> bool:
    return world.highest() > than


def test_a_killed_leader_costs_less_than_three_time_outs() -> None:
    took = []
    for seed in range(24):
        world = World(4, seed, delay=(0.005, 0.03))
        world.run(1 + seed * 0.037)
        world.leader.stop()
        killed = world.now
        assert world.run(5, partial(higher, world, world.highest()))
        took.append((world.now - killed) / SETTINGS.time_out)
    assert max(took) < 2


def test_the_proof_of_a_term_reaches_who_slept_through_it() -> None:
    world = World(7)
    first = world.leader
    sleeper = world.nodes[(first.seat + 1) % 7]
    world.run(0.4)
    world.isolate(sleeper.seat)
    first.stop()
    world.run(3)
    assert sleeper.replica.term == 1
    assert world.leader.replica.term > 1
    world.heal()
    first.start()
    assert world.run(2, lambda: len({node.replica.term for node in world.nodes}) == 1)
    assert world.run(2, lambda: world.lowest() == world.highest())


def test_all_crash_at_once_and_go_on() -> None:
    world = World(4)
    world.submit(b"n1")
    world.run(0.012)
    for node in world.nodes:
        node.stop()
    world.run(0.1)
    for node in world.nodes:
        node.start()
    assert world.run(3, world.everywhere(b"n1"))
    assert world.leader.replica.term <= 2
    assert not any(node.replica.lost for node in world.nodes)


def test_certificates_of_strangers_prove_nothing() -> None:
    lone = leader(b"n1")
    few = certify(COUNCIL, Kind.CERTIFICATE_ACK, 1, lone.replica.end, OTHERS[:2])
    lone.hear(OTHERS[0], Certified(few))
    assert lone.of(Ratify) == []
    assert lone.of(Blame)
