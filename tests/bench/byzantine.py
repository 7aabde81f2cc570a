"""`byzantine`: what liars among the learners cost, with the aggregation that is the default and
with the plain mean that others use.

One liar in five (two of seven who collude), of six kinds, each through the real codecs and the
real primary; `gap` is the worst of them, in nats to the loss that the honest ones reach alone.
`python -m tests.bench byzantine` keeps each run's result in bench-out/byzantine/.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from protocols.learn import defaults
from synapsed.computeworker import codecs, robust
from synapsed.computeworker.feedback import settings_of
from synapsed.computeworker.lab import Dense, Lab, Learner, Lie, Text, Values

REACH = {"gap": "<= 0.05", "mean_breaks": ">= 1"}
"""Stretch: 0.02."""

TEXT = Path("tests/data/shakespeare.txt")
KEPT = Path("bench-out/byzantine")
SEEDS = (1, 2)
DENSE_FIRST = 300
"""Steps before liars come: from random weights a run's chance is worth 0.02 nats."""
ROUNDS = 60
HONEST = 4
COLLUDERS, THEIR_HONEST = 2, 5
BIAS = 0.5
"""Of the colluders' bias, in lengths of what they honestly learned."""
OLD = 10
"""Rounds after which a replay begins, with what was learned in the first of them."""
BROKEN = 0.5
"""Nats above the honest ones: a model that learns bytes' frequencies alone is 1.3 above."""

PLAN = msgspec.structs.replace(
    defaults.plan(defaults.flat(4, 120, 120) + defaults.falling(4, 120, 120)), context=32
)


class Kind(NamedTuple):
    """Liars of one kind."""

    liars: int
    honest: int
    lie: Callable[[], Lie]


def flipped() -> Lie:
    """What it learned, backwards."""
    return lambda _round, changed, one: _encode([-value for value in changed], one)


def scaled() -> Lie:
    """A thousand times what it learned."""
    return lambda _round, changed, one: _encode([value * 1000 for value in changed], one)


def noise() -> Lie:
    """Noise, as long as what it learned."""

    def lie(number: int, changed: Values, one: Learner) -> bytes:
        return _encode(_towards(f"{one.seed} {number}", changed, 1.0), one)

    return lie


def replayed() -> Lie:
    """Honest at first; then always what was right once."""
    kept: list[bytes] = []

    def lie(number: int, changed: Values, one: Learner) -> bytes:
        if number < OLD:
            kept.append(one.left.encode("ternary", changed, settings_of(PLAN.phase_of(number))))
        return kept[-1] if number < OLD else kept[0]

    return lie


def not_a_number() -> Lie:
    """Bytes that hold a NaN, which no encoder writes: fp32 is the one layout that could."""

    def lie(_round: int, changed: Values, _one: Learner) -> bytes:
        values = [value.clone() for value in changed]
        plain = bytearray(codecs.encode("fp32", values))
        plain[-4:] = torch.tensor([math.nan]).numpy().tobytes()
        return bytes(plain)

    return lie


def biased() -> Lie:
    """What it learned and a small step aside, in a direction that the liars agreed on."""

    def lie(_round: int, changed: Values, one: Learner) -> bytes:
        aside = _towards("our secret", changed, BIAS)
        return _encode([a + b for a, b in zip(changed, aside, strict=True)], one)

    return lie


KINDS = {
    "flipped": Kind(1, HONEST, flipped),
    "scaled": Kind(1, HONEST, scaled),
    "random": Kind(1, HONEST, noise),
    "stale": Kind(1, HONEST, replayed),
    "nan": Kind(1, HONEST, not_a_number),
    "colluding": Kind(COLLUDERS, THEIR_HONEST, biased),
}


def _encode(values: Values, one: Learner) -> bytes:
    """With error feedback, as whoever wants to reach something would."""
    return one.left.encode("ternary", values, settings_of(PLAN.phases[0]))


def _towards(name: str, like: Values, factor: float) -> list[Tensor]:
    """A direction that has this name, `factor` times as long as `like`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(value.shape, generator=generator) for value in like]
    length, wanted = (math.sqrt(sum(float(v.norm()) ** 2 for v in x)) for x in (found, like))
    return [value * (factor * wanted / length) for value in found]


def begun(seed: int, text: Text) -> Values:
    """Where they all begin: after dense steps, which nobody could disturb."""
    run = Dense(PLAN, text, seed=seed, learners=HONEST)
    run.run([PLAN.rate_of(0)] * DENSE_FIRST)
    return run.copy.values()


def run(name: str, rule: robust.Rule, seed: int, text: Text, start: Values) -> float:
    """The loss after all rounds with liars of that kind; `honest-N` has N honest learners."""
    kind = KINDS.get(name)
    honest = kind.honest if kind else int(name.removeprefix("honest-"))
    lies = {honest + at: kind.lie() for at in range(kind.liars)} if kind else {}
    lab = Lab(PLAN, text, seed=seed, learners=honest + len(lies), rule=rule, lies=lies)
    lab.begin_at(start, DENSE_FIRST)
    for _ in range(ROUNDS):
        lab.run_round()
        if not all(bool(torch.isfinite(value).all()) for value in lab.base):
            return math.inf
    loss = lab.loss()
    return loss if math.isfinite(loss) else math.inf


def _setting() -> str:
    what = repr((PLAN, ROUNDS, DENSE_FIRST, BIAS, robust.AGREE))
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def measure(say: Callable[[str], None]) -> dict[str, float]:
    """Worst gaps; each run is kept, so that a bench that was stopped goes on."""
    text = Text.of(TEXT)
    starts: dict[int, Values] = {}

    def start(seed: int) -> Values:
        if seed not in starts:
            starts[seed] = begun(seed, text)
        return starts[seed]

    def loss(name: str, rule: robust.Rule, seed: int) -> float:
        plan = hashlib.sha256(
            repr((PLAN, ROUNDS, DENSE_FIRST, BIAS, robust.AGREE)).encode()
        ).hexdigest()[:12]
        path = KEPT / f"{name}-{rule}-{seed}-{plan}.json"
        if not path.exists():
            KEPT.mkdir(parents=True, exist_ok=True)
            found = run(name, rule, seed, text, start(seed))
            path.write_text(json.dumps({"loss": found if math.isfinite(found) else None}))
            say(f"{name} by {rule}, seed {seed}: {found:.4f}")
        kept: float | None = json.loads(path.read_text())["loss"]
        return math.inf if kept is None else kept

    def gap(name: str, rule: robust.Rule) -> float:
        each = [
            loss(name, rule, seed) - loss(f"honest-{KINDS[name].honest}", robust.DEFAULT, seed)
            for seed in SEEDS
        ]
        return sum(each) / len(each)

    gaps = {name: gap(name, robust.DEFAULT) for name in KINDS}
    plain = {name: gap(name, "mean") for name in KINDS}
    for name in KINDS:
        say(f"{name}: {gaps[name]:+.4f}, by the plain mean {plain[name]:+.4f}")
    return {
        "gap": max(gaps.values()),
        "mean_breaks": float(sum(value > BROKEN for value in plain.values())),
        "mean_gap": min(max(plain.values()), 1e6),
        **{f"gap_{name}": value for name, value in gaps.items()},
    }
