"""Gossip as the rest of the daemon has it: topics with a validator and a subscriber."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.tools.anyio_service import background_trio_service

from protocols.errors import LimitError
from synapsed.net.host import Host
from synapsed.net.pubsub import MAX_MESSAGE, PROTOCOLS, GuardedPubsub, Topic
from synapsed.net.router import Router
from synapsed.net.types import Deliver, Validate
from synapsed.process.supervise import Emit


class Gossip:
    """Gossipsub 1.1 on our connections. Made by `Gossip.run`."""

    def __init__(self, pubsub: GuardedPubsub, router: Router, nursery: trio.Nursery) -> None:
        self._pubsub = pubsub
        self._router = router
        self._nursery = nursery

    @classmethod
    @asynccontextmanager
    async def run(cls, host: Host, emit: Emit) -> AsyncIterator["Gossip"]:
        """Gossip while the block runs."""
        book = host.switch.book
        router = Router(PROTOCOLS, emit, lambda peer: book.gossip_worth(peer.to_bytes()))
        pubsub = GuardedPubsub(host, router, emit)
        async with (
            trio.open_nursery() as nursery,
            background_trio_service(pubsub),
            background_trio_service(router),
        ):
            yield cls(pubsub, router, nursery)
            nursery.cancel_scope.cancel()

    def subscribe(self, topic: str, validate: Validate, deliver: Deliver) -> None:
        """Take part in a topic."""
        entry = Topic(topic, validate, deliver)
        self._nursery.start_soon(self._pubsub.drain, entry)
        self._nursery.start_soon(self._pubsub.join, entry)

    async def publish(self, topic: str, data: bytes) -> None:
        """Send `data` to the topic. Raises LimitError above MAX_MESSAGE bytes."""
        if len(data) > MAX_MESSAGE:
            raise LimitError(f"a gossip message of {len(data)} bytes; {MAX_MESSAGE} are allowed")
        await self._pubsub.publish(topic, data)

    @property
    def counters(self) -> dict[str, int]:
        """Messages by what became of them, since the start."""
        return dict(self._pubsub.counters)

    def neighbours(self, topic: str) -> tuple[int, int]:
        """(peers in our mesh of the topic, peers that we know to be subscribed)."""
        members = self._pubsub.peer_topics.get(topic, set())
        return len(self._router.mesh.get(topic, set())), len(members)
