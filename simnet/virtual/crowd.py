"""Ten thousand daemons that follow the ledger of four: how many events a second that makes.

Each is a whole Follower (protocols/follow/follower.py): it hears of heads by gossip from a few
neighbours and passes them on, asks one of them for what it lacks, verifies the certificate and the
chain, and serves others. The fold of an entry is made once and shared, as is the state that it
leaves: what is measured is the protocol, not ten thousand times the same arithmetic.
"""

import time
from collections.abc import Sequence

from protocols.effects import Publish, Send
from protocols.envelope import Verify
from protocols.follow.follower import Alarm, Follower, PeerDown, PeerUp, Received, Start
from protocols.follow.messages import HEADS
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Instant
from protocols.ledger.fold import LedgerState
from simnet.virtual.case import Case
from simnet.virtual.failover import quiet
from simnet.virtual.node import Node
from simnet.virtual.real import RealKit
from simnet.virtual.roles import Roles
from simnet.virtual.world import World

MEMBERS = 4
NEIGHBOURS = 6
"""Gossipsub's mesh degree."""
SHARED = 256
"""States that are kept for those who are behind."""
SEEN = 256
"""Messages that a peer remembers to have passed on."""


class SharedFold:
    """The fold, made once for all who fold the same entry on the same head."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, bytes], LedgerState] = {}

    def __call__(self, ledger: LedgerState, payload: bytes, verify: Verify) -> LedgerState:
        """The state with one more entry; the given one stays as it is."""
        name = (ledger.head.hash, payload)
        found = self._made.get(name)
        if found is None:
            found = ledger.copy()
            found.apply(payload, verify)
            if len(self._made) >= SHARED:
                del self._made[next(iter(self._made))]
            self._made[name] = found
        return found


class Peer:
    """A follower as a program, with its part of the gossip."""

    def __init__(self, node: Node, follower: Follower) -> None:
        self._node = node
        self._follower = follower
        self._seen: dict[bytes, None] = {}

    @property
    def height(self) -> int:
        """Of its ledger."""
        return self._follower.ledger.head.index

    def start(self, now: Instant) -> Sequence[object]:
        """Begin."""
        return self._passed_on(self._follower.handle(Start(), now))

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        """A frame."""
        del protocol  # followers speak one
        return self._passed_on(self._follower.handle(Received(peer, data), now))

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> Sequence[object]:
        """A head, from a neighbour."""
        if kind != HEADS or data in self._seen:
            return []
        self._remember(data)
        verdict, effects = self._follower.hear(peer, data, now)
        onward = [Publish(HEADS, data)] if verdict is Verdict.ACCEPT else []
        return [*onward, *self._passed_on(effects)]

    def _remember(self, data: bytes) -> None:
        self._seen[data] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    def linked(self, peer: bytes, up: bool, now: Instant) -> Sequence[object]:
        """A neighbour came or went."""
        event = PeerUp(peer) if up else PeerDown(peer)
        return self._passed_on(self._follower.handle(event, now))

    def alarm(self, now: Instant) -> Sequence[object]:
        """Time."""
        return self._passed_on(self._follower.handle(Alarm(), now))

    def wake_at(self) -> float | None:
        """The follower's."""
        return self._follower.wake_at()

    def _passed_on(self, effects: Sequence[object]) -> list[object]:
        out: list[object] = []
        for effect in effects:
            if isinstance(effect, Publish):
                if effect.data in self._seen:
                    continue
                self._remember(effect.data)
            if isinstance(effect, Send | Publish):  # what it saves, nobody reads here
                out.append(effect)
        return out


class Crowd:
    """A council that ratifies, and a crowd behind it."""

    def __init__(self, peers: int, seed: int = 1) -> None:
        self.world = World(seed)
        case = Case(quiet(MEMBERS), seed)
        self.kit = RealKit(case, self.world, Roles(case, self.world.chance["roles"]))
        self.fold = SharedFold()
        for number in range(MEMBERS):
            node = self.world.add(
                f"m{number}", self.world.keys.new(f"identity {number}"), self.kit.start
            )
            self.kit.prepare(node)
        for number in range(peers):
            self.world.add(f"n{number}", self.world.keys.new(f"peer {number}"), self._peer)
        self.world.neighbours = self._mesh()
        self.world.on_other.append(lambda *_: None)

    def _peer(self, node: Node) -> Peer:
        follower = Follower(
            self.kit.network,
            self.kit.genesis,
            node.key.peer,
            self.world.keys.verify,
            ledger=self.kit.ledger(),
            fold=self.fold,
        )
        return Peer(node, follower)

    def _mesh(self) -> dict[int, tuple[int, ...]]:
        """Everybody with some who came before; the council with itself."""
        rng = self.world.chance["mesh"]
        met: list[set[int]] = [set() for _ in self.world.nodes]
        for number in range(len(met)):
            fewest = range(number) if number < MEMBERS else ()
            drawn = fewest or rng.sample(range(number), min(number, NEIGHBOURS // 2))
            for other in drawn:
                met[number].add(other)
                met[other].add(number)
        return {number: tuple(sorted(others)) for number, others in enumerate(met)}

    def run(self, virtual_s: float) -> tuple[int, float, int]:
        """Events, wall seconds that they took, and the height that the last peer reached."""
        for node in self.world.nodes:
            self.world.heap.at(self.world.chance["start"].random(), node.start)
        began, before = time.process_time(), self.world.heap.events
        self.world.heap.run(virtual_s)
        spent = time.process_time() - began
        peers = [node.program for node in self.world.nodes[MEMBERS:]]
        lowest = min(peer.height for peer in peers if isinstance(peer, Peer))
        return self.world.heap.events - before, spent, lowest
