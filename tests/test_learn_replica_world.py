"""Tile groups in bad weather, a few seeds of each family; `make soak` runs thousands."""

import msgspec
import pytest

from protocols.effects import Send
from protocols.learn.replica_messages import PROTOCOL, Report, unpack
from simnet.virtual import families
from simnet.virtual.case import Case
from simnet.virtual.node import Node
from simnet.virtual.runs import run
from simnet.virtual.tilefailover import quantile, takeovers
from simnet.virtual.tiletown import TileTown


@pytest.mark.parametrize(
    "name", ["tiles", "tiles-storm", "tiles-epochs", "tiles-wiped", "tiles-clocks", "tiles-lease"]
)
def test_nothing_acknowledged_is_lost(name: str) -> None:
    family = families.load(name)
    crashes = committed = 0
    for seed in range(1, 6):
        outcome = run(Case(family, seed))
        assert not outcome.failed, f"{outcome.check}: {outcome.text}\n{outcome.command}"
        crashes += outcome.tally.get("crash", 0)
        committed += outcome.ratified
    assert crashes >= 5
    assert committed >= 100


def test_who_stands_still_over_its_election_begins_late_and_commits_nothing_new() -> None:
    """It was accepted in time, and reads that when another leads: nobody broke a rule."""
    calm = msgspec.structs.replace(families.load("tiles"), faults=[], must=[])
    town = TileTown(Case(calm, 1))
    paused: list[Node] = []

    def watch(node: Node, effect: Send) -> None:
        town.checks.sent(node, effect)
        if effect.protocol == PROTOCOL and not paused:
            message = unpack(effect.data)[1]
            if isinstance(message, Report) and message.ready:
                paused.extend(it for it in town.daemons if it.key.peer == effect.peer)
                paused[0].paused_until = town.world.now + 4

    town.world.check = watch
    outcome = town.run()
    assert not outcome.failed, f"{outcome.check}: {outcome.text}"
    assert outcome.tally["begins-late"] == 1


def test_a_run_is_the_same_each_time() -> None:
    case = Case(families.load("tiles-wiped"), 3)
    towns = [TileTown(case, telling=True) for _ in range(2)]
    for town in towns:
        town.run()
    assert towns[0].world.text() == towns[1].world.text()


def test_a_killed_primary_is_replaced_within_four_heartbeats() -> None:
    for how in ("killed", "powered off"):
        near = takeovers(range(1, 16), "near", how)
        assert quantile(near, 0.99) <= 4.0
        assert min(near) > 1.0  # it was waited for


def test_a_primary_that_restarts_at_once_is_not_waited_for() -> None:
    assert quantile(takeovers(range(1, 11), "near", "restarted"), 0.99) <= 4.0
