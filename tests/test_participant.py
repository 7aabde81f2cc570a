"""Whole participants: submissions, epochs, lost keys, censorship, restarts."""

import itertools

import pytest

from protocols.cid import cid_of
from protocols.council.participant import (
    PROTOCOLS,
    TOPICS,
    Examined,
    Measured,
    Received,
    Settings,
    Submit,
)
from protocols.council.submitting import PROTOCOL as SUBMIT
from protocols.council.submitting import pack_items, unpack_items
from protocols.follow.follower import Alarm
from protocols.follow.messages import PROTOCOL as LEDGER
from protocols.follow.messages import Status, frame
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict as Judgement
from protocols.ledger.council import Instant
from protocols.ledger.entries import YES, Note, Proposal, encode_entry
from protocols.ledger.errors import InvalidEntryError, ReplayedError
from protocols.ledger.proof import forks
from protocols.ledger.signing import candidacy, cast, submit
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.raft.ports import Accuse
from protocols.raft.state import blank_state
from tests.gossip_kit import MacIdentity, cid
from tests.ledger_world import NETWORK, fork_of
from tests.participant_world import Daemon, World

FAST = {"council__time_out_ms": 2000, "council__tick_ms": 400}
"""So that a world of some seconds sees ticks and terms."""


def world(
    seats: int = 4, others: int = 0, settings: Settings | None = None, **changes: int
) -> World:
    made = World(seats, others, settings, **(FAST | changes)).start()
    made.run(1)
    return made


def agree(world: World) -> bool:
    digests = {daemon.part.ledger.digest() for daemon in world.daemons.values() if daemon.up}
    return len(digests) == 1


def settled(daemon: Daemon, data: bytes) -> list[int]:
    return [each.index for each in daemon.settled if each.data == data]


def test_what_anybody_submits_is_ratified_and_told_to_all() -> None:
    made = world(others=2)
    sent = {
        daemon: daemon.submit(Note(text=f"by {daemon.peer.hex()}"))
        for daemon in made.daemons.values()
    }
    assert made.run(5, lambda: all(settled(daemon, data) for daemon, data in sent.items()))
    assert made.run(3, lambda: agree(made))
    for daemon, data in sent.items():
        (index,) = settled(daemon, data)
        assert daemon.part.follower.chain.history.log.payload(index) == data
        assert len(daemon.part.pool) == 0
        assert not daemon.blamed
    assert not any(daemon.told("council.suspects") for daemon in made.daemons.values())


def test_our_owners_nonsense_is_refused_by_name() -> None:
    made = world()
    daemon = made.members[0]
    with pytest.raises(InvalidEntryError):
        daemon.do(Submit(b"nonsense"))
    data = daemon.submit(Note(text="once"))
    assert made.run(5, lambda: bool(settled(daemon, data)))
    with pytest.raises(ReplayedError):
        daemon.do(Submit(data))


def test_what_others_send_never_raises() -> None:
    made = world()
    daemon, other = made.members[0], made.members[1]
    note = made.branch.note()
    junk = [b"", b"\0", b"\xff" * 100, note, bytes(200_000), *pack_items([b"x", note[:-1]])]
    for protocol, data in itertools.product((*PROTOCOLS, "/synapse/else/1.0.0"), junk):
        daemon.do(Received(other.peer, protocol, data))
        daemon.do(Received(MacIdentity("stranger").peer_id, protocol, data))
    assert {blame.fault for blame in daemon.blamed} <= {Fault.MALFORMED, Fault.REJECTED}
    for kind, data in itertools.product((*TOPICS, "else"), junk):
        verdict, _ = daemon.part.hear(other.peer, kind, data, made.instant)
        assert verdict is not Judgement.ACCEPT or data == note
    before = daemon.head
    made.run(2)
    assert daemon.head > before


def test_a_leader_that_leaves_somebody_out_is_deposed() -> None:
    """The submission goes to all members after half a time-out, and they suspect the leader."""
    made = world(others=1)
    outsider = made.others[0]
    leader = outsider.part.leader
    censored = next(one for one in made.members if one.peer == leader)
    take = censored.part.pool.take

    def leave_out(*arguments: object) -> list[bytes]:
        return [one for one in take(*arguments) if outsider.peer not in one]  # type: ignore

    censored.part.pool.take = leave_out  # type: ignore[method-assign]
    data = outsider.submit(Note(text="hear me"))
    assert made.run(30, lambda: bool(settled(outsider, data)))
    assert outsider.part.leader != leader
    assert any(member.told("council.suspects") for member in made.members)


