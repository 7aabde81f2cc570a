"""The genesis of a world, made as people would make it, and disks that are lost."""

import shutil
import time
from typing import TYPE_CHECKING

import msgspec

from protocols.errors import SynapseError
from simnet.daemon import Daemon
from simnet.scenarioload import ScenarioError
from synapsed import keys
from synapsed.ledger import genesis

if TYPE_CHECKING:
    from simnet.world import World


def found(world: "World") -> None:
    """Make the genesis and give it to every daemon, as `synapsed init --genesis` would."""
    asked = world.scenario.council
    assert asked is not None
    seated = world.choose(asked.members)
    members = [
        msgspec.structs.replace(genesis.founding_seat(daemon.places), reputation=asked.reputation)
        for daemon in seated
    ]
    others = [daemon for daemon in world.daemons if daemon not in seated and asked.others]
    try:
        payload = genesis.compose(
            world.scenario.network,
            members,
            humans={"human": human_key(world.seed).public_key},
            params=asked.params,
            created_ms=int(time.time() * 1000),
            grants={daemon.identity.peer_id: asked.others for daemon in others},
        )
    except SynapseError as error:
        raise ScenarioError(f"council: {error}") from error
    for daemon in world.daemons:
        genesis.install(daemon.places, payload)


def human_key(seed: int) -> keys.Key:
    """The human key that this world's genesis names."""
    return keys.Key(seed.to_bytes(keys.SEED_LENGTH, "big"))


def wipe(daemon: Daemon) -> None:
    """Lose its disk: the store, the ledger, and the seat's key and state with it."""
    for path in (daemon.places.store, daemon.places.models):
        shutil.rmtree(path, ignore_errors=True)
    ledger = daemon.places.ledger
    for path in ledger.parent.glob(f"{ledger.name}*"):
        path.unlink()
