"""Values of parameters: what people write, and what they are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.params import REGISTRY
from synapsed.cli.amounts import about, amount, parse_amount, percent, within

SAID = [
    ("20 Mbit/s", "B/s", 2_500_000),
    ("2.5 MB/s", "B/s", 2_500_000),
    ("2500000", "B/s", 2_500_000),
    ("1 h", "ms", 3_600_000),
    ("500 ms", "ms", 500),
    ("1 d", "ms", 86_400_000),
    ("62.5 %", "‰", 625),
    ("20%", "‰", 200),
    ("200", "‰", 200),
    ("7", "", 7),
    (" 40 ", "a day", 40),
]


@pytest.mark.parametrize(("text", "unit", "value"), SAID)
def test_what_people_write(text: str, unit: str, value: int) -> None:
    assert parse_amount(text, unit) == value


@pytest.mark.parametrize(
    ("text", "unit"),
    [("fast", "B/s"), ("20 Mb/s", "B/s"), ("-1", ""), ("1.5", ""), ("half", "‰"), ("", "ms")],
)
def test_what_is_no_value_is_refused(text: str, unit: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_amount(text, unit)


@given(st.sampled_from(sorted(REGISTRY)), st.data())
def test_what_is_shown_can_be_written(name: str, data: st.DataObject) -> None:
    known = REGISTRY[name]
    value = data.draw(st.integers(known.least, min(known.most, 1 << 40)))
    shown = amount(value, known.unit)
    text = shown.removesuffix(known.unit).strip() if known.unit not in ("B/s", "ms", "‰") else shown
    if known.unit != "‰":  # shown to three digits, as shares are
        assert parse_amount(text, known.unit) == value


def test_every_default_has_a_form() -> None:
    for known in REGISTRY.values():
        assert amount(known.default, known.unit)
    assert percent(2 / 3) == "66.7 %"
    assert amount(625, "‰") == "62.5 %"


def test_a_range_is_read_at_a_glance() -> None:
    assert about(1 << 40, "B/s") == "about 1.1 TB/s"
    assert about(2_500_000, "B/s") == "20 Mbit/s"
    assert about(1 << 40, "a day") == "1099511627776 a day"


def test_what_is_out_of_range_is_said_in_its_authors_units() -> None:
    low = REGISTRY["quorum.low"]
    assert within("quorum.low", "20 %", low.unit, low.least, low.most) == 200
    with pytest.raises(ValueError, match=r"quorum\.low = 200 % is not between 0\.1 % and 100 %"):
        within("quorum.low", "200 %", low.unit, low.least, low.most)
