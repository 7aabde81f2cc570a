"""Deltas to bytes and back (protocols/learn/delta.py has the layout): torch, CPU or CUDA.

Both directions give the same bits on every machine. Decoding multiplies a small integer by a scale
of four significant bits, which is exact. Encoding by the codecs of results is deterministic too,
since witnesses repeat what aggregators and primaries quantise: it uses only elementwise fp32
operations, which IEEE 754 rounds in one way, maxima, and sums of whole numbers; no matrix product,
no sum of floats, no fused multiply-add.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

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
    Scales,
    Settings,
    choose_scales,
    dequantise,
    measure,
    pack_rows,
    scales_of,
    take_off,
)
from synapsed.computeworker.codec_gaps import decode_gaps, encode_gaps, read_gaps
from synapsed.computeworker.codec_grid import Shape

__all__ = ["DEFAULT", "NotFiniteError", "Settings", "decode", "encode", "inflate", "same"]

DEFAULT: Final = Settings()
RUN: Final = 1 << 18
"""Elements of small tiles that are encoded together: 1 MiB of fp32."""
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
    return _join_blocks(
        codec, [_encode_run(codec, run, settings) for run in _runs(tiles)], settings
    )


def encode_off(name: str, tiles: Sequence[Tensor], settings: Settings = DEFAULT) -> bytes:
    """The same as `encode`; what it says is taken off the tiles, which keep the rest. Where it
    raises, they are of no more use."""
    codec = NAMES.index(name)
    if codec in (FP32, LOW_RANK, TOP_K):
        delta = encode(name, tiles, settings)
        said = decode(delta, [tile.numel() for tile in tiles], tiles[0].device if tiles else "cpu")
        for tile, value in zip(tiles, said, strict=True):
            tile.sub_(value)
        return delta
    parts = []
    for run in _runs(tiles):
        part = _encode_run(codec, run, settings)
        take_off(codec, part.grid, part.packed, part.scales.values, part.levels)
        for tile, rest in zip(run, part.shape.tiles(part.grid), strict=True):
            if rest.data_ptr() != tile.data_ptr():
                tile.copy_(rest)
        parts.append(part)
    return _join_blocks(codec, parts, settings)


def _runs(tiles: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Large tiles one by one, where they lie; small ones together, copied, so that a hundred of
    them do not cost a hundred times all calls."""
    begin = total = 0
    for at, tile in enumerate(tiles):
        if at > begin and total + tile.numel() > RUN:
            yield tiles[begin:at]
            begin, total = at, 0
        total += tile.numel()
    yield tiles[begin:]


class _Run(NamedTuple):
    """Some tiles, encoded but for the way in which their symbols are written."""

    shape: Shape
    grid: Tensor
    scales: Scales
    levels: Tensor | None
    chosen: int
    packed: Tensor
    """Their symbols in bytes, in rows; of top-k none."""


def _encode_run(codec: int, tiles: Sequence[Tensor], settings: Settings) -> _Run:
    shape = Shape(tuple(tile.numel() for tile in tiles), 1 << settings.block_bits)
    grid = shape.grid(tiles)
    measured = measure(codec, grid, shape, settings)
    scales = choose_scales(codec, measured, shape)
    packed = torch.empty(0, dtype=torch.uint8, device=grid.device)
    if codec != TOP_K:
        packed = pack_rows(codec, grid, scales.values, measured.levels)
    return _Run(shape, grid, scales, measured.levels, measured.chosen, packed)


def _join_blocks(codec: int, runs: Sequence[_Run], settings: Settings) -> bytes:
    sizes = [size for run in runs for size in run.shape.sizes]
    sparse = codec == TERNARY and sum(run.chosen for run in runs) < SPARSE * sum(sizes)
    symbols, packing = b"", GAPS
    if codec == TOP_K or sparse:
        shape = Shape(tuple(sizes), 1 << settings.block_bits)
        levels = [run.levels for run in runs if run.levels is not None]
        grid = torch.cat([run.grid for run in runs]) if codec == TOP_K else runs[0].grid
        scales = torch.cat([run.scales.values for run in runs])
        symbols = encode_gaps(codec, grid, scales, torch.cat(levels), shape)
    if codec != TOP_K:
        raw = torch.cat([run.shape.trimmed(run.packed, codec) for run in runs])
        dense, flag = _pack(raw.cpu().numpy().tobytes(), settings, SYMBOLS_PACKED)
        if not sparse or len(dense) <= len(symbols):
            symbols, packing = dense, flag
    raw = torch.cat([run.scales.codes for run in runs])
    codes, flag = _pack(raw.cpu().numpy().tobytes(), settings, SCALES_PACKED)
    table = b"".join(offset.to_bytes(2, "little") for run in runs for offset in run.scales.offsets)
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


def decode_sparse(
    data: bytes | memoryview, sizes: Sequence[int], device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor] | None:
    """Of a delta that says but some values: which elements, counted through all tiles, and their
    values. None for any other delta. Raises DeltaError."""
    parsed = parse(data, sizes)
    if not parsed.gaps:
        return None
    shape = Shape(parsed.tiles, parsed.block)
    codes = _tensor(parsed.scales.content(inflate), device)
    scales = scales_of(codes, parsed.table, shape)
    symbols = _tensor(parsed.symbols.content(inflate), device)
    return read_gaps(parsed.codec, parse_gaps(parsed), symbols, scales, shape)


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
