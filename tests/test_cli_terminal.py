"""What a terminal sees and a pipe does not: bars, colours."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest
import trio

from protocols.cid import cid_text
from synapsed.cli import output
from tests.control_fixtures import CLI, big_fixture, daemon_fixture, origin_fixture  # noqa: F401


def on_terminal(command: list[str], *, terminals: str, **env: str) -> tuple[int, bytes, bytes]:
    """Run with "out", "err" or "both" on a pseudo-terminal; (code, terminal's bytes, pipe's)."""
    ours, theirs = pty.openpty()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for name in ("stdout", "stderr"):
        if terminals in (name[3:], "both"):
            streams[name] = theirs
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        command, **streams, env={**clean, "TERM": "xterm-256color", "COLUMNS": "100", **env}
    ) as process:
        os.close(theirs)
        seen, piped = b"", b""
        pipe = process.stdout or process.stderr
        watched = [ours] if pipe is None else [ours, pipe.fileno()]
        deadline = time.monotonic() + 60
        while watched and time.monotonic() < deadline:
            for descriptor in select.select(watched, [], [], 1)[0]:
                try:
                    data = os.read(descriptor, 65536)
                except OSError:  # a terminal whose other side is closed
                    data = b""
                if not data:
                    watched.remove(descriptor)
                elif descriptor == ours:
                    seen += data
                else:
                    piped += data
        code = process.wait(timeout=60)
    os.close(ours)
    return code, seen, piped


@pytest.fixture
def slow(daemon):
    """Pulls take a second or so, so that a bar has something to show."""
    daemon.node.gate.allow(0)

    async def drip() -> None:
        while True:
            await trio.sleep(0.1)
            daemon.node.gate.allow(1)

    return drip


async def pull(daemon, slow, big, *options: str, terminals: str = "err", **env: str):
    command = [*CLI, "model", "pull", cid_text(big), "--socket", str(daemon.socket), *options]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        done = await trio.to_thread.run_sync(
            lambda: on_terminal(command, terminals=terminals, **env)
        )
        nursery.cancel_scope.cancel()
    return done


async def test_a_bar_on_a_terminal(daemon, slow, big):
    code, seen, piped = await pull(daemon, slow, big)
    assert code == 0
    assert b"MB" in seen
    assert b"tiles" in seen
    assert "━".encode() in seen
    assert piped.startswith(b"pulled")
    assert b"\x1b" not in piped


async def test_json_on_stdout_stays_clean_beside_a_bar(daemon, slow, big):
    code, seen, piped = await pull(daemon, slow, big, "--json")
    assert code == 0
    assert "━".encode() in seen
    assert piped.count(b"\n") == 1
    assert piped.startswith(b'{"cid"')


async def test_no_bar_in_a_pipe(daemon, slow, big):
    code, seen, piped = await pull(daemon, slow, big, terminals="out")
    assert code == 0
    assert b"fetched" in seen
    assert piped == b""


@pytest.mark.parametrize(
    ("options", "env", "coloured"),
    [((), {}, True), ((), {"NO_COLOR": "1"}, False), (("--no-color",), {}, False)],
)
async def test_colours_can_be_refused(daemon, options, env, coloured):
    command = [*CLI, "doctor", "--socket", str(daemon.socket), *options]
    code, seen, _ = await trio.to_thread.run_sync(
        lambda: on_terminal(command, terminals="out", **env)
    )
    assert code == 0
    assert b"forward port 4817" in seen
    assert (b"\x1b[" in seen) is coloured


async def test_a_bar_without_colour(daemon, slow, big):
    code, seen, _ = await pull(daemon, slow, big, NO_COLOR="1")
    assert code == 0
    assert "━".encode() in seen
    assert b"\x1b[3" not in seen  # cursor movements stay, colours do not
    assert b"\x1b[9" not in seen


# -- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_868_376, "90.9 MB"), (5e15, "5000.0 TB")],
)
def test_sizes(value, text):
    assert output.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations(value, text):
    assert output.duration(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "100 %"), (1, 3, "33.3 %"), (9_999_999, 10_000_000, "99.9 %"), (5, 5, "100 %")],
)
def test_shares(part, whole, text):
    assert output.share(part, whole) == text


def test_control_characters_are_shown_as_such():
    assert output.clean("a\x1b[31mb\n\x9bc\u202ed") == "a�[31mb��c�d"
    assert sys.stdout is not None
