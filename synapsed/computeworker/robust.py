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
from itertools import combinations
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from synapsed.computeworker.decoded import Decoded, Entries, decoded

Given = Sequence[Tensor] | Decoded
"""One input: its decoded fp32 tiles, or those of a delta that says but some values."""
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
"""Elements of a tile that are worked on at a time; powers of two."""
AGREE = 0.35
"""A delta stays if its agreement with the others is this share of the usual one, or more. Measured:
docs/learning-measurements.md."""
TRIMMED = 5
"""One of so many is cut off at either end of a trimmed mean, and at least one."""
CENTRED_STEPS = 3
FEW = 16
"""Inputs, up to which scalar products of few values are taken value by value, pair by pair."""


class Aggregate(NamedTuple):
    """What a round's deltas come to."""

    mean: list[Tensor]
    """fp32, one a tile."""
    shares: list[int]
    """Of each input, in thousandths (shares_of)."""


def aggregate(
    inputs: Sequence[Given], counts: Sequence[int] | None = None, rule: Rule = DEFAULT
) -> Aggregate:
    """One delta of many, all on one device.

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


def _check(inputs: Sequence[Given], counts: list[int]) -> None:
    if not inputs or len(counts) != len(inputs) or min(counts) < 1:
        raise ValueError("an aggregate of nothing, or not one count for each input")
    shapes = [decoded(one).sizes for one in inputs]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("deltas of different tiles")


# --- the table of scalar products


def gram(inputs: Sequence[Given]) -> list[list[float]]:
    """<input i, input j>, exactly that of values rounded to DIGITS bits of their tile's largest.

    Whatever is finite is no danger here, however large: each tile has a power of two of its own.
    Of an input with itself it is the most that it can have been before rounding: nobody hides
    length in many values too small to be seen beside a large one.
    """
    count, given = len(inputs), [decoded(one) for one in inputs]
    table = [[0.0] * count for _ in range(count)]
    lost = [0.0] * count
    for at, size in enumerate(given[0].sizes):
        powers = [_power(one.largest(at)) for one in given]
        for i, power in enumerate(powers):
            lost[i] += size * math.ldexp(0.25, -2 * power)
        some = _entries(given, at) if count <= FEW else None
        if some is None:
            products = _products([one.tile(at) for one in given], powers)
        else:
            products = _sparse_products(some, powers, size)
        for i, row in enumerate(products):
            for j, value in enumerate(row):
                table[i][j] += math.ldexp(value, -powers[i] - powers[j])
    for i, square in enumerate(lost):
        if table[i][i] > 0:
            table[i][i] = (math.sqrt(table[i][i]) + math.sqrt(square)) ** 2
    return table


def _power(largest: float) -> int:
    """The power of two by which a tile's largest value fills DIGITS bits."""
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


def _entries(given: Sequence[Decoded], at: int) -> list[Entries] | None:
    """What all inputs say of a tile; None where one of them says every value."""
    some = [found for one in given if (found := one.entries(at)) is not None]
    return some if len(some) == len(given) else None


def _sparse_products(
    some: Sequence[Entries], powers: Sequence[int], size: int
) -> list[list[float]]:
    """The same as `_products`: sums of whole numbers below 2^53, in whatever order."""
    whole = [
        (one.values * 2.0**power).add_(TO_WHOLE).sub_(TO_WHOLE)
        for one, power in zip(some, powers, strict=True)
    ]
    table = [[0.0] * len(some) for _ in some]
    for i, values in enumerate(whole):
        table[i][i] = float((values * values).sum(dtype=torch.float64))
    spread = torch.zeros(size, device=whole[0].device)
    for i, j in combinations(range(len(some)), 2):
        if j == i + 1:
            spread.zero_().scatter_(0, some[i].places, whole[i])
        found = spread.index_select(0, some[j].places).mul_(whole[j])
        table[i][j] = table[j][i] = float(found.sum(dtype=torch.float64))
    return table


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


def combine(inputs: Sequence[Given], weights: Sequence[float]) -> list[Tensor]:
    """The weighted sum, value by value in fp64 in the order of the inputs, rounded once to fp32.

    An input without weight is not touched. A product and a sum are two operations here, so that no
    library may fuse them.
    """
    given = [decoded(one) for one in inputs]
    means = []
    for at, size in enumerate(given[0].sizes):
        some = _entries(given, at)
        if some is None:
            means.append(_weighted([one.tile(at) for one in given], weights))
        else:
            means.append(_sparse_weighted(some, weights, size))
    return means


def _sparse_weighted(some: Sequence[Entries], weights: Sequence[float], size: int) -> Tensor:
    """The same sums: what an input does not say adds +0, which changes none."""
    out = torch.empty(size, device=some[0].values.device)
    parts = [
        (one.places, one.values.to(torch.float64).mul_(weight))
        for one, weight in zip(some, weights, strict=True)
        if weight
    ]
    each = PIECE if out.device.type == "cpu" else PIECE_CARD
    inside = [places & each - 1 for places, _ in parts]
    pieces = list(_pieces(size, out.device))
    marks = torch.tensor([stop for _, stop in pieces], device=out.device)
    cuts = [[0, *torch.searchsorted(places, marks).tolist()] for places, _ in parts]
    total = torch.empty(pieces[0][1] if pieces else 0, dtype=torch.float64, device=out.device)
    for number, (start, stop) in enumerate(pieces):
        piece = total[: stop - start].zero_()
        for places, (_, products), cut in zip(inside, parts, cuts, strict=True):
            said = slice(cut[number], cut[number + 1])
            piece.scatter_add_(0, places[said], products[said])
        out[start:stop] = piece
    return out


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


def _trimmed(inputs: Sequence[Given]) -> list[Tensor]:
    given = [decoded(one) for one in inputs]
    cut = min((len(inputs) - 1) // 2, max(1, len(inputs) // TRIMMED))
    means = []
    for at in range(len(given[0].sizes)):
        ranked = torch.sort(torch.stack([one.tile(at) for one in given]), dim=0).values
        kept = list(ranked[cut : len(inputs) - cut])
        means.append(_weighted(kept, [1 / len(kept)] * len(kept)))
    return means
