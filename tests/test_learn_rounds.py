"""Rounds of a group: what is taken, what is refused, when a round closes, who takes over."""

import msgspec
import pytest

from protocols.effects import Blame, Save
from protocols.errors import MalformedError
from protocols.learn.claims import (
    BadClaimError,
    Claim,
    Endorsement,
    Record,
    check_record,
    round_message,
)
from protocols.learn.messages import (
    Acked,
    Ask,
    Blob,
    Here,
    Mark,
    Push,
    Records,
    Refused,
    Watch,
    Where,
    blobs_of,
    pack,
    unpack,
)
from protocols.learn.round_ports import (
    KEEP_ROUNDS,
    Committed,
    Declined,
    Heard,
    Installed,
    NotAggregated,
    Release,
    Tick,
)
from protocols.learn.roundlog import Closed, Standing, decode_body, encode_body
from tests.rounds_kit import GENESIS, MODEL, PLAN, REALM, SIZE, Trio, claim_of, sealed, sum_of


def begun(**more) -> Trio:
    trio = Trio(msgspec.structs.replace(PLAN, **more)) if more else Trio()
    trio.lead(0)
    return trio


def play(trio: Trio, learners: range) -> None:
    """One whole round."""
    number = trio.rounds[trio.leader].log.number
    for learner in learners:
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(trio.leader, Tick())
    assert trio.rounds[trio.leader].log.number == number + 1


def play_alone(trio: Trio) -> None:
    """A round that only the primary knows to be right."""
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(trio.leader, Tick())


# -- what is taken --------------------------------------------------------------------------------


def test_a_delta_is_acked_when_it_is_committed_and_not_before():
    trio = begun()
    trio.held = True
    trio.push(trio.claim(0))
    assert not trio.to(trio.learners[0], Acked)
    trio.commit()
    (acked,) = trio.to(trio.learners[0], Acked)
    assert acked.digest == trio.claim(0).made[0].digest
    assert all(len(rounds.log.pending) == 1 for rounds in trio.rounds)


def test_the_same_delta_again_is_acked_again_and_counts_once():
    trio = begun()
    trio.push(trio.claim(0))
    trio.push(trio.claim(0))
    assert len(trio.to(trio.learners[0], Acked)) == 2
    assert len(trio.log) == 1


def test_the_same_delta_again_while_it_is_proposed_is_answered_once_committed():
    trio = begun()
    trio.held = True
    trio.push(trio.claim(0))
    trio.push(trio.claim(0), by=trio.learners[1].peer)  # whoever brings it
    assert len(trio.proposed) == 1
    trio.commit()
    assert trio.to(trio.learners[0], Acked)
    assert trio.to(trio.learners[1], Acked)


def test_another_delta_of_the_same_learner_and_round_is_refused():
    trio = begun()
    trio.push(trio.claim(0))
    trio.push(trio.claim(0, tag="another"))
    (refused,) = trio.to(trio.learners[0], Refused)
    assert refused.reason == "duplicate"
    trio.held = True
    trio.push(trio.claim(1))
    trio.push(trio.claim(1, tag="another"))
    assert trio.to(trio.learners[1], Refused)[0].reason == "duplicate"


def same_bytes(trio: Trio, learner: int, number: int | None = None) -> Claim:
    """Of tiles that no token touched, everybody learns the same."""
    claim = trio.claim(learner, number)
    made = msgspec.structs.replace(claim.made[0], digest=b"d" * 32)
    return sealed(trio.learners[learner], msgspec.structs.replace(claim, made=(made,)))


@pytest.mark.parametrize("held", [False, True])
def test_two_learners_who_made_the_same_bytes_both_count(held: bool):
    trio = begun()
    trio.held = held
    for learner in range(2):
        trio.push(same_bytes(trio, learner))
        if held:
            assert not trio.to(trio.learners[learner], Acked)
    trio.commit()
    for learner in range(2):
        assert len(trio.to(trio.learners[learner], Acked)) == 1
        assert not trio.to(trio.learners[learner], Refused)
    trio.held = False
    play(trio, range(2, 4))
    inputs = trio.rounds[1].log.last.inputs
    assert {one.learner for one in inputs} == {key.peer for key in trio.learners[:4]}
    assert sum(one.digest == b"d" * 32 for one in inputs) == 2
    assert not trio.rounds[1].log.pending


