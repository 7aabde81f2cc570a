"""What an exception means to the node: a code of synapsed/compute/errors.py, and what to do."""

import torch

from protocols.errors import SynapseError
from synapsed.compute import wire
from synapsed.compute.errors import ComputeError, OutOfMemoryError

_NO_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
"""How torch says it on a processor, in a RuntimeError like any other."""


def failed(number: int, error: Exception) -> wire.Failed:
    """The answer to a request that raised `error`."""
    known = _known(error)
    return wire.Failed(
        number,
        known.code,
        known.message[: wire.MAX_TEXT],
        known.remedy[: wire.MAX_TEXT],
    )


def _known(error: Exception) -> SynapseError:
    if isinstance(error, ComputeError):
        return error
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in _NO_MEMORY)
    ):
        return OutOfMemoryError(
            "there is not enough memory",
            remedy="raise compute.memory, close something else, or take a smaller batch or model",
        )
    if isinstance(error, SynapseError):
        return ComputeError(error.message, remedy=error.remedy)
    return ComputeError(
        f"the compute worker failed: {type(error).__name__}: {error}",
        remedy="report it to the developers",
    )
