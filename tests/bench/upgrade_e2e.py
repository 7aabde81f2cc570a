"""upgrade-e2e: thirty real daemons, four on the council, and an upgrade on its whole way.

One owner builds a module and proposes it; the council's members check it in their jails; everybody
votes; it runs in the shadow, at 10, 50 and 100 %, on what the daemons measure, sign and submit.
`seconds` is from the call that proposes until the last daemon has switched to it at 100 %, without
the waits that the network's parameters state; `seconds_all` with them. The win is left in force;
then a regression is proposed in the same way, and nobody does anything about it.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
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
from simnet.upgradechecks import upgrades
from simnet.upgradeparts import RANKING, Adapters, Became, Choose, SwitchedAlike, Upgrade
from simnet.world import World, open_world
from synapsed.control import ledgermodels as ledger_said

REACH = {
    "seconds": "<= 20",
    "same_index": "1",
    "planted_regression": "1",
    "planted_win": "1",
}

DAEMONS, MEMBERS = 30, 4
STAGE_S = 2.0
WINDOW_S, DELAY_S = 6.0, 1.0
STAGES_TO_FULL = 3
"""Shadow, 10 % and 50 %: each lasts its stated time before the next may open."""
WAITS_S = WINDOW_S + DELAY_S + STAGES_TO_FULL * STAGE_S
RANKS = [2, 4, 8, 16, 32, 64]
WANTED = 4
"""The adapter that owners want: the fifth of six in the built-in order."""
EVERY_S = 0.9
"""Between two choices of one owner: thirty daemons share two cores with those who ask them."""
PATIENCE_S = 120.0
FULL = 1000

WIN = Upgrade(
    name="win",
    who=6,
    changed_ppm=1_000_000,
    answers={"score": "(i64.sub (i64.const 500000) (i64.mul (i64.const 400) {rank}))"},
)
REGRESSION = Upgrade(
    name="regression",
    who=5,
    changed_ppm=1_000_000,
    answers={"score": "(i64.mul (i64.const 400) {rank})"},
)
BEGIN: list[Step] = [
    Start(who="all", at_once=4),
    Import(who=7, model="base"),
    Adapters(who=7, model="base", ranks=RANKS),
]
SCENARIO = Scenario(
    title="upgrade-e2e",
    daemons=DAEMONS,
    proxied=False,
    watch=0,
    bootstrap=3,
    models={"base": ModelSource(made=1)},
    council=Founding(
        members=f"0-{MEMBERS - 1}",
        others=60,
        params={
            "council.time_out_ms": 4000,
            "council.tick_ms": 500,
            "work.bits": 0,
            "vote.window_ms": int(WINDOW_S * 1000),
            "approval.window_ms": 60_000,
            "execute.delay_ms": int(DELAY_S * 1000),
            "upgrade.stage_ms": int(STAGE_S * 1000),
            # Of one pair: the place in a list has no noise.
            "upgrade.pairs": 1,
            # Thirty daemons compile on two cores, which others may be busy on, too.
            "upgrade.patience": 60,
        },
    ),
    config={
        "net": {"target_peers": 6},
        "liveness": {"interval": "10s"},
        "replication": {"hold": False},
        "upgrades": {"allow_weaker_jail": True},
    },
    steps=[*BEGIN, WIN],  # type: ignore[list-item]  # what a world has is read from its steps
    promises=[Promise(that=NobodyDied())],
)


class BenchError(Exception):
    """A daemon or the network did not do what is measured."""


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some three minutes."""
    return trio.run(_measure, say)


async def _measure(say: Callable[[str], None]) -> dict[str, float | int]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(SCENARIO, Path(), 1, say, logs=Path(folder)) as world:
            for step in BEGIN:
                say(await perform(step, world))
            await _must(world, Met(peers=3))
            await _must(world, LedgersAgree(index=3))
            say(await perform(Choose(who="all", rank=WANTED, every=EVERY_S), world))
            seconds_all = await _adopt(world, WIN, say)
            phases = _phases(world)
            say(f"at 100 % everywhere after {seconds_all:.1f} s, of which {WAITS_S:g} are stated")
            await _must(world, Became(upgrade="win", event="settle", version=1))
            kept_at = world.now
            say("the win is settled")
            await _propose(world, REGRESSION, say)
            await _must(world, Became(upgrade="regression", event="rollback", version=3))
            say("the regression is undone")
            alike = await wait_for(world, SwitchedAlike(count=DAEMONS), 0)
            say(alike.text)
            await _must(world, OneHistory())
            await _must(world, NobodyDied())
            places = [each.place for each in world.timeline.chosen if each.at > kept_at]
            return {
                "seconds": round(seconds_all - WAITS_S, 1),
                "same_index": int(alike.holds),
                "planted_regression": int(_only_once(world)),
                "planted_win": int(_answers_still(world)),
                "seconds_all": round(seconds_all, 1),
                "waits_s": WAITS_S,
                **phases,
                "daemons": DAEMONS,
                "switches": len(world.upgrades.switches),
                "late": sum(each.late for each in world.upgrades.switches),
                "choices": len(world.timeline.chosen),
                "choices_failed": len(world.upgrades.failed_choices),
                "place_after": round(sum(places) / max(1, len(places)), 2),
            }


