"""The socket's file, who may connect, and what bytes on it can do."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import textwrap

import httpx
import pytest
import trio

from synapsed.control import connection, gate, server
from synapsed.control.bind import SocketNotOursError, bind
from synapsed.control.problems import ConflictError
from synapsed.control.server import serve_control
from synapsed.process.events import EventBus
from tests.control_fixtures import daemon_fixture, origin_fixture  # noqa: F401
from tests.control_node import MemoryNode

STATUS = b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n"


# -- the file -------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_goes_away(tmp_path):
    path = tmp_path / "run" / "control.sock"
    old = os.umask(0)
    try:
        bound = bind(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    bound.close()
    assert not path.exists()


def test_a_dead_daemons_socket_is_replaced(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bound = bind(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_a_killed_daemons_socket_is_replaced(tmp_path):
    path = tmp_path / "control.sock"
    program = f"""
        import signal, sys
        from pathlib import Path
        from synapsed.control.bind import bind
        bound = bind(Path({str(path)!r}))
        print("up", flush=True)
        signal.pause()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout.readline() == b"up\n"
        try:
            with pytest.raises(ConflictError):
                bind(path)
        finally:
            daemon.send_signal(signal.SIGKILL)
    assert path.exists()
    bind(path).close()


def test_a_living_daemons_socket_is_left_alone(tmp_path):
    path = tmp_path / "control.sock"
    first = bind(path)
    with pytest.raises(ConflictError, match="listens"):
        bind(path)
    assert path.exists()
    first.close()


@pytest.mark.parametrize("make", ["file", "folder", "link", "fifo"])
def test_what_is_no_socket_is_left_alone(tmp_path, make):
    path = tmp_path / "control.sock"
    if make == "file":
        path.write_text("precious")
    elif make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    else:
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    with pytest.raises(SocketNotOursError, match="not a socket"):
        bind(path)
    assert os.path.lexists(path)


def test_another_owners_socket_is_left_alone(tmp_path):
    if os.geteuid():
        pytest.skip("only root can give a socket to somebody else")
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
    os.chown(path, 65534, 65534)
    with pytest.raises(SocketNotOursError, match="belongs to user 65534"):
        bind(path)
    assert path.exists()


def test_a_folder_where_others_write_is_refused(tmp_path):
    tmp_path.chmod(0o770)
    with pytest.raises(SocketNotOursError, match="others may write") as error:
        bind(tmp_path / "control.sock")
    assert error.value.remedy.startswith("chmod 700")


def test_a_path_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(SocketNotOursError, match="too long"):
        bind(tmp_path / ("x" * 120))


def test_a_successors_socket_is_not_removed(tmp_path):
    path = tmp_path / "control.sock"
    first = bind(path)
    path.unlink()
    second = bind(path)
    first.close()
    assert path.exists()
    second.close()


# -- who may connect ------------------------------------------------------------------------


async def test_another_user_is_turned_away_whatever_the_file_modes_say(daemon, tmp_path):
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    program = f"""
        import os, socket
        s = socket.socket(socket.AF_UNIX)
        os.chdir({str(daemon.folder)!r})
        os.setgid(65534); os.setuid(65534)
        s.connect("control.sock")
        s.sendall({STATUS!r})
        print(s.makefile("rb").read().decode())
    """
    daemon.folder.chmod(0o711)
    daemon.socket.chmod(0o666)
    done = await trio.run_process(
        [sys.executable, "-c", textwrap.dedent(program)], capture_stdout=True
    )
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 403")
    assert json.loads(body)["error"] == "not-owner"


async def test_connections_are_limited_and_come_back(daemon, monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    streams = [await daemon.connect() for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    async with daemon.http() as http:
        answer = await http.get("/v1/status")
        assert (answer.status_code, answer.json()["error"]) == (503, "busy")
    for stream in streams:
        await stream.aclose()
    with trio.fail_after(60):
        while True:
            async with daemon.http() as http:
                if (await http.get("/v1/status")).status_code == 200:
                    break
            await trio.sleep(0.01)


# -- bytes ----------------------------------------------------------------------------------


async def talk(daemon, data: bytes) -> bytes:
    """What comes back for `data`, until the daemon closes."""
    stream = await daemon.connect()
    received = b""
    async with stream:
        with trio.fail_after(60):
            try:
                await stream.send_all(data)
                await stream.send_eof()
                async for chunk in stream:
                    received += chunk
            except trio.BrokenResourceError:
                pass
    return received


def problem_in(received: bytes) -> dict:
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    return json.loads(body)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\xff" * 50 + b"\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),  # HTTP/1.1 without a host
        (b"GET / HTTP/1.1\r\nhost: d\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: d\r\nx: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /v1/gc HTTP/1.1\r\nhost: d\r\ntransfer-encoding: gzip\r\n\r\n", 501),
    ],
)
async def test_bad_http_is_a_problem_in_json(daemon, data, status):
    received = await talk(daemon, data)
    assert received.startswith(b"HTTP/1.1 %d" % status)
    assert problem_in(received)["status"] == status


async def test_http2_and_websockets_are_not_spoken(daemon):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    assert b"HTTP/1.1 4" in await talk(daemon, preface)
    upgrade = STATUS[:-2] + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n"
    assert (await talk(daemon, upgrade)).startswith(b"HTTP/1.1 200")
    websocket = STATUS[:-2] + (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await talk(daemon, websocket)).startswith(b"HTTP/1.1 40")


async def test_a_body_beyond_the_limit_is_refused(daemon):
    async with daemon.http() as http:
        answer = await http.post("/v1/ping", content=b" " * (gate.BODY_LIMIT + 1))
        assert (answer.status_code, answer.json()["error"]) == (413, "body-too-large")
        assert (await http.get("/v1/status")).status_code == 200


