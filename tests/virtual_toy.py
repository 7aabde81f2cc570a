"""A machine small enough to see through: it counts, saves what it counted, and tells everybody.

The tests of the simulator run it, so that what they find is the simulator's.
"""

from collections.abc import Sequence

from protocols.effects import Publish, Save, Send
from protocols.ledger.council import Instant
from simnet.virtual.faults import Faults
from simnet.virtual.node import Node
from simnet.virtual.plan import Cast, FaultSpec, draw
from simnet.virtual.world import World

PERIOD = 0.5
TABLE = "council"


class Counter:
    """Every `PERIOD` it saves the next number, row by row, and sends it to all others."""

    def __init__(self, node: Node, *, save_last: bool = False) -> None:
        self.node = node
        self.save_last = save_last
        table = node.disk.table(TABLE)
        self.count = max((int.from_bytes(key, "big") for key, _ in table.items()), default=0)
        self.told: dict[bytes, list[int]] = {}
        self.gossiped: list[int] = []
        self.up: set[bytes] = set()
        self._due = 0.0

    def start(self, now: Instant) -> Sequence[object]:
        self._due = now.mono + PERIOD
        return []

    def alarm(self, now: Instant) -> Sequence[object]:
        self._due = now.mono + PERIOD
        self.count += 1
        key = self.count.to_bytes(8, "big")
        saves: list[object] = [Save(TABLE, key, b"a number of some length")]
        others = sorted({node.key.peer for node in self.node.world.nodes} - {self.node.key.peer})
        tells: list[object] = [Send(peer, "/toy/1", key) for peer in others]
        tells.append(Publish("toy", key))
        return tells + saves if self.save_last else saves + tells

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        self.told.setdefault(peer, []).append(int.from_bytes(data, "big"))
        return []

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> Sequence[object]:
        self.gossiped.append(int.from_bytes(data, "big"))
        return []

    def heard_from(self, node: Node) -> list[int]:
        return self.told.get(node.key.peer, [])

    def linked(self, peer: bytes, up: bool, now: Instant) -> Sequence[object]:
        (self.up.add if up else self.up.discard)(peer)
        return []

    def wake_at(self) -> float | None:
        return self._due


def world_of(size: int, seed: int = 1, **options: bool) -> World:
    """`size` counters, started."""
    save_last = options.pop("save_last", False)
    world = World(seed, **options)
    for number in range(size):
        key = world.keys.new(f"m{number}")
        world.add(f"m{number}", key, lambda node: Counter(node, save_last=save_last))
    for node in world.nodes:
        node.start()
    return world


def program(node: Node) -> Counter:
    """Its machine; it must be up."""
    assert isinstance(node.program, Counter)
    return node.program


def befall(world: World, specs: list[FaultSpec], seconds: float) -> Faults:
    """Have a plan drawn and put into effect."""
    cast = Cast(tuple(range(len(world.nodes))), victims=(0,))
    return Faults(world, draw(world.seed, specs, cast, seconds))
