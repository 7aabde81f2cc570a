"""What the rest of the network has, as evictions and rankings are told of it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from protocols.gossip.shelf import Holding
from synapsed.gossip.catalog import CatalogService
from synapsed.gossip.liveness import LivenessService
from synapsed.holdings.replicator import Replicator
from synapsed.net import Net


class Elsewhere(Protocol):
    """Others' copies."""

    def copies(self, model: bytes) -> Sequence[int]:
        """Of each tile of a model, those that count; () where that is not known."""

    def holders(self, model: bytes) -> Sequence[Holding]:
        """Who is alive and announces tiles of a model."""

    def offering(self, subject: bytes) -> Sequence[bytes]:
        """Who is alive and announces this, as whatever it is."""

    def rate(self, peer: bytes) -> int:
        """Bytes a second that a peer gave us lately; 0 where that is not known."""

    def forgot(self, model: bytes) -> None:
        """We watch over a model no more, unless there is room to do so again."""


class Network:
    """The real one."""

    def __init__(
        self,
        net: Net,
        catalog: CatalogService,
        liveness: LivenessService,
        replicator: Replicator,
    ) -> None:
        self._net = net
        self._catalog = catalog.catalog
        self._alive: Callable[[bytes], bool] = liveness.is_alive
        self._replicator = replicator

    def _there(self, peer: bytes) -> bool:
        return peer != self._net.peer_id and self._alive(peer)

    def copies(self, model: bytes) -> Sequence[int]:
        return self._replicator.elsewhere(model)

    def holders(self, model: bytes) -> Sequence[Holding]:
        return [it for it in self._catalog.holders(model) if self._there(it.peer)]

    def offering(self, subject: bytes) -> Sequence[bytes]:
        return [peer for peer in self._catalog.offering(subject) if self._there(peer)]

    def rate(self, peer: bytes) -> int:
        return int(self._net.book.record(peer).throughput or 0)

    def forgot(self, model: bytes) -> None:
        self._replicator.forgot(model)
