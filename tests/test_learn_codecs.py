"""Deltas: what is encoded is what the rules say, and whatever is malformed is refused.

The decoder that is used is held against the reference (protocols/learn/deltaread.py) bit by bit,
the encoder against the rules in plain Python (delta_kit.py).
"""

import json
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.learn import delta
from protocols.learn.delta import HEADER, NAMES, DeltaError, PackedError, parse
from protocols.learn.deltaread import decode_reference
from synapsed.computeworker import codec_grid, codecs
from synapsed.computeworker.codec_bits import pack_words, unpack_words
from synapsed.computeworker.codecs import DEFAULT, Settings, decode, encode, inflate
from synapsed.computeworker.decoded import Decoded
from synapsed.computeworker.feedback import Feedback
from tests.delta_kit import bits_of, expected, float_of

RESULTS = ("fp32", "int8", "two-bit", "ternary", "one-bit")
"""Codecs whose encoding witnesses repeat."""
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LARGEST = 127 * 2.0**24
MILLION = 1 << 20

names = st.sampled_from(NAMES)
floats = st.one_of(
    st.floats(-(2.0**-7), 2.0**-7, width=32),
    st.floats(-(2.0**23), 2.0**23, width=32),
    st.sampled_from([0.0, -0.0, 1e-40, -1e-40, 2.0**-126, 1.0, -1.0]),
)
groups = st.lists(st.lists(floats, min_size=1, max_size=90), min_size=1, max_size=4)
choices = st.builds(
    Settings,
    block_bits=st.integers(5, 8),
    dead_zone=st.sampled_from([0.25, 0.7, 1.5, 3.0]),
    top=st.sampled_from([1 / 64, 1 / 8]),
    rank=st.integers(1, 9),
    saving=st.sampled_from([0.0, 0.02, 0.9]),
)


def tensors(group: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=torch.float32) for values in group]


def random_tiles(*sizes: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) * 1e-3 for size in sizes]


def bits(values: Any) -> list[int]:
    return torch.as_tensor(values, dtype=torch.float32).cpu().view(torch.int32).tolist()


# --- both decoders, both devices, any way of working: the same bits


@settings(max_examples=150, deadline=None)
@given(name=names, group=groups, chosen=choices)
def test_decoding_is_the_reference_s(name: str, group: list[list[float]], chosen: Settings) -> None:
    sizes = [len(values) for values in group]
    data = encode(name, tensors(group), chosen)
    reference = decode_reference(parse(data, sizes), inflate)
    for device in DEVICES:
        found = decode(data, sizes, device)
        assert [bits(tile) for tile in found] == [bits(tile) for tile in reference]


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(RESULTS[1:]), group=groups, chosen=choices)
def test_encoding_follows_the_stated_rules(
    name: str, group: list[list[float]], chosen: Settings
) -> None:
    sizes = [len(values) for values in group]
    share = chosen.half_step if name == "two-bit" else chosen.dead_zone
    data = encode(name, tensors(group), chosen)
    parsed = parse(data, sizes)
    codes = list(parsed.scales.content(inflate))
    for values, offset, tile in zip(group, parsed.table, decode(data, sizes), strict=True):
        wanted = expected(name, values, 1 << chosen.block_bits, share)
        assert offset == wanted[0]
        assert [codes.pop(0) for _ in wanted[1]] == wanted[1]
        assert bits(tile) == bits(wanted[2])


@pytest.mark.parametrize("name", RESULTS)
def test_encoding_depends_on_no_thread_nor_device_nor_chunk(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = random_tiles(70_000, 1, 4096, 33)
    once = encode(name, tiles)
    monkeypatch.setattr(codec_grid, "CHUNK", 1 << 30)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 2)
        assert encode(name, tiles) == once
    finally:
        torch.set_num_threads(threads)
    for device in DEVICES[1:]:
        assert encode(name, [tile.to(device) for tile in tiles]) == once


def test_two_packings_of_the_same_values_are_the_same() -> None:
    tiles, sizes = random_tiles(5000), [5000]
    packed = encode("ternary", tiles, replace(DEFAULT, dead_zone=2.0))
    plain = encode("ternary", tiles, replace(DEFAULT, dead_zone=2.0, saving=1.0))
    other = encode("ternary", tiles, replace(DEFAULT, dead_zone=2.1))
    assert packed != encode(
        "ternary", tiles, replace(DEFAULT, dead_zone=2.0, zstd_level=19, block_bits=8)
    )
    assert codecs.same(packed, plain, sizes)
    assert not codecs.same(packed, other, sizes)


