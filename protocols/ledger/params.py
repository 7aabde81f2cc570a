"""The network's parameters: what a vote may set without anybody's software being replaced.

A parameter is a whole number with a range and a risk class, which is that of every proposal that
sets it. The genesis states them all, so that daemons of different versions begin alike; later
values come from `parameter` entries, each of which is in force from its own index on.
"""

from collections.abc import Iterable, Mapping

import msgspec

from protocols.ledger.errors import ClashError, OutOfRangeError, UnknownParameterError
from protocols.risk import Risk

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
MONTH = 30 * DAY
MILLE = 1000
MANY = 1 << 40
"""An upper limit where nothing but the size of numbers asks for one."""


class Parameter(msgspec.Struct, frozen=True):
    """One line of the registry."""

    name: str
    unit: str
    default: int
    least: int
    most: int
    risk: Risk
    text: str


_LOW, _MEDIUM, _HIGH, _CRITICAL = Risk.LOW, Risk.MEDIUM, Risk.HIGH, Risk.CRITICAL

_REGISTRY = (
    Parameter(
        # Half of a common home uplink of 40 Mbit/s, as in a daemon's own built-in configuration.
        "limits.upload", "B/s", 2_500_000, 0, MANY, _MEDIUM,
        "upload of a daemon whose owner set no limit; 0 for none",
    ),
    Parameter(
        "limits.download", "B/s", 0, 0, MANY, _MEDIUM,
        "download of a daemon whose owner set no limit; 0 for none",
    ),
    # 24 h, 24 h and 48 h are the timeline of the documents.
    Parameter("vote.window_ms", "ms", DAY, 1, MONTH, _CRITICAL, "how long a proposal is voted on"),
    Parameter(
        "approval.window_ms", "ms", DAY, 1, MONTH, _CRITICAL,
        "how long after the vote approvals and verdicts may still come",
    ),
    Parameter(
        "execute.delay_ms", "ms", 2 * DAY, 0, MONTH, _CRITICAL,
        "from an accepted proposal's outcome until it is in force",
    ),
    Parameter(
        "vote.numbers", "", 1000, 1, 1 << 31, _CRITICAL,
        "the highest number of a vote: how often one voter may change its mind on a proposal",
    ),
    # Quorums of 12 in 15 and thresholds of 4 in 5 are the documents' example: the critical class.
    Parameter("quorum.low", "‰", 200, 1, MILLE, _CRITICAL, "weight that must vote, of all"),
    Parameter("quorum.medium", "‰", 400, 1, MILLE, _CRITICAL, "weight that must vote, of all"),
    Parameter("quorum.high", "‰", 600, 1, MILLE, _CRITICAL, "weight that must vote, of all"),
    Parameter("quorum.critical", "‰", 800, 1, MILLE, _CRITICAL, "weight that must vote, of all"),
    Parameter("threshold.low", "‰", 500, 500, MILLE, _CRITICAL, "yes among yes and no"),
    Parameter("threshold.medium", "‰", 500, 500, MILLE, _CRITICAL, "yes among yes and no"),
    Parameter("threshold.high", "‰", 667, 500, MILLE, _CRITICAL, "yes among yes and no"),
    Parameter("threshold.critical", "‰", 800, 500, MILLE, _CRITICAL, "yes among yes and no"),
    Parameter("approvals.high", "", 1, 1, 64, _CRITICAL, "human keys that must approve"),
    Parameter("approvals.critical", "", 2, 1, 64, _CRITICAL, "human keys that must approve"),
    Parameter(
        "reputation.per_credit", "‰", MILLE, 0, 1000 * MILLE, _CRITICAL,
        "reputation earned with each credit",
    ),
    Parameter("quota.newcomer", "a day", 20, 1, MANY, _HIGH, "submissions of a newcomer"),
    Parameter("quota.trusted", "a day", 200, 1, MANY, _HIGH, "submissions of a trusted author"),
    Parameter("trust.successes", "", 3, 1, MILLE, _HIGH, "in a row that make a newcomer trusted"),
    Parameter("trust.failures", "", 5, 1, MILLE, _HIGH, "in a row that end it"),
    # 2^23 hashes of 0.4 µs are 3.4 s of one core with protocols/ledger/work.py.
    Parameter("work.bits", "bits", 23, 0, 40, _HIGH, "of a newcomer's proof of work; 0 for none"),
    Parameter("council.seats", "", 7, 1, 64, _CRITICAL, "seats that an election aims at"),
    Parameter("council.epoch_ms", "ms", DAY, 1, MONTH, _CRITICAL, "how long an epoch lasts"),
    # A failover of 10 to 20 s delays nobody whose vote lasts a day, and an idle year has 16
    # million ticks instead of the 63 million that a quarter as much would make.
    Parameter(
        "council.tick_ms", "ms", 2 * SECOND, 1, HOUR, _CRITICAL,
        "the ledger's time may stand still for so long",
    ),
    Parameter(
        "council.skew_ms", "ms", 10 * SECOND, 1, HOUR, _CRITICAL,
        "by which a tick may differ from the clock of a member that acknowledges it",
    ),
    Parameter(
        "council.time_out_ms", "ms", 8 * SECOND, 4, HOUR, _CRITICAL,
        "without a ratified entry before a leader is suspected",
    ),
    Parameter(
        "council.checkpoint_entries", "entries", 4096, 1, MANY, _CRITICAL,
        "from one checkpoint to the next",
    ),
    # A day has its hours of use and of sleep in it, on every daemon.
    Parameter(
        "upgrade.stage_ms", "ms", DAY, 1, MONTH, _CRITICAL,
        "how long each stage of an upgrade lasts at least",
    ),
    Parameter(
        "upgrade.pairs", "", 8, 1, 1 << 31, _CRITICAL,
        "operations of each of two versions that a report must have measured",
    ),
    # A fiftieth is within what two days of one home's network differ by.
    Parameter(
        "upgrade.margin", "‰", 20, 0, MILLE, _CRITICAL,
        "by which an upgrade may do worse than what it replaces and still go on",
    ),
    Parameter(
        "upgrade.patience", "stages", 8, 1, MILLE, _CRITICAL,
        "times a stage's length until an upgrade without enough reports is undone",
    ),
)  # fmt: skip

