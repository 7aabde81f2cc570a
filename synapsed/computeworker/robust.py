"""Many deltas as one, although some of them lie.

Every rule here but the trimmed mean is a choice of one weight for each delta, made from the table
of their scalar products alone (the Gram matrix). That table is exact: values are rounded to whole
numbers of 7 bits, of which fp32 adds a thousand products in whatever order, and loses nothing.
The weights follow from it in Python's own floats, and the sum is taken value by value in fp64 in
the order of the inputs. So a CPU and a GPU, and whoever recomputes a round, end with the same bits.

Sources: P. Blanchard et al., "Machine learning with adversaries" (2017) for judging deltas by each
other; S. P. Karimireddy et al., "Learning from history for Byzantine robust optimization" (2021)
for centred clipping; D. Yin et al. (2018) for the trimmed mean. Which one is the default was
measured: docs/learning-measurements.md.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import starmap
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Rule = Literal["mean", "clip", "agree", "centred", "trimmed"]
"""
mean      what everybody else does; one liar decides
clip      each delta no longer than the median of their lengths
agree     clip, without those that contradict most of the others
centred   three steps of centred clipping, from the clipped mean
trimmed   value by value, without the largest and the smallest
"""
DEFAULT: Rule = "agree"

MILLE = 1000
DIGITS = 7
"""Bits of a rounded value beside its sign."""
EXACT = 1 << 10
"""Products of two such that fp32 adds exactly, in any order: their sum is 2^24 at most."""
TO_WHOLE = 1.5 * 2.0**23
"""Added to an fp32 number it leaves no bits for a fraction: the nearest whole one is kept."""
MOST_POWER = 126
PIECE, PIECE_CARD = 1 << 16, 1 << 22
"""Elements of a tile that are worked on at a time."""
AGREE = 0.35
"""A delta stays if its agreement with the others is this share of the usual one, or more. Measured:
docs/learning-measurements.md."""
TRIMMED = 5
"""One of so many is cut off at either end of a trimmed mean, and at least one."""
CENTRED_STEPS = 3


class Aggregate(NamedTuple):
    """What a round's deltas come to."""

    mean: list[Tensor]
    """fp32, one a tile."""
    shares: list[int]
    """Of each input, in thousandths (shares_of)."""


def aggregate(
    inputs: Sequence[Sequence[Tensor]], counts: Sequence[int] | None = None, rule: Rule = DEFAULT
) -> Aggregate:
    """One delta of many: `inputs[i][t]` is input i's decoded fp32 tile t, all on one device.

    `counts` says how many learners stand behind each input: a region's sum counts for those in
    it. Raises ValueError without inputs, or if their tiles differ.
    """
    weights_of = [1] * len(inputs) if counts is None else list(counts)
    _check(inputs, weights_of)
    table = gram(inputs)
    if rule == "trimmed":
        return Aggregate(_trimmed(inputs), shares_of(table, clip_factors(table, weights_of)))
    weights = weights_by(rule, table, weights_of)
    return Aggregate(combine(inputs, weights), shares_of(table, weights))


def _check(inputs: Sequence[Sequence[Tensor]], counts: list[int]) -> None:
    if not inputs or len(counts) != len(inputs) or min(counts) < 1:
        raise ValueError("an aggregate of nothing, or not one count for each input")
    shapes = [[tile.numel() for tile in one] for one in inputs]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("deltas of different tiles")


# --- the table of scalar products


