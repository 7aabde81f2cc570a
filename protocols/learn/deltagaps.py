"""A delta's symbols as gaps: only those that are not 0, and how far each is from the one before.

    count     of values, and the width of a gap's lower bits
    unary     gap >> width of each, as so many 0 and a 1, in order; the last byte ends in its last 1
    lower     `width` bits of each
    symbols   1 bit each of ternary (0: +1, 1: -1), 2 of top-k

Elements are counted through all tiles. A gap is the number of elements between two values, so
positions rise by their making. Fields are filled to whole bytes with zeros; the first in the lowest
bits.
"""

import struct
from typing import Final

import msgspec

from protocols.learn.delta import TERNARY, Delta, GapsError

GAPS_HEADER: Final = struct.Struct("<IB")
MAX_WIDTH: Final = 31


class Gaps(msgspec.Struct, frozen=True):
    """A section of gaps whose lengths were checked."""

    count: int
    width: int
    value_bits: int
    elements: int
    lengths: tuple[int, int, int]
    """Bytes of unary, lower and symbols."""


def low_width(count: int, elements: int) -> int:
    """The width that codes `count` gaps best: log2 of ln 2 times the mean gap (Gallager, 1975)."""
    return max(0, (elements * 7 // (count * 10)).bit_length() - 1) if count else 0


def parse_gaps(delta: Delta) -> Gaps:
    """Check lengths, that there are as many gaps as stated, and that they may fit.

    Raises GapsError. Takes no longer than to read the bytes once.
    """
    raw, elements = delta.symbols.stored, sum(delta.tiles)
    if len(raw) < GAPS_HEADER.size:
        raise GapsError("no header of gaps")
    count, width = GAPS_HEADER.unpack_from(raw)
    if count > elements or width > MAX_WIDTH:
        raise GapsError(f"{count} gaps of {width} bits in {elements} elements")
    value_bits = 1 if delta.codec == TERNARY else 2
    lower, symbols = (count * width + 7) // 8, (count * value_bits + 7) // 8
    length = len(raw) - GAPS_HEADER.size - lower - symbols
    if length < 0:
        raise GapsError(f"{len(raw)} bytes are less than {count} gaps")
    unary = raw[GAPS_HEADER.size : GAPS_HEADER.size + length]
    ones = int.from_bytes(unary, "little").bit_count()
    last = unary[-1].bit_length() if length else 0
    if ones != count or (length and not last):
        raise GapsError(f"{ones} gaps, of {count} stated")
    zeros = 8 * (length - 1) + last - ones if length else 0
    if (zeros << width) + count > elements:
        raise GapsError("gaps that lead beyond the last tile")
    return Gaps(count, width, value_bits, elements, (length, lower, symbols))
