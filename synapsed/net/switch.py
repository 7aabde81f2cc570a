"""All our connections: who is let in, whom we dial, and which of two to the same peer is kept.

A `Swarm` to py-libp2p's other parts. What that class does by itself (retries, happy-eyeballs
waits, pruning, dialling, health checks, resource scopes) is not used: those would fight the peer
book's decisions. Guards of FACTS-libp2p.md in this file:

    inbound connections stop after 250 in a lifetime     our own caps, counted from what is open
    a quick re-dial wedges pubsub                        connections, not peers, come and go here
    one file descriptor leaks per host                   listeners close with the nursery
"""

import logging
import time
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import KeyPair
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from protocols.peerid import peer_id_text
from protocols.peerscore import Fault
from synapsed.net.addresses import Address, of_socket, parse
from synapsed.net.errors import (
    AddressError,
    ListenError,
    PeerUnreachableError,
)
from synapsed.net.handshake import HANDSHAKE_ERRORS, Handshaker, open_tcp
from synapsed.net.muxer import Muxer
from synapsed.net.muxstream import BufferBudget, MuxedStream
from synapsed.net.peers import PeerBook
from synapsed.net.settings import NetSettings
from synapsed.net.wire import NoiseWire
from synapsed.supervise import Emit, guard

log = logging.getLogger(__name__)

MAX_HANDSHAKES = 64
"""Inbound handshakes at a time: each costs 3 ms of work and holds a socket for up to 10 s."""

MAX_HANDSHAKES_PER_IP = 16
"""So that one address alone cannot hold all of them."""

SIMULTANEOUS = 10.0
"""Seconds within which a second connection means that both sides dialled at once."""

BACKLOG = 128
"""Connections that the kernel keeps for us while we are busy."""

