"""Every family of worlds in virtual time: its usual seeds, on every core, without a violation."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from simnet.virtual import families
from simnet.virtual.case import Case
from simnet.virtual.faults import FAULTS
from simnet.virtual.liars import LIARS
from simnet.virtual.town import MOST_TIME_OUTS

SEEDS = 1000
"""Runs of at least SECONDS virtual seconds each that `make test` makes."""
SECONDS = 60.0


FORGETFUL = 0.1
"""The share of runs, at most, in which too few seats are left to go on."""


def shipped() -> Iterator[families.Family]:
    return (families.load(name) for name in families.names())


def test_enough_runs_are_made_for_long_enough() -> None:
    assert sum(family.seeds for family in shipped()) >= SEEDS
    assert all(family.seconds >= SECONDS for family in shipped())
    sizes = {size for family in shipped() for size in family.members}
    assert sizes >= {4, 5, 7}


def test_every_fault_and_every_liar_is_in_some_family_that_insists_on_it() -> None:
    used = {spec.kind for family in shipped() for spec in family.faults}
    assert used == set(FAULTS)
    insisted = {name for family in shipped() for name in family.must}
    assert set(FAULTS) <= insisted | {"swizzle"}
    assert {kind for family in shipped() for kind in family.liars} == set(LIARS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", families.names())
def test_nothing_ratified_is_lost_or_replaced(name: str) -> None:
    family = families.load(name)
    command = [sys.executable, "-m", "simnet.virtual", name, "--seeds", f"1-{family.seeds}"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["violations"], "\n".join(
        f"{each['check']}: {each['text']}\n  {each['command']}" for each in found["violations"]
    )
    assert not found["never_happened"]
    # Where a quorum has lost its memory nothing can go on: those runs show less.
    assert found["tally"].get("no-quorum", 0) <= FORGETFUL * family.seeds
    assert done.returncode == 0
    assert found["seeds"] == family.seeds
    assert found["virtual_s"] >= family.seeds * family.seconds
    assert found["ratified"] > family.seeds * 10
    assert found["worst_timeouts_healed"] <= MOST_TIME_OUTS
    # A forced epoch waits for its lease: how long that takes says nothing of the protocol.
    assert found["worst_timeouts_healed"] > 0 or "learn.forced" in family.must


def test_a_run_says_how_it_is_made_again() -> None:
    family = families.load("twins")
    case = Case(family, 17, 7, 31.5, (0, 2, 3, 4))
    assert case.command == (
        "python -m simnet virtual twins --seed 17 --members 7 --seconds 31.5 --without 0,2-4"
    )
