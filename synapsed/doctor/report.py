"""What the doctor looks at, what he says, and the four ways out of what is wrong.

Every check is a pure function from `Facts` to one `Check`, so each is tested by injecting its
fault. What is wrong has a source, and each source has a way of its own out of it:

    config      a key of ours is wrong          -> change that key
    network     others cannot be reached        -> mend the way to them
    resource    the machine has too little      -> give it more, or ask for less
    algorithm   the daemon itself misbehaves    -> report it, with what shows it
"""

from typing import Literal

import msgspec

from synapsed.config.options import Config, Loaded

Verdict = Literal["pass", "warn", "fail"]
Source = Literal["config", "network", "resource", "algorithm"]


class Check(msgspec.Struct, frozen=True):
    """One line: `source` says which kind of fault it is and `remedy` what to do; empty on pass."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""
    source: Source | Literal[""] = ""


class Tools(msgspec.Struct, frozen=True):
    """Programs for writing upgrades; none of them is needed to take part."""

    rustc: str = ""
    wasm_target: bool = False
    compile_error: str = ""
    ollama: str = ""
    ollama_models: list[str] = []
    workspace_error: str = ""


class Computing(msgspec.Struct, frozen=True):
    """What there is to train and to generate with."""

    missing: list[str] = []
    """Libraries that are not installed."""
    torch: str = ""
    """Its version."""
    server_error: str = ""
    """Why the compute server that is configured does not answer."""
    probe_error: str = ""
    """Why the private text that is configured cannot be read."""


class LedgerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a running daemon stands to the ledger and the council."""

    index: int
    behind: int
    """Ratified entries, that it knows of, still to be fetched."""
    trouble: list[str] = []
    """Why it follows or signs nothing, if it does not."""
    seat_lost: bool = False
    """Its seat lost what it had signed."""
    silence: list[str] = []
    """Why nothing is ratified, if nothing is."""
    seats: int = 0
    quorum: int = 0


class Live(msgspec.Struct, frozen=True):
    """What only a running daemon knows."""

    uptime_s: float
    listening: list[str]
    peers: int
    inbound_ever: int
    """Connections that others opened to us, since the start."""
    bootstrap: dict[str, str]
    """Address -> why it could not be reached; empty text where it was."""
    mdns_error: str = ""
    clock_offsets: list[float] = []
    """Seconds that peers' heartbeats seem to be ahead of our clock."""
    store_used: int = 0
    store_quota: int = 0
    """The one in force; 0: the config's."""
    scrub_age_s: float | None = None
    """None: not since the start."""
    scrub_bad: int = 0
    loop_stall_ms: float = 0.0
    failed_tasks: dict[str, int] = {}
    """`task.failed` and `handler.failed` events by name."""
    metrics_served: bool = True
    ledger: LedgerHealth | None = None
    """None where it was given no genesis when it started."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the checks look at."""

    now: float
    daemon_pid: int | None = None
    live: Live | None = None
    identity_error: str = ""
    identity_remedy: str = ""
    folder: str = ""
    folder_mode: int = 0o700
    config_problems: list[str] = []
    loaded: Loaded = Loaded(Config(), {})
    """The configuration; the defaults where it cannot be read."""
    store_error: str = ""
    disk_free: int = 0
    store_used: int = 0
    busy_ports: list[str] = []
    """Addresses that we should listen on and something else holds."""
    socket_error: str = ""
    open_file_limit: int = 1024
    memory_limit: int = 0
    """Bytes: the machine's, or the cgroup's where that is less."""
    systemd_unit: str = ""
    systemd_running: bool = False
    landlock_abi: int = 0
    seccomp: bool = False
    no_new_privs: bool = False
    jail_error: str = ""
    """Why nothing can be run in the jail here."""
    gpus: list[str] = []
    genesis: str = ""
    """Its hash; empty where there is none."""
    genesis_error: str = ""
    genesis_remedy: str = ""
    ledger_there: bool = False
    """Whether there is a ledger's database."""
    tools: Tools = Tools()
    computing: Computing = Computing()


def worst(checks: list[Check]) -> Verdict:
    """The verdict on the whole."""
    verdicts = {check.verdict for check in checks}
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"


# -- the four ways out ------------------------------------------------------------------------


def passed(name: str, message: str) -> Check:
    """Nothing to do."""
    return Check(name, "pass", message)


def by_config(
    name: str, message: str, facts: Facts, setting: tuple[str, str], verdict: Verdict = "fail"
) -> Check:
    """A key of ours is wrong: the remedy names (key, value) and the place that sets it now."""
    key, value = setting
    origin = facts.loaded.origins.get(key, "default")
    if not origin.startswith("env ") and ":" not in origin:
        origin = str(facts.loaded.path or "the config")
    where = origin.removeprefix("env ")
    return Check(name, verdict, message, f"set {key} to {value} in {where}", "config")


def by_network(name: str, message: str, remedy: str, verdict: Verdict = "warn") -> Check:
    """Others cannot be reached: the remedy mends the way to them."""
    return Check(name, verdict, message, remedy, "network")


def by_resource(name: str, message: str, remedy: str, verdict: Verdict = "fail") -> Check:
    """The machine has too little: the remedy gives it more, or asks for less."""
    return Check(name, verdict, message, remedy, "resource")


def by_algorithm(name: str, message: str, evidence: str, verdict: Verdict = "warn") -> Check:
    """The daemon itself misbehaves: nothing its owner sets helps, so report it."""
    return Check(
        name, verdict, message, f"report it to the developers with {evidence}", "algorithm"
    )
