"""What is asked about a module, and what is found."""

import msgspec

from protocols.errors import SynapseError
from protocols.slots.abi import Limits

ROWS = 200_000
"""Generated rows of one check: what is wrong on one row in 10,000 escapes once in 500 million."""

PART = (3, 4)
"""Of the fuel and memory that a module may take where it runs, what it may take when checked."""
DEARER_MILLE = 50
"""A module that answers as the incumbent does, and takes so many thousandths more fuel, is
worse: half of what a regression is worth talking about."""
SLACK = 32
"""Units of fuel a call that are nobody's regression: a constant more or less in `run`."""
SLOWER_MILLE = 250
"""... and so much more time, by the least that the measured interval allows, is told, too."""


class CheckFailedError(SynapseError):
    """The check came to no end: it says nothing about the module."""

    code = "check-failed"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A module, and what it claims to be."""

    slot: str
    module: bytes
    limits: Limits
    """Of one call, as the proposal states them."""
    incumbent: bytes = b""
    """The module in force; b"": the native reference."""
    changed: bool = False
    """Whether it says that it answers otherwise than the incumbent."""
    seed: str = ""
    """What the inputs are made from; "" where nobody is to know beforehand."""
    rows: int = ROWS
    recorded: str = ""
    """A folder of this machine's own recorded batches (synapsed/upgrades/recorder.py)."""
    timing: bool = True
    hasty: bool = False
    """Whether the first thing that decides ends it: enough for a verdict."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    code: str
    text: str
    decides: bool = True
    """Whether a council member would say so, too: time is told, and never decides, since other
    machines measure another one."""


class Fuel(msgspec.Struct, frozen=True):
    """What the module took, exactly: the same on every machine for the same seed."""

    rows: str
    """Batches of so many rows in all."""
    calls: int
    module: int
    incumbent: int
    """0 where the incumbent is the native reference."""

    @property
    def ratio(self) -> float:
        """Of the module's to the incumbent's."""
        return self.module / self.incumbent if self.incumbent else 0.0


class Timing(msgspec.Struct, frozen=True):
    """Pairs of calls on the same batches, the module's time over the incumbent's."""

    pairs: int
    ratio: float
    """The median."""
    low: float
    high: float
    """Between which the median is, 99 times in 100."""
    microseconds: float
    """Of one call of the module, the median."""
    rows: int
    """Of each of those batches."""


class Checked(msgspec.Struct, frozen=True):
    """What was found."""

    slot: str
    module_hash: str
    incumbent_hash: str
    """ "" where it is the native reference."""
    changed: bool
    seed: str
    """`--seed` repeats the check with the same inputs."""
    findings: tuple[Finding, ...]
    rows: int = 0
    """That were generated and compared."""
    batches: int = 0
    calls: int = 0
    recorded: int = 0
    """Batches of real runs that were replayed."""
    disagreements: int = 0
    """Rows that the module answers otherwise than the incumbent."""
    fuel: tuple[Fuel, ...] = ()
    fuel_most_mille: int = 0
    """Of the fuel that its limits allow, the most that a call took."""
    timing: Timing | None = None
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """What a council member says of it: the same on every machine."""
        return not any(finding.decides for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing at all was found."""
        return not self.findings

    @property
    def disagreement_ppm(self) -> int:
        """Rows that are answered otherwise, of a million."""
        return self.disagreements * 1_000_000 // self.rows if self.rows else 0


def stricter(limits: Limits) -> Limits:
    """What a module may take in a check: what only just fits there would not fit in service."""
    part, of = PART
    return Limits(
        fuel=limits.fuel * part // of,
        fuel_per_row=limits.fuel_per_row * part // of,
        memory_pages=limits.memory_pages * part // of,
    )
