"""Low rank: a tile as the product of two thin int8 matrices. For comparison.

Encoding is subspace iteration, whose matrix products differ between machines: so it is for deltas
only, never for what witnesses repeat. Decoding is the same everywhere: factors are whole numbers,
and fp32 adds their products exactly, in whatever order, since the sums stay below 2^24.
Source: PowerSGD (T. Vogels et al., arXiv 1905.13727), with the factors then quantised.
"""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from protocols.learn.delta import (
    MAX_OFFSET,
    MAX_SUM,
    MIN_OFFSET,
    SCALE_SHIFT,
    Delta,
    ScaleError,
    SymbolError,
)
from synapsed.computeworker.codec_blocks import TOO_LARGE, NotFiniteError

ITERATIONS = 2
SEED = 1
"""Of the first subspace: the same for everybody, so that one delta is always the same bytes."""
MAX_SHIFT = 7


def columns_of(size: int, width: int | None) -> int:
    """How many columns to cut a tile into: its tensor's if whole rows, else nearly a square."""
    if width is not None and width > 1 and size % width == 0:
        return width
    root = int(size**0.5)
    best = next(columns for columns in range(root, 0, -1) if size % columns == 0)
    return best if best * best * 16 >= size else size


def encode_tile(tile: Tensor, columns: int, rank: int) -> tuple[bytes, bytes]:
    """The scale and shifts of one tile, and its factors. Raises NotFiniteError."""
    matrix = tile.reshape(-1, columns)
    if not float(matrix.abs().max()) < TOO_LARGE:
        raise NotFiniteError("a value that is not finite, or beyond 2^24")
    own = min(rank, *matrix.shape)
    left, right = _factors(matrix, own)
    sizes = left.abs().amax(0) * right.abs().amax(0) / (127.0 * 127.0)
    if not float(sizes.max()) > 0:
        return bytes(2 + rank), bytes(own * sum(matrix.shape))
    spread = torch.log2(sizes.clamp(min=float(sizes.max()) * 2.0**-MAX_SHIFT))
    limit = min(MAX_SHIFT, (MAX_SUM // own).bit_length() - 1)
    shifts = (spread - spread.min()).ceil().clamp(max=limit).to(torch.int32)
    bits = _round_up(float((sizes / 2.0**shifts).max()))
    unit = struct.unpack("<f", struct.pack("<I", bits << SCALE_SHIFT))[0] * 2.0**shifts
    steps = right.abs().amax(0).clamp(min=1e-38) / 127.0
    parts = (left / (unit / steps), right / steps)
    whole = [part.round().clamp(-127, 127).to(torch.int8).cpu().numpy() for part in parts]
    header = struct.pack("<H", bits) + bytes(shifts.tolist()) + bytes(rank - own)
    return header, b"".join(part.tobytes() for part in whole)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left, with the sizes in it, and an orthonormal right: matrix is nearly left @ right.T."""
    generator = torch.Generator().manual_seed(SEED)
    right = torch.randn(matrix.shape[1], rank, generator=generator).to(matrix.device)
    for _ in range(ITERATIONS):
        left = torch.linalg.qr(matrix @ right).Q
        right = torch.linalg.qr(matrix.T @ left).Q
    return matrix @ right, right


def _round_up(value: float) -> int:
    """A scale's upper bits."""
    bits = int.from_bytes(struct.pack("<f", value), "little")
    code = (bits + (1 << SCALE_SHIFT) - 1) >> SCALE_SHIFT
    if code > MAX_OFFSET + 255:
        raise NotFiniteError("a value beyond 2^24")
    return max(code, MIN_OFFSET + 1)


def decode_tiles(parsed: Delta, scales: Tensor, symbols: Tensor) -> list[Tensor]:
    """Each tile's values, fp32. Raises ScaleError, SymbolError."""
    levels = symbols.view(torch.int8)
    if bool((levels == -128).any()):
        raise SymbolError("-128 is no value of int8")
    heads: Sequence[list[int]] = scales.view(-1, 2 + parsed.rank).tolist()
    at, tiles = 0, []
    for tile, head in enumerate(heads):
        rows, columns, rank = parsed.factors(tile)
        scale = _checked_scale(head, rank)
        middle, end = at + rank * rows, at + rank * (rows + columns)
        left, right = levels[at:middle], levels[middle:end]
        factors = torch.tensor([1 << shift for shift in head[2 : 2 + rank]], device=levels.device)
        sums = (left.view(rows, rank) * factors).float() @ right.view(columns, rank).float().T
        tiles.append(((sums + 0.0) * scale).reshape(-1))
        at = end
    return tiles


def _checked_scale(head: list[int], rank: int) -> float:
    bits, shifts = head[0] | head[1] << 8, head[2 : 2 + rank]
    if bits and not MIN_OFFSET < bits <= MAX_OFFSET + 255:
        raise ScaleError("a scale beyond 2^24, or so small that it is not normal")
    if max(shifts) > 10 or sum(1 << shift for shift in shifts) > MAX_SUM or any(head[2 + rank :]):
        raise ScaleError("shifts whose sums fp32 does not hold")
    return float(struct.unpack("<f", struct.pack("<I", bits << SCALE_SHIFT))[0])
