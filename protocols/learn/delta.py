"""The bytes of a delta, and of a round's result; docs/deltas.md has them as a table.

Little-endian, and nothing is left to guess: from a group's tile sizes and the header follow all
lengths, so that whatever does not fit is refused before anything of its size is allocated.

    header    magic, codec, block size, packing, rank, tiles, elements, both sections' bytes
    table     by tile: where its scale codes begin (low rank: how many columns it has)
    scales    a byte a block: code c of a tile with offset o is the float with bits
              (o + c) << 20, that is (8 + m) * 2^k; code 0 is no scale: its block is zero
    symbols   the quantised values, each tile's padded to a whole byte; or, as *gaps*, only those
              that are not 0 (deltagaps.py)

A value is q * scale with |q| < 128 and four significant bits of scale: the product has at most
eleven, so fp32 multiplies exactly, and decoding gives the same bits everywhere. Offsets are bounded
so that every product is finite and normal: NaN and infinity cannot be written (but by fp32, whose
values are looked at).

`scales` and `symbols` may each be a zstd frame, whose stated content must be the known length. This
module reads no zstd: who decodes brings `inflate` (deltaread.py is the reference, a value at a
time; synapsed/computeworker/codecs.py is the decoder that is used).
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final

import msgspec

from protocols.errors import MalformedError

MAGIC: Final = b"SYD1"
HEADER: Final = struct.Struct("<4sBBBBIQII")
"""Magic, codec, log2 of a block, packing, rank, tiles, elements, both sections' bytes."""

NAMES: Final = ("fp32", "int8", "two-bit", "ternary", "one-bit", "top-k", "low-rank")
FP32, INT8, TWO_BIT, TERNARY, ONE_BIT, TOP_K, LOW_RANK = range(len(NAMES))
BITS: Final = (32, 8, 2, 2, 1, 2, 8)
"""Of one symbol, by codec."""
LEVELS: Final[dict[int, tuple[int, ...]]] = {
    TWO_BIT: (1, 3, -1, -3),
    TERNARY: (0, 1, 0, -1),
    ONE_BIT: (1, -1),
    TOP_K: (2, 3, -2, -3),
}
"""q of each symbol. Where one has two bits, the upper is the sign; ternary's symbol 2 is refused.
int8 and low rank have q itself, in two's complement, without -128."""

SCALES_PACKED, SYMBOLS_PACKED, GAPS = 1, 2, 4
"""Bits of `packing`: that section is a zstd frame; symbols are gaps."""
PACKINGS: Final = {
    FP32: (0,),
    INT8: (0, 1, 2, 3),
    TWO_BIT: (0, 1, 2, 3),
    TERNARY: (0, 1, 2, 3, 4, 5),
    ONE_BIT: (0, 1, 2, 3),
    TOP_K: (4, 5),
    LOW_RANK: (0, 2),
}
MIN_BLOCK, MAX_BLOCK = 5, 16
"""log2 of the elements that share a scale: from 32 to 65,536."""
SCALE_SHIFT: Final = 20
"""A scale keeps three bits of mantissa behind the leading one: at most 6.25 % off."""
MIN_OFFSET, MAX_OFFSET = 8, 8 * (127 + 24) - 255
"""Code 1 of the smallest is above 2^-126, so normal; code 255 of the largest is 2^24."""
MAX_RANK: Final = 64
MAX_SUM: Final = 1 << 10
"""Components times 2^shift: sums of so many products of two int8 stay below 2^24, so fp32 adds
them exactly in any order."""
MAX_TILES: Final = 1 << 20
MAX_ELEMENTS: Final = 1 << 31
"""Of all tiles: far above a group's 1 GiB of fp32 values."""

Bytes = bytes | memoryview
Inflate = Callable[[bytes, int], bytes]
"""zstd: (one frame, its content's length) -> content. Raises PackedError."""


