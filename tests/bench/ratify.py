"""Entries ratified by four real daemons, against PySyncObj's four nodes in the same run.

Each round measures ours, PySyncObj at its defaults, and PySyncObj with periods of 5 ms, one behind
the other; the medians of the rounds' ratios count. All three keep IN_FLIGHT entries of SIZE bytes
on their way, made inside the leader's process: whatever is ratified there is replaced at once.

Ours does more for an entry: it is a note that its author signed, which every member verifies; it
is folded into a ledger whose rules each member checks, signed for twice by each, synced to disk
before that, and certified. The daemons are whole ones, with their own homes, over TCP, Noise and
Yamux on loopback. The delays are from the submission until the last of the four daemons holds
the certificate: all clocks are this machine's.
"""

import logging
import statistics
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.follow.chain import Advanced
from protocols.ledger.entries import Note
from protocols.ledger.signing import submit
from protocols.realm import Realm
from simnet.checks import quantile
from synapsed import __main__ as daemon
from synapsed import keys, paths
from synapsed.config import load as configload
from synapsed.ledger import genesis
from synapsed.node import run_node
from synapsed.parts import Parts
from tests.bench.peers import FORK, scratch
from tests.bench.pysyncobj_cluster import cluster, free_addresses

REACH = {
    "vs_pysyncobj_default": ">= 2",
    "vs_pysyncobj_tuned": ">= 0.25",
    "p50_ms": "<= 100",
    "p99_ms": "<= 1000",
}

MEMBERS = 4
IN_FLIGHT = 64
SIZE = 100
ROUNDS = 3
WARM_S, SECONDS = 2.0, 6.0
TUNED_S = 0.005
NETWORK = "ratify"
PATIENCE_S = 60.0
AUTHORS = 64
NOTES = 80_000
"""Of each round, made before it: twice what two fast cores ratify meanwhile."""
EXPIRES_MS = 30 * 60 * 1000
"""Of a note, after the ledger's time when it was signed."""

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float | int]:
    """The fields of REACH, and what they were made of."""
    ours, default, tuned = [], [], []
    for number in range(1, ROUNDS + 1):
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            ours.append(measure_ours(Path(folder) / "ours", say))
            default.append(measure_pysyncobj(Path(folder) / "default", 0.0))
            tuned.append(measure_pysyncobj(Path(folder) / "tuned", TUNED_S))
        say(
            f"{number}/{ROUNDS}: {ours[-1].rate:.0f} entries/s, "
            f"PySyncObj {default[-1]:.0f} and {tuned[-1]:.0f}"
        )
    delays = [delay for measured in ours for delay in measured.delays]
    return {
        "vs_pysyncobj_default": _ratio(ours, default),
        "vs_pysyncobj_tuned": _ratio(ours, tuned),
        "p50_ms": round(quantile(delays, 0.5) * 1e3, 1),
        "p99_ms": round(quantile(delays, 0.99) * 1e3, 1),
        "entries_per_s": round(statistics.median(measured.rate for measured in ours)),
        "pysyncobj_default_per_s": round(statistics.median(default)),
        "pysyncobj_tuned_per_s": round(statistics.median(tuned)),
        "cpu_us_per_entry": round(statistics.median(m.cpu_us for m in ours), 1),
    }


def _ratio(ours: list["Measured"], theirs: list[float]) -> float:
    ratios = [mine.rate / other for mine, other in zip(ours, theirs, strict=True)]
    return round(statistics.median(ratios), 3)


def measure_pysyncobj(folder: Path, period: float) -> float:
    """Its entries a second."""
    with cluster(folder, MEMBERS, period) as nodes:
        nodes.measure(IN_FLIGHT, SIZE, WARM_S)
        return nodes.measure(IN_FLIGHT, SIZE, SECONDS).rate


# -- ours -------------------------------------------------------------------------------------


class Measured(msgspec.Struct, frozen=True):
    """What one round of ours gave."""

    rate: float
    """Entries a second."""
    delays: list[float]
    """Seconds from each submission until all held its certificate."""
    cpu_us: float
    """Microseconds of CPU that one daemon spent for one entry."""


class Held(msgspec.Struct, frozen=True):
    """At one daemon: when it held a certificate for all up to an index; CPU seconds meanwhile."""

    upto: list[int]
    at: list[float]
    cpu: float


class Load:
    """Runs beside one daemon: watches what it ratifies, and makes the load if it is told to."""

    def __init__(self, parts: Parts) -> None:
        assert parts.ledger is not None
        self.service = parts.ledger
        self.service.on_advanced.append(self._advanced)
        self._notes: list[bytes] = []
        self._on_way: dict[bytes, float] = {}
        self._until = 0.0
        self.upto: list[int] = []
        self.at: list[float] = []
        self.done: list[tuple[int, float]] = []
        """The index of each of our entries, and when it was submitted."""

    def begin(self, notes: list[bytes], in_flight: int, seconds: float) -> None:
        self._notes = notes
        self._until = time.monotonic() + seconds
        for _ in range(in_flight):
            self._next()

    def _next(self) -> None:
        if not self._notes:
            return
        note = self._notes.pop()
        self._on_way[note] = time.monotonic()
        self.service.submit(note)

    def _advanced(self, news: Advanced) -> None:
        now = time.monotonic()
        self.upto.append(news.certificate.said.index)
        self.at.append(now)
        for index, payload in enumerate(news.payloads, news.first):
            if (began := self._on_way.pop(payload, None)) is not None:
                self.done.append((index, began))
                if now < self._until:
                    self._next()


