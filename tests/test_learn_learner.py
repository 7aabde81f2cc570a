"""A learner: what it trains, sends, sends again, gives back, and for whom it does not wait."""

import msgspec
import pytest

from protocols.effects import Blame, Emit
from protocols.learn.claims import check_signed
from protocols.learn.learner import LAG, Learner
from protocols.learn.learner_ports import (
    Applied,
    Apply,
    CatchUp,
    CaughtUp,
    Encode,
    Encoded,
    GiveBack,
    LearnerSettings,
    Paused,
    Resumed,
    Routed,
    Silent,
    Train,
    Trained,
)
from protocols.learn.messages import (
    Acked,
    Ask,
    Blob,
    Held,
    Here,
    Push,
    Records,
    Refused,
    Watch,
    Where,
)
from protocols.learn.replica_ports import Term
from protocols.learn.round_ports import Heard, Say, Tick
from protocols.plan import Phase
from simnet.virtual.keys import Keys
from tests.rounds_kit import GENESIS, MODEL, PLAN, REALM, SIZE, digest_of, record_of


class Desk:
    """A learner of two groups, each with three replicas of its own, and what it asked for."""

    def __init__(self, *, ahead: int = 0, plan=PLAN, groups: int = 2) -> None:
        self.keys = Keys(1)
        self.key = self.keys.new("learner")
        self.now = 1000
        self.plan = plan
        self.groups = tuple(range(groups))
        self.seated = {
            group: [self.keys.new(f"replica {group} {number}") for number in range(3)]
            for group in self.groups
        }
        self.epochs = {1}
        settings = LearnerSettings(
            realm=REALM, model=MODEL, plan=plan, me=self.key.peer, groups=self.groups, ahead=ahead
        )
        self.learner = Learner(settings, self.seats, self.key.sign, self.keys.verify, 1)
        self.effects: list[object] = []
        self.records = {group: [] for group in self.groups}

    def seats(self, group: int, epoch: int) -> tuple[bytes, ...]:
        if epoch not in self.epochs:
            return ()
        return tuple(key.peer for key in self.seated[group])

    def primary(self, group: int) -> bytes:
        return self.seated[group][0].peer

    def tell(self, event) -> list[object]:
        effects = self.learner.handle(event, self.now)
        self.effects += effects
        return effects

    def start(self, numbers=None) -> list[object]:
        return self.tell(Resumed(dict.fromkeys(self.groups, (0, GENESIS))))

    def pop(self, kind: type) -> list:
        """Effects of a kind since they were last asked for."""
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def said(self, kind: type) -> list[tuple[bytes, object]]:
        """(to whom, what), since they were last asked for."""
        found = [it for it in self.effects if isinstance(it, Say) and isinstance(it.message, kind)]
        self.effects = [it for it in self.effects if it not in found]
        return [(it.peer, it.message) for it in found]

    def train(self) -> None:
        """Do what it asks for, up to the deltas."""
        for _ in range(3):
            for wanted in self.pop(Train):
                self.tell(Trained(wanted.seq))
        for wanted in self.pop(Encode):
            made = {g: Blob(digest_of("mine", g, wanted.seq), SIZE) for g in wanted.groups}
            self.tell(Encoded(wanted.seq, made))

    def close(self, group: int, *, inputs=(), apply: bool = True) -> object:
        """The group's next round is committed, and comes."""
        done = self.records[group]
        parent = done[-1].round.head if done else GENESIS
        record = record_of(self.seated[group], len(done), parent, group=group, inputs=inputs)
        done.append(record)
        self.tell(Heard(self.primary(group), self.message(group, [record])))
        if apply:
            self.apply()
        return record

    def message(self, group: int, records, *, oldest: int = 0) -> Records:
        done = self.records[group]
        base = done[-1].round.head if done else GENESIS
        return Records(
            model=MODEL,
            group=group,
            oldest=oldest,
            number=len(done),
            base=base,
            records=tuple(records),
        )

    def apply(self) -> None:
        while wanted := self.pop(Apply):
            for one in wanted:
                self.tell(Applied(one.round.group, one.round.number, one.round.head))

    def pushed(self) -> list[tuple[bytes, Push]]:
        return self.said(Push)

    def answer(self, group: int, digest: bytes, number: int = 0, *, by: bytes | None = None):
        acked = Acked(model=MODEL, group=group, number=number, digest=digest)
        return self.tell(Heard(by or self.primary(group), acked))

    def refuse(self, group: int, digest: bytes, reason: str, **more):
        fields = {"number": 0, "base": GENESIS, "hint": None} | more
        by = fields.pop("by", self.primary(group))
        no = Refused(model=MODEL, group=group, digest=digest, reason=reason, **fields)
        return self.tell(Heard(by, no))


