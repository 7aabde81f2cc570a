"""Exit codes: 0 done, 1 failed, 2 usage, 3 no daemon, 4 timed out, 5 refused; and their words."""

import os
import signal
import socket
import sys
import threading

import pytest
import trio

from protocols.cid import cid_of, cid_text
from synapsed.cli.main import exit_code
from synapsed.control.client import DaemonError, NoDaemonError
from synapsed.control.models import Problem
from synapsed.control.problems import (
    ConflictError,
    PausedError,
    TimedOutError,
    problem_of,
    status_of,
)
from tests.control_fixtures import (  # noqa: F401
    CLI,
    big_fixture,
    daemon_fixture,
    origin_fixture,
    run_cli,
)
from tests.control_node import write_model

ABSENT = cid_text(cid_of(b"nobody has this"))


def test_no_daemon_is_three(tmp_path):
    for path in (tmp_path / "none", tmp_path / "dead"):
        if path.name == "dead":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
        ran = run_cli("status", "--socket", str(path))
        assert (ran.code, ran.out) == (3, "")
        assert f"no daemon listens at {path}" in ran.err
        assert "synapsed run" in ran.err
        ran = run_cli("status", "--json", "--socket", str(path))
        assert (ran.code, ran.err) == (3, "")
        assert set(ran.json) == {"error", "message", "remedy"}
        assert ran.json["error"] == "no-daemon"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("model",),
        ("model", "pull"),
        ("peers", "--sideways"),
        ("limits", "--quota", "much"),
        ("announcements", "--kind", "rumour"),
        ("completion", "tcsh"),
        ("announce", "kernel", "/nowhere/at/all.json"),
        ("--timeout", "soon", "status"),
        ("status", "--timeout", "nan"),
        ("completion",),
        ("limits", "--max-pulls", "0"),
        ("limits", "--quota", "0"),
        ("limits", "--upload", "99999999 TB/s"),
        ("model", "import", ""),
        ("model", "export", "name", ""),
    ],
)
def test_wrong_usage_is_two(arguments):
    ran = run_cli(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    # One line that says what is wrong and one that says what to do; or a group's help.
    assert len(ran.err.splitlines()) == 2 or arguments == ("model",)
    assert "\N{REPLACEMENT CHARACTER}" not in ran.err
    assert "Value error" not in ran.err
    # With --json before the words: a group that is alone takes no options after itself.
    ran = run_cli("--json", *arguments)
    assert (ran.code, ran.err) == (2, "")
    assert ran.json["error"] == "usage"


def test_nothing_and_a_group_alone_are_answered_with_their_help():
    for arguments, has in (((), "  status  "), (("model",), "  import  "), (("job",), "  ls  ")):
        ran = run_cli(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("Usage: synapsectl")
        assert has in ran.err


def test_an_endless_timeout_is_a_long_one(tmp_path):
    ran = run_cli("status", "--timeout", "inf", "--socket", str(tmp_path / "none"))
    assert ran.code == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xff",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: x\ndata: {}\n\n",
        b"220 smtp.example.org ESMTP\r\n",
        b"",
    ],
)
def test_what_is_no_daemon_is_three(tmp_path, answer):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(5)

        def talk() -> None:
            connection, _ = other.accept()
            connection.recv(4096)
            connection.sendall(answer)
            connection.close()

        talking = threading.Thread(target=talk)
        talking.start()
        arguments = ("events", "--follow") if b"stream" in answer else ("status",)
        ran = run_cli(*arguments, "--socket", str(path), "--json")
        talking.join(10)
    assert (ran.code, ran.err) == (3, "")
    assert str(path) in ran.json["message"]
    assert ran.json["remedy"]


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen(5)
        for arguments in (
            ("model", "import", name),
            ("model", "import", ".", "--name", name),
            ("events", "--kind", name),
        ):
            ran = run_cli(*arguments, "--socket", str(tmp_path / "control.sock"), "--json")
            assert (ran.code, ran.json["error"]) == (2, "not-text"), arguments
    # A home may have such a name: nothing of it is sent.
    assert run_cli("status", "--home", str(tmp_path / name)).code == 3


