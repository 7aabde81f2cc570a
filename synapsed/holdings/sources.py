"""Whom a pull may ask: who announces the thing, and then whoever is connected."""

import secrets
from collections.abc import Callable
from hashlib import sha256

from synapsed.gossip.catalog import CatalogService
from synapsed.net import Net
from synapsed.transfer.sources import Source


class CatalogSources:
    """The `Sources` of the daemon's own pulls."""

    def __init__(self, catalog: CatalogService, net: Net, alive: Callable[[bytes], bool]) -> None:
        self._catalog = catalog
        self._net = net
        self._alive = alive
        self._salt = secrets.token_bytes(16)

    def find(self, subject: bytes) -> list[Source]:
        """Holders of a model, issuers of an adapter or kernel; then our neighbours.

        Who served us well stands first, and strangers in an order that they cannot choose. Who
        is not alive by its heartbeat is left out, unless it is connected.
        """
        connected = [peer.id for peer in self._net.peers()]
        near = set(connected)
        holders = [
            peer
            for peer in self._catalog.catalog.offering(subject)
            if peer != self._net.peer_id and (peer in near or self._alive(peer))
        ]
        holders.sort(key=self._order)
        return [self._source(peer) for peer in dict.fromkeys(holders + connected)]

    def _order(self, peer: bytes) -> tuple[float, bytes]:
        return -self._net.book.worth(peer), sha256(self._salt + peer).digest()

    def _source(self, peer: bytes) -> Source:
        return Source(peer, self._net.book.record(peer).throughput or 0.0)
