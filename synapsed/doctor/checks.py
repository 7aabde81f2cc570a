"""The checks of every machine: each takes the facts and answers one line."""

import statistics

from synapsed.config.options import MIN_QUOTA
from synapsed.config.quantities import Size
from synapsed.doctor.report import (
    Check,
    Facts,
    by_algorithm,
    by_config,
    by_network,
    by_resource,
    passed,
)

RELEASED = 1_793_491_200.0
"""2026-11-01: a clock before it is wrong, whatever it says."""

MAX_CLOCK_OFFSET_S = 5.0
"""Announcements and heartbeats expire by the clock; half a heartbeat's life of 20 s is left."""

FILES_BESIDE_CONNECTIONS = 128
"""The store's mappings, the database, the control socket, workers."""

LONG_UNREACHED_S = 3600.0
"""A daemon that nobody dialled for an hour while it had peers is behind a router or a firewall."""

LONG_UNSCRUBBED_S = 35 * 86400.0
"""Disks rot by the year; a month's check and some days of being switched off."""

MIN_MEMORY = Size(512 << 20)
"""Three times what an idle daemon uses, so that a pull finds page cache."""

NEARLY_FULL = 0.9
MIN_FREE = 1 << 30
"""Below it the system itself suffers."""

ENOUGH_CLOCKS = 3
SETTLING_S = 60.0
"""After a start, peers are still being found."""

STALL_MS = 500.0
"""The loop's longest pause that the daemon promises; beyond it heartbeats are late."""


def identity(facts: Facts) -> Check:
    """The key is there, whole, and its owner's alone."""
    if facts.identity_error:
        return by_resource("identity", facts.identity_error, facts.identity_remedy)
    return passed("identity", "the key is in order and readable by its owner only")


def folder(facts: Facts) -> Check:
    """Who can write the data folder can replace the key in it."""
    mode = f"{facts.folder} has mode {facts.folder_mode:04o}"
    if facts.folder_mode & 0o022:
        return by_resource("folder", f"{mode}: others can write it", f"chmod 700 {facts.folder}")
    if facts.folder_mode & 0o055:
        return by_resource(
            "folder", f"{mode}: others can look into it", f"chmod 700 {facts.folder}", "warn"
        )
    return passed("folder", mode)


def config(facts: Facts) -> Check:
    """The configuration can be read."""
    if facts.config_problems:
        return Check(
            "config",
            "fail",
            "; ".join(facts.config_problems),
            "mend what is named there; `synapsed init --force` writes a fresh file",
            "config",
        )
    return passed("config", str(facts.loaded.path or "defaults only: there is no file"))


def daemon(facts: Facts) -> Check:
    """Something runs on this data, and answers."""
    if facts.live is not None:
        return passed("daemon", f"process {facts.daemon_pid or '?'} answers")
    if facts.daemon_pid is None:
        return by_resource(
            "daemon",
            "no daemon runs",
            "`systemctl --user start synapsed`, or `synapsed run`",
            "warn",
        )
    return by_algorithm(
        "daemon",
        f"process {facts.daemon_pid} runs but does not answer",
        "its log, and what `py-spy dump` or SIGABRT shows of it; then restart it",
        "fail",
    )


def control_socket(facts: Facts) -> Check:
    """The control socket is ours and only ours."""
    if facts.socket_error:
        return by_resource(
            "control-socket", facts.socket_error, "stop what made it, delete it, restart the daemon"
        )
    return passed("control-socket", "only its owner can speak to the daemon")


def store(facts: Facts) -> Check:
    """The store can be written."""
    if facts.store_error:
        return by_resource(
            "store", facts.store_error, "give the daemon's user this folder, on a writable disk"
        )
    return passed("store", "writable")


