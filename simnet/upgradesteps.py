"""What the steps of an upgrade's scenario do."""

from pathlib import Path
from typing import Any

import trio

from protocols.errors import SynapseError
from protocols.slots.closed_list import SLOTS
from protocols.tensors.safetensors_header import make_safetensors_header
from simnet import upgradeparts as u
from simnet.councils import no_progress
from simnet.daemon import Daemon
from simnet.policies import build_policy, policy
from simnet.steps import StepError, named, perform
from simnet.world import World
from synapsed.control import ledgermodels as ledger_said
from synapsed.control import models
from synapsed.control import upgrademodels as said
from synapsed.jail.jail import Jail

ADAPTER_BYTES = 2048
"""Of an adapter: what is chosen is the point, and not what is fetched."""
SPREAD_S = 30.0
"""Until every owner has heard of an adapter that was just published."""


@perform.register
async def do_adapters(step: u.Adapters, world: World) -> str:
    daemon, base = world.daemons[step.who], world.models[step.model].cid
    folder = world.work / "adapters"
    folder.mkdir(exist_ok=True)
    for rank in step.ranks:
        path = folder / f"rank{rank}.safetensors"
        _write_adapter(path, rank)
        draft = models.AdapterDraft(
            name=f"rank {rank}",
            base=base,
            rank=rank,
            alpha=16.0,
            target_modules=["q_proj"],
            file=str(path),
        )
        made = await daemon.client.call("POST", "/v1/announcements", models.AnnouncementInfo, draft)
        world.upgrades.adapters[rank] = made.subject
    return f"{len(step.ranks)} adapters by {daemon}"


def _write_adapter(path: Path, rank: int) -> None:
    header = make_safetensors_header([(f"lora.{rank}", "F16", [ADAPTER_BYTES // 2])])
    path.write_bytes(header + bytes([rank % 256]) * ADAPTER_BYTES)


# -- choosing ---------------------------------------------------------------------------------


@perform.register
async def do_choose(step: u.Choose, world: World) -> str:
    wanted = world.upgrades.adapters.get(step.rank)
    if wanted is None:
        raise StepError(f"no adapter of rank {step.rank} was published")
    chosen = world.choose(step.who)
    with trio.move_on_after(SPREAD_S) as patience:
        async with trio.open_nursery() as nursery:
            for daemon in chosen:
                nursery.start_soon(_until_heard, daemon, len(world.upgrades.adapters))
    if patience.cancelled_caught:
        raise StepError(f"not everybody has heard of the adapters within {SPREAD_S:.0f} s")
    for daemon in chosen:
        world.nursery.start_soon(_choose, world, daemon, wanted, step.every)
    return f"{named(chosen)}: every {step.every:g} s each"


async def _until_heard(daemon: Daemon, count: int) -> None:
    while len(await daemon.announcements(kind="adapter")) < count:
        await trio.sleep(0.5)


async def _choose(world: World, daemon: Daemon, wanted: str, every: float) -> None:
    """One owner, for as long as the world stands. A daemon that is down is asked when it is up."""
    await trio.sleep(world.random.uniform(0, every))
    while True:
        due = trio.current_time() + every
        if daemon.up:
            try:
                await _choose_once(world, daemon, wanted)
            except SynapseError as error:
                world.upgrades.failed_choices.append(str(error))
        await trio.sleep_until(due)


async def _choose_once(world: World, daemon: Daemon, wanted: str) -> None:
    listed = await daemon.announcements(kind="adapter")
    places = [each.subject for each in listed]
    if wanted not in places:
        return
    await daemon.client.work(
        f"/v1/models/{wanted}/pull", models.PullResult, models.PullRequest(), no_progress
    )
    world.upgrades.chose(daemon.index, places.index(wanted) + 1, world.now)


# -- proposing --------------------------------------------------------------------------------


@perform.register
async def do_upgrade(step: u.Upgrade, world: World) -> str:
    daemon, slot = world.daemons[step.who], SLOTS.get(step.slot)
    if slot is None:
        raise StepError(f"there is no slot {step.slot!r}; there are {', '.join(SLOTS)}")
    folder = world.work / "upgrades" / step.name
    jail = Jail(world.work / "jail", _unheard, allow_weaker=True)
    try:
        text = policy(slot, step.answers, step.before)
        built = await build_policy(text, slot, jail, folder)
    finally:
        jail.close()
    asked = said.UpgradeRequest(
        path=str(folder),
        title=step.name,
        risks=f"owners find the list of {step.slot} in another order",
        benefits="what they want stands further up",
        changed_ppm=step.changed_ppm,
        expires_in=step.expires_in,
    )
    world.mark("propose", daemon.index)
    began = world.now
    done = await daemon.client.work("/v1/upgrades", ledger_said.Submitted, asked, no_progress)
    if done.subject is None or done.index is None:
        raise StepError(f"{daemon}'s upgrade was not ratified")
    world.council.proposals[step.name] = done.subject
    world.upgrades.proposed[step.name] = began
    return (
        f"{done.subject}: {built.size} bytes, opened at index {done.index},"
        f" after {world.now - began:.2f} s"
    )


def _unheard(_kind: str, /, **_fields: Any) -> None:
    """What the jail of a build tells."""
