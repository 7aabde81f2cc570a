"""Replicas of one tile group wired together in memory: time, links and disks are the test's."""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence

from protocols.cid import CID_LENGTH
from protocols.effects import Emit, Save, Send
from protocols.learn import replica_messages as messages
from protocols.learn.replica import Replica
from protocols.learn.replica_ports import (
    Blob,
    Committed,
    Declined,
    Event,
    Fetch,
    Folded,
    GroupId,
    Heard,
    Installed,
    Propose,
    Release,
    ReplicaSettings,
    Retired,
    Seats,
    Snapshot,
    Stored,
    Tick,
    Ticked,
    Turned,
)
from protocols.peerid import peer_id_of

GROUP = GroupId(b"\x01\x55\x12\x20" + bytes(CID_LENGTH - 4), 3)
SETTINGS = ReplicaSettings(lease_ms=60_000, forced_leases=2)
BEAT = SETTINGS.beat_ms
BORN = 5
"""Index of the ledger before everything here."""
STEP = 10
"""Milliseconds of one step of time, and what a message takes."""


def peer(name: str) -> bytes:
    """The peer id of a name."""
    return peer_id_of(hashlib.sha256(name.encode()).digest())


def seats(epoch: int, names: str, began: int | None = None, started_ms: int = 0) -> Seats:
    """`names`: three letters, the first choice first."""
    a, b, c = (peer(name) for name in names)
    return Seats(epoch, (a, b, c), 10 * epoch if began is None else began, started_ms)


def blob(content: bytes) -> Blob:
    """What names some bytes."""
    return Blob(hashlib.sha256(content).digest(), len(content))


class Home:
    """One daemon: a disk that keeps what was saved, and the replica's life on it."""

    def __init__(self, world: "Homes", name: str, born: int) -> None:
        self.world = world
        self.name = name
        self.peer = peer(name)
        self.born = born
        self.disk: dict[bytes, bytes] = {}
        self.blobs: set[bytes] = set()
        self.replica: Replica | None = None
        self.seats: tuple[Seats, ...] = ()
        self.can_lead = True
        self.log: list[bytes] = []
        """Bodies as they were committed; a snapshot's state stands for those before."""
        self.effects: list[object] = []
        """All of them, in order."""
        self.fold_at = 0

    def start(self, seats: tuple[Seats, ...] | None = None) -> None:
        """A new life with the disk that it has."""
        self.seats = seats or self.seats
        self.log = []
        self.replica = Replica(
            settings=self.world.settings,
            me=self.peer,
            group=GROUP,
            seats=self.seats,
            first=1,
            born=self.born,
            saved=dict(self.disk),
            can_lead=self.can_lead,
        )
        self.perform(self.replica.start(self.world.now))
        self.tick_ledger()

    def stop(self) -> None:
        """Kill -9."""
        self.replica = None

    def tick_ledger(self) -> None:
        """The ledger's newest tick is as old as now."""
        now = self.world.now
        self.do(Ticked(self.world.index, self.world.ledger_ms, now))

    def turn(self, seats: tuple[Seats, ...]) -> None:
        """The ledger's new epoch."""
        self.seats = seats
        self.do(Turned(seats))

    def do(self, event: Event) -> list[object]:
        """One event, and its effects performed."""
        if self.replica is None:
            return []
        effects = list(self.replica.handle(event, self.world.now))
        self.perform(effects)
        return effects

    def propose(self, body: bytes, blobs: Sequence[Blob] = (), tag: int = 1) -> list[object]:
        """A learner's offer."""
        self.blobs.update(each.digest for each in blobs)
        return self.do(Propose(body, tuple(blobs), tag))

    def perform(self, effects: Sequence[object]) -> None:
        """In order."""
        self.effects += effects
        for effect in effects:
            match effect:
                case Save(_, key, None):
                    self.disk.pop(key, None)
                case Save(_, key, value) if value is not None:
                    self.disk[key] = value
                case Send(to, _, data):
                    self.world.send(self.name, to, data)
                case Fetch(_, blobs):
                    self.world.later(lambda blobs=blobs: self.fetched(blobs))  # type: ignore[misc]
                case Committed(index, body, _, _):
                    self.log.append(body)
                    if self.fold_at and index % self.fold_at == 0:
                        state = b"|".join(self.log)
                        self.world.later(lambda i=index, s=state: self.do(Folded(i, s)))  # type: ignore[misc]
                case Installed(snapshot):
                    self.log = snapshot.state.split(b"|") if snapshot.index else []
                case Release(blobs):
                    self.blobs -= {each.digest for each in blobs}
                case Retired():
                    self.replica = None

    def fetched(self, blobs: Sequence[Blob]) -> None:
        """Blobs arrive, unless the test holds them back."""
        if not self.world.hold_blobs:
            self.blobs.update(each.digest for each in blobs)
            self.do(Stored(tuple(each.digest for each in blobs)))

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        """Its effects of one kind."""
        return [each for each in self.effects if isinstance(each, kind)]

    @property
    def leads(self) -> bool:
        """Whether it takes offers."""
        return self.replica is not None and self.replica.leading is not None