class DeltaError(MalformedError):
    """Bytes that are no delta of these tiles.

    DeltaError
     +- HeaderError         no header, an unknown codec, or bits that are reserved
     +- SizesError          lengths that are not the ones which the tiles and the header give
     +- ScaleError          scales out of bounds
     +- PackedError         a zstd frame that is not one, or not of the known length
     +- SymbolError         symbols that mean nothing: NaN, infinity, -128, a fourth ternary value
     +- GapsError           gaps that lead beyond the tiles, or are fewer or more than stated
    """

    code = "bad-delta"


class HeaderError(DeltaError):
    """No header, an unknown codec, or bits that are reserved."""

    code = "delta-header"


class SizesError(DeltaError):
    """Lengths that are not the ones which the tiles and the header give."""

    code = "delta-sizes"


class ScaleError(DeltaError):
    """Scales out of bounds."""

    code = "delta-scale"


class PackedError(DeltaError):
    """A zstd frame that is not one, or not of the known length."""

    code = "delta-packed"


class SymbolError(DeltaError):
    """Symbols that mean nothing."""

    code = "delta-symbol"


class GapsError(DeltaError):
    """Gaps that lead beyond the tiles, or are fewer or more than stated."""

    code = "delta-gaps"


class Section(msgspec.Struct, frozen=True):
    """Part of a delta: as it is stored, and how many bytes it means."""

    stored: memoryview
    packed: bool
    length: int

    def content(self, inflate: Inflate) -> Bytes:
        """Its bytes, unpacked. Raises PackedError."""
        if not self.packed:
            return self.stored
        content = inflate(bytes(self.stored), self.length)
        if len(content) != self.length:
            raise PackedError(f"a section of {len(content)} bytes instead of {self.length}")
        return content


class Delta(msgspec.Struct, frozen=True):
    """A delta whose lengths, table and gaps were checked; its sections are still packed."""

    codec: int
    block: int
    """Elements that share a scale; 0 without scales."""
    rank: int
    """Of low rank, at most; 0 for others."""
    gaps: bool
    tiles: tuple[int, ...]
    """Elements of each."""
    table: tuple[int, ...]
    """By tile: its offset; low rank: its columns."""
    scales: Section
    symbols: Section

    @property
    def name(self) -> str:
        """The codec's, as plans have it."""
        return NAMES[self.codec]

    def factors(self, tile: int) -> tuple[int, int, int]:
        """Low rank: rows, columns and components of a tile."""
        rows = self.tiles[tile] // self.table[tile]
        return rows, self.table[tile], min(self.rank, rows, self.table[tile])


def symbol_bytes(codec: int, count: int) -> int:
    """Bytes of one tile's symbols."""
    return (count * BITS[codec] + 7) // 8


