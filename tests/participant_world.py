"""A few daemons' participants in virtual time, with disks that keep what was saved.

Not the simulator: no faults of its own beside those that a test makes, so that a test can say
what it is about.
"""

import heapq
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from protocols.council.errands import Examine, SeatKey
from protocols.council.participant import Participant, Received, Settings, Settled, Submit
from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.follow.chain import Advanced
from protocols.follow.follower import Alarm, PeerDown, PeerUp, Start
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Instant
from protocols.ledger.entries import Body
from protocols.ledger.signing import submit
from protocols.raft.state import blank_state
from tests.gossip_kit import MacIdentity, mac_verify
from tests.ledger_world import BEGAN, NETWORK, Branch, Key

DELAY = 0.02


class Disk:
    """One table: what was saved."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, key: bytes, /) -> bytes | None:
        return self.rows.get(key)

    def items(self, prefix: bytes = b"", /) -> list[tuple[bytes, bytes]]:
        return sorted((k, v) for k, v in self.rows.items() if k.startswith(prefix))

    def save(self, effect: Save) -> None:
        if effect.value is None:
            self.rows.pop(effect.key, None)
        else:
            self.rows[effect.key] = effect.value


class Daemon:
    """One participant and what happened to it."""

    def __init__(self, world: "World", who: Key, seat: Key, settings: Settings) -> None:
        self.world = world
        self.who = who
        self.seat = seat
        self.settings = settings
        self.disks = {"ledger": Disk(), "council": Disk()}
        self.disks["council"].save(blank_state(seat.public_key))
        self.up = False
        self.emitted: list[Emit] = []
        self.blamed: list[Blame] = []
        self.settled: list[Settled] = []
        self.examine: list[Examine] = []
        self.advanced: list[Advanced] = []
        self.alarm: float | None = None

    @property
    def peer(self) -> bytes:
        return self.who.peer_id

    @property
    def head(self) -> int:
        return self.part.ledger.head.index

    def start(self) -> None:
        world = self.world
        key = SeatKey(self.seat.public_key, self.seat.sign, self.seat.public_key)
        self.part = Participant(
            NETWORK,
            world.branch.genesis,
            self.peer,
            self.who.sign,
            mac_verify,
            seat_key=key,
            settings=self.settings,
            read=self.disks,
        )
        self.up = True
        self.do(Start())
        for other in world.daemons.values():
            if other is not self and other.up:
                self.do(PeerUp(other.peer))
                other.do(PeerUp(self.peer))

    def kill(self) -> None:
        self.up = False
        for other in self.world.daemons.values():
            if other.up:
                other.do(PeerDown(self.peer))

    def do(self, event: Any) -> None:
        self.perform(self.part.handle(event, self.world.instant))

    def perform(self, effects: Iterable[Any]) -> None:
        for effect in effects:
            match effect:
                case Save(table, _, _):
                    self.disks[table].save(effect)
                case Send(peer, protocol, data):
                    self.world.carry(self.peer, peer, protocol, data)
                case Publish(kind, data):
                    self.world.gossip(self.peer, kind, data)
                case Emit():
                    self.emitted.append(effect)
                case Blame():
                    self.blamed.append(effect)
                case Settled():
                    self.settled.append(effect)
                case Examine():
                    self.examine.append(effect)
                case Advanced():
                    self.advanced.append(effect)
                case _:
                    raise AssertionError(f"an effect that nobody performs: {effect}")
        self.set_alarm()

    def set_alarm(self) -> None:
        at = self.part.wake_at()
        if at is None or at == self.alarm:
            return
        self.alarm = at
        part = self.part

        def ring() -> None:
            if self.up and self.part is part and self.alarm == at:
                self.alarm = None
                self.do(Alarm())

        self.world.at(max(at, self.world.now), ring)

    def submit(self, body: Body, **changes: Any) -> bytes:
        ledger = self.part.ledger
        data = submit(
            ledger.realm,
            self.peer,
            body,
            expires=ledger.time + 600_000,
            sign=self.who.sign,
        )
        self.do(Submit(data))
        return data

    def told(self, kind: str) -> list[Emit]:
        return [each for each in self.emitted if each.kind == kind]


class World:
    """Daemons, and what is on its way between them."""

    def __init__(
        self, seats: int = 4, others: int = 0, settings: Settings | None = None, **parameters: Any
    ) -> None:
        self.now = 0.0
        self.order = count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.branch = Branch(seats, **parameters)
        self.daemons: dict[bytes, Daemon] = {}
        self.lost: Callable[[bytes, bytes, str], bool] = lambda *_: False
        self.frames: dict[str, int] = {}
        settings = settings or Settings()
        self.members = [self.add(one, settings) for one in self.branch.members]
        self.others = [self.add(MacIdentity(f"other {n}"), settings) for n in range(others)]

    def add(self, who: Key, settings: Settings) -> Daemon:
        seat = self.branch.seat_keys.get(who.peer_id) or MacIdentity(f"seat of {who.peer_id!r}")
        daemon = Daemon(self, who, seat, settings)
        self.daemons[who.peer_id] = daemon
        return daemon

    @property
    def instant(self) -> Instant:
        return Instant(self.now, BEGAN + int(self.now * 1000))

    def start(self) -> "World":
        for daemon in self.daemons.values():
            daemon.start()
        return self

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), what))

    def carry(self, sender: bytes, peer: bytes, protocol: str, data: bytes) -> None:
        self.frames[protocol] = self.frames.get(protocol, 0) + 1
        if self.lost(sender, peer, protocol):
            return

        def arrive() -> None:
            daemon = self.daemons.get(peer)
            if daemon is not None and daemon.up and self.daemons[sender].up:
                daemon.do(Received(sender, protocol, data))

        self.at(self.now + DELAY, arrive)

    def gossip(self, sender: bytes, kind: str, data: bytes) -> None:
        for daemon in self.daemons.values():
            if daemon.peer != sender and not self.lost(sender, daemon.peer, kind):
                self.at(
                    self.now + DELAY, lambda daemon=daemon: self.hear(daemon, sender, kind, data)
                )

    def hear(self, daemon: Daemon, sender: bytes, kind: str, data: bytes) -> None:
        if daemon.up:
            verdict, effects = daemon.part.hear(sender, kind, data, self.instant)
            assert verdict is not Verdict.REJECT, f"honest gossip of {kind} was rejected"
            daemon.perform(effects)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            if until():
                return True
            self.now, _, what = heapq.heappop(self.queue)
            what()
        self.now = end
        return until()

    def heads(self) -> list[int]:
        return [daemon.head for daemon in self.daemons.values()]
