"""A region's aggregator: many deltas, one sum; what it keeps, passes on, and is caught at."""

import msgspec
import pytest

from protocols.effects import Blame, Save
from protocols.learn import audit
from protocols.learn.aggregator import Aggregator
from protocols.learn.aggregator_ports import (
    KEEP_MS,
    MAX_TRIES,
    SUM_ACK_MS,
    AggregatorSettings,
    Combine,
    Combined,
    NotCombined,
    restored,
)
from protocols.learn.audit import Audit, Caught, Recompute, Recomputed, Recorded, check_proof
from protocols.learn.claims import BadClaimError, Claim, Input, Sum, check_signed
from protocols.learn.messages import (
    Accuse,
    Acked,
    Ask,
    Blob,
    Held,
    Here,
    Mark,
    Proof,
    Prove,
    Push,
    Records,
    Refused,
    Stage,
    Watch,
    Where,
    blobs_of,
    pack,
    unpack,
)
from protocols.learn.replica_ports import Term
from protocols.learn.round_ports import Heard, Release, Say, Tick
from protocols.ledger.trainings import EXCLUDED
from simnet.virtual.keys import Keys
from tests.rounds_kit import (
    GENESIS,
    MODEL,
    PLAN,
    REALM,
    SIZE,
    claim_of,
    digest_of,
    record_of,
    sealed,
)


class Hub:
    """An aggregator, its learners and the replicas of one group."""

    def __init__(self, **more) -> None:
        self.keys = Keys(1)
        self.key = self.keys.new("aggregator")
        self.learners = [self.keys.new(f"learner {number}") for number in range(8)]
        self.replicas = [self.keys.new(f"replica {number}") for number in range(3)]
        self.primary = self.replicas[0].peer
        self.now = 1000
        self.epochs = {1}
        self.effects: list[object] = []
        settings = AggregatorSettings(
            realm=REALM,
            model=MODEL,
            plan=PLAN,
            me=self.key.peer,
            groups=(0, 1),
            max_delta=10 * SIZE,
            **more,
        )
        self.machine = Aggregator(settings, self.seats, self.key.sign, self.keys.verify, 1)
        self.combines = True

    def seats(self, group: int, epoch: int) -> tuple[bytes, ...]:
        return tuple(key.peer for key in self.replicas) if epoch in self.epochs else ()

    def tell(self, event) -> None:
        for effect in self.machine.handle(event, self.now):
            if isinstance(effect, Combine) and self.combines:
                self.combined(effect)
            else:
                self.effects.append(effect)

    def combined(self, asked: Combine, **more) -> None:
        name = ("sum", asked.group, asked.parts, asked.carry)
        left = Blob(digest_of("left", *name), 4 * SIZE)
        self.tell(Combined(asked.ticket, Blob(digest_of(*name), SIZE), left=left, **more))

    def hear(self, peer: bytes, message) -> None:
        self.tell(Heard(peer, message))

    def push(self, *learners: int, number: int = 0, base: bytes = GENESIS, **more) -> None:
        for learner in learners:
            claim = claim_of(self.learners[learner], number, base, **more)
            groups = tuple(made.group for made in claim.made)
            self.hear(claim.learner, Push(said=claim, groups=groups, relay=True))

    def said(self, kind: type, to: bytes | None = None) -> list:
        """What it said of a kind since this was last asked, to somebody or anybody."""
        found = [
            it
            for it in self.effects
            if isinstance(it, Say) and isinstance(it.message, kind) and to in (None, it.peer)
        ]
        self.effects = [it for it in self.effects if it not in found]
        return [it.message for it in found]

    def pop(self, kind: type) -> list:
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def tick(self, ms: int) -> None:
        self.now += ms
        self.tell(Tick())

    def sums(self) -> list[Sum]:
        return [push.said for push in self.said(Push, self.primary)]

    def ack(self, said: Sum | Claim) -> None:
        made = said.made if isinstance(said, Sum) else said.made[0]
        acked = Acked(model=MODEL, group=made.group, number=made.number, digest=made.digest)
        self.hear(self.primary, acked)

    def refuse(self, said: Sum, reason: str, **more) -> None:
        fields = {"number": 1, "base": digest_of("right"), "learners": ()} | more
        digest = said.made.digest
        no = Refused(model=MODEL, group=said.made.group, digest=digest, reason=reason, **fields)
        self.hear(self.primary, no)

    def play(self, number: int, base: bytes, *learners: int) -> Sum:
        """A whole round; its acknowledged sum."""
        self.push(*learners, number=number, base=base)
        self.tick(PLAN.patience_ms)
        (said,) = self.sums()
        self.ack(said)
        return said


