"""A few real daemons, driven as their owners drive them: what they promise from end to end.

All are forked from one server; each test has daemons, homes and models of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from simnet.models import make_model
from synapsed import keys, paths
from synapsed.cli import main as cli
from synapsed.config.options import MIN_QUOTA
from synapsed.control import models
from synapsed.control.client import Client, DaemonError
from tests.store_kit import safetensors, same_folders

MIB = 1 << 20
SIZE = 12 * MIB
HEADER = 8 << 10
"""What comes with a file's layout, before the first of its leaves is asked for."""
EXPERT = "layer0.expert1"
TENSOR = "model.layers.0.mlp.experts.2.up_proj.weight"
PATIENCE = 30.0

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Look again and again until there is something; what it is."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


class Daemon:
    """One daemon, and its control socket."""

    def __init__(self, name: str, home: Path, swarm: "Swarm") -> None:
        self.name, self.home = name, home
        self._swarm = swarm
        self.places = paths.find(home, None, {})
        self.peer_id = keys.create(self.places.identity).text
        self.client = Client(self.places.socket, PATIENCE)

    def status(self) -> models.Status:
        return self.client.call("GET", "/v1/status", models.Status)

    def address(self) -> str:
        return self.status().addrs[0]

    def announced(self, cid: str) -> dict[str, list[list[int]]]:
        """Who announces which tiles of a model, as far as this daemon knows."""
        found = self.client.call(
            "GET", "/v1/announcements", models.Announcements, None, kind="shard", subject=cid
        )
        return {said.issuer: said.body["tiles"] for said in found.announcements}  # type: ignore[misc]

    def model(self, cid: str) -> models.ModelDetail:
        return self.client.call("GET", f"/v1/models/{cid}", models.ModelDetail)

    def held(self, cid: str) -> int:
        """Bytes of a model that are here."""
        listed = self.client.call("GET", "/v1/models", models.Models).models
        return next((model.held for model in listed if model.cid == cid), 0)

    def load(self, folder: Path, name: str = "made") -> str:
        """Import a model; its CID."""
        body = models.ImportRequest(path=str(folder), name=name)
        path = "/v1/models/import"
        return self.client.work(path, models.ImportResult, body, lambda _: None).cid

    def pull(
        self,
        cid: str,
        watch: Callable[[models.Progress], None] = lambda _: None,
        **parts: list[str],
    ) -> models.PullResult:
        body = models.PullRequest(**parts)
        return self.client.work(f"/v1/models/{cid}/pull", models.PullResult, body, watch)

    def limit(self, **limits: int) -> None:
        self.client.call("PUT", "/v1/limits", models.Limits, models.LimitsRequest(**limits))

    def sent(self) -> int:
        """Bytes that it has sent to others, all protocols together."""
        for family in text_string_to_metric_families(self.client.text("/metrics")):
            for sample in family.samples:
                if sample.name == "synapsed_network_bytes_total" and sample.labels == {
                    "direction": "out"
                }:
                    return int(sample.value)
        raise AssertionError("the metrics do not count bytes")


