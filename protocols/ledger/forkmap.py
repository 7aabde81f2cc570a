"""A map that can be forked in a moment, for folds that are tried out and thrown away.

A fork shares all that was there with the map that it came from; each then writes into a small
dict of its own. What is shared lies in layers, the newest last, that are merged when a newer one
has grown to half of the one below it: so there are at most log2(n) layers, and an item is copied
O(log n) times in its life.
Source: J. L. Bentley, J. B. Saxe, "Decomposable searching problems I: static-to-dynamic
transformation" (1980), the logarithmic method.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

V = TypeVar("V")


class ForkMap(Generic[V]):
    """From bytes to V, without deletion. Not for two threads."""

    __slots__ = ("_layers", "_length", "_own")

    def __init__(self, items: Iterable[tuple[bytes, V]] = ()) -> None:
        self._own: dict[bytes, V] = dict(items)
        self._length = len(self._own)
        self._layers: tuple[dict[bytes, V], ...] = ()
        """Shared, so never written to."""

    def get(self, key: bytes) -> V | None:
        """What is there under `key`."""
        found = self._own.get(key)
        if found is None and self._layers:
            for layer in reversed(self._layers):
                found = layer.get(key)
                if found is not None:
                    return found
        return found

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return self._length

    def set(self, key: bytes, value: V) -> None:
        """Put `value`, which is not None, under `key`."""
        if key not in self:
            self._length += 1
        self._own[key] = value

    def fork(self) -> "ForkMap[V]":
        """Another map with the same items; what is set in either does not show in the other."""
        if self._own:
            layers = [*self._layers, self._own]
            while len(layers) > 1 and 2 * len(layers[-1]) >= len(layers[-2]):
                newer, older = layers.pop(), layers.pop()
                layers.append({**older, **newer})
            self._layers = tuple(layers)
            self._own = {}
        twin: ForkMap[V] = ForkMap()
        twin._layers = self._layers
        twin._length = self._length
        return twin

    def items(self) -> list[tuple[bytes, V]]:
        """All, in order of their keys."""
        merged: dict[bytes, V] = {}
        for layer in (*self._layers, self._own):
            merged.update(layer)
        return sorted(merged.items(), key=lambda pair: pair[0])
