"""The council's rules, each scripted so that a Replica without it does the forbidden thing.

The failures that they prevent are those of docs/council.md. Rule 3 is in test_raft_terms.py, and
what outlives a restart (rules 7 and 8) in test_raft_memory.py.
"""

from protocols.effects import Blame
from protocols.ledger.council import Fork, Kind, check_guilt
from protocols.raft.messages import (
    Append,
    Certified,
    Fetch,
    Signed,
    Suspicion,
    TimedOut,
)
from protocols.raft.ports import Accuse, Behind, Installed, Ratified, Ratify, Start
from tests.gossip_kit import mac_verify
from tests.raft_kit import (
    REALM,
    SETTINGS,
    World,
    certify,
    make_council,
    sign_time_out,
)
from tests.raft_lone import Chain, Lone, opening
from tests.raft_scripts import COUNCIL, L1, L2, ME, OTHERS, START, acked, certified, locked

# -- rule 1: one chain a term ------------------------------------------------------------------


def test_a_member_acknowledges_what_the_leader_sends() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1", b"n2")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(lone) == [(1, 2)]
    assert [seat for seat, _ in lone.sent(Signed)] == [L1]


def test_no_second_branch_in_a_term_even_under_a_higher_certificate() -> None:
    """A, B, L acknowledged 1a; L shows everybody a certificate for 1b·2b."""
    lone = Lone(ME)
    a, b = Chain(b"na"), Chain(b"nb", b"nc")
    lone.hear(L1, *a.append(COUNCIL, 1))
    assert acked(lone) == [(1, 1)]
    lone.hear(L1, *b.append(COUNCIL, 1))
    assert acked(lone) == []
    lone.hear(L1, Certified(certified(b)))
    assert locked(lone) == []
    lone.hear(L1, *b.fetched(COUNCIL))
    assert locked(lone) == []
    assert lone.replica.high.said.head == b.head  # it is the highest certificate all the same
    lone.hear(L1, *b.append(COUNCIL, 1))
    assert acked(lone) == []
    assert locked(lone) == []
    for _ in range(8):
        lone.wait(SETTINGS.retry)
        assert {(s.index, s.hash) for s in lone.signed(Kind.ACK)} <= {(1, a.head.hash)}
    lone.hear(L1, *Chain(b"nd", after=a).append(COUNCIL, 1))
    assert acked(lone) == [(1, 2)]  # and on its own branch it goes on


def test_a_leader_that_acknowledges_two_branches_is_accused() -> None:
    lone = Lone(ME)
    a, b = Chain(b"na", b"nx"), Chain(b"nb", b"nc", b"nd")
    lone.hear(L1, *a.append(COUNCIL, 1))
    lone.hear(L1, *b.append(COUNCIL, 1))
    [accuse] = lone.of(Accuse)
    assert isinstance(accuse.guilt, Fork)
    assert check_guilt(REALM, COUNCIL, accuse.guilt, mac_verify) == COUNCIL.seats[L1]
    lone.hear(L1, *Chain(b"ne").append(COUNCIL, 1))
    assert lone.of(Accuse) == []  # once is enough


def test_an_unsigned_branch_accuses_nobody() -> None:
    lone = Lone(ME)
    a, b = Chain(b"na"), Chain(b"nb")
    lone.hear(L1, *a.append(COUNCIL, 1))
    message, parts = b.append(COUNCIL, 1)
    lone.hear(L1, Append(1, 1, message.prev, bytes(64), message.lengths), parts)
    assert lone.of(Accuse) == []
    assert acked(lone) == []


def test_a_leader_that_does_not_sign_its_mark_is_not_followed() -> None:
    """It could equivocate for ever, and nothing would prove it."""
    lone = Lone(ME)
    message, parts = Chain(b"n1").append(COUNCIL, 1)
    lone.hear(L1, Append(1, 1, message.prev, bytes(64), message.lengths), parts)
    assert acked(lone) == []
    assert [blame.peer for blame in lone.of(Blame)] == [COUNCIL.seats[L1].identity]
    lone.hear(L1, message, parts)
    assert acked(lone) == [(1, 1)]


def test_what_is_sent_again_in_other_pieces_is_signed_too() -> None:
    world = World(4)
    late = next(node for node in world.nodes if node is not world.leader)
    world.cuts.add((world.leader.seat, late.seat))
    for number in range(12):
        world.leader.submit(b"n%d" % number)
        world.run(0.004)
    world.heal()
    world.run(0.5)
    assert late.replica.end.index >= 12
    assert world.blamed == []


# -- rule 2: floor -----------------------------------------------------------------------------