def gram(inputs: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """<input i, input j>, exactly that of values rounded to DIGITS bits of their tile's largest.

    Whatever is finite is no danger here, however large: each tile has a power of two of its own.
    Of an input with itself it is the most that it can have been before rounding: nobody hides
    length in many values too small to be seen beside a large one.
    """
    count = len(inputs)
    table = [[0.0] * count for _ in range(count)]
    lost = [0.0] * count
    for tiles in zip(*inputs, strict=True):
        powers = [_power(tile) for tile in tiles]
        for i, power in enumerate(powers):
            lost[i] += tiles[i].numel() * math.ldexp(0.25, -2 * power)
        for i, row in enumerate(_products(tiles, powers)):
            for j, value in enumerate(row):
                table[i][j] += math.ldexp(value, -powers[i] - powers[j])
    for i, square in enumerate(lost):
        if table[i][i] > 0:
            table[i][i] = (math.sqrt(table[i][i]) + math.sqrt(square)) ** 2
    return table


def _power(tile: Tensor) -> int:
    """The power of two by which its largest value fills DIGITS bits."""
    low, high = torch.aminmax(tile)
    largest = max(-float(low), float(high))
    return min(DIGITS - math.frexp(largest)[1], MOST_POWER) if largest > 0 else 0


def _products(tiles: Sequence[Tensor], powers: Sequence[int]) -> list[list[float]]:
    """Scalar products of whole numbers, so many at a time that fp32 adds them exactly."""
    count, size, device = len(tiles), tiles[0].numel(), tiles[0].device
    total = torch.zeros(count, count, dtype=torch.float64, device=device)
    for start, stop in _pieces(size, device):
        whole = torch.zeros(count, -(-(stop - start) // EXACT) * EXACT, device=device)
        for row, tile, power in zip(whole, tiles, powers, strict=True):
            part = row[: stop - start]
            torch.mul(tile[start:stop], 2.0**power, out=part)
            part.add_(TO_WHOLE).sub_(TO_WHOLE)
        runs = whole.view(count, -1, EXACT).transpose(0, 1)
        total += torch.bmm(runs, runs.transpose(1, 2)).to(torch.float64).sum(0)
    exact: list[list[float]] = total.tolist()
    return exact


def _pieces(size: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """What a processor's cache holds of each input; a card takes more at once."""
    each = PIECE if device.type == "cpu" else PIECE_CARD
    for start in range(0, size, each):
        yield start, min(start + each, size)


# --- weights from the table


def weights_by(rule: Rule, table: list[list[float]], counts: list[int]) -> list[float]:
    """Each input's factor in the sum."""
    total = sum(counts)
    if rule == "mean":
        return [count / total for count in counts]
    factors = clip_factors(table, counts)
    if rule == "agree":
        kept = agreeing(table, counts)
        total = sum(count for count, keep in zip(counts, kept, strict=True) if keep)
        factors = [factor if keep else 0.0 for factor, keep in zip(factors, kept, strict=True)]
    weights = [
        factor * count / total if total else 0.0
        for factor, count in zip(factors, counts, strict=True)
    ]
    return centred(table, counts, weights) if rule == "centred" else weights


def clip_factors(table: list[list[float]], counts: list[int]) -> list[float]:
    """What makes each input as long as the median of all at most, by learners."""
    lengths = [math.sqrt(table[i][i]) for i in range(len(table))]
    bound = median(n for n, count in zip(lengths, counts, strict=True) for _ in range(count))
    return [min(1.0, bound / length) if length > 0 else 0.0 for length in lengths]


def agreeing(table: list[list[float]], counts: list[int]) -> list[bool]:
    """Which inputs point where most of the others do.

    One's agreement is the median, by learners, of its cosines with the others: it takes half of
    them to move it, however alike a few liars are.
    """
    size = len(table)
    if sum(counts) < 3:
        return [True] * size
    lengths = [math.sqrt(table[i][i]) or math.inf for i in range(size)]
    agreement = [
        median(
            table[i][j] / lengths[i] / lengths[j]
            for j in range(size)
            for _ in range(counts[j] - (i == j))
        )
        if sum(counts) > counts[i] or counts[i] > 1
        else 0.0
        for i in range(size)
    ]
    usual = median(a for a, count in zip(agreement, counts, strict=True) for _ in range(count))
    if usual <= 0:
        return [True] * size
    return [value >= AGREE * usual for value in agreement]


def centred(table: list[list[float]], counts: list[int], start: list[float]) -> list[float]:
    """Centred clipping as weights: v <- v + mean of (input - v), each no longer than their median.

    v is a sum of inputs at every step, so its distances follow from the table.
    """
    size, total = len(table), sum(counts)
    weights = start
    for _ in range(CENTRED_STEPS):
        along = [sum(table[i][j] * weights[j] for j in range(size)) for i in range(size)]
        own = sum(weights[i] * along[i] for i in range(size))
        far = [math.sqrt(max(0.0, table[i][i] - 2 * along[i] + own)) for i in range(size)]
        bound = median(far)
        moves = [
            (min(1.0, bound / d) if d > 0 else 1.0) * n / total
            for d, n in zip(far, counts, strict=True)
        ]
        rest = 1.0 - sum(moves)
        weights = [rest * weight + move for weight, move in zip(weights, moves, strict=True)]
    return weights


def shares_of(table: list[list[float]], weights: list[float]) -> list[int]:
    """How much of the result is each input's doing, in thousandths; nobody's is negative.

    An input's is its weight times its scalar product with what all *others* make together: noise
    agrees with itself alone, and earns nothing.
    """
    size = len(weights)
    if size == 1:
        return [MILLE if weights[0] > 0 and table[0][0] > 0 else 0]
    brought = [
        max(0.0, weights[i] * sum(table[i][j] * weights[j] for j in range(size) if j != i))
        for i in range(size)
    ]
    return _thousandths(brought)


def _thousandths(brought: list[float]) -> list[int]:
    total = sum(brought)
    return [int(MILLE * one / total) if total > 0 else 0 for one in brought]


# --- sums


def combine(inputs: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """The weighted sum, value by value in fp64 in the order of the inputs, rounded once to fp32.

    An input without weight is not touched. A product and a sum are two operations here, so that no
    library may fuse them.
    """
    return list(starmap(_weighted, ((tiles, weights) for tiles in zip(*inputs, strict=True))))


def _weighted(tiles: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    out = torch.empty_like(tiles[0])
    for start, stop in _pieces(out.numel(), out.device):
        total = torch.zeros(stop - start, dtype=torch.float64, device=out.device)
        for tile, weight in zip(tiles, weights, strict=True):
            if weight:
                product = tile[start:stop].to(torch.float64).mul_(weight)
                total += product
        out[start:stop] = total
    return out


def _trimmed(inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    cut = min((len(inputs) - 1) // 2, max(1, len(inputs) // TRIMMED))
    means = []
    for tiles in zip(*inputs, strict=True):
        ranked = torch.sort(torch.stack(list(tiles)), dim=0).values
        kept = list(ranked[cut : len(inputs) - cut])
        means.append(_weighted(kept, [1 / len(kept)] * len(kept)))
    return means
