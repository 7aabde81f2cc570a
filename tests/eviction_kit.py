"""What the tests of evictions and of adapters share: policies of our own, and a network made up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protocols.gossip.shelf import Holding
from protocols.slots.abi import Batch
from protocols.slots.closed_list import SLOTS
from protocols.transfer.copies import count_copies

Policy = Callable[[Batch], None]


class Operation:
    """One use of a slot, answered by a policy."""

    version = 7

    def __init__(self, slots: "Slots", slot: str) -> None:
        self._slots, self.slot = slots, slot

    def batch(self, context: Mapping[str, int], rows: Sequence[int]) -> Batch:
        return Batch.new(SLOTS[self.slot], context, rows)

    async def call(self, batch: Batch) -> None:
        (self._slots.policies.get(self.slot) or SLOTS[self.slot].reference)(batch)
        self._slots.batches.append(batch)

    def achieved(self, value: int) -> None:
        self._slots.achieved.append((self.slot, value))


class Slots:
    """Policies by slot; the references where there is none. Keeps what it was asked and told."""

    def __init__(self, **policies: Policy) -> None:
        self.policies = policies
        self.batches: list[Batch] = []
        self.achieved: list[tuple[str, int]] = []

    def operation(self, slot: str, name: bytes = b"") -> Operation:
        return Operation(self, slot)


class Elsewhere:
    """What the rest of the network has, as the test says."""

    def __init__(self) -> None:
        self.holdings: dict[bytes, list[Holding]] = {}
        self.tiles: dict[bytes, int] = {}
        self.offered: dict[bytes, list[bytes]] = {}
        self.forgotten: list[bytes] = []

    def has(self, model: bytes, tiles: int, *peers: bytes) -> None:
        """These peers have all tiles of a model."""
        self.tiles[model] = tiles
        self.holdings[model] = [Holding(peer, ((0, tiles),)) for peer in peers]

    def copies(self, model: bytes) -> Sequence[int]:
        return count_copies(self.holdings.get(model, []), self.tiles.get(model, 0))

    def holders(self, model: bytes) -> Sequence[Holding]:
        return self.holdings.get(model, [])

    def offering(self, subject: bytes) -> Sequence[bytes]:
        return self.offered.get(subject) or [it.peer for it in self.holders(subject)]

    def rate(self, peer: bytes) -> int:
        return 1 << 20

    def forgot(self, model: bytes) -> None:
        self.forgotten.append(model)


class Told(list[tuple[str, dict[str, Any]]]):
    """Events, as (kind, fields)."""

    def __call__(self, kind: str, /, **fields: Any) -> None:
        self.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self if each == kind]
