"""What can go wrong with computing.

ComputeError                    code
 +- NotInstalledError           compute-missing    torch and transformers are not installed
 +- DiedError                   compute-died       the worker's process ended under this request
 +- RestingError                compute-resting    it died too often of late and is given a rest
 +- PausedError                 compute-paused     the owner wants the machine for something else
 +- OutOfMemoryError            compute-memory     the machine, the card or the limit is too small
 +- BadModelError               compute-model      a model that is not what it says, or not whole
 +- UnknownKindError            compute-kind       a kind of model that this worker cannot build
 +- BadDataError                compute-data       a text that is not there, or too short
 +- DivergedError               compute-diverged   a loss or a delta that is no number
 +- BadHeadError                compute-head       a result that makes another version
 +- BadDeltaError               compute-delta      a delta or result that is malformed
 +- UnloadedError               compute-unloaded   the worker has no such thing open (any more)
 +- DiskError                   compute-disk       a file that cannot be read or written
"""

from typing import ClassVar

from protocols.errors import SynapseError


class ComputeError(SynapseError):
    """Something that was not computed."""

    code: ClassVar[str] = "compute"


class NotInstalledError(ComputeError):
    """The libraries are not there."""

    code = "compute-missing"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "pip install 'synapsed[compute]'")


class DiedError(ComputeError):
    """The process ended, and what it had loaded is gone."""

    code = "compute-died"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "it is started again for the next request")


class RestingError(ComputeError):
    """No worker just now."""

    code = "compute-resting"


class PausedError(ComputeError):
    """Nothing is computed until the owner says so."""

    code = "compute-paused"

    def __init__(self, message: str = "computing is paused", *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "`synapsectl resume`")


class OutOfMemoryError(ComputeError):
    """More memory was needed than there is, or than may be used."""

    code = "compute-memory"


class BadModelError(ComputeError):
    """Files that do not make a model."""

    code = "compute-model"


class UnknownKindError(ComputeError):
    """An architecture that is not supported."""

    code = "compute-kind"


class BadDataError(ComputeError):
    """A text that cannot be trained on or measured with."""

    code = "compute-data"


class DivergedError(ComputeError):
    """Training ran away."""

    code = "compute-diverged"


class BadHeadError(ComputeError):
    """What should be the same everywhere is not."""

    code = "compute-head"


class BadDeltaError(ComputeError):
    """Bytes that are no delta of that group."""

    code = "compute-delta"


class UnloadedError(ComputeError):
    """Open it (again): a worker that was started anew has nothing."""

    code = "compute-unloaded"


class DiskError(ComputeError):
    """The disk said no."""

    code = "compute-disk"


BY_CODE: dict[str, type[ComputeError]] = {
    kind.code: kind
    for kind in (
        ComputeError,
        NotInstalledError,
        DiedError,
        RestingError,
        PausedError,
        OutOfMemoryError,
        BadModelError,
        UnknownKindError,
        BadDataError,
        DivergedError,
        BadHeadError,
        BadDeltaError,
        UnloadedError,
        DiskError,
    )
}
"""The classes, by what stands on the wire."""
