"""Slots as the daemon's services use them: one operation, one version that answers it.

A service asks for an `Operation` of a slot, fills a batch, calls, and reads the answer; later it
says what the operation achieved. Which version answers (the native reference, a ratified module,
or by a coin the incumbent of a rollout) is decided behind `Slots`, as is what happens when a
version fails: the service always has an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from protocols.slots.abi import Batch, Slot
from protocols.slots.closed_list import SLOTS

NATIVE = 0
"""The version number of the references."""


class Operation(Protocol):
    """One use of a slot: all its calls are answered by one version."""

    @property
    def version(self) -> int:
        """The number of the version that answers; NATIVE is the reference."""

    def batch(self, context: Mapping[str, int], rows: Sequence[int]) -> Batch:
        """An empty batch with `rows` rows in each table, to be filled in and called. What it
        lies in may be used again once another batch of the operation is asked for."""

    async def call(self, batch: Batch) -> None:
        """Fill the answer in. Raises nothing but cancellation: a version that fails is covered
        by the incumbent, and that one by the reference. It need not be a checkpoint."""

    def achieved(self, value: int) -> None:
        """What came of the operation, in the unit of the slot's goal; at most once."""


class Slots(Protocol):
    """Hands out operations."""

    def operation(self, slot: str, name: bytes = b"") -> Operation:
        """A use of the slot of that name. `name` is what the coin is tossed over: the same name
        is answered by the same version; b"" is a fresh random one."""


class NativeOperation:
    """Answered by the reference, in place."""

    version = NATIVE

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def batch(self, context: Mapping[str, int], rows: Sequence[int]) -> Batch:
        """An empty batch in memory of its own."""
        return Batch.new(self._slot, context, rows)

    async def call(self, batch: Batch) -> None:
        """Fill the answer in, without a pause."""
        self._slot.reference(batch)

    def achieved(self, value: int) -> None:
        """Nobody compares the reference with itself."""


class NativeSlots:
    """The references only: for tools, tests, and daemons whose owner wants no upgrades."""

    def operation(self, slot: str, name: bytes = b"") -> NativeOperation:
        """A use of the slot's reference, whatever its name."""
        del name
        return NativeOperation(SLOTS[slot])


NATIVE_SLOTS = NativeSlots()
"""The only one that is needed: it knows nothing."""
