"""Peers of the network by Kademlia: py-libp2p's routing table and lookups, and only those.

Its `KadDHT` also stores values and providers for whoever asks (50,000 of a megabyte each) and
verifies a signed record for each peer of an answer, so its handler is not used. Ours answers
FIND_NODE, from the routing table and the peer book, and nothing else. The Noise prologue keeps
other networks out, so the common protocol id is no danger.
Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md
"""

import logging
import secrets

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import BUCKET_SIZE, PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]

from protocols.errors import MalformedError
from synapsed.net.errors import NetError
from synapsed.net.frames import read_varint_frame, varint_frame
from synapsed.net.host import Host
from synapsed.net.muxstream import MuxedStream
from synapsed.process.supervise import Emit, guard

log = logging.getLogger(__name__)

MAX_QUESTION = 4 * 1024
"""Bytes of a FIND_NODE with its sender's signed record."""

MAX_ANSWER = 64 * 1024
"""Bytes of an answer: twenty peers with eight addresses and a signed record each."""

MAX_QUESTIONS = 16
"""Questions on one stream; a lookup asks one."""

QUERY_TIMEOUT = 5.0
"""Seconds for one question and its answer."""

ALPHA = 3
"""Peers asked at a time: the Kademlia paper's."""

ROUNDS = 4
"""Rounds of one lookup: each halves the distance many times; 4 reach across 10,000 peers."""

MAX_ADDRS = 8
"""Addresses taken of one peer of an answer."""


class Dht:
    """Answers FIND_NODE, and looks around in the network."""

    def __init__(self, host: Host, emit: Emit) -> None:
        self._host = host
        self._emit = emit
        self._book = host.switch.book
        self.table = RoutingTable(host.get_id(), host)
        host.set_stream_handler(PROTOCOL_ID, self._answer)

    async def _refresh(self) -> None:
        """See that everybody whom we are connected to stands in the table."""
        for conn in self._host.switch.all_connections():
            await self._add(conn.peer)

    async def _add(self, peer: bytes) -> None:
        """Put a peer whose address is known into the table. A full bucket keeps its old ones."""
        addrs = [Multiaddr(text) for text in self._book.record(peer).addrs]
        bucket = self.table.find_bucket(ID(peer))
        if addrs and bucket.size() < BUCKET_SIZE:
            await self.table.add_peer(PeerInfo(ID(peer), addrs))

    # -- answering

    async def _answer(self, stream: INetStream) -> None:
        assert isinstance(stream, NetStream)
        muxed = stream.muxed_stream
        assert isinstance(muxed, MuxedStream)
        peer = stream.muxed_conn.peer_id.to_bytes()
        await self._refresh()
        try:
            for _ in range(MAX_QUESTIONS):
                with trio.fail_after(QUERY_TIMEOUT):
                    question = Message.FromString(await read_varint_frame(muxed, MAX_QUESTION))
                    if question.type != Message.MessageType.FIND_NODE:
                        raise MalformedError("the DHT here answers FIND_NODE only")
                    answer = self._closest(question.key, asker=peer)
                    await muxed.write(varint_frame(answer.SerializeToString()))
        except (MuxedStreamError, MalformedError, DecodeError, trio.TooSlowError) as error:
            log.debug("a DHT stream ended: %r", error)
            muxed.abort("over")

    def _closest(self, key: bytes, asker: bytes) -> Message:
        answer = Message(type=Message.MessageType.FIND_NODE)
        for found in self.table.find_local_closest_peers(key[:64], BUCKET_SIZE):
            peer = found.to_bytes()
            addrs = self._book.record(peer).addrs
            if peer != asker and addrs:
                entry = answer.closerPeers.add()
                entry.id = peer
                entry.addrs.extend(Multiaddr(text).to_bytes() for text in addrs[:MAX_ADDRS])
        return answer

    # -- asking

    async def look_around(self) -> None:
        """Look up ourselves and a random key; whoever turns up is put into the peer book."""
        await self._refresh()
        for key in (self._host.get_id().to_bytes(), secrets.token_bytes(32)):
            await self._look_up(key)

    async def _look_up(self, key: bytes) -> None:
        asked: set[ID] = set()
        for _ in range(ROUNDS):
            closest = self.table.find_local_closest_peers(key, BUCKET_SIZE)
            connected = self._host.get_connected_peers()
            fresh = [p for p in dict.fromkeys((*closest, *connected)) if p not in asked][:ALPHA]
            if not fresh:
                return
            asked.update(fresh)
            async with trio.open_nursery() as nursery:
                for peer in fresh:
                    nursery.start_soon(self._ask, peer, key)

    async def _ask(self, peer: ID, key: bytes) -> None:
        with guard("a question to the DHT", self._emit):
            try:
                with trio.fail_after(QUERY_TIMEOUT):
                    await self._take(await self._question(peer, key))
            except (BaseLibp2pError, NetError, MalformedError, DecodeError, trio.TooSlowError):
                self.table.remove_peer(peer)

    async def _question(self, peer: ID, key: bytes) -> Message:
        if self._host.switch.connection(peer.to_bytes()) is None:
            await self._host.switch.dial_peer(peer)
        stream = await self._host.new_stream(peer, [PROTOCOL_ID])
        assert isinstance(stream, NetStream)
        muxed = stream.muxed_stream
        assert isinstance(muxed, MuxedStream)
        try:
            question = Message(type=Message.MessageType.FIND_NODE, key=key)
            await muxed.write(varint_frame(question.SerializeToString()))
            return Message.FromString(await read_varint_frame(muxed, MAX_ANSWER))
        finally:
            muxed.abandon()

    async def _take(self, answer: Message) -> None:
        for entry in answer.closerPeers[:BUCKET_SIZE]:
            texts = []
            for raw in entry.addrs[:MAX_ADDRS]:
                try:
                    texts.append(str(Multiaddr(raw)))
                except (MultiaddrError, ValueError):
                    continue
            if entry.id != self._host.switch.own:
                self._book.learned(entry.id, texts, "dht")
                await self._add(entry.id)
