"""A tile group's three, their successors, a ledger that turns, and bad luck, in one world.

A run has a safety phase, in which anything may happen; then everything heals, a last epoch begins
(so that whoever was wiped counts again), and something new must be acknowledged.
"""

import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from protocols.cid import CID_LENGTH
from protocols.effects import Send
from protocols.learn.replica_ports import GroupId, ReplicaSettings, Seats
from protocols.ledger.council import Instant
from simnet.virtual.case import Case, Outcome
from simnet.virtual.clock import BEGAN_MS
from simnet.virtual.disk import Disk
from simnet.virtual.faults import Faults
from simnet.virtual.net import Weather
from simnet.virtual.node import Node
from simnet.virtual.plan import Cast, Episode, draw, without
from simnet.virtual.tilechecks import TileChecks
from simnet.virtual.tiledaemon import LEDGER, OFFER, LedgerSays, TileDaemon
from simnet.virtual.world import ViolationError, World

SETTINGS = ReplicaSettings(lease_ms=8000, forced_leases=2)
"""A lease that a run of 40 s sees the end of, several times, and epochs that are forced as early as
is safe; the rest as daemons have it."""
MARGIN_MS = 4000
"""Of births: half a lease, as by default."""
TICK_S = 1.0
TOLD = 12
"""Epochs that the ledger's node tells at once: who slept through more is in no group of them."""
FIRST = 1
"""The epoch in which the training was opened."""
OPENED_S = MARGIN_MS / 1000 + 4.0
"""When: those who are there from the beginning were born before."""
MOST_BEATS = 40
"""From healing until something new is acknowledged; where an epoch has to be forced, its lease
comes on top."""


class WholeDisk(Disk):
    """One that tears no row, as a store with a write-ahead log (the daemon's is SQLite)."""

    def crash(self, rng: random.Random) -> None:
        """Lose a last part of what was not synced."""
        kept = rng.randint(0, len(self._unsynced))
        cut = self._unsynced[kept:]
        for table, key, before in reversed(cut):
            rows = self._tables[table]
            if before is None:
                rows.pop(key, None)
            else:
                rows[key] = before
        self.lost += len(cut)
        self._unsynced.clear()


class TileWorld(World):
    """A world that shows what leaves a node, whole."""

    check: Callable[[Node, Send], None]

    def send(self, node: Node, effect: Send, later: float) -> None:
        """What is saved before it is durable by now."""
        self.check(node, effect)
        super().send(node, effect, later)


class LedgerNode:
    """Ratified elsewhere: it tells everybody the newest tick and the last epochs, every second."""

    def __init__(self, town: "TileTown") -> None:
        self._town = town
        self._next = 0.0

    def start(self, now: Instant) -> list[object]:
        """It never fails."""
        self._next = now.mono + TICK_S
        return []

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> list[object]:
        """The learner's part: acknowledgements are noted as they leave (tilechecks.py)."""
        del peer, protocol, data, now
        return []

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> list[object]:
        """Nothing is gossiped."""
        del peer, kind, data, now
        return []

    def linked(self, peer: bytes, up: bool, now: Instant) -> list[object]:
        """It does not look."""
        del peer, up, now
        return []

    def alarm(self, now: Instant) -> list[object]:
        """A tick."""
        self._next = now.mono + TICK_S
        return self._town.ledger_tick()

    def wake_at(self) -> float | None:
        """Each second."""
        return self._next


