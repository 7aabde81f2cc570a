"""Samples of a world while it runs, for its picture."""

import trio

from protocols.errors import SynapseError
from simnet.checks import held_bytes
from simnet.daemon import Daemon
from simnet.timeline import Sample
from simnet.world import World


async def watch(world: World) -> None:
    """Sample every running daemon, every `watch` seconds of the scenario, for ever."""
    while True:
        due = trio.current_time() + world.scenario.watch
        await sample(world)
        await trio.sleep_until(due)


async def sample(world: World) -> None:
    """Sample every running daemon once."""
    async with trio.open_nursery() as nursery:
        for daemon in world.running():
            nursery.start_soon(_sample_one, world, daemon)


async def _sample_one(world: World, daemon: Daemon) -> None:
    model = next((m for m in world.models.values() if m.cid), None)
    try:
        status = await daemon.get_status()
        tiles = await daemon.own_tiles(model.cid) if model else []
        held = (await held_bytes(daemon, model.cid))[0] / model.size if model else 0.0
    except SynapseError:
        return  # it is being killed, paused or partitioned off a busy core: a gap in the picture
    ledger = status.ledger
    leads = ledger is not None and ledger.leader == daemon.identity.text
    world.timeline.samples.append(
        Sample(
            at=world.now,
            daemon=daemon.index,
            connected=status.connected,
            live=status.live,
            announcements=status.announcements,
            tiles=tiles,
            held=held,
            index=ledger.index if ledger else 0,
            role="" if ledger is None else "leader" if leads else ledger.role,
        )
    )
