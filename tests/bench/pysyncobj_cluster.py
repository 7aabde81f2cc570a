"""What `ratify` is compared with: PySyncObj, four nodes in processes of their own, journal on.

The load is made where it is cheapest for it: inside the leader's own thread. Each entry that is
applied there is replaced by the next one at once, so that IN_FLIGHT are always on their way and
nothing but the library stands between two of them. Its journal is written through a mapped file
and never synced; nothing is signed.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated  # type: ignore[import-untyped]

from tests.bench.peers import FORK

ELECTION_S = 30.0
"""For a leader to be elected: a second, on an idle machine."""


class Measured(msgspec.Struct, frozen=True):
    """Entries applied at the leader in `seconds`, and how long each took, in seconds."""

    entries: int
    seconds: float
    delays: list[float]

    @property
    def rate(self) -> float:
        return self.entries / self.seconds


class Log(SyncObj):  # type: ignore[misc]  # the library has no types
    """A replicated log of payloads; what is applied is counted."""

    def __init__(self, own: str, others: list[str], conf: SyncObjConf) -> None:
        super().__init__(own, others, conf)
        self.applied = 0

    @replicated  # type: ignore[untyped-decorator]
    def append(self, payload: bytes) -> int:
        self.applied += 1
        return self.applied


class Load:
    """Keeps so many entries on their way from inside the node's own thread."""

    def __init__(self, log: Log, size: int) -> None:
        self._log, self._size = log, size
        self._until = 0.0
        self.delays: list[float] = []

    def begin(self, in_flight: int, seconds: float) -> None:
        self.delays = []
        self._until = time.perf_counter() + seconds
        for _ in range(in_flight):
            self._next()

    def _next(self) -> None:
        began = time.perf_counter()

        def done(_result: object, why: int) -> None:
            if why != FAIL_REASON.SUCCESS:
                raise RuntimeError(f"PySyncObj refused an entry: {why}")
            now = time.perf_counter()
            if now < self._until:
                self.delays.append(now - began)
                self._next()

        self._log.append(os.urandom(self._size), callback=done)


def _node(pipe: Connection, folder: Path, addresses: list[str], own: int, period: float) -> None:
    logging.disable(logging.WARNING)
    settings = {"appendEntriesPeriod": period, "autoTickPeriod": period} if period else {}
    conf = SyncObjConf(journalFile=str(folder / f"journal-{own}"), **settings)
    others = [address for number, address in enumerate(addresses) if number != own]
    log = Log(addresses[own], others, conf)
    while True:
        command = pipe.recv()
        if command == "leads":
            leader = log._getLeader()
            pipe.send(leader is not None and leader.address == addresses[own])
        elif command == "applied":
            pipe.send(log.applied)
        else:
            in_flight, size, seconds = command
            load = Load(log, size)
            load.begin(in_flight, seconds)
            time.sleep(seconds)
            pipe.send(load.delays)


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine that nobody listens on just now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    finally:
        for one in held:
            one.close()


class Cluster:
    """A running cluster."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def _ask(self, number: int, command: object) -> object:
        self._pipes[number].send(command)
        return self._pipes[number].recv()

    def leader(self) -> int:
        """Which node leads; waits until one does."""
        deadline = time.monotonic() + ELECTION_S
        while time.monotonic() < deadline:
            for number in range(len(self._pipes)):
                if self._ask(number, "leads"):
                    return number
            time.sleep(0.05)
        raise RuntimeError("PySyncObj elected no leader")

    def measure(self, in_flight: int, size: int, seconds: float) -> Measured:
        """Keep `in_flight` entries of `size` bytes on their way for `seconds`."""
        delays = self._ask(self.leader(), (in_flight, size, seconds))
        assert isinstance(delays, list)
        return Measured(len(delays), seconds, delays)

    def applied(self) -> list[int]:
        """Entries applied so far at each node."""
        return [int(str(self._ask(number, "applied"))) for number in range(len(self._pipes))]


@contextmanager
def cluster(folder: Path, nodes: int, period: float = 0.0) -> Iterator[Cluster]:
    """So many nodes; `period` in seconds for its two periods, 0 for its own defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    addresses = free_addresses(nodes)
    pipes, processes = [], []
    for own in range(nodes):
        ours, theirs = FORK.Pipe()
        arguments = (theirs, folder, addresses, own, period)
        process = FORK.Process(target=_node, args=arguments, daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Cluster(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()
