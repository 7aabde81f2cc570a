"""A `BasicHost` for py-libp2p's other parts (pubsub, identify, the DHT), over our switch.

What it changes: negotiation takes one round trip; addresses are computed when they change and not
for every message; nothing is dialled or identified behind our back; an exception in any handler
ends its stream and nothing else.
"""

import logging
from collections.abc import Sequence

import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from synapsed.net import negotiate
from synapsed.net.addresses import own_hosts
from synapsed.net.connection import Connection
from synapsed.net.errors import ProtocolUnsupportedError
from synapsed.net.muxstream import MuxedStream
from synapsed.net.streams import Services
from synapsed.net.switch import Switch

log = logging.getLogger(__name__)

MAX_ANNOUNCED = 8
"""Addresses that we state of ourselves: what peers remember of one (peerscore.MAX_ADDRS)."""


def key_pair_of(seed: bytes) -> KeyPair:
    """libp2p's form of an Ed25519 seed (32 bytes)."""
    return create_new_key_pair(seed)


class Host(BasicHost):
    """The node as py-libp2p's protocols see it."""

    def __init__(self, switch: Switch, services: Services) -> None:
        self.switch = switch
        self._services = services
        switch.on_stream = self._serve
        self._stated: list[Multiaddr] = []
        super().__init__(switch, disable_identify_address_discovery=True)
        # Whoever pushes an identity makes us parse a thousand addresses for nothing.
        self.remove_stream_handler(ID_PUSH)

    # -- addresses

    def state_addresses(self) -> tuple[str, ...]:
        """Work out what we tell others of where we are, now that we listen."""
        announce = self.switch.settings.announce
        texts = announce or self._reachable()
        own = self.get_id()
        stated = tuple(f"{text.partition('/p2p/')[0]}/p2p/{own}" for text in texts[:MAX_ANNOUNCED])
        self._stated = [Multiaddr(text) for text in stated]
        return stated

    def _reachable(self) -> tuple[str, ...]:
        found = []
        for bound in self.switch.listening():
            if bound.host in ("0.0.0.0", "::"):  # noqa: S104 - asks, does not bind
                wanted = ":" in bound.host
                found += [
                    f"/{'ip6' if wanted else 'ip4'}/{host}/tcp/{bound.port}"
                    for host in own_hosts()
                    if (":" in host) == wanted
                ]
            else:
                found.append(str(bound))
        return tuple(dict.fromkeys(found))

    def get_addrs(self) -> list[Multiaddr]:
        """What we state, with our peer id."""
        return self._stated

    # -- streams

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """A negotiated stream to a connected peer. Raises StreamFailure, SwarmException."""
        conn = self.switch.connection(peer_id.to_bytes())
        if conn is None:
            raise SwarmException(f"not connected to {peer_id}")
        try:
            muxed = await conn.muxed_conn.open_stream()
        except MuxedStreamError as error:
            raise SwarmException(str(error)) from error
        try:
            with trio.fail_after(negotiate.TIMEOUT):
                protocol = await negotiate.propose(negotiate.OnStream(muxed), protocol_ids)
        except (MuxedStreamError, MalformedError, ProtocolUnsupportedError) as error:
            muxed.abort("not agreed on")
            raise StreamFailure(str(error)) from error
        except trio.TooSlowError as error:
            muxed.abort("too slow")
            raise StreamFailure("the negotiation took too long") from error
        except BaseException:
            muxed.abort("given up")
            raise
        stream = conn.wrap(muxed)
        stream.set_protocol(TProtocol(protocol))
        return stream

    async def _serve(self, conn: Connection, muxed: MuxedStream) -> None:
        """Agree on a protocol for an inbound stream, and run its handler."""
        known = self.multiselect.handlers
        try:
            with trio.fail_after(negotiate.TIMEOUT):
                protocol = await negotiate.agree(
                    negotiate.OnStream(muxed), _Either(self._services, known)
                )
        except MalformedError as error:
            muxed.abort("malformed")
            self.switch.blame(conn.peer, Fault.MALFORMED, str(error))
            return
        except (MuxedStreamError, trio.TooSlowError):
            muxed.abort("not agreed on")
            return
        if protocol in self._services:
            await self._services.handle(conn, muxed, protocol)
            return
        handler = known[TProtocol(protocol)]
        assert handler is not None
        stream = conn.wrap(muxed)
        stream.set_protocol(TProtocol(protocol))
        try:
            await handler(stream)
        finally:
            conn.remove_stream(stream)

    async def connect(self, peer_info: PeerInfo) -> None:
        """Dial a peer that one of py-libp2p's parts wants."""
        peer = peer_info.peer_id.to_bytes()
        self.switch.book.learned(peer, [str(addr) for addr in peer_info.addrs], "dht")
        await self.switch.dial_peer(peer_info.peer_id)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Not behind our back: see identify.py."""


class _Either:
    """Our own protocols and py-libp2p's."""

    def __init__(self, ours: Services, theirs: dict) -> None:  # type: ignore[type-arg]
        self._ours, self._theirs = ours, theirs

    def __contains__(self, protocol: object) -> bool:
        return protocol in self._ours or protocol in self._theirs