class Swarm:
    """The fork server, and the daemons of one test."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._number = 0
        self.daemons: list[Daemon] = []

    def _say(self, **command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _wait(self, event: str, name: str) -> None:
        assert self._process.stdout is not None
        while True:
            heard = json.loads(self._process.stdout.readline())
            assert heard["event"] != "error", heard
            if heard.get("id") == name:
                assert heard["event"] != "exited" or event == "exited", heard
                if heard["event"] == event:
                    return

    def start(self, *meets: Daemon | str, **settings: object) -> Daemon:
        """A daemon that meets these; `settings` are `section__key`."""
        self._number += 1
        name = f"d{self._number}"
        home = self._folder / name
        home.mkdir(mode=0o700)
        daemon = Daemon(name, home, self)
        addrs = [other.address() if isinstance(other, Daemon) else other for other in meets]
        told = {"net__bootstrap": addrs, "liveness__interval": "0.5 s", **settings}
        tables: dict[str, dict[str, object]] = {}
        for key, value in told.items():
            section, _, entry = key.rpartition("__")
            tables.setdefault(section, {})[entry] = value
        top = {"network": "swarm", "profile": "lab", **tables.pop("", {})}
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        for section, entries in tables.items():
            lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in entries.items())]
        daemon.places.config_file.write_text("\n".join(lines) + "\n")
        self._say(op="spawn", id=name, home=str(home))
        self.daemons.append(daemon)
        self._wait("ready", name)
        for other in meets:
            if isinstance(other, Daemon):
                until(lambda peer=other: _live(daemon, peer) and _live(peer, daemon))
        return daemon

    def end(self) -> None:
        for daemon in self.daemons:
            self._say(op="signal", id=daemon.name, signal="TERM")
            self._wait("exited", daemon.name)
            daemon.client.__exit__()
        self.daemons.clear()


def _live(daemon: Daemon, other: Daemon) -> bool:
    found = daemon.client.call("GET", "/v1/peers", models.Peers, None, which="live")
    return any(peer.peer_id == other.peer_id and peer.connected for peer in found.peers)


@pytest.fixture(scope="module")
def forks() -> Iterator["subprocess.Popen[str]"]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "synapsed.process.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "hello"
        yield process
        process.communicate(timeout=PATIENCE)  # the end of its input is its end


@pytest.fixture
def swarm(forks: "subprocess.Popen[str]") -> Iterator[Swarm]:
    # A short path: pytest's own are longer than a socket's may be.
    with tempfile.TemporaryDirectory() as folder:
        swarm = Swarm(forks, Path(folder))
        yield swarm
        swarm.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "made"
    make_model(folder, SIZE, seed=1)
    return folder


ALONE = {"replication__hold": False}
"""For daemons that fetch what they are told to, and nothing else."""


def test_imported_here_announced_there_pulled_and_the_same(swarm: Swarm, folder: Path) -> None:
    origin = swarm.start(**ALONE)
    puller = swarm.start(origin, **ALONE)
    onlooker = swarm.start(puller, **ALONE)
    cid = origin.load(folder)
    tiles = until(lambda: onlooker.announced(cid).get(origin.peer_id))
    assert sum(count for _, count in tiles) == origin.model(cid).tiles
    result = puller.pull(cid)
    assert result.size == sum(path.stat().st_size for path in folder.iterdir())
    assert result.size - result.fetched < HEADER
    assert [source.peer_id for source in result.sources if source.bytes] == [origin.peer_id]
    out = puller.home / "out"
    body = models.ExportRequest(path=str(out))
    puller.client.work(f"/v1/models/{cid}/export", models.ExportResult, body, lambda _: None)
    assert same_folders(folder, out)
    # And what arrived is offered on.
    until(lambda: onlooker.announced(cid).get(puller.peer_id) == tiles)
    again = onlooker.pull(cid)
    assert again.size - again.fetched < HEADER
    assert onlooker.model(cid).model.complete


def test_an_expert_and_a_tensor_move_their_sub_tiles_and_no_more(
    swarm: Swarm, folder: Path
) -> None:
    origin = swarm.start(**ALONE)
    puller = swarm.start(origin, **ALONE)
    cid = origin.load(folder)
    expert = next(it for it in origin.model(cid).expert_list if it.name == EXPERT)
    until(lambda: puller.announced(cid))
    before = origin.sent()
    result = puller.pull(cid, experts=[EXPERT])
    assert result.fetched == result.size == expert.size
    assert expert.size <= origin.sent() - before < expert.size + 256 * 1024
    # Its holder says that it has a part of the model; of the expert nobody says anything.
    mine = until(lambda: origin.announced(cid).get(puller.peer_id))
    assert 0 < sum(count for _, count in mine) < origin.model(cid).tiles
    before = origin.sent()
    result = puller.pull(cid, tensors=[TENSOR])
    assert expert.size <= origin.sent() - before < expert.size + 256 * 1024
    assert result.fetched == expert.size
    # By its own CID, from one who has no other part of the model.
    other = swarm.start(origin, **ALONE)
    before = origin.sent() + puller.sent()
    assert other.pull(expert.cid).fetched == expert.size
    assert origin.sent() + puller.sent() - before < expert.size + 512 * 1024
    until(lambda: origin.announced(cid).get(other.peer_id))
    assert not origin.announced(expert.cid)
    for daemon in (origin, puller, other):
        assert daemon.status().models == 1


def test_a_quota_reached_in_mid_pull_keeps_what_came_and_goes_on_later(
    swarm: Swarm, tmp_path: Path
) -> None:
    make_model(tmp_path / "large", int(MIN_QUOTA) + 16 * MIB, seed=3)
    origin = swarm.start(**ALONE)
    puller = swarm.start(origin, **ALONE)
    cid = origin.load(tmp_path / "large")
    until(lambda: puller.announced(cid))
    origin.limit(upload=40 * MIB)
    lowered = False

    def lower(progress: models.Progress) -> None:
        nonlocal lowered
        if progress.done > 24 * MIB and not lowered:
            lowered = True
            puller.limit(quota=int(MIN_QUOTA))

    with pytest.raises(DaemonError) as caught:
        puller.pull(cid, lower)
    assert lowered
    assert caught.value.problem.error == "quota-exceeded"
    held = puller.held(cid)
    assert 24 * MIB < held <= puller.status().store.used <= int(MIN_QUOTA)
    origin.limit(upload=0)
    with pytest.raises(DaemonError) as caught:
        puller.pull(cid)
    assert caught.value.problem.error == "quota-exceeded"
    assert puller.held(cid) == held
    puller.limit(quota=1 << 30)
    result = puller.pull(cid)
    assert result.fetched == result.size - held
    assert puller.model(cid).model.complete


def test_a_paused_daemon_refuses_and_gives_nothing_until_it_is_resumed(
    swarm: Swarm, folder: Path
) -> None:
    origin = swarm.start(**ALONE)
    puller = swarm.start(origin, **ALONE)
    cid = origin.load(folder)
    until(lambda: puller.announced(cid))
    puller.client.call("POST", "/v1/pause", models.Paused)
    with pytest.raises(DaemonError) as caught:
        puller.pull(cid)
    assert caught.value.problem.error == "paused"
    assert puller.held(cid) == 0
    puller.client.call("POST", "/v1/resume", models.Paused)
    assert puller.pull(cid).fetched > 0


def test_a_wrong_cid_leaves_nothing_pinned(swarm: Swarm, folder: Path) -> None:
    """Nor does a tensor that the model does not have."""
    origin = swarm.start(**ALONE)
    puller = swarm.start(origin, **ALONE)
    cid = origin.load(folder)
    until(lambda: puller.announced(cid))
    with pytest.raises(DaemonError) as caught:
        puller.pull(cid, tensors=["no.such.tensor"])
    assert caught.value.problem.error == "unknown-part"
    assert not puller.model(cid).model.pinned
    puller.client.call("POST", "/v1/gc", models.GcResult)
    assert puller.held(cid) == 0
    assert not origin.announced(cid).get(puller.peer_id)


def test_a_model_that_was_removed_is_not_repaired_back(swarm: Swarm, tmp_path: Path) -> None:
    """Another daemon takes its place, and the one whose owner removed it never does."""
    make_model(tmp_path / "small", 2 * MIB, seed=2)
    settings = {"replication__copies": 2, "replication__probe_interval": "1 s"}
    origin = swarm.start(**settings)
    others = [swarm.start(origin, **settings) for _ in range(2)]
    cid = origin.load(tmp_path / "small")
    (first,) = until(lambda: [it for it in others if it.held(cid) and it.model(cid).model.complete])
    second = next(it for it in others if it is not first)
    until(lambda: first.model(cid).model.reasons == ["replica"])
    until(lambda: origin.announced(cid).get(first.peer_id) == origin.announced(cid)[origin.peer_id])
    first.client.call("DELETE", f"/v1/models/{cid}", models.Removed)
    until(lambda: first.peer_id not in origin.announced(cid))
    until(lambda: second.held(cid) and second.model(cid).model.complete)
    assert first.held(cid) == 0
    assert first.peer_id not in origin.announced(cid)


def test_a_copy_for_others_gives_way_to_the_owners_import(swarm: Swarm, tmp_path: Path) -> None:
    """It is announced no more at once, and a pull of the owner's then makes its room as well."""
    make_model(tmp_path / "copied", 24 * MIB, seed=5)
    make_model(tmp_path / "own", 56 * MIB, seed=6)
    settings = {"replication__copies": 2, "replication__probe_interval": "1 s"}
    origin = swarm.start(**settings)
    holder = swarm.start(origin, store__quota=int(MIN_QUOTA), **settings)
    copied = origin.load(tmp_path / "copied")
    until(lambda: holder.held(copied) and holder.model(copied).model.complete)
    until(lambda: origin.announced(copied).get(holder.peer_id))
    own = holder.load(tmp_path / "own", "own")
    assert holder.model(own).model.complete
    store = holder.status().store
    assert store.used <= store.quota
    recent = holder.client.call("GET", "/v1/events/recent", models.Events).events
    (evicted,) = (event for event in recent if event.kind == "replication.evicted")
    assert evicted.fields["model"] == copied
    assert evicted.fields["bytes"] > 15 * MIB
    until(lambda: holder.peer_id not in origin.announced(copied))
    # The owner wants it after all: now nothing is left that could give way.
    with pytest.raises(DaemonError) as caught:
        holder.pull(copied)
    assert caught.value.problem.error == "quota-exceeded"
    assert holder.model(own).model.complete