# -- sums -----------------------------------------------------------------------------------------


def test_a_regions_deltas_leave_as_one_signed_sum_that_names_them():
    hub = Hub()
    hub.push(0, 1, 2)
    assert not hub.sums()
    hub.tick(PLAN.patience_ms)
    (said,) = hub.sums()
    check_signed(REALM, said, hub.keys.verify)
    assert [entry.learner for entry in said.inputs] == sorted(key.peer for key in hub.learners[:3])
    digests = {claim_of(key, 0, GENESIS).made[0].digest for key in hub.learners[:3]}
    assert {entry.digest for entry in said.inputs} == digests
    assert (said.made.number, said.made.base) == (0, GENESIS)


def test_learners_are_told_held_at_once_and_acked_when_the_primary_has_it():
    hub = Hub()
    hub.push(0, 1)
    assert len(hub.said(Held)) == 2
    hub.tick(PLAN.patience_ms)
    assert not hub.said(Acked)
    (said,) = hub.sums()
    stranger = Acked(model=MODEL, group=0, number=0, digest=said.made.digest)
    hub.hear(hub.learners[7].peer, stranger)
    assert not hub.said(Acked)
    hub.ack(said)
    assert {it.digest for it in hub.said(Acked)} == {entry.digest for entry in said.inputs}


def test_of_one_learner_alone_its_own_delta_is_passed_on():
    hub = Hub()
    hub.push(0)
    hub.tick(PLAN.patience_ms)
    (said,) = hub.sums()
    assert isinstance(said, Claim)
    assert said.learner == hub.learners[0].peer
    hub.ack(said)
    assert len(hub.said(Acked, hub.learners[0].peer)) == 1


def test_once_all_who_came_last_time_are_there_nobody_is_waited_for():
    hub = Hub()
    first = hub.play(0, GENESIS, 0, 1, 2)
    base = first.made.digest
    hub.push(0, 1, number=1, base=base)
    assert not hub.sums()
    hub.push(2, number=1, base=base)
    (said,) = hub.sums()
    assert len(said.inputs) == 3


def test_who_comes_late_is_in_another_sum_and_expected_the_next_time():
    hub = Hub()
    hub.play(0, GENESIS, 0, 1)
    hub.push(2, 3)
    hub.tick(PLAN.patience_ms)
    (late,) = hub.sums()
    assert {entry.learner for entry in late.inputs} == {key.peer for key in hub.learners[2:4]}
    hub.push(0, 1, number=1, base=digest_of("1"))
    assert not hub.sums()
    hub.push(2, 3, number=1, base=digest_of("1"))
    (said,) = hub.sums()
    assert len(said.inputs) == 4


def test_what_a_sum_left_is_carried_into_the_next_that_is_made_after_its_ack():
    hub = Hub()
    first = hub.play(0, GENESIS, 0, 1)
    assert first.carry is None
    second = hub.play(1, digest_of("1"), 0, 1)
    assert second.carry == first.left
    hub.push(0, 1, number=2, base=digest_of("2"))
    (lost,) = hub.sums()
    hub.refuse(lost, "stale")
    third = hub.play(3, digest_of("3"), 0, 1)
    assert third.carry == second.left, "what was refused left nothing"


def test_a_sum_with_somebody_who_was_taken_is_made_again_without_and_he_is_told():
    hub = Hub()
    hub.push(0, 1, 2)
    hub.tick(PLAN.patience_ms)
    (said,) = hub.sums()
    hub.refuse(said, "overlap", learners=(hub.learners[1].peer,))
    assert not hub.said(Acked), "another delta of his may be the one that was taken"
    assert hub.said(Refused, hub.learners[1].peer)[0].reason == "duplicate"
    (again,) = hub.sums()
    assert [entry.learner for entry in again.inputs] == sorted(
        hub.learners[number].peer for number in (0, 2)
    )


