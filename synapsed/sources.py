"""Whom a pull may ask: who announces the thing, and then whoever is connected."""

from collections.abc import Callable

from protocols.manifest import ExpertManifest
from synapsed.catalog_service import CatalogService
from synapsed.net import Net
from synapsed.store import Store
from synapsed.transfer.sources import Source


class CatalogSources:
    """The `Sources` of the daemon's own pulls."""

    def __init__(
        self, catalog: CatalogService, net: Net, store: Store, alive: Callable[[bytes], bool]
    ) -> None:
        self._catalog = catalog
        self._net = net
        self._store = store
        self._alive = alive

    def find(self, subject: bytes) -> list[Source]:
        """Holders of a model, issuers of an adapter or kernel; then our neighbours.

        Who is not alive by its heartbeat is left out, unless it is connected.
        """
        manifest = self._store.manifest_of(subject)
        model = manifest.model if isinstance(manifest, ExpertManifest) else subject
        connected = [peer.id for peer in self._net.peers()]
        announcing = [holding.peer for holding in self._catalog.catalog.holders(model)]
        announcing += [
            entry.issuer
            for entry in self._catalog.catalog.entries()
            if entry.kind != "shard" and entry.subject == subject
        ]
        holders = [
            peer
            for peer in dict.fromkeys(announcing)
            if peer != self._net.peer_id and (peer in connected or self._alive(peer))
        ]
        return [self._source(peer) for peer in dict.fromkeys(holders + connected)]

    def _source(self, peer: bytes) -> Source:
        return Source(peer, self._net.book.record(peer).throughput or 0.0)
