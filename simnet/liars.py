"""Starting liars: each is a process of its own (simnet/liar.py) at an address of this world."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from protocols.errors import SynapseError
from simnet.addresses import home_ip, proxy_ip
from synapsed import keys
from synapsed.keys import SEED_LENGTH, Identity

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings these stubs, and mypy prefers them

    from simnet.daemon import Daemon
    from simnet.world import Model, World

READY_PATIENCE_S = 60.0
"""From start to its announcement: imports, hashing the model, and a first connection."""


class LiarError(SynapseError):
    """A liar did not begin to lie."""

    code = "liar"


class Liar:
    """A running liar."""

    def __init__(self, name: str, identity: Identity) -> None:
        self.name = name
        self.identity = identity

    def __str__(self) -> str:
        return self.name


async def start_liar(world: "World", name: str, number: int, how: str, model: "Model") -> Liar:
    """Start liar `number` of the group `name`; return once it has announced the model."""
    index = len(world.daemons) + sum(map(len, world.liars.values())) + number
    draw = random.Random(f"{world.seed}/liar/{index}")  # noqa: S311 - a seed is a reproduction
    seed = draw.randbytes(SEED_LENGTH)
    ip = proxy_ip(index) if world.scenario.proxied else home_ip(index)
    if world.scenario.proxied:
        await world.nursery.start(world.fabric.serve, index)
    task = {
        "seed": seed.hex(),
        "network": world.scenario.network,
        "listen": f"/ip4/{home_ip(index)}/tcp/{world.fabric.port}",
        "announce": f"/ip4/{ip}/tcp/{world.fabric.port}",
        "dial_from": home_ip(index),
        "bootstrap": [daemon.address for daemon in world.running()],
        "model": str(model.folder),
        "name": model.name,
        "cid": model.cid,
        "tiles": model.tiles,
        "how": how,
        "work": str(world.work / f"liar-{index}"),
    }
    await world.nursery.start(_run, "liar", json.dumps(task), world.work / f"liar-{index}.log")
    world.weather.faults[f"liar-{how}"] += 1
    return Liar(f"{name} {number}", Identity(seed))


async def start_double_signer(world: "World", daemon: "Daemon") -> None:
    """Have `daemon`, which has ended, come back as a member that signs twice; once it runs."""
    task = {
        "seed": keys.load(daemon.places.identity).seed.hex(),
        "network": world.scenario.network,
        "listen": f"/ip4/{home_ip(daemon.index)}/tcp/{world.fabric.port}",
        "announce": f"/ip4/{daemon.announced_ip}/tcp/{world.fabric.port}",
        "dial_from": home_ip(daemon.index),
        "genesis": str(daemon.places.genesis),
        "ledger": str(daemon.places.ledger),
        "peers": {
            other.identity.text: other.address for other in world.daemons if other is not daemon
        },
    }
    log = world.work / f"double-signer-{daemon.index}.log"
    await world.nursery.start(_run, "doublesigner", json.dumps(task), log)


async def _run(
    module: str, task: str, log: Path, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    """The liar's process, until the world ends."""
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", f"simnet.{module}", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert process.stdout is not None
        said = b""
        with trio.move_on_after(READY_PATIENCE_S):
            said = await process.stdout.receive_some(64)
        if not said:
            raise LiarError(f"a liar ended, or never lied: {log.read_text()[-400:]}")
        task_status.started()
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