def begun(**more) -> Desk:
    desk = Desk(**more)
    desk.start()
    return desk


def sent(**more) -> tuple[Desk, dict[int, bytes]]:
    """One that has sent its first deltas, by group."""
    desk = begun(**more)
    desk.train()
    digests = {made.group: made.digest for _, push in desk.pushed() for made in push.said.made}
    return desk, digests


# -- the work -------------------------------------------------------------------------------------


def test_it_trains_the_phases_steps_encodes_and_signs_one_claim_for_each_primary():
    desk = begun()
    (wanted,) = desk.pop(Train)
    assert (wanted.steps, wanted.gradient) == (15, False)
    desk.tell(Trained(wanted.seq))
    (encode,) = desk.pop(Encode)
    assert (encode.groups, encode.codec) == ((0, 1), "ternary")
    made = {group: Blob(digest_of(group), SIZE) for group in (0, 1)}
    desk.tell(Encoded(encode.seq, made))
    pushes = desk.pushed()
    assert {to for to, _ in pushes} == {desk.primary(0), desk.primary(1)}
    for _, push in pushes:
        check_signed(REALM, push.said, desk.keys.verify)
        (one,) = push.said.made
        assert (one.number, one.base, push.groups) == (0, GENESIS, (one.group,))


def test_groups_with_one_primary_are_one_claim():
    desk = Desk()
    desk.seated[1] = desk.seated[0]
    desk.start()
    desk.train()
    ((to, push),) = desk.pushed()
    assert to == desk.primary(0)
    assert push.groups == (0, 1)


def test_it_waits_for_the_record_and_trains_from_what_it_makes():
    desk, _ = sent()
    assert not desk.pop(Train)
    desk.close(0)
    assert not desk.pop(Train)
    desk.close(1)
    assert len(desk.pop(Train)) == 1
    assert [it.number for it in desk.learner.groups.values()] == [1, 1]


def test_ahead_it_trains_some_steps_while_the_round_is_open_and_the_rest_after():
    desk, _ = sent(ahead=400)
    (early,) = desk.pop(Train)
    assert early.steps == 6
    desk.tell(Trained(early.seq))
    assert not desk.pop(Train)
    assert not desk.pop(Encode)
    desk.close(0)
    desk.close(1)
    (rest,) = desk.pop(Train)
    assert rest.steps == 9
    desk.tell(Trained(rest.seq))
    assert desk.pop(Encode)


def test_single_steps_send_the_gradient_and_are_never_ahead():
    phases = (Phase(5, 1, "int8", "int8"), Phase(5, 4, "ternary", "ternary"))
    desk, _ = sent(ahead=900, plan=msgspec.structs.replace(PLAN, phases=phases))
    assert not desk.pop(Train)
    for _ in range(5):
        desk.close(0)
        desk.close(1)
        desk.train()
    assert desk.learner._phase == phases[1]


def test_it_goes_on_without_a_group_whose_round_does_not_close():
    desk, _ = sent()
    desk.close(0)
    desk.now += LAG * PLAN.patience_ms - 1
    desk.tell(Tick())
    assert not desk.pop(Train)
    desk.now = desk.learner.next_wake
    desk.now += 1
    desk.tell(Tick())
    (wanted,) = desk.pop(Train)
    desk.tell(Trained(wanted.seq))
    (encode,) = desk.pop(Encode)
    assert encode.groups == (0,)


