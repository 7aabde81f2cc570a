"""rollback: daemons killed with -9 at random moments of upgrades and rollbacks.

Six real daemons, four on the council. Upgrades follow one another without a pause: each adopted one
is a module of its own, every third is worse than what it replaces and is taken back by what the
daemons measure, and now and then the owners vote the network back to a former version. Meanwhile
one daemon after another is killed, started again, and looked at twice: as soon as it answers, and
when it has had time to catch up.

`wrong`: looks at which a slot was answered by something else than the ledger of that daemon names,
unless what it names had not arrived yet and the one before answered (then only for as long as
fetching it takes). `mixed`: daemons that at the end, with the same ledger, do not all run the same
bytes in every slot, or hold a module half.
"""

import random
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import trio

from protocols.errors import SynapseError
from simnet.councilparts import Founding, LedgersAgree, OneHistory
from simnet.councils import no_progress
from simnet.daemon import Daemon
from simnet.run import perform, wait_for
from simnet.scenario import (
    Check,
    Import,
    Met,
    ModelSource,
    NobodyDied,
    Promise,
    Scenario,
    Start,
    Step,
)
from simnet.upgradechecks import slot_of, upgrades
from simnet.upgradeparts import RANKING, Adapters, Choose, Upgrade
from simnet.world import World, open_world
from synapsed.control import ledgermodels as ledger_said
from synapsed.control import upgrademodels as said

REACH = {"wrong": "0", "mixed": "0", "kills": ">= 50", "adopted": ">= 5", "undone": ">= 3"}

KILLS = 50
DAEMONS, MEMBERS = 6, 4
SEED = 4
PAUSE_S = (0.2, 3.0)
"""Between a look at one daemon and the death of the next: an upgrade takes ten or twenty of these,
so that deaths fall into fetching, compiling, each of the stages and each way back."""
DOWN_S = (0.0, 1.5)
SETTLE_S = 20.0
"""In which a daemon that is up has what its ledger names: a module of 300 bytes is fetched from a
neighbour, compiled, and tried again after a second where nobody had it."""
ENDED_S = 90.0
"""For one upgrade from proposal to end, with a daemon down all the time."""
RANKS = [2, 4, 8, 16, 32, 64]
WANTED = 4

BEGIN: list[Step] = [
    Start(who="all", at_once=4),
    Import(who=5, model="base"),
    Adapters(who=5, model="base", ranks=RANKS),
]
BLANK = Upgrade(name="-", who=0, answers={})
SCENARIO = Scenario(
    title="rollback",
    daemons=DAEMONS,
    proxied=False,
    watch=0,
    bootstrap=3,
    models={"base": ModelSource(made=1)},
    council=Founding(
        members=f"0-{MEMBERS - 1}",
        others=60,
        params={
            "council.time_out_ms": 2000,
            "council.tick_ms": 300,
            "work.bits": 0,
            "vote.window_ms": 2500,
            "approval.window_ms": 60_000,
            "execute.delay_ms": 300,
            "upgrade.stage_ms": 1200,
            "upgrade.pairs": 1,
            "upgrade.patience": 30,
        },
    ),
    config={
        "replication": {"hold": False},
        "upgrades": {"allow_weaker_jail": True},
    },
    steps=[*BEGIN, BLANK],  # type: ignore[list-item]  # what a world has is read from its steps
    promises=[Promise(that=NobodyDied())],
)


class BenchError(Exception):
    """A daemon or the network did not do what is measured."""


