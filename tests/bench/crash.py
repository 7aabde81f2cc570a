"""kill -9 at random moments of pulls and imports, and what the store says afterwards.

    bad_blocks           sub-tiles and blocks held after a kill that are not what they should be
    refetched_subtiles   sub-tiles asked of the source although they were on record

Each kill is followed by a look at the store and by a daemon that goes on where the last one was
stopped, until the work is done; then the next begins with an empty store. A daemon dies without
warning, but its machine does not: what the kernel had taken is still written. That the record
waits for the disk is tests/test_store_crash.py's to show.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from protocols.errors import NotHeldError
from protocols.tensors.blocks import FetchRequest, decode_request
from synapsed.models import model_manifest
from synapsed.net import Net, Stream
from synapsed.store import HeldFile, Runs, Store
from tests.bench.peers import QUOTA, Child, Daemon, Fleet, daemons, model_path, scratch

REACH = {"bad_blocks": "0", "refetched_subtiles": "0"}

SEED = 2
KILLS = 50
IMPORT_SHARE = 0.3
"""Of the kills hit imports, the others pulls."""
RATE = 60_000_000
"""Bytes per second that the source uploads: a pull takes 1.5 s, and is stopped several times."""
PULL_SECONDS = 1.2
IMPORT_SECONDS = 0.6
"""Kills come at most so long after the work began."""

Say = Callable[[str], None]
Paths = dict[bytes, Path]
"""The original files by the roots of their trees."""


Held = dict[bytes, Runs]
"""Sub-tiles by the root of their file."""


class _Source(Child):
    """A daemon that notes which sub-tiles are asked of it."""

    def __init__(self, folder: Path, store: Store, net: Net) -> None:
        super().__init__(folder, store, net)
        self.asked: Held = {}

    async def serve(self, stream: Stream) -> None:
        await self.server.handle(_Noting(self, stream))  # type: ignore[arg-type]

    async def files(self, cid: bytes) -> dict[bytes, str]:
        """The paths of a model's files by their roots."""
        return {ref.root: ref.path for ref in model_manifest(self.store, cid).files}

    async def take_asked(self) -> dict[bytes, list[tuple[int, int]]]:
        """What was asked for since the last call."""
        asked, self.asked = self.asked, {}
        return {root: list(runs) for root, runs in asked.items()}


class _Noting:
    """A stream whose requests are looked at on their way to the server."""

    def __init__(self, source: _Source, stream: Stream) -> None:
        self._source, self._stream = source, stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        frame = await self._stream.read_frame(limit, timeout=timeout)
        request = decode_request(frame)
        if isinstance(request, FetchRequest):
            self._source.asked.setdefault(request.root, Runs()).add(request.lo, request.hi)
        return frame


class _Count:
    """What the bench adds up. `midway`: kills that left some sub-tiles and not all; `resumed`:
    sub-tiles that resumed pulls found on record."""

    def __init__(self) -> None:
        self.kills = self.bad = self.refetched = self.resumed = self.midway = 0


def measure(say: Say) -> dict[str, float | int]:
    """KILLS kills, in about two minutes."""
    rng, count = random.Random(SEED), _Count()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder, daemons(Path(folder)) as fleet:
        source = fleet.start("source", _Source)
        cid = source.call("load", model_path())
        source.call("limit", RATE)
        paths = {root: model_path() / path for root, path in source.call("files", cid).items()}
        while count.kills < KILLS:
            if rng.random() < IMPORT_SHARE:
                _kill_imports(fleet, paths, rng, count)
            else:
                _kill_pulls(fleet, source, cid, paths, rng, count)
            say(f"{count.kills}/{KILLS} kills, {count.midway} of them midway, {count.bad} bad")
    return {
        "bad_blocks": count.bad,
        "refetched_subtiles": count.refetched,
        "kills": count.kills,
        "midway": count.midway,
        "resumed_subtiles": count.resumed,
    }


def _kill_pulls(
    fleet: Fleet, source: Daemon, cid: bytes, paths: Paths, rng: random.Random, count: _Count
) -> None:
    """Pull into an empty store, killed and resumed until it is all there."""
    folder = fleet.folder / "pulls"
    recorded: Held = {}
    while count.kills < KILLS:
        newcomer = fleet.start(folder.name)
        newcomer.call("connect", [source.addr])
        source.call("take_asked")
        newcomer.begin("pull", cid)
        done = _kill_after(newcomer, rng.uniform(0, PULL_SECONDS), count)
        for root, asked in source.call("take_asked").items():
            count.refetched += _common(asked, recorded.get(root, Runs()))
        count.resumed += sum(runs.count for runs in recorded.values())
        recorded = _look(folder, paths, count)
        if done:
            break
    shutil.rmtree(folder)


def _common(asked: list[tuple[int, int]], recorded: Runs) -> int:
    return sum(hi - lo for run in asked for lo, hi in recorded.within(*run))


def _kill_imports(fleet: Fleet, paths: Paths, rng: random.Random, count: _Count) -> None:
    """The same for importing the model."""
    folder = fleet.folder / "imports"
    while count.kills < KILLS:
        daemon = fleet.start(folder.name)
        daemon.begin("load", model_path())
        done = _kill_after(daemon, rng.uniform(0, IMPORT_SECONDS), count)
        _look(folder, paths, count)
        if done:
            break
    shutil.rmtree(folder)


def _kill_after(daemon: Daemon, seconds: float, count: _Count) -> bool:
    """Kill it after `seconds` of work; whether it had finished before (that is no kill)."""
    time.sleep(seconds)
    done = daemon.ready()
    daemon.kill()
    count.kills += not done
    return done


def _look(folder: Path, paths: Paths, count: _Count) -> Held:
    """Open what the killed daemon left: count what is not as it should be; what is held."""
    store = Store.open(folder / "store", QUOTA)
    held_now: Held = {}
    begun = False
    for held in store.files():
        count.bad += sum(1 for _ in _wrong(held, paths[held.root]))
        held_now[held.root] = held.have
        fresh = held.layout.sections[0].leaves if held.header else 0
        begun = begun or fresh < held.have.count < held.layout.leaf_count
    count.midway += begun
    found = store.scrub()
    count.bad += len(found.bad_leaves) + len(found.bad_blocks)
    store.close()
    return held_now


def _wrong(held: HeldFile, path: Path) -> Iterator[int]:
    """Leaves that are held and differ from the original file."""
    with path.open("rb") as original:
        for lo, hi in held.have:
            for leaf in range(lo, hi):
                start, stop = held.layout.leaf_span(leaf)
                original.seek(start)
                try:
                    same = held.read(leaf, leaf + 1) == original.read(stop - start)
                except NotHeldError:  # it was, a moment ago: what is there does not verify
                    same = False
                if not same:
                    yield leaf
