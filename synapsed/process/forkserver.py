"""Many daemons on one machine, forked from one parent that has imported everything already.

`python -m synapsed.process.forkserver` reads commands and writes events, one JSON object a line:

    {"op": "spawn", "id": "a", "home": "/tmp/a", "env": {"SYNAPSED_PROFILE": "lab"}}
    {"op": "signal", "id": "a", "signal": "KILL"}        TERM, INT, KILL, STOP, CONT
    {"op": "stop"}                                       TERM to all; the server ends after them

    {"event": "hello", "pid": 1, "seconds": 0.9}         first: spawn is possible now
    {"event": "started", "id": "a", "pid": 7}
    {"event": "ready", "id": "a", "pid": 7, "seconds": 0.1}
    {"event": "exited", "id": "a", "pid": 7, "status": 0}    negative: the signal that ended it
    {"event": "error", "message": "..."}                 not a command: nothing happened

The end of standard input means `stop`. Children stay in the server's process group, log to
daemon.log in their home, and die with the server. Forking is only sound while there is one
thread and no event loop, so nothing here starts either.
"""

import ctypes
import gc
import importlib
import os
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec

from protocols.errors import SynapseError
from synapsed import __main__ as daemon
from synapsed import keys, paths
from synapsed.config import load as configload
from synapsed.process import logs

PRELOAD = (
    "synapsed.node",
    "synapsed.control.routes",
    "synapsed.control.connection",
    "hypercorn.trio",
    "pydantic.v1",
    "encodings.idna",
)
"""What a child would import, half of it only when it starts: tests look for what is missing."""

MAX_LINE = 64 << 10
"""Bytes of one command: an environment of a few hundred variables."""

MAX_CHILDREN = 1024
"""More would not fit a machine that this runs on: 20 MB of private memory each."""

STOP_PATIENCE_S = 5.0
"""From `stop` to SIGKILL: more than twice what a daemon promises to need."""

