"""How long a council stands still: after its leader is killed, and after everything healed."""

from collections.abc import Iterable

from simnet.virtual import families
from simnet.virtual.case import Case
from simnet.virtual.families import Family
from simnet.virtual.runs import run_all
from simnet.virtual.town import Town

STEADY_S = 5.0
"""Until a council is under way; then the leader is killed within the next time-outs."""
PATIENCE = 20.0
"""Time-outs that are waited for the next certificate."""
HEALED = ("partitions", "leaders", "liars", "twins")
"""Families whose healing is measured."""


class StalledError(Exception):
    """No certificate came."""


def quiet(members: int, submissions: float = 1.0) -> Family:
    """A family in which nothing goes wrong by itself."""
    return Family(
        title="nothing goes wrong", members=[members], ledger="real", submissions=submissions
    )


def failover(seeds: Iterable[int]) -> list[float]:
    """The leader of four members is killed: time-outs until the next certificate."""
    return [_killed(Case(quiet(4), seed)) for seed in seeds]


def _killed(case: Case) -> float:
    town = Town(case)
    world = town.world
    town.begin()
    world.heap.run(STEADY_S + town.time_out * world.chance["failover"].random())
    leader = town.leader()
    if leader is None:
        raise StalledError(f"seed {case.seed}: nobody leads a quiet council")
    world.nodes[leader].crash("for good")
    killed, before = world.now, town.terms
    world.heap.run(killed + PATIENCE * town.time_out, lambda: town.terms > before)
    if town.terms == before:
        raise StalledError(f"seed {case.seed}: no certificate in {PATIENCE:g} time-outs")
    return (world.now - killed) / town.time_out


def healed(seeds: Iterable[int], workers: int = 1) -> list[float]:
    """After partitions and liars: time-outs from healing until everybody had something new.

    A run that breaks a check counts as endless.
    """
    cases = [
        Case(families.load(HEALED[place % len(HEALED)]), seed) for place, seed in enumerate(seeds)
    ]
    found = []
    for outcome in run_all(cases, workers):
        if outcome.failed:
            found.append(float("inf"))
        elif outcome.healed is not None:
            found.append(outcome.healed)
    return found
