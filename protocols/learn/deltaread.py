"""The reference decoder of deltas: slow, a value at a time, and short enough to be read.

For vectors, and to hold the decoder that is used against (synapsed/computeworker/codecs.py).
"""

import struct
from collections.abc import Iterator
from itertools import accumulate

from protocols.learn.delta import (
    BITS,
    FP32,
    INT8,
    LEVELS,
    LOW_RANK,
    MAX_OFFSET,
    MAX_SUM,
    MIN_OFFSET,
    ONE_BIT,
    SCALE_SHIFT,
    TERNARY,
    TOP_K,
    Delta,
    GapsError,
    Inflate,
    ScaleError,
    SymbolError,
    check_finite,
    symbol_bytes,
)
from protocols.learn.deltagaps import GAPS_HEADER, parse_gaps


def decode_reference(delta: Delta, inflate: Inflate) -> list[list[float]]:
    """Each tile's values. Raises DeltaError."""
    if delta.codec == LOW_RANK:
        return _low_rank(delta, inflate)
    if delta.gaps:
        levels = _sparse(delta)
    else:
        symbols = memoryview(delta.symbols.content(inflate))
        if delta.codec == FP32:
            check_finite(symbols)
        sizes = [symbol_bytes(delta.codec, count) for count in delta.tiles]
        ends = list(accumulate(sizes))
        parts = [symbols[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        if delta.codec == FP32:
            return [list(struct.unpack(f"<{len(part) // 4}f", part)) for part in parts]
        levels = [_dense(delta.codec, n, p) for n, p in zip(delta.tiles, parts, strict=True)]
    codes = iter(bytes(delta.scales.content(inflate)))
    return [_scaled(delta, *row, codes) for row in zip(levels, delta.table, strict=True)]


def scale_of(offset: int, code: int) -> float:
    """The scale that a code means in a tile with that offset."""
    return float_of((offset + code) << SCALE_SHIFT) if code else 0.0


def float_of(bits: int) -> float:
    """The fp32 number with these bits."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _scaled(delta: Delta, levels: list[int], offset: int, codes: Iterator[int]) -> list[float]:
    values: list[float] = []
    for start in range(0, len(levels), delta.block):
        scale = scale_of(offset, next(codes))
        values += [q * scale for q in levels[start : start + delta.block]]
    return values


def _dense(codec: int, count: int, part: memoryview) -> list[int]:
    """q of each element of a tile."""
    if codec == INT8:
        return _int8(part)
    symbols = list(_words(part, count, BITS[codec]))
    if codec == TERNARY and 2 in symbols:
        raise SymbolError("a symbol that its codec does not have")
    if part[-1] >> (count * BITS[codec] - 1) % 8 + 1:
        raise SymbolError("bits behind a tile's last symbol")
    return [LEVELS[codec][symbol] for symbol in symbols]


def _int8(part: memoryview) -> list[int]:
    levels = [byte - 256 if byte > 127 else byte for byte in part]
    if -128 in levels:
        raise SymbolError("-128 is no value of int8")
    return levels


def _words(part: memoryview, count: int, width: int) -> Iterator[int]:
    """Numbers of `width` bits, the first in the lowest."""
    bits = int.from_bytes(part, "little")
    for i in range(count):
        yield bits >> i * width & ((1 << width) - 1)


def _sparse(delta: Delta) -> list[list[int]]:
    """q of every element of every tile, from gaps."""
    gaps = parse_gaps(delta)
    unary, lower, symbols = (
        delta.symbols.stored[GAPS_HEADER.size + end - length : GAPS_HEADER.size + end]
        for end, length in zip(accumulate(gaps.lengths), gaps.lengths, strict=True)
    )
    for part, width in ((lower, gaps.width), (symbols, gaps.value_bits)):
        if int.from_bytes(part, "little") >> gaps.count * width:
            raise GapsError("bits behind the last gap or symbol")
    levels = LEVELS[ONE_BIT if delta.codec == TERNARY else TOP_K]
    ones = [i for i, bit in enumerate(_words(unary, 8 * len(unary), 1)) if bit]
    uppers = [end - start - 1 for start, end in zip([-1, *ones], ones, strict=False)]
    lowers = _words(lower, gaps.count, gaps.width)
    values, at = [0] * gaps.elements, -1
    for upper, low, symbol in zip(
        uppers, lowers, _words(symbols, gaps.count, gaps.value_bits), strict=True
    ):
        at += (upper << gaps.width) + low + 1
        if at >= gaps.elements:
            raise GapsError("gaps that lead beyond the last tile")
        values[at] = levels[symbol]
    ends = accumulate(delta.tiles)
    return [values[end - size : end] for end, size in zip(ends, delta.tiles, strict=True)]


def _low_rank(delta: Delta, inflate: Inflate) -> list[list[float]]:
    """Each tile from its factors: whole numbers, and one product with the scale."""
    scales = memoryview(delta.scales.content(inflate))
    factors = iter(_int8(memoryview(delta.symbols.content(inflate))))
    tiles = []
    for tile in range(len(delta.tiles)):
        rows, columns, rank = delta.factors(tile)
        head = scales[tile * (2 + delta.rank) : (tile + 1) * (2 + delta.rank)]
        scale, shifts = _factor_scale(head, rank)
        left = [[next(factors) for _ in range(rank)] for _ in range(rows)]
        right = [[next(factors) for _ in range(rank)] for _ in range(columns)]
        tiles.append(
            [
                _rounded(sum((p << s) * q for p, q, s in zip(x, y, shifts, strict=True)) * scale)
                for x in left
                for y in right
            ]
        )
    return tiles


def _factor_scale(head: memoryview, rank: int) -> tuple[float, list[int]]:
    """A tile's scale, and its components' shifts. Raises ScaleError."""
    bits, shifts = int.from_bytes(head[:2], "little"), list(head[2 : 2 + rank])
    if bits and not MIN_OFFSET < bits <= MAX_OFFSET + 255:
        raise ScaleError("a scale beyond 2^24, or so small that it is not normal")
    if max(shifts) > 10 or sum(1 << shift for shift in shifts) > MAX_SUM or any(head[2 + rank :]):
        raise ScaleError("shifts whose sums fp32 does not hold")
    return float_of(bits << SCALE_SHIFT), shifts


def _rounded(value: float) -> float:
    """To the nearest fp32; the product of 24 and 4 bits is exact in a float of Python's."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