def blocks_of(count: int, block: int) -> int:
    """Scales of a tile; the last block may be short."""
    return -(-count // block)


def parse(data: Bytes, tiles: Sequence[int]) -> Delta:
    """Check what can be known without unpacking; nothing is copied. Raises DeltaError."""
    view = memoryview(data).cast("B")
    if len(view) < HEADER.size:
        raise HeaderError(f"{len(view)} bytes are less than a header")
    magic, codec, block_bits, packing, rank, count, elements, scales, symbols = HEADER.unpack_from(
        view
    )
    if magic != MAGIC or codec >= len(NAMES):
        raise HeaderError("not a delta of any codec that we know")
    _check_choices(codec, block_bits, packing, rank)
    if count != len(tiles) or elements != sum(tiles) or min(tiles, default=0) < 1:
        raise SizesError(
            f"a delta of {count} tiles and {elements} elements, for {len(tiles)} and {sum(tiles)}"
        )
    if count > MAX_TILES or elements > MAX_ELEMENTS:
        raise SizesError(f"{count} tiles and {elements} elements are more than one delta has")
    entry = {FP32: "", LOW_RANK: "I"}.get(codec, "H")
    at = HEADER.size + struct.calcsize(f"<{entry}") * count
    if len(view) != at + scales + symbols:
        raise SizesError(f"{len(view)} bytes, of {at + scales + symbols} stated")
    table = struct.unpack(f"<{count}{entry}", view[HEADER.size : at]) if entry else ()
    scale_part, symbol_part = view[at : at + scales], view[at + scales :]
    packed = bool(packing & SCALES_PACKED), bool(packing & SYMBOLS_PACKED)
    gaps = bool(packing & GAPS)
    if codec == LOW_RANK:
        lengths = _factor_lengths(tiles, table, rank)
    else:
        _check_offsets(table)
        block = 1 << block_bits
        lengths = (
            sum(blocks_of(size, block) for size in tiles) if codec != FP32 else 0,
            sum(symbol_bytes(codec, size) for size in tiles) if not gaps else len(symbol_part),
        )
    return Delta(
        codec,
        1 << block_bits if block_bits else 0,
        rank,
        gaps,
        tuple(tiles),
        table,
        _section(scale_part, packed[0], lengths[0]),
        _section(symbol_part, packed[1], lengths[1]),
    )


def _check_choices(codec: int, block_bits: int, packing: int, rank: int) -> None:
    if packing not in PACKINGS[codec]:
        raise HeaderError(f"{NAMES[codec]} is not packed in way {packing}")
    if not (1 <= rank <= MAX_RANK if codec == LOW_RANK else rank == 0):
        raise HeaderError(f"{NAMES[codec]} of rank {rank}")
    blocks = codec not in (FP32, LOW_RANK)
    if not (MIN_BLOCK <= block_bits <= MAX_BLOCK if blocks else block_bits == 0):
        raise HeaderError(f"{NAMES[codec]} in blocks of 2^{block_bits} elements")


def _check_offsets(offsets: tuple[int, ...]) -> None:
    if any(not MIN_OFFSET <= offset <= MAX_OFFSET for offset in offsets):
        raise ScaleError("scales beyond 2^24, or so small that they are not normal")


def _factor_lengths(tiles: Sequence[int], columns: tuple[int, ...], rank: int) -> tuple[int, int]:
    """Bytes of both sections of a delta of low rank."""
    symbols = 0
    for size, width in zip(tiles, columns, strict=True):
        if not width or size % width:
            raise SizesError(f"a tile of {size} elements in rows of {width}")
        symbols += min(rank, width, size // width) * (width + size // width)
    return len(tiles) * (2 + rank), symbols


def _section(stored: memoryview, packed: bool, length: int) -> Section:
    if packed:
        if len(stored) >= length:
            raise PackedError("a section that packing made no smaller")
        _check_frame(stored, length)
    elif len(stored) != length:
        raise SizesError(f"a section of {len(stored)} bytes instead of {length}")
    return Section(stored, packed, length)


ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ONE_SEGMENT: Final = 0x20
FRAME_SIZES: Final = (0, 2, 4, 8)
"""Bytes of the content's length, by the descriptor's two upper bits (RFC 8878, 3.1.1.1)."""


def _check_frame(frame: memoryview, length: int) -> None:
    """A frame without dictionary or checksum that states a content of `length` bytes.

    Who unpacks it into so many bytes allocates no window beside them.
    """
    if len(frame) < 6 or bytes(frame[:4]) != ZSTD_MAGIC:
        raise PackedError("not a zstd frame")
    descriptor = frame[4]
    if descriptor & 0x1F:
        raise PackedError("a zstd frame with more than its content")
    one = bool(descriptor & ONE_SEGMENT)
    width = FRAME_SIZES[descriptor >> 6] or one
    at = 5 if one else 6
    stated = int.from_bytes(frame[at : at + width], "little") + (256 if width == 2 else 0)
    if len(frame) < at + width or not width or stated != length:
        raise PackedError(f"a zstd frame of {stated} bytes instead of {length}")


def check_finite(values: memoryview) -> None:
    """Raise SymbolError if a float among them is not finite: any such makes the sum so."""
    floats = array("f")
    for start in range(0, len(values), 1 << 20):
        del floats[:]
        floats.frombytes(values[start : start + (1 << 20)])
        if not isfinite(sum(floats)):
            raise SymbolError("a value that is not finite")
