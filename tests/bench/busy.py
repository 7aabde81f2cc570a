"""busy: how much of a learner's time is training, with a network around it, and without.

Four real daemons, all on the council: two of them learn the tiny model, H = 15, and each group's
replicas are three of the four. What is counted is wall time in steps of training (in torch,
without waiting for anybody), between the first piece of work that a learner finishes and the last;
the same plan's steps with no network at all are the measure. `stall_p99_ms` is of the learners' own
event loops: passes shorter than 1 ms are not counted in it.

The network's part of a round does not grow with the model, only with the disks' syncs and the
distances, so the share depends on how long a step takes: `busy_share` is with 2,048 tokens a step
(60 ms on one core; real models take seconds), `busy_share_short` with 512 (15 ms).

Without the network, short texts are generated too, with and without a training beside them:
`yield_ms` is the longest from the wish to generate until training stood still, `text_p95_ratio`
the texts' time beside a training over their time alone.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.learn.defaults import DEFAULT as DEFAULT_PLAN
from protocols.plan import MAX_STEPS, Phase, Plan
from simnet.checks import quantile
from simnet.councilparts import Founding, LedgersAgree, Vote
from simnet.daemon import Daemon
from simnet.learnparts import Learn, MakeModel, Train, Trained, TrainingOpen
from simnet.run import perform, wait_for
from simnet.scenario import Check, Met, Scenario, Start, Step
from simnet.world import World, open_world
from synapsed.compute.compute import Compute
from synapsed.compute.errors import PausedError
from synapsed.compute.keeper import ComputeSettings
from synapsed.control.client import Client
from synapsed.control.models import EventInfo

REACH = {
    "busy_share": ">= 0.9",
    "stall_p99_ms": "<= 50",
    "yield_ms": "<= 50",
    "pause_ms": "<= 1000",
}

TEXT = "tests/data/shakespeare.txt"
STEPS, CONTEXT = 15, 64
BATCH, SHORT = 32, 8
"""Sequences of a step."""
GROUP_BYTES = 1 << 20
LEARNERS = (2, 3)
WARM_ROUNDS, SECONDS = 2, 30.0
ALONE_ROUNDS = 20
TEXTS, TOKENS, PAUSE_S = 30, 40, 0.1
PATIENCE_S = 120.0
LAG = 'synapsed_loop_lag_seconds{quantile="p99"} '
CODEC: Literal["ternary"] = "ternary"
PHASE = Phase(1, STEPS, CODEC, CODEC, zone=110)


def plan_of(batch: int) -> Plan:
    """What is trained by."""
    return msgspec.structs.replace(
        DEFAULT_PLAN, group_bytes=GROUP_BYTES, batch=batch, context=CONTEXT, phases=(PHASE,)
    )


def steps_of(batch: int) -> list[Step]:
    """From nothing to two learners."""
    plan = {
        "group_bytes": GROUP_BYTES,
        "batch": batch,
        "context": CONTEXT,
        "learners": len(LEARNERS),
        "patience_ms": 5000,
        "phases": [{"rounds": 1, "steps": STEPS, "up": CODEC, "down": CODEC, "zone": PHASE.zone}],
    }
    return [
        Start(who="all", at_once=2),
        MakeModel(name="toy", who=0),
        Train(name="train", who=0, lineage="toy", text=TEXT, windows=64, plan=plan),
        Vote(who="1-3", proposal="train"),
        Learn(who=list(LEARNERS), lineage="toy", text=TEXT),
    ]


def scenario_of(batch: int) -> Scenario:
    """Four daemons; what a world has is read from its steps."""
    return Scenario(
        title="busy",
        daemons=4,
        proxied=False,
        watch=0,
        bootstrap=3,
        models={},
        council=Founding(
            members="0-3",
            params={
                "council.tick_ms": 500,
                "council.time_out_ms": 4000,
                "work.bits": 0,
                "vote.window_ms": 4000,
                "approval.window_ms": 60_000,
                "execute.delay_ms": 1000,
            },
        ),
        config={
            "replication": {"hold": False},
            "upgrades": {"allow_weaker_jail": True},
            "compute": {"threads": 1, "device": "cpu"},
        },
        steps=steps_of(batch),  # type: ignore[arg-type]
        promises=[],
    )


class BenchError(Exception):
    """The network did not come to train."""


class Round(msgspec.Struct, frozen=True):
    """Steps that a learner has done."""

    at: float
    """When they were done, of this machine's clock."""
    seconds: float
    steps: int


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some two minutes and a half."""
    long, short = (trio.run(_measure, batch, say) for batch in (BATCH, SHORT))
    return {
        "busy_share": round(long.share / long.alone.share, 3),
        "busy_share_short": round(short.share / short.alone.share, 3),
        "stall_p99_ms": round(max(long.stall_ms, short.stall_ms), 1),
        "yield_ms": round(max(long.alone.yield_ms, short.alone.yield_ms), 1),
        "pause_ms": round(max(long.alone.pause_ms, short.alone.pause_ms), 1),
        "text_p95_ratio": round(long.alone.p95_training_ms / long.alone.p95_idle_ms, 3),
        "text_p95_idle_ms": round(long.alone.p95_idle_ms, 1),
        "steps_per_s": round(long.rate, 1),
        "alone_steps_per_s": round(long.alone.rate, 1),
        "steps_per_s_short": round(short.rate, 1),
        "alone_steps_per_s_short": round(short.alone.rate, 1),
        "learners": len(LEARNERS),
        "inner_steps": STEPS,
    }


class Measured(msgspec.Struct, frozen=True):
    """Two learners with a network."""

    share: float
    """Of the one that trained less."""
    rate: float
    """Steps a second, of each."""
    stall_ms: float
    alone: "Alone"


async def _measure(batch: int, say: Callable[[str], None]) -> Measured:
    rounds: dict[int, list[Round]] = {index: [] for index in LEARNERS}
    scenario = scenario_of(batch)
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(scenario, Path("x"), 1, say, logs=Path(folder)) as world:
            alone = await _alone(plan_of(batch), world.work / "compute.socket", Path(folder))
            await _begin(world, say)
            async with trio.open_nursery() as nursery:
                for index in LEARNERS:
                    nursery.start_soon(_listen, world.daemons[index], rounds[index])
                await _must(world, Trained(lineage="toy", rounds=WARM_ROUNDS, who=list(LEARNERS)))
                say(f"training; {SECONDS:.0f} s are measured")
                began = time.time()
                await trio.sleep(SECONDS)
                ended = time.time()
                stalls = [await _stall_ms(world.daemons[index]) for index in LEARNERS]
                nursery.cancel_scope.cancel()
    measured = [[each for each in found if began <= each.at <= ended] for found in rounds.values()]
    shares = [_share(found) for found in measured]
    say(f"{batch} sequences: in torch {shares}, alone {alone.share:.3f}")
    steps = [sum(each.steps for each in found) / (ended - began) for found in measured]
    return Measured(min(shares), statistics.mean(steps), max(stalls), alone)


def _share(rounds: list[Round]) -> float:
    """Of the time from the end of the first to the end of the last, what was spent in steps."""
    if len(rounds) < 3:
        raise BenchError(f"a learner trained {len(rounds)} times in {SECONDS:.0f} s")
    return sum(each.seconds for each in rounds[1:]) / (rounds[-1].at - rounds[0].at)


async def _begin(world: World, say: Callable[[str], None]) -> None:
    for step in world.scenario.steps:
        say(await perform(step, world))
        if isinstance(step, Start):
            await _must(world, Met(peers=3))
            await _must(world, LedgersAgree(index=3))
        elif isinstance(step, Vote):
            await _must(world, TrainingOpen(lineage="toy"))


async def _must(world: World, check: Check) -> None:
    found = await wait_for(world, check, PATIENCE_S)  # type: ignore[arg-type]
    if not found.holds:
        raise BenchError(f"{type(check).__name__}: {found.text}")


async def _listen(daemon: Daemon, rounds: list[Round]) -> None:
    def take(event: EventInfo) -> None:
        fields = event.fields
        rounds.append(Round(event.at, fields["seconds"], fields["steps"]))

    while True:
        try:
            await daemon.client.events("training.trained", take)
        except SynapseError:
            await trio.sleep(0.1)


async def _stall_ms(daemon: Daemon) -> float:
    def ask() -> str:
        with Client(daemon.places.socket, PATIENCE_S) as client:
            return client.text("/metrics")

    for line in (await trio.to_thread.run_sync(ask)).splitlines():
        if line.startswith(LAG):
            return float(line.removeprefix(LAG)) * 1e3
    raise BenchError("the daemon tells nothing of its loop")


# -- alone ------------------------------------------------------------------------------------


class Alone(msgspec.Struct, frozen=True):
    """Training without a network, and generating beside it."""

    share: float
    rate: float
    """Steps a second."""
    yield_ms: float
    """The longest that training took to stand still."""
    p95_idle_ms: float
    """Of a short text, from asking to its last token, nothing else being computed."""
    p95_training_ms: float
    """The same while a training runs."""
    pause_ms: float
    """From `pause` until the worker's process was gone."""