def test_who_reaches_no_member_is_heard_by_gossip() -> None:
    made = world(others=1)
    outsider = made.others[0]
    members = {member.peer for member in made.members}

    def lost(sender: bytes, to: bytes, what: str) -> bool:
        return what == SUBMIT and sender == outsider.peer and to in members

    made.lost = lost
    data = outsider.submit(Note(text="hear me"))
    assert made.run(10, lambda: bool(settled(outsider, data)))


def test_a_burst_shares_frames() -> None:
    made = world()
    follower = next(one for one in made.members if one.peer != one.part.leader)
    before = made.frames.get(SUBMIT, 0)
    notes = [follower.submit(Note(text=f"{number}")) for number in range(100)]
    assert made.run(5, lambda: all(settled(follower, data) for data in notes))
    assert made.frames[SUBMIT] - before < 10


def test_frames_of_submissions_are_what_was_packed() -> None:
    items = [bytes([number % 251 + 1]) * (number * 37 % 3000 + 1) for number in range(700)]
    frames = pack_items(items)
    assert [item for frame in frames for item in unpack_items(frame)] == items
    assert all(len(frame) <= PROTOCOLS[SUBMIT] for frame in frames)


def test_the_council_is_handed_over_at_the_end_of_an_epoch() -> None:
    made = world(council__epoch_ms=5000, settings=Settings(willing=True))
    assert made.run(20, lambda: all(one.part.ledger.epoch >= 3 for one in made.members))
    made.run(1)
    for member in made.members:
        assert member.part.seat is not None
        assert len(member.part.follower.chain.history.ended) == member.part.ledger.epoch - 1
    data = made.members[0].submit(Note(text="still here"))
    assert made.run(5, lambda: bool(settled(made.members[0], data)))
    assert made.run(2, lambda: agree(made))


def test_members_commit_reveal_and_report_their_round_trips() -> None:
    made = world(council__epoch_ms=20_000, settings=Settings(willing=True))
    trips = {member.peer: 30 for member in made.members}
    for member in made.members:
        member.do(Measured(trips))
    ledger = made.members[0].part.ledger
    assert made.run(19, lambda: len(ledger.reveals) == 4)
    assert set(ledger.candidates) == {member.peer for member in made.members}
    assert len(ledger.measured) == 4
    assert made.run(30, lambda: all(one.part.ledger.epoch == 2 for one in made.members))
    assert {seat.latency for seat in made.members[0].part.ledger.council.seats} == {5}


def test_an_outsider_with_reputation_that_is_willing_gets_a_seat() -> None:
    settings = Settings(willing=True)
    made = World(4, 0, settings, council__epoch_ms=5000, council__seats=5, **FAST)
    author = made.add(made.branch.author, settings)
    made.start()
    assert made.run(30, lambda: author.part.seat is not None)
    assert made.run(5, lambda: author.part.replica is not None)
    before = author.head
    made.run(3)
    assert author.head > before
    assert made.run(3, lambda: agree(made))


def test_a_member_that_lost_its_state_is_seated_anew_only_by_an_epoch_entry() -> None:
    """Rule 7: the key went with the state; a new one stands as a candidate first."""
    settings = Settings(willing=True)
    made = World(4, 0, settings, council__epoch_ms=6000, **FAST).start()
    made.run(2)
    victim = made.members[1]
    victim.kill()
    victim.disks["ledger"].rows.clear()
    victim.disks["council"].rows.clear()
    victim.seat = MacIdentity("a new seat key")
    victim.disks["council"].save(blank_state(victim.seat.public_key))
    epoch = made.members[0].part.ledger.epoch
    victim.start()
    made.run(1)
    assert victim.part.ledger.epoch == epoch
    assert victim.part.seat is None
    assert victim.part.replica is None
    assert made.run(30, lambda: victim.part.seat is not None)
    assert victim.part.ledger.epoch > epoch
    assert made.run(5, lambda: agree(made))