# --- what may not be encoded


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_encoded(name: str, value: float) -> None:
    tiles = random_tiles(300, 40)
    tiles[1][7] = value
    with pytest.raises(codecs.NotFiniteError):
        encode(name, tiles)


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_is_too_large_is_not_encoded(name: str) -> None:
    with pytest.raises(codecs.NotFiniteError):
        encode(name, [torch.full((64,), 1e38)])


# --- what may not be decoded


def delta_of(name: str, chosen: Settings = DEFAULT) -> tuple[bytes, list[int]]:
    sizes = [70, 1, 200]
    return encode(name, random_tiles(*sizes), chosen), sizes


SPARSE = replace(DEFAULT, dead_zone=2.5, block_bits=5)
EVERY = [*((name, DEFAULT) for name in NAMES), ("ternary", SPARSE)]


@pytest.mark.parametrize(("name", "chosen"), EVERY)
def test_every_truncation_is_refused(name: str, chosen: Settings) -> None:
    data, sizes = delta_of(name, chosen)
    for length in range(len(data)):
        with pytest.raises(DeltaError):
            decode(data[:length], sizes)
    with pytest.raises(DeltaError):
        decode(data + b"\0", sizes)


@pytest.mark.parametrize(("name", "chosen"), EVERY)
def test_every_flipped_bit_is_refused_or_gives_bounded_values(name: str, chosen: Settings) -> None:
    data, sizes = delta_of(name, chosen)
    refused = 0
    for flipped in flips(data):
        try:
            reference = decode_reference(parse(flipped, sizes), inflate)
        except DeltaError as error:
            refused += 1
            with pytest.raises(type(error)):
                decode(flipped, sizes)
            continue
        found = decode(flipped, sizes)
        assert [bits(tile) for tile in found] == [bits(tile) for tile in reference]
        assert all(bool(torch.isfinite(tile).all()) for tile in found)
        if name != "fp32":
            bound = LARGEST if name != "low-rank" else 2.0**48
            assert all(float(tile.abs().max()) <= bound for tile in found)
    assert refused > 8 * 15


def flips(data: bytes) -> Iterator[bytes]:
    """Every bit of the header and the table, and one in eleven of the rest."""
    front = 8 * (HEADER.size + 12)
    for bit in [*range(front), *range(front, 8 * len(data), 11)]:
        if bit < 8 * len(data):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            yield bytes(changed)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), codec=st.integers(0, 7), pack=st.integers(0, 7))
@example(data=b"", codec=3, pack=4)
def test_random_bytes_behind_a_good_header_are_refused_or_bounded(
    data: bytes, codec: int, pack: int
) -> None:
    sizes, scales = [40, 9], 3 if codec not in (0, 6) else 10 if codec else 0
    block_bits, rank = (5, 0) if codec not in (0, 6) else (0, 3 if codec else 0)
    table = {0: b"", 6: struct.pack("<II", 8, 3)}.get(codec, struct.pack("<HH", 900, 901))
    symbols = max(0, len(data) - scales)
    header = HEADER.pack(
        b"SYD1", codec, block_bits, pack, rank, 2, 49, len(data) - symbols, symbols
    )
    blob = header + table + data
    try:
        reference = decode_reference(parse(blob, sizes), inflate)
    except DeltaError as error:
        with pytest.raises(type(error)):
            decode(blob, sizes)
    else:
        assert [bits(t) for t in decode(blob, sizes)] == [bits(t) for t in reference]


def joined(
    codec: int,
    scales: bytes,
    symbols: bytes,
    *,
    size: int = 128,
    packing: int = 0,
    offset: int = 900,
    block_bits: int = 7,
) -> bytes:
    lengths = 1, size, len(scales), len(symbols)
    table = struct.pack("<H", offset)
    header = HEADER.pack(b"SYD1", codec, block_bits, packing, 0, *lengths)
    return header + table + scales + symbols


GOOD = b"\x80"


