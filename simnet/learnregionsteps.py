"""What the steps of a scenario with regions do."""

from collections import Counter
from pathlib import Path

import trio

from simnet import learnregionparts as parts
from simnet.checks import of_each
from simnet.daemon import Daemon
from simnet.learnregions import Seen, metered, seen
from simnet.learnsteps import training
from simnet.parts import Who
from simnet.steps import StepError, named, perform
from simnet.timeline import Crossing
from simnet.world import World
from synapsed.training import said

LOOK_S = 0.25
OFFICE_PATIENCE_S = 60.0
"""Until a learner has an aggregator: its round trips are measured a few times first."""


def regions_of(world: World, regions: list[Who]) -> dict[str, int]:
    """Each daemon's region, by its id."""
    return {
        daemon.identity.text: number
        for number, who in enumerate(regions)
        for daemon in world.choose(who)
    }


def of_lineage(status: said.TrainStatus, lineage: str) -> said.TrainingSaid | None:
    """One training, as a daemon tells of it."""
    return next((each for each in status.trainings if each.lineage == lineage), None)


async def statuses(daemons: list[Daemon]) -> dict[str, said.TrainStatus]:
    """By id."""
    found = await of_each(daemons, training)
    return {one.identity.text: each for one, each in zip(daemons, found, strict=True)}


@perform.register
async def do_office(step: parts.Office, world: World) -> str:
    lineage = world.learn.lineages[step.lineage]
    seats = {daemon.identity.text: daemon for daemon in world.daemons}
    with trio.move_on_after(OFFICE_PATIENCE_S):
        while True:
            told = (await statuses(world.choose(step.who))).values()
            each = [of_lineage(status, lineage) for status in told]
            through = Counter(it.aggregator for it in each if it is not None and it.aggregator)
            peer, count = through.most_common(1)[0] if through else ("", 0)
            if count >= step.learners and world.learn.epoch_left(world) >= step.left:
                chosen = seats[peer]
                world.names[step.name] = [chosen.index]
                return f"{chosen} sums for {count} learners"
            await trio.sleep(LOOK_S)
    raise StepError("nobody aggregates, or only until the epoch ends")


@perform.register
async def do_lie_in_sums(step: parts.LieInSums, world: World) -> str:
    chosen = world.choose(step.who)
    assert world.learn.server is not None
    lines = [str(daemon.home) for daemon in chosen]
    await trio.to_thread.run_sync(_add, world.learn.server.with_suffix(".liars"), lines)
    for daemon in chosen:
        world.learn.regions.liars.add(daemon.index)
        world.mark("liar", daemon.index)
        world.weather.faults["lie: sums"] += 1
    return named(chosen)


def _add(path: Path, lines: list[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


@perform.register
async def do_meter(step: parts.Meter, world: World) -> str:
    lineage = world.learn.lineages[step.lineage]

    async def look() -> Seen:
        return seen(await statuses(world.running()), lineage)

    while world.learn.epoch_left(world) < step.left:
        await trio.sleep(LOOK_S)
    before = after = await look()
    with trio.move_on_after(step.within):
        while after.round < before.round + step.rounds:
            await trio.sleep(LOOK_S)
            after = await look()
    if after.round < before.round + step.rounds:
        raise StepError(f"{after.round - before.round} rounds within {step.within:.0f} s")
    found = metered(before, after, regions_of(world, step.regions))
    world.learn.regions.meters[step.name] = found
    names = {daemon.identity.text.encode(): daemon.index for daemon in world.daemons}
    world.timeline.crossings += [
        Crossing(step.name, names[one], names[other], count)
        for (one, other), count in found.moved.items()
        if one in names and other in names
    ]
    return f"{found.rounds} rounds, {found.each / 1e3:.0f} kB each from region to region"
