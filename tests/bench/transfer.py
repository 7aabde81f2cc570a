"""Pulls of the demo model: against a bare py-libp2p stream, from three sources, by eight at once.

ratio_raw      throughput of a pull of the 91 MB file, verified and on disk, over a bare
               py-libp2p stream (Noise, Yamux, writes of 1 MiB) of the same bytes written to
               disk and synced as often; both between two processes, neither with dialling
ratio_sources  throughput from 3 sources limited to 10 MB/s each over that from 1
origin_ratio   bytes that the only holder, limited to 10 MB/s, sends while 8 newcomers pull
               at the same time, over the file's size
"""

import mmap
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import trio

from synapsed.transfer.pull import SAVE_BYTES
from tests.bench.peers import FORK, Daemon, daemons, model_path, scratch

REACH = {"ratio_raw": ">= 0.8", "ratio_sources": ">= 2.7", "origin_ratio": "<= 1.3"}

PAIRS = 7
"""Of one pull and one bare stream, one behind the other; the median of their ratios counts."""
RATE = 10_000_000
"""Bytes per second that a shaped source uploads."""
SOURCES = 3
NEWCOMERS = 8
CHUNK = 1 << 20
BARE = "/bench/bare/1.0.0"

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float | int]:
    """All three, in about a minute."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        path = model_path() / "model.safetensors"
        raw = measure_raw(Path(folder) / "raw", path, say)
        sources = measure_sources(Path(folder) / "sources", path, say)
        origin = measure_origin(Path(folder) / "origin", path, say)
    return {**raw, **sources, **origin}


# -- against a bare stream ------------------------------------------------------------------


def measure_raw(folder: Path, path: Path, say: Say) -> dict[str, float | int]:
    """Pulls and bare streams of the same bytes in turn, after one of each to warm up."""
    size = path.stat().st_size
    pulls, bares, ratios = [], [], []
    with daemons(folder) as fleet, _bare_streams(path, folder) as bare:
        origin, newcomer = fleet.start("origin"), fleet.start("newcomer")
        cid = origin.call("load", path)
        newcomer.call("connect", [origin.addr])
        for pair in range(PAIRS + 1):
            pull = _whole_pull(newcomer, cid, size)
            newcomer.call("forget", cid)
            stream = bare()
            if pair:
                pulls.append(size / pull / 1e6)
                bares.append(size / stream / 1e6)
                ratios.append(stream / pull)
                say(f"raw {pair}/{PAIRS}: pull {pulls[-1]:.0f} MB/s, bare {bares[-1]:.0f} MB/s")
    return {
        "ratio_raw": round(statistics.median(ratios), 3),
        "pull_mb_s": round(statistics.median(pulls), 1),
        "bare_mb_s": round(statistics.median(bares), 1),
    }


def _whole_pull(daemon: Daemon, cid: bytes, size: int) -> float:
    """Seconds of a pull that moved the whole file (its header comes with the layout)."""
    result = daemon.call("pull", cid)
    assert 0.99 * size < result["bytes"] <= size, result
    seconds: float = result["seconds"]
    return seconds


@contextmanager
def _bare_streams(path: Path, folder: Path) -> Iterator[Callable[[], float]]:
    """A function that moves the file over a bare stream and returns the seconds it took."""
    folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = FORK.Pipe()
    to_client, from_server = FORK.Pipe()
    server = FORK.Process(target=_run, args=(_bare_server, path, from_server), daemon=True)
    client = FORK.Process(target=_run, args=(_bare_client, folder / "bare", theirs), daemon=True)
    server.start()
    client.start()
    try:
        ours.send((to_client.recv(), path.stat().st_size))

        def once() -> float:
            ours.send(None)
            seconds: float = ours.recv()
            return seconds

        yield once
    finally:
        for process in (server, client):
            process.kill()
            process.join()


def _run(main: Callable[[Path, Connection], object], path: Path, pipe: Connection) -> None:
    trio.run(main, path, pipe)


def _bare_host() -> object:
    """A host as py-libp2p's documentation makes one, with Noise and Yamux."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_pair
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
    from libp2p.security.noise.transport import Transport
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
    from libp2p.stream_muxer.yamux.yamux import Yamux

    pair = create_new_key_pair()
    noise = Transport(libp2p_keypair=pair, noise_privkey=create_noise_pair().private_key)
    return new_host(key_pair=pair, sec_opt={NOISE: noise}, muxer_opt={YAMUX: Yamux})