async def _alone(plan: Plan, server: Path, folder: Path) -> Alone:
    """The same steps in a worker of the same kind, one round's after another."""
    settings = ComputeSettings(threads=1, device="cpu", server=server)
    compute = Compute(lambda kind, **fields: None, settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute.run)
        await compute.new_model("tiny-moe", folder / "model", 1)
        files = [(name, folder / "model" / name) for name in ("config.json", "model.safetensors")]
        await compute.load_training(b"alone", files, {}, Path(TEXT), plan, seed=1)
        await compute.train(b"alone", STEPS, PHASE)
        began = time.monotonic()
        done = [await compute.train(b"alone", STEPS, PHASE) for _ in range(ALONE_ROUNDS)]
        wall = time.monotonic() - began
        await compute.open_model(b"model", files)
        idle = [await _text_ms(compute) for _ in range(TEXTS)]
        async with trio.open_nursery() as beside:
            beside.start_soon(compute.train, b"alone", MAX_STEPS, PHASE)
            beside_ms = [await _text_ms(compute) for _ in range(TEXTS)]
            seen = await compute.look()
            beside.cancel_scope.cancel()
        pause_ms = await _pause_ms(compute)
        nursery.cancel_scope.cancel()
    if seen is None or not seen.yields:
        raise BenchError("training did not stand still once")
    return Alone(
        sum(each.seconds for each in done) / wall,
        ALONE_ROUNDS * STEPS / wall,
        seen.yield_ms,
        quantile(idle, 0.95),
        quantile(beside_ms, 0.95),
        pause_ms,
    )


async def _pause_ms(compute: Compute) -> float:
    """In the middle of training."""

    async def train() -> None:
        with suppress(PausedError):
            await compute.train(b"alone", MAX_STEPS, PHASE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(train)
        await trio.sleep(PAUSE_S)
        began = time.monotonic()
        await compute.pause()
        return (time.monotonic() - began) * 1e3


async def _text_ms(compute: Compute) -> float:
    began = time.monotonic()
    async with compute.generate(b"model", "ROMEO:", tokens=TOKENS, seed=1) as pieces:
        async for _ in pieces:
            pass
    asked = time.monotonic() - began
    await trio.sleep(PAUSE_S)  # so that training has gone on before the next
    return asked * 1e3