class Homes:
    """Some daemons, one of each letter, with links that take STEP ms and that may be cut."""

    def __init__(self, names: str = "abc", settings: ReplicaSettings = SETTINGS) -> None:
        self.now = 1_000
        self.settings = settings
        self.index = 100
        self.ledger_ms = self.now
        self.homes = {name: Home(self, name, BORN) for name in names}
        self.cuts: set[tuple[str, str]] = set()
        """(from, to) that carry nothing."""
        self.hold_blobs = False
        self.filter: Callable[[str, str, messages.Message], bool] = lambda *_: True
        self.sent: list[tuple[str, str, messages.Message]] = []
        self._queue: deque[tuple[int, Callable[[], object]]] = deque()
        self._names = {home.peer: name for name, home in self.homes.items()}

    def __getitem__(self, name: str) -> Home:
        return self.homes[name]

    def start(self, names: str = "abc") -> "Homes":
        """Those three are the first epoch's group; run until the first of them leads."""
        for home in self.homes.values():
            if home.name in names:
                home.start((seats(1, names),))
        self.run(200)
        return self

    def send(self, source: str, to: bytes, data: bytes) -> None:
        """A frame leaves."""
        message = messages.unpack(data)[1]
        target = self._names.get(to)
        if target is None:
            return
        self.sent.append((source, target, message))
        if (source, target) in self.cuts or not self.filter(source, target, message):
            return
        home = self.homes[source]
        self.later(lambda: self.homes[target].do(Heard(home.peer, data)))

    def later(self, call: Callable[[], object]) -> None:
        """In one step."""
        self._queue.append((self.now + STEP, call))

    def run(self, ms: int, *, ticking: bool | str = True) -> None:
        """Let time pass; the ledger ticks each second, for all or for those named."""
        until = self.now + ms
        while self.now < until:
            while self._queue and self._queue[0][0] <= self.now:
                self._queue.popleft()[1]()
            self.now += STEP
            if ticking and self.now % 1000 == 0:
                self.ledger_ms = self.now
                self.index += 1
                for home in self.homes.values():
                    if ticking is True or home.name in ticking:
                        home.tick_ledger()
            for home in self.homes.values():
                wake = None if home.replica is None else home.replica.next_wake
                if wake is not None and wake <= self.now:
                    home.do(Tick())

    def deliver(self) -> None:
        """What is under way arrives now, and what follows from that; nobody's Tick comes."""
        while self._queue:
            self._queue.popleft()[1]()

    def turn(self, newer: Seats, names: str) -> None:
        """A new epoch, which those know of; who has no replica gets one, if it is in it."""
        for name in names:
            home = self.homes[name]
            known = (newer, *home.seats) if home.seats else (newer, seats(1, "abc"))
            if home.replica is None and home.peer in newer.replicas:
                home.start(known)
            else:
                home.turn(known)

    def cut(self, name: str) -> None:
        """Nothing from it, nothing to it."""
        for other in self.homes:
            self.cuts |= {(name, other), (other, name)}

    def heal(self) -> None:
        """Everything passes."""
        self.cuts.clear()

    @property
    def leaders(self) -> list[str]:
        """Who takes offers."""
        return [name for name, home in self.homes.items() if home.leads]


__all__ = ["BEAT", "GROUP", "Declined", "Emit", "Home", "Homes", "Snapshot", "blob", "peer"]