REFUSED = [
    (joined(2, GOOD, bytes(32), offset=7), delta.ScaleError),
    (joined(2, GOOD, bytes(32), offset=delta.MAX_OFFSET + 1), delta.ScaleError),
    (joined(1, GOOD, b"\x80" + bytes(127)), delta.SymbolError),
    (joined(3, GOOD, b"\x02" + bytes(31)), delta.SymbolError),
    (joined(3, GOOD, b"\x80" + bytes(31)), delta.SymbolError),
    (joined(2, GOOD, bytes(32), block_bits=4), delta.HeaderError),
    (joined(2, GOOD, bytes(32), block_bits=17), delta.HeaderError),
    (joined(2, GOOD, bytes(32), packing=4), delta.HeaderError),
    (joined(2, GOOD, bytes(32), packing=8), delta.HeaderError),
    (joined(5, GOOD, bytes(32)), delta.HeaderError),
    (joined(7, GOOD, bytes(32)), delta.HeaderError),
    (joined(2, GOOD * 2, bytes(32)), delta.SizesError),
    (joined(2, GOOD, bytes(31)), delta.SizesError),
    (joined(2, GOOD, bytes(32), size=127), delta.SizesError),
    (joined(2, GOOD, bytes(8), packing=2), delta.PackedError),
]


@pytest.mark.parametrize(("blob", "error"), REFUSED)
def test_what_is_wrong_is_named(blob: bytes, error: type[DeltaError]) -> None:
    sizes = [128]
    with pytest.raises(error):
        decode(blob, sizes)
    with pytest.raises(error):
        decode_reference(parse(blob, sizes), inflate)


def gaps(count: int, width: int, *parts: bytes) -> bytes:
    return joined(3, GOOD, struct.pack("<IB", count, width) + b"".join(parts), packing=4)


GAPS_REFUSED = [
    gaps(1, 0, b"\x01"),
    gaps(2, 0, b"\x01", b"\x00"),
    gaps(1, 0, b"\x03", b"\x00"),
    gaps(1, 0, b"\x01\x00", b"\x00"),
    gaps(1, 0, b"\x01", b"\x02"),
    gaps(1, 7, b"\x02", b"\x00", b"\x00"),
    gaps(1, 8, b"\x01", b"\x80", b"\x00"),
    gaps(1, 4, b"\x01", b"\x10", b"\x00"),
    gaps(129, 0, b"\xff" * 16 + b"\x01", bytes(17)),
    gaps(1, 32, b"\x01", bytes(4), b"\x00"),
    gaps(0, 0, b"\x00"),
]


@pytest.mark.parametrize("blob", GAPS_REFUSED)
def test_gaps_that_lead_elsewhere_are_refused(blob: bytes) -> None:
    with pytest.raises(delta.GapsError):
        decode(blob, [128])
    with pytest.raises(delta.GapsError):
        decode_reference(parse(blob, [128]), inflate)


def test_gaps_give_the_values_that_they_name() -> None:
    """Gaps of 3 and 64 + 50, of which 6 bits stand apart."""
    values = decode(gaps(2, 6, b"\x05", (3 | 50 << 6).to_bytes(2, "little"), b"\x02"), [128])[0]
    assert values.nonzero()[:, 0].tolist() == [3, 3 + 1 + 64 + 50]
    assert values[3] == -values[118] > 0


# --- a stranger's bytes allocate nothing that the tiles do not


def test_a_header_of_large_numbers_allocates_nothing() -> None:
    blob = HEADER.pack(b"SYD1", 1, 7, 3, 0, 1 << 31, 1 << 60, 1 << 31, 1 << 31)
    tracemalloc.start()
    try:
        with pytest.raises(delta.SizesError):
            parse(blob, [MILLION] * 64)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_a_frame_that_states_another_size_is_never_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 26))
    blob = joined(1, bytes([1]) * 8192, bomb, size=MILLION, packing=2)
    with pytest.raises(PackedError):
        parse(blob, [MILLION])


def test_a_frame_that_holds_more_than_it_states_is_refused() -> None:
    bomb = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26)))
    at = 5 if bomb[4] & delta.ONE_SEGMENT else 6
    assert int.from_bytes(bomb[at : at + 4], "little") == 1 << 26
    bomb[at : at + 4] = MILLION.to_bytes(4, "little")
    blob = joined(1, bytes([1]) * 8192, bytes(bomb), size=MILLION, packing=2)
    parse(blob, [MILLION])
    with pytest.raises(PackedError):
        decode(blob, [MILLION])


def test_what_follows_a_frame_is_refused() -> None:
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(MILLION))
    blob = joined(1, bytes([1]) * 8192, frame + frame, size=MILLION, packing=2)
    with pytest.raises(PackedError):
        decode(blob, [MILLION])


# --- how much is lost, and that it comes later