def test_adapters_are_listed_by_how_well_they_suit(swarm: Swarm, tmp_path: Path) -> None:
    """The same two adapters in another order on a daemon that has the other base model."""
    origin = swarm.start(**ALONE)
    others = [swarm.start(origin, **ALONE) for _ in range(2)]
    bases = []
    for number in range(2):
        make_model(tmp_path / f"base{number}", MIB, seed=10 + number)
        bases.append(origin.load(tmp_path / f"base{number}", f"base{number}"))
        path = tmp_path / f"lora{number}.safetensors"
        path.write_bytes(safetensors({"lora": 4096}, seed=number))
        draft = models.AdapterDraft(
            name=f"lora{number}",
            base=bases[number],
            rank=8,
            alpha=16.0,
            target_modules=["q_proj"],
            file=str(path),
        )
        origin.client.call("POST", "/v1/announcements", models.AnnouncementInfo, draft)
    for number, other in enumerate(others):
        other.pull(bases[number])

        def listed(daemon: Daemon = other) -> list[models.AnnouncementInfo]:
            known = daemon.client.call(
                "GET", "/v1/announcements", models.Announcements, None, kind="adapter"
            )
            return known.announcements if len(known.announcements) == 2 else []

        best, worst = until(listed)
        assert (best.body["name"], worst.body["name"]) == (f"lora{number}", f"lora{1 - number}")
        assert best.score is not None
        assert worst.score is not None
        assert best.score > worst.score
        shown = CliRunner().invoke(
            cli.app, ["--home", str(other.home), "announcements", "--kind", "adapter"]
        )
        assert shown.exit_code == 0, shown.output
        assert shown.output.index(f"{best.score} ") < shown.output.index(f"{worst.score} ")


def test_another_network_is_never_let_in(swarm: Swarm, folder: Path) -> None:
    origin = swarm.start(**ALONE)
    stranger = swarm.start(origin.address(), network="another")
    until(lambda: [line for line in stranger.status().warnings if origin.peer_id in line])
    assert (stranger.status().connected, origin.status().connected) == (0, 0)
    friend = swarm.start(origin, **ALONE)
    cid = origin.load(folder)
    until(lambda: friend.announced(cid))
    assert (stranger.status().connected, stranger.status().announcements) == (0, 0)
    assert origin.status().connected == 1


def test_a_second_daemon_in_the_same_home_is_refused(swarm: Swarm) -> None:
    first = swarm.start()
    second = subprocess.run(
        [sys.executable, "-m", "synapsed", "run", "--home", str(first.home)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert second.returncode == 5
    assert "already runs" in second.stderr
    assert first.status().pid > 0
