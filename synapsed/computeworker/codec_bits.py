"""Small values in bytes, the first in the lowest bits; eight or four at a time.

Multiplying moves each to its place in the uppermost byte, where nothing carries. On a CPU numpy
does single bits two to five times as fast.
"""

from functools import cache

import numpy
import torch
from torch import Tensor

EIGHTS = 3, 8
"""Widths of words that are read eight at a time: narrower ones are faster bit by bit."""


def bits_together(bits: Tensor) -> Tensor:
    """Eight lowest bits, each of a byte, into one byte. The last dimension is a multiple."""
    eight = bits.view(torch.int64) & 0x0101010101010101
    return (eight * 0x0102040810204080 >> 56).to(torch.uint8)


def pairs_together(symbols: Tensor) -> Tensor:
    """Four times two lowest bits, each of a byte, into one byte."""
    four = symbols.view(torch.int32) & 0x03030303
    return (four * 0x01041040 >> 24).to(torch.uint8)


def pack_bits(bits: Tensor) -> Tensor:
    """Any number of bits, one-dimensional; the last byte is filled with zeros."""
    if bits.device.type == "cpu":
        return torch.from_numpy(numpy.packbits(bits.numpy(), bitorder="little"))
    return bits_together(torch.nn.functional.pad(bits, (0, -len(bits) % 8)))


def unpack_bits(packed: Tensor) -> Tensor:
    """All bits of all bytes, a byte each."""
    if packed.device.type == "cpu":
        return torch.from_numpy(numpy.unpackbits(packed.numpy(), bitorder="little"))
    return bit_table().to(packed.device).index_select(0, packed.to(torch.int32)).reshape(-1)


def places_of(ones: Tensor) -> Tensor:
    """Where a 1 is among bytes that are 0 or 1, int64."""
    if ones.device.type != "cpu":
        return ones.nonzero()[:, 0]
    return torch.from_numpy(numpy.flatnonzero(ones.numpy().view(numpy.bool_)))


def pack_words(words: Tensor, width: int) -> Tensor:
    """Numbers of `width` bits each, of which only so many are looked at."""
    small = words.to(torch.uint8 if width <= 8 else torch.int32)
    bits = torch.empty(len(words), width, dtype=torch.uint8, device=words.device)
    for place in range(width):
        bits[:, place] = small >> place & 1
    return pack_bits(bits.reshape(-1))


def unpack_words(packed: Tensor, count: int, width: int) -> Tensor | None:
    """The numbers, of some type of integers; None if bits behind the last are set."""
    if EIGHTS[0] <= width <= EIGHTS[1] and count:
        return _unpack_eights(packed, count, width)
    bits = unpack_bits(packed)
    if bool(bits[count * width :].any()):
        return None
    table = bits[: count * width].view(count, width)
    words = torch.zeros(
        count, dtype=torch.uint8 if width <= 8 else torch.int32, device=packed.device
    )
    for place in range(width):
        words |= table[:, place].to(words.dtype) << place
    return words


def _unpack_eights(packed: Tensor, count: int, width: int) -> Tensor | None:
    """Eight words are `width` bytes: the low ones of a number of 64 bits."""
    rows = (count + 7) // 8
    raw = torch.nn.functional.pad(packed, (0, rows * width - len(packed)))
    wide = torch.zeros(rows, 8, dtype=torch.uint8, device=packed.device)
    wide[:, :width] = raw.view(rows, width)
    together = wide.view(torch.int64)[:, 0]
    words = torch.empty(rows, 8, dtype=torch.int32, device=packed.device)
    for place in range(8):
        words[:, place] = together >> width * place & (1 << width) - 1
    flat = words.view(-1)
    return None if bool(flat[count:].any()) else flat[:count]


@cache
def bit_table() -> Tensor:
    """Each byte's bits, the lowest first."""
    return (torch.arange(256)[:, None] >> torch.arange(8) & 1).to(torch.uint8)


@cache
def level_table(levels: tuple[int, ...], bits: int) -> Tensor:
    """The values that each byte holds, fp32, where a symbol of so many bits has a level."""
    values = torch.zeros(1 << bits)
    values[: len(levels)] = torch.tensor(levels, dtype=torch.float32)
    places = torch.arange(0, 8, bits)
    return values[torch.arange(256)[:, None] >> places & ((1 << bits) - 1)]
