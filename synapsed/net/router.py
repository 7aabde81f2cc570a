"""py-libp2p's GossipSub, trimmed: the mesh, lazy gossip and repair of gossipsub 1.1.

It keeps that class's state and overrides what costs too much or trusts too much:

    the heartbeat defaults to 120 s, "adaptive" slows it down     1 s, always
    every control message may name any topic, which is kept       only topics of ours
    IHAVE and IWANT may ask for anything                          bounded for each heartbeat
    PRUNE may name peers, which are dialled                       nobody is dialled
    lists of delivery times grow for ever                         not kept
    RPCs are copied, split and encoded for each neighbour         encoded once

Source: https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

from synapsed.net.rpcqueue import RpcFrames, frame_of
from synapsed.process.supervise import Emit, guard

log = logging.getLogger(__name__)

DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 5, 8
"""Mesh neighbours for each topic: the specification's D; its D_lo of 5 and a tighter D_hi, since
each neighbour beyond six only brings duplicates."""

BEST = 4
"""Of the DEGREE that stay when a mesh is pruned, as many go by score (the specification's D_score),
and the rest by lot: who has learnt how to score well does not get the whole mesh."""

HEARTBEAT = 1.0
"""Seconds: the specification's."""

GOSSIP_DEGREE = 6
"""Neighbours outside the mesh that are told of recent messages at each heartbeat (D_lazy)."""

HISTORY, WINDOW = 10, 5
"""Heartbeats for which a message can be asked for, and for which it is gossiped about."""

PRUNE_BACKOFF, UNSUBSCRIBE_BACKOFF = 60, 10
"""Seconds before a pruned neighbour is grafted again: the specification's."""

FANOUT_SECONDS = 60
"""How long neighbours are remembered for a topic that we only publish to."""

MAX_IHAVE = 512
"""Message ids taken from one neighbour in a heartbeat: five seconds at the full message rate."""

MAX_IWANT = 64
"""Messages sent to one neighbour on its asking in a heartbeat: 4 MB at the very most."""

MAX_CONTROLS = 64
"""GRAFT, PRUNE, IHAVE or IWANT entries taken from one RPC: one for each topic is honest."""

IWANT_BATCH = 64 * 1024
"""Bytes of messages put into one answer: half of what a peer accepts."""


class Router(GossipSub):
    """Gossipsub 1.1 for GuardedPubsub."""

    def __init__(
        self,
        protocols: list[TProtocol],
        emit: Emit,
        score: Callable[[ID], float] = lambda _peer: 0.0,
    ) -> None:
        """`score` says how much a peer is wanted in a mesh: below 0, rather anybody else."""
        super().__init__(
            protocols,
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            time_to_live=FANOUT_SECONDS,
            gossip_window=WINDOW,
            gossip_history=HISTORY,
            prune_back_off=PRUNE_BACKOFF,
            unsubscribe_back_off=UNSUBSCRIBE_BACKOFF,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        # Scores live in the peer book, which outlives a connection.
        self.scorer = None
        self._score = score
        self._emit = emit
        self._told: Counter[ID] = Counter()
        self._asked: Counter[ID] = Counter()
        self._wanted: set[bytes] = set()
        self._missed: dict[ID, int] = {}
        """Neighbours that may lack recent messages, and for how many heartbeats more they are
        told of them: asking and answering may get lost as the messages did."""

    # -- messages

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Pass a validated message on; ours go to every subscriber that we know."""
        assert self.pubsub is not None
        self.mcache.put(pubsub_msg)
        origin = ID(pubsub_msg.from_id)
        topic = pubsub_msg.topicIDs[0]
        members = self.pubsub.peer_topics.get(topic, set())
        ours = msg_forwarder == self.pubsub.my_id
        targets = members if ours else self.mesh.get(topic, set()) & members
        frame = frame_of(rpc_pb2.RPC(publish=[pubsub_msg]))
        for peer in targets:
            if peer not in (msg_forwarder, origin):
                self._push(peer, frame)

    def _push(self, peer: ID, frame: bytes) -> None:
        assert self.pubsub is not None
        queue = self.pubsub.peer_queues.get(peer)
        if not isinstance(queue, RpcFrames) or not queue.push_frame(frame):
            self._missed[peer] = WINDOW

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        """A neighbour (again) takes part: graft it if there is room, and tell it what it missed."""
        self._missed[peer_id] = WINDOW
        await super().on_peer_subscribed(peer_id, topic)

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:  # noqa: ARG002 - base's
        """Queue an RPC for a neighbour."""
        self._push(peer_id, frame_of(rpc))

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """Queue a control message; without our signed record, which the hello has brought."""
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg))

    # -- control messages of others

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Take the control messages that concern topics of ours."""
        control = rpc.control
        for ihave in control.ihave[:MAX_CONTROLS]:
            if ihave.topicID in self.mesh:
                await self.handle_ihave(ihave, sender_peer_id)
        for iwant in control.iwant[:MAX_CONTROLS]:
            await self.handle_iwant(iwant, sender_peer_id)
        for graft in control.graft[:MAX_CONTROLS]:
            if graft.topicID in self.mesh:
                await self.handle_graft(graft, sender_peer_id)
        for prune in control.prune[:MAX_CONTROLS]:
            if prune.topicID in self.mesh:
                await self.handle_prune(prune, sender_peer_id)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for the messages that we have not seen."""
        assert self.pubsub is not None
        room = MAX_IHAVE - self._told[sender_peer_id]
        ids = ihave_msg.messageIDs[: max(0, room)]
        self._told[sender_peer_id] += len(ids)
        seen = self.pubsub.seen_messages
        wanted = [bytes(i) for i in ids if not seen.has(i) and i not in self._wanted]
        if wanted:
            self._wanted.update(wanted)
            control = rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=wanted)])
            await self.emit_control_message(control, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send what is asked for, as far as we still have it."""
        batch: list[rpc_pb2.Message] = []
        size = 0
        for message_id in iwant_msg.messageIDs[:MAX_IHAVE]:
            message = self.mcache.get(message_id)
            if message is None or self._asked[sender_peer_id] >= MAX_IWANT:
                continue
            self._asked[sender_peer_id] += 1
            batch.append(message)
            size += message.ByteSize()
            if size > IWANT_BATCH or len(batch) >= DEGREE:
                self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=batch))
                batch, size = [], 0
        if batch:
            self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=batch))

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """The neighbour takes us out of its mesh; whom else it recommends is not dialled."""
        topic = prune_msg.topicID
        self.mesh[topic].discard(sender_peer_id)
        self._add_back_off(
            sender_peer_id, topic, False, min(prune_msg.backoff or PRUNE_BACKOFF, 3600)
        )

    # -- heartbeat

    async def heartbeat(self) -> None:
        """Keep every topic's mesh at its degree, and gossip about recent messages."""
        while True:
            await trio.sleep(HEARTBEAT)
            with guard("gossipsub's heartbeat", self._emit):
                missed = set(self._missed)
                self._missed = {peer: n - 1 for peer, n in self._missed.items() if n > 1}
                for topic in list(self.mesh):
                    await self._maintain(topic)
                    self._gossip(topic, missed)
                self.mcache.shift()
                self._told.clear()
                self._asked.clear()
                self._wanted.clear()
                self._expire_back_off()

    def _able(self, topic: str) -> set[ID]:
        """Subscribers of the topic that we can send to."""
        assert self.pubsub is not None
        return self.pubsub.peer_topics.get(topic, set()) & self.pubsub.peers.keys()

    async def _maintain(self, topic: str) -> None:
        mesh, able = self.mesh[topic], self._able(topic)
        mesh &= able
        free = [peer for peer in able - mesh if not self._check_back_off(peer, topic)]
        if len(mesh) < DEGREE_LOW:
            for peer in self._wanted_first(free)[: DEGREE - len(mesh)]:
                await self._graft(topic, peer)
        elif len(mesh) > DEGREE_HIGH:
            for peer in mesh - set(self._best_and_others(mesh)):
                await self._prune(topic, peer)
        elif free:
            await self._exchange(topic, free)

    async def _exchange(self, topic: str, free: Collection[ID]) -> None:
        """For the worst of a full mesh, if it is unwanted, the best outside that is not. So a
        score, however wrong, takes nobody out of a mesh without another in the place."""
        worst, best = min(self.mesh[topic], key=self._score), max(free, key=self._score)
        if self._score(worst) < 0 <= self._score(best):
            await self._graft(topic, best)
            await self._prune(topic, worst)

    def _wanted_first(self, peers: Collection[ID]) -> list[ID]:
        """In any order, but those below 0 last: they are better than nobody."""
        return sorted(_shuffled(peers), key=lambda peer: self._score(peer) < 0)

    def _best_and_others(self, peers: Collection[ID]) -> list[ID]:
        """The DEGREE of them that stay: BEST by score, and the others by lot."""
        ranked = sorted(_shuffled(peers), key=self._score, reverse=True)
        return ranked[:BEST] + random.sample(ranked[BEST:], DEGREE - BEST)

    async def _graft(self, topic: str, peer: ID) -> None:
        self.mesh[topic].add(peer)
        await self.emit_graft(topic, peer)

    async def _prune(self, topic: str, peer: ID) -> None:
        self.mesh[topic].discard(peer)
        self._add_back_off(peer, topic, False)
        await self.emit_prune(topic, peer, False, False)

    def _gossip(self, topic: str, missed: set[ID]) -> None:
        ids = self.mcache.window(topic)
        if not ids:
            return
        able = self._able(topic)
        others = list(able - self.mesh[topic])
        told = {*random.sample(others, min(len(others), GOSSIP_DEGREE)), *(missed & able)}
        ihave = rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids[-MAX_IHAVE:])
        frame = frame_of(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[ihave])))
        for peer in told:
            self._push(peer, frame)

    def _expire_back_off(self) -> None:
        now = time.time()
        for topic, peers in self.back_off.items():
            self.back_off[topic] = {peer: till for peer, till in peers.items() if till > now}


def _shuffled(peers: Collection[ID]) -> list[ID]:
    return random.sample(sorted(peers, key=ID.to_bytes), len(peers))
