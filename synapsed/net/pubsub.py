"""py-libp2p's Pubsub, guarded: what peers may send, what a message costs, what an error ends.

Guards of FACTS-libp2p.md in this file (tests/test_net_guards_pubsub.py shows each):

    any exception in a handler ends the process       everything runs inside `guard`
    a restart loses our gossip                        sequence numbers from time_ns
    a quick re-dial wedges pubsub                     state hangs on streams, not on peers
    10 messages a second, ours included               a token bucket for each neighbour
    a subscriber's queue holds 32 messages            4,096, with a drain task for each topic
    validators know only true and false, and cache    our own: accept, ignore or reject, no cache
    one RPC may hold 6,500 bad signatures             128 KiB and 32 messages; a bad one is a fault
    pubsub's wall clock and thread                    no thread; the protocol cores stay pure

A message's way: `_read` -> `_on_rpc` -> `_on_message` -> validate -> deliver, and the router.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.stream_muxer.exceptions import MuxedStreamError

from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.peerid import public_key_of
from protocols.ratelimit import TokenBucket
from synapsed.keys import verify
from synapsed.net.connection import Connection
from synapsed.net.frames import read_varint_frame
from synapsed.net.host import Host
from synapsed.net.muxstream import MuxedStream
from synapsed.net.router import Router
from synapsed.net.rpcqueue import RpcFrames, frame_of
from synapsed.net.switch import Switch
from synapsed.net.types import Deliver, Validate
from synapsed.process.supervise import Emit, guard

log = logging.getLogger(__name__)

MAX_RPC = 128 * 1024
"""Bytes of one inbound RPC: two of the largest messages."""

MAX_MESSAGE = 64 * 1024
"""Bytes of one message's data: an announcement has 1 KB, a proposal's manifest 20."""

MAX_MESSAGES = 32
"""Messages taken from one RPC: at 0.15 ms for a signature, 5 ms of the loop."""

MAX_TOPICS = 32
"""Topics that a peer may subscribe to; we have four kinds, and room for later ones."""

MESSAGE_RATE, MESSAGE_BURST = 100.0, 1000.0
"""New messages a second from one neighbour: a hundred daemons' announcements all at once."""

DUPLICATE_COST = 0.1
"""Tokens for a message seen before: honest in a mesh of six, and twenty times cheaper for us."""

RPC_RATE, RPC_BURST = 200.0, 2000.0
"""RPCs a second from one neighbour, with whatever control messages."""

FLOOD_PATIENCE = 200
"""RPCs dropped for want of tokens before that counts as a fault."""

SEEN_SECONDS = 120.0
"""How long a message id is remembered: gossipsub's default."""

SEEN_LIMIT = 50_000
"""Message ids remembered; at a hundred a second, 120 s of them are 12,000."""

QUEUE = 4096
"""Messages that wait for a topic's drain task: the burst of a hundred daemons, forty times."""

REOPEN_DELAY = 0.5
"""Seconds before the pubsub stream is opened again, doubling up to MAX_REOPEN_DELAY."""

MAX_REOPEN_DELAY = 30.0

_SIGNED_PREFIX = PUBSUB_SIGNING_PREFIX.encode()
_SEQNO_LENGTH = 8
_MAX_FROM = 64


