"""The lab that the learning benches measure in: the daemons' pieces, with nothing between them."""

from pathlib import Path

import msgspec
import pytest
import torch

from protocols.learn import defaults
from protocols.plan import Phase
from synapsed.computeworker import codecs, robust
from synapsed.computeworker.feedback import Feedback
from synapsed.computeworker.lab import Dense, Lab, Text
from synapsed.computeworker.sums import summed
from tests.bench.byzantine import KINDS
from tests.bench.learn_wire import dense_bytes, round_bytes, sum_bytes

TEXT = Path("tests/data/shakespeare.txt")
PLAN = msgspec.structs.replace(
    defaults.plan((Phase(9, 2, "ternary", "ternary", 1000, 130),)), batch=2, context=32
)


@pytest.fixture(scope="module")
def text() -> Text:
    return Text.of(TEXT)


def lab_of(text: Text, learners: int = 2, **more: object) -> Lab:
    return Lab(PLAN, text, seed=1, learners=learners, **more)  # type: ignore[arg-type]


def test_a_run_is_its_seeds_and_it_learns(text: Text) -> None:
    one, other = lab_of(text), lab_of(text)
    before = one.loss()
    for _ in range(6):
        sent, again = one.run_round(), other.run_round()
        assert sent == again
    assert all(torch.equal(a, b) for a, b in zip(one.base, other.base, strict=True))
    assert one.step == 12
    assert one.loss() < before - 0.3


def test_a_learner_goes_on_from_what_it_learned_and_did_not_send(text: Text) -> None:
    lab = lab_of(text)
    lab.run_round()
    learner = lab.learners[0]
    start = learner.left.without(lab.base)
    assert any(not torch.equal(a, b) for a, b in zip(start, lab.base, strict=True))
    nothing = Feedback.nothing(lab.sizes).without(lab.base)
    assert all(torch.equal(a, b) for a, b in zip(nothing, lab.base, strict=True))


def test_learners_and_dense_training_read_the_same_tokens(text: Text) -> None:
    dense = Dense(PLAN, text, seed=1, learners=2)
    lab = lab_of(text)
    for reader, learner in zip(dense._readers, lab.learners, strict=True):
        assert torch.equal(reader.batch(text, 7, PLAN), learner.batch(text, 7, PLAN))
    one, other = (learner.batch(text, 7, PLAN) for learner in lab.learners)
    assert not torch.equal(one, other)


def test_dense_training_goes_on_from_a_state_as_if_nothing_was(text: Text) -> None:
    dense = Dense(PLAN, text, seed=1, learners=2)
    dense.run([4e-3] * 2)
    state = dense.state()
    dense.run([4e-3] * 2)
    once = dense.copy.values()
    dense.restore(state)
    dense.run([4e-3] * 2)
    assert all(torch.equal(a, b) for a, b in zip(once, dense.copy.values(), strict=True))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_kind_of_liar_sends_something_else_than_was_learned(text: Text, name: str) -> None:
    """And the round goes on: a NaN is refused, everything else aggregated."""
    lab, honest = lab_of(text, 3, lies={2: KINDS[name].lie()}), lab_of(text, 3)
    rounds = 11 if name == "stale" else 1
    for _ in range(rounds):
        lied, told = lab.run_round(), honest.run_round()
    assert lied.deltas[2] != told.deltas[2]
    assert len(lied.shares) == (2 if name == "nan" else 3)
    assert all(bool(torch.isfinite(value).all()) for value in lab.base)


def test_bytes_on_the_wire_are_payload_and_what_goes_around_it() -> None:
    deltas, result = [bytes([at]) * 20_000 for at in range(4)], bytes(10_000)
    payload = sum(map(len, deltas)) + 4 * len(result)
    whole = round_bytes(3, 15, deltas, result)
    assert payload + 4 * 1_500 < whole < payload + 4 * 3_500
    assert dense_bytes(15, 4, 1000) == 15 * 4 * 2 * 4000


def test_regions_pass_one_sum_on_and_what_it_left_comes_later(text: Text) -> None:
    lab, straight = lab_of(text, 4, regions=2), lab_of(text, 4)
    first, other = lab.run_round(), straight.run_round()
    assert first.deltas == other.deltas
    assert (len(first.sums), len(first.shares)) == (2, 2)
    assert first.result != other.result, "the sums are encoded anew"
    for _ in range(5):
        lab.run_round()
        straight.run_round()
    assert abs(lab.loss() - straight.loss()) < 0.1
    with pytest.raises(ValueError, match="3 learners in 2 regions"):
        lab_of(text, 3, regions=2)


def test_a_sum_says_the_mean_and_with_the_next_ones_all_of_it(text: Text) -> None:
    lab = lab_of(text, 3)
    inputs = [codecs.decode(delta, lab.sizes) for delta in lab.run_round().deltas]
    mean = torch.cat(robust.aggregate(inputs).mean)
    said, left = torch.zeros_like(mean), None
    for _ in range(6):
        made = summed(inputs, [1, 1, 1], left, PLAN.phases[0])
        assert made == summed(inputs, [1, 1, 1], left, PLAN.phases[0]), "anybody can repeat it"
        said += torch.cat(codecs.decode(made.delta, lab.sizes))
        left = codecs.decode(made.left, lab.sizes)
    assert left is not None
    whole = said + torch.cat(left)
    assert float((whole - 6 * mean).norm() / (6 * mean).norm()) < 0.02, "int8 rounds what is left"
    alone = torch.cat(
        codecs.decode(summed(inputs, [1, 1, 1], None, PLAN.phases[0]).delta, lab.sizes)
    )
    assert float((alone - mean).norm() / mean.norm()) > 0.2, "one sum alone leaves much out"


def test_of_a_region_one_sum_and_one_result_cross() -> None:
    sums, result = [bytes([at]) * 20_000 for at in range(2)], bytes(10_000)
    each = sum_bytes(3, sums, 4, result)
    assert len(each) == 2
    assert all(30_000 + 1_500 < one < 30_000 + 4_000 for one in each)
    four = round_bytes(3, 15, [bytes([at]) * 20_000 for at in range(4)], result)
    assert 3.5 < four / each[0] < 4.1


def test_default_plans_fall_and_leave_no_step_out() -> None:
    falls = defaults.falling(12, 600)
    assert sum(phase.rounds * phase.steps for phase in falls) == 600
    rates = [phase.rate for phase in falls]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 200
    steps = [defaults.DEFAULT.phase_of(number).steps for number in (0, 224, 225, 10_000)]
    assert steps == [4, 4, 15, 15]
    assert defaults.DEFAULT.rate_of(10_000) == defaults.RATE / 1e6