@pytest.mark.parametrize(
    ("name", "ratio", "cosine"),
    [
        ("fp32", 0.999, 1.0),
        ("int8", 4.1, 0.9999),
        ("two-bit", 16.5, 0.93),
        ("ternary", 20.0, 0.89),
        ("one-bit", 31.0, 0.79),
        ("top-k", 180.0, 0.33),
    ],
)
def test_ratio_on_the_wire_with_everything_counted(name: str, ratio: float, cosine: float) -> None:
    tiles = random_tiles(MILLION)
    data = encode(name, tiles)
    found = decode(data, [MILLION])[0]
    assert 4 * MILLION / len(data) >= ratio
    assert float(torch.cosine_similarity(tiles[0], found, dim=0)) >= cosine


def test_low_rank_finds_what_has_low_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(1024, 6, generator=generator) for _ in range(2))
    tile = (left * torch.tensor([1, 0.5, 0.3, 0.1, 0.05, 0.02]) @ right.T).reshape(-1)
    data = encode("low-rank", [tile], widths=[1024])
    found = decode(data, [MILLION])[0]
    assert 4 * MILLION / len(data) > 200
    assert float(torch.cosine_similarity(tile, found, dim=0)) > 0.9995


def test_sparse_ternary_is_near_its_entropy() -> None:
    tile = random_tiles(MILLION)[0]
    data = encode("ternary", [tile], replace(DEFAULT, dead_zone=2.5, block_bits=12))
    share = float(decode(data, [MILLION])[0].count_nonzero()) / MILLION
    inner = torch.tensor([1 - share, share / 2, share / 2], dtype=torch.float64)
    entropy = float(-(inner * inner.log2()).sum())
    assert 8 * len(data) / MILLION < 1.06 * entropy


@settings(max_examples=60, deadline=None)
@given(group=groups, name=st.sampled_from(["int8", "two-bit", "ternary", "one-bit"]))
def test_an_error_is_never_larger_than_its_block_allows(
    group: list[list[float]], name: str
) -> None:
    tiles = tensors(group)
    found = decode(encode(name, tiles), [len(values) for values in group])
    for tile, near in zip(tiles, found, strict=True):
        largest = float(tile.abs().max())
        half_step = largest / 127 * 1.125 / 2
        bound = half_step * 1.001 if name == "int8" else largest * 1.07 + 1e-30
        assert float((tile - near).abs().max()) <= bound + largest * 2.0**-30 + 2.0**-120


@pytest.mark.parametrize("name", ["int8", "two-bit", "ternary", "one-bit", "top-k", "low-rank"])
def test_error_feedback_sends_everything_in_the_end(name: str) -> None:
    same = random_tiles(1024, 300)
    feedback = Feedback.nothing([1024, 300])
    sent = [torch.zeros(1024), torch.zeros(300)]
    rounds = 200
    for _ in range(rounds):
        data = feedback.encode(name, same)
        for total, tile in zip(sent, decode(data, [1024, 300]), strict=True):
            total.add_(tile)
    for value, total, left in zip(same, sent, feedback.residual, strict=True):
        torch.testing.assert_close(total + left, value * rounds, rtol=1e-3, atol=1e-6)
        assert float((total / rounds - value).norm() / value.norm()) < 0.25


@pytest.mark.parametrize("name", ["int8", "two-bit", "ternary", "one-bit"])
def test_aggregate_of_encodings_is_the_encoding_of_the_aggregate(name: str) -> None:
    """Within the sum of the errors of both, which for int8 is half a step each."""
    size, learners = 4096, 5
    inputs = [random_tiles(size, seed=seed)[0] for seed in range(learners)]
    apart = torch.stack([decode(encode(name, [tile]), [size])[0] for tile in inputs]).mean(0)
    mean = torch.stack(inputs).mean(0)
    together = decode(encode(name, [mean]), [size])[0]
    errors = [float((decode(encode(name, [t]), [size])[0] - t).norm()) for t in inputs]
    own = float((together - mean).norm())
    assert float((apart - together).norm()) <= sum(errors) / learners + own + 1e-6
    if name == "int8":
        steps = [float(tile.abs().max()) / 127 * 1.125 / 2 for tile in [*inputs, mean]]
        assert float((apart - together).abs().max()) <= sum(steps[:-1]) / learners + steps[-1]
        assert float((apart - together).norm() / mean.norm()) < 0.02