OnStream = Callable[["Connection", MuxedStream], Awaitable[None]]


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
        self.streams: set[NetStream] = set()
        self.replaces = False
        """Whether it took the place of another connection to the same peer."""
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
            for task in self._waiting:
                nursery.start_soon(task)
            await self.muxed_conn.start()
            nursery.cancel_scope.cancel()

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` until the connection ends, at the longest."""
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
        net_stream = NetStream(stream, self, None)  # type: ignore[arg-type]  # it uses two methods
        self.streams.add(net_stream)
        return net_stream

    def remove_stream(self, stream: NetStream) -> None:
        """NetStream says that it is over."""
        self.streams.discard(stream)

    def get_streams(self) -> tuple[INetStream, ...]:
        """The wrapped streams."""
        return tuple(self.streams)

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The remote end."""
        return self.muxed_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Always direct."""
        return ConnectionType.DIRECT


async def _refuse(_conn: Connection, stream: MuxedStream) -> None:
    stream.abort("we serve nothing yet")


class _Listener:
    """What py-libp2p asks of a listener: its addresses."""

    def __init__(self, sock: trio.SocketListener) -> None:
        host, port = sock.socket.getsockname()[:2]
        self.address = of_socket(host, port)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Where it is bound."""
        return (Multiaddr(str(self.address)),)


class Switch(Swarm):
    """Every connection of this node, inbound and outbound."""

    def __init__(
        self,
        key_pair: KeyPair,
        network: str,
        settings: NetSettings,
        *,
        book: PeerBook,
        emit: Emit,
        nursery: trio.Nursery,
    ) -> None:
        own = ID.from_pubkey(key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(own, key_pair)
        super().__init__(own, peerstore, TransportUpgrader({}, {}), transports=[])
        self.own = own.to_bytes()
        self.settings = settings
        self.book = book
        self.emit = emit
        self.budget = BufferBudget()
        self.on_connected: list[Callable[[Connection], None]] = []
        self.on_disconnected: list[Callable[[Connection], None]] = []
        self._nursery = nursery
        self._handshaker = Handshaker(key_pair, network)
        self.on_stream: OnStream = _refuse
        """Serves a stream that a peer opened; the host sets it."""
        self._live: dict[bytes, Connection] = {}
        self._past = (0, 0)  # bytes received and sent on connections that are over
        self._shaking: dict[str, int] = {}
        self._dials: dict[bytes, trio.Event] = {}

    # -- what there is

    def connection(self, peer: bytes) -> Connection | None:
        """The connection to `peer`, if there is one that works."""
        conn = self._live.get(peer)
        return None if conn is None or conn.is_closed else conn

    def all_connections(self) -> list[Connection]:
        """Every live one."""
        return list(self._live.values())

    def traffic(self) -> dict[str, int]:
        """Bytes on the wire since the start."""
        live = [conn.muxed_conn.wire for conn in self._live.values()]
        return {
            "bytes_received": self._past[0] + sum(wire.received for wire in live),
            "bytes_sent": self._past[1] + sum(wire.sent for wire in live),
        }

    def listening(self) -> list[Address]:
        """Where we are bound."""
        return [listener.address for listener in self.listeners.values()]  # type: ignore[attr-defined]

    # -- listening

    async def bind(self, where: tuple[str, ...]) -> None:
        """Listen on multiaddrs. Raises ListenError, AddressError."""
        for text in where:
            address = parse(text)
            if address.kind.startswith("dns"):
                raise AddressError(f"cannot listen on the name {address.host}")
            try:
                found = await trio.open_tcp_listeners(
                    address.port, host=address.host, backlog=BACKLOG
                )
            except OSError as error:
                raise ListenError(
                    f"cannot listen on {address}: {error.strerror or error}",
                    remedy="is another daemon running? [net] listen sets another port",
                ) from error
            for sock in found:
                listener = _Listener(sock)
                self.listeners[str(listener.address)] = listener  # type: ignore[assignment]
            await self._nursery.start(trio.serve_listeners, self._accept, found)

    async def _accept(self, stream: trio.SocketStream) -> None:
        with guard("an inbound connection", self.emit):
            try:
                host, port = stream.socket.getpeername()[:2]
            except OSError:
                return  # gone already
            if self._too_many_handshakes(host):
                await trio.aclose_forcefully(stream)
                return
            self._shaking[host] = self._shaking.get(host, 0) + 1
            try:
                wire, peer = await self._handshaker.answer(stream)
            except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
                log.debug("handshake with %s failed: %r", host, error)
                await trio.aclose_forcefully(stream)
                return
            finally:
                self._shaking[host] -= 1
                if not self._shaking[host]:
                    del self._shaking[host]
            conn = Connection(self, wire, peer, of_socket(host, port), dialled=False)
            refusal = self._refusal(conn)
            if refusal:
                log.debug("refusing %s: %s", peer, refusal)
                await wire.aclose()
                return
            self._register(conn)
            await self._run(conn)

    def _too_many_handshakes(self, host: str) -> bool:
        return (
            sum(self._shaking.values()) >= MAX_HANDSHAKES
            or self._shaking.get(host, 0) >= MAX_HANDSHAKES_PER_IP
        )

    def _refusal(self, new: Connection) -> str:
        """Why an inbound connection is not let in; "" if it is. Makes room where it is worth it."""
        if new.peer == self.own or self.book.banned(new.peer):
            return "ourselves" if new.peer == self.own else "banned"
        if not self._wins(new):
            return "the other connection to it is kept"
        if new.peer in self._live:
            return ""
        limit = self.settings.max_connections_per_ip
        if sum(conn.address.host == new.address.host for conn in self._live.values()) >= limit:
            return f"{limit} connections from its address"
        # Inbound ones never take the room that our own dials need.
        reserve = min(self.settings.target_peers, self.settings.max_connections // 4)
        inbound = sum(not conn.dialled for conn in self._live.values())
        full = len(self._live) >= self.settings.max_connections
        if (full or inbound >= self.settings.max_connections - reserve) and not self._evict_for(
            new
        ):
            return "no room"
        return ""

    def _evict_for(self, new: Connection) -> bool:
        """Cut the least worthy inbound connection, if `new` is worthier."""
        inbound = [conn for conn in self._live.values() if not conn.dialled]
        least = min(inbound, key=lambda conn: self.book.worth(conn.peer), default=None)
        if least is None or self.book.worth(least.peer) >= self.book.worth(new.peer):
            return False
        least.muxed_conn.cut("no room: a worthier peer came")
        return True

    def _wins(self, new: Connection) -> bool:
        """Whether `new` is kept where there is another connection to the same peer.

        Both sides decide alike: where both dialled at once, the smaller peer id's dial is kept;
        where a connection comes long after the other, the peer knows that the other is dead.
        """
        old = self._live.get(new.peer)
        if old is None or old.is_closed:
            return True
        together = trio.current_time() - old.started < SIMULTANEOUS
        if together and old.dialled != new.dialled:
            return new.dialled == (self.own < new.peer)
        return True

    # -- dialling

    async def dial(self, address: Address) -> Connection:
        """Connect to `address`, or answer the connection that there is.

        Raises PeerUnreachableError (why is in its text), AddressError for ourselves.
        """
        peer = address.peer
        if peer is None:
            return await self._dial(address)
        if peer == self.own:
            raise AddressError("that address is our own")
        while (conn := self.connection(peer)) is None and peer in self._dials:
            await self._dials[peer].wait()
        if conn is not None:
            return conn
        if self.book.banned(peer):
            raise PeerUnreachableError(f"{peer_id_text(peer)} is banned for its faults")
        self._dials[peer] = trio.Event()
        try:
            return await self._dial(address)
        except PeerUnreachableError:
            # It may have dialled us meanwhile.
            if (conn := self.connection(peer)) is not None:
                return conn
            raise
        finally:
            self._dials.pop(peer).set()

    async def _dial(self, address: Address) -> Connection:
        stream = await open_tcp(address, self.settings.dial_from)
        try:
            wire, peer = await self._handshaker.dial(stream, address.peer)
        except AddressError:
            await trio.aclose_forcefully(stream)
            raise
        except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
            await trio.aclose_forcefully(stream)
            raise PeerUnreachableError(
                f"the handshake with {address} failed: {type(error).__name__} {error}".rstrip(),
                remedy="another network, or another peer than the address names?",
            ) from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
        conn = Connection(self, wire, peer, address.at(peer.to_bytes()), dialled=True)
        known = self.connection(conn.peer)
        if known is not None and (address.peer is None or not self._wins(conn)):
            await wire.aclose()
            return known
        if len(self._live) >= self.settings.max_connections:
            self._evict_for(conn)
        self._register(conn)
        self._nursery.start_soon(self._run, conn)
        return conn

    # -- life of a connection

    def _register(self, conn: Connection) -> None:
        # At once with the decision to keep it: another one may be a task switch away.
        old = self._live.get(conn.peer)
        self._live[conn.peer] = conn
        self.connections[conn.muxed_conn.peer_id] = [conn]
        self.book.connected(conn.peer, str(conn.address) if conn.dialled else None, "dial")
        if old is not None:
            conn.replaces = True
            old.muxed_conn.cut("replaced by another connection to the same peer")
        for callback in self.on_connected:
            callback(conn)

    async def _run(self, conn: Connection) -> None:
        with guard(f"the connection to {peer_id_text(conn.peer)}", self.emit):
            try:
                await conn.run()
            finally:
                self._unregister(conn)

    def _unregister(self, conn: Connection) -> None:
        conn.muxed_conn.cut("closed")
        if self._live.get(conn.peer) is conn:
            del self._live[conn.peer]
            self.connections.pop(conn.muxed_conn.peer_id, None)
            self.book.seen(conn.peer)
        wire = conn.muxed_conn.wire
        self._past = (self._past[0] + wire.received, self._past[1] + wire.sent)
        for callback in self.on_disconnected:
            callback(conn)

    async def handle_stream(self, conn: Connection, stream: MuxedStream) -> None:
        """Serve a stream that the peer opened; nothing it does ends more than the stream."""
        with guard("a stream", self.emit):
            try:
                await self.on_stream(conn, stream)
            finally:
                stream.abandon()

    def blame(self, peer: bytes, fault: Fault, why: str) -> None:
        """Count a fault against `peer`; one too many ends the connection and bans it."""
        banned = self.book.fault(peer, fault)
        self.emit("peer.blamed", peer=peer_id_text(peer), fault=fault.value, why=why)
        if banned:
            self.emit("peer.banned", peer=peer_id_text(peer), why=why)
            if (conn := self._live.get(peer)) is not None:
                conn.muxed_conn.cut(f"banned: {why}")

    async def close_all(self) -> None:
        """Say goodbye to everybody at once; takes as long as one goodbye."""
        async with trio.open_nursery() as nursery:
            for conn in list(self._live.values()):
                nursery.start_soon(conn.close)

    # -- what py-libp2p's other parts call

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """The connection to a peer, dialled at what the peer book knows if need be."""
        peer = peer_id.to_bytes()
        if (conn := self.connection(peer)) is not None:
            return [conn]
        for text in self.book.record(peer).addrs:
            try:
                return [await self.dial(parse(text))]
            except PeerUnreachableError:
                continue
        raise SwarmException(f"no address of {peer_id} answers")

    async def new_stream(self, peer_id: ID) -> INetStream:
        """A raw stream to a connected peer."""
        conn = self.connection(peer_id.to_bytes())
        if conn is None:
            raise SwarmException(f"not connected to {peer_id}")
        return await conn.new_stream()

    async def close_peer(self, peer_id: ID) -> None:
        """Disconnect."""
        if (conn := self._live.get(peer_id.to_bytes())) is not None:
            await conn.close()

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """Nobody of ours listens; py-libp2p would open a nursery for every stream."""