@pytest.mark.parametrize("reason", ["base", "stale", "full", "malformed", "duplicate"])
def test_what_the_primary_refuses_is_refused_to_each_learner_with_the_right_base(reason):
    hub = Hub()
    hub.push(0, 1)
    hub.tick(PLAN.patience_ms)
    (said,) = hub.sums()
    hub.refuse(said, reason)
    for entry in said.inputs:
        (no,) = hub.said(Refused, entry.learner)
        assert (no.reason, no.digest, no.base) == (reason, entry.digest, digest_of("right"))


def test_a_primary_that_is_silent_is_looked_for_and_given_up_in_bounded_time():
    hub = Hub()
    hub.push(0, 1)
    hub.tick(PLAN.patience_ms)
    hub.sums()
    hub.tick(SUM_ACK_MS)
    assert len(hub.said(Where)) == 3
    assert len(hub.sums()) == 1
    second = hub.replicas[1].peer
    here = Here(model=MODEL, group=0, term=Term(1, 4), primary=second, number=0)
    hub.hear(second, here)
    assert len(hub.said(Push, second)) == 1
    for _ in range(MAX_TRIES):
        hub.tick(SUM_ACK_MS)
    assert len(hub.said(Refused)) == 2


def test_a_sum_that_cannot_be_made_sends_its_learners_to_the_primary():
    hub = Hub()
    hub.combines = False
    hub.push(0, 1)
    hub.tick(PLAN.patience_ms)
    (asked,) = hub.pop(Combine)
    hub.tell(NotCombined(asked.ticket))
    assert {(no.reason, no.hint) for no in hub.said(Refused)} == {("full", hub.primary)}


def test_who_sent_what_cannot_be_used_is_left_out_and_told():
    hub = Hub()
    hub.combines = False
    hub.push(0, 1, 2)
    hub.tick(PLAN.patience_ms)
    (asked,) = hub.pop(Combine)
    hub.combined(asked, bad=(hub.learners[1].peer,))
    (said,) = hub.sums()
    assert hub.learners[1].peer not in {entry.learner for entry in said.inputs}
    assert hub.said(Refused, hub.learners[1].peer)[0].reason == "malformed"


def test_the_replica_in_its_region_is_given_the_sum_before_the_log_brings_it():
    near = {}
    hub = Hub(nearest=lambda _: near["peer"])
    near["peer"] = hub.replicas[2].peer
    said = hub.play(0, GENESIS, 0, 1)
    (stage,) = hub.said(Stage, hub.replicas[2].peer)
    assert blobs_of(stage) == (Blob(said.made.digest, said.made.size),)
    near["peer"] = hub.primary
    hub.play(1, digest_of("1"), 0, 1)
    assert not hub.said(Stage)


# -- whom it serves -------------------------------------------------------------------------------


def test_without_a_worker_it_serves_nobody():
    able = [True]
    hub = Hub(able=lambda: able[0])
    claim = claim_of(hub.learners[0], 0, GENESIS)
    push = Push(said=claim, groups=(0,), relay=True)
    assert hub.machine.screen(claim.learner, push, hub.now) == []
    able[0] = False
    assert [no.reason for no in hub.machine.screen(claim.learner, push, hub.now)] == ["full"]


def test_beyond_its_fan_in_it_refuses_before_any_byte_is_fetched():
    hub = Hub(fan_in=2)
    hub.push(0, 1)
    claim = claim_of(hub.learners[2], 0, GENESIS)
    push = Push(said=claim, groups=(0,), relay=True)
    assert [no.reason for no in hub.machine.screen(claim.learner, push, hub.now)] == ["full"]
    hub.push(2)
    assert hub.said(Refused, hub.learners[2].peer)[0].hint == hub.primary
    known = claim_of(hub.learners[0], 0, GENESIS, groups=(1,))
    again = Push(said=known, groups=(1,), relay=True)
    assert hub.machine.screen(known.learner, again, hub.now) == []


def test_a_delta_on_another_base_than_the_records_is_refused_with_the_right_one():
    hub = Hub()
    record = record_of(hub.replicas, 0, GENESIS)
    hub.hear(hub.primary, told([record]))
    hub.push(0, number=1, base=digest_of("wrong"))
    (no,) = hub.said(Refused, hub.learners[0].peer)
    assert (no.reason, no.number, no.base) == ("base", 1, record.round.head)


