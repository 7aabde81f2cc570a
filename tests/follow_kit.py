"""Followers and liars in virtual time: frames on their way, disks, and whatever a test breaks."""

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.follow.chain import Advanced
from protocols.follow.follower import (
    Alarm,
    Event,
    Follower,
    Learnt,
    PeerDown,
    PeerUp,
    Received,
    Settings,
    Start,
)
from protocols.follow.messages import MAX_MESSAGE, PROTOCOL, Frame, Said, frame
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Certificate, Instant
from protocols.packing import unpack
from protocols.raft.ports import Accuse
from tests.gossip_kit import MacIdentity, mac_verify
from tests.ledger_world import BEGAN, NETWORK, Branch
from tests.participant_world import Disk

DELAY = 0.02


def peer(name: str) -> bytes:
    """Somebody's peer id."""
    return MacIdentity(name).peer_id


def said(data: bytes) -> tuple[Said, bytes]:
    """What a frame says, and what follows it."""
    message, raw = unpack(data, Frame, MAX_MESSAGE)
    return message.said, raw


class Node:
    """One follower, and what it did."""

    def __init__(self, town: "Town", name: str, settings: Settings, disk: Disk | None = None):
        self.town = town
        self.name = name
        self.peer = peer(name)
        self.settings = settings
        self.disk = disk or Disk()
        self.blamed: list[Blame] = []
        self.emitted: list[Emit] = []
        self.accused: list[Accuse] = []
        self.advanced: list[Advanced] = []
        self.saves = 0
        self.checks = 0
        self.alarm: float | None = None
        self.crash_after: int | None = None
        self.up = False

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.checks += 1
        return mac_verify(public_key, message, signature)

    @property
    def head(self) -> int:
        return self.follower.ledger.head.index

    def start(self, branch: Branch | None = None) -> "Node":
        genesis = (branch or self.town.branch).genesis
        self.follower = Follower(
            NETWORK, genesis, self.peer, self.verify, settings=self.settings, read=self.disk
        )
        self.up = True
        self.do(Start())
        return self

    def do(self, event: Event) -> None:
        if self.up:
            self.perform(self.follower.handle(event, self.town.instant))

    def perform(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after < 0:
                    self.up = False
                    return
            match effect:
                case Save():
                    assert effect.table == "ledger"
                    self.disk.save(effect)
                    self.saves += 1
                case Send(to, protocol, data):
                    assert protocol == PROTOCOL
                    self.town.carry(self.peer, to, data)
                case Publish(kind, data):
                    self.town.gossip(self.peer, kind, data)
                case Blame():
                    self.blamed.append(effect)
                case Emit():
                    self.emitted.append(effect)
                case Accuse():
                    self.accused.append(effect)
                case Advanced():
                    self.advanced.append(effect)
        at = self.follower.wake_at()
        if at is not None and at != self.alarm:
            self.alarm = at
            self.town.at(max(at, self.town.now), partial(self.ring, at, self.follower))

    def ring(self, at: float, follower: Follower) -> None:
        if self.alarm == at and self.follower is follower:
            self.alarm = None
            self.do(Alarm())

    def learn(self, branch: Branch, certificate: Certificate, start: int = 1) -> "Node":
        """Have it what a council ratified, as one of its members would."""
        stop = certificate.said.index + 1
        self.do(Learnt(branch.payloads[start:stop], certificate))
        self.settle()
        return self

    def settle(self) -> None:
        while self.up and self.follower.wake_at() == 0.0:
            self.do(Alarm())

    def meet(self, *others: "Node") -> "Node":
        for other in others:
            self.do(PeerUp(other.peer))
            other.do(PeerUp(self.peer))
        return self

    def leave(self, *others: "Node") -> None:
        for other in others:
            self.do(PeerDown(other.peer))
            other.do(PeerDown(self.peer))

    def told(self, kind: str) -> list[Emit]:
        return [each for each in self.emitted if each.kind == kind]

    def faults(self, other: "Node") -> list[str]:
        return [blame.fault for blame in self.blamed if blame.peer == other.peer]


Lie = Callable[[Said, bytes], bytes | None]
"""What is said, and what follows -> the frame that is sent instead, or none."""


class Town:
    """Followers of one branch."""

    def __init__(self, branch: Branch | None = None, settings: Settings | None = None) -> None:
        self.branch = branch or Branch()
        self.settings = settings or Settings()
        self.now = 0.0
        self.order = count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.nodes: dict[bytes, Node] = {}
        self.lies: dict[bytes, Lie] = {}
        self.traffic: list[tuple[bytes, bytes, bytes]] = []
        self.verdicts: list[tuple[bytes, Verdict]] = []

    @property
    def instant(self) -> Instant:
        return Instant(self.now, BEGAN + int(self.now * 1000))

    def node(self, name: str, disk: Disk | None = None, **settings: Any) -> Node:
        """A follower that has begun."""
        chosen = Settings(**settings) if settings else self.settings
        node = self.nodes[peer(name)] = Node(self, name, chosen, disk)
        return node.start()

    def lie(self, node: Node, lie: Lie) -> None:
        """Have `node` say something else than it would."""
        self.lies[node.peer] = lie

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), what))

    def carry(self, sender: bytes, to: bytes, data: bytes) -> None:
        if sender in self.lies:
            changed = self.lies[sender](*said(data))
            if changed is None:
                return
            data = changed
        self.traffic.append((sender, to, data))
        self.at(self.now + DELAY, partial(self.arrive, sender, to, data))

    def arrive(self, sender: bytes, to: bytes, data: bytes) -> None:
        if to in self.nodes:
            self.nodes[to].do(Received(sender, data))

    def gossip(self, sender: bytes, kind: str, data: bytes) -> None:
        assert kind == "ledger"
        for node in self.nodes.values():
            if node.peer != sender:
                self.at(self.now + DELAY, partial(self.hear, node, sender, data))

    def hear(self, node: Node, sender: bytes, data: bytes) -> Verdict | None:
        if not node.up:
            return None
        verdict, effects = node.follower.hear(sender, data, self.instant)
        self.verdicts.append((node.peer, verdict))
        node.perform(effects)
        return verdict

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            if until():
                return True
            self.now, _, what = heapq.heappop(self.queue)
            what()
        self.now = end
        return until()

    def until(self, node: Node, index: int, seconds: float = 60.0) -> bool:
        """Whether `node` has ratified up to `index` within so long."""
        return self.run(seconds, lambda: node.head >= index)


def resaid(message: Said, raw: bytes) -> bytes:
    """The frame of something said, with what follows it."""
    return frame(message, [raw] if raw else [])