def test_nobody_signs_below_the_place_where_the_term_opened() -> None:
    """(t, 5) is ratified; in t+1 a lagging member is asked to acknowledge 4."""
    lone = Lone(ME)
    low, high = Chain(b"n1"), Chain(b"n1", b"n2")
    lone.hear(L1, *low.append(COUNCIL, 1))
    lone.hear(L2, opening(COUNCIL, 2, certified(high), OTHERS))
    assert acked(lone) == []
    assert [message.top for _, message in lone.sent(Fetch)] == [high.head]
    lone.hear(L2, *low.append(COUNCIL, 2))
    assert acked(lone) == []
    lone.wait(0.3)
    assert acked(lone) == []
    lone.hear(L2, *Chain(b"n2", after=low).fetched(COUNCIL))
    assert acked(lone) == [(2, 2)]
    lone.hear(L2, *low.append(COUNCIL, 2))
    assert (2, 1) not in acked(lone)


def test_a_branch_that_leaves_below_the_floor_is_not_acknowledged() -> None:
    lone = Lone(ME)
    high = Chain(b"n1", b"n2")
    lone.hear(L1, *high.append(COUNCIL, 1))
    lone.hear(L2, opening(COUNCIL, 2, certified(high), OTHERS))
    assert acked(lone) == [(2, 2)]
    other = Chain(b"n1", b"nx", b"ny")
    lone.hear(L2, *other.append(COUNCIL, 2))
    assert acked(lone) == []


# -- rule 4: the opening head ------------------------------------------------------------------


def test_certificates_of_an_old_term_are_held_and_not_acknowledged() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L2, opening(COUNCIL, 2, START, OTHERS))
    lone.hear(L1, Certified(certified(chain)))
    assert locked(lone) == []
    assert lone.replica.high == certified(chain)
    for _ in range(4):
        lone.wait(SETTINGS.retry)
        assert locked(lone) == []


def test_a_new_term_acknowledges_its_opening_head_again() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(lone) == [(1, 1)]
    lone.hear(L2, opening(COUNCIL, 2, certified(chain), OTHERS))
    assert acked(lone) == [(2, 1)]
    lone.hear(L2, Certified(certified(chain, 2)))
    assert locked(lone) == [(2, 1)]
    lone.hear(L2, Certified(certified(chain, 2, Kind.CERTIFICATE_ACK)))
    [ratify] = lone.of(Ratify)
    assert list(ratify.payloads) == [b"n1"]


def test_the_leaders_own_tail_is_proposed_again() -> None:
    lone = Lone(L2)
    chain = Chain(b"n1")
    tail = Chain(b"n2", b"n3", after=chain)
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.hear(L1, *tail.append(COUNCIL, 1))
    lone.hear(L1, Certified(certify(COUNCIL, Kind.ACK, 1, chain.head, [0, 1, 2, 3])))
    lone.wait(SETTINGS.time_out + 0.01)
    others = [seat for seat in range(4) if seat != L2]
    high = certify(COUNCIL, Kind.ACK, 1, chain.head, [0, 1, 2, 3])
    for seat in others[:2]:
        lone.hear(seat, TimedOut(sign_time_out(COUNCIL, seat, 2, high), high))
    batches = [message for _, message in lone.sent(Append)]
    lone.wait(0.02)
    batches += [message for _, message in lone.sent(Append)]
    assert batches
    assert batches[0].prev == chain.head
    assert len(batches[0].lengths) == 2


# -- rule 5: timer -----------------------------------------------------------------------------


def test_no_message_of_the_leaders_resets_the_timer() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    suspected = False
    for step in range(12):
        lone.hear(L1, *chain.append(COUNCIL, 1))
        lone.hear(L1, Certified(certified(chain)))
        lone.hear(L1, Certified(START))
        lone.wait(SETTINGS.time_out / 10)
        suspected = suspected or bool(lone.sent(Suspicion))
        assert suspected == (step >= 9 + 0) or step == 9
    assert suspected


def test_a_newly_ratified_entry_resets_the_timer() -> None:
    lone = Lone(ME)
    chain = Chain(b"n1")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    lone.wait(SETTINGS.time_out * 0.9)
    lone.hear(L1, Certified(certified(chain, kind=Kind.CERTIFICATE_ACK)))
    lone.wait(SETTINGS.time_out * 0.9)
    assert lone.sent(Suspicion) == []
    lone.hear(L1, Certified(certified(chain, kind=Kind.CERTIFICATE_ACK)))  # not new any more
    lone.wait(SETTINGS.time_out * 0.2)
    assert lone.sent(Suspicion)


def test_an_idle_council_stays_in_its_term() -> None:
    world = World(4)
    world.run(30)
    assert [node.replica.term for node in world.nodes] == [1, 1, 1, 1]
    assert world.lowest() > 90


def test_a_censoring_leader_is_replaced() -> None:
    world = World(4)
    world.leader.pool.hidden = {b"ncensored"}
    censor = world.leader.seat
    world.submit(b"ncensored")
    assert world.run(3.5, world.everywhere(b"ncensored"))
    assert world.leader.seat != censor
    assert world.highest() > 3  # ticks went on meanwhile


def test_the_next_leader_has_its_time_for_what_was_censored() -> None:
    world = World(4)
    for node in world.nodes:
        node.pool.hidden = {b"nnever"}
    world.submit(b"nnever")
    world.run(10)
    assert 5 <= world.leader.replica.term <= 11


