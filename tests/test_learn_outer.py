"""A primary's arithmetic: aggregates that liars cannot bend far, and outer steps that anybody who
has a round's inputs computes again to the bit."""

import math
import struct

import msgspec
import pytest
import torch
from torch import Tensor

from protocols.plan import Phase, Plan
from synapsed.computeworker import codecs, outer, robust
from synapsed.computeworker.codecs import Settings
from synapsed.computeworker.decoded import Decoded
from synapsed.computeworker.feedback import Feedback
from synapsed.computeworker.outer import Outer

TILES = [700, 64, 1000]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROBUST: tuple[robust.Rule, ...] = ("clip", "agree", "centred", "trimmed")


def noise(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, generator=generator) * scale for count in TILES]


def honest(count: int, spread: float = 1.0) -> list[list[Tensor]]:
    """Deltas around one truth, as far from it as the truth is long."""
    truth = noise(0)
    return [
        [a + b for a, b in zip(truth, noise(seed, spread), strict=True)]
        for seed in range(1, count + 1)
    ]


def times(one: list[Tensor], factor: float) -> list[Tensor]:
    return [tile * factor for tile in one]


def flat(one: list[Tensor]) -> Tensor:
    return torch.cat([tile.double() for tile in one])


def cosine(a: list[Tensor], b: list[Tensor]) -> float:
    return float(flat(a) @ flat(b) / flat(a).norm() / flat(b).norm())


def plan_of(steps: int = 5, momentum: int = 500) -> Plan:
    return Plan(
        phases=(Phase(1, steps, "ternary", "ternary"),),
        group_bytes=1 << 20,
        batch=8,
        context=64,
        rate=4000,
        decay=100,
        outer_rate=700,
        outer_momentum=momentum,
        learners=4,
        patience_ms=1000,
    )


# --- robust rules


def test_without_liars_every_rule_is_close_to_the_mean() -> None:
    inputs = honest(5, 0.3)
    mean = robust.aggregate(inputs, rule="mean").mean
    for rule in ROBUST:
        found = robust.aggregate(inputs, rule=rule).mean
        assert cosine(found, mean) > 0.99, rule
        assert 0.9 < float(flat(found).norm() / flat(mean).norm()) <= 1.01, rule


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("factor", [-1.0, -1000.0, 1000.0, 1e20])
def test_one_liar_of_five_moves_the_result_by_a_bounded_amount(
    rule: robust.Rule, factor: float
) -> None:
    inputs = honest(4)
    alone = robust.aggregate(inputs, rule=rule).mean
    lie = times(noise(99), factor)
    found = robust.aggregate([*inputs, lie], rule=rule).mean
    moved = float((flat(found) - flat(alone)).norm())
    longest = max(float(flat(one).norm()) for one in inputs)
    assert moved <= 0.6 * longest
    assert cosine(found, alone) > 0.7


def test_the_plain_mean_is_moved_by_as_much_as_a_liar_likes() -> None:
    inputs = honest(4)
    alone = robust.aggregate(inputs, rule="mean").mean
    found = robust.aggregate([*inputs, times(noise(99), 1000)], rule="mean").mean
    assert float((flat(found) - flat(alone)).norm()) > 100 * float(flat(alone).norm())


@pytest.mark.parametrize("count", [5, 9, 20])
def test_a_minority_of_any_size_moves_it_by_a_bounded_amount(count: int) -> None:
    """As many liars as there can be without half, all of one mind, with the default rule."""
    liars = (count - 1) // 2 - 1
    inputs = honest(count - liars, 0.5)
    alone = robust.aggregate(inputs).mean
    found = robust.aggregate([*inputs, *[times(noise(77), 50.0)] * liars]).mean
    assert cosine(found, alone) > 0.9


def test_the_default_leaves_out_who_contradicts_and_gives_it_no_share() -> None:
    inputs = [*honest(4, 0.5), times(honest(1, 0.5)[0], -1), times(noise(7), 3)]
    shares = robust.aggregate(inputs).shares
    assert shares[4:] == [0, 0]
    assert all(share > 100 for share in shares[:4])


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_shares_are_thousandths_and_none_is_negative(rule: robust.Rule) -> None:
    inputs = [*honest(4), times(honest(1)[0], -1)]
    shares = robust.aggregate(inputs, rule=rule).shares
    assert all(isinstance(share, int) and share >= 0 for share in shares)
    assert 990 <= sum(shares) <= 1000
    assert shares[4] == 0


def test_noise_agrees_with_itself_alone_and_a_lone_learner_has_all() -> None:
    inputs = [*honest(4, 0.1), times(noise(7), 1.0), [torch.zeros(count) for count in TILES]]
    shares = robust.aggregate(inputs, rule="clip").shares
    assert shares[4] < 30
    assert shares[5] == 0
    assert robust.aggregate(inputs[:1]).shares == [1000]