def test_nobody_speaks_for_another_learner_and_forged_claims_are_no_inputs():
    hub = Hub()
    claim = claim_of(hub.learners[0], 0, GENESIS)
    hub.hear(hub.learners[1].peer, Push(said=claim, groups=(0,), relay=True))
    forged = msgspec.structs.replace(claim, steps=99)
    hub.hear(claim.learner, Push(said=forged, groups=(0,), relay=True))
    assert len(hub.pop(Blame)) == 1
    hub.tick(PLAN.patience_ms)
    assert not hub.sums()


# -- rounds ---------------------------------------------------------------------------------------


def told(records, *, oldest: int = 0) -> Records:
    last = records[-1].round
    return Records(
        model=MODEL,
        group=last.group,
        oldest=oldest,
        number=last.number + 1,
        base=last.head,
        records=tuple(records),
    )


def test_records_are_passed_on_to_who_watches_and_asked_for_by_one_watch_of_ours():
    hub = Hub()
    for learner in hub.learners[:3]:
        hub.hear(learner.peer, Watch(model=MODEL, marks=(Mark(0, 0), Mark(1, 0))))
    assert len(hub.said(Watch, hub.primary)) == 1
    record = record_of(hub.replicas, 0, GENESIS)
    hub.hear(hub.primary, told([record]))
    assert len(hub.said(Records)) == 3
    hub.hear(hub.primary, told([record]))
    assert not hub.said(Records)
    hub.hear(hub.learners[4].peer, Ask(model=MODEL, group=0, number=0))
    assert hub.said(Records, hub.learners[4].peer)[0].records == (record,)


def test_a_record_that_one_replica_signed_is_passed_to_nobody():
    hub = Hub()
    hub.hear(hub.learners[0].peer, Watch(model=MODEL, marks=(Mark(0, 0),)))
    hub.hear(hub.primary, told([record_of(hub.replicas[:1], 0, GENESIS)]))
    assert not hub.said(Records)
    assert hub.pop(Blame)


def test_the_nearest_replica_sends_it_rounds_and_the_primary_where_that_one_does_not():
    near = {}
    hub = Hub(nearest=lambda _: near["peer"])
    near["peer"] = hub.replicas[2].peer
    hub.hear(hub.learners[0].peer, Watch(model=MODEL, marks=(Mark(0, 0),)))
    assert len(hub.said(Watch, hub.replicas[2].peer)) == 1
    hub.tick(60_000)
    assert len(hub.said(Watch, hub.primary)) == 1


def test_it_watches_anew_when_the_epoch_turns_and_when_a_learner_knows_more():
    hub = Hub()
    hub.hear(hub.learners[0].peer, Watch(model=MODEL, marks=(Mark(0, 0),)))
    hub.hear(hub.primary, told([record_of(hub.replicas, 0, GENESIS)]))
    hub.said(Watch)
    hub.hear(hub.learners[0].peer, Watch(model=MODEL, marks=(Mark(0, 1),)))
    assert not hub.said(Watch)
    hub.hear(hub.learners[0].peer, Watch(model=MODEL, marks=(Mark(0, 2),)))
    assert len(hub.said(Watch, hub.primary)) == 1
    old, hub.epochs = hub.primary, {1, 2}
    hub.replicas = [hub.keys.new(f"new {number}") for number in range(3)]
    hub.machine.primaries.epoch = 2
    hub.tell(Tick())
    assert not hub.said(Watch, old)
    assert len(hub.said(Watch, hub.replicas[0].peer)) == 1


# -- what it can be asked for ---------------------------------------------------------------------


def proven(hub: Hub, said: Sum) -> Proof:
    prove = Prove(model=MODEL, group=0, number=said.made.number, digest=said.made.digest)
    hub.hear(b"auditor", prove)
    (proof,) = hub.said(Proof, b"auditor")
    return proof


def test_the_signed_deltas_behind_a_sum_are_kept_for_the_stated_time_and_released_then():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1, 2)
    proof = proven(hub, said)
    check_proof(REALM, proof, hub.keys.verify)
    assert unpack(pack(proof)) == proof
    named = {blob.digest for blob in blobs_of(proof)}
    assert named >= {said.made.digest, said.left.digest, *(it.digest for it in said.inputs)}
    hub.tick(KEEP_MS)
    released = {digest for effect in hub.pop(Release) for digest in effect.digests}
    assert released >= {said.made.digest, *(entry.digest for entry in said.inputs)}
    hub.hear(b"auditor", Prove(model=MODEL, group=0, number=0, digest=said.made.digest))
    assert not hub.said(Proof)


