"""All our connections: listening, dialling, and their lives.

A `Swarm` to py-libp2p's other parts. What that class does by itself (retries, happy-eyeballs
waits, pruning, dialling, health checks, resource scopes) is not used: those would fight the peer
book's decisions. Guards of FACTS-libp2p.md in this file:

    inbound connections stop after 250 in a lifetime     our own caps, counted from what is open
    a quick re-dial wedges pubsub                        connections, not peers, come and go here
    one file descriptor leaks per host                   listeners close with the nursery
"""

import logging
from collections.abc import Awaitable, Callable

import trio
from cryptography.exceptions import InvalidTag
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from protocols.gossip.peerscore import Fault
from protocols.peerid import peer_id_text
from synapsed.net.addresses import Address, of_socket, parse
from synapsed.net.admission import Admission
from synapsed.net.connection import Connection
from synapsed.net.errors import (
    AddressError,
    ListenError,
    PeerUnreachableError,
    WrongNetworkError,
)
from synapsed.net.handshake import HANDSHAKE_ERRORS, Handshaker, open_tcp
from synapsed.net.muxstream import BufferBudget, MuxedStream
from synapsed.net.peers import PeerBook
from synapsed.net.settings import NetSettings
from synapsed.net.wire import NoiseWire
from synapsed.process.supervise import Emit, guard

log = logging.getLogger(__name__)

BACKLOG = 128
"""Connections that the kernel keeps for us while we are busy."""

OnStream = Callable[[Connection, MuxedStream], Awaitable[None]]


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
        self.network = network
        self._handshaker = Handshaker(key_pair, network)
        self.on_stream: OnStream = _refuse
        """Serves a stream that a peer opened; the host sets it."""
        self._live: dict[bytes, Connection] = {}
        self._wires: set[NoiseWire] = set()
        self._past = (0, 0)  # bytes received and sent on connections that are over
        self.admission = Admission(self.own, settings, book, self.all_connections, self.connection)
        self._dials: dict[bytes, trio.Event] = {}

    # -- what there is

    def connection(self, peer: bytes) -> Connection | None:
        """The connection to `peer`, if there is one that works."""
        conn = self._live.get(peer)
        return None if conn is None or conn.is_closed else conn

    def all_connections(self) -> list[Connection]:
        """Every one that works."""
        return [conn for conn in self._live.values() if not conn.is_closed]

    def traffic(self) -> dict[str, int]:
        """Bytes on the wire since the start."""
        return {
            "bytes_received": self._past[0] + sum(wire.received for wire in self._wires),
            "bytes_sent": self._past[1] + sum(wire.sent for wire in self._wires),
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
            with self.admission.handshake(host) as allowed:
                shaken = await self._shake(stream, host) if allowed else None
            if shaken is None:
                await trio.aclose_forcefully(stream)
                return
            wire, peer = shaken
            conn = Connection(self, wire, peer, of_socket(host, port), dialled=False)
            refusal = self.admission.refusal(conn)
            if refusal:
                log.debug("refusing %s: %s", peer, refusal)
                await wire.aclose()
                return
            self._register(conn)
            await self._run(conn)

    async def _shake(self, stream: trio.SocketStream, host: str) -> tuple[NoiseWire, ID] | None:
        try:
            return await self._handshaker.answer(stream)
        except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
            log.debug("handshake with %s failed: %r", host, error)
            return None

    # -- dialling

    async def dial(self, address: Address) -> Connection:
        """Connect to `address`, or answer the connection that there is.

        Raises PeerUnreachableError (why is in its text), AddressError for ourselves.
        """
        peer = address.peer
        if peer is None:
            return self._dialled_at(address) or await self._dial(address)
        if peer == self.own:
            raise AddressError("that address is our own")
        while (conn := self.connection(peer)) is None and peer in self._dials:
            await self._dials[peer].wait()
        if conn is not None:
            return conn
        if self.book.banned(peer):
            raise PeerUnreachableError(
                f"{peer_id_text(peer)} is banned for its faults",
                remedy="`synapsectl peers --all` says until when, and its log or ours why",
            )
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

    def _dialled_at(self, address: Address) -> Connection | None:
        """The connection to whoever answered at this address before."""
        for conn in self.all_connections():
            if conn.dialled and conn.address == address.at(conn.peer):
                return conn
        return None

    async def _dial(self, address: Address) -> Connection:
        stream = await open_tcp(address, self.settings.dial_from)
        try:
            wire, peer = await self._handshaker.dial(stream, address.peer)
        except AddressError:
            await trio.aclose_forcefully(stream)
            raise
        except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
            await trio.aclose_forcefully(stream)
            raise self._handshake_failed(address, error) from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
        conn = Connection(self, wire, peer, address.at(peer.to_bytes()), dialled=True)
        known = self.connection(conn.peer)
        if known is not None and not self.admission.wins(conn):
            await wire.aclose()
            return known
        if len(self._live) >= self.settings.max_connections:
            self.admission.make_room(conn)
        self._register(conn)
        self._nursery.start_soon(self._run, conn)
        return conn

    # -- life of a connection

    def _handshake_failed(self, address: Address, error: Exception) -> PeerUnreachableError:
        if isinstance(error, InvalidTag):
            # The prologue is hashed into the keys, so another one shows as a bad tag.
            return WrongNetworkError(
                f"{address} is not of the network {self.network!r}: its handshake does not verify",
                remedy="the network in both configs must be the same",
            )
        return PeerUnreachableError(
            f"the handshake with {address} failed: {type(error).__name__} {error}".rstrip(),
            remedy="is another program there, or another peer than the address names?",
        )

    def _register(self, conn: Connection) -> None:
        # At once with the decision to keep it: another one may be a task switch away.
        old = self._live.get(conn.peer)
        if old is not None:
            # Whatever hangs on the old connection ends before anything hangs on the new one.
            old.muxed_conn.cut("replaced by another connection to the same peer")
            self._forget(old)
        self._live[conn.peer] = conn
        self._wires.add(conn.muxed_conn.wire)
        self.connections[conn.muxed_conn.peer_id] = [conn]
        if conn.dialled:
            self.book.connected(conn.peer, str(conn.address), "dial")
        else:
            self.book.connected(conn.peer, None, "inbound")
        for callback in self.on_connected:
            callback(conn)

    def _forget(self, conn: Connection) -> None:
        if self._live.get(conn.peer) is conn:
            del self._live[conn.peer]
            self.connections.pop(conn.muxed_conn.peer_id, None)
            self.book.seen(conn.peer)
            for callback in self.on_disconnected:
                callback(conn)

    async def _run(self, conn: Connection) -> None:
        with guard(f"the connection to {peer_id_text(conn.peer)}", self.emit):
            try:
                await conn.run()
            finally:
                self._ended(conn)

    def _ended(self, conn: Connection) -> None:
        conn.muxed_conn.cut("closed")
        wire = conn.muxed_conn.wire
        self._wires.discard(wire)
        self._past = (self._past[0] + wire.received, self._past[1] + wire.sent)
        if conn.dialled and conn.was_brief and self._live.get(conn.peer) is conn:
            self.book.dial_failed(conn.peer)  # or it would be dialled again at once
        self._forget(conn)

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
