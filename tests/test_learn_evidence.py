"""What a checkpoint is made of: rounds that two replicas endorsed, and whose doing they are."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.changes import MAX_SHARES, Share
from protocols.cid import cid_of
from protocols.errors import LimitError, MalformedError
from protocols.learn import evidence as module
from protocols.learn.claims import (
    Endorsement,
    Input,
    Made,
    Record,
    Round,
    Sum,
    UnknownGroupError,
    claim_message,
    round_message,
)
from protocols.learn.evidence import (
    BadEvidenceError,
    Evidence,
    Span,
    Stand,
    check_evidence,
    heads_digest,
    read_evidence,
    shares,
    write_evidence,
)
from protocols.ledger.trainings import NO_ROUNDS
from protocols.realm import Realm
from tests.ledger_book import Person, people, verify
from tests.training_book import MODEL

REALM = Realm("test", bytes(32))
REPLICAS = [people(*(f"replica {group}.{n}" for n in range(3))) for group in range(2)]
LEARNERS = people("learner 1", "learner 2", "learner 3")
ONE, TWO, THREE = LEARNERS
AGGREGATOR = Person("aggregator")
EPOCH = 7
Inputs = Sequence[tuple[Person, int, int]]
"""(whose, share, of)"""


def root(group: int, number: int) -> bytes:
    return hashlib.sha256(f"version {group} {number}".encode()).digest()


def digest(who: Person, group: int, number: int) -> bytes:
    return hashlib.sha256(f"delta {who.name} {group} {number}".encode()).digest()


def made_round(group: int, number: int, inputs: Inputs, **fields: Any) -> Round:
    named = sorted(
        (Input(who.identity, digest(who, group, number), share, of) for who, share, of in inputs),
        key=lambda each: (each.learner, each.digest),
    )
    plain: dict[str, Any] = {
        "model": MODEL, "group": group, "number": number, "epoch": EPOCH,
        "parent": root(group, number), "head": root(group, number + 1),
        "result": bytes(32), "size": 10, "inputs": tuple(named),
    }  # fmt: skip
    return Round(**plain | fields)


def record(made: Round, by: Sequence[Person] = ()) -> Record:
    by = by or REPLICAS[made.group][:2]
    message = round_message(REALM, made)
    return Record(round=made, by=tuple(Endorsement(who.identity, who.sign(message)) for who in by))


def summed(group: int, number: int, learners: Sequence[Person], signer: Person = AGGREGATOR) -> Sum:
    delta = Made(group, number, root(group, number), digest(AGGREGATOR, group, number), 10)
    inputs = tuple(
        Input(who.identity, digest(who, group, number), 0)
        for who in sorted(learners, key=lambda each: each.identity)
    )
    said = Sum(
        model=MODEL, aggregator=AGGREGATOR.identity, made=delta, inputs=inputs, signature=bytes(64)
    )
    return msgspec.structs.replace(said, signature=signer.sign(claim_message(REALM, said)))


def span(ends: Sequence[int], begins: Sequence[int] = (0, 0)) -> Span:
    def stands(numbers: Sequence[int]) -> tuple[Stand, ...]:
        return tuple(Stand(number, root(group, number)) for group, number in enumerate(numbers))

    return Span(model=MODEL, begins=stands(begins), ends=stands(ends))


HALVES: Inputs = [(ONE, 500, 0), (TWO, 500, 0)]


def made_of(
    rounds: Sequence[Round], ends: Sequence[int] = (), begins: Sequence[int] = (0, 0)
) -> Evidence:
    counted = [begins[group] + sum(each.group == group for each in rounds) for group in (0, 1)]
    data = write_evidence(span(ends or counted, begins), map(record, rounds), ())
    return read_evidence(data)


def served(epoch: int, group: int) -> tuple[bytes, ...]:
    return tuple(who.identity for who in REPLICAS[group]) if epoch == EPOCH else ()


def check(found: Evidence, **fields: Any) -> None:
    plain: dict[str, Any] = {
        "model": MODEL,
        "began": NO_ROUNDS,
        "heads": heads_digest(MODEL, found.span.ends),
        "realm": REALM,
        "replicas": served,
        "verify": verify,
    }
    check_evidence(found, **plain | fields)


def parts(found: Sequence[Share]) -> dict[bytes, int]:
    return {each.identity: each.permille for each in found}


OTHER = cid_of(b"another model")
ROUNDS = [made_round(0, 0, HALVES), made_round(0, 1, HALVES), made_round(1, 0, [(ONE, 1000, 0)])]


# -- the chain -----------------------------------------------------------------------------------


def test_rounds_that_follow_each_other_are_evidence() -> None:
    found = made_of(ROUNDS)
    check(found)
    assert [each.round for each in found.records] == ROUNDS
    assert shares(found, [100, 100]) == tuple(
        sorted((Share(ONE.identity, 750), Share(TWO.identity, 250)), key=lambda s: s.identity)
    )


def test_what_is_written_is_in_order_whatever_was_given() -> None:
    backwards = write_evidence(span([2, 1]), map(record, reversed(ROUNDS)), ())
    assert backwards == write_evidence(span([2, 1]), map(record, ROUNDS), ())


Broken = Callable[[], Evidence]
BROKEN: dict[str, Broken] = {
    "a round is missing": lambda: made_of([ROUNDS[0], ROUNDS[2]], (2, 1)),
    "a round too many": lambda: made_of([*ROUNDS, made_round(1, 1, HALVES)], (2, 1)),
    "a round twice": lambda: made_of([ROUNDS[0], ROUNDS[0], ROUNDS[1], ROUNDS[2]], (3, 1)),
    "another parent": lambda: made_of([*ROUNDS[:2], made_round(1, 0, HALVES, parent=bytes(32))]),
    "another head": lambda: made_of([*ROUNDS[:2], made_round(1, 0, HALVES, head=bytes(32))]),
    "another model": lambda: made_of([*ROUNDS[:2], made_round(1, 0, HALVES, model=OTHER)]),
    "a group that is not there": lambda: Evidence(
        span([2, 1]), (*map(record, ROUNDS[:2]), record(ROUNDS[2]), _beyond()), {}
    ),
    "one replica alone": lambda: Evidence(
        span([2, 1]), (*map(record, ROUNDS[:2]), record(ROUNDS[2], REPLICAS[1][:1])), {}
    ),
    "one replica twice": lambda: Evidence(
        span([2, 1]), (*map(record, ROUNDS[:2]), record(ROUNDS[2], REPLICAS[1][:1] * 2)), {}
    ),
    "another group's replicas": lambda: Evidence(
        span([2, 1]), (*map(record, ROUNDS[:2]), record(ROUNDS[2], REPLICAS[0][:2])), {}
    ),
    "begins in the middle": lambda: made_of(
        [made_round(0, 1, HALVES), made_round(1, 0, HALVES)], (2, 1), (1, 0)
    ),
}  # fmt: skip


def _beyond() -> Record:
    return msgspec.structs.replace(
        record(ROUNDS[2]), round=made_round(2, 0, HALVES, parent=bytes(32))
    )


@pytest.mark.parametrize("why", BROKEN)
def test_a_broken_chain_is_no_evidence(why: str) -> None:
    with pytest.raises(BadEvidenceError):
        check(BROKEN[why]())


def test_it_goes_on_where_the_parent_ended_and_no_round_counts_twice() -> None:
    first, later = made_of(ROUNDS[:1]), [made_round(0, 1, HALVES), made_round(1, 0, HALVES)]
    found = made_of(later, begins=(1, 0))
    began = heads_digest(MODEL, first.span.ends)
    check(found, began=began)
    with pytest.raises(BadEvidenceError):
        check(made_of([*ROUNDS[:1], *later]), began=began)
    with pytest.raises(BadEvidenceError):
        check(found, began=heads_digest(MODEL, found.span.ends))


def test_it_ends_where_the_checkpoint_says() -> None:
    with pytest.raises(BadEvidenceError):
        check(made_of(ROUNDS), heads=bytes(32))
    with pytest.raises(BadEvidenceError):
        check(made_of(ROUNDS), model=MODEL[:-1] + b"x")


@pytest.mark.parametrize(("ends", "begins"), [((1, 0), (2, 0)), ((1, 0), (1, 0, 0))])
def test_a_span_goes_on(ends: tuple[int, ...], begins: tuple[int, ...]) -> None:
    with pytest.raises(BadEvidenceError):
        span(ends, begins)
    with pytest.raises(BadEvidenceError):
        Span(model=MODEL, begins=(Stand(1, bytes(32)),), ends=(Stand(1, b"x" * 32),))


def test_an_epoch_that_is_not_remembered_says_nothing_about_the_evidence() -> None:
    with pytest.raises(UnknownGroupError):
        check(made_of([*ROUNDS[:2], made_round(1, 0, HALVES, epoch=EPOCH - 1)]))


# -- the file ------------------------------------------------------------------------------------


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_proves_nothing(at: int, bit: int, cut: bool) -> None:
    data = bytearray(DATA)
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    with pytest.raises((MalformedError, LimitError)):
        check(read_evidence(bytes(data)), heads=heads_digest(MODEL, span([2, 1]).ends))


DATA = write_evidence(span([2, 1]), map(record, ROUNDS), ())


def test_a_file_that_is_too_large_is_neither_read_nor_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_EVIDENCE", len(DATA) - 1)
    with pytest.raises(BadEvidenceError):
        read_evidence(DATA)
    with pytest.raises(LimitError, match="propose checkpoints more often"):
        write_evidence(span([2, 1]), map(record, ROUNDS), ())


# -- whose doing it is ---------------------------------------------------------------------------


def test_a_lying_primary_misdirects_its_own_groups_part_and_no_more() -> None:
    """Group 1 has a tenth of the values; its primary closes a thousand rounds with all for one."""
    liar = THREE
    honest = [made_round(0, n, HALVES) for n in range(3)]
    false = [made_round(1, n, [(liar, 1000, 0)]) for n in range(1000)]
    found = Evidence(span([3, 1000]), tuple(map(record, [*honest, *false])), {})
    got = parts(shares(found, [900, 100]))
    assert got[liar.identity] <= 100
    assert got[ONE.identity] == got[TWO.identity] >= 449


def test_shares_of_a_round_above_the_whole_are_cut_down() -> None:
    greedy = made_of([made_round(0, 0, [(ONE, 1000, 0), (TWO, 1000, 0)])])
    assert sum(parts(shares(greedy, [1, 1])).values()) <= 500


def test_what_nobody_has_done_is_nobodys() -> None:
    found = made_of([made_round(0, 0, [(ONE, 100, 0), (TWO, 0, 0)])])
    assert parts(shares(found, [100, 100])) == {ONE.identity: 50}
    assert shares(made_of([]), [100, 100]) == ()


def test_a_sums_share_is_split_among_the_learners_behind_it() -> None:
    rounds = [made_round(0, 0, [(AGGREGATOR, 600, 2), (THREE, 400, 0)])]
    told = summed(0, 0, [ONE, TWO])
    data = write_evidence(span([1, 0]), map(record, rounds), [told])
    found = read_evidence(data)
    check(found)
    assert parts(shares(found, [100, 0])) == {
        ONE.identity: 300, TWO.identity: 300, THREE.identity: 400,
    }  # fmt: skip
    # Without what is behind it, it is nobody's: not the aggregator's either.
    silent = made_of(rounds)
    check(silent)
    assert parts(shares(silent, [100, 0])) == {THREE.identity: 400}


@pytest.mark.parametrize(
    "told",
    [
        summed(0, 0, [ONE, TWO], signer=THREE),
        summed(0, 0, [ONE]),
        msgspec.structs.replace(summed(0, 0, [ONE, TWO]), model=MODEL[:-1] + b"x"),
        msgspec.structs.replace(summed(0, 0, [ONE, TWO]), aggregator=THREE.identity),
    ],
    ids=["another signs", "other learners", "another model", "another aggregator"],
)
def test_a_sum_that_is_not_the_rounds_is_no_evidence(told: Sum) -> None:
    rounds = [made_round(0, 0, [(AGGREGATOR, 600, 2), (THREE, 400, 0)])]
    found = read_evidence(write_evidence(span([1, 0]), map(record, rounds), [told]))
    with pytest.raises(BadEvidenceError):
        check(found)


def test_those_who_did_most_are_named_where_not_all_can_be() -> None:
    many = people(*(f"learner {n}" for n in range(MAX_SHARES + 50)))
    inputs = [(who, 1 + (n < MAX_SHARES), 0) for n, who in enumerate(many)]
    found = shares(made_of([made_round(0, 0, inputs)]), [100, 0])
    assert {each.identity for each in found} == {who.identity for who in many[:MAX_SHARES]}
    assert sum(each.permille for each in found) <= 1000


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(st.integers(0, 1000), min_size=1, max_size=3),
        ),
        max_size=12,
    ),
    st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_never_more_than_the_whole(
    said: list[tuple[int, list[int]]], elements: tuple[int, int]
) -> None:
    counts = [0, 0]
    rounds = []
    for group, given_ in said:
        inputs = [(who, share, 0) for who, share in zip(LEARNERS, given_, strict=False)]
        rounds.append(made_round(group, counts[group], inputs))
        counts[group] += 1
    unsigned = tuple(Record(round=each, by=(Endorsement(ONE.identity, bytes(64)),)) for each in
                     sorted(rounds, key=lambda each: (each.group, each.number)))  # fmt: skip
    found = shares(Evidence(span(counts), unsigned, {}), elements)
    assert sum(each.permille for each in found) <= 1000
    assert [each.identity for each in found] == sorted(each.identity for each in found)


def test_evidence_of_other_groups_than_the_model_has_is_none() -> None:
    with pytest.raises(BadEvidenceError):
        shares(made_of(ROUNDS), [100])