def test_what_one_learner_made_twice_counts_once_and_is_not_asked_for_again():
    """Late for one round, and the same for the next: it is told that it was taken."""
    trio = begun()
    play(trio, range(4))
    trio.push(same_bytes(trio, 5, number=0))
    trio.push(same_bytes(trio, 5))
    (refused,) = trio.to(trio.learners[5], Refused)
    assert refused.reason == "duplicate"
    play(trio, range(4))
    assert sum(one.digest == b"d" * 32 for one in trio.rounds[1].log.last.inputs) == 1


def test_a_delta_on_a_wrong_base_is_refused_with_the_right_one_named():
    trio = begun()
    play(trio, range(4))
    wrong = claim_of(trio.learners[0], 1, GENESIS)
    trio.push(wrong)
    (refused,) = trio.to(trio.learners[0], Refused)
    log = trio.rounds[0].log
    assert (refused.reason, refused.number, refused.base) == ("base", 1, log.head)
    assert refused.digest == wrong.made[0].digest


def test_a_delta_for_a_round_long_past_is_stale_and_one_ahead_names_the_open_one():
    trio = begun()
    play(trio, range(4))
    play(trio, range(4))
    trio.push(claim_of(trio.learners[5], 0, GENESIS))
    trio.push(claim_of(trio.learners[5], 9, GENESIS))
    stale, ahead = trio.to(trio.learners[5], Refused)
    assert (stale.reason, ahead.reason, ahead.number) == ("stale", "base", 2)


def test_a_replayed_round_of_another_learner_does_not_pass_as_ones_own():
    trio = begun()
    stolen = msgspec.structs.replace(trio.claim(0), learner=trio.learners[1].peer)
    trio.push(stolen)
    assert not trio.log
    assert [effect for effect in trio.effects if isinstance(effect, Blame)]


def test_a_follower_takes_nothing_and_names_the_primary():
    trio = begun()
    trio.push(trio.claim(0), to=2)
    (refused,) = trio.to(trio.learners[0], Refused)
    assert (refused.reason, refused.hint) == ("not-leading", trio.seats[0].peer)


def test_screening_refuses_what_is_too_large_or_not_for_us_before_its_bytes():
    trio = begun()
    rounds = trio.rounds[0]
    claim = trio.claim(0)
    huge = msgspec.structs.replace(claim.made[0], size=11 * SIZE)
    large = sealed(trio.learners[0], msgspec.structs.replace(claim, made=(huge,)))
    assert rounds.screen(b"", Push(said=large, groups=(0,))).reason == "malformed"
    other = claim_of(trio.learners[0], 0, GENESIS, groups=(3,))
    assert rounds.screen(b"", Push(said=other, groups=(3,))).reason == "not-here"
    assert rounds.screen(b"", Push(said=claim, groups=(0,))) is None
    forged = msgspec.structs.replace(claim, steps=16)
    with pytest.raises(BadClaimError):
        rounds.screen(b"", Push(said=forged, groups=(0,)))


def test_who_was_caught_is_not_heard():
    trio = Trio()
    caught = trio.learners[0].peer
    trio.rounds[0] = trio.new(
        0, may_learn=lambda peer: peer != caught, may_aggregate=lambda peer: peer != caught
    )
    trio.lead(0)
    trio.push(trio.claim(0))
    trio.push(sum_of(trio.learners[0], [trio.claim(1), trio.claim(2)]))
    assert [it.reason for it in trio.to(trio.learners[0], Refused)] == ["full", "full"]
    assert not trio.log


def test_a_declined_proposal_leaves_room_to_offer_it_again():
    trio = begun()
    trio.held = True
    trio.push(trio.claim(0))
    trio.at(0, Declined(trio.proposed.pop().tag))
    trio.push(trio.claim(0))
    trio.commit()
    assert len(trio.to(trio.learners[0], Acked)) == 1