@settings(max_examples=150, deadline=None)
@given(name=names, group=groups, chosen=choices)
def test_what_is_taken_off_is_what_the_delta_says(
    name: str, group: list[list[float]], chosen: Settings
) -> None:
    tiles, left = tensors(group), tensors(group)
    sizes = [len(values) for values in group]
    with patch.object(codecs, "RUN", 60):  # some of the tiles together, and others alone
        data = codecs.encode_off(name, left, chosen)
    assert data == encode(name, tiles, chosen)
    for tile, said, rest in zip(tiles, decode(data, sizes), left, strict=True):
        assert bits(rest) == bits(tile - said)


@settings(max_examples=150, deadline=None)
@given(name=names, group=groups, chosen=choices, seed=st.integers(0, 99))
def test_a_delta_of_few_values_means_the_same_as_all_of_them(
    name: str, group: list[list[float]], chosen: Settings, seed: int
) -> None:
    """Of which the first is -0 where it is added, and so is every base's."""
    sizes = [len(values) for values in group]
    data = encode(name, tensors(group), chosen)
    whole, few = decode(data, sizes), Decoded.read(data, sizes)
    for at, (tile, base) in enumerate(zip(whole, random_tiles(*sizes, seed=seed), strict=True)):
        base[::3] = -0.0
        assert bits(few.tile(at)) == bits(tile)
        assert bits(few.added(at, base)) == bits(base + tile)
        assert few.largest(at) == float(tile.abs().max())
        said = few.entries(at)
        if said is not None:
            assert not said.places.numel() or int(said.places[-1]) < sizes[at]


@given(
    width=st.integers(0, 13),
    words=st.lists(st.integers(0, (1 << 13) - 1), max_size=40),
    spoil=st.booleans(),
)
def test_words_of_bits_are_read_as_they_were_written(
    width: int, words: list[int], spoil: bool
) -> None:
    """And nothing behind the last is overlooked."""
    small = [word & (1 << width) - 1 for word in words]
    packed = pack_words(torch.tensor(words, dtype=torch.int64), width)
    whole = sum(word << width * at for at, word in enumerate(small))
    length = (len(words) * width + 7) // 8
    assert bytes(packed.tolist()) == whole.to_bytes(length, "little")
    if spoil and len(words) * width % 8:
        packed[-1] |= 0x80
        assert unpack_words(packed, len(words), width) is None
    else:
        found = unpack_words(packed, len(words), width)
        assert found is not None
        assert found.tolist() == small


# --- vectors

VECTORS = json.loads((Path(__file__).parent / "vectors/deltas.json").read_text())
TILES = [[float_of(int(value, 16)) for value in tile] for tile in VECTORS["tiles"]]


@pytest.mark.parametrize("vector", VECTORS["deltas"], ids=lambda v: v["name"])
def test_vectors_decode_to_their_values(vector: dict[str, Any]) -> None:
    data, sizes = bytes.fromhex(vector["delta"]), [len(tile) for tile in TILES]
    wanted = [[int(value, 16) for value in tile] for tile in vector["values"]]
    reference = decode_reference(parse(data, sizes), inflate)
    assert [[bits_of(value) for value in tile] for tile in reference] == wanted
    for device in DEVICES:
        assert [
            [bits_of(v) for v in tile.tolist()] for tile in decode(data, sizes, device)
        ] == wanted


@pytest.mark.parametrize("vector", VECTORS["deltas"], ids=lambda v: v["name"])
def test_vectors_are_what_is_encoded(vector: dict[str, Any]) -> None:
    """Of the codecs whose encoding witnesses repeat; but for zstd, to the byte."""
    name, data = vector["name"].split(" as ")[0], bytes.fromhex(vector["delta"])
    if name in RESULTS:
        again = encode(name, tensors(TILES), Settings(**vector["settings"]))
        assert codecs.same(again, data, [len(tile) for tile in TILES])
        assert again == data or data[6] & (delta.SCALES_PACKED | delta.SYMBOLS_PACKED)


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["refusal"])
def test_vectors_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DeltaError) as caught:
        decode(bytes.fromhex(vector["delta"]), [vector["elements"]])
    assert caught.value.code == vector["refusal"]


def test_there_are_vectors_of_every_codec_and_every_refusal() -> None:
    assert {v["name"].split(" as ")[0] for v in VECTORS["deltas"]} == set(NAMES)
    every = {error.code for error in DeltaError.__subclasses__()} - {codecs.NotFiniteError.code}
    assert {v["refusal"] for v in VECTORS["refused"]} == every
