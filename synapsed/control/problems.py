"""Errors, as the socket says them: one JSON shape, the fitting HTTP status, the CLI's exit code.

| status | means                                       | exit code |
| ------ | ------------------------------------------- | --------- |
| 400    | malformed: not JSON, not an id              | 1         |
| 403    | refused by policy or by file permissions    | 5         |
| 404    | no such path, model, peer or job            | 1         |
| 405    | no such method on this path                 | 1         |
| 408    | the request's body did not arrive in time   | 4         |
| 409    | what is there already forbids it            | 1         |
| 413    | the request's body is too large             | 1         |
| 422    | well formed, and a value is not allowed     | 1         |
| 429    | more than a day's quota of the ledger       | 5         |
| 500    | a defect of ours, or a failing disk         | 1         |
| 502    | a peer failed                               | 1         |
| 503    | paused, or busy                             | 5         |
| 504    | it took too long                            | 4         |
| 507    | the quota or the disk is full               | 5         |
"""

from typing import ClassVar

from protocols.errors import (
    LimitError,
    MalformedError,
    MismatchError,
    NotHeldError,
    RefusedError,
    SynapseError,
)
from synapsed.control.models import Problem

EXIT_FAILED, EXIT_USAGE, EXIT_NO_DAEMON, EXIT_TIMED_OUT, EXIT_REFUSED = 1, 2, 3, 4, 5


class UnknownError(SynapseError):
    """No such model, peer, announcement or job here."""

    code: ClassVar[str] = "unknown"


class NotWritableError(RefusedError):
    """A folder that the daemon's user, or its systemd unit, may not write."""

    code: ClassVar[str] = "not-writable"


class ConflictError(SynapseError):
    """What is there already forbids it: a file in the way of an export, a second daemon."""

    code: ClassVar[str] = "conflict"


class PausedError(RefusedError):
    """The daemon is paused: it keeps what it has and moves nothing."""

    code: ClassVar[str] = "paused"


class BusyError(RefusedError):
    """Too much is under way."""

    code: ClassVar[str] = "busy"


class InvalidError(SynapseError):
    """Well formed, and a value is not allowed."""

    code: ClassVar[str] = "invalid"


class TooLargeError(LimitError):
    """A request's body that is larger than any request needs."""

    code: ClassVar[str] = "body-too-large"


class SlowBodyError(SynapseError):
    """A request's body that did not arrive in time."""

    code: ClassVar[str] = "body-too-slow"


class TimedOutError(SynapseError):
    """It took longer than a request may."""

    code: ClassVar[str] = "timed-out"


class NoGenesisError(SynapseError):
    """The daemon was given no genesis, so there is no ledger that it could follow."""

    code: ClassVar[str] = "no-genesis"


class ArtefactUnavailableError(SynapseError):
    """A proposal links something that none of our peers could give us."""

    code: ClassVar[str] = "artefact-unavailable"


class NotRatifiedError(SynapseError):
    """A submission that expired before the council ratified it."""

    code: ClassVar[str] = "not-ratified"


class CancelledError(SynapseError):
    """Somebody cancelled the job, or its client went away."""

    code: ClassVar[str] = "cancelled"