def disk(facts: Facts) -> Check:
    """The disk has what the quota promises."""
    possible = Size((facts.store_used + facts.disk_free) // (1 << 20) << 20)
    allowed = _quota(facts)
    if allowed > possible and possible * NEARLY_FULL < MIN_QUOTA:
        return by_resource(
            "disk",
            f"the disk has {_size(possible)}; {MIN_QUOTA.text()} are the least to hold anything",
            "free space there, or move the daemon's folder to another disk",
        )
    if allowed > possible:
        return by_config(
            "disk",
            f"the quota is {_size(allowed)}, the disk has {_size(possible)} for it",
            facts,
            ("store.quota", f'"{_size(int(possible * NEARLY_FULL))}" or less'),
            "warn" if facts.disk_free > MIN_FREE else "fail",
        )
    return passed(
        "disk",
        f"{_size(facts.disk_free)} free for a quota of {_size(allowed)}",
    )


def quota(facts: Facts) -> Check:
    """The store has room left within its quota."""
    used = f"{_size(facts.store_used)} of {_size(_quota(facts))} used"
    if facts.store_used >= NEARLY_FULL * _quota(facts):
        return by_resource(
            "quota", used, "`synapsectl model rm` what you can spare, or raise store.quota", "warn"
        )
    return passed("quota", used)


def scrub(facts: Facts) -> Check:
    """What is held was read and verified lately."""
    if facts.live is None or facts.store_used == 0:
        return passed("scrub", "nothing to look at" if facts.store_used == 0 else "not asked")
    if facts.live.scrub_bad:
        return by_resource(
            "scrub",
            f"{facts.live.scrub_bad} sub-tiles had rotted and were forgotten",
            "`synapsectl model pull` what `model ls` shows in part; look at the disk: "
            "`smartctl -H`, `journalctl -k`",
        )
    age = facts.live.scrub_age_s
    if age is None or age > LONG_UNSCRUBBED_S:
        when = "not verified since the start" if age is None else f"verified {_days(age)} ago"
        return by_resource("scrub", when, "`synapsectl scrub`", "warn")
    return passed("scrub", f"verified {_days(age)} ago")


def clock(facts: Facts) -> Check:
    """Everything that is signed expires by the clock."""
    remedy = "`timedatectl set-ntp true`, or set it by hand"
    if facts.now < RELEASED:
        return by_resource("clock", "the clock is before this version was released", remedy)
    offsets = facts.live.clock_offsets if facts.live else []
    if len(offsets) >= ENOUGH_CLOCKS:
        # The median: no single liar moves it, nor do two of five.
        offset = statistics.median(offsets)
        text = f"{offset:+.1f} s to the median of {len(offsets)} peers"
        if abs(offset) > MAX_CLOCK_OFFSET_S:
            return by_resource("clock", text, remedy)
        return passed("clock", text)
    return passed("clock", "plausible; too few peers to compare with")


def open_files(facts: Facts) -> Check:
    """One descriptor per connection, and some."""
    need = facts.loaded.config.net.max_connections + FILES_BESIDE_CONNECTIONS
    if facts.open_file_limit < need:
        return by_resource(
            "open-files",
            f"{facts.open_file_limit} files may be open, {need} may be needed",
            f"LimitNOFILE={need} in the unit (`ulimit -n {need}`), or lower net.max_connections",
        )
    return passed("open-files", f"{facts.open_file_limit} may be open, {need} may be needed")


def memory(facts: Facts) -> Check:
    """The machine, or the cgroup, leaves the daemon room."""
    if facts.memory_limit < MIN_MEMORY:
        return by_resource(
            "memory",
            f"{_size(facts.memory_limit)} are allowed, {MIN_MEMORY.text()} are comfortable",
            "raise MemoryMax= in the unit, or the container's limit",
            "warn",
        )
    return passed("memory", f"{_size(facts.memory_limit)} are allowed")


def listening(facts: Facts) -> Check:
    """Others can dial us."""
    if facts.busy_ports:
        return by_config(
            "listening",
            f"something else listens on {', '.join(facts.busy_ports)}",
            facts,
            ("net.listen", '["/ip4/0.0.0.0/tcp/0"] or a free port'),
        )
    if facts.live is not None and not facts.live.listening:
        return by_network(
            "listening", "the daemon listens nowhere", "see its log for why, and restart it", "fail"
        )
    where = facts.live.listening if facts.live else facts.loaded.config.net.listen
    return passed("listening", ", ".join(where) or "nowhere, as configured")


def reachable(facts: Facts) -> Check:
    """Somebody did dial us."""
    live = facts.live
    if live is None or not live.inbound_ever:
        if live is not None and live.peers and live.uptime_s > LONG_UNREACHED_S:
            return by_network(
                "reachable",
                f"nobody has dialled us in {live.uptime_s / 3600:.0f} h, though {live.peers} peers "
                "are connected",
                f"forward the port of {', '.join(live.listening) or 'net.listen'} in the router, "
                "and set net.announce if the outside address differs",
            )
        return passed("reachable", "too early to tell")
    times = "once" if live.inbound_ever == 1 else f"{live.inbound_ever} times"
    return passed("reachable", f"others dialled us {times}")


def peers(facts: Facts) -> Check:
    """The target of live peers is met."""
    live = facts.live
    if live is None:
        return passed("peers", "not asked: no daemon answers")
    text = f"{live.peers} of {facts.loaded.config.net.target_peers} peers"
    if live.peers >= facts.loaded.config.net.target_peers or live.uptime_s < SETTLING_S:
        return passed("peers", text)
    return by_network(
        "peers",
        text,
        "`synapsectl connect ADDR` to any peer you know, and add it to net.bootstrap",
        "warn" if live.peers else "fail",
    )


def bootstrap(facts: Facts) -> Check:
    """The first peers to dial answer."""
    if not facts.loaded.config.net.bootstrap:
        if not facts.loaded.config.net.mdns:
            return by_config(
                "bootstrap",
                "there is no bootstrap peer and mDNS is off: a new daemon finds nobody",
                facts,
                ("net.bootstrap", '["/ip4/ADDRESS/tcp/4817/p2p/PEER-ID"]'),
                "warn",
            )
        return passed("bootstrap", "none: mDNS and remembered peers must do")
    dead = {a: why for a, why in (facts.live.bootstrap if facts.live else {}).items() if why}
    if dead:
        return by_network(
            "bootstrap",
            "; ".join(f"{address}: {why}" for address, why in dead.items()),
            "they are dialled again by themselves; ask for newer addresses if this stays",
            "fail"
            if len(dead) == len(facts.loaded.config.net.bootstrap) and not _peers(facts)
            else "warn",
        )
    return passed(
        "bootstrap",
        f"{len(facts.loaded.config.net.bootstrap)} configured"
        + ("" if facts.live else ", not asked"),
    )


def mdns(facts: Facts) -> Check:
    """The local network can be searched."""
    if facts.live is not None and facts.live.mdns_error:
        return by_network(
            "mdns",
            facts.live.mdns_error,
            "let UDP port 5353 through the firewall, or set net.mdns to false",
        )
    return passed("mdns", "on" if facts.loaded.config.net.mdns else "off, as configured")


def systemd(facts: Facts) -> Check:
    """It comes back after a reboot."""
    if not facts.systemd_unit and facts.systemd_running:
        return by_resource(
            "systemd",
            "no unit: the daemon does not start by itself",
            "the first lines of configs/synapsed.service install and enable it",
            "warn",
        )
    return passed("systemd", facts.systemd_unit or "this machine runs without systemd")


def jail(facts: Facts) -> Check:
    """What the kernel has for locking foreign modules in, and whether anything runs in there."""
    has = {
        "no_new_privs": facts.no_new_privs,
        "landlock": facts.landlock_abi > 0,
        "seccomp": facts.seccomp,
    }
    missing = ", ".join(name for name, there in has.items() if not there)
    if missing and not facts.loaded.config.upgrades.allow_weaker_jail:
        return by_resource(
            "jail",
            f"the kernel lacks {missing}: no upgrade is run here, the native code is used",
            "a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK and CONFIG_SECCOMP_FILTER, "
            "and landlock in its lsm= list; or accept it: upgrades.allow_weaker_jail = true",
            "warn",
        )
    if facts.jail_error:
        return by_resource(
            "jail",
            f"nothing can be run in the jail: {facts.jail_error}",
            "install the daemon with all that it depends on, and give it room for processes",
            "warn",
        )
    if missing:
        return passed("jail", f"without {missing}, which upgrades.allow_weaker_jail accepts")
    return passed("jail", f"Landlock (ABI {facts.landlock_abi}), seccomp, no_new_privs")


def gpu(facts: Facts) -> Check:
    """What could compute."""
    if not facts.gpus:
        return by_resource(
            "gpu",
            "no GPU: this machine holds and serves models, but computes on its CPU",
            "nothing, if that is meant; else install the GPU's driver",
            "warn",
        )
    return passed("gpu", ", ".join(facts.gpus))


def tasks(facts: Facts) -> Check:
    """Nothing in the daemon keeps failing."""
    failed = facts.live.failed_tasks if facts.live else {}
    if failed:
        listed = ", ".join(f"{name} {times} times" for name, times in sorted(failed.items()))
        return by_algorithm("tasks", f"failed and restarted: {listed}", "the tracebacks in the log")
    return passed("tasks", "none failed" if facts.live else "not asked: no daemon answers")


def loop(facts: Facts) -> Check:
    """The event loop answers in time."""
    stall = facts.live.loop_stall_ms if facts.live else 0.0
    if stall > STALL_MS:
        return by_algorithm(
            "loop",
            f"the event loop stood still for {stall:.0f} ms",
            "`synapsectl events` of that time; if other programs starve it, stop them first",
        )
    return passed(
        "loop", f"at most {stall:.0f} ms" if facts.live else "not asked: no daemon answers"
    )


CHECKS = (
    identity,
    folder,
    config,
    daemon,
    control_socket,
    store,
    disk,
    quota,
    scrub,
    clock,
    open_files,
    memory,
    listening,
    reachable,
    peers,
    bootstrap,
    mdns,
    systemd,
    jail,
    gpu,
    tasks,
    loop,
)


def _peers(facts: Facts) -> int:
    return facts.live.peers if facts.live else 0


def _quota(facts: Facts) -> int:
    """The quota in force: `synapsectl limits` may have changed a running daemon's."""
    in_force = facts.live.store_quota if facts.live else 0
    return in_force or facts.loaded.config.store.quota


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 86400 else "less than a day"


def _size(value: int) -> str:
    """For people: three digits and a unit."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value} B"
