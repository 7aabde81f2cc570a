"""Carrying out what the replication machine orders: learning models, probes, repairs.

Each order is a task of its own; what came of it goes back to the machine as an event.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from protocols.cid import cid_text
from protocols.errors import SynapseError
from protocols.transfer.replication import (
    Forget,
    Learn,
    LearnFailed,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    StartProbe,
    StartRepair,
)
from synapsed.models import model_manifest
from synapsed.process.supervise import Emit
from synapsed.transfer.limits import Room
from synapsed.transfer.plan import Part
from synapsed.transfer.probe import probe
from synapsed.transfer.progress import PullProgress
from synapsed.transfer.pull import Puller
from synapsed.transfer.sources import FixedSources, Source

LEARN_SECONDS = 30.0
"""For one model's manifest and headers: 16 MiB at 0.5 MB/s. A holder that only dawdles does not
keep one of the few places for longer."""

LEARN_FROM = 4
"""Holders that are asked, drawn anew each time: one is enough, and a thousand may announce it."""

Order = Learn | Forget | StartProbe | StartRepair
Told = Callable[[ModelKnown | LearnFailed | ProbeResult | RepairEnded], None]
"""Gives an event to the replication machine."""


class Care(Protocol):
    """What is done with what an order brings; synapsed/holdings/replicas.py."""

    def learning(self, model: bytes) -> AbstractContextManager[Room]:
        """Room for what is learned of a model."""

    def repairing(self) -> AbstractContextManager[Room]:
        """Room for a repair. StoppedError where the owner needs it."""

    async def watch(self, model: bytes) -> None:
        """Something of it is to be learned."""

    async def forget(self, model: bytes) -> None:
        """It is needed no more."""

    def declines(self, model: bytes) -> bool:
        """Whether the owner does not want it here."""

    async def hold(self, model: bytes) -> None:
        """A repair brought something of it."""

    def more(self, model: bytes) -> None:
        """And something more."""


class Repairs:
    """Executes effects of protocols/transfer/replication.py. Its tasks run in the given nursery."""

    def __init__(self, puller: Puller, care: Care, told: Told, emit: Emit) -> None:
        self._puller = puller
        self._care = care
        self._told = told
        self._emit = emit

    def perform(self, order: Order, nursery: trio.Nursery) -> None:
        """Begin to carry out one order."""
        match order:
            case Learn():
                nursery.start_soon(self._learn, order)
            case Forget():
                nursery.start_soon(self._forget, order)
            case StartProbe():
                nursery.start_soon(self._probe, order)
            case StartRepair():
                nursery.start_soon(self._repair, order, nursery)

    async def _learn(self, order: Learn) -> None:
        others = [peer for peer in order.holders if peer != self._puller.me]
        asked = random.sample(others, min(LEARN_FROM, len(others)))
        holders = FixedSources([Source(peer) for peer in asked])
        outcome: ModelKnown | LearnFailed = LearnFailed(order.model)
        why = f"nobody gave it within {LEARN_SECONDS:.0f} s"
        try:
            with trio.move_on_after(LEARN_SECONDS), self._care.learning(order.model) as room:
                await self._care.watch(order.model)
                tiles, size = await self._puller.learn(order.model, holders, room)
                outcome = ModelKnown(order.model, tiles, size)
        except SynapseError as error:
            why = str(error)
        finally:
            if isinstance(outcome, LearnFailed):
                self._emit("replication.unknown", model=cid_text(order.model), why=why)
            self._told(outcome)

    async def _forget(self, order: Forget) -> None:
        try:
            await self._care.forget(order.model)
        except SynapseError as error:
            # The owner's own `gc` meets it too, and says so.
            self._emit("replication.kept", model=cid_text(order.model), why=str(error))

    async def _probe(self, order: StartProbe) -> None:
        puller, proven = self._puller, None
        try:
            model = await trio.to_thread.run_sync(model_manifest, puller.store, order.model)
            proven = await probe(
                puller.streams,
                puller.store,
                order.peer,
                model,
                tile=order.tile,
                pick=order.pick,
            )
        except SynapseError as error:
            self._emit("replication.unprobed", model=cid_text(order.model), why=str(error))
        finally:
            self._told(ProbeResult(order.model, order.peer, proven))

    async def _repair(self, order: StartRepair, nursery: trio.Nursery) -> None:
        text = cid_text(order.model)
        before: int | None = None
        held = done = False

        def progress(now: PullProgress) -> None:
            nonlocal before, held
            before = now.done if before is None else before
            if held:
                self._care.more(order.model)
            elif now.done > before:
                held = True
                nursery.start_soon(self._care.hold, order.model)

        try:
            if self._care.declines(order.model):
                return
            with self._care.repairing() as room:
                report = await self._puller.pull(
                    order.model, Part(tiles=order.tiles), progress=progress, room=room
                )
            await self._care.hold(order.model)
            done = True
            self._emit(
                "replication.repaired",
                model=text,
                tiles=sum(count for _, count in order.tiles),
                bytes=report.fetched,
            )
        except SynapseError as error:
            self._emit("replication.repair-failed", model=text, why=str(error), code=error.code)
        finally:
            self._told(RepairEnded(order.model, order.group, done))
