"""Other implementations of slots, in force: what tests give to the daemon's services as `slots`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from protocols.slots.abi import Batch, Run, Slot
from protocols.slots.closed_list import SLOTS
from synapsed.slots import NativeOperation


class OtherOperation(NativeOperation):
    """Answered by another implementation."""

    version = 7

    def __init__(self, slot: Slot, run: Callable[[Batch], Awaitable[None]]) -> None:
        super().__init__(slot)
        self._run = run
        self.calls = 0
        self.all_achieved: list[int] = []

    def batch(self, context: Mapping[str, int], rows: Sequence[int]) -> Batch:
        return super().batch(context, rows)

    async def call(self, batch: Batch) -> None:
        self.calls += 1
        await self._run(batch)

    def achieved(self, value: int) -> None:
        self.all_achieved.append(value)


class OtherSlots:
    """One slot is answered by `run`, the others by their references."""

    def __init__(self, slot: str, run: Run | Callable[[Batch], Awaitable[None]]) -> None:
        self._slot = slot
        self._given = run
        self.operations: list[OtherOperation] = []

    def operation(self, slot: str, name: bytes = b"") -> NativeOperation:
        del name
        if slot != self._slot:
            return NativeOperation(SLOTS[slot])
        self.operations.append(OtherOperation(SLOTS[slot], self._run))
        return self.operations[-1]

    async def _run(self, batch: Batch) -> None:
        waiting = self._given(batch)
        if waiting is not None:
            await waiting


def inverted(slot: Slot, *outputs: str) -> Run:
    """The reference, with these columns of the answer turned around within their bounds."""

    def run(batch: Batch) -> None:
        slot.reference(batch)
        for name in outputs:
            bounds = next(column for column in slot.outputs if column.name == name)
            values = batch.answer(name)
            batch.answered(name, [bounds.most + bounds.least - value for value in values])

    return run
