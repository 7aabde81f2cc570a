"""The network as the rest of the daemon has it: `open_net`, and `Net`, what it gives."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import trio

from protocols.gossip.peerscore import Fault
from protocols.peerid import peer_id_text
from synapsed.net.addresses import parse
from synapsed.net.connection import Connection
from synapsed.net.dht import Dht
from synapsed.net.discovery import Discovery
from synapsed.net.errors import PeerUnreachableError, TimedOutError
from synapsed.net.gossip import Gossip
from synapsed.net.host import Host, key_pair_of
from synapsed.net.keeper import Keeper
from synapsed.net.mdns import announce_and_browse
from synapsed.net.peers import PeerBook
from synapsed.net.scoring import Scorer
from synapsed.net.settings import NetSettings
from synapsed.net.streams import DEFAULT_STREAMS_PER_PEER, Handler, Services, Stream
from synapsed.net.switch import Switch
from synapsed.net.types import Deliver, Identity, Peer, PeerCallback, Validate
from synapsed.process.supervise import Emit, leaves, supervise
from synapsed.slots import NATIVE_SLOTS, Slots

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 10.0
"""Seconds to agree on the protocol of a stream of ours."""

PING_TIMEOUT = 10.0
"""Seconds after which a ping is lost; a satellite link takes 0.7."""

CLOSE_TIMEOUT = 0.5
"""Seconds to say goodbye to everybody: SIGTERM must end the daemon in 2."""


class Net:
    """One node's network. Made by `open_net`; everything here runs in trio."""

    def __init__(self, switch: Switch, host: Host, services: Services, gossip: Gossip) -> None:
        self._switch = switch
        self._host = host
        self._services = services
        self._gossip = gossip
        self._connected: list[PeerCallback] = []
        self._disconnected: list[PeerCallback] = []
        self._addrs: tuple[str, ...] = ()
        self._discovery: Discovery | None = None
        switch.on_connected.append(self._on_connected)
        switch.on_disconnected.append(self._on_disconnected)

    def _started(self, addrs: tuple[str, ...], discovery: Discovery) -> None:
        self._addrs, self._discovery = addrs, discovery

    # -- who we are, and who is there

    @property
    def peer_id(self) -> bytes:
        """Our peer id."""
        return self._switch.own

    @property
    def book(self) -> PeerBook:
        """What we remember of everybody."""
        return self._switch.book

    def addrs(self) -> list[str]:
        """Where others reach us: multiaddrs with our peer id."""
        return list(self._addrs)

    def peers(self) -> list[Peer]:
        """Everybody we are connected to."""
        return [self._peer(conn) for conn in self._switch.all_connections()]

    def peer(self, peer_id: bytes) -> Peer | None:
        """One connected peer."""
        conn = self._switch.connection(peer_id)
        return None if conn is None else self._peer(conn)

    def _peer(self, conn: Connection) -> Peer:
        return Peer(
            id=conn.peer,
            addr=str(conn.address),
            direction="outbound" if conn.dialled else "inbound",
            since=conn.since,
            rtt=conn.muxed_conn.rtt() or None,
            score=self.book.worth(conn.peer),
            local=conn.address.is_local,
        )

    def on_peer(self, connected: PeerCallback, disconnected: PeerCallback) -> None:
        """Be told of connections to peers that come and go, in turn for each peer.

        Where a new connection takes the place of another (the peer came back before we saw it
        go), both are told: streams live on connections.
        """
        self._connected.append(connected)
        self._disconnected.append(disconnected)

    def _on_connected(self, conn: Connection) -> None:
        self._switch.emit(
            "peer.connected",
            peer=peer_id_text(conn.peer),
            addr=str(conn.address),
            direction="outbound" if conn.dialled else "inbound",
        )
        for callback in self._connected:
            callback(conn.peer)

    def _on_disconnected(self, conn: Connection) -> None:
        why = conn.muxed_conn.why_closed
        self._switch.emit("peer.disconnected", peer=peer_id_text(conn.peer), why=why)
        for callback in self._disconnected:
            callback(conn.peer)

    # -- connections

    async def connect(self, addr: str) -> bytes:
        """Connect to a multiaddr; answers the peer id of who is there.

        Raises AddressError, PeerUnreachableError.
        """
        address = parse(addr)
        try:
            return (await self._switch.dial(address)).peer
        except PeerUnreachableError:
            if address.peer is not None:
                self.book.dial_failed(address.peer)
            raise

    async def disconnect(self, peer_id: bytes) -> None:
        """End the connection to a peer, if there is one."""
        if (conn := self._switch.connection(peer_id)) is not None:
            await conn.close()

    async def ping(self, peer_id: bytes) -> float:
        """One round trip to a connected peer, in seconds. PeerUnreachableError, TimedOutError."""
        conn = self._switch.connection(peer_id)
        if conn is None:
            raise PeerUnreachableError(f"not connected to {peer_id_text(peer_id)}")
        with trio.move_on_after(PING_TIMEOUT):
            rtt = await conn.ping()
            self.book.round_trip(peer_id, rtt)
            return rtt
        raise TimedOutError(f"{peer_id_text(peer_id)} did not answer in {PING_TIMEOUT:.0f} s")

    def blame(self, peer_id: bytes, fault: Fault | str, why: str) -> None:
        """Count a fault against a peer. Enough of them disconnect and ban it for a while."""
        self._switch.blame(peer_id, Fault(fault), why)

    def learned(self, peer_id: bytes, addrs: Iterable[str], source: str = "heartbeat") -> None:
        """Somebody states where a peer is; discovery dials it when it wants more peers."""
        if peer_id == self.peer_id:
            return
        known = peer_id in self.book
        self.book.learned(peer_id, addrs, source)
        if not known and self._discovery is not None and self._discovery.lacking:
            self._discovery.wake()

    # -- streams

    def serve(
        self,
        protocol: str,
        handler: Handler,
        max_streams_per_peer: int = DEFAULT_STREAMS_PER_PEER,
    ) -> None:
        """Answer streams of `protocol`. The stream is ended when `handler` returns.

        What the handler raises ends the stream only; MalformedError and LimitError are also
        counted against the peer.
        """
        self._services.serve(protocol, handler, max_streams_per_peer)

    def open_stream(
        self, peer_id: bytes, protocol: str, *, timeout: float = OPEN_TIMEOUT
    ) -> AbstractAsyncContextManager[Stream]:
        """A stream to a connected peer: `async with net.open_stream(...) as stream`.

        Left normally it is ended politely (what was written arrives); left by an exception it is
        reset. Raises PeerUnreachableError, ProtocolUnsupportedError, StreamClosedError,
        TimedOutError.
        """
        return self._services.open(peer_id, protocol, timeout)

    # -- gossip

    def subscribe(self, topic: str, validate: Validate, deliver: Deliver) -> None:
        """Take part in a topic. Own messages are not delivered to ourselves."""
        self._gossip.subscribe(topic, validate, deliver)

    async def publish(self, topic: str, data: bytes) -> None:
        """Send `data` (at most gossip.MAX_MESSAGE bytes) to everybody on the topic."""
        await self._gossip.publish(topic, data)

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: messages in and out by what became of them, bytes."""
        return {**self._gossip.counters, **self._switch.traffic()}

    @property
    def messages(self) -> dict[tuple[str, str], int]:
        """Messages since the start by ("in" or "out", kind): gossip (published, or received from
        any neighbour), and the frames of each stream protocol by its name."""
        gossip = self._gossip.counters
        counts = {
            ("in", "gossip"): gossip.get("received", 0),
            ("out", "gossip"): gossip.get("published", 0),
        }
        for (direction, protocol), count in self._services.messages.items():
            counts[direction, protocol.split("/")[2]] = count
        return counts


@asynccontextmanager
async def open_net(
    settings: NetSettings,
    identity: Identity,
    network: str,
    book: PeerBook,
    emit: Emit,
    *,
    slots: Slots = NATIVE_SLOTS,
) -> AsyncIterator[Net]:
    """The network, listening and looking for peers while the block runs. `slots` score the peers.

    Raises ListenError, AddressError. When it is left, peers get a goodbye, the peer book is
    written, and every task of ours has ended.
    """
    with _alone():
        async with trio.open_nursery() as nursery:
            switch = Switch(
                key_pair_of(identity.seed),
                network,
                settings,
                book=book,
                emit=emit,
                nursery=nursery,
            )
            try:
                async with _running(switch, network, slots) as net:
                    yield net
            finally:
                # Last: whatever waits in a cancelled scope would replace the caller's exception.
                nursery.cancel_scope.cancel()


@contextmanager
def _alone() -> Iterator[None]:
    """Raise what the block raises without the nurseries' groups around it, if it is one."""
    try:
        yield
    except BaseExceptionGroup as group:
        first, *others = leaves(group)
        if others:
            raise
        raise first from first.__cause__


