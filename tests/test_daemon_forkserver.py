"""The fork server: many daemons from one parent, its events, and what it does with bad lines."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synapsed.process.forkserver import MAX_LINE

PATIENCE = 60.0


class ForkServer:
    """The server over pipes, as simnet drives it."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.daemon_standin", kind, "forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._buffer = b""
        self.hello = self.event()

    def say(self, line: bytes | None = None, **command: Any) -> None:
        assert self.process.stdin is not None
        data = (line or json.dumps(command).encode()) + b"\n"
        while data:
            data = data[self.process.stdin.write(data) :]

    def event(self, kind: str = "") -> dict[str, Any]:
        """The next event (of `kind`); fails where none comes."""
        while True:
            while b"\n" not in self._buffer:
                assert self._selector.select(PATIENCE), "no event"
                assert self.process.stdout is not None
                data = self.process.stdout.read(1 << 16)
                assert data, "the fork server ended"
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\n")
            event: dict[str, Any] = json.loads(line)
            if kind in ("", event["event"]):
                return event

    def spawn(self, name: str, home: Path, **env: str) -> int:
        """Start one and wait until it is ready; its pid."""
        self.say(op="spawn", id=name, home=str(home), env=env)
        pid: int = self.event("ready")["pid"]
        return pid


@contextlib.contextmanager
def server(kind: str = "idle") -> Iterator[ForkServer]:
    started = ForkServer(kind)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        for pipe in (started.process.stdin, started.process.stdout):
            if pipe is not None:
                pipe.close()


def status(pid: int) -> str:
    """One letter, as ps shows it; empty when the process is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        os.sched_yield()


def wait_until_dead(pids: list[int]) -> None:
    wait_until(lambda: all(status(pid) in ("", "Z") for pid in pids))


def test_a_childs_life(tmp_path: Path) -> None:
    with server() as it:
        assert it.hello["event"] == "hello"
        assert it.hello["pid"] == it.process.pid
        it.say(op="spawn", id="a", home=str(tmp_path / "a"), env={"SYNAPSED_NETWORK": "garden"})
        started, ready = it.event(), it.event()
        assert (started["event"], started["id"]) == ("started", "a")
        assert (ready["event"], ready["id"], ready["pid"]) == ("ready", "a", started["pid"])
        it.say(op="signal", id="a", signal="TERM")
        assert it.event() == {"event": "exited", "id": "a", "pid": started["pid"], "status": 0}
        log = [
            json.loads(line) for line in (tmp_path / "a" / "daemon.log").read_text().splitlines()
        ]
        assert [line["message"] for line in log] == ["ready", "SIGTERM: stopping", "stopped"]
        first = (tmp_path / "a" / "identity.key").read_text()
        it.spawn("a", tmp_path / "a")  # the same home again is the same node again
        assert (tmp_path / "a" / "identity.key").read_text() == first


def test_children_are_apart_and_inherit_nothing(tmp_path: Path) -> None:
    with server() as it:
        pids = [it.spawn(str(n), tmp_path / str(n), SYNAPSED_LOG__LEVEL="debug") for n in range(3)]
        for n, pid in enumerate(pids):
            files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            others = [str(tmp_path / str(m)) for m in range(3) if m != n]
            assert not any(path.startswith(tuple(others)) for path in files)
            assert str(tmp_path / str(n) / "daemon.log") in files
            assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
            assert os.getpgid(pid) == os.getpgid(it.process.pid)
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"SYNAPSED_HOME" not in environment
        keys = {(tmp_path / str(n) / "identity.key").read_text() for n in range(3)}
        assert len(keys) == 3


def test_exits_are_told_with_their_reason(tmp_path: Path) -> None:
    with server() as it:
        it.spawn("killed", tmp_path / "killed")
        it.say(op="signal", id="killed", signal="KILL")
        assert it.event("exited")["status"] == -signal.SIGKILL
        it.say(op="spawn", id="wrong", home=str(tmp_path / "wrong"), env={"SYNAPSED_X": "1"})
        assert it.event("exited")["status"] == 2
        assert "unknown key" in (tmp_path / "wrong" / "daemon.log").read_text()
        it.spawn("one", tmp_path / "same")
        it.say(op="spawn", id="two", home=str(tmp_path / "same"))
        exited = it.event("exited")
        assert (exited["id"], exited["status"]) == ("two", 5)
    with server("bug") as it:
        it.say(op="spawn", id="a", home=str(tmp_path / "bug"))
        assert it.event("exited")["status"] == 1
        assert "KeyError: 'a bug'" in (tmp_path / "bug" / "daemon.log").read_text()
        it.say(op="spawn", id="b", home=os.devnull)  # no folder for its log: told on stderr
        assert it.event("exited")["status"] == 1


@pytest.mark.parametrize(
    "line",
    [
        b"junk",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"op": "jump"}',
        b'{"op": "spawn", "id": "a"}',
        b'{"op": "spawn", "id": "", "home": "/tmp/x"}',
        b'{"op": "spawn", "id": "a", "home": "/tmp/x", "envy": {}}',
        b'{"op": "spawn", "id": "a", "home": 3}',
        b'{"op": "signal", "id": "a", "signal": "HUP"}',
        b'{"op": "signal", "id": "nobody", "signal": "TERM"}',
        b"x" * (3 * MAX_LINE),
        b"[" * 5000,
    ],
)
def test_bad_lines_are_answered_and_change_nothing(
    line: bytes, forks: ForkServer, tmp_path: Path
) -> None:
    forks.say(line)
    assert forks.event()["event"] == "error"
    forks.say(op="spawn", id=f"{line[:9]!r}{len(line)}", home=str(tmp_path))
    assert forks.event("ready")


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with server() as it:
        yield it


def test_an_id_that_runs_is_not_started_twice(tmp_path: Path) -> None:
    with server() as it:
        it.spawn("a", tmp_path / "a")
        it.say(op="spawn", id="a", home=str(tmp_path / "b"))
        assert "running already" in it.event()["message"]
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("how", ["stop", "end", "TERM"])
def test_the_server_ends_after_its_children(tmp_path: Path, how: str) -> None:
    with server() as it:
        pids = [it.spawn(str(n), tmp_path / str(n)) for n in range(3)]
        it.say(op="signal", id="1", signal="STOP")  # a paused daemon must go as well
        wait_until(lambda: status(pids[1]) == "T")
        if how == "stop":
            it.say(op="stop")
        elif how == "end":
            assert it.process.stdin is not None
            it.process.stdin.close()
        else:
            it.process.send_signal(signal.SIGTERM)
        assert {it.event("exited")["status"] for _ in pids} == {0}
        assert it.process.wait(PATIENCE) == 0
        wait_until_dead(pids)


def test_children_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with server() as it:
        pids = [it.spawn(str(n), tmp_path / str(n)) for n in range(3)]
        it.process.kill()
        wait_until_dead(pids)


def test_a_hundred_who_are_asked_for_at_once_all_come_up(tmp_path: Path) -> None:
    with server() as it:
        for n in range(100):
            it.say(op="spawn", id=str(n), home=str(tmp_path / str(n)))
        assert len({it.event("ready")["pid"] for _ in range(100)}) == 100