_PR_SET_PDEATHSIG = 1
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Spawn(msgspec.Struct, tag_field="op", tag="spawn", forbid_unknown_fields=True, frozen=True):
    """Start a daemon: its identity is made in `home` if there is none, `env` is its environment."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    home: str
    env: dict[str, str] = {}


class Signal(msgspec.Struct, tag_field="op", tag="signal", forbid_unknown_fields=True, frozen=True):
    """Send one daemon a signal."""

    id: str
    signal: Literal["TERM", "INT", "KILL", "STOP", "CONT"]


class Stop(msgspec.Struct, tag_field="op", tag="stop", forbid_unknown_fields=True, frozen=True):
    """End all daemons, then the server."""


class Child(msgspec.Struct):
    """One running daemon."""

    id: str
    pid: int
    ready_fd: int
    began: float


class Server:
    """The parent: one loop over commands, deaths and readiness."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events = commands, events
        self._children: dict[int, Child] = {}
        self._decoder = msgspec.json.Decoder(Spawn | Signal | Stop)
        self._selector = selectors.DefaultSelector()
        self._buffer = b""
        self._skipping = False
        self._stop_by: float | None = None
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("SYNAPSED_")}
        self._libc = ctypes.CDLL(None)

    def run(self, seconds: float) -> None:
        """Serve until `stop`, the end of the commands or a signal, and all children are gone."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        self._selector.register(wake_read, selectors.EVENT_READ)
        self._selector.register(self._commands, selectors.EVENT_READ)
        self._say(event="hello", pid=os.getpid(), seconds=round(seconds, 3))
        while self._stop_by is None or self._children:
            self._check_patience()
            for key, _ in self._selector.select(timeout=None if self._stop_by is None else 0.1):
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                elif key.fd == self._commands:
                    self._read_commands()
                else:
                    self._ready(key.data)
            self._reap()

    def _say(self, **fields: object) -> None:
        os.write(self._events, msgspec.json.encode(fields) + b"\n")

    def _read_commands(self) -> None:
        data = os.read(self._commands, MAX_LINE)
        if not data:
            self._selector.unregister(self._commands)
            self._stop()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if self._skipping:  # the tail of a line that was too long
                self._skipping = False
            elif line.strip():
                self._obey(line)
        if len(self._buffer) > MAX_LINE:
            self._say(event="error", message=f"a command of more than {MAX_LINE} bytes")
            self._buffer, self._skipping = b"", True

    def _obey(self, line: bytes) -> None:
        try:
            command = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._say(event="error", message=f"not a command: {error}")
            return
        if isinstance(command, Spawn):
            self._spawn(command)
        elif isinstance(command, Signal):
            self._signal(command)
        else:
            self._stop()

    def _spawn(self, command: Spawn) -> None:
        if self._stop_by is not None or len(self._children) >= MAX_CHILDREN:
            self._say(event="error", id=command.id, message="no more children are started")
        elif any(child.id == command.id for child in self._children.values()):
            self._say(event="error", id=command.id, message=f"{command.id} is running already")
        else:
            self._fork(command)

    def _fork(self, command: Spawn) -> None:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(command, parent, ready_write)
        os.close(ready_write)
        child = Child(command.id, pid, ready_read, time.monotonic())
        self._children[pid] = child
        self._selector.register(ready_read, selectors.EVENT_READ, child)
        self._say(event="started", id=child.id, pid=pid)

    def _be_child(self, command: Spawn, parent: int, ready_fd: int) -> NoReturn:
        """The rest of a child's life. It must never return into the parent's loop."""
        code = daemon.EXIT_FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:  # else it died before we asked to die with it
                gc.enable()
                code = _child(command, self._env, ready_fd)
        except SynapseError as error:
            print(f"synapsed: {error}", file=sys.stderr)
            code = daemon.exit_code(error)
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            os._exit(code)

    def _ready(self, child: Child) -> None:
        told = os.read(child.ready_fd, 1)
        self._selector.unregister(child.ready_fd)
        os.close(child.ready_fd)
        child.ready_fd = -1  # the number will soon be another child's
        if told:
            seconds = round(time.monotonic() - child.began, 3)
            self._say(event="ready", id=child.id, pid=child.pid, seconds=seconds)

    def _signal(self, command: Signal) -> None:
        for child in self._children.values():
            if child.id == command.id:  # not reaped yet, so the pid is still its own
                os.kill(child.pid, signal.Signals[f"SIG{command.signal}"])
                return
        self._say(event="error", id=command.id, message=f"{command.id} is not running")

    def _stop(self) -> None:
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_PATIENCE_S
            for pid in self._children:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a paused one could not hear it

    def _check_patience(self) -> None:
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid)
            if child.ready_fd >= 0:
                self._ready(child)
            code = os.waitstatus_to_exitcode(status)
            self._say(event="exited", id=child.id, pid=pid, status=code)


def _child(command: Spawn, base: dict[str, str], ready_fd: int) -> int:
    """A daemon in `command.home`, from its descriptors and environment up; its exit code."""
    places = paths.find(command.home, None, {})
    places.create()
    _own_descriptors(places.data / "daemon.log", ready_fd)
    os.environ.clear()
    os.environ.update(base | command.env)
    file = places.config_file if places.config_file.exists() else None
    loaded = configload.load(file, os.environ)
    logs.configure(loaded.config.log)
    keys.load_or_create(places.identity)
    return daemon.run_daemon(loaded, places, on_ready=lambda: _tell_ready(ready_fd))


def _own_descriptors(log_file: Path, keep: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, _STDIN)
    os.dup2(log, _STDOUT)
    os.dup2(log, _STDERR)
    os.closerange(_STDERR + 1, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def _tell_ready(fd: int) -> None:
    os.write(fd, b"1")
    os.close(fd)


def preload() -> None:
    """Import what the children need, and put it where the garbage collector leaves it alone."""
    gc.disable()  # objects that are never looked at stay on pages that are never copied
    for name in PRELOAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"an import started {threads - 1} threads, which no fork survives")


def main() -> None:
    """Serve on standard input and output."""
    began = time.monotonic()
    # What some library prints must not end up between the events.
    events = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    preload()
    Server(_STDIN, events).run(time.monotonic() - began)


if __name__ == "__main__":
    main()
