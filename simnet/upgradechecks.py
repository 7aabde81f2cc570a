"""What an upgrade's scenario waits for and promises."""

from simnet import upgradeparts as u
from simnet.checks import Finding, ask, of_each
from simnet.daemon import Daemon
from simnet.world import World
from synapsed.control import upgrademodels as said


async def upgrades(daemon: Daemon) -> said.Upgrades:
    """`GET /v1/upgrades`."""
    return await daemon.client.call("GET", "/v1/upgrades", said.Upgrades)


def slot_of(found: said.Upgrades, slot: str) -> said.SlotStatus:
    """One of them."""
    return next(each for each in found.slots if each.slot == slot)


@ask.register
async def ask_stage(check: u.Stage, world: World) -> Finding:
    cid = world.council.proposals[check.upgrade]
    daemons = world.choose(check.who)
    reached = {
        each.daemon
        for each in world.upgrades.stages
        if each.proposal == cid and each.event == "open" and each.permille >= check.permille
    }
    count = sum(daemon.index in reached for daemon in daemons)
    ended = {f"{e.event} ({e.reason})" for e in world.upgrades.stages if e.proposal == cid}
    text = f"{count} of {len(daemons)} have it at {check.permille} permille"
    return Finding(count == len(daemons), f"{text} ({', '.join(sorted(ended)) or 'nothing yet'})")


@ask.register
async def ask_became(check: u.Became, world: World) -> Finding:
    cid = world.council.proposals[check.upgrade]
    found = await of_each(world.choose(check.who), upgrades)
    slots = [slot_of(each, check.slot) for each in found]
    ends = [slot.ended for slot in slots]
    right = sum(
        ended is not None
        and (ended.proposal, ended.event) == (cid, check.event)
        and slot.answers.number == check.version
        for slot, ended in zip(slots, ends, strict=True)
    )
    answers = sorted({slot.answers.number for slot in slots})
    why = sorted({f"{e.event} ({e.reason})" for e in ends if e is not None and e.proposal == cid})
    text = f"{right} of {len(found)}: {', '.join(why) or 'it goes on'}; versions {answers} answer"
    return Finding(right == len(found), text)


@ask.register
async def ask_switched_alike(check: u.SwitchedAlike, world: World) -> Finding:
    switches = [each for each in world.upgrades.switches if each.slot == check.slot]
    stages = {
        (each.version, each.permille, each.index)
        for each in world.upgrades.stages
        if each.slot == check.slot
    }
    apart = [each for each in switches if (each.version, each.permille, each.index) not in stages]
    text = f"{len(switches)} switches, at the indices of {len(stages)} stage entries"
    if apart:
        return Finding(False, f"{text}, but {len(apart)} elsewhere: {apart[0]}")
    late = sum(each.late for each in switches)
    return Finding(len(switches) >= check.count, f"{text}; {late} of them late")
