"""Deltas to bytes and back (protocols/learn/delta.py has the layout): torch, CPU or CUDA.

Both directions give the same bits on every machine. Decoding multiplies a small integer by a scale
of four significant bits, which is exact. Encoding by the codecs of results is deterministic too,
since witnesses repeat what aggregators and primaries quantise: it uses only elementwise fp32
operations, which IEEE 754 rounds in one way, maxima, and sums of whole numbers; no matrix product,
no sum of floats, no fused multiply-add.
"""

from collections.abc import Sequence
from typing import Final

import torch
import zstandard
from torch import Tensor

from protocols.learn.delta import (
    FP32,
    GAPS,
    HEADER,
    LOW_RANK,
    MAGIC,
    NAMES,
    SCALES_PACKED,
    SYMBOLS_PACKED,
    TERNARY,
    TOP_K,
    Delta,
    PackedError,
    SymbolError,
    parse,
)
from protocols.learn.deltagaps import parse_gaps
from synapsed.computeworker import codec_rank
from synapsed.computeworker.codec_blocks import (
    NotFiniteError,
    Settings,
    choose_scales,
    dequantise,
    measure,
    pack_rows,
    scales_of,
)
from synapsed.computeworker.codec_gaps import decode_gaps, encode_gaps
from synapsed.computeworker.codec_grid import Shape

__all__ = ["DEFAULT", "NotFiniteError", "Settings", "decode", "encode", "inflate", "same"]

DEFAULT: Final = Settings()
SPARSE: Final = 0.25
"""Ternary with fewer values than this share is tried as gaps too: above, zstd is within 1 % of the
entropy; below, at 5 %, it needs 1.5 times as much, and gaps 1.04 times."""


def encode(
    name: str,
    tiles: Sequence[Tensor],
    settings: Settings = DEFAULT,
    widths: Sequence[int] | None = None,
) -> bytes:
    """A group's tiles, one-dimensional fp32 on one device, as a delta.

    `widths` are the last dimensions of the tiles' tensors, for low rank. Raises NotFiniteError.
    """
    codec = NAMES.index(name)
    sizes = [tile.numel() for tile in tiles]
    if codec == FP32:
        return _encode_plain(tiles, sizes)
    if codec == LOW_RANK:
        return _encode_low_rank(tiles, sizes, widths or [0] * len(tiles), settings)
    shape = Shape(tuple(sizes), 1 << settings.block_bits)
    grid = shape.grid(tiles)
    measured = measure(codec, grid, shape, settings)
    scales = choose_scales(codec, measured, shape)
    sparse = codec == TERNARY and measured.chosen < SPARSE * sum(sizes)
    symbols, packing = b"", GAPS
    levels = measured.levels
    if levels is not None and (codec == TOP_K or sparse):
        symbols = encode_gaps(codec, grid, scales.values, levels, shape)
    if codec != TOP_K:
        raw = shape.trimmed(pack_rows(codec, grid, scales.values, levels), codec)
        dense, flag = _pack(raw.cpu().numpy().tobytes(), settings, SYMBOLS_PACKED)
        if not sparse or len(dense) <= len(symbols):
            symbols, packing = dense, flag
    codes, flag = _pack(scales.codes.cpu().numpy().tobytes(), settings, SCALES_PACKED)
    table = b"".join(offset.to_bytes(2, "little") for offset in scales.offsets)
    choices = codec, settings.block_bits, packing | flag, 0
    return _join(choices, sizes, table, codes, symbols)


def decode(
    data: bytes | memoryview, sizes: Sequence[int], device: str | torch.device = "cpu"
) -> list[Tensor]:
    """Each tile's values, fp32 on `device`; mostly views of one allocation. Raises DeltaError."""
    parsed = parse(data, sizes)
    symbols = _tensor(parsed.symbols.content(inflate), device)
    if parsed.codec == FP32:
        flat = symbols.view(torch.float32)
        if not _finite(flat):
            raise SymbolError("a value that is not finite")
        return list(torch.split(flat, list(sizes)))
    codes = _tensor(parsed.scales.content(inflate), device)
    if parsed.codec == LOW_RANK:
        return codec_rank.decode_tiles(parsed, codes, symbols)
    return _decode_blocks(parsed, codes, symbols)


def same(left: bytes, right: bytes, sizes: Sequence[int]) -> bool:
    """Whether two deltas mean the same bits.

    What witnesses compare: another zstd may pack the same symbols into other bytes.
    Raises DeltaError.
    """
    pairs = zip(decode(left, sizes), decode(right, sizes), strict=True)
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)


def inflate(frame: bytes, length: int) -> bytes:
    """One zstd frame whose stated content was checked to be `length` bytes. Raises PackedError."""
    try:
        return zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise PackedError(f"a zstd frame that does not unpack: {error}") from None


def _decode_blocks(parsed: Delta, codes: Tensor, symbols: Tensor) -> list[Tensor]:
    shape = Shape(parsed.tiles, parsed.block)
    scales = scales_of(codes, parsed.table, shape)
    if parsed.gaps:
        grid = decode_gaps(parsed.codec, parse_gaps(parsed), symbols, scales, shape)
    else:
        packed = shape.padded(symbols, parsed.codec)
        grid = dequantise(parsed.codec, packed, scales, parsed.block)
    return shape.tiles(grid)


def _encode_plain(tiles: Sequence[Tensor], sizes: list[int]) -> bytes:
    flat = torch.cat([tile.reshape(-1) for tile in tiles])
    if not _finite(flat):
        raise NotFiniteError("a value that is not finite")
    return _join((FP32, 0, 0, 0), sizes, b"", b"", flat.cpu().numpy().tobytes())


def _encode_low_rank(
    tiles: Sequence[Tensor], sizes: list[int], widths: Sequence[int], settings: Settings
) -> bytes:
    columns = [codec_rank.columns_of(*pair) for pair in zip(sizes, widths, strict=True)]
    parts = [
        codec_rank.encode_tile(tile, width, settings.rank)
        for tile, width in zip(tiles, columns, strict=True)
    ]
    factors = b"".join(part for _, part in parts)
    symbols, packing = _pack(factors, settings, SYMBOLS_PACKED)
    table = b"".join(width.to_bytes(4, "little") for width in columns)
    scales = b"".join(head for head, _ in parts)
    return _join((LOW_RANK, 0, packing, settings.rank), sizes, table, scales, symbols)


def _join(
    choices: tuple[int, int, int, int],
    sizes: Sequence[int],
    table: bytes,
    scales: bytes,
    symbols: bytes,
) -> bytes:
    """`choices` are the codec, log2 of a block, the packing and the rank."""
    lengths = len(sizes), sum(sizes), len(scales), len(symbols)
    return b"".join((HEADER.pack(MAGIC, *choices, *lengths), table, scales, symbols))


def _pack(raw: bytes, settings: Settings, flag: int) -> tuple[bytes, int]:
    """As a zstd frame if that saves enough, and the flag which says so."""
    packed = zstandard.ZstdCompressor(level=settings.zstd_level).compress(raw)
    return (packed, flag) if len(packed) < len(raw) * (1.0 - settings.saving) else (raw, 0)


def _finite(values: Tensor) -> bool:
    low, high = torch.aminmax(values)
    return bool(low > -torch.inf) and bool(high < torch.inf)


def _tensor(content: bytes | memoryview, device: str | torch.device) -> Tensor:
    """The bytes, which torch may not write to, but warns that it might: so a copy."""
    if not len(content):
        return torch.empty(0, dtype=torch.uint8, device=device)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