# -- sums -----------------------------------------------------------------------------------------


def test_a_sum_counts_for_its_learners_and_keeps_them_from_counting_twice():
    trio = begun()
    region = [trio.claim(number) for number in (0, 1, 2)]
    trio.push(sum_of(trio.learners[9], region))
    trio.push(trio.claim(0))
    assert trio.to(trio.learners[0], Refused)[0].reason == "duplicate"
    trio.push(trio.claim(3))  # the fourth of the plan's four
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    made = trio.advanced()[0]
    weights = {entry.learner: entry.of for entry in made.inputs}
    assert weights == {trio.learners[9].peer: 3, trio.learners[3].peer: 0}


def test_a_sum_with_somebody_who_was_taken_is_refused_by_name():
    trio = begun()
    trio.push(trio.claim(1))
    trio.push(sum_of(trio.learners[9], [trio.claim(number) for number in (0, 1, 2)]))
    (refused,) = trio.to(trio.learners[9], Refused)
    assert (refused.reason, refused.learners) == ("overlap", (trio.learners[1].peer,))


# -- closing --------------------------------------------------------------------------------------


def test_below_the_quorum_no_patience_closes_a_round_but_a_lull_does():
    trio = begun()
    for learner in range(3):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    assert trio.rounds[0].log.number == 0
    trio.now += 4 * PLAN.patience_ms
    trio.at(0, Tick())
    assert trio.rounds[0].log.number == 1
    assert len(trio.advanced()[0].inputs) == 3


def test_a_swarm_that_shrank_waits_for_as_many_as_there_were_and_no_lull():
    trio = begun()
    for learner in range(2):
        trio.push(trio.claim(learner))
    trio.now += 5 * PLAN.patience_ms  # a lull: only two of the plan's four came
    trio.at(0, Tick())
    assert trio.rounds[0].log.number == 1
    for learner in range(2):
        trio.push(trio.claim(learner))
    assert trio.rounds[0].next_wake <= trio.now + PLAN.patience_ms
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    assert trio.rounds[0].log.number == 2


def test_the_grace_follows_what_was_seen_and_not_the_patience():
    trio = begun(learners=4, patience_ms=60_000)
    for _ in range(12):
        log = trio.rounds[0].log
        number = log.number
        for learner in range(4):  # all within 30 ms of each other
            trio.push(trio.claim(learner))
            trio.now += 10
        trio.now += 60_000 if number == 0 else 0
        trio.at(0, Tick())
        assert trio.rounds[0].log.number == number + 1
    log = trio.rounds[0].log
    number = log.number
    for learner in range(3):
        trio.push(trio.claim(learner))
    trio.push(trio.claim(7))  # a newcomer makes the quorum; learner 3 is missing
    trio.at(0, Tick())
    assert log.number == number
    assert trio.rounds[0].next_wake - trio.now <= 200
    trio.now = trio.rounds[0].next_wake
    trio.at(0, Tick())
    assert log.number == number + 1


def test_a_late_delta_is_carried_into_the_next_round():
    trio = begun()
    late = trio.claim(5)
    play(trio, range(4))
    trio.push(late)
    (acked,) = trio.to(trio.learners[5], Acked)
    assert acked.number == 0
    play(trio, range(4))
    made = next(it for it in trio.advanced() if it.number == 1)
    assert late.made[0].digest in {entry.digest for entry in made.inputs}
    assert not trio.rounds[0].log.pending


def test_a_learner_that_was_late_stands_in_the_round_with_its_new_delta_as_well():
    trio = begun()
    late = trio.claim(3)
    for learner in (0, 1, 2, 5):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    trio.push(late)
    play(trio, range(4))
    made = next(it for it in trio.advanced() if it.number == 1)
    assert [entry.learner for entry in made.inputs].count(trio.learners[3].peer) == 2