def test_a_group_that_moved_while_it_trained_is_left_out_once():
    desk, _ = sent()
    desk.close(0)
    desk.now += LAG * PLAN.patience_ms
    desk.tell(Tick())
    (wanted,) = desk.pop(Train)  # for group 0 alone
    desk.close(1)
    desk.tell(Trained(wanted.seq))
    (encode,) = desk.pop(Encode)
    assert encode.groups == (0,)  # group 1 would come a whole training before the others
    desk.tell(Encoded(encode.seq, {0: Blob(digest_of("x"), SIZE)}))
    desk.close(0)
    (wanted,) = desk.pop(Train)
    desk.tell(Trained(wanted.seq))
    (encode,) = desk.pop(Encode)
    assert encode.groups == (0, 1)


def test_the_next_delta_names_the_version_that_is_newest_when_it_is_encoded():
    desk = begun()
    (wanted,) = desk.pop(Train)
    first = desk.close(0)
    desk.close(1)
    desk.tell(Trained(wanted.seq))
    (encode,) = desk.pop(Encode)
    desk.tell(Encoded(encode.seq, {0: Blob(digest_of("x"), SIZE)}))
    ((_, push),) = desk.pushed()
    assert (push.said.made[0].number, push.said.made[0].base) == (1, first.round.head)


# -- sending again --------------------------------------------------------------------------------


def test_what_is_not_acked_is_sent_again_and_the_replicas_are_asked_who_leads():
    desk, digests = sent()
    desk.answer(1, digests[1])
    desk.now += 3_000
    desk.tell(Tick())
    ((to, push),) = desk.pushed()
    assert (to, push.groups) == (desk.primary(0), (0,))
    asked = {to for to, _ in desk.said(Where)}
    assert asked == set(desk.seats(0, 1))


def test_after_a_take_over_the_same_delta_goes_to_the_new_primary():
    desk, digests = sent()
    desk.said(Watch)
    second = desk.seated[0][1].peer
    here = Here(model=MODEL, group=0, term=Term(1, 4), primary=second, number=0)
    desk.tell(Heard(second, here))
    ((to, push),) = desk.pushed()
    assert to == second
    assert push.said.made[0].digest == digests[0]
    assert second in {to for to, _ in desk.said(Watch)}
    old = Here(model=MODEL, group=0, term=Term(1, 3), primary=desk.primary(0), number=0)
    desk.tell(Heard(desk.primary(0), old))
    assert desk.learner.primaries.of(0) == second


def test_a_stranger_is_not_believed_to_lead():
    desk, _ = sent()
    stranger = desk.keys.new("stranger").peer
    for said_by, primary in ((stranger, desk.seated[0][1].peer), (desk.primary(0), stranger)):
        here = Here(model=MODEL, group=0, term=Term(9, 9), primary=primary, number=0)
        desk.tell(Heard(said_by, here))
    assert desk.learner.primaries.of(0) == desk.primary(0)
    assert not desk.pushed()


def test_an_ack_of_a_stranger_counts_for_nothing():
    desk, digests = sent()
    desk.answer(0, digests[0], by=desk.keys.new("stranger").peer)
    desk.answer(1, digests[1])
    desk.now += 3_000
    desk.tell(Tick())
    assert [push.groups for _, push in desk.pushed()] == [(0,)]


def test_a_refusal_for_the_base_is_given_back_and_the_rounds_are_asked_for():
    desk, digests = sent()
    desk.refuse(0, digests[0], "base", number=2)
    assert desk.pop(GiveBack) == [GiveBack(0, digests[0])]
    ((_, ask),) = desk.said(Ask)
    assert (ask.group, ask.number) == (0, 0)


@pytest.mark.parametrize("reason", ["stale", "malformed"])
def test_what_nobody_can_take_goes_back_into_the_error_feedback(reason):
    desk, digests = sent()
    desk.refuse(0, digests[0], reason)
    assert desk.pop(GiveBack) == [GiveBack(0, digests[0])]
    desk.now += 60_000
    desk.tell(Tick())
    assert all(push.groups == (1,) for _, push in desk.pushed())


def test_what_was_given_back_while_its_round_is_open_is_sent_in_another_delta():
    desk, digests = sent()
    desk.refuse(0, digests[0], "malformed")
    desk.close(1)
    desk.train()
    assert {push.groups for _, push in desk.pushed()} == {(0,), (1,)}


