"""Keeping enough copies of every model that we know of: the replication machine, driven.

What the machine hears: the catalog (who announces which tiles), the heartbeats (who is alive, and
how much each may still hold) and the clock. What it orders, transfer/repair.py carries out.
"""

import random
from collections.abc import Callable

import trio

from protocols.effects import Blame, Emit
from protocols.gossip.shelf import Holding
from protocols.transfer.replication import (
    AliveChanged,
    Event,
    Forget,
    HoldersChanged,
    Learn,
    Replication,
    Settings,
    Standing,
    StartProbe,
    StartRepair,
    Tick,
)
from synapsed.holdings.replicas import Replicas
from synapsed.net import Fault
from synapsed.process.supervise import Emit as Tell
from synapsed.transfer.pull import Puller
from synapsed.transfer.repair import Order, Repairs

BREATH = 32
"""Models looked at before others get their turn: 10 ms where each has a thousand holders."""

TICK_SECONDS = 1.0
"""The machine's own clock: it promises nothing finer."""
ORPHAN_SECONDS = 300.0
"""After the start, what an earlier run learned of models that nobody announces now is let go of:
the catalog has been read and compared by then."""

Room = Callable[[], dict[bytes, int]]
"""Who is alive, ourselves too, and the bytes that each may still hold for others."""


class Replicator:
    """Drives one Replication machine. `run` is a task."""

    def __init__(
        self,
        me: bytes,
        settings: Settings,
        puller: Puller,
        replicas: Replicas,
        *,
        holders: Callable[[bytes], list[Holding]],
        room: Room,
        blame: Callable[[bytes, Fault, str], None],
        tell: Tell,
    ) -> None:
        self._machine = Replication(me, settings, random.SystemRandom().randrange)
        self._replicas = replicas
        self._repairs = Repairs(puller, replicas, self._handle, tell)
        self._holders = holders
        self._room = room
        self._blame = blame
        self._tell = tell
        self._changed: dict[bytes, None] = {}
        self._nursery: trio.Nursery | None = None
        self.paused = False

    def holders_changed(self, model: bytes) -> None:
        """The catalog says something new about who holds `model`: it is looked at in the next
        tick, once, however much is said until then."""
        self._changed[model] = None

    def standing(self, model: bytes) -> Standing:
        """How a model stands by what we count."""
        return self._machine.standing(model)

    def elsewhere(self, model: bytes) -> list[int]:
        """The copies of each of its tiles that count, ours left out; [] where not known."""
        return self._machine.elsewhere(model)

    def forgot(self, model: bytes) -> None:
        """What was learned of a model is gone: it is watched again when there is room for that."""
        self._handle(HoldersChanged(model, ()))
        self.holders_changed(model)

    def proven(self, model: bytes, peer: bytes) -> bool:
        """Whether a holder's copies count just now."""
        return self._machine.trusts(model, peer, trio.current_time())

    async def run(self) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._let_go_of_orphans)
            while True:
                await self._look_at_changes()
                self._handle(AliveChanged(self._room()))
                if not self.paused:
                    self._handle(Tick())
                await trio.sleep(TICK_SECONDS)

    async def _look_at_changes(self) -> None:
        changed, self._changed = self._changed, {}
        for count, model in enumerate(changed):
            declined = self._replicas.declines(model)
            holdings = () if declined else tuple(self._holders(model))
            self._handle(HoldersChanged(model, holdings))
            if count % BREATH == BREATH - 1:
                await trio.lowlevel.checkpoint()

    async def _let_go_of_orphans(self) -> None:
        await trio.sleep(ORPHAN_SECONDS)
        watched = set(self._machine.models())
        for model in self._replicas.watched():
            if model not in watched:
                self._perform(Forget(model))

    def _handle(self, event: Event) -> None:
        # Not the wall clock, which may be set back: whoever is due then would wait for hours.
        for effect in self._machine.handle(event, trio.current_time()):
            match effect:
                case Emit(kind, fields):
                    self._tell(kind, **fields)
                case Blame(peer, fault, why):
                    self._blame(peer, Fault(fault), why)
                case Learn() | Forget() | StartProbe() | StartRepair():
                    self._perform(effect)

    def _perform(self, order: Order) -> None:
        if self._nursery is not None:
            self._repairs.perform(order, self._nursery)