REGISTRY: Mapping[str, Parameter] = {each.name: each for each in _REGISTRY}


TICKS_IN_A_TIME_OUT = 4
"""An idle leader shows that it lives by ticks alone: one that is lost may not cost it its term."""


def defaults() -> dict[str, int]:
    """The registry's values."""
    return {name: each.default for name, each in REGISTRY.items()}


def check_value(name: str, value: int) -> Parameter:
    """The registry's line. Raises UnknownParameterError, OutOfRangeError."""
    known = REGISTRY.get(name)
    if known is None:
        raise UnknownParameterError(
            f"there is no parameter {name[:80]!r}", remedy="synapsectl params lists them"
        )
    if not known.least <= value <= known.most:
        raise OutOfRangeError(
            f"{name} = {value} is not within {known.least} and {known.most} {known.unit}".rstrip()
        )
    return known


def check_together(values: Mapping[str, int]) -> None:
    """Raise ClashError where parameters, each of which is in its range, contradict."""
    tick, time_out = values["council.tick_ms"], values["council.time_out_ms"]
    if tick * TICKS_IN_A_TIME_OUT > time_out:
        raise ClashError(
            f"council.tick_ms = {tick} is more than a quarter of council.time_out_ms = {time_out}",
            remedy="an idle leader would be suspected between its ticks: set both",
        )


def fit_together(values: Mapping[str, int]) -> bool:
    """Whether `check_together` has nothing against them."""
    try:
        check_together(values)
    except ClashError:
        return False
    return True


def risk_of(names: Iterable[str]) -> Risk:
    """The highest class among some of the registry's parameters."""
    return max((REGISTRY[name].risk for name in names), default=Risk.LOW)
