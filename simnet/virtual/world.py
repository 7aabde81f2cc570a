"""A world: nodes, the network between them, what is told of them, and what is checked."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocols.effects import Blame, Emit, Publish, Save, Send
from simnet.virtual.dice import dice
from simnet.virtual.heap import Heap
from simnet.virtual.keys import Key, Keys
from simnet.virtual.net import Network
from simnet.virtual.node import GOSSIP, STREAM, Boot, Message, Node

NOTICE_S = 0.05
"""Seconds until a peer sees that a connection began or ended."""


class ViolationError(Exception):
    """Something that must hold did not."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence of the story of a run."""

    at: float
    node: int | None
    kind: str
    text: str


class Chance:
    """Generators by purpose, made when first asked for."""

    __slots__ = ("_made", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made: dict[str, random.Random] = {}

    def __getitem__(self, purpose: str) -> random.Random:
        found = self._made.get(purpose)
        if found is None:
            found = self._made[purpose] = dice(self._seed, purpose)
        return found


class World:
    """Nodes in one virtual time. The same seed and the same calls make the same run."""

    def __init__(self, seed: int, *, telling: bool = False, recording: bool = False) -> None:
        self.seed = seed
        self.chance = Chance(seed)
        self.heap = Heap()
        self.keys = Keys(seed)
        self.tally: Counter[str] = Counter()
        """How often each fault happened."""
        self.net = Network(self.heap, self.chance["net"], self._deliver, self.tally)
        self.nodes: list[Node] = []
        self.telling = telling
        self.recording = recording
        self.story: list[Line] = []
        self.describe: Callable[[Message], str] | None = None
        """Says what a message is, for a story with messages."""
        self.after_event: list[Callable[[Node], None]] = []
        self.on_save: list[Callable[[Node, Save], None]] = []
        self.on_send: list[Callable[[Node, bytes], None]] = []
        self.on_emit: list[Callable[[Node, Emit], None]] = []
        self.on_blame: list[Callable[[Node, Blame], None]] = []
        self.on_other: list[Callable[[Node, object], None]] = []
        self.on_crash: list[Callable[[Node], None]] = []
        self.faces: dict[tuple[int, bytes], tuple[int, ...]] = {}
        """Which of the nodes that share a peer id a node's messages to it reach; default all."""
        self.neighbours: dict[int, tuple[int, ...]] | None = None
        """Who is connected with whom; None: everybody with everybody."""
        self._places: dict[bytes, tuple[int, ...]] = {}
        self._digest = hashlib.sha256()

    @property
    def now(self) -> float:
        """The world's time, in seconds."""
        return self.heap.now

    @property
    def digest(self) -> str:
        """Of every message that was delivered, and when: equal runs have equal ones."""
        return self._digest.hexdigest()

    def add(self, name: str, key: Key, boot: Boot) -> Node:
        """A node that is still down. Several may share a key: they are twins."""
        node = Node(self, len(self.nodes), name, key, boot)
        self.nodes.append(node)
        self._places[key.peer] = (*self._places.get(key.peer, ()), node.number)
        return node

    def twins(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """Peer ids that several nodes share, and whose they are."""
        return [(peer, numbers) for peer, numbers in self._places.items() if len(numbers) > 1]

    # -- what nodes do ------------------------------------------------------------------------

    def send(self, node: Node, effect: Send, later: float) -> None:
        """Perform a Send."""
        for check in self.on_send:
            check(node, effect.data)
        message = (STREAM, effect.protocol, effect.data)
        for number in self._reached(node, effect.peer):
            if number != node.number:
                self.net.send(node.number, number, message, later)

    def publish(self, node: Node, effect: Publish, later: float) -> None:
        """Perform a Publish: each peer that is connected gets it, if it does."""
        for check in self.on_send:
            check(node, effect.data)
        message = (GOSSIP, effect.kind, effect.data)
        for peer in self._met(node):
            if peer != node.key.peer:
                for number in self._reached(node, peer):
                    self.net.send(node.number, number, message, later)

    def _met(self, node: Node) -> Iterable[bytes]:
        if self.neighbours is None:
            return self._places
        return [self.nodes[number].key.peer for number in self.neighbours[node.number]]

    def _reached(self, node: Node, peer: bytes) -> tuple[int, ...]:
        places = self._places.get(peer, ())
        if len(places) > 1:
            return self.faces.get((node.number, peer), places)
        return places

    def _deliver(self, source: int, target: int, message: Message) -> None:
        self.nodes[target].receive(self.nodes[source].key.peer, message)

    def emitted(self, node: Node, effect: Emit) -> None:
        """Perform an Emit."""
        for check in self.on_emit:
            check(node, effect)

    def blamed(self, node: Node, effect: Blame) -> None:
        """Perform a Blame."""
        for check in self.on_blame:
            check(node, effect)

    def other(self, node: Node, effect: object) -> None:
        """Perform an effect that is this machine's own."""
        if not self.on_other:
            raise TypeError(f"nobody performs {effect!r}")
        for perform in self.on_other:
            perform(node, effect)

    def came_up(self, node: Node) -> None:
        """Connect it with everybody who is up."""
        for other in self._others(node):
            if other is node or other.program is None or other.key.peer == node.key.peer:
                continue
            self.heap.after(NOTICE_S, other.linked, node.key.peer, True, other.lives)
            self.heap.after(NOTICE_S, node.linked, other.key.peer, True, node.lives)

    def went_down(self, node: Node) -> None:
        """Its connections end."""
        for check in self.on_crash:
            check(node)
        twin_up = any(
            self.nodes[number].program is not None for number in self._places[node.key.peer]
        )
        if twin_up:
            return
        for other in self._others(node):
            if other is not node and other.program is not None:
                self.heap.after(NOTICE_S, other.linked, node.key.peer, False, other.lives)

    def _others(self, node: Node) -> list[Node]:
        if self.neighbours is None:
            return self.nodes
        return [self.nodes[number] for number in self.neighbours[node.number]]

    # -- what is told -------------------------------------------------------------------------

    def tell(self, kind: str, text: str, node: Node | None = None) -> None:
        """Add a sentence to the story, where one is told."""
        if self.telling:
            number = None if node is None else node.number
            self.story.append(Line(self.heap.now, number, kind, text))

    def record(self, node: Node, peer: bytes, message: Message) -> None:
        """Take a delivery into the digest, and into the story where messages are told."""
        way, name, data = message
        self._digest.update(f"{self.heap.now!r} {node.number} {way} {name} ".encode())
        self._digest.update(peer + data)
        if self.telling and self.describe is not None:
            self.tell("message", f"< {self.name_of(peer)}: {self.describe(message)}", node)

    def name_of(self, peer: bytes) -> str:
        """A peer's name in the story."""
        places = self._places.get(peer)
        if not places:
            return "a stranger"
        return "/".join(self.nodes[number].name for number in places)

    def text(self) -> str:
        """The story, a sentence a line."""
        names = [node.name for node in self.nodes]
        width = max((len(name) for name in names), default=0)
        return "".join(
            f"{line.at:9.3f}  {'' if line.node is None else names[line.node]:<{width}}  "
            f"{line.text}\n"
            for line in self.story
        )
