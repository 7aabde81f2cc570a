"""learn-wan: what crosses between regions while 100 learners in five train the same 4 tiles.

Every home runs the daemon's own machines in virtual time (simnet/virtual/learnwan.py): learners,
aggregators, replicas and their log, rounds, records. Every frame is the real one, with what Yamux,
Noise and TCP add. How large a delta, a region's sum and a round's result are is measured first:
twenty learners (a region) train the tiny MoE on text, and what they learned in four rounds, one
after another, makes a tile of 4 MiB, encoded by the plan's last phase with error feedback.

`mb_per_step` is MB over links between regions, all kinds of frames, for each of a round's 15 inner
steps; `cut` what the same homes send without aggregators, over it. The worst of the seeds counts.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from protocols.learn.defaults import DEFAULT
from protocols.plan import Phase, Plan
from simnet.virtual.learnwan import Wan, WanCase
from synapsed.computeworker import codecs, robust
from synapsed.computeworker.feedback import Feedback, settings_of
from synapsed.computeworker.lab import Lab, Text
from synapsed.computeworker.outer import Outer

REACH = {"mb_per_step": "<= 1", "cut": ">= 18"}

TEXT = Path(__file__).parent.parent / "data" / "shakespeare.txt"
STEPS = 15
TILE = 1 << 20
"""fp32 values of a tile of 4 MiB."""
REGION = 20
REGIONS = 5
WARM_STEPS = 60
"""Dense steps before, so that what is measured is not the noise of random weights."""
TILES = 2
"""Of four rounds each; the second is measured, when error feedback has something to feed back."""
SEEDS = 1, 2, 3
SETTLING, ROUNDS = 3, 8
"""Rounds until everybody knows everybody, and rounds that count."""


def plan() -> Plan:
    """The default's coarsest phase at its full rate, for ever."""
    full = max(DEFAULT.phases, key=lambda it: (it.steps, it.rate))
    return msgspec.structs.replace(
        DEFAULT,
        phases=(msgspec.structs.replace(full, rounds=1, steps=STEPS),),
        group_bytes=TILE * 4,
        learners=90,
    )


class Measured:
    """Sizes of a tile's delta by learner, of a region's sum, and of a result."""

    def __init__(self, deltas: list[int], total: int, result: int) -> None:
        self.deltas = deltas
        self.total = total
        self.made = result

    def delta(self, group: int, number: int, learner: int) -> int:
        """A learner's."""
        return self.deltas[(group + number + learner) % len(self.deltas)]

    def sum(self, group: int, number: int, learners: int) -> int:
        """A region's."""
        del group, number, learners
        return self.total

    def result(self, group: int, number: int) -> int:
        """A round's."""
        del group, number
        return self.made


