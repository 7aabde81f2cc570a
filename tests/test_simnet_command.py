"""`python -m simnet`: exit codes, the table, the JSON, the line that reproduces a failure."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

SCENARIO = """
title = "One daemon lives"
daemons = 1
watch = 0.2
[[steps]]
do = "start"
who = 0
[[steps]]
do = "let"
seconds = {seconds}
[[promises]]
that = {{ check = "{check}"{more} }}
within = 0.5
"""


def written(tmp_path: Path, check: str, more: str = "", seconds: float = 0.5) -> str:
    path = tmp_path / "one.toml"
    path.write_text(SCENARIO.format(check=check, more=more, seconds=seconds))
    return str(path)


def simnet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simnet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_run_that_keeps_its_promises(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = simnet(written(tmp_path, "nobody-died"), "--seed", "3", "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"]
    assert (result["scenario"], result["seed"]) == ("one", 3)
    assert [line["what"] for line in result["steps"]] == ["start 0", "let seconds=0.5"]
    assert json.loads((out / "result.json").read_text()) == result
    assert json.loads((out / "timeline.json").read_text())["samples"]
    assert (out / "logs" / "0-daemon.log").exists()
    assert not result["picture"] or Path(result["picture"]).stat().st_size > 5000
    assert "1/2  start 0" in done.stderr


def test_a_broken_promise_shows_how_to_reproduce_it(tmp_path: Path) -> None:
    path = written(tmp_path, "happened", ', fault = "kill"')
    done = simnet(path, "--seed", "9", "--no-picture", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "promise FAILED" in done.stdout
    assert f"reproduce: python -m simnet {path} --seed 9" in done.stdout.splitlines()


def test_a_wrong_scenario_is_a_usage_error(tmp_path: Path) -> None:
    done = simnet(written(tmp_path, "no-such-check"))
    assert done.returncode == 2
    assert done.stderr.startswith("simnet: ")
    assert "promise 1.that.check" in done.stderr


def test_sigterm_ends_every_daemon(tmp_path: Path) -> None:
    path = written(tmp_path, "nobody-died", seconds=600)
    process = subprocess.Popen(
        [sys.executable, "-m", "simnet", path, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        while "let" not in process.stderr.readline():
            pass
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
        assert "every daemon has ended" in process.stderr.read()
        _, left = psutil.wait_procs(children, timeout=60)
        assert not left
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
