"""The daemon as its owner runs it: `synapsed init`, `synapsed run`, a signal."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synapsed import keys
from synapsed.control import models
from synapsed.control.client import Client

PATIENCE = 60.0


def environment(home: Path, **more: str) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("SYNAPSED_")}
    return ours | {"SYNAPSED_HOME": str(home), "SYNAPSED_PROFILE": "lab"} | more


@pytest.fixture
def home() -> Iterator[Path]:
    # A short path: pytest's own are longer than a socket's may be.
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        subprocess.run(
            [sys.executable, "-m", "synapsed", "init", "--profile", "lab"],
            env=environment(home),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        yield home


@contextlib.contextmanager
def running(home: Path, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """A daemon that is ready. No deadline ends its stop as long as we wait for it to be clean."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(f"{folder}/notify")
        notified.settimeout(PATIENCE)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.daemon_standin", "real", "run"],
            env=environment(home, NOTIFY_SOCKET=f"{folder}/notify", UNHURRIED="1", **more),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert _told(notified, process).startswith(b"READY=1")
            yield process
        finally:
            process.kill()
            process.communicate()


def _told(notified: socket.socket, process: "subprocess.Popen[str]") -> bytes:
    """What the daemon says first; where it says nothing, its log tells why."""
    try:
        return notified.recv(4096)
    except TimeoutError:
        process.kill()
        pytest.fail(f"it did not come up: {process.communicate()[1]}")


def stop(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    process.send_signal(number)
    _, log = process.communicate(timeout=PATIENCE)
    return log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_then_stopped_by_a_signal(home: Path, number: signal.Signals) -> None:
    with running(home) as process:
        log = stop(process, number)
    assert process.returncode == 0, log
    assert json.loads(log.splitlines()[-1])["message"] == "stopped"


def test_the_same_node_after_a_restart_and_a_crash(home: Path) -> None:
    before = keys.load(home / "identity.key").text
    with running(home) as process:
        process.kill()
        process.wait()
    with running(home) as process:
        log = stop(process, signal.SIGTERM)
    ready = [json.loads(line) for line in log.splitlines() if '"ready"' in line]
    assert [line["fields"]["peer"] for line in ready] == [before]


def test_it_never_loads_torch_or_wasmtime(home: Path) -> None:
    with running(home) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "_cffi_backend" in maps  # extensions show up here, as torch's would
        for heavy in ("torch", "wasmtime", "numpy"):
            assert heavy not in maps


def test_what_it_writes_is_its_owners_alone(home: Path) -> None:
    with running(home):
        for path in home.rglob("*"):
            others = path.lstat().st_mode & 0o077
            # What lies in a folder of ours is out of reach; what is secret is closed itself.
            if path.suffix in (".key", ".sock", ".toml", ".lock"):
                assert others == 0, path
        assert home.stat().st_mode & 0o077 == 0


def test_no_secret_is_logged_even_at_debug(home: Path) -> None:
    seed = keys.load(home / "identity.key").seed
    with running(home, SYNAPSED_LOG__LEVEL="debug") as process:
        log = stop(process, signal.SIGTERM)
    assert "ready" in log
    for form in (seed.hex(), repr(seed)[2:-1], seed.hex().upper()):
        assert form not in log


def test_a_second_one_is_refused(home: Path) -> None:
    with running(home) as first:
        second = subprocess.run(
            [sys.executable, "-m", "synapsed", "run"],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert second.returncode == 5
        assert f"process {first.pid} already runs" in second.stderr
        stop(first, signal.SIGTERM)
    assert first.returncode == 0


def test_a_port_that_is_taken_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "synapsed", "run"],
            env=environment(home, SYNAPSED_NET__LISTEN=address),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert address in last["message"]
    assert "error" not in last  # a sentence, not a traceback


def test_an_import_ends_with_its_command_and_with_its_daemon(home: Path) -> None:
    """Hashing takes many minutes here, and nobody must wait for its end."""
    sparse_model(home.parent / "big")
    with (
        running(home, SYNAPSED_STORE__QUOTA="4 TiB") as process,
        Client(home / "control.sock", PATIENCE) as client,
    ):
        with importing(home, client) as command:
            command.send_signal(signal.SIGINT)
            assert command.wait(PATIENCE) == 130
            deadline = time.monotonic() + PATIENCE
            while client.call("GET", "/v1/jobs", models.Jobs).jobs:
                assert time.monotonic() < deadline
        assert client.call("GET", "/v1/models", models.Models).models == []
        with importing(home, client):
            log = stop(process, signal.SIGTERM)
    assert process.returncode == 0, log


@contextlib.contextmanager
def importing(home: Path, client: Client) -> Iterator["subprocess.Popen[bytes]"]:
    """`synapsectl model import`, once it has begun to hash."""
    command = [sys.executable, "-m", "synapsed.cli.main", "model", "import"]
    with subprocess.Popen(
        [*command, str(home.parent / "big")], env=environment(home), stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + PATIENCE
        jobs: list[models.JobInfo] = []
        while not (jobs and jobs[0].progress):
            assert time.monotonic() < deadline
            jobs = client.call("GET", "/v1/jobs", models.Jobs).jobs
        assert jobs[0].progress.done < jobs[0].progress.total
        yield process


def sparse_model(folder: Path, size: int = 1 << 40) -> None:
    """A model of one tensor of zeros that takes no space."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"w": tensor}).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + size)


def test_forked_daemons_import_nothing_of_their_own(home: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "synapsed.process.forkserver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    spawn = {"op": "spawn", "id": "a", "home": str(home), "env": {"SYNAPSED_PROFILE": "lab"}}
    server.stdin.write(json.dumps(spawn) + "\n")
    server.stdin.flush()
    events = [json.loads(server.stdout.readline())["event"] for _ in range(3)]
    assert events == ["hello", "started", "ready"]
    server.communicate(timeout=PATIENCE)  # the end of its input is its end
    log = (home / "daemon.log").read_text()
    assert '"stopped"' in log
    assert [line for line in log.splitlines() if line.startswith("import time:")] == []