def test_nothing_at_all_is_aggregated_to_nothing() -> None:
    zero = [torch.zeros(count) for count in TILES]
    found = robust.aggregate([zero, zero, zero])
    assert float(flat(found.mean).abs().max()) == 0
    assert found.shares == [0, 0, 0]


def test_a_regions_sum_counts_for_its_learners() -> None:
    inputs = honest(4, 0.2)
    region = robust.aggregate(inputs[:3], rule="mean").mean
    whole = robust.aggregate(inputs, rule="mean").mean
    again = robust.aggregate([region, inputs[3]], [3, 1], rule="mean").mean
    assert torch.allclose(flat(again), flat(whole), atol=1e-6)


def test_what_is_not_a_round_is_refused() -> None:
    inputs = honest(2)
    with pytest.raises(ValueError, match="nothing"):
        robust.aggregate([])
    with pytest.raises(ValueError, match="count"):
        robust.aggregate(inputs, [1])
    with pytest.raises(ValueError, match="different tiles"):
        robust.aggregate([inputs[0], inputs[1][:2]])


def test_length_cannot_hide_behind_one_large_value() -> None:
    """Many values, each too small to be seen beside the largest, count in full."""
    inputs = [[torch.full((100_000,), 0.01)] for _ in range(4)]
    lie = torch.full((100_000,), -0.9)
    lie[0] = 300.0
    found = robust.aggregate([*inputs, [lie]], rule="clip").mean
    assert float((found[0][1:] - 0.008).abs().max()) < 0.0021


# --- exactness


def test_the_table_is_exact_whatever_order_the_values_are_added_in() -> None:
    """Shuffled values give the same scalar products to the bit; a library's own sum does not."""
    inputs = honest(3)
    random = torch.Generator().manual_seed(5)
    orders = [torch.randperm(count, generator=random) for count in TILES]
    shuffled = [[t[order] for t, order in zip(one, orders, strict=True)] for one in inputs]
    assert robust.gram(shuffled) == robust.gram(inputs)
    assert robust.gram([[t.flip(0) for t in one] for one in inputs]) == robust.gram(inputs)


def test_the_table_is_near_the_true_products_however_large_or_small() -> None:
    for scale in (1e-30, 1.0, 1e30):
        table = robust.gram([times(honest(1)[0], scale), times(noise(9), 1 / scale)])
        true = float(flat(honest(1)[0]).norm() ** 2) * scale**2
        assert true * 0.999 <= table[0][0] <= true * 1.06
        assert math.isclose(table[1][0], float(flat(honest(1)[0]) @ flat(noise(9))), abs_tol=2.0)


def test_the_sum_is_the_fp64_sum_in_the_order_of_the_inputs() -> None:
    inputs = honest(5, 0.1)
    weights = [0.2, 0.1, 0.3, 0.15, 0.25]
    found = robust.combine(inputs, weights)
    for at in range(0, 700, 69):
        total = 0.0
        for one, weight in zip(inputs, weights, strict=True):
            total += float(one[0][at]) * weight
        assert float(found[0][at]) == float(torch.tensor(total, dtype=torch.float64).float())


@pytest.mark.parametrize("count", [2, 5, robust.FEW + 3])
@pytest.mark.parametrize("rule", ["mean", *ROBUST])
def test_few_values_come_to_the_same_bits_as_all_of_them(count: int, rule: robust.Rule) -> None:
    """Whether a replica sums what deltas say, or all values of their tiles."""
    chosen = Settings(block_bits=6, dead_zone=2.0)
    deltas = [codecs.encode("ternary", one, chosen) for one in honest(count)]
    few = [Decoded.read(delta, TILES) for delta in deltas]
    assert all(one.entries(0) is not None for one in few)
    whole = [codecs.decode(delta, TILES) for delta in deltas]
    assert robust.gram(few) == robust.gram(whole)
    mixed: list[robust.Given] = [whole[0], *few[1:]]
    for given in (few, mixed):
        found, wanted = robust.aggregate(given, rule=rule), robust.aggregate(whole, rule=rule)
        assert found.shares == wanted.shares
        for one, other in zip(found.mean, wanted.mean, strict=True):
            assert torch.equal(one.view(torch.int32), other.view(torch.int32))


# --- error feedback


def test_what_an_encoding_leaves_out_comes_later() -> None:
    feedback = Feedback.nothing(TILES)
    value = noise(3, 1e-3)
    arrived = [torch.zeros(count) for count in TILES]
    for _ in range(60):
        delta = feedback.encode("ternary", value)
        arrived = outer.apply(arrived, delta)
    error = flat(arrived) - 60 * flat(value)
    assert float(error.norm() / (60 * flat(value)).norm()) < 0.1
    assert torch.allclose(flat(arrived) + flat(feedback.residual), 60 * flat(value), atol=1e-5)


def test_a_delta_that_never_arrived_is_taken_back_once() -> None:
    feedback = Feedback.nothing(TILES)
    value = noise(3)
    feedback.encode("one-bit", value)
    feedback.take_back()
    assert torch.allclose(flat(feedback.residual), flat(value), atol=1e-6)
    feedback.take_back()
    assert torch.allclose(flat(feedback.residual), flat(value), atol=1e-6)


