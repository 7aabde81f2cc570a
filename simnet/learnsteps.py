"""What the steps of a learning scenario do."""

from itertools import pairwise
from pathlib import Path

import trio

from simnet import learnparts as parts
from simnet.checks import of_each
from simnet.computeserver import compute_server
from simnet.councils import no_progress
from simnet.daemon import Daemon, Life
from simnet.learnrecord import Led
from simnet.steps import StepError, at_once, named, perform
from simnet.timeline import Text
from simnet.world import World
from synapsed.control import ledgermodels, models
from synapsed.training import said

PRIMARY_PATIENCE_S = 30.0
"""Until a group has somebody who leads it: an epoch may just have begun."""


@perform.register
async def do_make_model(step: parts.MakeModel, world: World) -> str:
    daemon = world.daemons[step.who]
    asked = said.NewModelRequest(kind=step.kind, seed=step.seed, name=step.name)
    made = await daemon.client.work("/v1/models/new", models.ImportResult, asked, no_progress)
    world.learn.lineages[step.name] = made.cid
    world.mark("import", daemon.index)
    return f"{made.cid}, {made.size} bytes"


def text_of(world: World, name: str) -> str:
    """A text that the scenario names."""
    path = world.folder / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StepError(f"{path} cannot be read: {error.strerror}") from error


def cut(text: str, held_out: float, count: int) -> tuple[list[str], str]:
    """A text in `count` parts to learn from, and what is held out at its end."""
    end = round(len(text) * (1 - held_out))
    cuts = [end * at // count for at in range(count + 1)]
    return [text[lo:hi] for lo, hi in pairwise(cuts)], text[end:]


@perform.register
async def do_train(step: parts.Train, world: World) -> str:
    daemon = world.daemons[step.who]
    _, held_out = cut(text_of(world, step.text), step.held_out, 1)
    path = world.work / f"{step.name}-evaluation.txt"
    path.write_text(held_out, encoding="utf-8")
    asked = {
        "evaluation": str(path),
        "windows": step.windows,
        "margin": step.margin,
        "title": step.name,
        "plan": step.plan or None,
    }
    lineage = world.learn.lineages[step.lineage]
    where = f"/v1/training/{lineage}/propose"
    done = await daemon.client.work(where, ledgermodels.Submitted, asked, no_progress)
    if done.subject is None or done.index is None:
        raise StepError(f"{daemon}'s training was not ratified")
    world.council.proposals[step.name] = done.subject
    world.mark("propose", daemon.index)
    return f"{done.subject} opened at index {done.index}"


@perform.register
async def do_learn(step: parts.Learn, world: World) -> str:
    chosen = world.choose(step.who)
    texts, _ = cut(text_of(world, step.text), step.held_out, len(chosen))
    paths: dict[int, Path] = {}
    for daemon, text in zip(chosen, texts, strict=True):
        paths[daemon.index] = path = world.work / f"{step.lineage}-{daemon.index}.txt"
        path.write_text(text, encoding="utf-8")

    async def join(daemon: Daemon) -> None:
        asked = said.JoinRequest(
            model=world.learn.lineages[step.lineage],
            data=str(paths[daemon.index]),
            checkpoint_every=step.checkpoint_every,
        )
        await daemon.client.work("/v1/training", said.TrainingSaid, asked, no_progress)
        world.mark("join", daemon.index)

    await at_once(chosen, join)
    return f"{named(chosen)}, {len(texts[0])} characters each"


@perform.register
async def do_corrupt(step: parts.Corrupt, world: World) -> str:
    chosen = world.choose(step.who)
    for daemon in chosen:
        if daemon.life is not Life.NEW:
            raise StepError(f"{daemon} was started already: it is honest")
        socket = world.work / f"lies-{daemon.index}.socket"
        log = world.work / f"lies-{daemon.index}.log"
        await world.stack.enter_async_context(compute_server(socket, log, lie=step.how))
        world.learn.servers[daemon.index] = socket
        world.mark("liar", daemon.index)
        world.weather.faults[f"lie: {step.how}"] += 1
    return f"{named(chosen)}: {step.how}"


@perform.register
async def do_leave(step: parts.Leave, world: World) -> str:
    chosen = world.choose(step.who)
    lineage = world.learn.lineages[step.lineage]

    async def leave(daemon: Daemon) -> None:
        await daemon.client.call("DELETE", f"/v1/training/{lineage}", said.TrainingSaid)
        world.mark("leave", daemon.index)

    await at_once(chosen, leave)
    return named(chosen)


@perform.register
async def do_generate(step: parts.Generate, world: World) -> str:
    daemon = world.daemons[step.who]
    asked = said.GenerateRequest(
        prompt=step.prompt,
        max_tokens=step.tokens,
        temperature=step.temperature,
        seed=world.seed,
    )
    where = f"/v1/models/{world.learn.lineages[step.lineage]}/generate"
    found = await daemon.client.work(where, said.Generated, asked, no_progress)
    world.mark("generate", daemon.index)
    world.timeline.texts.append(Text(world.now, daemon.index, found.model, step.prompt, found.text))
    return f"{step.prompt}{found.text}"


@perform.register
async def do_primary(step: parts.Primary, world: World) -> str:
    lineage = world.learn.lineages[step.lineage]
    seats = {daemon.identity.text: daemon for daemon in world.daemons}
    with trio.move_on_after(PRIMARY_PATIENCE_S):
        while True:
            for status in await of_each(world.running(), training):
                group = group_of(status, lineage, step.group)
                if group is not None and group.primary in seats:
                    leader = seats[group.primary]
                    world.names[step.name] = [leader.index]
                    world.learn.led[step.name] = Led(
                        leader.index, step.group, group.epoch, group.term
                    )
                    return f"{leader} leads group {step.group} in term {group.epoch}.{group.term}"
            await trio.sleep(0.2)
    raise StepError(f"nobody knows who leads group {step.group}")


async def training(daemon: Daemon) -> said.TrainStatus:
    """`GET /v1/training`."""
    return await daemon.client.call("GET", "/v1/training", said.TrainStatus)


def group_of(status: said.TrainStatus, lineage: str, number: int) -> said.GroupSaid | None:
    """One group, as a daemon sees it; None where it does not know it."""
    for each in status.trainings:
        if each.lineage == lineage:
            return next((group for group in each.groups if group.number == number), None)
    return None


@perform.register
async def do_checkpoint(step: parts.Checkpoint, world: World) -> str:
    daemon = world.daemons[step.who]
    where = f"/v1/training/{world.learn.lineages[step.lineage]}/checkpoint"
    asked = said.CheckpointRequest()
    done = await daemon.client.work(where, said.CheckpointSaid, asked, no_progress)
    world.council.proposals[step.name] = done.proposal
    world.mark("propose", daemon.index)
    return f"{done.model}, round {done.round}"
