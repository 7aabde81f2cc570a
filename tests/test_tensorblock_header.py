"""The safetensors header: every refusal by its name, agreement with the library, and bounds."""

import pickle
import random
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import numpy
import numpy.typing
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from protocols.errors import LimitError, MalformedError
from protocols.tensors.safetensors_header import (
    ALIGNMENT,
    DTYPE_BITS,
    MAX_COLONS,
    MAX_COMMAS,
    MAX_HEADER,
    MAX_RANK,
    MAX_TENSORS,
    AbsurdShapeError,
    DuplicateKeyError,
    HeaderError,
    HeaderFieldError,
    HeaderNotJsonError,
    HeaderTooLargeError,
    HeaderTruncatedError,
    OffsetHoleError,
    OffsetOutOfFileError,
    OverlappingOffsetsError,
    SafetensorsHeader,
    ShapeMismatchError,
    UnknownDtypeError,
    header_length,
    make_safetensors_header,
    parse_safetensors_header,
)
from tests.steps import at_most


def with_length(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def parse(text: bytes, data: int = 4) -> SafetensorsHeader:
    """The header `text` of a file with `data` bytes behind it."""
    prefix = with_length(text)
    return parse_safetensors_header(prefix, len(prefix) + data)


def library(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return found


def entry(start: int, stop: int, *, dtype: str = "U8", shape: list[int] | None = None) -> object:
    shape = [stop - start] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def text(**tensors: object) -> bytes:
    return msgspec.json.encode(tensors)


GOOD = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


def shaped(shape: bytes, offsets: bytes = b"0,4") -> bytes:
    return b'{"a":{"dtype":"U8","shape":[' + shape + b'],"data_offsets":[' + offsets + b"]}}"


# (the JSON, its refusal), each for a file with four bytes of data
REFUSED: dict[str, tuple[bytes, type[HeaderError]]] = {
    "empty": (b"", HeaderNotJsonError),
    "cut off": (GOOD[:-1], HeaderNotJsonError),
    "trailing text": (GOOD + b"x", HeaderNotJsonError),
    "trailing object": (GOOD + GOOD, HeaderNotJsonError),
    "trailing zeros": (GOOD + b"\0\0", HeaderNotJsonError),
    "leading space": (b" " + GOOD, HeaderNotJsonError),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, HeaderNotJsonError),
    "a list": (b"[]", HeaderNotJsonError),
    "a number": (b"7", HeaderNotJsonError),
    "null": (b"null", HeaderNotJsonError),
    "lists nested deeply": (b'{"a":' + b"[" * 1_000_000, HeaderNotJsonError),
    "objects nested deeply": (b'{"a":' * 100_000, HeaderNotJsonError),
    "deep and closed": (b'{"a":' * 50_000 + b"{}" + b"}" * 50_000, HeaderNotJsonError),
    "deep within an entry": (b'{"a":{"shape":' + b"[" * 1_000_000, HeaderNotJsonError),
    "deep within metadata": (b'{"__metadata__":{"a":' + b"{" * 1_000_000, HeaderNotJsonError),
    "nested where numbers belong": (shaped(b"[" * 200 + b"]" * 200), HeaderFieldError),
    "invalid UTF-8 in a name": (GOOD.replace(b'"a"', b'"\xff"'), HeaderNotJsonError),
    "invalid UTF-8 in a dtype": (GOOD.replace(b"U8", b"\xc3"), HeaderNotJsonError),
    "a surrogate in UTF-8": (GOOD.replace(b'"a"', b'"\xed\xa0\x80"'), HeaderNotJsonError),
    "a surrogate escaped": (GOOD.replace(b'"a"', b'"\\ud800"'), HeaderNotJsonError),
    "a control character": (GOOD.replace(b'"a"', b'"\x01"'), HeaderNotJsonError),
    "NaN": (shaped(b"NaN"), HeaderNotJsonError),
    "Infinity": (shaped(b"Infinity"), HeaderNotJsonError),
    "a comma too many": (shaped(b"4,"), HeaderNotJsonError),
    "a leading zero": (shaped(b"04"), HeaderNotJsonError),
    "a fraction": (shaped(b"4.0"), HeaderFieldError),
    "an exponent": (shaped(b"4e0"), HeaderFieldError),
    "a huge exponent": (shaped(b"1e999999999"), HeaderFieldError),
    "a negative dimension": (shaped(b"-4"), HeaderFieldError),
    "minus zero": (shaped(b"4", b"-0,4"), HeaderFieldError),
    "minus zero beside a dash": (
        shaped(b"4", b"-0,4").replace(b'"a"', b'"a-:b"'),
        HeaderFieldError,
    ),
    "a number as text": (shaped(b'"4"'), HeaderFieldError),
    "true for one": (shaped(b"4,true"), HeaderFieldError),
    "null in a shape": (shaped(b"null"), HeaderFieldError),
    "a number of 5,000 digits": (shaped(b"9" * 5000), HeaderFieldError),
    "a number of a million digits": (shaped(b"9" * 1_000_000), HeaderFieldError),
    "2**64 + 4": (shaped(b"18446744073709551620"), HeaderFieldError),
    "2**63": (shaped(b"9223372036854775808"), HeaderFieldError),
    "an offset of 2**64": (shaped(b"4", b"0,18446744073709551616"), HeaderFieldError),
    "three offsets": (shaped(b"4", b"0,4,4"), HeaderFieldError),
    "one offset": (shaped(b"4", b"4"), HeaderFieldError),
    "an unknown field": (GOOD.replace(b'"dtype"', b'"x":1,"dtype"'), HeaderFieldError),
    "a missing field": (GOOD.replace(b'"dtype":"U8",', b""), HeaderFieldError),
    "an entry as a list": (b'{"a":["U8",[4],[0,4]]}', HeaderFieldError),
    "an entry as null": (b'{"a":null}', HeaderFieldError),
    "metadata of numbers": (b'{"__metadata__":{"a":1}}', HeaderFieldError),
    "metadata as null": (b'{"__metadata__":null}', HeaderFieldError),
    "metadata as a tensor": (GOOD.replace(b'"a"', b'"__metadata__"'), HeaderFieldError),
    "a tensor twice": (GOOD[:-1] + b"," + GOOD[1:], DuplicateKeyError),
    "a tensor twice, once escaped": (
        GOOD[:-1] + b"," + GOOD[1:].replace(b'"a"', b'"\\u0061"'),
        DuplicateKeyError,
    ),
    "a tensor with a colon twice": (
        (GOOD[:-1] + b"," + GOOD[1:]).replace(b'"a"', b'"a:b"'),
        DuplicateKeyError,
    ),
    "a field twice": (GOOD.replace(b'"dtype"', b'"dtype":"F4","dtype"'), DuplicateKeyError),
    "metadata twice": (
        b'{"__metadata__":{},"__metadata__":{},' + GOOD[1:],
        DuplicateKeyError,
    ),
    "a key of metadata twice": (
        b'{"__metadata__":{"k":"1","k":"2"},' + GOOD[1:],
        DuplicateKeyError,
    ),
    "an unknown dtype": (GOOD.replace(b"U8", b"U128"), UnknownDtypeError),
    "a dtype of a megabyte": (GOOD.replace(b"U8", b"U" * 1_000_000), UnknownDtypeError),
    "a dtype in small letters": (GOOD.replace(b"U8", b"u8"), UnknownDtypeError),
    "too many dimensions": (shaped(b"1," * MAX_RANK + b"4"), AbsurdShapeError),
    "a million dimensions": (shaped(b"1," * 1_000_000 + b"4"), AbsurdShapeError),
    "2**63 - 1 twice": (shaped(b"9223372036854775807,9223372036854775807"), AbsurdShapeError),
    "a product of 2**64 + 4": (shaped(b"4611686018427387905,4"), AbsurdShapeError),
    "absurd behind a zero": (shaped(b"0,4611686018427387904,4", b"0,0"), AbsurdShapeError),
    "more bytes than spanned": (shaped(b"5"), ShapeMismatchError),
    "fewer bytes than spanned": (shaped(b"3"), ShapeMismatchError),
    "no elements, but bytes": (shaped(b"0"), ShapeMismatchError),
    "elements, but no bytes": (shaped(b"4", b"4,4"), OffsetHoleError),
    "half a byte": (text(a=entry(0, 2, dtype="F4", shape=[3]), b=entry(2, 4)), ShapeMismatchError),
    "past the end": (text(a=entry(0, 5)), OffsetOutOfFileError),
    "far past the end": (text(a=entry(0, 2**62)), OffsetOutOfFileError),
    "backwards": (text(a=entry(4, 0, shape=[4])), OffsetOutOfFileError),
    "the same bytes twice": (text(a=entry(0, 4), b=entry(0, 4)), OverlappingOffsetsError),
    "one byte shared": (text(a=entry(0, 3), b=entry(2, 4)), OverlappingOffsetsError),
    "nothing within another": (text(a=entry(0, 4), b=entry(2, 2)), OverlappingOffsetsError),
    "a hole at the start": (text(a=entry(1, 4)), OffsetHoleError),
    "a hole in the middle": (text(a=entry(0, 1), b=entry(2, 4)), OffsetHoleError),
    "a hole at the end": (text(a=entry(0, 3)), OffsetHoleError),
    "no tensors, but data": (b"{}", OffsetHoleError),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what: str) -> None:
    header, error = REFUSED[what]
    with pytest.raises(HeaderError) as caught:
        parse(header)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 1000, "a message must not carry what was sent"


def test_every_refusal_has_a_code_of_its_own() -> None:
    errors = {error for _, error in REFUSED.values()} | {HeaderTruncatedError, HeaderTooLargeError}
    assert errors == set(HeaderError.__subclasses__())
    assert len({error.code for error in errors}) == len(errors)
    assert all(issubclass(error, MalformedError) for error in errors)
    assert issubclass(HeaderTooLargeError, LimitError)


@pytest.mark.parametrize("what", [what for what in REFUSED if what != "empty"])
def test_the_library_would_accept_few_of_those(what: str) -> None:
    """Where we are stricter than the library, it is on purpose: this is the list."""
    stricter = {
        "leading space",
        "an unknown field",
        "an entry as a list",
        "metadata as null",
        "a tensor twice",
        "a tensor twice, once escaped",
        "a tensor with a colon twice",
        "a key of metadata twice",
        "too many dimensions",
        "a million dimensions",
        "absurd behind a zero",
    }
    header, _ = REFUSED[what]
    data = 0 if what in {"absurd behind a zero", "metadata as null"} else 4
    try:
        library(with_length(header) + bytes(data))
    except safetensors.SafetensorError:
        assert what not in stricter
    else:
        assert what in stricter


def test_too_large_and_truncated() -> None:
    with pytest.raises(HeaderTooLargeError):
        header_length(struct.pack("<Q", MAX_HEADER + 1), 1 << 40)
    with pytest.raises(HeaderTooLargeError):
        header_length(struct.pack("<Q", (1 << 64) - 1), 1 << 40)
    assert header_length(struct.pack("<Q", MAX_HEADER), 1 << 40) == 8 + MAX_HEADER
    for prefix, size in ((b"", 0), (b"\x02" + bytes(6), 7), (b"", 100)):
        with pytest.raises(HeaderTruncatedError):
            header_length(prefix, size)
    with pytest.raises(HeaderTruncatedError, match="cut off"):
        header_length(with_length(GOOD), 8 + len(GOOD) - 1)
    whole = with_length(GOOD)
    for end in range(8, len(whole)):
        with pytest.raises(HeaderTruncatedError):
            parse_safetensors_header(whole[:end], len(whole) + 4)
    with pytest.raises(HeaderTooLargeError):
        parse(b'{"":0' + b',"":0' * MAX_COLONS + b"}")
    # Both would take half a gigabyte, and stop every other thread for a quarter of a second.
    metadata = b",".join(b'"%d":"-"' % n for n in range(MAX_COLONS))
    with pytest.raises(HeaderTooLargeError, match="':'"):
        parse(b'{"__metadata__":{' + metadata + b"}}")
    shape = b"0," * (MAX_COMMAS + 1) + b"0"
    with pytest.raises(HeaderTooLargeError, match="','"):
        parse(b'{"a":{"dtype":"U8","shape":[' + shape + b'],"data_offsets":[0,0]}}')


def test_too_many_tensors() -> None:
    header = make_safetensors_header((f"{i:x}", "U8", [1]) for i in range(MAX_TENSORS))
    size = len(header) + MAX_TENSORS
    assert len(parse_safetensors_header(header, size).tensors) == MAX_TENSORS
    header = make_safetensors_header((f"{i:x}", "U8", [1]) for i in range(MAX_TENSORS + 1))
    with pytest.raises(HeaderTooLargeError):
        parse_safetensors_header(header, len(header) + MAX_TENSORS + 1)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_unread(protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return pytest.fail, ("a pickle was loaded",)

    data = pickle.dumps([Bomb()] * 100, protocol=protocol)
    with pytest.raises(HeaderTooLargeError):
        parse_safetensors_header(data, len(data))
    zipped = b"PK\x03\x04" + bytes(4) + b"archive/data.pkl"
    with pytest.raises(HeaderError):
        parse_safetensors_header(zipped, len(zipped))


def test_order_of_bytes_whatever_the_order_of_keys() -> None:
    parsed = parse(text(z=entry(4, 4), y=entry(0, 4), x=entry(4, 4), w=entry(0, 0)))
    assert [tensor.name for tensor in parsed.tensors] == ["w", "y", "x", "z"]
    assert parsed.tensors[1].start == parsed.header_len


def test_strange_and_valid() -> None:
    names = [
        "",
        "a:b",
        "a-b",
        'quote"backslash\\',
        "\x00",
        "\U0001f600",
        "{}[],:",
        "dtype",
        "__metadata",
    ]
    metadata = {name: name for name in names}
    header = make_safetensors_header([(name, "I16", [1, 2]) for name in names], metadata)
    parsed = parse_safetensors_header(header, len(header) + 4 * len(names))
    assert [tensor.name for tensor in parsed.tensors] == names
    assert parsed.metadata == metadata
    scalar = parse(b'{"a" :\t{"shape": [], "data_offsets": [0, 4], "dtype": "F\\u00332"}\r\n}  ')
    assert scalar.tensors[0].shape == ()
    assert scalar.tensors[0].dtype == "F32"


def test_dtypes_are_the_library_s() -> None:
    for dtype, bits in DTYPE_BITS.items():
        header = make_safetensors_header([("a", dtype, [2, 4])])
        (found,) = library(header + bytes(bits))
        assert found[1]["shape"] == [2, 4]


NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda n: n != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPE_BITS)), SHAPES), max_size=8)
METADATA = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.characters(codec="utf-8"), max_size=8),
    max_size=3,
)