def learned(say: Callable[[str], None]) -> list[list[torch.Tensor]]:
    """What each learner of a region learned, as TILES tiles of 4 MiB."""
    torch.set_num_threads(1)
    its = plan()
    dense = msgspec.structs.replace(its, phases=(Phase(1, 1, "fp32", "fp32"),))
    text = Text.of(TEXT)
    warm = Lab(dense, text, seed=1, learners=1)
    for _ in range(WARM_STEPS):
        warm.run_round()
    lab = Lab(its, text, seed=1, learners=REGION)
    lab.begin_at(warm.base, WARM_STEPS)
    kept: list[list[list[torch.Tensor]]] = [[] for _ in range(REGION)]

    def spy(number: int, one: object) -> Callable[..., bytes]:
        def lie(_: int, changed: list[torch.Tensor], learner: object) -> bytes:
            kept[number].append([value.clone() for value in changed])
            phase: Phase = its.phases[0]
            return learner.left.encode(phase.up, changed, settings_of(phase))  # type: ignore[attr-defined,no-any-return]

        del one
        return lie

    lab._lies = {number: spy(number, one) for number, one in enumerate(lab.learners)}
    need = -(-TILE // lab.parameters)
    for number in range(need * TILES):
        lab.run_round()
        say(f"round {number + 1} of {need * TILES} of a region's {REGION} learners")
    return [
        [
            torch.cat([value for part in rounds[at * need : (at + 1) * need] for value in part])[
                :TILE
            ]
            for at in range(TILES)
        ]
        for rounds in kept
    ]


def sizes(say: Callable[[str], None]) -> Measured:
    """Real codecs, on what was really learned."""
    phase = plan().phases[0]
    settings = settings_of(phase)
    left = [Feedback.nothing([TILE]) for _ in range(REGION)]
    primary = Outer.start([TILE])
    base = [torch.zeros(TILE)]
    carried = torch.zeros(TILE)
    found: Measured | None = None
    for tiles in zip(*learned(say), strict=True):
        deltas = [
            one.encode(phase.up, [tile], settings) for one, tile in zip(left, tiles, strict=True)
        ]
        decoded = [codecs.decode(delta, [TILE]) for delta in deltas]
        whole = robust.aggregate(decoded).mean[0] + carried
        total = codecs.encode(phase.up, [whole], settings)
        rest = codecs.encode("int8", [whole - codecs.decode(total, [TILE])[0]])
        carried = codecs.decode(rest, [TILE])[0]
        # The other regions' sums are as large: a quarter of this one's learners stands for each.
        some = [robust.aggregate(decoded[at :: REGIONS - 1]).mean for at in range(REGIONS - 1)]
        sums = [codecs.decode(codecs.encode(phase.up, it, settings), [TILE]) for it in some]
        mean = robust.aggregate([*sums, codecs.decode(total, [TILE])], [REGION] * REGIONS).mean
        result = primary.step(plan(), 0, mean, base)
        found = Measured([len(delta) for delta in deltas], len(total), len(result))
    assert found is not None
    return found


def run(measured: Measured, seed: int, *, aggregators: bool) -> Wan:
    """One world, whose links count only the rounds after it has settled."""
    wan = Wan(WanCase(plan(), aggregators=aggregators, seed=seed), measured)
    wan.start()
    wan.run(SETTLING)
    wan.links.forget()
    wan.run(SETTLING + ROUNDS)
    if wan.closed < SETTLING + ROUNDS or wan.wrong:
        raise RuntimeError(f"seed {seed}: {wan.closed} rounds, wrong: {wan.wrong[:3]}")
    return wan


def measure(say: Callable[[str], None]) -> dict[str, float | int | str]:
    """Sizes first; then each seed, with aggregators and without."""
    measured = sizes(say)
    mean = sum(measured.deltas) / len(measured.deltas)
    say(f"a delta of {mean:.0f} bytes, a sum of {measured.total}, a result of {measured.made}")
    per = ROUNDS * STEPS * 1e6
    found: list[tuple[float, float, Wan, Wan]] = []
    for seed in SEEDS:
        with_them = run(measured, seed, aggregators=True)
        without = run(measured, seed, aggregators=False)
        mine, theirs = with_them.links.count.total, without.links.count.total
        say(f"seed {seed}: {mine / per:.3f} MB a step, {theirs / per:.3f} without aggregators")
        found.append((mine / per, theirs / mine, with_them, without))
    worst = max(found, key=lambda it: it[0])
    shown = worst[2].links.count.bytes.most_common()
    say("MB a round: " + ", ".join(f"{kind} {n / ROUNDS / 1e6:.3f}" for kind, n in shown))
    return {
        "mb_per_step": round(worst[0], 3),
        "cut": round(min(it[1] for it in found), 2),
        "mb_per_step_without": round(worst[0] * worst[1], 3),
        "delta_bytes": round(mean),
        "sum_bytes": measured.total,
        "result_bytes": measured.made,
        "connections": max(len(it[2].links.pairs) for it in found),
        "connections_without": max(len(it[3].links.pairs) for it in found),
        "wide_connections": max(it[2].links.wide_pairs for it in found),
        "wide_connections_without": max(it[3].links.wide_pairs for it in found),
        "most_of_one": max(it[2].links.most_of_one for it in found),
        "most_of_one_without": max(it[3].links.most_of_one for it in found),
        "learners_in_a_round": min(min(it[2].contributors[-ROUNDS:]) for it in found),
    }
