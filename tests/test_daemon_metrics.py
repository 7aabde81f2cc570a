"""CPU and memory of this process and its cgroup, against independent readings (contract B6)."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from synapsed.process import metrics as process_metrics
from synapsed.process.metrics import ProcessMeter, age, read_cgroup

TICK_S = 0.02
"""Two of the scheduler's ticks: what its numbers may be behind."""


def test_memory_matches_psutil_before_and_after_64_mib() -> None:
    me = psutil.Process()
    before = ProcessMeter().read().rss
    assert before == pytest.approx(me.memory_info().rss, rel=0.05)
    block = bytearray(os.urandom(64 << 20))
    after = ProcessMeter().read().rss
    assert after == pytest.approx(me.memory_info().rss, rel=0.05)
    assert after - before == pytest.approx(len(block), rel=0.05)


def test_cpu_matches_the_scheduler_and_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading lies between two others: how long a machine takes for them is its own affair."""
    monkeypatch.setattr(process_metrics, "SHARE_WINDOW_S", 0.1)
    before = _now()
    meter = ProcessMeter()
    began = _now()
    while time.process_time() - began[1] < 0.4:
        pass
    ended = _now()
    lower = psutil.Process().cpu_times()
    reading = meter.read()
    upper = psutil.Process().cpu_times()
    after = _now()
    assert ended[1] <= reading.cpu_seconds <= after[1] + TICK_S
    least = (ended[1] - began[1] - TICK_S) / (after[0] - before[0])
    most = (after[1] - before[1] + TICK_S) / (ended[0] - began[0])
    assert least <= reading.cpu_share <= most
    assert sum(lower[:2]) - TICK_S <= reading.cpu_seconds <= sum(upper[:2]) + TICK_S


def _now() -> tuple[float, float]:
    """The clock, and our processor time."""
    return time.monotonic(), time.process_time()


def test_counts() -> None:
    me = psutil.Process()
    before = ProcessMeter().read()
    with open(os.devnull) as _:
        after = ProcessMeter().read()
    assert after.open_files == before.open_files + 1
    assert after.threads == me.num_threads()
    assert after.max_open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_age_is_the_process_own_and_not_the_interpreters() -> None:
    code = (
        "import os, time; from synapsed.process.metrics import age; began = time.monotonic()\n"
        "while time.monotonic() - began < 0.3: pass\n"
        "if os.fork() == 0: print(age(), flush=True); os._exit(0)\n"
        "os.wait(); print(age())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    child, parent = map(float, done.stdout.split())
    assert child < parent - 0.25
    assert parent >= 0.3
    assert age() > 0


def fake(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_cgroup_version_2(tmp_path: Path) -> None:
    fake(
        tmp_path,
        {
            "proc/cgroup": "0::/user.slice/a\n",
            "sys/cgroup.controllers": "cpu memory\n",
            "sys/user.slice/a/memory.current": "1000\n",
            "sys/user.slice/a/memory.max": "max\n",
            "sys/user.slice/a/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
            "sys/user.slice/a/cpu.max": "150000 100000\n",
        },
    )
    found = read_cgroup(tmp_path / "proc", tmp_path / "sys")
    assert found is not None
    assert (found.memory, found.memory_limit, found.cpu_seconds, found.cpu_limit) == (
        1000, None, 2.5, 1.5,
    )  # fmt: skip


def test_cgroup_version_1_in_a_container(tmp_path: Path) -> None:
    fake(
        tmp_path,
        {
            "proc/cgroup": "5:cpu,cpuacct:/host/x\n4:memory:/host/x\n0::/\n",
            "sys/memory/memory.usage_in_bytes": "77\n",
            "sys/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/cpuacct/cpuacct.usage": "1500000000\n",
            "sys/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    found = read_cgroup(tmp_path / "proc", tmp_path / "sys")
    assert found is not None
    assert (found.memory, found.memory_limit, found.cpu_seconds, found.cpu_limit) == (
        77, None, 1.5, None,
    )  # fmt: skip


def test_no_cgroup_is_none_and_not_zero(tmp_path: Path) -> None:
    assert read_cgroup(tmp_path / "proc", tmp_path / "sys") is None
    fake(tmp_path, {"proc/cgroup": "0::/a\n", "sys/cgroup.controllers": ""})
    found = read_cgroup(tmp_path / "proc", tmp_path / "sys")
    assert found is not None
    assert (found.memory, found.memory_limit, found.cpu_seconds, found.cpu_limit) == (None,) * 4


def test_the_real_cgroup_counts_what_we_use() -> None:
    before = read_cgroup()
    if before is None or before.cpu_seconds is None:
        pytest.skip("this machine counts nothing for our cgroup")
    start = time.process_time()
    while time.process_time() - start < 0.2:
        pass
    after = read_cgroup()
    assert after is not None
    assert after.cpu_seconds is not None
    assert after.cpu_seconds - before.cpu_seconds >= 0.19
