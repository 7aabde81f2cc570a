"""Parameters' values as people write them: `20 Mbit/s` where the ledger has bytes a second."""

from collections.abc import Callable

from synapsed.config.quantities import Rate, Seconds, Size

_LONG = 1_000_000
"""From here on a number that no unit says exactly may be rounded."""


def percent(fraction: float) -> str:
    """A share of 1, to three digits."""
    return f"{100 * fraction:.3g} %"


def _time(milliseconds: int) -> str:
    """In the largest unit that is exact."""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length} {unit}"
    return f"{milliseconds} ms"


def _percent(text: str) -> float:
    number = text.removesuffix("%").strip()
    if number == text:
        raise ValueError(f"{text!r} is neither a whole number nor a percentage")
    return float(number)


_FORMS: dict[str, tuple[Callable[[str], int], Callable[[int], str]]] = {
    "B/s": (lambda text: int(Rate.parse(text)), lambda value: Rate(value).text()),
    "B": (lambda text: int(Size.parse(text)), lambda value: Size(value).text()),
    "ms": (lambda text: round(Seconds.parse(text) * 1000), _time),
    "‰": (lambda text: round(_percent(text) * 10), lambda value: percent(value / 1000)),
}
"""By unit: from text with a unit of its own, and back."""


def parse_amount(text: str, unit: str) -> int:
    """The value in `unit` (a plain number is in it already); ValueError for anything else."""
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit():
        return int(stripped[:20])
    if unit not in _FORMS:
        raise ValueError(f"{text!r} is not a whole number{f' of {unit}' if unit else ''}")
    return _FORMS[unit][0](stripped)


def within(name: str, text: str, unit: str, least: int, most: int) -> int:
    """The value of a parameter; ValueError, in its author's units, where it is out of range."""
    value = parse_amount(text, unit)
    if not least <= value <= most:
        bounds = f"{amount(least, unit)} and {amount(most, unit)}"
        raise ValueError(f"{name} = {amount(value, unit)} is not between {bounds}")
    return value


def amount(value: int, unit: str) -> str:
    """A value for people: in the largest unit that is exact, or with its own."""
    text = _FORMS[unit][1](value) if unit in _FORMS else f"{value} {unit}".strip()
    return text if not text.isdigit() or not unit else f"{text} {unit}"


def about(value: int, unit: str) -> str:
    """The same, with many bytes in three digits: nobody reads 1099511627776."""
    text = amount(value, unit)
    if value < _LONG or not unit.startswith("B") or text != f"{value} {unit}":
        return text
    size, prefixes = value / 1000, iter("kMGTPE")
    prefix = next(prefixes)
    while size >= 1000:
        size, prefix = size / 1000, next(prefixes)
    return f"about {size:.3g} {prefix}{unit}"