class Tally:
    """What was seen."""

    def __init__(self) -> None:
        self.kills = self.looks = self.late = 0
        self.adopted = self.undone = self.brought_back = self.not_accepted = 0
        self.wrong: list[str] = []
        self.killed_in: dict[str, int] = {}
        self.over = False


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some five minutes."""
    return trio.run(_measure, say)


async def _measure(say: Callable[[str], None]) -> dict[str, float | int]:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(SCENARIO, Path(), SEED, say, logs=Path(folder)) as world:
            for step in BEGIN:
                say(await perform(step, world))
            await _must(world, Met(peers=3))
            await _must(world, LedgersAgree(index=3))
            say(await perform(Choose(who="all", rank=WANTED, every=0.2), world))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_upgrade_on_and_on, world, tally, say)
                await _kill_on_and_on(world, tally, say)
                tally.over = True
            mixed = await _mixed(world, say)
            await _must(world, OneHistory())
            died = not (await wait_for(world, NobodyDied(), 0)).holds
    for each in tally.wrong[:5]:
        say(f"WRONG: {each}")
    return {
        "wrong": len(tally.wrong),
        "mixed": mixed + died,
        "kills": tally.kills,
        "adopted": tally.adopted,
        "undone": tally.undone,
        "brought_back": tally.brought_back,
        "not_accepted": tally.not_accepted,
        "looks": tally.looks,
        "late_at_first": tally.late,
        **{f"killed_{what}": number for what, number in sorted(tally.killed_in.items())},
    }


# -- killing ----------------------------------------------------------------------------------


async def _kill_on_and_on(world: World, tally: Tally, say: Callable[[str], None]) -> None:
    draw = random.Random(SEED)
    while tally.kills < KILLS:
        await trio.sleep(draw.uniform(*PAUSE_S))
        daemon = draw.choice(world.running())
        state = _what_goes_on(slot_of(await upgrades(daemon), RANKING))
        await daemon.signal(world.forks, "KILL")
        tally.kills += 1
        tally.killed_in[state] = tally.killed_in.get(state, 0) + 1
        await trio.sleep(draw.uniform(*DOWN_S))
        await world.start(daemon, kind="restart")
        tally.late += not await _look(daemon, tally)
        await _settled(daemon, tally)
        if tally.kills % 10 == 0:
            say(f"{tally.kills} of {KILLS} killed; {tally.adopted} adopted, {tally.undone} undone")


def _what_goes_on(slot: said.SlotStatus) -> str:
    if slot.rollout is None:
        return "between_rollouts"
    return f"at_{slot.rollout.permille}" if slot.rollout.permille else "in_shadow"


async def _look(daemon: Daemon, tally: Tally) -> bool:
    """Whether what answers is what its ledger names; else what is named has not arrived."""
    tally.looks += 1
    arrived = True
    for slot in (await upgrades(daemon)).slots:
        named, answers = slot.current, slot.answers
        if (answers.number, answers.module) == (named.number, named.module):
            continue
        arrived = False
        before = {(each.number, each.module) for each in slot.former} | {(0, "")}
        if named.why_not != "late" or (answers.number, answers.module) not in before:
            tally.wrong.append(
                f"{daemon}, {slot.slot}: version {answers.number} answers, and the ledger names "
                f"{named.number} ({named.why_not or 'which may'})"
            )
    return arrived


async def _settled(daemon: Daemon, tally: Tally) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not await _look(daemon, tally):
        if time.monotonic() > deadline:
            tally.wrong.append(f"{daemon} lacks a module after {SETTLE_S:.0f} s")
            return
        await trio.sleep(0.5)


# -- upgrading --------------------------------------------------------------------------------


async def _upgrade_on_and_on(world: World, tally: Tally, say: Callable[[str], None]) -> None:
    for number in count():
        if tally.over:
            return
        try:
            await _one(world, tally, number)
        except (SynapseError, BenchError) as error:
            # Whoever proposed or voted was killed meanwhile: the next one does.
            say(f"upgrade {number}: {error}")
            await trio.sleep(1.0)


async def _one(world: World, tally: Tally, number: int) -> None:
    proposer = world.random.choice(world.running())
    former = slot_of(await upgrades(proposer), RANKING).former
    if number % 7 == 6 and former:
        done = await proposer.client.work(
            f"/v1/upgrades/slots/{RANKING}/rollback",
            ledger_said.Submitted,
            said.RollbackRequest(risks="none", benefits="what was before"),
            no_progress,
        )
        kind, cid = "back", done.subject or ""
    else:
        worse = number % 3 == 2
        # Each has bytes of its own: the number is in them, and changes no order.
        score = (
            f"(i64.add (i64.const {number}) (i64.mul (i64.const 400) {{rank}}))"
            if worse
            else f"(i64.sub (i64.const {500_000 + number}) (i64.mul (i64.const 400) {{rank}}))"
        )
        name = f"upgrade {number}"
        step = Upgrade(
            name=name, who=proposer.index, changed_ppm=1_000_000, answers={"score": score}
        )
        await perform(step, world)
        kind, cid = "worse" if worse else "better", world.council.proposals[name]
    await _vote(world, cid)
    await _end(world, tally, kind, cid)


async def _vote(world: World, cid: str) -> None:
    """Everybody who is up votes; who is killed meanwhile does not."""

    async def vote(daemon: Daemon) -> None:
        asked = ledger_said.VoteRequest(choice="yes")
        try:
            await daemon.client.work(
                f"/v1/proposals/{cid}/votes", ledger_said.Submitted, asked, no_progress
            )
        except SynapseError:
            return

    with trio.move_on_after(4.0):
        async with trio.open_nursery() as nursery:
            for daemon in world.running():
                nursery.start_soon(vote, daemon)


async def _end(world: World, tally: Tally, kind: str, cid: str) -> None:
    with trio.move_on_after(ENDED_S):
        while True:
            await trio.sleep(0.3)
            state = await _state_of(world, cid)
            if state in ("settled", "replaced"):
                tally.brought_back += kind == "back"
                tally.adopted += kind != "back"
                return
            if state == "rolled-back":
                tally.undone += 1
                return
            if state in ("rejected", "lapsed"):
                tally.not_accepted += 1
                return
    raise BenchError(f"{kind}: {state} after {ENDED_S:.0f} s")


async def _state_of(world: World, cid: str) -> str:
    for daemon in world.running():
        try:
            found = await upgrades(daemon)
        except SynapseError:
            continue
        for each in found.upgrades:
            if each.proposal == cid:
                return each.state
    return "unknown"


# -- at the end -------------------------------------------------------------------------------


async def _mixed(world: World, say: Callable[[str], None]) -> int:
    """Daemons that do not run what the others do, or hold a module half."""
    with trio.move_on_after(SETTLE_S + ENDED_S):
        while True:
            sets = [await _set_of(daemon) for daemon in world.running()]
            if len(set(sets)) == 1 and len(sets) == DAEMONS:
                return 0
            await trio.sleep(1.0)
    say(f"sets: {sets}")
    most = max(sets.count(each) for each in sets)
    return DAEMONS - most


async def _set_of(daemon: Daemon) -> tuple[tuple[str, int, str, str], ...]:
    found = await upgrades(daemon)
    broken = {each.slot for each in found.quarantine}
    return tuple(
        (
            slot.slot,
            slot.answers.number,
            slot.answers.module,
            slot.current.why_not or ("broken" if slot.slot in broken else ""),
        )
        for slot in found.slots
    )


async def _must(world: World, check: Check) -> None:
    finding = await wait_for(world, check, 60)  # type: ignore[arg-type]
    if not finding.holds:
        raise BenchError(finding.text)
