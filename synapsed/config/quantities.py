"""Sizes, rates and durations as people write them: `50 GiB`, `20 Mbit/s`, `5 s`.

A plain number is bytes, bytes a second, or seconds. Decimal and binary prefixes are both
understood and never confused; `Mb/s` is refused, because half the world means bits by it.
"""

import re
from decimal import Decimal
from typing import ClassVar, Self

# At most 19 digits: 2**63 bytes are more than any disk, and int() of a long text is slow.
_NUMBER = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-z/]*)\s*")

_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BITS = {"bit/s": 1, "kbit/s": 10**3, "mbit/s": 10**6, "gbit/s": 10**9}
_MILLISECONDS = {"ms": 1, "s": 1000, "sec": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _split(text: str) -> tuple[Decimal, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit")
    return Decimal(match[1]), match[2]


class Size(int):
    """Bytes on disk or in memory."""

    expected: ClassVar[str] = 'a size such as "50 GiB" or "800 MB", or a number of bytes'

    @classmethod
    def parse(cls, value: object) -> Self:
        """From text or a whole number of bytes; ValueError for anything else."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a size")
        number, unit = _split(value)
        factor = _BYTES.get(unit.lower() or "b")
        if factor is None:
            raise ValueError(f"{unit!r} is not a unit of size")
        return cls(number * factor)

    def text(self) -> str:
        """The shortest exact way to write it."""
        return _shortest(
            int(self), (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
        )


class Rate(int):
    """Bytes a second; 0 means that nothing limits it."""

    expected: ClassVar[str] = (
        'a rate such as "20 Mbit/s" or "2.5 MB/s", or a number of bytes a second (0: unlimited)'
    )

    @classmethod
    def parse(cls, value: object) -> Self:
        """From text or a whole number of bytes a second; ValueError for anything else."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a rate")
        number, unit = _split(value)
        if unit.lower() in _BITS:
            return cls(number * _BITS[unit.lower()] / 8)
        if unit and not unit.endswith("B/s"):
            raise ValueError(f"{unit!r} is not a unit of rate (bits are written Mbit/s)")
        factor = _BYTES.get(unit.removesuffix("/s").lower() or "b")
        if factor is None:
            raise ValueError(f"{unit!r} is not a unit of rate")
        return cls(number * factor)

    def text(self) -> str:
        """The shortest exact way to write it."""
        if self == 0:
            return "0"
        return _shortest(int(self) * 8, (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)))


class Seconds(float):
    """A length of time."""

    expected: ClassVar[str] = 'a time such as "5 s", "2 min" or "1 h", or a number of seconds'

    @classmethod
    def parse(cls, value: object) -> Self:
        """From text or a number of seconds; ValueError for anything else."""
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            return cls(value)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a time")
        number, unit = _split(value)
        factor = _MILLISECONDS.get(unit or "s")
        if factor is None:
            raise ValueError(f"{unit!r} is not a unit of time")
        return cls(number * factor / 1000)

    def text(self) -> str:
        """The value in seconds, with its unit."""
        return f"{float(self):.9f}".rstrip("0").rstrip(".") + " s"


def _shortest(value: int, units: tuple[tuple[str, int], ...]) -> str:
    """`value` in the largest unit that leaves at most one decimal, or plain bytes."""
    for name, factor in units:
        if value and value * 10 % factor == 0:
            whole, tenth = divmod(value * 10 // factor, 10)
            return f"{whole}.{tenth} {name}" if tenth else f"{whole} {name}"
    return str(value) if units[0][0].endswith("iB") else str(value // 8)
