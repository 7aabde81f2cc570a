"""Blocks with a scale each: int8, two-bit, ternary, one-bit, and the values of top-k.

The rules, which witnesses repeat, stand in docs/deltas.md. Operations are elementwise, maxima, or
sums of whole numbers: every machine rounds them alike. And they are those that torch does eight or
sixteen values at a time: a comparison, a `where` or a `trunc` takes ten times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protocols.learn.delta import (
    BITS,
    INT8,
    LEVELS,
    MAX_OFFSET,
    MIN_OFFSET,
    ONE_BIT,
    SCALE_SHIFT,
    TERNARY,
    TOP_K,
    TWO_BIT,
    DeltaError,
    SymbolError,
)
from synapsed.computeworker.codec_bits import bits_together, level_table, pairs_together
from synapsed.computeworker.codec_grid import Shape, chunks

TOP_STEP = 0.46
"""Top-k's scale in mean absolute values of what is sent, whose levels are 2 and 3: right for the
tail of an exponential distribution (levels at 0.92 and 1.38 of its mean)."""
TOP_CUT = 2.5
TOO_LARGE = 2.0**31
"""No value comes near it; a comparison with it fails for NaN, too."""
SMALLEST = 2.0**-126
"""The smallest normal number: no scale is below it but 0."""


class NotFiniteError(DeltaError):
    """A value to encode that is NaN, infinite, or beyond 2^24: training diverged."""

    code = "delta-not-finite"


@dataclass(frozen=True)
class Settings:
    """What the encoder may choose freely: any choice decodes."""

    block_bits: int = 7
    """log2 of the elements that share a scale."""
    dead_zone: float = 0.7
    """Ternary: what is not above so many mean absolute values of its block becomes 0."""
    half_step: float = 0.65
    """Two-bit: the inner level, in mean absolute values of the block."""
    top: float = 1 / 64
    """Top-k: the share of each block that is sent."""
    rank: int = 8
    """Low rank: components of each tile."""
    zstd_level: int = 1
    saving: float = 0.02
    """Share of a section that packing must save, or it is stored as it is."""


@dataclass(frozen=True)
class Measured:
    """What the values of each row ask for."""

    wanted: Tensor
    """The scale, before it is rounded."""
    largest: Tensor
    """The largest absolute value."""
    levels: Tensor | None
    """Ternary and top-k: the sign of what is sent, and 0, int8, in the grid's shape."""
    chosen: int
    """How many values that are."""


@dataclass(frozen=True)
class Scales:
    """A scale a row, as it is written and as it is used."""

    codes: Tensor
    offsets: Sequence[int]
    values: Tensor


def measure(codec: int, grid: Tensor, shape: Shape, settings: Settings) -> Measured:
    """Look at each row once, or twice for ternary and top-k, which choose what to send."""
    counts = shape.counts(grid.device)
    wanted, largest = torch.empty_like(counts), torch.empty_like(counts)
    levels = torch.empty_like(grid, dtype=torch.int8) if codec in (TERNARY, TOP_K) else None
    chosen = 0
    for rows in chunks(grid):
        part, count = grid[rows], counts[rows]
        size = part.abs()
        most = size.amax(1)
        largest[rows] = most
        if codec == INT8:
            wanted[rows] = most * (1.0 / 127.0)
            continue
        unit = _unit(most)
        if codec != TOP_K:
            mean = _mean(size, unit, count)
            wanted[rows] = mean * settings.half_step if codec == TWO_BIT else mean
        if levels is not None:
            limit = _smallest(size, settings.top) if codec == TOP_K else mean * settings.dead_zone
            level = _beyond(part, limit)
            levels[rows] = level
            signs = level.to(torch.float32)
            number = (signs * signs).sum(1)
            chosen += int(number.sum(dtype=torch.float64))
            kept = _mean(part * signs, unit, number.clamp(min=1.0))
            wanted[rows] = kept if codec == TERNARY else kept * TOP_STEP
    return Measured(wanted, largest, levels, chosen)


def _unit(most: Tensor) -> Tensor:
    """For each row the power of two by which its largest value comes below 2^30."""
    exponents = (most.view(torch.int32) >> 23).clamp(min=29)
    return ((283 - exponents) << 23).view(torch.float32)


def _mean(size: Tensor, unit: Tensor, count: Tensor) -> Tensor:
    """The sum of each row's absolute values by `count`: of whole numbers, so in any order."""
    whole = (size * unit[:, None]).to(torch.int32).sum(1, dtype=torch.int64)
    return (whole.to(torch.float64) / unit / count).to(torch.float32)


def _smallest(size: Tensor, share: float) -> Tensor:
    """Just below the smallest of each row's largest values, so many as `share` of it."""
    number = max(1, int(size.shape[1] * share))
    return size.topk(number, 1).values.amin(1) * (1.0 - 2.0**-20)