def test_feedback_survives_a_pause() -> None:
    feedback = Feedback.nothing(TILES)
    feedback.encode("two-bit", noise(3))
    again = Feedback.load(feedback.save())
    assert again.encode("ternary", noise(4)) == feedback.encode("ternary", noise(4))


# --- the outer step


@pytest.mark.parametrize("steps", [1, 5])
def test_who_has_a_rounds_inputs_makes_the_same_result(steps: int) -> None:
    """A replica that follows from its inputs alone takes over and nobody can tell."""
    plan = plan_of(steps)
    base = noise(11)
    primary, replica = Outer.start(TILES), Outer.start(TILES)
    for number in range(6):
        inputs = [times(one, 0.01) for one in honest(4)]
        result = primary.step(plan, number, robust.aggregate(inputs).mean, base)
        replica = Outer.load(replica.save())
        assert replica.step(plan, number, robust.aggregate(inputs).mean, base) == result
        base = outer.apply(base, result)
    assert primary.save() == replica.save()


def test_nesterov_is_torchs() -> None:
    plan = plan_of()
    plan = msgspec.structs.replace(plan, phases=(Phase(1, 5, "fp32", "fp32"),))
    base = noise(11)
    theirs = [tile.clone().requires_grad_() for tile in base]
    optimiser = torch.optim.SGD(theirs, lr=0.7, momentum=0.5, nesterov=True)
    state = Outer.start(TILES)
    for number in range(5):
        mean = noise(20 + number)
        for tile, g in zip(theirs, mean, strict=True):
            tile.grad = g.clone()
        optimiser.step()
        base = outer.apply(base, state.step(plan, number, mean, base))
    assert torch.allclose(flat(base), flat([t.detach() for t in theirs]), atol=1e-5)


def test_one_step_a_round_is_torchs_adamw() -> None:
    plan = plan_of()
    plan = msgspec.structs.replace(plan, phases=(Phase(1, 1, "fp32", "fp32"),))
    base = noise(11)
    theirs = [tile.clone().requires_grad_() for tile in base]
    optimiser = torch.optim.AdamW(
        theirs, lr=4e-3, betas=(outer.BETA1, outer.BETA2), weight_decay=0.1
    )
    state = Outer.start(TILES)
    for number in range(5):
        mean = noise(20 + number)
        for tile, g in zip(theirs, mean, strict=True):
            tile.grad = g.clone()
        optimiser.step()
        base = outer.apply(base, state.step(plan, number, mean, base))
    assert torch.allclose(flat(base), flat([t.detach() for t in theirs]), atol=1e-5)


def test_a_successor_without_the_state_goes_on_from_results_alone() -> None:
    plan = plan_of(momentum=0)
    base, target = noise(11), noise(12)
    state = Outer.start(TILES)
    for number in range(40):
        if number == 20:
            state = Outer.start(TILES)
        mean = [a - b for a, b in zip(base, target, strict=True)]
        base = outer.apply(base, state.step(plan, number, mean, base))
    assert float((flat(base) - flat(target)).norm() / flat(target).norm()) < 0.05


# --- its state: named by a hash, so of one encoding


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("device", DEVICES)
def test_a_state_has_the_same_bytes_wherever_it_is_made_and_however_often_it_moved(
    steps: int, device: str
) -> None:
    plan = plan_of(steps)
    here, there = Outer.start(TILES), Outer.start(TILES, device)
    base = noise(11)
    for number in range(3):
        mean = robust.aggregate([times(one, 0.01) for one in honest(4)]).mean
        away = [tile.to(device) for tile in mean], [tile.to(device) for tile in base]
        assert here.step(plan, number, mean, base) == there.step(plan, number, *away)
        assert here.save() == there.save()
        there = Outer.load(there.save(), device)
    assert Outer.load(here.save()).save() == here.save()


def test_a_states_bytes_are_laid_out_as_stated() -> None:
    state = Outer([torch.tensor([1.0])], [], Feedback([torch.tensor([2.0, -0.0])]), 7)
    head = b"SYNOUTR1" + struct.pack("<QIIIQQ", 7, 1, 0, 1, 1, 2)
    assert state.save() == head + struct.pack("<fff", 1.0, 2.0, -0.0)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"SYNOUTR1",
        b"another1" + bytes(20),
        b"SYNOUTR1" + struct.pack("<QIII", 1, 1, 0, 0),
        b"SYNOUTR1" + struct.pack("<QIIIQ", 1, 1, 0, 0, 2) + bytes(4),
        b"SYNOUTR1" + struct.pack("<QIIIQ", 1, 1, 0, 0, 1) + bytes(8),
        b"SYNOUTR1" + struct.pack("<QIII", 1, 1 << 31, 1 << 31, 1 << 31),
    ],
)
def test_what_is_no_state_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        Outer.load(broken)
