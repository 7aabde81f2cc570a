"""From `genesis seat` to a parameter in force: a real daemon, driven by the command line alone.

It is a council of one, so that a vote takes seconds; the swarm's scenarios have four and more.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from synapsed import keys
from synapsed.__main__ import main as synapsed
from synapsed.cli.genesis import GenesisInfo
from synapsed.cli.offline import Proven, Verified
from synapsed.control import ledgermodels as said
from synapsed.control import models
from tests.control_fixtures import Ran, run_cli
from tests.test_cli_commands import same_shape
from tests.test_daemon_real import home, running, stop  # noqa: F401 - home is a fixture

PARAMS = {
    "vote.window_ms": "2 s",
    "approval.window_ms": "2 s",
    "execute.delay_ms": "500 ms",
    "council.tick_ms": "250 ms",
    "council.time_out_ms": "4 s",
    "work.bits": "8",
}
PATIENCE = 40.0


@pytest.fixture(name="founded")
def founded_fixture(home: Path) -> Path:  # noqa: F811
    return found_alone(home, PARAMS)


def found_alone(home: Path, parameters: dict[str, str]) -> Path:  # noqa: F811
    """A home with a genesis of its own: one seat, one human key."""
    line = run_cli("genesis", "seat", "--name", "alone", SYNAPSED_HOME=str(home)).out.strip()
    alice = run_cli("human", "new", str(home / "alice.key"), "--json").json["key"]
    network = json.loads(ctl(home, "config", "show", "--json").out)["entries"][0]["value"]
    params = [part for name, value in parameters.items() for part in ("--param", f"{name}={value}")]
    file = home / "new-genesis.toml"
    made = run_cli(
        *("genesis", "new", str(file), "--network", network, "--member", line, "--json"),
        *("--human", f"alice={alice}", *params),
    )
    assert same_shape(made, GenesisInfo).parameters["vote.window_ms"] == 2000
    assert synapsed(["init", "--home", str(home), "--genesis", str(file)]) == 0
    return home


def ctl(home: Path, *arguments: str) -> Ran:  # noqa: F811
    clean = {name: "" for name in os.environ if name.startswith("SYNAPSED_")}
    return run_cli(*arguments, **{**clean, "SYNAPSED_HOME": str(home)})


def until(home: Path, name: str, value: int) -> said.ParamInfo:  # noqa: F811
    deadline = time.monotonic() + PATIENCE
    while True:
        found = same_shape(ctl(home, "params", name, "--json"), said.ParamInfo)
        if found.value == value:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_a_parameter_proposal_from_nothing_to_being_in_force(founded):
    with running(founded) as process:
        busy = ctl(founded, "genesis", "seat", "--json")
        assert (busy.code, busy.json["error"]) == (5, "already-running"), busy
        created = same_shape(
            ctl(founded, "proposal", "create", "--set", "limits.upload=4 MB/s", "--json"),
            said.Submitted,
        )
        cid, certificate = created.subject, created.certificate
        assert (certificate.kind, len(certificate.signers), certificate.seats) == ("ratified", 1, 1)
        assert certificate.index >= created.index
        voted = same_shape(ctl(founded, "proposal", "vote", cid, "yes", "--json"), said.Submitted)
        assert voted.index > created.index
        shown = ctl(founded, "proposal", "show", cid).out
        assert "limits.upload to 32 Mbit/s" in shown
        assert "yes, weight 1000" in shown
        watched = ctl(founded, "proposal", "watch", cid, "--timeout", str(PATIENCE))
        assert watched.code == 0, watched
        param = until(founded, "limits.upload", 4_000_000)
        assert (param.origin, param.proposal) == ("ledger", cid)
        assert param.certificate.index >= param.index
        # What is ratified is what the daemon does, for its owner has set nothing.
        limits = same_shape(ctl(founded, "limits", "--json"), models.Limits)
        assert limits.upload == 4_000_000
        assert limits.origins["limits.upload"] == f"ledger {param.index}"
        event = ctl(founded, "events", "--kind", "parameter.changed", "--json").json["events"][0]
        assert event["fields"]["index"] == param.index
        assert event["fields"]["certificate"].startswith(f"{param.certificate.epoch}/")
        entry = same_shape(
            ctl(founded, "ledger", "show", str(param.index), "--json"), said.EntryDetail
        )
        assert entry.entry.kind == "parameter"
        _check_the_trail(founded, param.index)
        stop(process, signal.SIGTERM)
    with running(founded) as process:
        assert until(founded, "limits.upload", 4_000_000).index == param.index
        glance = same_shape(ctl(founded, "status", "--json"), models.Status).ledger
        assert (glance.role, glance.seats, glance.index >= param.index) == ("member", 1, True)
        stop(process, signal.SIGTERM)


def _check_the_trail(home: Path, index: int) -> None:  # noqa: F811
    ours = ("--genesis", str(home / "genesis.toml"))
    ctl(home, "ledger", "export", str(home / "trail"))
    ctl(home, "ledger", "proof", str(index), str(home / "proof"))
    found = same_shape(run_cli("ledger", "verify", str(home / "trail"), *ours, "--json"), Verified)
    assert found.index >= index
    proof = run_cli("ledger", "verify", "--proof", str(home / "proof"), *ours, "--json")
    assert same_shape(proof, Proven).entry.index == index


def test_what_is_risky_waits_for_a_person(founded):
    with running(founded):
        created = ctl(founded, "proposal", "create", "--set", "quota.newcomer=25", "--json")
        cid = same_shape(created, said.Submitted).subject
        assert ctl(founded, "proposal", "vote", cid, "yes").code == 0
        approved = ctl(founded, "proposal", "approve", cid, "--key", str(founded / "alice.key"))
        assert approved.code == 0, approved
        assert until(founded, "quota.newcomer", 25).risk == "high"
        lonely = ctl(founded, "proposal", "create", "--set", "quota.newcomer=26", "--json")
        lonely = same_shape(lonely, said.Submitted).subject
        assert ctl(founded, "proposal", "vote", lonely, "yes").code == 0
        watched = ctl(founded, "proposal", "watch", lonely, "--timeout", str(PATIENCE))
        assert watched.code == 1
        assert "not-approved" in watched.out


def test_the_errors_of_a_real_daemon_are_the_documented_ones(founded):
    with running(founded):
        created = ctl(founded, "proposal", "create", "--title", "a question", "--json")
        cid = same_shape(created, said.Submitted).subject
        nobody = "bafkreia" + "a" * 51
        for arguments, code, error in (
            (("proposal", "create", "--title", "a question"), 1, "replayed"),
            (("proposal", "create", "--set", "council.seats=65"), 2, "usage"),
            (("proposal", "create", "--set", "council.seats=7"), 2, "usage"),
            (("proposal", "vote", nobody, "yes"), 1, "unknown"),
            (("proposal", "show", nobody), 1, "unknown"),
            (("ledger", "show", "99999"), 1, "unknown"),
            (("ledger", "proof", "99999", str(founded / "x")), 1, "unknown"),
            (("reputation", keys.load(founded / "identity.key").text), 0, None),
        ):
            ran = ctl(founded, *arguments, "--json")
            assert (ran.code, ran.json.get("error")) == (code, error), (arguments, ran)
        approval = ctl(
            founded, "proposal", "approve", cid, "--key", str(founded / "alice.key"), "--json"
        )
        assert (approval.code, approval.json["error"]) == (1, "not-open")
        deadline = time.monotonic() + PATIENCE
        while ctl(founded, "proposal", "ls", "--state", "open", "--json").json["proposals"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        late = ctl(founded, "proposal", "vote", cid, "yes", "--json")
        assert (late.code, late.json["error"]) == (1, "not-open")