async def _propose(world: World, upgrade: Upgrade, say: Callable[[str], None]) -> None:
    say(await perform(upgrade, world))
    cid = world.council.proposals[upgrade.name]
    voted = 0

    async def vote(daemon: Daemon) -> None:
        """As soon as this daemon's ledger has the proposal."""
        nonlocal voted
        while cid not in [each.proposal for each in (await upgrades(daemon)).upgrades]:
            await trio.sleep(0.2)
        asked = ledger_said.VoteRequest(choice="yes")
        with suppress(SynapseError):  # the window is over: others' votes have decided
            await daemon.client.work(
                f"/v1/proposals/{cid}/votes", ledger_said.Submitted, asked, no_progress
            )
            voted += 1

    async with trio.open_nursery() as nursery:
        for daemon in world.daemons:
            nursery.start_soon(vote, daemon)
    say(f"{voted} of {DAEMONS} voted")


async def _adopt(world: World, upgrade: Upgrade, say: Callable[[str], None]) -> float:
    """Seconds from the proposing call until every daemon has said that it switched at 100 %."""
    await _propose(world, upgrade, say)
    with trio.move_on_after(PATIENCE_S):
        while len(found := _switched(world)) < DAEMONS:
            await trio.sleep(0.1)
        return max(found.values()) - world.upgrades.proposed[upgrade.name]
    raise BenchError(
        f"{len(_switched(world))} of {DAEMONS} switched within {PATIENCE_S:.0f} s: "
        + _what_was_said(world)
    )


def _what_was_said(world: World) -> str:
    """For whoever looks for the reason."""
    upgrades = world.upgrades
    stages = Counter((each.event, each.permille, each.reason) for each in upgrades.stages)
    kinds = Counter(kind for _, kind in upgrades.other)
    failed = upgrades.failed_choices
    missed = upgrades.missed
    return (
        f"{dict(stages)}; {dict(kinds)}; {len(failed)} failed choices: {failed[-1:]}; "
        f"{len(missed)} broken streams: {missed[-1:]}"
    )


def _phases(world: World) -> dict[str, float]:
    """Seconds from the proposing call to each stage of the win, as the first daemon has it."""
    began = world.upgrades.proposed[WIN.name]
    found: dict[str, float] = {}
    for each in world.timeline.stages:
        if each.event == "open":
            found.setdefault(f"opened_{each.permille}_s", round(each.at - began, 1))
    return found


def _switched(world: World) -> dict[int, float]:
    """When (the world's time) each daemon switched to version 1 at 100 %."""
    found: dict[int, float] = {}
    for each in world.timeline.answering:
        if (each.slot, each.version, each.permille) == (RANKING, 1, FULL):
            found.setdefault(each.daemon, each.at)
    return found


def _only_once(world: World) -> bool:
    """Whether the regression ran on a first cohort at most, and was taken back for being worse."""
    ends = {(each.event, each.reason) for each in world.upgrades.stages if each.event == "rollback"}
    ran = {each.daemon for each in world.timeline.answering if each.version == REGRESSION_VERSION}
    return ends == {("rollback", "worse")} and 0 < len(ran) <= DAEMONS // 2


REGRESSION_VERSION = 2


def _answers_still(world: World) -> bool:
    """Whether on every daemon the win's bytes answer at the end (as version 3, the way back)."""
    last = {each.daemon: each.version for each in world.timeline.answering if each.slot == RANKING}
    return set(last.values()) == {3} and len(last) == DAEMONS


async def _must(world: World, check: Check) -> None:
    finding = await wait_for(world, check, PATIENCE_S)  # type: ignore[arg-type]
    if not finding.holds:
        raise BenchError(finding.text)
