"""An upgrade from its source to answering on a real daemon, by the command line alone.

It is a council of one: the swarm's scenarios have more, and what is measured there.
"""

import signal
import time
from pathlib import Path

import pytest

from synapsed.cli.upgradeauthor import BuiltInfo
from synapsed.cli.upgradeshow import Shown
from synapsed.control import ledgermodels
from synapsed.control import upgrademodels as said
from tests.test_cli_commands import same_shape
from tests.test_cli_ledger_real import PARAMS, PATIENCE, ctl, found_alone
from tests.test_daemon_real import home, running, stop  # noqa: F401 - home is a fixture

SLOT = "peer_scoring"
SOURCE = Path(__file__).parent.parent / "examples" / "upgrades" / "wat" / f"{SLOT}.wat"


@pytest.fixture(name="founded")
def founded_fixture(home: Path) -> Path:  # noqa: F811
    """As in the ledger's test, with time for the council's check on a busy machine."""
    return found_alone(home, {**PARAMS, "approval.window_ms": "2 min"})


def status(home: Path) -> said.SlotStatus:  # noqa: F811
    return same_shape(ctl(home, "upgrade", "status", SLOT, "--json"), said.SlotStatus)


def until(home: Path, what) -> said.SlotStatus:  # noqa: F811
    deadline = time.monotonic() + PATIENCE
    while not what(found := status(home)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_a_module_is_built_proposed_voted_in_run_and_switched_off(founded):
    built = ctl(founded, "upgrade", "build", str(SOURCE), "--slot", SLOT, "-o", str(founded / "b"))
    assert built.code == 0, built
    with running(founded) as process:
        words = ("--risks", "none known", "--benefits", "an example", "--json")
        proposed = ctl(founded, "upgrade", "propose", str(founded / "b"), *words)
        cid = same_shape(proposed, ledgermodels.Submitted).subject
        assert ctl(founded, "proposal", "vote", cid, "yes").code == 0
        approved = ctl(founded, "proposal", "approve", cid, "--key", str(founded / "alice.key"))
        assert approved.code == 0, approved
        # Voted for, found sound by the member's own check, and begun.
        begun = until(founded, lambda slot: slot.rollout is not None)
        assert (begun.rollout.candidate.number, begun.answers.native) == (1, True)
        shown = same_shape(ctl(founded, "upgrade", "show", cid, "--json"), Shown)
        assert shown.proposal.proposal.fetchable == 1
        assert shown.manifest.source.text == SOURCE.read_text()
        ready = until(founded, lambda slot: not slot.rollout.candidate.why_not)
        assert ready.mode == "auto"
        assert ctl(founded, "upgrade", "mode", "off", "--slot", SLOT).code == 0
        assert status(founded).rollout.candidate.why_not == "off"
        stop(process, signal.SIGTERM)
    with running(founded) as process:
        found = status(founded)
        assert (found.mode, found.mode_origin) == ("off", "upgrade mode")
        assert found.rollout.candidate.why_not == "off"
        stop(process, signal.SIGTERM)


def test_what_the_build_printed_is_what_is_voted_on(founded):
    built = ctl(
        *(founded, "upgrade", "build", str(SOURCE), "--slot", SLOT),
        *("-o", str(founded / "b"), "--json"),
    )
    info = same_shape(built, BuiltInfo)
    with running(founded):
        words = (
            "--risks",
            "none known",
            "--benefits",
            "an example",
            "--json",
            "--no-wait",
            "--unchecked",
        )
        proposed = ctl(founded, "upgrade", "propose", str(founded / "b"), *words)
        cid = same_shape(proposed, ledgermodels.Submitted).subject
        deadline = time.monotonic() + PATIENCE
        while (ran := ctl(founded, "upgrade", "show", cid, "--json")).code:
            assert time.monotonic() < deadline, ran
            time.sleep(0.1)
        record = same_shape(ran, Shown).record
        assert (record.module, record.source) == (info.module_hash, info.source_hash)
