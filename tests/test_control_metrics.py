"""Messages a second (contract A10): counted from real messages over a real window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapsed.control.meters import BUCKET_S, WINDOW_S, MessageMeter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_steady_stream_has_its_rate():
    clock = Clock()
    meter = MessageMeter(clock)
    for _ in range(400):
        clock.now += 0.1
        meter.count("in", "gossip")
    assert meter.rate() == pytest.approx(10, rel=0.02)
    assert meter.totals == {("in", "gossip"): 400}


def test_a_young_meter_divides_by_its_age_and_not_by_the_window():
    clock = Clock()
    meter = MessageMeter(clock)
    clock.now += 2.0
    meter.count("out", "heartbeat", 30)
    assert meter.rate() == 15


def test_silence_comes_to_nothing():
    clock = Clock()
    meter = MessageMeter(clock)
    assert meter.rate() == 0
    meter.count("in", "gossip", 1000)
    clock.now += WINDOW_S + BUCKET_S
    assert meter.rate() == 0
    assert meter.totals == {("in", "gossip"): 1000}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 5, allow_subnormal=False),
            st.integers(1, 50),
            st.sampled_from([("in", "gossip"), ("out", "gossip"), ("in", "blocks")]),
        ),
        max_size=60,
    ),
    st.floats(0.01, 20),
)
def test_the_rate_is_what_an_independent_count_gives(messages, after):
    clock = Clock()
    meter = MessageMeter(clock)
    seen: list[tuple[float, int]] = []
    for gap, count, (direction, kind) in messages:
        clock.now += gap
        meter.count(direction, kind, count)
        seen.append((clock.now, count))
    clock.now += after
    # The window begins at a whole bucket, ten seconds back at most, and not before the meter.
    begin = (int(clock.now / BUCKET_S) - int(WINDOW_S / BUCKET_S) + 1) * BUCKET_S
    inside = sum(count for at, count in seen if int(at / BUCKET_S) * BUCKET_S >= begin)
    length = clock.now - max(begin, 1000.0)
    assert meter.rate() == pytest.approx(inside / length)
    assert WINDOW_S - BUCKET_S <= clock.now - begin <= WINDOW_S
    assert sum(meter.totals.values()) == sum(count for _, count in seen)