def library_view(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    found = library(data)
    return {name: (tuple(info["shape"]), bytes(info["data"])) for name, info in found}


def our_view(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    header = parse_safetensors_header(data, len(data))
    return {t.name: (t.shape, data[t.start : t.stop]) for t in header.tensors}


@given(TENSORS, METADATA, st.sampled_from([1, 8, ALIGNMENT]), st.randoms(use_true_random=False))
def test_what_we_write_the_library_reads_equally(
    tensors: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
    align: int,
    rng: random.Random,
) -> None:
    whole = {n: (d, [*s, 8]) for n, (d, s) in tensors.items()}
    header = make_safetensors_header([(n, d, s) for n, (d, s) in whole.items()], metadata, align)
    assert len(header) % align == 0
    bits = 0
    for dtype, shape in whole.values():
        count = DTYPE_BITS[dtype]
        for dimension in shape:
            count *= dimension
        bits += count
    data = header + rng.randbytes(bits // 8)
    parsed = parse_safetensors_header(data, len(data))
    assert {t.name: (t.dtype, list(t.shape)) for t in parsed.tensors} == whole
    assert parsed.metadata == metadata
    assert our_view(data) == library_view(data)


WRITTEN = {
    "F32": numpy.float32,
    "F16": numpy.float16,
    "I64": numpy.int64,
    "U8": numpy.uint8,
    "BOOL": numpy.bool_,
    "C64": numpy.complex64,
}


@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(sorted(WRITTEN)), SHAPES), min_size=1, max_size=8
    ),
    st.none() | METADATA,
)
def test_what_the_library_writes_we_read_equally(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    arrays: dict[str, numpy.typing.NDArray[Any]] = {
        name: numpy.ones(shape, WRITTEN[dtype]) for name, (dtype, shape) in tensors.items()
    }
    data = save(arrays, metadata)
    parsed = parse_safetensors_header(data, len(data))
    assert {t.name: (t.dtype, list(t.shape)) for t in parsed.tensors} == tensors
    assert parsed.metadata == (metadata or {})
    assert our_view(data) == library_view(data)


PIECES = [
    b"0",
    b"1",
    b"4",
    b"-",
    b".",
    b"e1",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b" ",
    b"null",
    b"\xff",
    b'"a"',
    b'"dtype":"U8",',
    b'"__metadata__":{},',
    b"[0,4]",
    b"\\u0061",
]
SEED = (
    b'{"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[1,4],"data_offsets":[0,4]},'
    b'"b-:":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}'
)


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SEED)), st.integers(0, 3), st.sampled_from([b"", *PIECES])),
        min_size=1,
        max_size=4,
    )
)
def test_what_we_accept_the_library_accepts(edits: list[tuple[int, int, bytes]]) -> None:
    mutated = SEED
    for at, cut, piece in edits:
        mutated = mutated[:at] + piece + mutated[at + cut :]
    data = with_length(mutated) + bytes(8)
    try:
        ours = our_view(data)
    except HeaderError:
        return
    assert ours == library_view(data)