def _beyond(part: Tensor, limit: Tensor) -> Tensor:
    """The sign of each value that is not below its row's limit in size, and 0, int8."""
    inverse = (1.0 / limit.clamp(min=SMALLEST)) * (limit >= SMALLEST)
    return (part * inverse[:, None]).clamp_(-1.0, 1.0).to(torch.int8)


def choose_scales(codec: int, measured: Measured, shape: Shape) -> Scales:
    """Four significant bits of each: the nearest, but up for int8, whose largest must fit.

    A tile's codes end at its largest scale; what is 2^-31 of it or less becomes 0.
    """
    wanted = measured.wanted
    if not bool((measured.largest < TOO_LARGE).all()):
        raise NotFiniteError("a value that is not finite, or beyond 2^24")
    up = (1 << SCALE_SHIFT) - 1 if codec == INT8 else 1 << (SCALE_SHIFT - 1)
    rounded = (wanted.view(torch.int32) + up) >> SCALE_SHIFT
    tops = [int(part.max()) for part in torch.split(rounded, shape.rows)]
    offsets = [max(MIN_OFFSET, top - 255) for top in tops]
    if max(offsets) > MAX_OFFSET:
        raise NotFiniteError("a value beyond 2^24")
    codes = (rounded - shape.spread(offsets, wanted.device)).clamp(0, 255).to(torch.uint8)
    return Scales(codes, offsets, scales_of(codes, offsets, shape))


def scales_of(codes: Tensor, offsets: Sequence[int], shape: Shape) -> Tensor:
    """What the codes mean, fp32."""
    wide = codes.to(torch.int32)
    bits = (wide + shape.spread(offsets, codes.device)) << SCALE_SHIFT
    return (bits * (wide > 0)).view(torch.float32)


def pack_rows(codec: int, grid: Tensor, scales: Tensor, levels: Tensor | None) -> Tensor:
    """The symbols, packed in bytes, a row for each row."""
    width = grid.shape[1] * BITS[codec] // 8
    out = torch.empty((len(grid), width), dtype=torch.uint8, device=grid.device)
    inverse = (1.0 / scales.clamp(min=SMALLEST)) * (scales >= SMALLEST)
    for rows in chunks(grid):
        if codec == INT8:
            out[rows] = _nearest(grid[rows] * inverse[rows, None])
        elif codec == ONE_BIT:
            out[rows] = bits_together(_negative(grid[rows]))
        elif levels is not None:
            out[rows] = pairs_together(levels[rows])
        else:
            out[rows] = pairs_together(two_bits(grid[rows], scales[rows] * 2.0))
    return out


def take_off(
    codec: int, grid: Tensor, packed: Tensor, scales: Tensor, levels: Tensor | None
) -> None:
    """Take from each value what its symbol says, in place: the same bits as decoding it gives."""
    for rows in chunks(grid):
        if levels is None:
            said = dequantise(codec, packed[rows], scales[rows], grid.shape[1])
        else:
            said = levels[rows].to(torch.float32).mul_(scales[rows, None])
        grid[rows].sub_(said)


def _nearest(scaled: Tensor) -> Tensor:
    """The nearest whole number, of two the even one, as two's complement in a byte: adding
    1.5 * 2^23 leaves an fp32 number no bits for a fraction."""
    whole = scaled.clamp_(-127.0, 127.0).add_(12582912.0).view(torch.int32)
    return whole.to(torch.int8).view(torch.uint8)


def _negative(values: Tensor) -> Tensor:
    """-1 where the sign bit is set, and 0, int8."""
    return (values.view(torch.int32) >> 31).to(torch.int8)


def two_bits(values: Tensor, limit: Tensor) -> Tensor:
    """The two-bit symbols, int8: bit 0, whether the outer level; bit 1, the sign."""
    return _beyond(values, limit) & 1 | _negative(values) & 2


def dequantise(codec: int, packed: Tensor, scales: Tensor, block: int) -> Tensor:
    """The values, fp32, in rows. Raises SymbolError."""
    out = torch.empty((len(packed), block), device=packed.device)
    table = None
    if codec == INT8:
        if int(packed.view(torch.int8).amin()) == -128:
            raise SymbolError("-128 is no value of int8")
    else:
        if codec == TERNARY and bool((packed & ~(packed << 1) & 0xAA).any()):
            raise SymbolError("a symbol that ternary does not have")
        table = level_table(LEVELS[codec], BITS[codec]).to(packed.device)
    for rows in chunks(out):
        if table is None:
            out[rows] = packed[rows].view(torch.int8)
            out[rows].mul_(scales[rows, None])
        else:
            found = table.index_select(0, packed[rows].reshape(-1).to(torch.int32))
            torch.mul(found.view(-1, block), scales[rows, None], out=out[rows])
    return out
