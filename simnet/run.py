"""One run of a scenario: its steps in order, then its promises, then the picture."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from protocols.errors import SynapseError
from simnet import (
    councilchecks,
    councilsteps,
    learnchecks,
    learnregionchecks,
    learnregionsteps,
    learnsteps,
    upgradechecks,
    upgradesteps,
)
from simnet.forks import FORK_SERVER
from simnet.scenario import Check, Promise, Scenario, Step
from simnet.steps import perform, wait_for
from simnet.watch import sample, watch
from simnet.weather import Shape
from simnet.world import ExportRecord, PullRecord, Say, World, open_world

__all__ = [
    "councilchecks",
    "councilsteps",
    "learnchecks",
    "learnregionchecks",
    "learnregionsteps",
    "learnsteps",
    "perform",
    "run_scenario",
    "upgradechecks",
    "upgradesteps",
    "wait_for",
]
# What the steps and checks of councils, upgrades and learning do is registered by importing them.


class Line(msgspec.Struct):
    """One step or promise, and how it went."""

    what: str
    passed: bool
    seconds: float
    text: str


class Result(msgspec.Struct):
    """What a run came to; `--json` prints it."""

    scenario: str
    title: str
    seed: int
    passed: bool
    seconds: float
    steps: list[Line]
    promises: list[Line]
    pulls: list[PullRecord]
    exports: list[ExportRecord]
    faults: dict[str, int]
    moved: int  # bytes through the proxies
    folder: str
    picture: str
    reproduce: str


async def run_scenario(
    scenario: Scenario,
    path: Path,
    seed: int,
    out: Path,
    say: Say,
    *,
    keep: bool = False,
    server: Sequence[str] = FORK_SERVER,
) -> Result:
    """Run it. Failures are lines of the result; nothing that a daemon does is raised."""
    result = Result(
        scenario=path.stem,
        title=scenario.title,
        seed=seed,
        passed=False,
        seconds=0.0,
        steps=[],
        promises=[],
        pulls=[],
        exports=[],
        faults={},
        moved=0,
        folder=str(out),
        picture="",
        reproduce=f"python -m simnet {path} --seed {seed}",
    )
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    async with open_world(
        scenario, path, seed, say, logs=out / "logs", keep=keep, server=server
    ) as world:
        with trio.move_on_after(scenario.within) as whole:
            await _live(world, result)
        if whole.cancelled_caught:
            text = f"not over within {scenario.within:.0f} s"
            result.steps.append(Line("the whole scenario", False, scenario.within, text))
        result.passed = _all_passed(scenario, result)
        result.pulls, result.exports = world.pulls, world.exports
        result.faults = dict(world.weather.faults)
        result.moved = sum(world.weather.moved.values())
        world.timeline.seconds = world.now
        world.timeline.passed = result.passed
    result.seconds = time.monotonic() - began
    (out / "timeline.json").write_bytes(msgspec.json.encode(world.timeline))
    return result


def _all_passed(scenario: Scenario, result: Result) -> bool:
    lines = [*result.steps, *result.promises]
    whole = len(scenario.steps) + len(scenario.promises)
    return len(lines) == whole and all(line.passed for line in lines)


async def _live(world: World, result: Result) -> None:
    async with trio.open_nursery() as nursery:
        if world.scenario.watch:
            nursery.start_soon(watch, world)
        for number, step in enumerate(world.scenario.steps, 1):
            line = await _step(world, number, step)
            result.steps.append(line)
            if not line.passed:
                break
        for promise in world.scenario.promises:
            # After a failed step there is nothing to wait for; what holds is still told.
            within = promise.within if result.steps[-1].passed else 0.0
            result.promises.append(await _promise(world, promise, within))
        if world.scenario.watch:
            await sample(world)
        nursery.cancel_scope.cancel()


async def _step(world: World, number: int, step: Step) -> Line:
    began = world.now
    what = words(step)
    world.say(f"{began:7.1f} s  {number}/{len(world.scenario.steps)}  {what}")
    if step.note:
        world.mark(what.split()[0], None, step.note)
    try:
        text, passed = await perform(step, world), True
    except SynapseError as error:
        text, passed = str(error), False
    world.say(f"        {'' if passed else 'FAILED: '}{text}")
    return Line(what, passed, world.now - began, text)


async def _promise(world: World, promise: Promise, within: float) -> Line:
    began = world.now
    finding = await wait_for(world, promise.that, within)
    return Line(words(promise.that), finding.holds, world.now - began, finding.text)


def words(part: Step | Check) -> str:
    """A step or check in one line, as the file has it, defaults left out."""
    said = []
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.name == "note" or value == default:
            continue
        if isinstance(value, Check):
            said.append(words(value))
        elif field.name in ("who", "model", "name"):
            said.append(_short(value))
        elif field.name != "within":
            said.append(f"{field.name}={_short(value)}")
    return " ".join([str(part.__struct_config__.tag), *said])


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    if isinstance(value, Shape):
        return " ".join(f"{k}={v}" for k, v in msgspec.structs.asdict(value).items() if v)
    return str(getattr(value, "value", value))
