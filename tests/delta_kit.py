"""The encoder's rules in plain Python, a value at a time: what docs/deltas.md says, said again."""

import math
import struct

from protocols.learn.delta import SCALE_SHIFT

SMALLEST = 2.0**-126


def f32(value: float) -> float:
    """The nearest fp32 number."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def bits_of(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def float_of(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def mean(sizes: list[float], largest: float, count: int) -> float:
    """Of absolute values, as whole numbers of the unit in which the largest is below 2^30."""
    unit = float_of((283 - max(29, bits_of(largest) >> 23)) << 23)
    return f32(sum(int(f32(size * unit)) for size in sizes) / unit / count)


def beyond(value: float, limit: float) -> int:
    """The sign of what is not below the limit in size, and 0."""
    inverse = f32(1 / limit) if limit >= SMALLEST else 0.0
    return int(max(-1.0, min(1.0, f32(value * inverse))))


def wanted(name: str, row: list[float], share: float) -> tuple[float, list[int]]:
    """The scale that a block asks for, and ternary's levels."""
    sizes = [abs(value) for value in row]
    largest = max(sizes)
    if name == "int8":
        return f32(largest * f32(1 / 127)), []
    usual = mean(sizes, largest, len(row))
    if name == "one-bit":
        return usual, []
    if name == "two-bit":
        return f32(usual * f32(share)), []
    levels = [beyond(value, f32(usual * f32(share))) for value in row]
    kept = [value * level for value, level in zip(row, levels, strict=True)]
    return mean(kept, largest, max(1, sum(map(abs, levels)))), levels


def quantise(name: str, value: float, scale: float) -> int:
    """q of one value."""
    if name == "int8":
        inverse = f32(1 / scale) if scale else 0.0
        return round(max(-127, min(127, f32(value * inverse))))
    negative = math.copysign(1, value) < 0
    level = 3 if name == "two-bit" and beyond(value, 2 * scale) else 1
    return -level if negative else level


def expected(
    name: str, tile: list[float], block: int, share: float
) -> tuple[int, list[int], list[float]]:
    """A tile's offset, its scale codes, and the values that it decodes to."""
    rows = [tile[at : at + block] for at in range(0, len(tile), block)]
    asked = [wanted(name, row, share) for row in rows]
    up = (1 << SCALE_SHIFT) - 1 if name == "int8" else 1 << (SCALE_SHIFT - 1)
    rounded = [(bits_of(scale) + up) >> SCALE_SHIFT for scale, _ in asked]
    offset = max(8, max(rounded) - 255)
    codes = [max(0, value - offset) for value in rounded]
    scales = [float_of((offset + code) << SCALE_SHIFT) if code else 0.0 for code in codes]
    values: list[float] = []
    for row, scale, (_, levels) in zip(rows, scales, asked, strict=True):
        values += [q * scale for q in levels or [quantise(name, v, scale) for v in row]]
    return offset, codes, values
