"""How much one author may submit in a day of the ledger's.

A newcomer has 20 submissions, and pays for each with a proof of work; after 3 successes in a row
it is trusted and has 200; after 5 failures in a row it is a newcomer again. A success also gives
back one submission of that day. What succeeds or fails is decided by the ledger, as for credits
(reputation.py): a proposal by its outcome, a member's verdict by what the verdicts decided; what
passed by the votes of who would gain by it alone is neither. More identities have more quota,
but each submission of theirs costs its work, and none of them weighs anything.
"""

from collections.abc import Mapping

from protocols.ledger.entries import Row

DAY_MS = 24 * 3600 * 1000


class Standing(Row, frozen=True):
    """One author's counters."""

    day: int = 0
    """The ledger's day (time // DAY_MS) of `used`."""
    used: int = 0
    successes: int = 0
    """In a row, like failures."""
    failures: int = 0
    trusted: bool = False


NEWCOMER = Standing()


def limit(standing: Standing, params: Mapping[str, int]) -> int:
    """Submissions a day."""
    return params["quota.trusted" if standing.trusted else "quota.newcomer"]


def left(standing: Standing, day: int, params: Mapping[str, int]) -> int:
    """Submissions that are left on `day`."""
    used = standing.used if standing.day == day else 0
    return max(0, limit(standing, params) - used)


def spent(standing: Standing, day: int) -> Standing:
    """After one more submission on `day`."""
    used = standing.used if standing.day == day else 0
    return Standing(day, used + 1, standing.successes, standing.failures, standing.trusted)


def succeeded(standing: Standing, params: Mapping[str, int]) -> Standing:
    """After a success: one submission is given back."""
    successes = standing.successes + 1
    trusted = standing.trusted or successes >= params["trust.successes"]
    return Standing(standing.day, max(0, standing.used - 1), successes, 0, trusted)


def failed(standing: Standing, params: Mapping[str, int]) -> Standing:
    """After a failure."""
    failures = standing.failures + 1
    trusted = standing.trusted and failures < params["trust.failures"]
    return Standing(standing.day, standing.used, 0, failures, trusted)


def distrusted(standing: Standing) -> Standing:
    """After a proof of guilt."""
    return Standing(standing.day, standing.used)


def forgettable(standing: Standing, day: int) -> bool:
    """Whether on `day` it says no more than a newcomer's."""
    earned = standing.successes or standing.failures or standing.trusted
    return standing.day < day and not earned