def test_they_outlive_a_restart():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1)
    rows = {save.key: save.value for save in hub.pop(Save)}
    anew = Hub()
    for event in restored(rows):
        anew.tell(event)
    check_proof(REALM, proven(anew, said), anew.keys.verify)


def test_a_proof_that_lacks_changes_or_adds_anything_is_none():
    hub = Hub()
    hub.play(0, GENESIS, 0, 1, 2)
    proof = proven(hub, hub.play(1, digest_of("1"), 0, 1, 2))
    other = claim_of(hub.learners[3], 1, digest_of("1"))
    elsewhere = claim_of(hub.learners[0], 1, digest_of("another base"))
    replaced = msgspec.structs.replace
    bad = [
        replaced(proof, claims=proof.claims[1:]),
        replaced(proof, claims=(*proof.claims, other)),
        replaced(
            proof,
            claims=tuple(
                elsewhere if it.learner == elsewhere.learner else it for it in proof.claims
            ),
        ),
        replaced(proof, sum=replaced(proof.sum, inputs=proof.sum.inputs[1:])),
        replaced(proof, claims=(replaced(proof.claims[0], steps=99), *proof.claims[1:])),
        replaced(proof, before=None),
        replaced(proof, before=proof.sum),
        replaced(proof, before=replaced(proof.before, signature=bytes(64))),
    ]
    for one in bad:
        with pytest.raises(BadClaimError):
            check_proof(REALM, one, hub.keys.verify)


# -- spot checks ----------------------------------------------------------------------------------


class Checker:
    """Somebody who audits."""

    def __init__(self, hub: Hub, *, one_in: int = 1, name: str = "auditor") -> None:
        self.hub = hub
        self.key = hub.keys.new(name)
        self.machine = Audit(
            realm=REALM,
            model=MODEL,
            plan=PLAN,
            me=self.key.peer,
            verify=hub.keys.verify,
            one_in=one_in,
        )
        self.machine.friends = (b"friend",)

    def tell(self, event, now: int = 0) -> list:
        return self.machine.handle(event, now)

    def recorded(self, *sums: Sum) -> list:
        entries = sorted(
            (Input(it.aggregator, it.made.digest, 0, len(it.inputs)) for it in sums),
            key=lambda it: it.learner + it.digest,
        )
        number = sums[0].made.number
        return self.tell(Recorded(record_of(self.hub.replicas, number, GENESIS, inputs=entries)))


def test_a_sum_is_recomputed_from_what_its_learners_signed_and_passes():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1, 2)
    checker = Checker(hub)
    (ask,) = checker.recorded(said)
    assert (ask.peer, ask.message.digest) == (hub.key.peer, said.made.digest)
    (work,) = checker.tell(Heard(hub.key.peer, proven(hub, said)))
    assert isinstance(work, Recompute)
    assert [part.source for part in work.parts] == [entry.learner for entry in said.inputs]
    assert checker.tell(Recomputed(said.made.digest, True)) == []
    assert not checker.machine.caught


def test_a_wrong_sum_costs_its_place_and_proves_itself_to_whoever_hears_of_it():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1, 2)
    checker = Checker(hub)
    checker.recorded(said)
    proof = proven(hub, said)
    checker.tell(Heard(hub.key.peer, proof))
    effects = checker.tell(Recomputed(said.made.digest, False))
    (found,) = [it for it in effects if isinstance(it, Caught)]
    assert (found.aggregator, found.proof) == (hub.key.peer, proof)
    assert found.record is not None, "that of the round that took it"
    told = {it.peer: it.message for it in effects if isinstance(it, Say)}
    cheated = {hub.learners[number].peer for number in (0, 1, 2)}
    assert told.keys() == cheated | {b"friend"}, "also those whose deltas are in it"
    (accuse,) = {pack(it): it for it in told.values()}.values()
    assert hub.key.peer in checker.machine.caught
    other = Checker(hub, name="somebody")
    (work,) = other.tell(Heard(b"friend", accuse))
    assert isinstance(work, Recompute)
    assert [it for it in other.tell(Recomputed(said.made.digest, False)) if isinstance(it, Caught)]