class SeenCache:
    """Message ids of the last SEEN_SECONDS, in two generations; no thread, a bounded size."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned = clock()

    def has(self, key: bytes) -> bool:
        """Whether the id was added lately."""
        return key in self._young or key in self._old

    def add(self, key: bytes) -> bool:
        """Remember it. False if it was there."""
        now = self._clock()
        if now - self._turned > SEEN_SECONDS or len(self._young) > SEEN_LIMIT // 2:
            self._old, self._young, self._turned = self._young, set(), now
        known = self.has(key)
        self._young.add(key)
        return not known


class Topic:
    """One topic that we take part in."""

    def __init__(self, name: str, validate: Validate, deliver: Deliver) -> None:
        self.name = name
        self.validate = validate
        self.deliver = deliver
        self.queue: deque[tuple[bytes, bytes]] = deque()
        self.arrived = trio.Event()


class Neighbour:
    """What we keep of one peer that speaks pubsub to us."""

    def __init__(self) -> None:
        self.stream: MuxedStream | None = None
        self.messages = TokenBucket(MESSAGE_RATE, MESSAGE_BURST)
        self.rpcs = TokenBucket(RPC_RATE, RPC_BURST)
        self.records = TokenBucket(rate=0.2, burst=5)
        self.record = b""
        self.dropped = 0


class GuardedPubsub(Pubsub):
    """Pubsub over our switch. `topics` is what we take part in; `counters` what happened."""

    def __init__(self, host: Host, router: Router, emit: Emit) -> None:
        super().__init__(host, router, max_inbound_rpc_size=MAX_RPC)
        # It started a thread that sweeps a cache; ours needs none.
        self.seen_messages.stop()
        self.seen_messages = SeenCache(time.monotonic)  # type: ignore[assignment]
        # Whole seconds would repeat after a restart what peers have seen.
        self.counter = time.time_ns()
        self.switch: Switch = host.switch
        self.emit = emit
        self.topics: dict[str, Topic] = {}
        self.counters: Counter[str] = Counter()
        self._neighbours: dict[ID, Neighbour] = {}
        self.switch.on_connected.append(self._on_connected)
        self.switch.on_disconnected.append(self._on_disconnected)

    async def run(self) -> None:
        """Drain tasks are started by `join`; nothing else runs for pubsub itself."""
        await self.manager.wait_finished()

    # -- peers come and go

    def _on_connected(self, conn: Connection) -> None:
        async def keep_stream() -> None:
            with guard("pubsub's stream", self.emit):
                await self._keep_stream(conn)

        conn.start_soon(keep_stream)

    def _on_disconnected(self, conn: Connection) -> None:
        self._neighbours.pop(conn.muxed_conn.peer_id, None)

    async def _keep_stream(self, conn: Connection) -> None:
        """Hold a stream of ours to the peer open for as long as the connection lives.

        py-libp2p hangs its state on the peer id, so that a second connection finds "already
        known" and sends no hello. Here every stream begins with one.
        """
        delay = REOPEN_DELAY
        while not conn.is_closed:
            began = trio.current_time()
            try:
                stream = await self.host.new_stream(conn.muxed_conn.peer_id, self.protocols)
            except (BaseLibp2pError, SwarmException) as error:
                log.debug("no pubsub stream to %s: %s", conn.muxed_conn.peer_id, error)
            else:
                assert isinstance(stream, NetStream)
                await self._send(conn.muxed_conn.peer_id, stream)
            if trio.current_time() - began > MAX_REOPEN_DELAY:
                delay = REOPEN_DELAY
            await trio.sleep(delay)
            delay = min(2 * delay, MAX_REOPEN_DELAY)

    async def _send(self, peer: ID, stream: NetStream) -> None:
        queue = RpcFrames()
        queue.push_frame(frame_of(self.get_hello_packet()))
        self.router.add_peer(peer, stream.get_protocol())
        self.peers[peer] = stream
        self.peer_queues[peer] = queue
        try:
            while True:
                await stream.muxed_stream.write(await queue.next_frames())
        except MuxedStreamError as error:
            log.debug("pubsub's stream to %s ended: %s", peer, error)
        finally:
            if self.peers.get(peer) is stream:
                del self.peers[peer]
                del self.peer_queues[peer]
                self.router.remove_peer(peer)

    # -- what arrives

    async def stream_handler(self, stream: INetStream) -> None:
        """Read one inbound pubsub stream to its end."""
        assert isinstance(stream, NetStream)
        muxed = stream.muxed_stream
        assert isinstance(muxed, MuxedStream)
        peer = stream.muxed_conn.peer_id
        neighbour = self._neighbours.setdefault(peer, Neighbour())
        if neighbour.stream is not None:
            neighbour.stream.abort("another pubsub stream")
        neighbour.stream = muxed
        self._forget_all_subscriptions(peer)
        try:
            await self._read(peer, neighbour, muxed)
        except MuxedStreamError as error:
            log.debug("pubsub's stream from %s ended: %s", peer, error)
        except (MalformedError, DecodeError) as error:
            muxed.abort("malformed")
            self._blame(peer, Fault.MALFORMED, f"pubsub: {error}")
        finally:
            if neighbour.stream is muxed:
                neighbour.stream = None
                if self._neighbours.get(peer) in (neighbour, None):
                    self._forget_all_subscriptions(peer)

    async def _read(self, peer: ID, neighbour: Neighbour, stream: MuxedStream) -> None:
        while True:
            data = await read_varint_frame(stream, MAX_RPC)
            if neighbour.rpcs.take(1, time.monotonic()):
                self._dropped(peer, neighbour)
                continue
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(data)
            await self._on_rpc(peer, neighbour, rpc)
            await trio.lowlevel.checkpoint()

    def _dropped(self, peer: ID, neighbour: Neighbour) -> None:
        self.counters["throttled"] += 1
        neighbour.dropped += 1
        if neighbour.dropped % FLOOD_PATIENCE == 0:
            self._blame(peer, Fault.FLOOD, "it sends more gossip than anybody may")

    async def _on_rpc(self, peer: ID, neighbour: Neighbour, rpc: rpc_pb2.RPC) -> None:
        self._on_record(peer, neighbour, rpc.senderRecord)
        if len(rpc.subscriptions) > MAX_TOPICS:
            raise MalformedError(f"{len(rpc.subscriptions)} subscriptions in one RPC")
        for subscription in rpc.subscriptions:
            await self._on_subscription(peer, subscription)
        if len(rpc.publish) > MAX_MESSAGES:
            self.counters["throttled"] += len(rpc.publish) - MAX_MESSAGES
            self._dropped(peer, neighbour)
        for message in rpc.publish[:MAX_MESSAGES]:
            if self.switch.connection(peer.to_bytes()) is None:
                return  # banned for one of the messages before
            await self._on_message(peer, neighbour, message)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    def _on_record(self, peer: ID, neighbour: Neighbour, record: bytes) -> None:
        """The peer's signed addresses: the same bytes are verified once."""
        if not record or record == neighbour.record:
            return
        if neighbour.records.take(1, time.monotonic()):
            return
        try:
            _, stated = consume_envelope(record, "libp2p-peer-record")
        except (BaseLibp2pError, DecodeError, ValueError) as error:
            raise MalformedError(f"a peer record that does not verify: {error}") from error
        if stated.peer_id != peer:
            raise MalformedError("another peer's record")
        neighbour.record = record
        addrs = [str(addr) for addr in stated.addrs[:MAX_TOPICS]]
        self.switch.book.learned(peer.to_bytes(), addrs, "gossip")

    async def _on_subscription(self, peer: ID, change: rpc_pb2.RPC.SubOpts) -> None:
        topic = change.topicid
        if topic not in self.topics:
            return  # not ours: remembering it would only let others fill our memory
        if not change.subscribe:
            self._forget_subscription(peer, topic)
            return
        members = self.peer_topics.setdefault(topic, set())
        if peer not in members:
            members.add(peer)
            await self.router.on_peer_subscribed(peer, topic)

    async def _on_message(self, peer: ID, neighbour: Neighbour, msg: rpc_pb2.Message) -> None:
        self.counters["received"] += 1
        now = time.monotonic()
        message_id = self.get_message_id(msg)
        if self.seen_messages.has(message_id):
            self.counters["duplicates"] += 1
            self.switch.book.brought(peer.to_bytes(), first=False)
            neighbour.messages.take(DUPLICATE_COST, now)
            return
        if neighbour.messages.take(1, now):
            self._dropped(peer, neighbour)
            return
        topic = self.topics.get(msg.topicIDs[0]) if len(msg.topicIDs) == 1 else None
        if topic is None or msg.from_id == self.my_id.to_bytes():
            self.counters["ignored"] += 1
            return
        if not is_signed(msg):
            # Not remembered as seen: the true message of this id may yet come.
            self.counters["rejected"] += 1
            self._blame(peer, Fault.REJECTED, "it passed on a message with a bad signature")
            return
        self.seen_messages.add(message_id)
        verdict = self._judge(topic, peer, msg)
        if verdict is Verdict.REJECT:
            self.counters["rejected"] += 1
            self._blame(peer, Fault.REJECTED, f"it passed on what {topic.name} rejects")
        elif verdict is Verdict.IGNORE:
            self.counters["ignored"] += 1
        else:
            self.counters["accepted"] += 1
            self.switch.book.brought(peer.to_bytes(), first=True)
            self._deliver(topic, peer, msg)
            await self.router.publish(peer, msg)

    def _judge(self, topic: Topic, peer: ID, msg: rpc_pb2.Message) -> Verdict:
        verdict = Verdict.IGNORE  # where the validator itself fails
        with guard(f"the validator of {topic.name}", self.emit):
            verdict = topic.validate(peer.to_bytes(), msg.data)
        return verdict

    def _deliver(self, topic: Topic, peer: ID, msg: rpc_pb2.Message) -> None:
        if len(topic.queue) >= QUEUE:
            topic.queue.popleft()
            self.counters["undelivered"] += 1
        topic.queue.append((peer.to_bytes(), msg.data))
        topic.arrived.set()

    async def drain(self, topic: Topic) -> None:
        """Hand a topic's messages to its subscriber, one after another."""
        while True:
            while topic.queue:
                with guard(f"the subscriber of {topic.name}", self.emit):
                    await topic.deliver(*topic.queue.popleft())
            topic.arrived = trio.Event()
            await topic.arrived.wait()

    def _blame(self, peer: ID, fault: Fault, why: str) -> None:
        self.switch.blame(peer.to_bytes(), fault, why)

    # -- what we send

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Send a message of our own (`Pubsub.publish` made and signed it)."""
        if msg_forwarder != self.my_id:
            raise ValueError("messages of others come through _on_message")
        self.counters["published"] += 1
        self.seen_messages.add(self.get_message_id(msg))
        await self.router.publish(msg_forwarder, msg)

    async def join(self, topic: Topic) -> None:
        """Take part in a topic, and tell everybody."""
        self.topics[topic.name] = topic
        rpc = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic.name)])
        frame = frame_of(rpc)
        for queue in self.peer_queues.values():
            assert isinstance(queue, RpcFrames)
            queue.push_frame(frame)
        await self.router.join(topic.name)

    @property
    def topic_ids(self):  # type: ignore[no-untyped-def]  # base: KeysView of its own map
        """The topics that we take part in."""
        return self.topics.keys()


def is_signed(msg: rpc_pb2.Message) -> bool:
    """Whether an Ed25519 peer signed the message. The key is in its peer id; others are refused."""
    if len(msg.seqno) != _SEQNO_LENGTH or len(msg.from_id) > _MAX_FROM:
        return False
    try:
        key = public_key_of(msg.from_id)
    except MalformedError:
        return False
    bare = rpc_pb2.Message(
        data=msg.data, topicIDs=msg.topicIDs, from_id=msg.from_id, seqno=msg.seqno
    )
    return verify(key, _SIGNED_PREFIX + bare.SerializeToString(), msg.signature)


PROTOCOLS = [TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0")]
"""Gossipsub's versions that we speak: 1.2's IDONTWANT doubles the RPCs of small messages."""
