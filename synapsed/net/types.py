"""What the network tells its users: peers, verdicts, and the shapes of their callbacks."""

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import msgspec

from protocols.gossip.validation import Verdict


class Peer(msgspec.Struct, frozen=True):
    """One connected peer, as of now."""

    id: bytes
    addr: str
    """The remote end as a multiaddr; for an inbound connection its port is not one to dial."""
    direction: str
    """"inbound" or "outbound"."""
    since: float
    """Wall-clock seconds at which it connected."""
    rtt: float | None
    """Moving average of the round trip in seconds; None until the first ping is back."""
    score: float
    """The peer book's worth of it (the slot `peer_scoring`): higher is kept longer."""
    local: bool
    """On this machine or this private network."""


Validate = Callable[[bytes, bytes], Verdict]
"""(peer id of the neighbour who passed it on, data) -> verdict. Must not wait."""

Deliver = Callable[[bytes, bytes], Awaitable[None]]
"""(peer id of the neighbour who passed it on, data): awaited by the topic's drain task."""

PeerCallback = Callable[[bytes], None]
"""(peer id). Must not wait."""


@runtime_checkable
class Identity(Protocol):
    """The daemon's Ed25519 key (synapsed.keys.Identity)."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    @property
    def seed(self) -> bytes:
        """The secret 32 bytes: libp2p's Noise must sign with it."""

    @property
    def peer_id(self) -> bytes:
        """38 bytes."""