async def _bare_server(path: Path, pipe: Connection) -> None:
    from multiaddr import Multiaddr  # type: ignore[import-untyped]

    host = _bare_host()
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    async def serve(stream) -> None:
        await stream.read(1)
        for at in range(0, len(data), CHUNK):
            await stream.write(data[at : at + CHUNK])
        await stream.close()

    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler(BARE, serve)
        pipe.send(str(host.get_addrs()[0]))
        await trio.sleep_forever()


async def _bare_client(path: Path, pipe: Connection) -> None:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    host = _bare_host()
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        addr, size = await trio.to_thread.run_sync(pipe.recv)
        peer = info_from_p2p_addr(Multiaddr(addr))
        await host.connect(peer)
        while True:
            await trio.to_thread.run_sync(pipe.recv)
            started = perf_counter()
            stream = await host.new_stream(peer.peer_id, [BARE])
            await stream.write(b"!")
            await _to_disk(stream, path, size)
            pipe.send(perf_counter() - started)
            path.unlink()


async def _to_disk(stream, path: Path, size: int) -> None:
    """Write a stream to a file, synced as often as a pull syncs its own, and at the end."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    at = synced = 0
    async with trio.open_nursery() as nursery:
        while at < size:
            data = await stream.read(CHUNK)
            os.pwrite(fd, data, at)
            at += len(data)
            if at - synced >= SAVE_BYTES:
                synced = at
                nursery.start_soon(trio.to_thread.run_sync, os.fdatasync, fd)
    await trio.to_thread.run_sync(os.fdatasync, fd)
    os.close(fd)


# -- from several sources, and by several newcomers -----------------------------------------


def measure_sources(folder: Path, path: Path, say: Say) -> dict[str, float | int]:
    """One limited source, then three."""
    seconds = {}
    with daemons(folder) as fleet:
        sources = [fleet.start(f"source{n}") for n in range(SOURCES)]
        cids = [source.call("load", path) for source in sources]
        for source in sources:
            source.call("limit", RATE)
        for count in (1, SOURCES):
            newcomer = fleet.start(f"newcomer{count}")
            newcomer.call("connect", [source.addr for source in sources[:count]])
            seconds[count] = _whole_pull(newcomer, cids[0], path.stat().st_size)
            say(f"sources: {seconds[count]:.2f} s from {count}")
    return {"ratio_sources": round(seconds[1] / seconds[SOURCES], 3)}


def measure_origin(folder: Path, path: Path, say: Say) -> dict[str, float | int]:
    """Eight newcomers who pull from one limited holder at the same time."""
    with daemons(folder) as fleet:
        origin = fleet.start("origin")
        cid = origin.call("load", path)
        origin.call("limit", RATE)
        newcomers: list[Daemon] = []
        for number in range(NEWCOMERS):
            newcomer = fleet.start(f"newcomer{number}")
            before = [daemon.addr for daemon in newcomers]
            newcomer.call("connect", [origin.addr, *before])
            for other in newcomers:
                other.call("also", [newcomer.addr])
            newcomers.append(newcomer)
        for newcomer in newcomers:
            newcomer.begin("pull", cid)
        slowest = max(newcomer.answer()["seconds"] for newcomer in newcomers)
        ratio = origin.call("sent") / path.stat().st_size
    say(f"origin: sent {ratio:.3f} of the model for {NEWCOMERS} newcomers in {slowest:.1f} s")
    return {"origin_ratio": round(ratio, 3), "newcomers_s": round(slowest, 2)}