async def test_a_body_for_a_path_that_wants_none_does_not_hang(daemon):
    """Hypercorn alone stops reading a connection whose app leaves ten chunks of a body."""
    async with daemon.http() as http:
        for _ in range(2):
            answer = await http.request("GET", "/v1/status", content=b" " * (2 << 20))
            assert answer.status_code == 200


async def test_a_body_that_does_not_come_is_given_up(daemon, monkeypatch):
    monkeypatch.setattr(gate, "BODY_S", 0.1)
    stream = await daemon.connect()
    await stream.send_all(b"POST /v1/ping HTTP/1.1\r\nhost: d\r\ncontent-length: 9\r\n\r\n{")
    received = b""
    with trio.fail_after(60):
        async with stream:
            async for chunk in stream:
                received += chunk
    assert received.startswith(b"HTTP/1.1 408")
    assert problem_in(received)["error"] == "body-too-slow"


async def test_a_connection_that_says_nothing_is_closed(tmp_path, nursery, autojump_clock):
    node = MemoryNode(tmp_path)
    path = tmp_path / "home" / "control.sock"
    await nursery.start(serve_control, node, path)
    silent = await trio.open_unix_socket(str(path))
    half = await trio.open_unix_socket(str(path))
    await half.send_all(b"GET /v1/sta")
    with trio.fail_after(2 * connection.IDLE_S):
        assert await silent.receive_some() == b""
        assert await half.receive_some() == b""
    await silent.aclose()
    await half.aclose()
    node.close()


async def test_a_client_that_reads_nothing_is_closed(daemon, monkeypatch):
    monkeypatch.setattr(connection, "WRITE_S", 0.2)
    stream = await daemon.connect()
    await stream.send_all(b"GET /v1/events HTTP/1.1\r\nhost: d\r\n\r\n")
    assert b"200" in await stream.receive_some()
    with trio.fail_after(60):
        while len(daemon.node.bus._readers) < 2:  # the daemon's own, and the stream's
            await trio.sleep(0.01)
        while len(daemon.node.bus._readers) > 1:
            daemon.node.bus.emit("noise", text="x" * 5000)
            await trio.sleep(0.001)
    await stream.aclose()


async def test_stopping_does_not_wait_for_clients(tmp_path, nursery, autojump_clock):
    """One follows events, one has stopped reading, one has sent half a request."""
    node = MemoryNode(tmp_path)
    path = tmp_path / "home" / "control.sock"
    scope = trio.CancelScope()
    ended = trio.Event()

    async def serve(task_status) -> None:
        with scope:
            await serve_control(node, path, task_status=task_status)
        ended.set()

    await nursery.start(serve)
    streams = [await trio.open_unix_socket(str(path)) for _ in range(3)]
    for stream in streams[:2]:
        await stream.send_all(b"GET /v1/events HTTP/1.1\r\nhost: d\r\n\r\n")
        await stream.receive_some()
    await streams[2].send_all(b"GET /v1/ev")
    for _ in range(500):
        node.bus.emit("noise", text="x" * 5000)
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    scope.cancel()
    with trio.fail_after(60):
        await ended.wait()
    assert trio.current_time() - began < 1.5  # in the clock's own time: no time-out was waited for
    assert not path.exists()
    for stream in streams:
        await stream.aclose()
    node.close()


async def test_a_thousand_hostile_requests_end_nothing(daemon, caplog):
    """Mutations of good requests, raw bytes, cut requests: the daemon answers on."""
    seed = 20261120
    rng = random.Random(seed)
    good = [
        STATUS,
        b"POST /v1/ping HTTP/1.1\r\nhost: d\r\ncontent-length: 15\r\n\r\n" + b'{"peer_id":"x"}',
        STATUS[:-2] + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"PUT /v1/limits HTTP/1.1\r\nhost: d\r\ncontent-length: 2\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40),
        STATUS * 3,
        STATUS[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ]
    limiter = trio.CapacityLimiter(20)
    before = trio.lowlevel.current_statistics().tasks_living

    async def attack(data: bytes) -> None:
        async with limiter:
            stream = await daemon.connect()
            with trio.move_on_after(0.2):
                try:
                    await stream.send_all(data)
                    if rng.random() < 0.5:
                        await stream.receive_some()
                except trio.BrokenResourceError:
                    pass
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            data = bytearray(rng.choice(good))
            for _ in range(rng.choice((0, 1, 1, 3, 10))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            nursery.start_soon(attack, bytes(data[: rng.randint(1, len(data))]))
    async with daemon.http() as http:
        assert (await http.get("/v1/status")).status_code == 200
    with trio.fail_after(60):
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.sleep(0.01)
    unexpected = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not unexpected, (seed, [record.getMessage() for record in unexpected])
    assert "handler.failed" not in daemon.node.bus.counts, seed


async def test_the_defect_of_a_connection_is_reported_and_ends_it_alone(daemon, monkeypatch):
    async def broken(self) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(connection.ControlConnection, "run", broken)
        assert await talk(daemon, STATUS) == b""
    assert daemon.node.bus.counts["handler.failed"] == 1
    assert (await talk(daemon, STATUS)).startswith(b"HTTP/1.1 200")


def test_only_the_server_imports_the_web_framework():
    """Clients (synapsectl, simnet) and the node's own modules need none of it."""
    modules = "synapsed.control.client", "synapsed.control.api", "synapsed.control.drafts"
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"fastapi", "pydantic", "hypercorn", "starlette", "typer", "libp2p"}


async def test_httpx_keeps_one_connection_for_many_requests(daemon):
    async with daemon.http() as http:
        for _ in range(20):
            assert (await http.get("/v1/jobs")).json() == {"jobs": []}
    assert isinstance(daemon.node.bus, EventBus)
    assert httpx.__version__