def test_what_is_taken_while_the_round_is_aggregated_goes_into_the_next():
    trio = begun()
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    trio.push(trio.claim(6))
    assert trio.to(trio.learners[6], Acked)
    trio.answers = True
    trio.aggregate()
    log = trio.rounds[0].log
    assert log.number == 1
    assert {found.source for found in log.pending.values()} == {trio.learners[6].peer}


def test_a_late_delta_that_is_taken_while_a_round_is_aggregated_is_not_lost():
    trio = begun()
    late = trio.claim(5)
    play(trio, range(4))
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    trio.push(late)  # of round 0, while round 1 is on its way
    assert trio.to(trio.learners[5], Acked)
    trio.answers = True
    trio.aggregate()
    play(trio, range(4))
    named = [entry.digest for made in trio.advanced() for entry in made.inputs]
    assert late.made[0].digest in named


def test_an_input_that_cannot_be_used_is_dropped_for_good():
    trio = begun()
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    bad = trio.claim(2).made[0].digest
    trio.unusable = {bad}
    trio.aggregate()
    assert bad not in {entry.digest for entry in trio.advanced()[0].inputs}
    assert not trio.rounds[1].log.pending


def test_a_failed_aggregate_is_tried_again():
    trio = begun()
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    first = trio.aggregating
    trio.at(0, NotAggregated(first.ticket, "the worker died"))
    trio.at(0, Tick())
    assert trio.aggregating is first
    trio.now = trio.rounds[0].next_wake
    trio.at(0, Tick())
    assert trio.aggregating is not first
    trio.aggregate()
    assert trio.rounds[2].log.number == 1


def test_a_round_of_which_nothing_can_be_used_waits_for_something_that_can():
    trio = begun()
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    bad = tuple(part.blob.digest for part in trio.aggregating.parts)
    trio.unusable = set(bad)
    trio.at(0, NotAggregated(trio.aggregating.ticket, "not one", bad))
    trio.aggregating = None
    trio.now += 60 * PLAN.patience_ms
    trio.at(0, Tick())
    assert trio.aggregating is None
    trio.push(trio.claim(7))
    trio.now += 60 * PLAN.patience_ms
    trio.at(0, Tick())
    assert [part.source for part in trio.aggregating.parts] == [trio.learners[7].peer]
    trio.aggregate()
    assert trio.rounds[1].log.number == 1
    assert not trio.rounds[1].log.pending, "the others are dropped"


def test_an_answer_of_an_aggregate_that_is_no_more_is_not_proposed():
    trio = begun()
    trio.answers = False
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    trio.lead(1, term=4)
    trio.leader = 0
    trio.aggregate()
    assert not trio.proposed
    assert trio.rounds[0].log.number == 0


# -- records --------------------------------------------------------------------------------------


def test_a_round_becomes_a_record_that_two_replicas_signed():
    trio = begun()
    watcher = trio.learners[8]
    trio.at(0, Heard(watcher.peer, Watch(model=MODEL, marks=(Mark(0, 0),))))
    play(trio, range(4))
    told = trio.to(watcher, Records)[-1]
    (record,) = told.records
    check_record(REALM, record, tuple(key.peer for key in trio.seats), trio.keys.verify)
    assert (told.number, told.base) == (1, record.round.head)
    saved = [effect for effect in trio.effects if isinstance(effect, Save)]
    assert len(saved) == 3
    assert blobs_of(told) == (Blob(record.round.result, record.round.size),)


def test_no_record_of_one_signature_and_a_record_once_another_has_computed_it():
    trio = begun()
    trio.unable = {1, 2}
    play_alone(trio)
    assert not [effect for effect in trio.effects if isinstance(effect, Save)]
    assert [rounds.log.number for rounds in trio.rounds] == [1, 0, 0]
    trio.judge(1)
    assert [rounds.log.number for rounds in trio.rounds] == [1, 1, 0]
    assert len([effect for effect in trio.effects if isinstance(effect, Save)]) == 2