def test_a_duplicate_was_taken_and_is_not_given_back():
    desk, digests = sent()
    desk.refuse(0, digests[0], "duplicate")
    assert not desk.pop(GiveBack)


def test_a_primary_that_leads_no_more_names_the_next():
    desk, digests = sent()
    second = desk.seated[0][1].peer
    desk.refuse(0, digests[0], "not-leading", hint=second)
    ((to, _),) = desk.pushed()
    assert to == second


def test_a_delta_whose_round_is_long_past_is_given_back():
    desk, digests = sent()
    desk.close(0)
    desk.close(0)
    assert desk.pop(GiveBack) == [GiveBack(0, digests[0])]


def test_a_record_that_names_the_delta_is_as_good_as_an_ack():
    from protocols.learn.claims import Input

    desk, digests = sent()
    desk.close(0, inputs=(Input(desk.key.peer, digests[0], 1000),))
    desk.now += 3_000
    desk.tell(Tick())
    assert [push.groups for _, push in desk.pushed()] == [(1,)]


# -- through an aggregator ------------------------------------------------------------------------


def relayed() -> tuple[Desk, bytes, dict[int, bytes]]:
    desk = Desk()
    aggregator = desk.keys.new("aggregator").peer
    desk.start()
    desk.tell(Routed(aggregator))
    desk.train()
    ((to, push),) = desk.pushed()
    assert to == aggregator
    assert push.relay
    assert push.groups == (0, 1)
    return desk, aggregator, {made.group: made.digest for made in push.said.made}


def test_a_silent_aggregator_costs_one_bounded_wait_then_the_primaries_have_it():
    desk, aggregator, _ = relayed()
    desk.now += 5_000
    desk.tell(Tick())
    assert desk.pop(Silent)[0] == Silent(aggregator)
    pushes = desk.pushed()
    assert {to for to, _ in pushes} == {desk.primary(0), desk.primary(1)}
    assert not any(push.relay for _, push in pushes)


def test_an_aggregator_that_holds_it_is_given_time_and_not_called_silent():
    desk, aggregator, digests = relayed()
    held = Held(model=MODEL, number=0, digests=tuple(digests.values()))
    desk.tell(Heard(aggregator, held))
    desk.now += 5_001
    desk.tell(Tick())
    assert not desk.pushed()
    desk.now += 2 * PLAN.patience_ms
    desk.tell(Tick())
    assert {to for to, _ in desk.pushed()} == {desk.primary(0), desk.primary(1)}
    assert not desk.pop(Silent)


def test_a_full_aggregator_sends_it_straight_to_the_primary():
    desk, aggregator, digests = relayed()
    desk.refuse(0, digests[0], "full", by=aggregator)
    ((to, push),) = desk.pushed()
    assert (to, push.groups) == (desk.primary(0), (0,))
    assert desk.pop(Silent) == [Silent(aggregator)], "another one is looked for"


def test_another_route_takes_along_what_is_not_acked():
    desk, _, digests = relayed()
    desk.said(Watch)
    other = desk.keys.new("other").peer
    desk.tell(Routed(other))
    assert {push.groups for _, push in desk.pushed()} == {(0,), (1,)}
    ((to, watch),) = desk.said(Watch)
    assert to == other
    assert len(watch.marks) == 2
    assert digests


# -- rounds ---------------------------------------------------------------------------------------


def test_records_are_applied_in_order_whatever_order_they_come_in():
    desk = begun()
    records = []
    parent = GENESIS
    for number in range(3):
        records.append(record_of(desk.seated[0], number, parent))
        parent = records[-1].round.head
    desk.records[0] = records
    for record in reversed(records):
        desk.tell(Heard(b"", desk.message(0, [record])))
    applied = []
    while wanted := desk.pop(Apply):
        (one,) = wanted
        applied.append(one.round.number)
        desk.tell(Applied(0, one.round.number, one.round.head))
    assert applied == [0, 1, 2]