def test_a_stopped_daemon_is_four(tmp_path):
    """A daemon that listens and never answers: --timeout ends it."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(5)
        for arguments in (("status",), ("model", "pull", ABSENT), ("events", "--follow")):
            ran = run_cli(*arguments, "--socket", str(path), "--timeout", "0.6", "--json")
            assert (ran.code, ran.json["error"]) == (4, "timed-out"), arguments


async def test_a_pull_that_takes_too_long_is_four_and_ends_there_too(daemon, big):
    daemon.node.gate.allow(1)
    ran = await daemon.run("model", "pull", cid_text(big), "--timeout", "1.5", "--json")
    assert (ran.code, ran.json["error"]) == (4, "timed-out")
    with trio.fail_after(60):
        while not daemon.node.cancelled_pulls:
            await trio.sleep(0.01)


async def test_refusals_are_five(daemon, big, tmp_path):
    await daemon.node.pause()
    ran = await daemon.run("model", "pull", cid_text(big))
    assert (ran.code, ran.out) == (5, "")
    assert "paused" in ran.err
    assert "synapsectl resume" in ran.err
    await daemon.node.resume()
    daemon.node.store.quota.limit = 1 << 20
    ran = await daemon.run("model", "import", str(write_model(tmp_path / "mixture")), "--json")
    assert (ran.code, ran.json["error"]) == (5, "quota-exceeded")


async def test_failures_are_one(daemon, tmp_path):
    for arguments, code in (
        (("model", "show", ABSENT), "not-held"),
        (("model", "show", "nobody"), "no-such-name"),
        (("model", "import", str(tmp_path / "nothing")), "unknown"),
        (("ping", "12D3KooWxyz"), "no-such-name"),
        (("job", "cancel", "9"), "unknown"),
        (("connect", "/ip4/1.2.3.4"), "invalid"),
        (("announcements", "--subject", "nothing"), "no-such-name"),
    ):
        ran = await daemon.run(*arguments, "--json")
        assert (ran.code, ran.json["error"]) == (1, code), arguments
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    ran = await daemon.run("announce", "proposal", str(bad), "--json")
    assert (ran.code, ran.json["error"]) == (1, "malformed")


async def test_a_broken_model_says_what_is_wrong_and_leaves_nothing(daemon, tmp_path):
    source = write_model(tmp_path / "mixture")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    ran = await daemon.run("model", "import", str(source))
    assert ran.code == 1
    assert "gate_proj.weight" in ran.err
    assert f"{path}: " in ran.err
    assert (await daemon.run("model", "ls")).out.startswith("no models")


async def test_ctrl_c_ends_a_pull_there_and_here(daemon, big):
    daemon.node.gate.allow(1)
    process = await trio.lowlevel.open_process(
        [*CLI, "model", "pull", cid_text(big), "--socket", str(daemon.socket)], stderr=-1
    )
    with trio.fail_after(60):
        while not daemon.node.pulled_chunks:
            await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        said = await process.stderr.receive_some()
        assert b"Traceback" not in said
        assert b"what has arrived is kept" in said
        while not daemon.node.cancelled_pulls:
            await trio.sleep(0.01)
    await process.stderr.aclose()


async def test_a_closed_pipe_is_no_traceback(daemon):
    daemon.node.bus.emit("noise")
    reading, writing = os.pipe()
    os.close(reading)
    process = await trio.run_process(
        [*CLI, "metrics", "--socket", str(daemon.socket)],
        stdout=writing,
        capture_stderr=True,
        check=False,
    )
    os.close(writing)
    assert process.returncode == 1
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoDaemonError("x"), 3),
        (TimedOutError("x"), 4),
        (PausedError("x"), 5),
        (ConflictError("x"), 1),
        (DaemonError(Problem("quota-exceeded", "x", "", 507)), 5),
        (DaemonError(Problem("paused", "x", "", 503)), 5),
        (DaemonError(Problem("wrong-network", "x", "", 502)), 5),
        (DaemonError(Problem("timed-out", "x", "", 504)), 4),
        (DaemonError(Problem("not-held", "x", "", 404)), 1),
        (DaemonError(Problem("not-owner", "x", "", 403)), 5),
    ],
)
def test_the_table_of_exit_codes(error, code):
    assert exit_code(error) == code


def test_every_code_of_the_store_and_the_net_has_a_status():
    """The table names codes by text: each must be the code of some error class."""
    from protocols.errors import SynapseError
    from synapsed.control import problems

    for module in ("net.errors", "transfer.errors", "models", "ledger.genesis", "ledger.examiner"):
        __import__(f"synapsed.{module}")
    for module in ("ledger.errors", "council.poolitems", "changes"):
        __import__(f"protocols.{module}")
    import synapsed.doctor
    import synapsed.paths
    import synapsed.store

    def below(kind: type[SynapseError]) -> set[str]:
        return {kind.code}.union(*(below(each) for each in kind.__subclasses__()))

    assert synapsed.paths
    assert synapsed.store
    assert synapsed.doctor
    assert set(problems._STATUS_BY_CODE) <= below(SynapseError)
    quota = synapsed.store.QuotaExceededError(used=1, quota=1, need=1)
    assert status_of(quota) == 507
    assert problem_of(quota).error == "quota-exceeded"
    assert sys.version_info >= (3, 11)
