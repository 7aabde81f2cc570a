"""What the steps of a council's scenario do."""

import trio

from protocols.errors import SynapseError
from simnet import councilparts as c
from simnet import councils, founding
from simnet.checks import of_each
from simnet.councilrecord import Note
from simnet.councils import no_progress
from simnet.daemon import Daemon, Life
from simnet.liars import start_double_signer
from simnet.steps import StepError, at_once, named, perform
from simnet.world import World
from synapsed.control import ledgermodels as said

LEADER_PATIENCE_S = 15.0
"""A term may just have ended; then the next one's leader is known within a time-out or two."""


@perform.register
async def do_load(step: c.Load, world: World) -> str:
    chosen = world.choose(step.who)
    if step.background:
        world.nursery.start_soon(_load, step, world, chosen)
        return f"{step.count} notes by {named(chosen)}, in the background"
    first = len(world.council.notes)
    await _load(step, world, chosen)
    lost = [note for note in world.council.notes[first:] if note.index is None]
    if lost:
        raise StepError(f"{len(lost)} of {step.count} notes: {lost[0].error}")
    return f"{step.count} notes by {named(chosen)} ratified"


async def _load(step: c.Load, world: World, chosen: list[Daemon]) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(step.count):
            due = trio.current_time() + step.every
            nursery.start_soon(_note, world, chosen[number % len(chosen)])
            await trio.sleep_until(due)


async def _note(world: World, daemon: Daemon) -> None:
    number = len(world.council.notes)
    note = Note(daemon.index, f"note {number} of seed {world.seed}")
    world.council.notes.append(note)
    began = trio.current_time()
    try:
        done = await daemon.client.work(
            "/v1/ledger/notes", said.Submitted, said.NoteRequest(text=note.text), no_progress
        )
    except SynapseError as error:
        note.error = str(error)
        return
    note.seconds = trio.current_time() - began
    note.index = done.index


@perform.register
async def do_propose(step: c.Propose, world: World) -> str:
    daemon = world.daemons[step.who]
    changes = [said.ParameterChange(name=name, value=value) for name, value in step.set.items()]
    asked = said.ParameterProposal(title=step.title, changes=changes)
    done = await daemon.client.work("/v1/proposals", said.Submitted, asked, no_progress)
    if done.subject is None or done.index is None:
        raise StepError(f"{daemon}'s proposal was not ratified")
    world.council.proposals[step.name] = done.subject
    world.mark("propose", daemon.index)
    return f"{done.subject} opened at index {done.index}, after {done.seconds:.2f} s"


@perform.register
async def do_vote(step: c.Vote, world: World) -> str:
    cid = world.council.proposals[step.proposal]
    chosen = world.choose(step.who)
    indices: list[int] = []

    async def vote(daemon: Daemon) -> None:
        asked = said.VoteRequest(choice=step.choice)
        done = await daemon.client.work(
            f"/v1/proposals/{cid}/votes", said.Submitted, asked, no_progress
        )
        if done.index is None:
            raise StepError(f"{daemon}'s vote was not ratified")
        indices.append(done.index)
        world.mark("vote", daemon.index)

    await at_once(chosen, vote)
    return f"{step.choice} by {named(chosen)}, ratified at {min(indices)} to {max(indices)}"


@perform.register
async def do_leader(step: c.Leader, world: World) -> str:
    seats = {daemon.identity.text: daemon for daemon in world.daemons}
    with trio.move_on_after(LEADER_PATIENCE_S):
        while True:
            found = await of_each(world.choose(step.asked), councils.council)
            newest = max(found, key=lambda info: (info.epoch, info.term))
            if newest.leader in seats:
                leader = seats[newest.leader]
                world.names[step.name] = [leader.index]
                return f"{leader} leads term {newest.term} of epoch {newest.epoch}"
            await trio.sleep(0.1)
    raise StepError("nobody knows a leader of the council")


@perform.register
async def do_height(step: c.Height, world: World) -> str:
    found = await of_each(world.running(), councils.ledger)
    world.council.heights[step.name] = height = max(info.index for info in found)
    return f"{height} entries are ratified"


@perform.register
async def do_wipe(step: c.Wipe, world: World) -> str:
    chosen = world.choose(step.who)
    for daemon in chosen:
        if daemon.life is not Life.ENDED:
            raise StepError(f"{daemon} runs: its disk is in use")
        await trio.to_thread.run_sync(founding.wipe, daemon)
        world.mark("wipe", daemon.index)
        world.weather.faults["wipe"] += 1
    return f"{named(chosen)} lost the disk"


@perform.register
async def do_double_sign(step: c.DoubleSign, world: World) -> str:
    (daemon,) = world.choose(step.who)
    if daemon.life is not Life.ENDED:
        raise StepError(f"{daemon} runs: kill it first")
    await start_double_signer(world, daemon)
    world.mark("double-sign", daemon.index)
    world.weather.faults["double-sign"] += 1
    return f"{daemon} is back, and signs twice"