def test_a_record_of_one_replica_or_of_strangers_is_not_applied():
    desk = begun()
    strangers = [desk.keys.new(f"stranger {number}") for number in range(3)]
    for signers in (desk.seated[0][:1], strangers):
        record = record_of(signers, 0, GENESIS)
        effects = desk.tell(Heard(b"liar", desk.message(0, [record])))
        assert [it for it in effects if isinstance(it, Blame)]
    assert not desk.pop(Apply)


def test_a_record_of_an_epoch_that_is_not_known_here_blames_nobody():
    desk = begun()
    record = record_of(desk.seated[0], 0, GENESIS, epoch=2)
    effects = desk.tell(Heard(desk.primary(0), desk.message(0, [record])))
    assert not [it for it in effects if isinstance(it, Blame | Apply)]
    desk.epochs.add(2)
    desk.tell(Heard(desk.primary(0), desk.message(0, [record])))
    assert desk.pop(Apply)


def test_a_result_that_does_not_make_its_head_is_told_and_the_version_fetched():
    desk = begun()
    record = desk.close(0, apply=False)
    desk.pop(Apply)
    desk.tell(Applied(0, 0, digest_of("something else")))
    assert [it.kind for it in desk.pop(Emit)] == ["learn.bad-round"]
    (catch,) = desk.pop(CatchUp)
    assert (catch.number, catch.head) == (1, record.round.head)
    desk.tell(CaughtUp(0, 1, record.round.head))
    assert desk.learner.groups[0].number == 1


def test_who_is_behind_all_results_takes_a_version_that_a_record_names():
    desk = begun()
    parent = GENESIS
    for number in range(9):
        desk.records[0].append(record_of(desk.seated[0], number, parent))
        parent = desk.records[0][-1].round.head
    desk.tell(Heard(desk.primary(0), desk.message(0, [], oldest=8)))
    ((_, ask),) = [it for it in desk.said(Ask) if it[1].number]
    assert ask.number == 8
    newest = desk.records[0][8]
    desk.tell(Heard(desk.primary(0), desk.message(0, [newest], oldest=8)))
    assert desk.pop(CatchUp) == [CatchUp(0, 9, newest.round.head)]
    desk.tell(CaughtUp(0, 9, newest.round.head))
    assert desk.learner.groups[0].number == 9


def test_a_pause_ends_the_work_and_it_goes_on_from_its_last_round():
    desk, _ = sent()
    desk.close(0)
    desk.close(1)
    (wanted,) = desk.pop(Train)
    desk.tell(Paused())
    desk.tell(Trained(wanted.seq))
    desk.close(0, apply=False)
    assert not desk.pop(Encode)
    assert not desk.pop(Apply)
    heads = {group: (1, desk.records[group][0].round.head) for group in (0, 1)}
    desk.tell(Resumed(heads))
    desk.apply()
    assert [it.number for it in desk.learner.groups.values()] == [2, 1]
    assert desk.pop(Train)


# -- watching -------------------------------------------------------------------------------------


def test_it_watches_anew_when_the_epoch_turns():
    desk, _ = sent()
    desk.said(Watch)
    desk.epochs.add(2)
    desk.seated[0] = [desk.keys.new(f"new {number}") for number in range(3)]
    desk.learner.primaries.epoch = 2
    desk.tell(Tick())
    assert {to for to, _ in desk.said(Watch)} == {desk.primary(0), desk.primary(1)}
    assert desk.said(Where)


def test_news_that_came_only_by_asking_mean_that_nobody_tells_us():
    desk, digests = sent()
    for group, digest in digests.items():
        desk.answer(group, digest)
    desk.said(Watch)
    desk.said(Ask)
    desk.now += 5_000
    desk.tell(Tick())
    assert desk.said(Ask)
    assert not desk.said(Watch)
    desk.close(0)
    assert desk.said(Watch)


def test_it_never_wants_to_be_woken_in_the_past():
    desk, _ = sent()
    desk.close(0, apply=False)
    for _ in range(50):
        desk.tell(Tick())
        wake = desk.learner.next_wake
        assert wake is not None
        assert wake > desk.now, "it wants to be woken, and does nothing"
        desk.now = wake
