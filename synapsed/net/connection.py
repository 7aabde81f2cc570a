"""One live connection to one peer: its multiplexer, and the tasks that live as long as it."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from protocols.peerid import peer_id_text
from synapsed.net.addresses import Address
from synapsed.net.errors import PeerUnreachableError
from synapsed.net.muxer import Muxer
from synapsed.net.muxstream import MuxedStream
from synapsed.net.wire import NoiseWire

if TYPE_CHECKING:
    from synapsed.net.switch import Switch

BRIEF = 10.0
"""Seconds below which a connection that the peer ended counts as a dial that failed."""


class Connection(INetConn):
    """One live connection to one peer."""

    def __init__(
        self, switch: "Switch", wire: NoiseWire, peer: ID, address: Address, *, dialled: bool
    ) -> None:
        self.swarm = switch
        self.peer = peer.to_bytes()
        self.address = address
        self.dialled = dialled
        self.since = time.time()
        self.started = trio.current_time()
        self.muxed_conn: Muxer = Muxer(
            wire, peer, initiator=dialled, budget=switch.budget, on_stream=self._stream_arrived
        )
        self.event_started = self.muxed_conn.event_started
        self._nursery: trio.Nursery | None = None
        self._waiting: list[Callable[[], Awaitable[None]]] = []

    async def run(self) -> None:
        """Until the connection ends; handlers of its streams end with it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while self._waiting:
                nursery.start_soon(self._waiting.pop())
            await self.muxed_conn.start()
            nursery.cancel_scope.cancel()
        self._nursery = None  # no cycle: a flood of connections must not wait for the collector

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` until the connection ends, at the longest; not at all if it has ended."""
        if self.is_closed:
            return
        if self._nursery is None:
            self._waiting.append(task)
        else:
            self._nursery.start_soon(task)

    def _stream_arrived(self, stream: MuxedStream) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self.swarm.handle_stream, self, stream)

    async def ping(self) -> float:
        """One round trip, in seconds. PeerUnreachableError where the connection ends first."""
        try:
            return await self.muxed_conn.ping()
        except MuxedConnUnavailable as error:
            raise PeerUnreachableError(f"{peer_id_text(self.peer)} is gone: {error}") from error

    @property
    def was_brief(self) -> bool:
        """Whether it ended, by the peer's will, almost as soon as it began: a refusal."""
        return self.muxed_conn.ended_by_peer and trio.current_time() - self.started < BRIEF

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.muxed_conn.is_closed

    async def close(self) -> None:
        """End it politely."""
        await self.muxed_conn.close()

    async def new_stream(self) -> INetStream:
        """A stream for py-libp2p's own layers."""
        return self.wrap(await self.muxed_conn.open_stream())

    def wrap(self, stream: MuxedStream) -> NetStream:
        """A stream as py-libp2p's own layers want it."""
        return NetStream(stream, self, None)  # type: ignore[arg-type]  # it calls two methods of it

    def remove_stream(self, stream: NetStream) -> None:
        """NetStream says that it is over; the multiplexer knows."""

    def get_streams(self) -> tuple[INetStream, ...]:
        """Of libp2p's interface; nobody asks."""
        return ()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The remote end."""
        return self.muxed_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Always direct."""
        return ConnectionType.DIRECT
