"""primary: kill -9 of a tile group's primary, or of a learner, at random moments of training.

Six daemons with real workers train the tiny MoE; again and again one of them is killed with -9 at
a random moment: mostly the one that leads group 0, else one of the learners. After each kill every
group that it led must be led by another one, in a higher term; then it is started again, and rounds
must go on. At the end all learners leave, and what lies on the daemons' disks is compared:

    lost_acked           deltas that a learner was told are safe, and that stand in no round
    two_primaries_accepted  rounds of one number that differ, and terms that two daemons led
    divergent_replicas   versions that differ from the others', or from what their files hold
    takeover_heartbeats_*   from the kill to the successor's first word, in heartbeats of the group

Each world's result is kept in bench-out/primary/, so that a bench that was stopped goes on.
"""

import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.codec import decode
from protocols.errors import SynapseError
from protocols.learn.aggregator_ports import TABLE as SUMS
from protocols.learn.aggregator_ports import decode_kept
from protocols.learn.claims import Record, Round
from protocols.learn.round_ports import TABLE
from simnet.checks import of_each, quantile
from simnet.councilparts import Founding, LedgersAgree, Vote
from simnet.daemon import Daemon
from simnet.learnparts import Learn, Leave, MakeModel, Train, Trained, TrainingOpen
from simnet.learnsteps import training
from simnet.run import perform, wait_for
from simnet.scenario import Check, Met, NobodyDied, Promise, Scenario, Start, Step
from simnet.world import World, open_world
from synapsed.control.models import EventInfo
from synapsed.store.db import Database
from synapsed.store.shape import shape_of_file
from synapsed.training.chain import BASES, LINKS, MAX_RECORD, Base

REACH = {
    "lost_acked": "0",
    "two_primaries_accepted": "0",
    "divergent_replicas": "0",
    "takeover_heartbeats_p99": "<= 4",
}

OUT = Path("bench-out") / "primary"
WORLDS, KILLS = 3, 10
DAEMONS, LEARNERS = 6, 4
BEAT_S = 1.0
"""Six daemons and their workers share two cores: a message waits for tenths of a second."""
PRIMARY_SHARE = 2 / 3
"""Of the kills are the primary's of group 0."""
LONGEST_WAIT_S = 3.0
"""Until the next kill, at most: a round takes a second or two."""
PATIENCE_S = 120.0
STILL_S = 15.0
"""Without a new round, after the learners have left: then nothing is open any more."""
TEXT = "../../tests/data/shakespeare.txt"

BEGIN: list[Step] = [
    Start(who="all", at_once=2),
    MakeModel(name="toy", who=0),
]
SCENARIO = Scenario(
    title="primary",
    daemons=DAEMONS,
    proxied=False,
    watch=0,
    bootstrap=3,
    council=Founding(
        members="0-3",
        others=60,
        params={
            "council.tick_ms": 500,
            "council.time_out_ms": 4000,
            "council.epoch_ms": 24 * 3600 * 1000,
            "work.bits": 0,
            "vote.window_ms": 8000,
            "approval.window_ms": 120_000,
            "execute.delay_ms": 1000,
        },
    ),
    config={
        "net": {"target_peers": DAEMONS - 1},
        "replication": {"hold": False},
        "compute": {"threads": 1},
        "training": {"beat": BEAT_S},
        "upgrades": {"allow_weaker_jail": True},
    },
    steps=BEGIN,  # type: ignore[arg-type]  # what a world has is read from its steps
    promises=[Promise(that=NobodyDied())],
)
TRAIN = Train(
    name="train toy",
    who=0,
    lineage="toy",
    text=TEXT,
    windows=64,
    plan={
        "group_bytes": 512 << 10,
        "learners": 2,
        "patience_ms": 2000,
        "batch": 4,
        "context": 32,
        "phases": [{"rounds": 1, "steps": 5, "up": "int8", "down": "int8"}],
    },
)


class BenchError(Exception):
    """A daemon or a group did not do what is measured."""


class Seen(msgspec.Struct):
    """What daemons said while they lived."""

    acked: dict[tuple[int, str], int] = {}
    """(group, digest in hex) of every delta that a learner was told is safe: its round."""
    led: list[tuple[float, int, int, int, int]] = []
    """(Unix time, daemon, group, epoch, term) of each primary's own word."""
    diverged: list[str] = []
    """Daemons that found a version to be another than was committed, and why."""


