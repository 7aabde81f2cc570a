"""What the daemon costs a machine that it runs on all day: its start, its memory, its idling.

`start_ratio`  from the start of `synapsed run` (home profile) to READY=1 on systemd's socket,
               over a process that does `import libp2p` and ends at once (os._exit: the tidying
               up at exit, a third more, is not counted for it); medians of interleaved runs.
`rss_ratio`    resident memory of that daemon, settled and after one request on its control
               socket, over that of a process which only runs a py-libp2p host (TCP, Noise, Yamux)
               that listens, with gossipsub attached, as settled; medians.
`idle_cpu`     CPU time over wall time of one daemon with 20 connected peers and nothing to do,
               over 60 s; the 20 are daemons as well, all on this machine.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from simnet.daemon import Daemon
from simnet.scenario import NobodyDied, Promise, Scenario, Start
from simnet.world import World, open_world
from synapsed.control.client import Client
from synapsed.control.models import Peers
from synapsed.process.lock import holder

REACH = {"start_ratio": "<= 2", "rss_ratio": "<= 1.5", "idle_cpu": "<= 0.03"}

START_RUNS = 9
RSS_RUNS = 3

SETTLE_S = 5.0
"""From ready to the memory reading: imports and first discovery are over."""

PEERS = 20
CONNECT_S = 120.0
CALM_S = 30.0
"""From all connected to the start of the measurement: greetings and reconciliation are over."""

IDLE_S = 60.0

PATIENCE_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

Say = Callable[[str], None]

BARE_IMPORT = "import libp2p, os; os._exit(0)"

BARE_HOST = """
import sys, trio
from multiaddr import Multiaddr
from libp2p import new_host
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
async def main():
    host = new_host()
    gossip = GossipSub(["/meshsub/1.1.0"], 6, 4, 8)
    pubsub = Pubsub(host, gossip)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        async with background_trio_service(pubsub), background_trio_service(gossip):
            await pubsub.wait_until_ready()
            await pubsub.subscribe("idle")
            print("ready", flush=True)
            await trio.sleep_forever()
trio.run(main)
"""

SCENARIO = Scenario(
    title="idle",
    daemons=PEERS + 1,
    steps=[Start(who="0-20")],
    promises=[Promise(that=NobodyDied())],
    network="idle",
    bootstrap=1,
    proxied=False,
    config={"net": {"target_peers": PEERS, "dht": True}, "log": {"level": "warning"}},
)


def measure(say: Say) -> dict[str, float | int]:
    """The fields of REACH, and what they were made of."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = clean() | {"SYNAPSED_HOME": str(home)}
        synapsed = [sys.executable, "-m", "synapsed"]
        subprocess.run([*synapsed, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
        # As a user starts it, but for the address: the real port may be taken on this machine.
        environment["SYNAPSED_NET__LISTEN"] = "/ip4/127.0.0.1/tcp/0"
        fields = measure_start(environment, Path(folder), say)
        fields |= measure_rss(environment, Path(folder), say)
    return fields | trio.run(measure_idle, say)


def clean() -> dict[str, str]:
    """Our environment without settings of daemons."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SYNAPSED_")}


class Running:
    """`synapsed run` from its start to READY=1, and no longer than the block."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment, self._path = environment, folder / "notify"

    def __enter__(self) -> "Running":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            self._path.unlink(missing_ok=True)
            notified.bind(str(self._path))
            notified.settimeout(PATIENCE_S)
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "synapsed", "run"],
                env=self._environment | {"NOTIFY_SOCKET": str(self._path)},
                stderr=subprocess.DEVNULL,
            )
            while not notified.recv(4096).startswith(b"READY=1"):
                pass
            self.seconds = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def measure_start(environment: dict[str, str], folder: Path, say: Say) -> dict[str, float | int]:
    """Interleaved starts and imports; the first of each warms the page cache."""
    starts, imports = [], []
    for run in range(START_RUNS + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", BARE_IMPORT], env=environment, check=True)
        imports.append(time.perf_counter() - began)
        with Running(environment, folder) as daemon:
            starts.append(daemon.seconds)
        say(f"start {run}: {starts[-1]:.3f} s to ready, {imports[-1]:.3f} s to import libp2p")
    start, bare = statistics.median(starts[1:]), statistics.median(imports[1:])
    return {
        "start_ratio": round(start / bare, 3),
        "start_s": round(start, 3),
        "import_s": round(bare, 3),
    }


def measure_rss(environment: dict[str, str], folder: Path, say: Say) -> dict[str, float | int]:
    """Settled daemons and bare hosts in turn."""
    daemons, hosts = [], []
    for run in range(RSS_RUNS):
        with Running(environment, folder) as daemon:
            with Client(Path(environment["SYNAPSED_HOME"]) / "control.sock", PATIENCE_S) as client:
                client.text("/v1/status")
            time.sleep(SETTLE_S)
            daemons.append(rss(daemon.process.pid))
        hosts.append(bare_host_rss(environment))
        say(f"memory {run}: {daemons[-1] / 1e6:.1f} MB, a bare host {hosts[-1] / 1e6:.1f} MB")
    ours, bare = statistics.median(daemons), statistics.median(hosts)
    return {
        "rss_ratio": round(ours / bare, 3),
        "rss_mb": round(ours / 1e6, 1),
        "bare_rss_mb": round(bare / 1e6, 1),
    }


def bare_host_rss(environment: dict[str, str]) -> int:
    """Resident bytes of a settled host of the bare library."""
    with subprocess.Popen(
        [sys.executable, "-c", BARE_HOST],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the bare host did not start")
        time.sleep(SETTLE_S)
        resident = rss(process.pid)
        process.kill()
    return resident


def rss(pid: int) -> int:
    """Resident bytes of a process, exactly: the sum over its mappings."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no memory")


async def measure_idle(say: Say) -> dict[str, float | int]:
    """One daemon that everybody else is connected to, left alone."""
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs) / "idle.toml"
        async with open_world(SCENARIO, path, 1, say, logs=Path(logs)) as world:
            await start_all(world)
            watched = world.daemons[0]
            await until_connected(watched, say)
            await trio.sleep(CALM_S)
            began, before = trio.current_time(), cpu_seconds(watched)
            await trio.sleep(IDLE_S)
            share = (cpu_seconds(watched) - before) / (trio.current_time() - began)
            peers = await trio.to_thread.run_sync(connected, watched)
    say(f"idle with {peers} peers: {share:.2%} of a core")
    if peers < PEERS:
        raise RuntimeError(f"only {peers} of {PEERS} peers stayed connected")
    return {"idle_cpu": round(share, 4), "peers": peers}


async def start_all(world: World) -> None:
    """The watched daemon first: the others find everybody through it."""
    await world.start(world.daemons[0])
    async with trio.open_nursery() as nursery:
        for daemon in world.daemons[1:]:
            nursery.start_soon(world.start, daemon)


async def until_connected(daemon: Daemon, say: Say) -> None:
    """Wait for the twentieth peer."""
    with trio.fail_after(CONNECT_S):
        while (peers := await trio.to_thread.run_sync(connected, daemon)) < PEERS:
            say(f"{peers} peers")
            await trio.sleep(1)


def connected(daemon: Daemon) -> int:
    """Peers with an open connection."""
    with Client(daemon.places.socket, PATIENCE_S) as client:
        found = client.call("GET", "/v1/peers", Peers)
    return sum(peer.connected for peer in found.peers)


def cpu_seconds(daemon: Daemon) -> float:
    """CPU time of the daemon's process so far, all threads."""
    fields = Path(f"/proc/{holder(daemon.places.lock)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