def test_all_killed_at_once_go_on_where_they_were() -> None:
    made = world()
    data = made.members[0].submit(Note(text="before"))
    assert made.run(5, lambda: bool(settled(made.members[0], data)))
    made.run(1)
    ratified = max(member.head for member in made.members)
    for member in made.members:
        member.kill()
    made.run(1)
    for member in made.members:
        member.start()
    assert made.run(10, lambda: min(member.head for member in made.members) > ratified)
    assert made.run(2, lambda: agree(made))
    assert not any(member.told("council.lost-state") for member in made.members)


def test_a_seat_signs_nothing_before_its_ledger_is_whole() -> None:
    made = world()
    made.run(2)
    victim = made.members[2]
    victim.kill()
    rows = victim.disks["ledger"].rows
    key = sorted(one for one in rows if one[:1] == b"e")[1]
    rows[key] = rows[key][:-1] + b"?"
    made.lost = lambda sender, to, what: what == LEDGER and victim.peer in (sender, to)
    victim.start()
    made.run(3)
    assert victim.told("ledger.damaged")
    assert victim.part.replica is None
    made.lost = lambda *_: False
    assert made.run(60, lambda: victim.part.replica is not None)
    assert made.run(5, lambda: agree(made))


def test_a_member_that_lags_catches_up_by_following() -> None:
    made = world()
    late = made.members[3]
    made.lost = lambda sender, to, _: late.peer in (sender, to)
    for number in range(60):
        made.members[0].submit(Note(text=f"{number}"))
        made.run(0.1)
    behind = made.members[0].head - late.head
    assert behind > 50
    made.lost = lambda *_: False
    assert made.run(20, lambda: late.head >= made.members[0].head)
    data = late.submit(Note(text="back"))
    assert made.run(10, lambda: bool(settled(late, data)))


def test_a_council_that_forks_is_reported_by_whoever_sees_it() -> None:
    made = world()
    made.run(2)
    daemon = made.members[0]
    ours = made.branch
    ours.append(
        *[daemon.part.follower.chain.history.log.payload(n) for n in range(1, daemon.head + 1)]
    )
    theirs = fork_of(ours, 1)
    theirs.notes(3)
    one, other = ours.certify(2, seats=[0, 1, 2]), theirs.certify(2, seats=[1, 2, 3])
    guilt = forks(one, other, [])[0]
    accused = ours.ledger.council.seats[guilt.seat].identity
    reporter = next(each for each in made.members if each.peer != accused)
    reporter.perform(reporter.part._from_seat([Accuse(guilt)], made.instant))
    assert made.run(10, lambda: all(accused in each.part.ledger.banned for each in made.members))


def test_a_proposal_about_manifests_is_examined_and_judged_by_members() -> None:
    made = world(others=1)
    proposer = made.members[0]
    manifest = ProposalManifest(
        title="Look at this", description="", author=proposer.peer, depends_on=(cid("model"),)
    )
    data = proposer.submit(Proposal(manifest=encode_manifest(manifest)))
    assert made.run(5, lambda: bool(settled(proposer, data)))
    made.run(1)
    # Nobody looks at what nobody voted for: whoever proposes could have all members fetch it.
    assert not any(one.examine for one in made.members)
    name = cid_of(encode_manifest(manifest))
    for member in made.members:
        yes = cast(
            member.part.ledger.realm,
            member.peer,
            name,
            choice=YES,
            epoch=1,
            number=1,
            sign=member.who.sign,
        )
        member.do(Submit(encode_entry(yes)))
    assert made.run(5, lambda: all(one.examine for one in made.members))
    assert not made.others[0].examine
    assert made.members[0].examine[0].proposal == name
    assert made.members[0].examine[0].manifest == manifest
    for member in made.members[:3]:
        member.do(Examined(name, True))
    found = made.members[3].part
    assert made.run(10, lambda: len(found.ledger.open[name].verdicts) == 3)
    assert [len(member.examine) for member in made.members] == [1] * 4


def test_a_quiet_daemon_asks_for_few_alarms() -> None:
    made = World(4, 1, **FAST)
    alone = made.others[0]
    made.daemons = {alone.peer: alone}
    alone.start()
    made.run(0.5)
    alarms = 0
    handle = alone.part.handle

    def counted(event: object, now: Instant) -> list[object]:
        nonlocal alarms
        alarms += isinstance(event, Alarm)
        return handle(event, now)  # type: ignore

    alone.part.handle = counted  # type: ignore
    made.run(60)
    assert alarms < 30
    assert alone.part.certificate is None


