"""Keeping enough copies of every model that we know of: the replication machine, driven.

What the machine hears: the catalog (who announces which tiles), the heartbeats (who is alive, and
how much each may still hold) and the clock. What it orders, transfer/repair.py carries out.
"""

import random
import time
from collections.abc import Callable

import trio

from protocols.effects import Blame, Emit
from protocols.replication import (
    AliveChanged,
    Event,
    HoldersChanged,
    Learn,
    RepairEnded,
    Replication,
    Settings,
    Standing,
    StartProbe,
    StartRepair,
    Tick,
)
from protocols.shelf import Holding
from synapsed.net import Fault
from synapsed.supervise import Emit as Tell
from synapsed.transfer.pull import Puller
from synapsed.transfer.repair import Repairs

TICK_SECONDS = 1.0
"""The machine's own clock: it promises nothing finer."""

Room = Callable[[], dict[bytes, int]]
"""Who is alive, ourselves too, and the bytes that each may still hold for others."""


class Replicator:
    """Drives one Replication machine. `run` is a task."""

    def __init__(
        self,
        me: bytes,
        settings: Settings,
        puller: Puller,
        *,
        holders: Callable[[bytes], list[Holding]],
        room: Room,
        declined: Callable[[bytes], bool],
        repaired: Callable[[bytes], None],
        moved: Callable[[bytes], None],
        blame: Callable[[bytes, Fault, str], None],
        tell: Tell,
    ) -> None:
        """`declined`: models that the owner removed, and that are not to come back by repair;
        `repaired` is told of each model of which we hold more by a repair, and `moved` while one
        gets on: who sees that somebody is at work does not begin as well."""
        self._machine = Replication(me, settings, random.SystemRandom().randrange)
        self._repairs = Repairs(puller, self._handle, tell, moved=moved)
        self._holders = holders
        self._room = room
        self._declined = declined
        self._repaired = repaired
        self._blame = blame
        self._tell = tell
        self._nursery: trio.Nursery | None = None
        self.paused = False

    def holders_changed(self, model: bytes) -> None:
        """The catalog says something new about who holds `model`."""
        holdings = () if self._declined(model) else tuple(self._holders(model))
        self._handle(HoldersChanged(model, holdings))

    def standing(self, model: bytes) -> Standing:
        """How a model stands by what we count."""
        return self._machine.standing(model)

    def proven(self, model: bytes, peer: bytes) -> bool:
        """Whether a holder's copies count just now."""
        return self._machine.trusts(model, peer, time.time())

    async def run(self) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                self._handle(AliveChanged(self._room()))
                if not self.paused:
                    self._handle(Tick())
                await trio.sleep(TICK_SECONDS)

    def _handle(self, event: Event) -> None:
        if isinstance(event, RepairEnded):
            self._repaired(event.model)
        for effect in self._machine.handle(event, time.time()):
            match effect:
                case Emit(kind, fields):
                    self._tell(kind, **fields)
                case Blame(peer, fault, why):
                    self._blame(peer, Fault(fault), why)
                case Learn() | StartProbe() | StartRepair() if self._nursery is not None:
                    self._repairs.perform(effect, self._nursery)
