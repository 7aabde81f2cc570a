"""A primary's result is computed by the others, and what is wrong gets no second signature."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.codec import decode
from protocols.effects import Blame, Emit, Save
from protocols.learn.claims import NOTHING, Endorsement, Input, Record, Round, round_message
from protocols.learn.messages import Acked, Blob, Endorse, Records
from protocols.learn.replica_ports import Term
from protocols.learn.round_ports import (
    LACK_WAIT_MS,
    RETRY_MS,
    Advance,
    Aggregated,
    Committed,
    Contradicted,
    Distrust,
    Fold,
    Followed,
    Heard,
    Installed,
    Lied,
    NotAggregated,
    State,
    Tick,
)
from protocols.learn.roundlog import Closed, Taken, decode_body, encode_body
from tests.rounds_kit import GENESIS, MODEL, PLAN, REALM, SIZE, Trio, claim_of, digest_of

ANOTHER = digest_of("something else")


def begun() -> Trio:
    trio = Trio()
    trio.lead(0)
    return trio


def close(trio: Trio, learners: range = range(4)) -> None:
    """Deltas, and whatever its primary then makes of them."""
    assert trio.leader is not None
    for learner in learners:
        trio.push(trio.claim(learner))
    trio.now += PLAN.patience_ms
    trio.at(trio.leader, Tick())


def of(trio: Trio, kind: type) -> list:
    return [effect for effect in trio.effects if isinstance(effect, kind)]


def records(trio: Trio) -> set[bytes]:
    return {save.value for save in of(trio, Save)}


def said_wrong(trio: Trio) -> list[str]:
    return [emit.fields["why"] for emit in of(trio, Emit) if emit.kind == "learn.wrong-result"]


def entry(trio: Trio, lie: Callable[[Closed], Closed]) -> Closed:
    """What the primary would have closed the open round with, changed and signed by it."""
    for learner in range(4):
        trio.push(trio.claim(learner))
    trio.held = True
    trio.now += PLAN.patience_ms
    trio.at(0, Tick())
    (proposed,) = trio.proposed
    trio.proposed.clear()
    honest = decode_body(proposed.body)
    assert isinstance(honest, Closed)
    return signed(trio, lie(honest))


def signed(trio: Trio, closed: Closed, by: int = 0) -> Closed:
    key = trio.seats[by]
    signature = key.sign(round_message(REALM, closed.round))
    return msgspec.structs.replace(closed, by=Endorsement(key.peer, signature))


def show(trio: Trio, closed: Closed | Taken) -> None:
    """It is committed, and the two followers look at it."""
    trio.log.append(encode_body(closed))
    for number in (1, 2):
        writer = trio.seats[0].peer
        trio.at(number, Committed(trio.log[-1], None, len(trio.log), writer))


def replaced(**fields: object) -> Callable[[Closed], Closed]:
    def lie(closed: Closed) -> Closed:
        changed = msgspec.structs.replace(closed.round, **fields)
        return msgspec.structs.replace(closed, round=changed)

    return lie


# -- what is right --------------------------------------------------------------------------------


def test_every_replica_computes_every_round_and_two_make_a_record():
    trio = begun()
    for _ in range(3):
        close(trio)
    assert [rounds.log.number for rounds in trio.rounds] == [3, 3, 3]
    assert len({rounds.log.head for rounds in trio.rounds}) == 1
    assert not said_wrong(trio)
    first, second, third = trio.advanced()[0::3]
    assert (second.before, third.before) == (first.after, second.after)
    assert first.before == NOTHING


def test_a_primary_without_the_outer_state_may_begin_from_nothing():
    trio = begun()
    close(trio)
    trio.answers = False
    close(trio)
    asked = trio.aggregating
    assert asked.before == State(trio.rounds[0].log.last.after, SIZE)
    trio.aggregating = msgspec.structs.replace(asked, before=None)
    trio.aggregate()
    assert [rounds.log.number for rounds in trio.rounds] == [2, 2, 2]
    assert trio.rounds[1].log.last.before == NOTHING
    assert not said_wrong(trio)


def test_no_round_closes_before_the_one_before_has_its_record():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    close(trio)
    assert trio.rounds[0].log.number == 1
    assert trio.rounds[0].next_wake is not None
    trio.judge(1)
    trio.at(0, Tick())
    assert trio.rounds[0].log.number == 2


def test_what_stands_behind_an_undecided_round_waits_for_it():
    trio = begun()
    late = trio.claim(5)
    trio.unable = {2}
    close(trio)
    trio.push(late)
    assert trio.to(trio.learners[5], Acked)
    assert trio.rounds[2].log.number == 0
    assert late.made[0].digest not in trio.rounds[2].log.digests
    trio.judge(2)
    assert trio.rounds[2].log.number == 1
    assert late.made[0].digest in trio.rounds[2].log.digests


def test_who_cannot_compute_asks_and_takes_the_record_of_the_others():
    trio = begun()
    trio.unable = {2}
    close(trio)
    assert trio.rounds[2].log.number == 0
    trio.now = trio.rounds[2].next_wake
    trio.at(2, Tick())
    assert trio.rounds[2].log.number == 1
    assert trio.rounds[2].next_wake is None, "it asks no more"
    (record,) = {save.value for save in of(trio, Save)[-1:]}
    assert trio.seats[2].peer not in record
    close(trio)
    assert trio.rounds[2].log.number == 1, "the next is undecided again"


def test_a_worker_that_fails_is_asked_again():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    first = trio.waiting[1]
    trio.at(1, NotAggregated(first.ticket, "it died"))
    trio.deaf = {trio.seats[1].peer}
    for _ in range(8):
        if trio.waiting[1] is first:
            trio.now = trio.rounds[1].next_wake
            trio.at(1, Tick())
    trio.judge(1)
    assert trio.rounds[1].log.number == 1


# -- what is wrong --------------------------------------------------------------------------------

LIES = {
    "head": replaced(head=ANOTHER),
    "result": replaced(result=ANOTHER),
    "size": replaced(size=SIZE + 1),
    "state": replaced(after=ANOTHER),
    "state size": replaced(after_size=SIZE + 1),
    "shares": lambda closed: msgspec.structs.replace(
        closed,
        round=msgspec.structs.replace(
            closed.round,
            inputs=tuple(
                Input(it.learner, it.digest, 1000 if at == 0 else 0)
                for at, it in enumerate(closed.round.inputs)
            ),
        ),
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_a_wrong_result_gets_no_second_signature_and_its_own_proves_it(what):
    trio = begun()
    wrong = entry(trio, LIES[what])
    show(trio, wrong)
    assert [rounds.log.number for rounds in trio.rounds[1:]] == [0, 0]
    assert not records(trio)
    assert not trio.to(trio.learners[0], Records)
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)] * 2
    assert of(trio, Lied) == [Lied(wrong.round, wrong.by)] * 2
    message = round_message(REALM, wrong.round)
    assert trio.keys.verify(trio.seats[0].public, message, wrong.by.signature)


CHOICES = {
    "left out": None,
    "unacknowledged": lambda closed: replaced(
        inputs=(*closed.round.inputs, Input(b"\xff" * 38, ANOTHER, 0))
    )(closed),
    "dropped though good": None,
    "of another weight": lambda closed: replaced(
        inputs=(
            msgspec.structs.replace(closed.round.inputs[0], of=3),
            *closed.round.inputs[1:],
        )
    )(closed),
    "another state before": replaced(before=ANOTHER),
    "another parent": replaced(parent=ANOTHER),
    "another number": replaced(number=7),
    "twice": lambda closed: msgspec.structs.replace(
        closed, dropped=(closed.round.inputs[0].digest,)
    ),
}


@pytest.mark.parametrize("what", CHOICES)
def test_a_wrong_choice_of_inputs_is_seen_by_the_group_and_accuses_nobody_elsewhere(what):
    trio = begun()
    trio.answers = False
    late = trio.claim(5)
    close(trio)
    trio.push(late)  # too late for this round: the next one may not leave it out
    trio.answers = True
    trio.aggregate()
    trio.effects.clear()
    digest = late.made[0].digest
    assert trio.rounds[1].log.carried == {(trio.learners[5].peer, digest)}

    def lie(closed: Closed) -> Closed:
        rest = tuple(it for it in closed.round.inputs if it.digest != digest)
        without = replaced(inputs=rest)(closed)
        match what:
            case "left out":
                return without
            case "dropped though good":
                return msgspec.structs.replace(without, dropped=(digest,))
            case _:
                return CHOICES[what](closed)

    show(trio, entry(trio, lie))
    assert [rounds.log.number for rounds in trio.rounds[1:]] == [1, 1]
    assert not records(trio)
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)] * 2
    assert not of(trio, Lied)


def test_an_end_that_nobody_signed_changes_nothing_and_whoever_wrote_it_is_distrusted():
    trio = begun()
    wrong = entry(trio, lambda closed: closed)
    forged = Endorsement(trio.seats[1].peer, wrong.by.signature)
    show(trio, msgspec.structs.replace(wrong, by=forged))
    assert trio.rounds[2].log.number == 0
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)] * 2
    assert not of(trio, Lied)


def test_what_an_honest_successor_found_in_the_log_is_not_laid_at_its_door():
    trio = begun()
    wrong = entry(trio, replaced(head=ANOTHER))
    unsigned = msgspec.structs.replace(wrong, by=Endorsement(trio.seats[0].peer, bytes(64)))
    for number in (1, 2):
        trio.at(number, Committed(encode_body(unsigned), None, 5, None))
    assert len(said_wrong(trio)) == 2
    assert not of(trio, Distrust)
    for number in (1, 2):  # it was signed by who lied, whoever writes it now
        trio.at(number, Committed(encode_body(wrong), None, 6, None))
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)] * 2


def test_a_delta_that_no_learner_signed_is_not_folded():
    trio = begun()
    invented = msgspec.structs.replace(trio.claim(3), signature=bytes(64))
    show(trio, Taken(group=0, said=invented))
    assert not trio.rounds[1].log.pending
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)] * 2


@pytest.mark.parametrize("body", [b"", b"\xa0", b"nonsense" * 10])
def test_nonsense_in_the_log_changes_nothing(body):
    trio = begun()
    trio.at(1, Committed(body, None, 1, trio.seats[0].peer))
    assert of(trio, Distrust) == [Distrust(trio.seats[0].peer)]
    trio.effects.clear()
    trio.at(2, Committed(encode_body(trio.rounds[0].log.standing(None)), None, 1, None))
    assert len(said_wrong(trio)) == 1


def test_the_next_primary_closes_the_round_anew_and_nothing_is_lost():
    trio = begun()
    trio.lies[0] = lambda made: msgspec.structs.replace(made, head=ANOTHER)
    close(trio)
    assert [rounds.log.number for rounds in trio.rounds] == [1, 0, 0]
    assert of(trio, Lied)
    trio.lead(1, term=4)
    trio.now += 10 * PLAN.patience_ms
    trio.at(1, Tick())
    assert [rounds.log.number for rounds in trio.rounds[1:]] == [1, 1]
    made = trio.rounds[1].log.last
    assert {it.learner for it in made.inputs} == {key.peer for key in trio.learners[:4]}
    assert len(records(trio)) == 1, "of the right one"
    assert trio.rounds[2].log.head == trio.rounds[1].log.head != ANOTHER


def test_a_follower_that_signs_garbage_or_nothing_stops_no_round():
    for says in (bytes(64), None):
        trio = begun()
        trio.unable = {2}
        if says is not None:
            garbage = Endorse(model=MODEL, group=0, number=0, epoch=1, signature=says)
            for number in (0, 1):
                trio.at(number, Heard(trio.seats[2].peer, garbage))
        close(trio)
        assert [rounds.log.number for rounds in trio.rounds[:2]] == [1, 1]
        assert len(records(trio)) == 1


def test_garbage_after_the_round_is_a_fault():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    garbage = Endorse(model=MODEL, group=0, number=0, epoch=1, signature=bytes(64))
    trio.at(0, Heard(trio.seats[2].peer, garbage))
    assert of(trio, Blame)
    assert not records(trio)


# -- records, crashes, epochs ---------------------------------------------------------------------


def test_a_record_that_one_replica_alone_has_is_never_contradicted():
    trio = begun()
    trio.unable = {2}
    trio.deaf = {key.peer for key in trio.seats}  # the record forms at one alone
    close(trio)
    (only,) = records(trio)
    trio.deaf = {trio.seats[0].peer, trio.seats[1].peer}
    trio.lead(2, term=5)
    trio.now += 10 * PLAN.patience_ms
    trio.at(2, Tick())
    assert len(trio.log) == 5, "it closes nothing while it does not know whether that is right"
    trio.judge(2)
    assert trio.rounds[2].log.head == trio.rounds[1].log.head
    heads = {decode_record(one).round.head for one in records(trio)}
    assert heads == {decode_record(only).round.head}


def decode_record(data: bytes) -> Record:
    return decode(data, Record)


def test_a_crash_between_commit_and_record_is_made_good_by_computing_again():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    trio.unable = set()
    trio.restart(1)  # folds the log, and computes what has no record
    assert trio.rounds[1].log.number == 1
    assert len(records(trio)) == 1
    trio.restart(0)
    assert trio.rounds[0].log.number == 1


def test_another_epoch_signs_what_has_no_record():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    trio.epoch(2)
    assert not records(trio)
    trio.judge(2)
    trio.now += 1000
    trio.at(0, Tick())
    trio.at(2, Tick())
    found = {decode_record(one).round.epoch for one in records(trio)}
    assert found == {2}


def test_two_signatures_decide_against_what_we_could_not_compute():
    trio = begun()
    trio.unable = {2}
    wrong = entry(trio, replaced(head=ANOTHER))
    trio.held = False
    show(trio, wrong)
    trio.lead(1, term=4)
    trio.unable = {0, 2}
    trio.now += 10 * PLAN.patience_ms
    trio.at(1, Tick())
    trio.unable = {2}
    trio.rounds[0] = trio.new(0)  # which lied, and is honest in this life
    trio.restart(0)
    assert trio.rounds[2].log.number == 0
    for _ in range(8):
        if trio.rounds[2].log.number == 0:
            trio.now = trio.rounds[2].next_wake
            trio.at(2, Tick())
    assert trio.rounds[2].log.head == trio.rounds[1].log.head != ANOTHER
    assert not of(trio, Contradicted)


def test_two_signatures_against_what_we_computed_are_as_bad_as_a_damaged_disk():
    trio = begun()
    trio.deaf = {key.peer for key in trio.seats}
    close(trio)
    decided = msgspec.structs.replace(trio.rounds[0].log.last, head=ANOTHER)
    message = round_message(REALM, decided)
    by = tuple(Endorsement(key.peer, key.sign(message)) for key in trio.seats[1:])
    record = Record(round=decided, by=by)
    told = Records(model=MODEL, group=0, oldest=0, number=1, base=ANOTHER, records=(record,))
    trio.at(0, Heard(trio.seats[1].peer, told))
    assert of(trio, Contradicted)


def test_a_state_taken_over_from_another_is_believed_for_its_record_and_claims_alone():
    trio = begun()
    close(trio)
    trio.push(claim_of(trio.learners[5], 0, GENESIS))
    log = trio.rounds[0].log
    record = trio.rounds[0]._endorsing.record(0)
    good = log.standing(record)
    other = msgspec.structs.replace(
        record, round=msgspec.structs.replace(record.round, head=ANOTHER)
    )
    forged = {
        "head": msgspec.structs.replace(good, head=ANOTHER),
        "record": msgspec.structs.replace(good, head=ANOTHER, last=other),
        "genesis": msgspec.structs.replace(good, number=0, head=ANOTHER, last=None, pending=()),
        "claims": msgspec.structs.replace(
            good,
            pending=tuple(msgspec.structs.replace(it, signature=bytes(64)) for it in good.pending),
        ),
        "number": msgspec.structs.replace(good, number=5),
        "carried": msgspec.structs.replace(good, carried=2),
    }
    assert good.pending
    for what, standing in forged.items():
        trio.effects.clear()
        trio.do(2, trio.new(2), Installed(encode_body(standing), 3))
        assert of(trio, Contradicted), what
        assert not of(trio, Advance), what
    trio.effects.clear()
    anew = trio.new(2)
    trio.do(2, anew, Installed(encode_body(good), 3))
    assert not of(trio, Contradicted)
    assert anew.log.head == log.head


def test_who_cannot_check_the_record_of_a_state_signs_nothing_until_a_round_is_proven():
    trio = begun()
    close(trio)
    good = trio.rounds[0].log.standing(trio.rounds[0]._endorsing.record(0))
    trio.epoch(2)
    trio.rounds[2] = trio.new(2, epoch=2)  # knows nothing of epoch 1
    trio.at(2, Installed(encode_body(good), 3))
    trio.lead(0, term=6)
    trio.unable = {1}
    close(trio)
    assert trio.rounds[2].log.number == 2, "it computes"
    assert {one.number for one in made(trio)} == {0}, "and does not sign"
    trio.judge(1)
    trio.now += 1000
    trio.at(1, Tick())
    assert {one.number for one in made(trio)} == {0, 1}
    trio.at(
        2,
        Heard(
            trio.seats[1].peer,
            Records(
                model=MODEL,
                group=0,
                oldest=0,
                number=2,
                base=trio.rounds[1].log.head,
                records=(trio.rounds[1]._endorsing.record(1),),
            ),
        ),
    )
    close(trio)
    assert trio.rounds[0].log.number == 3
    assert trio.rounds[0].log.number == trio.rounds[2].log.number


def test_the_log_is_cut_off_only_behind_a_record():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    assert not of(trio, Fold)
    trio.judge(1)
    folds = of(trio, Fold)
    assert {fold.index for fold in folds} == {5}
    assert all(fold.standing.last is not None for fold in folds)


def test_a_round_by_a_plan_before_is_judged_by_that_and_by_one_that_is_not_known_not_at_all():
    for known in (True, False):
        trio = begun()
        for number in (1, 2):
            settings = trio.rounds[number]._set
            newer = msgspec.structs.replace(PLAN, rate=PLAN.rate + 1)
            former = (PLAN,) if known else ()
            changed = msgspec.structs.replace(settings, plan=newer, former=former)
            trio.rounds[number]._set = changed
        close(trio)
        assert [rounds.log.number for rounds in trio.rounds] == [1, known, known]
        assert not said_wrong(trio)
        assert not of(trio, Distrust), "nobody is to blame for another daemon's ledger"
        assert bool(records(trio)) == known
        if not known:  # the ledger brings it
            trio.rounds[1]._set = msgspec.structs.replace(trio.rounds[1]._set, former=(PLAN,))
            trio.now += 2000
            trio.at(1, Tick())
            assert trio.rounds[1].log.number == 1


def test_a_plan_that_nobody_knows_holds_a_group_up_for_two_leases_and_no_longer():
    trio = begun()
    show(trio, entry(trio, replaced(plan=ANOTHER)))
    began = trio.now
    while not of(trio, Distrust):
        trio.now = trio.rounds[1].next_wake
        trio.at(1, Tick())
        assert trio.now <= began + LACK_WAIT_MS + RETRY_MS
    assert trio.now >= began + LACK_WAIT_MS
    assert trio.rounds[1].next_wake is None
    assert not of(trio, Lied)


def test_a_state_that_nobody_gives_is_waited_for_as_long_and_not_by_who_is_cut_off():
    for cut_off in (True, False):
        trio = begun()
        trio.unable = {1, 2}
        close(trio)
        if cut_off:
            trio.at(1, Followed(Term(1, 3), None))
        trio.deaf = {trio.seats[1].peer}
        began = trio.now
        while trio.now < began + LACK_WAIT_MS + 10_000 and not of(trio, Distrust):
            if 1 in trio.waiting:
                ticket = trio.waiting.pop(1).ticket
                trio.at(1, NotAggregated(ticket, "nobody has the state", lacking=True))
            trio.now = trio.rounds[1].next_wake or trio.now + 1000
            trio.at(1, Tick())
        assert bool(of(trio, Distrust)) != cut_off
        assert trio.now >= began + LACK_WAIT_MS
        if not cut_off:  # it was right all the same, and two say so
            trio.judge(2)
            trio.effects.clear()
            record = trio.rounds[2]._endorsing.record(0)
            told = Records(
                model=MODEL, group=0, oldest=0, number=1, base=b"h" * 32, records=(record,)
            )
            trio.at(1, Heard(trio.seats[2].peer, told))
            assert of(trio, Contradicted)


def test_an_undecided_round_is_asked_about_ever_more_seldom():
    trio = begun()
    trio.unable = {1, 2}
    close(trio)
    trio.deaf = {key.peer for key in trio.seats}
    began, asked = trio.now, 0
    while trio.now < began + 600_000 and asked < 40:
        trio.now = trio.rounds[1].next_wake
        trio.at(1, Tick())
        asked += 1
    assert asked < 40


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_liar_of_three_gets_nothing_wrong_recorded_whatever_it_says_when(data):
    """Any of the three lies whenever it computes; leaders change; workers fail and come back."""
    trio = begun()
    liar = data.draw(st.integers(0, 2))
    fields = st.sampled_from(["head", "result", "after", "shares"])

    def lie(made: Aggregated) -> Aggregated:
        what = data.draw(st.none() | fields)
        if what == "result":
            return msgspec.structs.replace(made, result=Blob(ANOTHER, SIZE))
        if what == "after":
            return msgspec.structs.replace(made, after=State(ANOTHER, SIZE))
        if what == "shares":
            return msgspec.structs.replace(made, shares=(1000,) + (0,) * (len(made.shares) - 1))
        return made if what is None else msgspec.structs.replace(made, head=ANOTHER)

    trio.lies[liar] = lie
    term = 3
    for _ in range(data.draw(st.integers(2, 8))):
        match data.draw(st.sampled_from(["close", "close", "lead", "able", "unable"])):
            case "close":
                if any(one.number == trio.rounds[trio.leader].log.number for one in made(trio)):
                    continue
                close(trio)
            case "lead":
                term += 3
                number = data.draw(st.integers(0, 2))
                trio.lead(number, term=term + number)
            case "able":
                trio.unable.clear()
                for number in list(trio.waiting):
                    trio.judge(number)
            case "unable":
                trio.unable = {data.draw(st.integers(0, 2))}
    honest = [rounds for number, rounds in enumerate(trio.rounds) if number != liar]
    heads = [{it.number: it.head for it in advanced(trio, number)} for number in range(3)]
    for number in range(8):
        known = {by[number] for at, by in enumerate(heads) if at != liar and number in by}
        assert len(known) <= 1, "honest replicas differ"
    for one in made(trio):
        assert ANOTHER not in (one.head, one.result, one.after)
        assert any(one.head == by.get(one.number) for at, by in enumerate(heads) if at != liar)
    trio.unable.clear()
    for number in list(trio.waiting):
        trio.judge(number)
    leader = (liar + 1) % 3
    trio.lead(leader, term=term + 3 + leader)
    before = len({one.number for one in made(trio)})
    for _ in range(3):
        trio.now += 2000
        for number in range(3):
            trio.at(number, Tick())
    close(trio)
    assert len({one.number for one in made(trio)}) > before, "no progress with two honest ones"
    assert len({rounds.log.head for rounds in honest}) == 1


def made(trio: Trio) -> list[Round]:
    """Rounds that have a record."""
    return [decode_record(one).round for one in records(trio)]


def advanced(trio: Trio, number: int) -> list[Round]:
    """What one replica took for right."""
    return [one.round for who, one in trio.by if who == number and isinstance(one, Advance)]
