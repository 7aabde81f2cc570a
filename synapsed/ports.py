"""What the services need of the network and the store, and no more.

So tests join two services by pipes in memory, and the real net (synapsed.net.Net) and table
(synapsed.store) fit as they are.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from protocols.gossip.validation import Verdict


class Stream(Protocol):
    """One stream to `peer`."""

    @property
    def peer(self) -> bytes: ...

    def hurry(self) -> None:
        """What is written goes before what waits on the connection's other streams."""

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        """The next frame; raises NetError, or LimitError for one of more than `limit` bytes."""

    async def write_frame(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send one frame; raises NetError."""

    async def write_frames(self, frames: Sequence[bytes], *, timeout: float | None = None) -> None:
        """Send frames, one behind the other, at the cost of one; raises NetError."""


class Peer(Protocol):
    """A connected peer."""

    @property
    def id(self) -> bytes: ...

    @property
    def direction(self) -> str:
        """ "inbound" or "outbound"."""


class Net(Protocol):
    """The network: see synapsed.net.Net, whose words these are."""

    @property
    def peer_id(self) -> bytes: ...

    def peer(self, peer_id: bytes, /) -> Peer | None: ...

    def peers(self) -> Sequence[Peer]: ...

    def addrs(self) -> list[str]: ...

    def on_peer(
        self, connected: Callable[[bytes], None], disconnected: Callable[[bytes], None], /
    ) -> None: ...

    def serve(
        self,
        protocol: str,
        handler: Callable[[Any], Awaitable[None]],
        max_streams_per_peer: int,
        /,
    ) -> None: ...

    def open_stream(self, peer: bytes, protocol: str, /) -> AbstractAsyncContextManager[Stream]: ...

    def subscribe(
        self,
        topic: str,
        validate: Callable[[bytes, bytes], Verdict],
        deliver: Callable[[bytes, bytes], Awaitable[None]],
        /,
    ) -> None: ...

    async def publish(self, topic: str, data: bytes, /) -> None: ...

    def blame(self, peer: bytes, fault: str, why: str, /) -> None: ...


class Table(Protocol):
    """The keys and values of one machine, kept across restarts."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def items(self) -> Iterable[tuple[bytes, bytes]]: ...


class Identity(Protocol):
    """The daemon's key (synapsed.keys.Identity)."""

    @property
    def public_key(self) -> bytes: ...

    @property
    def peer_id(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...