@given(st.binary(max_size=64), st.integers(0, 64))
def test_bytes_of_any_kind_are_refused_or_read(data: bytes, size: int) -> None:
    for candidate in (data, with_length(data)):
        try:
            parse_safetensors_header(candidate, size)
        except HeaderError:
            continue


BOMB = 1 << 20


def repeated(before: bytes, unit: Callable[[int], bytes], after: bytes) -> bytes:
    count = (BOMB - len(before) - len(after)) // len(unit(0xFFFFF))
    return before + b",".join(unit(i) for i in range(count)) + after


EMPTY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
SHAPE, SHAPE_END = b'{"a":{"dtype":"U8","shape":[', b'],"data_offsets":[0,4]}}'
BOMBS = {
    "many keys": repeated(b"{", lambda i: b'"%x":0' % i, b"}"),
    "many objects": repeated(b"{", lambda i: b'"%x":{}' % i, b"}"),
    "much metadata": repeated(b'{"__metadata__":{', lambda i: b'"%x":""' % i, b"}}"),
    "many dimensions": repeated(SHAPE, lambda _: b"4000", SHAPE_END),
    "many tensors": repeated(b"{", lambda i: b'"%x":%b' % (i, EMPTY), b"}"),
    "escapes": GOOD.replace(b'"a"', b'"-' + b'\\"' * (BOMB // 2) + b'"'),
    "escapes without an end": b'{"-' + b"\\" * BOMB,
    "quotes": b"{" + b'"' * BOMB,
    "digits": shaped(b"9" * BOMB),
    "spaces": GOOD + b" " * BOMB,
    "nesting": b'{"a":' + b"[" * BOMB,
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_cost_no_more_than_their_size(what: str) -> None:
    """At most 32 bytes of memory for a byte of header, and no loop that goes over them again and
    again: for a MiB, the square of its size would take hours, which no test is given."""
    prefix = with_length(BOMBS[what])
    tracemalloc.start()
    try:
        with suppress(HeaderError), at_most(lines=2_000_000):
            parse_safetensors_header(prefix, len(prefix) + 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * len(prefix)