class TileTown:
    """One run."""

    def __init__(self, case: Case, *, telling: bool = False, recording: bool = False) -> None:
        self.case = case
        self.settings = SETTINGS
        self.world = TileWorld(case.seed, telling=telling, recording=recording)
        self.world.net.calm = Weather(**case.family.weather)
        self.world.net.heal()
        self.group = GroupId(b"\x01\x55\x12\x20" + bytes(CID_LENGTH - 4), 7)
        self.index = 0
        self.seats: list[Seats] = []
        """Newest first."""
        self.healed: float | None = None
        self._offers = 0
        self._chance = self.world.chance["tiles"]
        self._rate = max(case.family.submissions, 0.1)
        self._populate()
        self.checks = self._watch()
        self.world.check = self.checks.sent
        specs = case.family.faults
        members = tuple(range(case.size))
        cast_ = Cast(members=members, victims=members)
        self.plan: list[Episode] = draw(case.seed, specs, cast_, case.safety_s)
        self.faults = Faults(self.world, without(self.plan, case.without))
        self.faults.leader = self.leader
        self.faults.damages = self.checks.wiped

    def _populate(self) -> None:
        world = self.world
        key = world.keys.new("ledger")
        for number in range(self.case.size):
            made = world.add(f"d{number}", world.keys.new(f"identity {number}"), self._boot)
            made.disk = WholeDisk()
        self.ledger = world.add("ledger", key, lambda _: LedgerNode(self))

    def _watch(self) -> TileChecks:
        return TileChecks(self)

    def _boot(self, node: Node) -> TileDaemon:
        return TileDaemon(
            node,
            group=self.group,
            first=FIRST,
            ledger=self.ledger.key.peer,
            settings=self.settings,
            margin_ms=MARGIN_MS,
        )

    @property
    def daemons(self) -> list[Node]:
        """All but the ledger's node."""
        return self.world.nodes[: self.case.size]

    def daemon(self, node: Node) -> TileDaemon:
        """The program of one that is up."""
        return cast(TileDaemon, node.program)

    # -- the ledger -----------------------------------------------------------------------------

    def turn(self) -> None:
        """A new epoch: three of the daemons, drawn."""
        self.index += 1
        epoch = self.seats[0].epoch + 1 if self.seats else FIRST
        peers = [node.key.peer for node in self.daemons]
        if self.seats and self._chance.random() < 0.3:
            replicas = self.seats[0].replicas  # nothing changed for this group
        else:
            replicas = cast(tuple[bytes, bytes, bytes], tuple(self._chance.sample(peers, 3)))
        self.seats.insert(0, Seats(epoch, replicas, self.index, self._time_ms()))
        self.world.tally["epoch"] += 1
        if self.world.telling:
            names = " ".join(self.world.name_of(peer) for peer in replicas)
            self.world.tell("epoch", f"epoch {epoch} begins: {names}")
        self.ledger.do(self.ledger_tick())

    def _time_ms(self) -> int:
        return BEGAN_MS + int(self.world.now * 1000)

    def ledger_tick(self) -> list[object]:
        """Tell everybody."""
        self.index += 1
        said = LedgerSays(self.index, self._time_ms(), tuple(self.seats[:TOLD]))
        return self._tell(said)

    def _tell(self, said: LedgerSays) -> list[object]:
        data = msgspec.msgpack.encode(said)
        return [Send(node.key.peer, LEDGER, data) for node in self.daemons]

    # -- the run --------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Both phases; what was found."""
        try:
            self.begin()
            self.world.heap.run(self.case.safety_s)
            self._liveness()
        except ViolationError as error:
            return self.outcome(error.check, error.text)
        except Exception as error:  # noqa: BLE001 - a machine that raises is a finding, too
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
            return self.outcome("crash", f"{type(error).__name__}: {error} ({place})")
        return self.outcome()

    def begin(self) -> None:
        """Start everybody, open the training, and have epochs and learners come."""
        heap = self.world.heap
        self.ledger.start()
        for node in self.daemons:
            heap.at(self._chance.random() * 0.5, node.start)
        heap.at(OPENED_S, self.turn)
        heap.at(OPENED_S, self._offer)
        if self.case.family.epoch_s:
            heap.at(
                OPENED_S + self._chance.uniform(0.5, 1.5) * self.case.family.epoch_s, self._later
            )

    def _later(self) -> None:
        if self.world.now < self.case.safety_s:
            self.turn()
            wait = self._chance.uniform(0.5, 1.5) * self.case.family.epoch_s
            self.world.heap.after(wait, self._later)

    def _offer(self) -> None:
        """A learner offers something to somebody who leads, if anybody does."""
        self._offers += 1
        body = b"%d" % self._offers
        for node in self.daemons:
            if node.program is not None:
                replica = self.daemon(node).replica
                if replica is not None and replica.leading is not None:
                    node.receive(self.ledger.key.peer, ("stream", OFFER, body))
        self.world.heap.after(self._chance.expovariate(self._rate), self._offer)

    def _liveness(self) -> None:
        world = self.world
        self.faults.heal()
        for node in self.daemons:
            node.start()
        began = world.now
        if self.case.family.epoch_s:
            # Births, then an epoch of which all are part.
            world.heap.run(began + MARGIN_MS / 1000 + 3)
            self.turn()
            began = world.now
        goal, rounds = self.checks.acked_count + 1, self._goal()
        beat = self.settings.beat_ms / 1000
        limit = MOST_BEATS * beat
        if self.checks.could_be_forced():
            limit += self.settings.forced_leases * self.settings.lease_ms / 1000 + 4

        def done() -> bool:
            acked = self.checks.acked_count >= goal and self.checks.everywhere()
            return acked and self._beyond(rounds)

        world.heap.run(began + limit, done)
        if done():
            if not self.checks.could_be_forced():
                self.healed = (world.now - began) / (self.settings.patience_ms / 1000)
        elif self.case.family.epoch_s or not self.checks.lost_quorum():
            raise ViolationError(
                "progress", f"nothing new in {limit:g} s: {self.checks.standing()}"
            )
        else:
            world.tally["no-quorum"] += 1

    def _goal(self) -> int:
        """What else must have grown at the end, as it stands."""
        return 0

    def _beyond(self, goal: int) -> bool:
        """Whether it has."""
        del goal
        return True

    def leader(self) -> int | None:
        """The number of the node that leads in the highest term."""
        found: tuple[object, int] | None = None
        for node in self.daemons:
            replica = self.daemon(node).replica if node.program is not None else None
            if replica is not None and replica.leading is not None:
                term = replica.leading
                if found is None or term > found[0]:  # type: ignore[operator]
                    found = (term, node.number)
        return None if found is None else found[1]

    def outcome(self, check: str = "", text: str = "") -> Outcome:
        """How the run went."""
        case, world = self.case, self.world
        if check:
            world.tell("violation", f"{check}: {text}")
        return Outcome(
            family=case.family.name,
            seed=case.seed,
            members=case.size,
            check=check,
            text=text,
            command=case.command,
            at=world.now,
            events=world.heap.events,
            ratified=self.checks.newest,
            terms=self.checks.terms,
            epochs=len(self.seats),
            statements=self.checks.audited,
            healed=self.healed,
            tally=dict(sorted(world.tally.items())),
            episodes=[episode.number for episode in self.plan],
        )