def test_an_endorsement_that_comes_before_the_commit_counts_afterwards():
    trio = begun()
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.held = True
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    (closed,) = trio.proposed
    trio.proposed.clear()
    trio.log.append(closed.body)
    trio.at(1, Committed(closed.body))  # says its endorsement to those who have not committed
    trio.at(0, Committed(closed.body, closed.tag))
    assert [effect for effect in trio.effects if isinstance(effect, Save)]


def test_a_round_without_record_is_signed_by_the_next_epochs_group():
    trio = begun()
    trio.deaf = {key.peer for key in trio.seats}
    play(trio, range(4))
    trio.deaf = set()
    trio.rounds = [trio.new(number, epoch=2) for number in range(3)]
    for body in trio.log:
        for number in range(3):
            trio.at(number, Committed(body))
    trio.at(1, Heard(b"x", Ask(model=MODEL, group=0, number=0)))
    _, _, told = trio.said[-1]
    (record,) = told.records
    assert record.round.epoch == 2
    check_record(REALM, record, tuple(key.peer for key in trio.seats), trio.keys.verify)


def test_a_record_of_the_epoch_before_blames_nobody():
    trio = begun()
    trio.deaf = {key.peer for key in trio.seats}
    play(trio, range(4))
    decided = trio.rounds[0]._endorsing.open[0]
    old = [trio.keys.new(f"replica of before {number}") for number in range(3)]
    message = round_message(REALM, decided)
    signed = tuple(Endorsement(key.peer, key.sign(message)) for key in old)
    trio.rounds = [trio.new(number, epoch=2) for number in range(3)]
    for body in trio.log:
        trio.at(0, Committed(body))
    record = Record(round=decided, by=signed)
    told = Records(model=MODEL, group=0, oldest=0, number=1, base=GENESIS, records=(record,))
    trio.effects.clear()
    trio.at(0, Heard(old[0].peer, told))
    assert not [effect for effect in trio.effects if isinstance(effect, Blame)]
    assert not [effect for effect in trio.effects if isinstance(effect, Save)], "nor believed"


def test_who_is_new_takes_the_record_of_the_group_before_over():
    """The other two have it, and sign no round twice."""
    trio = begun()
    trio.unable = {2}
    play(trio, range(4))
    record = trio.rounds[0]._endorsing.record(0)

    def proves(one: Record) -> None:
        check_record(REALM, one, tuple(key.peer for key in trio.seats), trio.keys.verify)

    trio.unable.clear()
    trio.effects.clear()
    newcomer = trio.rounds[2] = trio.new(2, epoch=2, check=proves)
    for index, body in enumerate(trio.log, 1):
        trio.at(2, Committed(body, None, index))  # says its endorsement, twice
    for _ in range(4):
        trio.now = newcomer.next_wake or trio.now
        trio.at(2, Tick())
    assert newcomer.next_wake is None, "it asks for no signature any more"
    assert [effect for effect in trio.effects if isinstance(effect, Save)]
    trio.at(2, Heard(b"x", Ask(model=MODEL, group=0, number=0)))
    assert trio.said[-1][2].records == (record,)


def test_a_record_that_another_group_did_not_sign_is_not_taken_over():
    trio = begun()
    play(trio, range(4))
    record = trio.rounds[0]._endorsing.record(0)

    def refutes(one: Record) -> None:
        raise BadClaimError(f"not by the group of epoch {one.round.epoch}")

    trio.effects.clear()
    trio.rounds[2] = trio.new(2, epoch=2, check=refutes)
    trio.deaf = {trio.seats[2].peer}
    for index, body in enumerate(trio.log, 1):
        trio.at(2, Committed(body, None, index))
    told = Records(model=MODEL, group=0, oldest=0, number=1, base=GENESIS, records=(record,))
    trio.at(2, Heard(trio.seats[0].peer, told))
    assert [effect for effect in trio.effects if isinstance(effect, Blame)]
    assert not [effect for effect in trio.effects if isinstance(effect, Save)]