# -- rule 6: epoch -----------------------------------------------------------------------------


def test_nothing_follows_the_entry_that_ends_the_epoch() -> None:
    lone = Lone(ME)
    chain = Chain(b"e1", b"nafter")
    lone.hear(L1, *chain.append(COUNCIL, 1))
    assert acked(lone) == []
    assert lone.of(Blame)
    end = Chain(b"e1")
    lone.hear(L1, *end.append(COUNCIL, 1))
    assert acked(lone) == [(1, 1)]
    lone.hear(L1, *Chain(b"nafter", after=end).append(COUNCIL, 1))
    assert acked(lone) == []


def test_the_epochs_last_entry_is_ratified_whoever_leads_then() -> None:
    """It is certified and not ratified when the leader dies: no empty entry may follow it."""
    world = World(4)
    world.run(0.5)
    leader = world.leader
    world.filters.append(
        lambda sender, receiver, data: sender != leader.seat or not _is_ratifying(data)
    )
    world.filters.append(
        lambda sender, receiver, data: receiver != leader.seat or not _is_lock(data)
    )
    world.submit(b"e1")
    world.run(0.2)
    assert all(node.replica.high.said.index == node.replica.end.index for node in world.nodes)
    assert not any(b"e1" in node.history for node in world.nodes)
    leader.stop()
    world.filters.clear()
    world.submit(b"nafter")
    assert world.run(4, world.everywhere(b"e1"))
    world.run(2)
    for node in world.nodes:
        if node.up:
            assert node.history[-1] == b"e1"
            assert node.replica.over
            assert node.replica.wake_at() is None


def _is_ratifying(data: bytes) -> bool:
    from protocols.raft.messages import unpack

    message = unpack(data)[0]
    return isinstance(message, Certified) and message.certificate.ratifies


def _is_lock(data: bytes) -> bool:
    from protocols.raft.messages import unpack

    message = unpack(data)[0]
    return isinstance(message, Signed) and message.said.kind is Kind.CERTIFICATE_ACK


def test_after_the_end_whoever_asks_is_told() -> None:
    lone = Lone(ME)
    end = Chain(b"e1")
    lone.hear(L1, *end.append(COUNCIL, 1))
    lone.hear(L1, Certified(certified(end, kind=Kind.CERTIFICATE_ACK)))
    assert lone.replica.over
    lone.hear(L2, Suspicion(1, 1, 0))
    [(seat, message)] = lone.sent(Certified)
    assert (seat, message.certificate.said.head) == (L2, end.head)


def test_other_epochs() -> None:
    lone = Lone(ME)
    lone.hear(L1, Suspicion(2, 1, 0))
    [behind] = lone.of(Behind)
    assert behind.peer == COUNCIL.seats[L1].identity
    lone.hear(L2, *Chain(b"n1").append(COUNCIL, 1))
    assert acked(lone) == []


# -- following ---------------------------------------------------------------------------------


def test_whoever_lacks_ratified_entries_asks_to_follow_and_goes_on_from_there() -> None:
    lone = Lone(ME)
    chain = Chain(*[b"n%d" % n for n in range(20)])
    proof = certified(chain, kind=Kind.CERTIFICATE_ACK)
    lone.hear(L1, Certified(proof))
    assert [(b.peer, b.index) for b in lone.of(Behind)] == [(COUNCIL.seats[L1].identity, 20)]
    for payload in chain.payloads:
        lone.ledger.apply(payload, mac_verify)
    lone.handle(Ratified(chain.payloads, proof))
    assert lone.replica.ratified == chain.head
    lone.hear(L1, *Chain(b"nmore", after=chain).append(COUNCIL, 1))
    assert acked(lone) == [(1, 21)]


def test_an_installed_ledger_replaces_the_log() -> None:
    lone = Lone(ME)
    lone.hear(L1, *Chain(b"nlost").append(COUNCIL, 1))
    lone.hear(L2, opening(COUNCIL, 2, START, OTHERS))
    chain = Chain(*[b"n%d" % n for n in range(9)])
    lone.handle(Installed(chain.ledger, certified(chain, 2, Kind.CERTIFICATE_ACK)))
    assert lone.replica.ratified == lone.replica.end == chain.head
    lone.now += 1
    assert lone.replica.high.rank == (2, 9)


def test_a_seat_starts_again_on_an_older_epochs_record() -> None:
    lone = Lone(ME)
    lone.hear(L1, *Chain(b"n1").append(COUNCIL, 1))
    later = make_council(4, epoch=2)
    ledger = lone.ledger.copy()
    ledger.epoch = 2
    again = Lone(ME, council=later, disk=lone.disk, ledger=ledger)
    assert not again.replica.lost
    assert again.replica.term == 1


def test_start_alone_signs_nothing() -> None:
    lone = Lone(ME, start=False)
    lone.handle(Start())
    assert lone.sent(Signed) == []
