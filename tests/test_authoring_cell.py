"""The cell: what runs in it reaches no network, few files and nobody, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from synapsed.authoring import apart, cell
from synapsed.authoring.apart import BuildFailedError, BuildLimitError, WeakCellError
from synapsed.authoring.tools import SYSTEM, Tool

SHELL = Tool(
    name="sh", version="1", command=("/bin/sh", "-c"), folders=(*SYSTEM, "/usr/bin", "/bin")
)
PYTHON = Tool(
    name="python",
    version="3",
    command=(os.path.realpath(sys.executable), "-I", "-c"),
    folders=(*SYSTEM, sys.base_prefix),
)


async def test_it_runs_in_its_folder_and_says_what_it_says(tmp_path):
    said = await apart.run(SHELL, ["echo here; cp module out"], _work(tmp_path))
    assert said.splitlines()[0] == "here"
    assert (tmp_path / "work" / "out").read_text() == "source"


async def test_files_of_the_host_cannot_be_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    assert "hidden words" in secret.read_text()
    with pytest.raises(BuildFailedError, match="Permission denied") as caught:
        await apart.run(SHELL, [f"cat {secret}"], _work(tmp_path))
    assert "hidden words" not in str(caught.value)
    for look in ("head -c 9 /dev/zero", "head -c 9 /dev/urandom"):
        with pytest.raises(BuildFailedError, match="Permission denied"):
            await apart.run(SHELL, [look], _work(tmp_path))
    for look in ("cat /etc/passwd", "cat /proc/self/environ", f"ls {Path.home()}", "ls /"):
        with pytest.raises(BuildFailedError, match="Permission denied"):
            await apart.run(SHELL, [look], _work(tmp_path))


async def test_nothing_can_be_written_elsewhere(tmp_path):
    with pytest.raises(BuildFailedError, match="Permission denied"):
        await apart.run(SHELL, [f"echo x > {tmp_path}/elsewhere"], _work(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


async def test_what_it_writes_cannot_be_run(tmp_path):
    with pytest.raises(BuildFailedError, match="Permission denied"):
        await apart.run(SHELL, ["cp /bin/true own && chmod +x own && ./own"], _work(tmp_path))


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
async def test_there_is_no_network(tmp_path, family):
    text = f"import socket; socket.socket(socket.{family})"
    with pytest.raises(BuildFailedError, match="PermissionError"):
        await apart.run(PYTHON, [text], _work(tmp_path))


async def test_the_namespace_alone_keeps_the_network_away(tmp_path, monkeypatch):
    """Where seccomp is not, and for what Landlock does not know: a datagram to this machine."""
    _without(monkeypatch, tmp_path, "_refuse_calls")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        text = f"import socket; socket.socket(2, 2).sendto(b'x', {address})"
        with pytest.raises(BuildFailedError, match="Network is unreachable"):
            await apart.run(PYTHON, [text], _work(tmp_path))


async def test_without_namespaces_the_other_layers_hold(tmp_path, monkeypatch):
    """Some systems have them switched off."""
    _without(monkeypatch, tmp_path, "_can_leave")
    for command, refused in (
        ("import socket; socket.socket()", "PermissionError"),
        ("open('/etc/passwd')", "PermissionError"),
        (f"import os; os.kill({os.getpid()}, 0)", "PermissionError"),
    ):
        with pytest.raises(BuildFailedError, match=refused):
            await apart.run(PYTHON, [command], _work(tmp_path))
    assert await apart.run(PYTHON, ["print('fine')"], _work(tmp_path)) == "fine"


async def test_a_kernel_without_landlock_is_refused_unless_it_is_accepted(tmp_path, monkeypatch):
    _without(monkeypatch, tmp_path, "_keep_only")
    with pytest.raises(WeakCellError, match="Landlock"):
        await apart.run(SHELL, ["true"], _work(tmp_path))
    await apart.run(SHELL, ["true"], _work(tmp_path), allow_weaker=True)


async def test_the_environment_is_the_same_for_everybody(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    said = await apart.run(SHELL, ["env"], _work(tmp_path))
    assert "SECRET_TOKEN" not in said
    assert "SOURCE_DATE_EPOCH=0" in said


async def test_it_is_ended_with_all_that_it_started(tmp_path):
    """Also what left its group and its session."""
    work = _work(tmp_path)
    mark = f"31{os.getpid()}"
    with pytest.raises(BuildLimitError, match="took more than"):
        await apart.run(SHELL, [f"setsid sleep {mark} & sleep {mark}"], work, patience=0.7)
    await _gone(mark)


async def test_the_folder_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "MAX_WRITTEN", 1 << 20)
    with pytest.raises(BuildLimitError, match="wrote more than 1 MiB"):
        await apart.run(SHELL, ["yes | head -c 3000000 > big; sleep 20"], _work(tmp_path))


async def test_cancelling_ends_it(tmp_path):
    mark = f"32{os.getpid()}"
    with trio.move_on_after(0.5) as scope:
        await apart.run(SHELL, [f"sleep {mark}"], _work(tmp_path))
    assert scope.cancelled_caught
    await _gone(mark)


async def test_it_is_started_by_the_thread_that_stays(tmp_path, monkeypatch):
    """A child dies with the thread that started it: trio's own end when they have had no work."""
    starters = []
    real = subprocess.Popen.__init__

    def noted(self: object, *args: object, **more: object) -> None:
        starters.append(threading.current_thread())
        real(self, *args, **more)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)
    await apart.run(SHELL, ["true"], _work(tmp_path))
    assert starters == [threading.main_thread()]


def test_calls_are_refused_by_the_numbers_of_this_machine():
    """Two tables of numbers, of which only one is tried here, at least name the same calls."""
    tables = [set(calls) for _, calls in cell._FORBIDDEN.values()]
    assert tables[0] == tables[1]
    assert all(len(set(calls.values())) == len(calls) for _, calls in cell._FORBIDDEN.values())


def _work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    if work.exists():
        for path in sorted(work.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    work.mkdir(exist_ok=True)
    (work / "module").write_text("source")
    return work


async def _gone(mark: str) -> None:
    """It dies with its namespace, a moment after the process that we wait for."""
    with trio.fail_after(60):
        while _running(mark):
            await trio.sleep(0.02)


def _running(mark: str) -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def _without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layer: str) -> None:
    """The cell's process then finds that its kernel has not got the layer."""
    script = tmp_path / "cell.py"
    script.write_text(
        "import sys\nfrom synapsed.authoring import cell\n"
        f"cell.{layer} = lambda *_: False\ncell.main()\n"
    )
    real = apart.Child

    def started(command: list[str], *fds: int) -> apart.Child:
        return real([command[0], "-I", str(script), command[-1]], *fds)

    monkeypatch.setattr(apart, "Child", started)
