"""What this process and its cgroup use, as the kernel counts it.

Read from /proc and /sys/fs/cgroup (version 2, and version 1 where a machine still has it).
What cannot be read is None, never a made-up number.
"""

import os
import resource
import time
from pathlib import Path

import msgspec

_PROC = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")

NO_LIMIT_V1 = 1 << 60
"""Version 1 writes 'no limit' as the largest number of pages; nothing real is this large."""


SHARE_WINDOW_S = 1.0
"""A share over less says more about who asked than about us."""


class CgroupReading(msgspec.Struct, frozen=True):
    """Bytes, seconds and cores of all in our cgroup; limits are None where there are none."""

    memory: int | None
    memory_limit: int | None
    cpu_seconds: float | None
    cpu_limit: float | None


class ProcessReading(msgspec.Struct, frozen=True):
    """Bytes, seconds and counts of this process; `cpu_share` is of a core, since the last time."""

    age_s: float
    rss: int
    cpu_seconds: float
    cpu_share: float
    threads: int
    open_files: int
    max_open_files: int
    cgroup: CgroupReading | None


class ProcessMeter:
    """Reads; remembers only what the share of a core needs."""

    def __init__(self) -> None:
        self._at, self._cpu = time.monotonic(), _cpu_seconds()
        self._share = 0.0

    def read(self) -> ProcessReading:
        """A reading of now: about 0.3 ms. The share is over the last second or more."""
        now, cpu = time.monotonic(), _cpu_seconds()
        if now - self._at >= SHARE_WINDOW_S:
            self._share = (cpu - self._cpu) / (now - self._at)
            self._at, self._cpu = now, cpu
        return ProcessReading(
            age_s=age(),
            rss=rss(),
            cpu_seconds=cpu,
            cpu_share=self._share,
            threads=len(os.listdir(_PROC / "task")),
            open_files=len(os.listdir(_PROC / "fd")) - 1,  # but for the one that lists them
            max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            cgroup=read_cgroup(),
        )


def age() -> float:
    """Seconds since this process was started or forked, to 10 ms."""
    # The command in field 2 may hold spaces and brackets, so count from its end.
    after = (_PROC / "stat").read_text().rpartition(")")[2].split()
    started = int(after[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def rss() -> int:
    """Resident bytes."""
    return int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_cgroup(proc: Path = _PROC, root: Path = _CGROUPS) -> CgroupReading | None:
    """Our cgroup's counters under `root`, or None where there is no cgroup to read."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return None
    # 0::/user.slice (version 2), 4:memory:/lxc/a and 2:cpu,cpuacct:/lxc/a (version 1)
    where = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    if (root / "cgroup.controllers").exists():
        return _read_v2(_visible(root, where.get("", "/")))
    v1 = {name: path for names, path in where.items() for name in names.split(",")}
    if not (root / "memory").is_dir():
        return None
    memory = _visible(root / "memory", v1.get("memory", "/"))
    return _read_v1(
        memory,
        _visible(root / "cpuacct", v1.get("cpuacct", "/")),
        _visible(root / "cpu", v1.get("cpu", "/")),
    )


def _visible(mount: Path, path: str) -> Path:
    """The folder of a cgroup; in a container its path is the host's, and the mount is our own."""
    folder = mount / path.lstrip("/")
    return folder if folder.is_dir() else mount


def _read_v2(folder: Path) -> CgroupReading:
    usage = dict(line.split()[:2] for line in _text(folder / "cpu.stat").splitlines())
    cpu = usage.get("usage_usec")
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return CgroupReading(
        memory=_number(folder / "memory.current"),
        memory_limit=_number(folder / "memory.max"),
        cpu_seconds=int(cpu) / 1e6 if cpu else None,
        cpu_limit=int(quota) / int(period) if quota.isdigit() and period else None,
    )


def _read_v1(memory: Path, cpuacct: Path, cpu: Path) -> CgroupReading:
    limit = _number(memory / "memory.limit_in_bytes")
    used = _number(cpuacct / "cpuacct.usage")
    quota, period = _number(cpu / "cpu.cfs_quota_us"), _number(cpu / "cpu.cfs_period_us")
    return CgroupReading(
        memory=_number(memory / "memory.usage_in_bytes"),
        memory_limit=None if limit is None or limit > NO_LIMIT_V1 else limit,
        cpu_seconds=None if used is None else used / 1e9,
        cpu_limit=quota / period if quota and period else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """A plain number in a file; None for `max`, -1 and what cannot be read."""
    text = _text(path)
    return int(text) if text.isdigit() else None
