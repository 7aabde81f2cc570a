"""rollback: daemons killed with -9 at random moments of upgrades and rollbacks.

Six real daemons, four on the council. Upgrades follow one another without a pause: each adopted one
is a module of its own, the next one is worse than what it replaces and is taken back by what the
daemons measure, and then the owners vote the network back to the former version. Meanwhile
one daemon after another is killed, started again, and looked at twice: as soon as it answers, and
when it has had time to catch up.

`wrong`: looks at which a slot was answered by something else than the ledger of that daemon names,
unless what it names had not arrived yet and the one before answered (then only for as long as
fetching it takes). `mixed`: daemons that at the end, with the same ledger, do not all run the same
bytes in every slot, or hold a module half.

It goes in rounds, each in a world of its own, and what a round saw is kept: a bench that was ended
goes on with the next round.
"""

import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec
import trio

from protocols.errors import SynapseError
from simnet.checks import of_each
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

REACH = {"wrong": "0", "mixed": "0", "kills": ">= 50", "adopted": ">= 3", "undone": ">= 3"}

ROUNDS, KILLS = 5, 10
"""Kills of one round."""
KEPT = Path("bench-out") / "rollback-rounds.json"
DAEMONS, MEMBERS = 6, 4
SEED = 4
PAUSE_S, WITHIN_S = (0.2, 6.0), (0.0, 5.0)
"""Between a look at one daemon and the death of the next; and, for every other one, between the
beginning of a rollout and its death. So deaths fall into checking, fetching, compiling, each of the
stages and each way back."""
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
    """What was seen in one round."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = False


class Kept(msgspec.Struct):
    """Rounds that are over, of this very bench."""

    source: str
    rounds: list[dict[str, int]]


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some six minutes."""
    kept = _kept()
    for number in range(len(kept.rounds), ROUNDS):
        kept.rounds.append(trio.run(_round, SEED + number, say))
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_bytes(msgspec.json.encode(kept))
        say(f"round {number + 1} of {ROUNDS}: {kept.rounds[-1]}")
    KEPT.unlink()
    total: Counter[str] = Counter()
    for found in kept.rounds:
        total.update(found)
    fields = ("wrong", "mixed", "kills", "adopted", "undone", "brought_back", "not_accepted")
    found = {name: total.pop(name, 0) for name in fields}
    return {**found, **dict(sorted(total.items()))}


def _kept() -> Kept:
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if KEPT.exists():
        found = msgspec.json.decode(KEPT.read_bytes(), type=Kept)
        if found.source == source:
            return found
    return Kept(source, [])


async def _round(seed: int, say: Callable[[str], None]) -> dict[str, int]:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(SCENARIO, Path(), seed, _unsaid, logs=Path(folder)) as world:
            for step in BEGIN:
                await perform(step, world)
            await _must(world, Met(peers=3))
            await _must(world, LedgersAgree(index=3))
            await perform(Choose(who="all", rank=WANTED, every=0.2), world)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_upgrade_on_and_on, world, tally, say)
                await _kill_on_and_on(world, tally)
                tally.over = True
            tally.counts["mixed"] = await _mixed(world, say)
            await _must(world, OneHistory())
            died = not (await wait_for(world, NobodyDied(), 0)).holds
    for each in tally.wrong[:5]:
        say(f"WRONG: {each}")
    tally.counts["wrong"] = len(tally.wrong) + died
    return dict(tally.counts)


def _unsaid(_: str) -> None:
    """A world's own lines: rounds are told of in one each."""


# -- killing ----------------------------------------------------------------------------------


async def _kill_on_and_on(world: World, tally: Tally) -> None:
    draw = random.Random(world.seed)
    while tally.counts["kills"] < KILLS:
        if tally.counts["kills"] % 2:
            await _in_a_rollout(world)
            await trio.sleep(draw.uniform(*WITHIN_S))
        else:
            await trio.sleep(draw.uniform(*PAUSE_S))
        daemon = draw.choice(world.running())
        state = _what_goes_on(slot_of(await upgrades(daemon), RANKING))
        await daemon.signal(world.forks, "KILL")
        tally.counts["kills"] += 1
        tally.counts[f"killed_{state}"] += 1
        await trio.sleep(draw.uniform(*DOWN_S))
        await world.start(daemon, kind="restart")
        tally.counts["late_at_first"] += not await _look(daemon, tally)
        await _settled(daemon, tally)


async def _in_a_rollout(world: World) -> None:
    """Wait until one is under way: most of an upgrade's time goes by before."""
    with trio.move_on_after(ENDED_S):
        while True:
            found = await of_each(world.running(), upgrades)
            if any(slot_of(each, RANKING).rollout is not None for each in found):
                return
            await trio.sleep(0.2)


def _what_goes_on(slot: said.SlotStatus) -> str:
    if slot.rollout is None:
        return "between_rollouts"
    return f"at_{slot.rollout.permille}" if slot.rollout.permille else "in_shadow"


async def _look(daemon: Daemon, tally: Tally) -> bool:
    """Whether what answers is what its ledger names; else what is named has not arrived."""
    tally.counts["looks"] += 1
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
    if number % 4 == 3 and former:
        done = await proposer.client.work(
            f"/v1/upgrades/slots/{RANKING}/rollback",
            ledger_said.Submitted,
            said.RollbackRequest(risks="none", benefits="what was before"),
            no_progress,
        )
        kind, cid = "back", done.subject or ""
    else:
        worse = number % 4 == 1
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
                tally.counts["brought_back" if kind == "back" else "adopted"] += 1
                return
            if state == "rolled-back":
                tally.counts["undone"] += 1
                return
            if state in ("rejected", "lapsed"):
                tally.counts["not_accepted"] += 1
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
    deadline = trio.current_time() + SETTLE_S + ENDED_S
    sets = [await _set_of(daemon) for daemon in world.running()]
    while len(set(sets)) > 1 or len(sets) < DAEMONS:
        if trio.current_time() > deadline:
            break
        await trio.sleep(1.0)
        sets = [await _set_of(daemon) for daemon in world.running()]
    else:
        return 0
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