def test_whoever_missed_rounds_asks_for_them():
    trio = begun()
    for _ in range(5):
        play(trio, range(4))
    trio.at(2, Heard(b"somebody", Ask(model=MODEL, group=0, number=2)))
    _, _, told = trio.said[-1]
    assert [record.round.number for record in told.records] == [2, 3, 4]
    heads = [record.round.head for record in told.records]
    assert [record.round.parent for record in told.records[1:]] == heads[:-1]
    trio.rounds[2].oldest = 4
    trio.at(2, Heard(b"somebody", Ask(model=MODEL, group=0, number=2)))
    _, _, told = trio.said[-1]
    assert ([record.round.number for record in told.records], told.oldest) == ([4], 4)


def test_where_answers_who_leads():
    trio = begun()
    trio.at(1, Heard(b"somebody", Where(model=MODEL, group=0)))
    _, _, told = trio.said[-1]
    assert isinstance(told, Here)
    assert told.primary == trio.seats[0].peer


def test_deltas_of_rounds_long_closed_are_released_and_carried_ones_are_not():
    trio = begun()
    for _ in range(KEEP_ROUNDS + 1):
        play(trio, range(4))
    released = [effect for effect in trio.effects if isinstance(effect, Release)]
    first = {entry.digest for entry in trio.advanced()[0].inputs}
    assert set(released[0].digests) == first


# -- take-over ------------------------------------------------------------------------------------


def test_a_successor_goes_on_with_every_delta_that_was_acked():
    trio = begun()
    for learner in range(3):
        trio.push(trio.claim(learner))
    trio.restart(1)
    trio.lead(1, term=4)
    trio.push(trio.claim(3))
    trio.now += PLAN.patience_ms
    trio.at(1, Tick())
    made = trio.advanced()[0]
    assert {entry.learner for entry in made.inputs} == {key.peer for key in trio.learners[:4]}


def state_of(rounds) -> Standing:
    """What a log may begin with; which two signed its record differs."""
    last = rounds.log.last
    if last is None:
        return rounds.log.standing(None)
    record = rounds._endorsing.record(last.number)
    same = {"round": msgspec.structs.replace(record.round, epoch=1), "by": record.by[:1]}
    return rounds.log.standing(msgspec.structs.replace(record, **same))


def test_a_replica_that_folds_the_log_anew_is_where_the_others_are():
    trio = begun()
    play(trio, range(4))
    trio.push(trio.claim(2))
    trio.restart(2)
    assert trio.rounds[2].log.number == 1
    assert state_of(trio.rounds[2]) == state_of(trio.rounds[0])


def test_a_log_may_begin_with_what_stood_before():
    trio = begun()
    late = trio.claim(5)
    play(trio, range(4))
    trio.push(late)
    trio.push(trio.claim(0))
    log = trio.rounds[0].log
    standing = log.standing(trio.rounds[0]._endorsing.record(0))
    anew = trio.new(2)
    trio.do(2, anew, Installed(encode_body(standing), 7))
    assert state_of(anew) == state_of(trio.rounds[0])
    assert anew.log.seen_before.keys() >= {key.peer for key in trio.learners[:4]}
    assert anew.log.head == trio.rounds[0].log.head


def test_a_second_end_of_one_round_changes_nothing():
    trio = begun()
    play(trio, range(4))
    body = next(it for it in trio.log if isinstance(decode_body(it), Closed))
    before = state_of(trio.rounds[0])
    trio.at(0, Committed(body))
    assert state_of(trio.rounds[0]) == before


# -- messages -------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were_and_nothing_else_does():
    trio = begun()
    play(trio, range(4))
    record = trio.rounds[0]._endorsing.record(0)
    assert isinstance(record, Record)
    claim = trio.claim(0)
    for message in (
        Push(said=claim, groups=(0,), relay=True),
        Push(said=sum_of(trio.learners[1], [claim]), groups=(0,)),
        Records(model=MODEL, group=0, oldest=0, number=1, base=GENESIS, records=(record,)),
        Watch(model=MODEL, marks=()),
    ):
        frame = pack(message)
        assert unpack(frame) == message
        with pytest.raises(MalformedError):
            unpack(frame[:-1])
