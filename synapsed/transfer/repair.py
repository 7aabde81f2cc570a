"""Carrying out what the replication machine orders: learning models, probes, repairs.

Each order is a task of its own; what came of it goes back to the machine as an event.
"""

from collections.abc import Callable

import trio

from protocols.cid import cid_text
from protocols.errors import SynapseError
from protocols.replication import (
    Learn,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    StartProbe,
    StartRepair,
)
from synapsed.models import model_manifest
from synapsed.supervise import Emit
from synapsed.transfer.plan import Part
from synapsed.transfer.probe import probe
from synapsed.transfer.pull import Puller
from synapsed.transfer.sources import FixedSources, Source

Told = Callable[[ModelKnown | ProbeResult | RepairEnded], None]
"""Gives an event to the replication machine."""


class Repairs:
    """Executes effects of protocols/replication.py. Tasks run in the nursery it is given."""

    def __init__(
        self, puller: Puller, told: Told, emit: Emit, *, moved: Callable[[bytes], None]
    ) -> None:
        """`moved` is told of a model while a repair of it gets on, so that others see it."""
        self._puller = puller
        self._told = told
        self._emit = emit
        self._moved = moved

    def perform(self, effect: Learn | StartProbe | StartRepair, nursery: trio.Nursery) -> None:
        """Begin to carry out one order."""
        match effect:
            case Learn():
                nursery.start_soon(self._learn, effect)
            case StartProbe():
                nursery.start_soon(self._probe, effect)
            case StartRepair():
                nursery.start_soon(self._repair, effect)

    async def _learn(self, order: Learn) -> None:
        me = self._puller.me
        holders = FixedSources([Source(peer) for peer in order.holders if peer != me])
        try:
            tiles, size = await self._puller.learn(order.model, sources=holders)
        except SynapseError as error:
            # The machine asks again by itself.
            self._emit("replication.unknown", model=cid_text(order.model), why=str(error))
            return
        self._told(ModelKnown(order.model, tiles, size))

    async def _probe(self, order: StartProbe) -> None:
        puller = self._puller
        try:
            model = model_manifest(puller.store, order.model)
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
            proven = None
        self._told(ProbeResult(order.model, order.peer, proven))

    async def _repair(self, order: StartRepair) -> None:
        text = cid_text(order.model)
        done = False
        try:
            report = await self._puller.pull(
                order.model,
                Part(tiles=order.tiles),
                progress=lambda _progress: self._moved(order.model),
            )
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