async def _beside(parts: Parts, pipe: Connection) -> None:
    load = Load(parts)
    cpu = 0.0
    while True:
        command = await trio.to_thread.run_sync(pipe.recv, abandon_on_cancel=True)
        match command:
            case "where":
                ledger, leader = load.service.ledger, load.service.machine.leader
                pipe.send((ledger.head.index, ledger.time, leader == parts.identity.peer_id))
            case "begin":
                load.upto, load.at, load.done, cpu = [], [], [], time.process_time()
                pipe.send(None)
            case (notes, in_flight, seconds):
                load.begin(notes, in_flight, seconds)
                await trio.sleep(seconds)
                pipe.send(load.done)
            case "held":
                pipe.send(Held(load.upto, load.at, time.process_time() - cpu))


def _member(home: Path, pipe: Connection) -> None:
    logging.disable(logging.WARNING)  # bootstraps that start a moment later
    places = paths.find(home, None, {})
    loaded = configload.load(places.config_file, {})

    async def run() -> None:
        await run_node(
            loaded,
            places,
            keys.load(places.identity),
            ready=lambda: None,
            stop=trio.Event(),
            beside=lambda parts: _beside(parts, pipe),
        )

    trio.run(run)


def _found(folder: Path) -> tuple[list[Path], list[keys.Identity], Realm]:
    """Homes of MEMBERS daemons with one genesis, and authors who may write what they like in it."""
    homes = [folder / str(number) for number in range(MEMBERS)]
    addresses: list[str] = []
    members = []
    ports = [text.rpartition(":")[2] for text in free_addresses(MEMBERS)]
    for number, home in enumerate(homes):
        address = f"/ip4/127.0.0.1/tcp/{ports[number]}"
        given = {"profile": "lab", "network": NETWORK, "net.listen": [address]}
        places = paths.find(home, None, {})
        bootstrap = {"net.bootstrap": list(addresses)} if number else {}
        daemon.initialise(places, given | bootstrap)
        addresses.append(f"{address}/p2p/{keys.load(places.identity).text}")
        members.append(genesis.founding_seat(places))
    authors = [keys.Identity(bytes(31) + bytes((number,))) for number in range(AUTHORS)]
    payload = genesis.compose(
        NETWORK,
        members,
        {},
        {
            "work.bits": 0,
            "quota.newcomer": 1 << 30,
            "quota.trusted": 1 << 30,
            "council.tick_ms": 400,
        },
        int(time.time() * 1000),
    )
    for home in homes:
        genesis.install(paths.find(home, None, {}), payload)
    return homes, authors, genesis.realm_of(payload)


class Members:
    """The running daemons."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def ask(self, number: int, command: object) -> Any:
        self._pipes[number].send(command)
        return self._pipes[number].recv()

    def wait(self, index: int) -> tuple[int, int]:
        """Until all have ratified up to `index`; the ledger's time, and who leads."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = [self.ask(number, "where") for number in range(MEMBERS)]
            leaders = [leads for _, _, leads in found]
            if min(head for head, _, _ in found) >= index and sum(leaders) == 1:
                return found[0][1], leaders.index(True)
            time.sleep(0.1)
        raise RuntimeError(f"the daemons did not ratify {index} entries: {found}")


@contextmanager
def members(homes: list[Path]) -> Iterator[Members]:
    """The daemons of these homes, in processes of their own."""
    pipes, processes = [], []
    for home in homes:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=_member, args=(home, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Members(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure_ours(folder: Path, say: Say) -> Measured:
    """One round of ours."""
    homes, authors, realm = _found(folder)
    with members(homes) as running:
        now, leader = running.wait(2)
        notes = _notes(authors, realm, now + EXPIRES_MS)
        say(f"{len(notes)} notes are signed; daemon {leader} leads")
        half = len(notes) // 4
        running.ask(leader, (notes[:half], IN_FLIGHT, WARM_S))
        for number in range(MEMBERS):
            running.ask(number, "begin")
        done = running.ask(leader, (notes[half:], IN_FLIGHT, SECONDS))
        if len(done) >= len(notes) - half - IN_FLIGHT:
            raise RuntimeError("this machine ratifies more than NOTES: raise it")
        time.sleep(0.5)
        held = [running.ask(number, "held") for number in range(MEMBERS)]
    cpu = statistics.mean(one.cpu for one in held) / len(done) * 1e6
    return Measured(len(done) / SECONDS, _delays(done, held), cpu)


def _notes(authors: list[keys.Identity], realm: Realm, expires: int) -> list[bytes]:
    """More than can be ratified meanwhile: signing is the authors' work, not the daemons'."""
    return [
        submit(
            realm,
            authors[number % len(authors)].peer_id,
            Note(text=f"{number:0{SIZE}d}"),
            expires=expires,
            sign=authors[number % len(authors)].sign,
        )
        for number in range(NOTES)
    ]


def _delays(done: list[tuple[int, float]], held: list[Held]) -> list[float]:
    """Seconds from each submission until the last daemon held its certificate."""
    found = []
    for index, began in done:
        places = [bisect_left(one.upto, index) for one in held]
        if all(place < len(one.upto) for place, one in zip(places, held, strict=True)):
            last = max(one.at[place] for place, one in zip(places, held, strict=True))
            found.append(last - began)
    return found
