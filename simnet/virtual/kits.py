"""What a town is built of: a kind of daemon with its seat keys, and the genesis they begin with."""

from typing import Protocol

from protocols.ledger.council import Instant, Seat
from protocols.raft.ports import Settings
from protocols.raft.state import blank_state
from simnet.virtual.audit import Audit
from simnet.virtual.bare import BareLedger, submission
from simnet.virtual.bareprogram import BareProgram, SeatKey
from simnet.virtual.case import Case
from simnet.virtual.checks import Daemon
from simnet.virtual.keys import Key
from simnet.virtual.lessons import Lessons
from simnet.virtual.node import Node
from simnet.virtual.polls import Polls
from simnet.virtual.roles import Roles
from simnet.virtual.rollouts import Rollouts
from simnet.virtual.world import World

SEAT, GENERATION = "seat", b"generation"
"""Where a daemon's seat key is kept: with its state, and lost with it."""


class Kit(Protocol):
    """A kind of daemon, and the genesis that they all begin with."""

    network: str
    time_out: float
    """Seconds."""
    audit: Audit

    @property
    def polls(self) -> Polls | None:
        """Where there are proposals."""

    @property
    def rollouts(self) -> Rollouts | None:
        """Where there are upgrades."""

    @property
    def lessons(self) -> Lessons | None:
        """Where a model is trained."""

    def start(self, node: Node) -> Daemon:
        """The daemon of a node that comes up, with the disk that it has."""

    def prepare(self, node: Node) -> None:
        """Put on the disk of a first member what it made together with its seat key."""

    def first(self) -> Daemon:
        """A daemon that has only the genesis."""


class SeatKeys:
    """The seat keys of a world: each with its node's state, and lost with it (rule 7)."""

    def __init__(self, network: str, world: World, roles: Roles) -> None:
        self.audit = Audit(network)
        world.on_save.append(self.audit.saved)
        self._world = world
        self._roles = roles

    def _key(self, number: int, generation: bytes) -> Key:
        whose = self._roles.twins.get(number, number)
        return self._world.keys.new(f"seat {whose} {generation.decode()}")

    def public(self, number: int) -> bytes:
        """Of the first seat key of a node."""
        return self._key(number, b"0").public

    def make(self, node: Node, generation: bytes) -> None:
        """Save a new key, and that it has signed nothing yet."""
        blank = blank_state(self._key(node.number, generation).public)
        node.disk.save(SEAT, GENERATION, generation)
        node.disk.save(blank.table, blank.key, blank.value)
        node.disk.sync()

    def of(self, node: Node) -> Key:
        """The key on a node's disk, or a new one."""
        row = node.disk.table(SEAT).get(GENERATION)
        if row is None:
            row = str(node.lives).encode()
            self.make(node, row)
        key = self._key(node.number, row)
        key.heard = self.audit.heard(node, key.public)
        return key


class BareKit:
    """The council's log on a bare ledger."""

    network = "virtual"
    polls = None
    rollouts = None
    lessons = None

    def __init__(self, case: Case, world: World, roles: Roles) -> None:
        self.world = world
        self.keys = SeatKeys(self.network, world, roles)
        self.audit = self.keys.audit
        parameters = case.family.parameters
        self.time_out = parameters.get("council.time_out_ms", 2000) / 1000
        self.settings = Settings(time_out=self.time_out, tick=self.time_out / 2)
        self.epoch_entries = parameters.get("epoch_entries", 1 << 40)
        self._authors: dict[int, int] = {}
        self.seats = [
            Seat(world.keys.new(f"identity {n}").peer, self.keys.public(n), 1)
            for n in range(case.size)
        ]
        false = len(roles.liars) + len(roles.forgetful)
        self.audit.council(self._ledger().council, false)

    def prepare(self, node: Node) -> None:
        """Generation 0 is in the genesis."""
        self.keys.make(node, b"0")

    def _ledger(self) -> BareLedger:
        return BareLedger(self.network, self.seats, self.epoch_entries)

    def start(self, node: Node) -> "BareDaemon":
        """Its daemon."""
        others = sorted({each.key.peer for each in self.world.nodes} - {node.key.peer})
        key = self.keys.of(node)
        daemon = BareDaemon(
            self._ledger(),
            peer=node.key.peer,
            key=SeatKey(key.public, key.sign),
            verify=self.world.keys.verify,
            disk=node.disk,
            settings=self.settings,
            others=others,
        )
        daemon.kit, daemon.author = self, node.number
        return daemon

    def first(self) -> "BareDaemon":
        """One that has only the genesis."""
        key = self.world.keys.new("nobody")
        return self.start(Node(self.world, len(self.world.nodes), "", key, self.start))

    def next_number(self, author: int) -> int:
        """Of its next submission: nobody forgets how many there were, not even after a crash."""
        self._authors[author] = self._authors.get(author, -1) + 1
        return self._authors[author]


class BareDaemon(BareProgram):
    """The bare program, as the checks look at it."""

    kit: BareKit
    author: int
    _number = -1

    loaded = True
    """It reads everything when it starts."""

    def leading(self) -> bytes | None:
        """Who leads, as it sees it."""
        if self.replica is None:
            return None
        return bytes(self.ledger.council.seats[self.replica.leader].identity)

    @property
    def able(self) -> bool:
        """Whether it can sign for a seat."""
        return self.replica is not None and not self.replica.lost

    def submit(self, now: Instant) -> list[object]:
        """A new submission of its own."""
        self._number = self.kit.next_number(self.author)
        return self.propose(submission(self.author, self._number), now)

    def whisper(self, now: Instant) -> tuple[str, bytes] | None:
        """Here, who hears of a submission does not pass it on: it would say nothing."""
        del now
        return None

    @property
    def waiting(self) -> bool:
        """Whether the last of these is not ratified yet."""
        return self.ledger.numbers.get(self.author, -1) < self._number

    @property
    def banned(self) -> list[bytes]:
        """Guilt is not on this ledger."""
        return []