def test_an_accusation_is_recomputed_and_believed_from_nobody():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1)
    proof = proven(hub, said)
    checker = Checker(hub)
    checker.tell(Heard(b"liar", Accuse(proof=proof)))
    assert checker.tell(Recomputed(said.made.digest, True)) == []
    forged = msgspec.structs.replace(proof, claims=proof.claims[1:])
    assert Checker(hub).tell(Heard(b"liar", Accuse(proof=forged))) == []
    assert not checker.machine.caught


def test_who_gives_no_proof_loses_its_place_here():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1)
    checker = Checker(hub)
    for _ in range(audit.MISSES - 1):
        checker.recorded(said)
        assert checker.tell(Tick(), audit.PROOF_MS - 1) == []
        assert checker.tell(Tick(), audit.PROOF_MS) == []
    checker.recorded(said)
    effects = checker.tell(Tick(), audit.PROOF_MS)
    (found,) = [it for it in effects if isinstance(it, Caught)]
    assert (found.aggregator, found.proof, found.record) == (hub.key.peer, None, None)


def test_proofs_that_were_not_given_are_forgotten_epoch_by_epoch():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1)
    checker = Checker(hub)
    checker.machine.turn(1)
    for epoch in range(2, 2 + 2 * audit.MISSES):
        checker.recorded(said)
        assert checker.tell(Tick(), audit.PROOF_MS) == []
        checker.machine.turn(epoch)
    for _ in range(audit.MISSES):
        checker.recorded(said)
        checker.tell(Tick(), audit.PROOF_MS)
    assert hub.key.peer in checker.machine.caught
    checker.machine.turn(epoch + EXCLUDED)
    assert hub.key.peer in checker.machine.caught
    checker.machine.turn(epoch + EXCLUDED + 1)
    assert not checker.machine.caught


def test_what_is_carried_must_be_what_a_sum_left_that_a_round_took():
    hub = Hub()
    honest = hub.play(0, GENESIS, 0, 1)
    never = msgspec.structs.replace(
        honest,
        left=msgspec.structs.replace(honest.left, digest=digest_of("a bias")),
        made=msgspec.structs.replace(honest.made, digest=digest_of("never sent")),
    )
    never = sealed(hub.key, never)
    second = hub.play(1, digest_of("1"), 0, 1)
    proof = proven(hub, second)
    forged = sealed(hub.key, msgspec.structs.replace(second, carry=never.left))
    lie = msgspec.structs.replace(proof, sum=forged, before=never)
    check_proof(REALM, lie, hub.keys.verify)  # every signature is right
    checker = Checker(hub)
    checker.recorded(honest)
    checker.tell(Recorded(record_of(hub.replicas, 1, GENESIS, inputs=())))
    checker.machine._asked[forged.made.digest] = (hub.key.peer, 10**9)
    assert checker.tell(Heard(hub.key.peer, lie)) == [], "it is not even recomputed"
    assert checker.machine._missed == {hub.key.peer: 1}
    fine = Checker(hub, name="another")
    fine.recorded(honest)
    fine.recorded(second)
    assert isinstance(fine.tell(Heard(hub.key.peer, proof))[0], Recompute)


def test_who_checks_what_is_drawn_from_the_record_and_differs_between_auditors():
    hub = Hub()
    said = hub.play(0, GENESIS, 0, 1)
    entry = Input(said.aggregator, said.made.digest, 0, 2)
    drawn = 0
    for number in range(400):
        record = record_of(hub.replicas, 0, digest_of(number), inputs=(entry,))
        each = [audit.drawn(record, key.peer, entry) for key in hub.learners]
        drawn += sum(each)
    share = drawn / (400 * len(hub.learners))
    assert 0.5 / audit.ONE_IN < share < 2 / audit.ONE_IN
    assert audit.odds(100, 3, own=True) == audit.ONE_IN * 3, "its three look at one in eight"
    assert audit.odds(100, 60, own=True) == audit.ONE_IN * audit.REGION
    assert audit.odds(100, 60, own=False) == audit.FAR_ONE_IN * 100
    alone = Input(said.aggregator, said.made.digest, 0)
    assert not audit.drawn(record, hub.key.peer, alone, 1), "a learner's own delta is no sum"
