"""`regions`: what learning through regions' aggregators loses, and saves, against going straight.

Eight learners of the tiny mixture of experts in two regions, all on the same tokens, from the
version after 900 dense steps on, 300 steps by the warm plan of `converge`: once each delta goes to
the primary, once each region's aggregator sums its four and encodes the sum anew (with what the one
before left out), as daemons do. `kept` is the share of dense training's improvement on the same
tokens that is kept.

Bytes are those of both directions with messages and framing; the wide ones those that cross to the
region without the primary: four learners', or one aggregator's. What replicas send each other, and
what audits cost, is not in them (`learn-wan` has both).

Each run's result is kept in bench-out/converge/, so that a bench that was stopped goes on.
"""

from collections.abc import Callable
from functools import partial
from statistics import fmean

import torch
from safetensors.torch import load_file, save_file

from synapsed.computeworker.lab import Dense, Lab
from tests.bench.converge import DENSE_FIRST, WARM, WARM_STEPS, Bench, Result, rates
from tests.bench.learn_wire import dense_bytes, round_bytes, sum_bytes

REACH = {"kept": ">= 0.65", "lost": "<= 0.05", "wide_cut": ">= 3"}
"""The issue's bound for the warm plan; a twentieth of the improvement for the detour; and of the
four deltas that one sum replaces, three."""

SEEDS = (1, 2, 3)
LEARNERS, REGIONS = 8, 2


class Regions:
    """Runs by seed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def dense(self, seed: int) -> Result:
        """900 steps at the full rate, and 300 at falling ones."""
        return self._bench.kept("regions-dense", seed, WARM, partial(self._dense, seed))

    def _dense(self, seed: int) -> Result:
        run = Dense(WARM, self._bench.text, seed=seed, learners=LEARNERS)
        run.run([WARM.rate / 1e6] * DENSE_FIRST)
        values = {str(at): value for at, value in enumerate(run.copy.values())}
        save_file(values, self._bench.path("regions-dense", seed, WARM, "safetensors"))
        before = run.loss()
        run.run(rates(WARM, WARM_STEPS))
        return {"before": before, "after": run.loss()}

    def ours(self, seed: int, regions: int) -> Result:
        """From there, with nobody's moments."""
        name = "regions-summed" if regions else "regions-straight"
        return self._bench.kept(name, seed, WARM, partial(self._ours, seed, regions))

    def _ours(self, seed: int, regions: int) -> Result:
        lab = Lab(WARM, self._bench.text, seed=seed, learners=LEARNERS, regions=regions)
        tensors = load_file(self._bench.path("regions-dense", seed, WARM, "safetensors"))
        lab.begin_at([tensors[str(at)] for at in range(len(tensors))], DENSE_FIRST)
        whole = wide = 0
        each = LEARNERS // REGIONS
        while lab.step < DENSE_FIRST + WARM_STEPS:
            number, sent = lab.round, lab.run_round()
            whole += round_bytes(number, sent.steps, sent.deltas, sent.result)
            if sent.sums:
                to_primary = sum_bytes(number, sent.sums, each, sent.result)
                whole += sum(to_primary)
                wide += to_primary[-1]
            else:
                wide += round_bytes(number, sent.steps, sent.deltas[1::REGIONS], sent.result)
        fp32 = dense_bytes(WARM_STEPS, LEARNERS, lab.parameters)
        return {"loss": lab.loss(), "bytes": whole, "wide": wide, "dense_bytes": fp32}


def measure(say: Callable[[str], None]) -> dict[str, float]:
    """Means over the seeds."""
    torch.set_num_threads(1)
    runs = Regions(Bench(say))
    rows = [_seed(runs, seed) for seed in SEEDS]
    return {field: fmean(row[field] for row in rows) for field in rows[0]}


def _seed(runs: Regions, seed: int) -> dict[str, float]:
    dense, straight, summed = runs.dense(seed), runs.ours(seed, 0), runs.ours(seed, REGIONS)
    better = dense["before"] - dense["after"]
    kept, kept_straight = ((dense["before"] - run["loss"]) / better for run in (summed, straight))
    return {
        "kept": kept,
        "kept_straight": kept_straight,
        "lost": kept_straight - kept,
        "wide_cut": straight["wide"] / summed["wide"],
        "ratio": summed["dense_bytes"] / summed["bytes"],
        "ratio_straight": straight["dense_bytes"] / straight["bytes"],
        "before": dense["before"],
        "loss_dense": dense["after"],
        "loss": summed["loss"],
        "loss_straight": straight["loss"],
    }
