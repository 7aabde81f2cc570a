"""Sizes, rates and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapsed.config.quantities import Rate, Seconds, Size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50 GiB", 50 * 2**30),
        ("50GB", 50 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("512", 512),
        ("0 B", 0),
        (7, 7),
    ],
)
def test_size(text: object, value: int) -> None:
    assert Size.parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20 Mbit/s", 2_500_000),
        ("2.5 MB/s", 2_500_000),
        ("1 MiB/s", 2**20),
        ("0", 0),
        (9000, 9000),
        ("8 kbit/s", 1000),
    ],
)
def test_rate(text: object, value: int) -> None:
    assert Rate.parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("5 s", 5), ("2 min", 120), ("250 ms", 0.25), ("1 h", 3600), (0.5, 0.5)]
)
def test_seconds(text: object, value: float) -> None:
    assert Seconds.parse(text) == value


@pytest.mark.parametrize("kind", [Size, Rate, Seconds])
@pytest.mark.parametrize(
    "bad", ["", "x", "-1", "1e9", "nan", "inf", "5 parsecs", "1 GiB GiB", None, True, [1], -1, -0.5]
)
def test_refused(kind: type[Size] | type[Rate] | type[Seconds], bad: object) -> None:
    with pytest.raises(ValueError, match="is not"):
        kind.parse(bad)


@pytest.mark.parametrize("bad", ["20 Mb/s", "20 mb/s", "20 Mbps", "20 MB", "20 Mbit"])
def test_a_rate_that_may_mean_bits_or_bytes_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="not a unit of rate"):
        Rate.parse(bad)


@given(st.integers(0, 2**62))
def test_text_reads_back_as_the_same_value(value: int) -> None:
    assert Size.parse(Size(value).text()) == value
    assert Rate.parse(Rate(value).text()) == value


@given(st.floats(0, 1e6).map(lambda value: round(value, 3)))
def test_seconds_read_back(value: float) -> None:
    assert Seconds.parse(Seconds(value).text()) == value