@asynccontextmanager
async def _running(switch: Switch, network: str, slots: Slots) -> AsyncIterator[Net]:
    settings, emit = switch.settings, switch.emit
    services = Services(switch)
    host = Host(switch, services)
    async with Gossip.run(host, emit) as gossip:
        await switch.bind(settings.listen)
        net = Net(switch, host, services, gossip)
        dht = Dht(host, emit) if settings.dht else None
        discovery = Discovery(switch, dht.look_around if dht else None)
        net._started(host.state_addresses(), discovery)
        tasks = {
            "discovery": discovery.run,
            "keeper": Keeper(switch).run,
            "scorer": Scorer(switch, slots).run,
        }
        if settings.mdns:
            tasks["mdns"] = lambda: _browse(network, net)
        async with trio.open_nursery() as nursery:
            for name, task in tasks.items():
                nursery.start_soon(supervise, name, task, emit)
            async with _goodbye(switch):
                yield net
            nursery.cancel_scope.cancel()


async def _browse(network: str, net: Net) -> None:
    addrs = tuple(net.addrs())
    port = parse(addrs[0]).port if addrs else 0
    await announce_and_browse(
        network, addrs, port, lambda peer, texts: net.learned(peer, texts, "mdns")
    )


@asynccontextmanager
async def _goodbye(switch: Switch) -> AsyncIterator[None]:
    """Take leave of everybody when the block is left, and write down what we know of them."""
    try:
        yield
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT) as scope:
            scope.shield = True
            await switch.close_all()
        switch.book.flush()