# A code decides first, its class where the code is not here. Codes of the net, the store and
# the transfer are named by text: this module imports none of them.
_STATUS_BY_CODE = {
    "unknown": 404,
    "conflict": 409,
    "cancelled": 409,
    "paused": 503,
    "busy": 503,
    "invalid": 422,
    "body-too-large": 413,
    "body-too-slow": 408,
    "timed-out": 504,
    "quota-exceeded": 507,
    "disk-full": 507,
    # What the owner named is not what it should be, which is no refusal of ours.
    "bad-address": 422,
    "bad-path": 422,
    "bad-manifest": 422,
    "not-a-model": 422,
    "not-a-model-manifest": 422,
    "pickle-refused": 422,
    "link-refused": 422,
    # The state of things here is in the way.
    "destination": 409,
    "incomplete": 409,
    "unknown-dependency": 409,
    "wrong-base": 409,
    "manifest-damaged": 409,
    "unknown-part": 404,
    # The ledger.
    "no-genesis": 409,
    "wrong-genesis": 409,
    "not-open": 409,
    "artefact-unavailable": 409,
    "expired": 409,
    "replayed": 409,
    "too-early": 409,
    "pool-full": 503,
    "wrong-kind": 422,
    "daily-quota": 429,
    "work-needed": 422,
    "unknown-parameter": 422,
    "out-of-range": 422,
    "no-change": 422,
    "bad-change": 422,
    "unproven": 422,
    "invalid-entry": 422,
    "bad-key": 422,
    "bad-genesis": 422,
    "entry-too-large": 413,
    "not-a-human-key": 403,
    "protected": 403,
    "not-ratified": 504,
    # Upgrades.
    "unknown-slot": 404,
    "unknown-upgrade": 404,
    "not-built": 422,
    "source-too-large": 422,
    "module-refused": 422,
    "clash": 409,
    "full": 409,
    "upgrade-mixed-up": 409,
    "upgrade-late": 409,
    "not-compiled": 409,
    "recording-damaged": 409,
    "module-trap": 409,
    "jail": 503,
    "jail-died": 503,
    "jail-slow": 503,
    "jail-resting": 503,
    # Learning.
    "bad-text": 422,
    "bad-plan": 422,
    "cannot-learn": 409,
    "not-joined": 409,
    # The compute worker.
    "compute-missing": 409,
    "compute-resting": 503,
    "compute-paused": 503,
    "compute-memory": 507,
    "compute-model": 422,
    "compute-kind": 422,
    "compute-data": 422,
    "compute-delta": 422,
    "compute-diverged": 409,
    "compute-head": 409,
    "compute-unloaded": 409,
    # Others failed.
    "net": 502,
    "peer-unreachable": 502,
    "wrong-network": 502,
    "protocol-unsupported": 502,
    "stream-closed": 502,
    "peer": 502,
    "peer-refused": 502,
    "transfer": 502,
    "pull-failed": 502,
}
# A Mismatch is a peer's or a disk's lie, not a malformed request.
_STATUS_BY_CLASS: tuple[tuple[type[SynapseError], int], ...] = (
    (MismatchError, 502),
    (MalformedError, 400),
    (NotHeldError, 404),
    (LimitError, 422),
    (RefusedError, 403),
)
_HTTP_CODES = {404: "no-such-path", 405: "no-such-method"}
_EXIT_BY_STATUS = {
    403: EXIT_REFUSED,
    429: EXIT_REFUSED,
    503: EXIT_REFUSED,
    507: EXIT_REFUSED,
    408: EXIT_TIMED_OUT,
    504: EXIT_TIMED_OUT,
}
# For an error that comes after the headers, when there is no status left to read.
_EXIT_BY_CODE = {
    "timed-out": EXIT_TIMED_OUT,
    "wrong-network": EXIT_REFUSED,
    "compute-paused": EXIT_REFUSED,
    "compute-resting": EXIT_REFUSED,
    "compute-memory": EXIT_REFUSED,
}


def status_of(error: SynapseError) -> int:
    """The HTTP status of a typed error; 500 for one that no rule knows."""
    by_code = _STATUS_BY_CODE.get(error.code)
    if by_code is not None:
        return by_code
    return next((status for kind, status in _STATUS_BY_CLASS if isinstance(error, kind)), 500)


def problem_of(error: SynapseError) -> Problem:
    """The JSON shape of a typed error."""
    return Problem(
        error=error.code, message=error.message, remedy=error.remedy, status=status_of(error)
    )


def http_problem(status: int, detail: str) -> Problem:
    """The JSON shape of an error of HTTP itself."""
    return Problem(
        error=_HTTP_CODES.get(status, "bad-request"),
        message=detail,
        remedy="the paths are listed at /openapi.json and in docs/cli.md",
        status=status,
    )


def exit_code_of(problem: Problem) -> int:
    """What the CLI exits with, for an error that the daemon answered."""
    by_code = _EXIT_BY_CODE.get(problem.error)
    return by_code if by_code is not None else _EXIT_BY_STATUS.get(problem.status, EXIT_FAILED)


def first_typed(error: BaseException) -> SynapseError | None:
    """The typed error in `error`: itself, or the first in a nursery's group."""
    if isinstance(error, SynapseError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((typed for part in error.exceptions if (typed := first_typed(part))), None)
    return None
