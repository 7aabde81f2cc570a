"""`default-plan`: the plan that a proposal takes where it names none, as a whole.

Four learners from random weights by `protocols/learn/defaults.DEFAULT`, 1,200 steps: 900 of them
every four, the others every 15, all at the full rate; then 300 more while the rate falls, as the
plan's own words advise before what was learned is used. Dense training reads the same tokens at the
same rates. Losses and bytes as in `converge`; one seed, since a run takes minutes.
"""

from collections.abc import Callable
from functools import partial

import torch

from protocols.learn import defaults
from synapsed.computeworker.lab import Dense, Lab
from tests.bench.converge import LEARNERS, Bench, Result, rates
from tests.bench.learn_wire import dense_bytes, round_bytes

REACH = {"ratio": ">= 100", "gap": "<= 0.05"}
"""The issue's bounds for training from random weights."""

SEED = 1
FULL, FALLS, COOLED = 1200, 300, 1500
PLAN = defaults.plan(
    (
        *defaults.DEFAULT.phases[:-1],
        *defaults.flat(defaults.DEFAULT.phases[-1].steps, FALLS, defaults.DEFAULT.phases[-1].zone),
        *defaults.falling(15, FALLS, 145),
    )
)
"""As DEFAULT up to step 1,200."""


def _dense(bench: Bench) -> Result:
    run = Dense(PLAN, bench.text, seed=SEED, learners=LEARNERS)
    first = run.loss()
    each = rates(PLAN, COOLED)
    run.run(each[:FULL])
    full = run.loss()
    run.run(each[FULL:])
    return {"first": first, "full": full, "cooled": run.loss()}


def _ours(bench: Bench) -> Result:
    lab = Lab(PLAN, bench.text, seed=SEED, learners=LEARNERS)
    found: Result = {}
    sent = 0
    while lab.step < COOLED:
        number, done = lab.round, lab.run_round()
        sent += round_bytes(number, done.steps, done.deltas, done.result)
        if lab.step in (FULL, COOLED):
            name = "full" if lab.step == FULL else "cooled"
            found[name] = lab.loss()
            found[f"bytes_{name}"] = sent
            found[f"fp32_{name}"] = dense_bytes(lab.step, LEARNERS, lab.parameters)
    return found


def measure(say: Callable[[str], None]) -> dict[str, float]:
    """At step 1,200, and cooled at 1,500."""
    torch.set_num_threads(1)
    bench = Bench(say)
    dense = bench.kept("default-dense", SEED, PLAN, partial(_dense, bench))
    ours = bench.kept("default", SEED, PLAN, partial(_ours, bench))
    return {
        "ratio": ours["fp32_full"] / ours["bytes_full"],
        "gap": ours["full"] - dense["full"],
        "kept": (dense["first"] - ours["full"]) / (dense["first"] - dense["full"]),
        "loss": ours["full"],
        "loss_dense": dense["full"],
        "cooled_ratio": ours["fp32_cooled"] / ours["bytes_cooled"],
        "cooled_gap": ours["cooled"] - dense["cooled"],
        "cooled_loss": ours["cooled"],
        "cooled_dense": dense["cooled"],
    }
