"""Canonical DAG-CBOR: one value, one encoding; hostile bytes are refused by name."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.cid import cid_of
from protocols.codec import Message, decode, decode_plain, encode
from protocols.errors import LimitError, MalformedError, NotCanonicalError


class Sample(Message):
    name: Annotated[str, msgspec.Meta(max_length=8)]
    count: Annotated[int, msgspec.Meta(ge=0)]
    link: bytes
    runs: tuple[tuple[int, int], ...] = ()


def sample(**changes: object) -> Sample:
    return msgspec.structs.replace(Sample(name="a", count=1, link=cid_of(b"x")), **changes)


@given(
    st.text(max_size=8),
    st.integers(0, 2**63 - 1),
    st.binary(max_size=64),
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)), max_size=5),
)
def test_round_trip(name: str, count: int, data: bytes, runs: list[tuple[int, int]]) -> None:
    value = Sample(name=name, count=count, link=cid_of(data), runs=tuple(runs))
    encoded = encode(value)
    assert decode(encoded, Sample) == value
    assert encode(decode(encoded, Sample)) == encoded


@given(st.binary(max_size=200))
def test_random_bytes_never_do_more_than_be_refused(data: bytes) -> None:
    try:
        decode(data, Sample)
    except (MalformedError, LimitError):
        return
    assert encode(decode(data, Sample)) == data


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("padded integer", b"\x18\x01", NotCanonicalError),
        ("unsorted keys", b"\xa2\x61b\x01\x61a\x01", MalformedError),
        ("a key twice", b"\xa2\x61a\x01\x61a\x02", MalformedError),
        ("NaN", b"\xfb\x7f\xf8" + bytes(6), MalformedError),
        ("endless list", b"\x9f\x01\xff", MalformedError),
        ("two values", b"\x01\x01", MalformedError),
        ("a nesting bomb", b"\x81" * 500_000 + b"\x01", MalformedError),
        ("a length lie", b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff", MalformedError),
        ("other tags", b"\xc1\x01", MalformedError),
        ("nothing", b"", MalformedError),
    ],
)
def test_what_is_not_canonical_is_refused(name: str, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_plain(data)


def test_unknown_fields_wrong_types_and_limits_are_refused() -> None:
    good = msgspec.to_builtins(sample(), builtin_types=(bytes,))
    for bad in (
        {**good, "more": 1},
        {**good, "count": -1},
        {**good, "name": "a" * 9},
        {"name": "a"},
    ):
        with pytest.raises(MalformedError):
            decode(encode(bad), Sample)
    with pytest.raises(LimitError):
        decode(encode(sample()), Sample, limit=4)
