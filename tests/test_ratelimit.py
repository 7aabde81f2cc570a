"""protocols.ratelimit: rates hold over any schedule of takes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ratelimit import TokenBucket


def test_a_full_bucket_gives_its_burst_and_no_more() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(1, 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(1, 10.0) == pytest.approx(0.5)
    assert bucket.take(1, 10.25) == pytest.approx(0.25)
    assert bucket.take(1, 10.5) == 0.0


def test_what_is_larger_than_the_bucket_is_paid_for_afterwards() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert bucket.take(25, 0.0) == 0.0
    assert bucket.available(0.0) == -20
    assert bucket.take(1, 0.0) == pytest.approx(2.1)
    assert bucket.take(1, 2.1) == 0.0


def test_rate_zero_never_refills() -> None:
    bucket = TokenBucket(rate=0, burst=1)
    assert bucket.take(1, 0.0) == 0.0
    assert bucket.take(1, 1e9) == math.inf


def test_a_clock_that_is_set_back_earns_nothing_and_goes_on_from_there() -> None:
    """Wall clocks are corrected by hours now and then: a rate must not stand still for as long."""
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(1, 100.0) == 0.0
    assert bucket.take(1, 50.0) == pytest.approx(1.0)
    assert bucket.take(1, 50.5) == pytest.approx(0.5)
    assert bucket.take(1, 51.0) == 0.0


def test_change_keeps_what_was_earned() -> None:
    bucket = TokenBucket(rate=1, burst=10)
    bucket.take(10, 0.0)
    bucket.change(rate=100, burst=2, now=1.0)
    assert bucket.available(1.0) == pytest.approx(1.0)
    assert bucket.available(5.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (1, 0), (math.nan, 1)])
def test_nonsense_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="token bucket"):
        TokenBucket(rate, burst)


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 20)), max_size=60),
)
def test_never_more_than_burst_plus_rate_times_time(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, burst)
    now = taken = largest = 0.0
    for pause, n in steps:
        now += pause
        wait = bucket.take(n, now)
        if wait == 0.0:
            taken += n
            largest = max(largest, n)
        else:
            assert bucket.take(n, now + wait + 1e-6) == 0.0  # the stated wait is enough
            now += wait + 1e-6
            taken += n
            largest = max(largest, n)
        # One oversized take may run ahead by its own size; it is paid for before the next.
        assert taken <= burst + rate * now + max(0.0, largest - burst) + 1e-3