class Result(msgspec.Struct):
    """Of one world."""

    kills: int = 0
    primaries: int = 0
    takeovers: list[float] = []
    acked: int = 0
    rounds: int = 0
    lost: int = 0
    two: int = 0
    divergent: int = 0


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Some ten minutes."""
    OUT.mkdir(parents=True, exist_ok=True)
    found: list[Result] = []
    for seed in range(1, WORLDS + 1):
        path = OUT / f"{seed}.json"
        if not path.exists():
            result = trio.run(_world, seed, say)
            path.write_bytes(msgspec.json.encode(result))
        found.append(msgspec.json.decode(path.read_bytes(), type=Result))
        say(f"world {seed}: {json.dumps(msgspec.to_builtins(found[-1]))}")
    beats = [beats for each in found for beats in each.takeovers]
    return {
        "lost_acked": sum(each.lost for each in found),
        "two_primaries_accepted": sum(each.two for each in found),
        "divergent_replicas": sum(each.divergent for each in found),
        "takeover_heartbeats_p99": round(quantile(beats, 0.99), 2),
        "takeover_heartbeats_p50": round(quantile(beats, 0.5), 2),
        "takeovers": len(beats),
        "kills": sum(each.kills for each in found),
        "kills_of_primaries": sum(each.primaries for each in found),
        "acked": sum(each.acked for each in found),
        "rounds": sum(each.rounds for each in found),
        "heartbeat_s": BEAT_S,
    }


async def _world(seed: int, say: Callable[[str], None]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        where = Path("configs/scenarios/primary.toml")
        async with open_world(SCENARIO, where, seed, say, logs=Path(folder)) as world:
            say(await perform(BEGIN[0], world))
            await _must(world, Met(peers=DAEMONS - 2))
            await _must(world, LedgersAgree(index=3))
            say(await perform(BEGIN[1], world))
            say(await perform(TRAIN, world))
            await perform(Vote(who="0-3", proposal=TRAIN.name), world)
            await _must(world, TrainingOpen(lineage="toy"))
            seen = Seen({}, [])
            for daemon in world.daemons:
                world.nursery.start_soon(_follow, daemon, seen)
            await perform(Learn(who=f"0-{LEARNERS - 1}", lineage="toy", text=TEXT), world)
            await _must(world, Trained(lineage="toy", rounds=3, who=f"0-{LEARNERS - 1}"))
            result = Result()
            dice = random.Random(seed)
            for number in range(KILLS):
                await _kill(world, dice, seen, result)
                say(f"{number + 1} of {KILLS} killed; take-overs {result.takeovers}")
            await perform(Leave(who=f"0-{LEARNERS - 1}", lineage="toy"), world)
            await _until_still(world)
            for daemon in world.daemons:
                await daemon.signal(world.forks, "TERM")
            _compare(world, seen, result)
            return result


async def _follow(daemon: Daemon, seen: Seen) -> None:
    """Note what `daemon` says of training, whenever it lives."""

    def take(event: EventInfo) -> None:
        fields: dict[str, Any] = event.fields
        if event.kind == "training.acked":
            seen.acked[fields["group"], fields["digest"]] = fields["number"]
        elif event.kind == "training.primary" and fields["own"]:
            word = (event.at, daemon.index, fields["group"], fields["epoch"], fields["term"])
            seen.led.append(word)
        elif event.kind == "training.diverged":
            seen.diverged.append(f"{daemon}, group {fields['group']}: {fields['why']}")

    while True:
        if daemon.up:
            with suppress(SynapseError):  # its end ends the stream
                await daemon.client.events("training.", take)
        await trio.sleep(0.05)


async def _kill(world: World, dice: random.Random, seen: Seen, result: Result) -> None:
    """Kill one daemon at a random moment, and wait until all goes on with it."""
    await trio.sleep(dice.uniform(0, LONGEST_WAIT_S))
    status = await of_each(world.running(), training)
    leaders: dict[int, str] = {}
    for each in status:
        for one in each.trainings:
            leaders |= {
                group.number: group.primary for group in one.groups if group.role == "primary"
            }
    by_text = {daemon.identity.text: daemon for daemon in world.daemons}
    victim = world.daemons[dice.randrange(LEARNERS)]
    if dice.random() < PRIMARY_SHARE and 0 in leaders:
        victim = by_text[leaders[0]]
        result.primaries += 1
    led = [number for number, who in leaders.items() if who == victim.identity.text]
    rounds = max(one.round for each in status for one in each.trainings if one.joined)
    killed = time.time()
    await victim.signal(world.forks, "KILL")
    result.kills += 1
    for number in led:
        at = await _succeeded(seen, victim.index, number, killed)
        result.takeovers.append(round((at - killed) / BEAT_S, 3))
    await world.start(victim, kind="restart")
    await _must(world, Trained(lineage="toy", rounds=rounds + 3, who=f"0-{LEARNERS - 1}"))


async def _succeeded(seen: Seen, victim: int, group: int, killed: float) -> float:
    with trio.move_on_after(PATIENCE_S):
        while True:
            for at, daemon, number, _, _ in seen.led:
                if number == group and daemon != victim and at > killed:
                    return at
            await trio.sleep(0.02)
    raise BenchError(f"nobody took group {group} over within {PATIENCE_S:.0f} s")


async def _until_still(world: World) -> None:
    """Until no round has been committed for a while: what was acknowledged is in rounds."""
    last: list[int] = []
    with trio.move_on_after(4 * PATIENCE_S):
        while True:
            status = await of_each(world.running(), training)
            now = [group.round for each in status for one in each.trainings for group in one.groups]
            if now == last:
                return
            last = now
            await trio.sleep(STILL_S)


def _compare(world: World, seen: Seen, result: Result) -> None:
    """What lies on the disks."""
    rounds: dict[tuple[int, int], set[tuple[bytes, bytes]]] = defaultdict(set)
    inputs: set[tuple[int, str]] = set()
    within: dict[tuple[int, str], list[tuple[int, str]]] = {}
    """What regions' sums are made of."""
    for daemon in world.daemons:
        folder = daemon.places.training
        records = Database(folder / "records.db")
        for _, value in records.table(TABLE).items():
            decided = decode(value, Record, MAX_RECORD).round
            rounds[decided.group, decided.number].add((decided.head, decided.result))
            inputs |= {(decided.group, entry.digest.hex()) for entry in decided.inputs}
        for _, value in records.table(SUMS).items():
            said = decode_kept(value).proof.sum
            within[said.made.group, said.made.digest.hex()] = [
                (said.made.group, entry.digest.hex()) for entry in said.inputs
            ]
        for _, value in records.table(LINKS).items():
            link = decode(value, Round, MAX_RECORD)
            rounds[link.group, link.number].add((link.head, link.result))
        wrong = _wrong_files(folder, records, rounds)
        if wrong:
            world.say(f"{daemon}: {wrong} versions on disk are not what was committed")
        result.divergent += wrong
        records.close()
    result.rounds = len(rounds)
    result.acked = len(seen.acked)
    for key in set(inputs):
        inputs.update(within.get(key, ()))
    lost = {key: number for key, number in seen.acked.items() if key not in inputs}
    result.lost = len(lost)
    for (group, digest), number in sorted(lost.items()):
        last = max(at for its, at in rounds if its == group)
        world.say(f"lost: group {group}, {digest[:8]} for round {number}; {last} was the last")
    result.two = sum(len(found) > 1 for found in rounds.values()) + _led_twice(seen)
    result.divergent += len(seen.diverged)
    for text in seen.diverged:
        world.say(f"diverged: {text}")


def _wrong_files(
    folder: Path,
    records: Database,
    rounds: dict[tuple[int, int], set[tuple[bytes, bytes]]],
) -> int:
    """Versions on one disk whose bytes are not those of their root, or whose root is not what was
    committed."""
    wrong = 0
    for key, value in records.table(BASES).items():
        group = int.from_bytes(key[-4:], "big")
        for base in msgspec.msgpack.decode(value, type=list[Base]):
            (path,) = folder.glob(f"*/versions/{base.root.hex()}")
            root = shape_of_file(path, "safetensors", lambda _count: None)[0].root
            committed = {head for head, _ in rounds.get((group, base.number - 1), set())}
            wrong += root != base.root or (bool(committed) and base.root not in committed)
    return wrong


def _led_twice(seen: Seen) -> int:
    leaders: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for _, daemon, group, epoch, term in seen.led:
        leaders[group, epoch, term].add(daemon)
    return sum(len(found) > 1 for found in leaders.values())


async def _must(world: World, check: Check) -> None:
    finding = await wait_for(world, check, PATIENCE_S)  # type: ignore[arg-type]
    if not finding.holds:
        raise BenchError(finding.text)