def test_a_seat_signs_nothing_on_a_ledger_that_was_seen_to_fork() -> None:
    made = world()
    made.run(1)
    daemon = made.members[0]
    ours = made.branch
    log = daemon.part.follower.chain.history.log
    ours.append(*[log.payload(index) for index in range(1, daemon.head + 1)])
    theirs = fork_of(ours, 1)
    theirs.notes(1)
    status = Status(
        network=NETWORK, genesis=ours.heads[0].hash, base=1, certificate=theirs.certify(2)
    )
    daemon.do(Received(made.members[1].peer, LEDGER, frame(status)))
    assert daemon.told("ledger.fork")
    assert daemon.part.replica is None
    head = daemon.head
    made.run(3)
    assert daemon.head == head
    # Told of it, the others stop as well: nobody acts on a branch that may be the wrong one.
    assert all(member.told("ledger.fork") for member in made.members)
    assert all(member.part.replica is None for member in made.members)


def test_a_member_that_keeps_something_from_the_leader_alone_unseats_nobody() -> None:
    """Whoever has it sends it to the leader itself, and only then does its timer run."""
    made = world()
    liar = made.members[-1]
    kept: list[bytes] = []
    terms = set()
    for number in range(80):
        made.run(0.25)
        made.members[0].submit(Note(text=f"honest {number}"))
        leader = made.members[0].part.leader
        if number % 4 == 0 and leader != liar.peer:
            kept.append(made.branch.note())
            (frame_,) = pack_items(kept[-1:])
            for member in made.members:
                if member.peer not in (liar.peer, leader):
                    member.do(Received(liar.peer, SUBMIT, frame_))
        replica = made.members[0].part.replica
        assert replica is not None
        terms.add(replica.term)
    assert len(kept) >= 10
    assert terms == {1}
    made.run(3)
    log = made.members[0].part.follower.chain.history.log
    ratified = {log.payload(index) for index in range(1, made.members[0].head + 1)}
    assert set(kept) <= ratified


def test_what_an_old_leader_kept_is_sent_to_the_next() -> None:
    made = world()
    first = next(one for one in made.members if one.peer == one.part.leader)
    others = [one for one in made.members if one is not first]
    first.part.pool.take = lambda *_: []  # type: ignore[method-assign]
    note = made.branch.note()
    (frame_,) = pack_items([note])
    for member in others:
        member.do(Received(MacIdentity("a client").peer_id, SUBMIT, frame_))
    assert made.run(40, lambda: len(others[0].part.pool) == 0 and others[0].head > 1)
    log = others[0].part.follower.chain.history.log
    assert note in {log.payload(index) for index in range(1, others[0].head + 1)}


def test_who_passes_on_what_only_our_newer_ledger_refuses_is_not_blamed() -> None:
    """Two candidates with one seat key: who has seen only one of them passes on the other."""
    made = world()
    one, other = made.members[0], made.branch.author
    shared = MacIdentity("one key for two")

    def stand(who: MacIdentity) -> bytes:
        body = candidacy(
            one.part.ledger.realm,
            who.peer_id,
            2,
            willing=True,
            key=shared.public_key,
            secret=bytes(32),
            sign_seat=shared.sign,
        )
        time = one.part.ledger.time
        return submit(
            one.part.ledger.realm, who.peer_id, body, expires=time + 600_000, sign=who.sign
        )

    first, second = stand(one.who), stand(other)
    one.do(Submit(first))
    assert made.run(5, lambda: bool(settled(one, first)))
    made.run(1)
    verdict, _ = one.part.hear(made.members[1].peer, "submission", second, made.instant)
    assert verdict is Judgement.IGNORE
    one.do(Received(made.members[1].peer, SUBMIT, pack_items([second])[0]))
    assert not one.blamed
    note = made.branch.note()
    forged = note[:-1] + bytes((note[-1] ^ 1,))
    verdict, _ = one.part.hear(made.members[1].peer, "submission", forged, made.instant)
    assert verdict is Judgement.REJECT
