"""Values that are mostly 0: where the others are, as gaps by Rice's code (deltagaps.py).

A gap's upper part is unary, in one stream, and its lower bits stand in another, so that neither
direction walks through the values one by one: ends of the unary numbers are the set bits.
Source: R. F. Rice, "Some practical universal noiseless coding techniques" (JPL 79-22, 1979); the
split in two streams is P. Elias's, "Efficient storage and retrieval by content" (JACM 1974).
"""

import torch
from torch import Tensor

from protocols.learn.delta import LEVELS, ONE_BIT, TERNARY, TOP_K, GapsError
from protocols.learn.deltagaps import GAPS_HEADER, Gaps, low_width
from synapsed.computeworker.codec_bits import (
    pack_bits,
    pack_words,
    places_of,
    unpack_bits,
    unpack_words,
)
from synapsed.computeworker.codec_blocks import TOP_CUT, two_bits
from synapsed.computeworker.codec_grid import Shape


def encode_gaps(codec: int, grid: Tensor, scales: Tensor, levels: Tensor, shape: Shape) -> bytes:
    """A symbols section of the values whose level is not 0."""
    places = places_of(levels.reshape(-1) & 1)
    rows = places >> shape.block.bit_length() - 1
    if codec == TERNARY:
        symbols, value_bits = (levels.reshape(-1).index_select(0, places) & 2) >> 1, 1
    else:
        values = grid.reshape(-1)[places, None]
        symbols, value_bits = two_bits(values, scales[rows] * TOP_CUT)[:, 0], 2
    if not shape.even:
        places = places - shape.filling(rows)
    return _write(places, symbols, value_bits, sum(shape.sizes))


def decode_gaps(codec: int, gaps: Gaps, raw: Tensor, scales: Tensor, shape: Shape) -> Tensor:
    """The grid of values, fp32; `raw` is the section that `gaps` was read from.

    Raises GapsError.
    """
    places, values = read_gaps(codec, gaps, raw, scales, shape)
    if not shape.even:
        places = places + shape.filling_before(places)
    flat = torch.zeros(len(scales) * shape.block, device=raw.device)
    return flat.scatter_(0, places, values).view(-1, shape.block)


def read_gaps(
    codec: int, gaps: Gaps, raw: Tensor, scales: Tensor, shape: Shape
) -> tuple[Tensor, Tensor]:
    """The elements that are said, counted through all tiles without filling, int64, and their
    values, fp32. Raises GapsError."""
    places, symbols = _read(gaps, raw)
    inside = places if shape.even else places + shape.filling_before(places)
    levels = LEVELS[ONE_BIT if codec == TERNARY else TOP_K]
    table = torch.tensor(levels, dtype=torch.float32, device=raw.device)
    rows = inside >> shape.block.bit_length() - 1
    return places, table.index_select(0, symbols.to(torch.int32)) * scales.index_select(0, rows)


def _write(places: Tensor, symbols: Tensor, value_bits: int, elements: int) -> bytes:
    count = len(places)
    width = low_width(count, elements)
    gaps = places.clone()
    gaps[1:] -= places[:-1] + 1
    ends = ((gaps >> width) + 1).cumsum(0) - 1
    unary = torch.zeros(int(ends[-1]) + 1 if count else 0, dtype=torch.uint8, device=ends.device)
    unary[ends] = 1
    parts = pack_bits(unary), pack_words(gaps, width), pack_words(symbols, value_bits)
    return GAPS_HEADER.pack(count, width) + torch.cat(parts).cpu().numpy().tobytes()


def _read(gaps: Gaps, raw: Tensor) -> tuple[Tensor, Tensor]:
    unary, low, values = torch.split(raw[GAPS_HEADER.size :], list(gaps.lengths))
    ends = places_of(unpack_bits(unary))
    lower = unpack_words(low, gaps.count, gaps.width)
    symbols = unpack_words(values, gaps.count, gaps.value_bits)
    if lower is None or symbols is None:
        raise GapsError("bits behind the last gap or symbol")
    steps = ends.diff(prepend=ends.new_full((1,), -1)) - 1
    places = ((steps << gaps.width) + lower + 1).cumsum(0) - 1
    if gaps.count and int(places[-1]) >= gaps.elements:
        raise GapsError("gaps that lead beyond the last tile")
    return places, symbols
