"""The doctor: each check finds its own fault and no other, and each source has its own way out."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from synapsed import keys
from synapsed.config.load import load
from synapsed.config.options import Config, Loaded, NetConfig, StoreConfig, UpgradesConfig
from synapsed.doctor import examine
from synapsed.doctor.checks import CHECKS, RELEASED
from synapsed.doctor.compute import COMPUTE_CHECKS
from synapsed.doctor.facts import gather
from synapsed.doctor.ledger import LEDGER_CHECKS
from synapsed.doctor.report import Check, Computing, Facts, LedgerHealth, Live, Tools, worst
from synapsed.doctor.upgrades import UPGRADE_CHECKS
from synapsed.ledger import genesis as founding
from synapsed.paths import Paths, find
from synapsed.process.lock import Lock
from tests.ledger_book import genesis

GIB = 1 << 30
ADDRESS = "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
BOOTSTRAPPED = load(None, {"SYNAPSED_NET__BOOTSTRAP": ADDRESS})

LIVE = Live(
    uptime_s=7200,
    listening=["/ip4/192.168.1.9/tcp/4817"],
    peers=8,
    inbound_ever=3,
    bootstrap={ADDRESS: ""},
    clock_offsets=[0.1, -0.2, 0.3, 0.0, 90.0],
    store_used=5 * GIB,
    scrub_age_s=86400.0,
)
HEALTHY = Facts(
    now=RELEASED + 1e6,
    daemon_pid=7,
    live=LIVE,
    folder="/home/a/.local/share/synapsed",
    loaded=BOOTSTRAPPED,
    disk_free=100 * GIB,
    store_used=5 * GIB,
    memory_limit=16 * GIB,
    systemd_unit="/etc/systemd/user/synapsed.service",
    systemd_running=True,
    landlock_abi=4,
    seccomp=True,
    no_new_privs=True,
    gpus=["NVIDIA GeForce RTX 4090"],
)


def change(**changes: Any) -> Facts:
    """HEALTHY with other facts, or (where Live has the name) other live facts."""
    live = {key: value for key, value in changes.items() if key in Live.__struct_fields__}
    mine = {key: value for key, value in changes.items() if key not in live or key == "store_used"}
    facts = msgspec.structs.replace(HEALTHY, **mine)
    return (
        msgspec.structs.replace(facts, live=msgspec.structs.replace(LIVE, **live))
        if live
        else facts
    )


def wrong(facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in examine(facts) if check.verdict != "pass"}


def test_a_weaker_jail_is_in_order_where_the_owner_accepts_it() -> None:
    accepted = Loaded(Config(upgrades=UpgradesConfig(allow_weaker_jail=True)), {})
    facts = change(landlock_abi=0, loaded=accepted)
    check = next(each for each in examine(facts) if each.name == "jail")
    assert check.verdict == "pass"
    assert "without landlock" in check.message
    broken = msgspec.structs.replace(facts, jail_error="it cannot be started")
    assert wrong(broken)["jail"].source == "resource"


def loaded(net: NetConfig | None = None, quota: int = 50 * GIB) -> Loaded:
    config = Config(net=net or NetConfig(), store=StoreConfig(quota=quota))  # type: ignore[arg-type]
    return Loaded(config, {}, Path("/etc/synapsed.toml"))


def test_a_healthy_machine_passes_every_check() -> None:
    checks = examine(HEALTHY)
    assert wrong(HEALTHY) == {}
    assert worst(checks) == "pass"
    assert (
        len({check.name for check in checks})
        == len(CHECKS) + len(COMPUTE_CHECKS) + len(LEDGER_CHECKS) + len(UPGRADE_CHECKS)
        >= 30
    )
    for check in checks:
        assert check.message
        assert check.remedy == check.source == ""


def ledger_with(**changes: Any) -> dict[str, Any]:
    """Facts of a daemon with a genesis, and something to say about its ledger."""
    health = LedgerHealth(**{"index": 9, "behind": 0, "seats": 4, "quorum": 3} | changes)
    return {"genesis": "d7f07ef0" * 8, "ledger": health}


BAD_GENESIS = {"genesis_error": "changed", "genesis_remedy": "ask a founder"}
ENGINE = Tools(ollama="/usr/bin/ollama", rustc="rustc 1.95", wasm_target=True)
BROKEN = Tools(rustc="rustc 1.95", wasm_target=True, compile_error="no linker")

WITHOUT = Computing(missing=["torch"])
SILENT = Computing(server_error="Connection refused")
UNREAD = Computing(probe_error="Permission denied")


def with_card(device: str) -> Loaded:
    """A configuration that asks for it."""
    asked = {"SYNAPSED_NET__BOOTSTRAP": ADDRESS, "SYNAPSED_COMPUTE__DEVICE": device}
    return load(None, asked)


FAULTS: list[tuple[str, str, str, str, dict[str, Any]]] = [
    # check, verdict, source, a word of the remedy, the fault
    ("identity", "fail", "resource", "now", {"identity_error": "x", "identity_remedy": "now"}),
    ("folder", "fail", "resource", "chmod 700", {"folder_mode": 0o770}),
    ("folder", "warn", "resource", "chmod 700", {"folder_mode": 0o755}),
    ("config", "fail", "config", "init --force", {"config_problems": ["a.toml:3: net.x"]}),
    ("daemon", "warn", "resource", "systemctl", {"live": None, "daemon_pid": None}),
    ("daemon", "fail", "algorithm", "report", {"live": None}),
    ("control-socket", "fail", "resource", "delete it", {"socket_error": "not ours"}),
    ("store", "fail", "resource", "writable", {"store_error": "Read-only file system"}),
    ("disk", "warn", "config", "store.quota", {"disk_free": 20 * GIB}),
    ("disk", "fail", "config", "store.quota", {"disk_free": GIB // 2}),
    ("disk", "fail", "resource", "free space", {"disk_free": 9 << 20, "store_used": 1 << 20}),
    ("quota", "warn", "resource", "model rm", {"store_used": 46 * GIB}),
    ("quota", "warn", "resource", "model rm", {"store_quota": 5 * GIB}),
    ("scrub", "warn", "resource", "scrub", {"scrub_age_s": None}),
    ("scrub", "warn", "resource", "scrub", {"scrub_age_s": 40 * 86400.0}),
    ("scrub", "fail", "resource", "smartctl", {"scrub_bad": 2}),
    ("clock", "fail", "resource", "set-ntp", {"now": RELEASED - 1}),
    ("clock", "fail", "resource", "set-ntp", {"clock_offsets": [30.0, 31.0, 29.0]}),
    ("open-files", "fail", "resource", "LimitNOFILE", {"open_file_limit": 100}),
    ("memory", "warn", "resource", "MemoryMax", {"memory_limit": 100 << 20}),
    ("listening", "fail", "config", "net.listen", {"busy_ports": ["/ip4/0.0.0.0/tcp/4817"]}),
    ("listening", "fail", "network", "log", {"listening": []}),
    ("reachable", "warn", "network", "forward", {"inbound_ever": 0}),
    ("peers", "warn", "network", "synapsectl connect", {"peers": 2}),
    ("peers", "fail", "network", "synapsectl connect", {"peers": 0}),
    ("bootstrap", "warn", "network", "dialled again", {"bootstrap": {ADDRESS: "refused"}}),
    ("bootstrap", "warn", "config", "net.bootstrap", {"loaded": loaded(NetConfig(mdns=False))}),
    ("mdns", "warn", "network", "5353", {"mdns_error": "no permission"}),
    ("ledger", "fail", "resource", "founder", BAD_GENESIS),
    ("ledger", "warn", "resource", "init --genesis", {"ledger_there": True}),
    ("ledger", "warn", "resource", "restart", {"genesis": "d7f0"}),
    ("ledger", "fail", "network", "genesis show", ledger_with(trouble=["another ledger"])),
    ("ledger", "warn", "network", "connect", ledger_with(behind=50_000)),
    ("council", "fail", "network", "synapsectl council", ledger_with(silence=["since noon"])),
    ("council", "warn", "resource", "next epoch", ledger_with(seat_lost=True)),
    ("systemd", "warn", "resource", "enable", {"systemd_unit": ""}),
    ("jail", "warn", "resource", "allow_weaker_jail", {"landlock_abi": 0}),
    ("jail", "warn", "resource", "depends on", {"jail_error": "it cannot be started"}),
    ("gpu", "warn", "resource", "driver", {"gpus": []}),
    ("tasks", "warn", "algorithm", "report", {"failed_tasks": {"repair": 4}}),
    ("loop", "warn", "algorithm", "report", {"loop_stall_ms": 900.0}),
    ("monitoring", "warn", "algorithm", "report", {"metrics_served": False}),
    ("workspace", "fail", "resource", "folder", {"tools": Tools(workspace_error="full")}),
    ("upgrade-engine", "warn", "resource", "pull", {"tools": ENGINE}),
    ("rust", "warn", "resource", "rustup", {"tools": Tools(ollama="/o", ollama_models=["m"])}),
    ("wasm-target", "warn", "resource", "rustup target add", {"tools": Tools(rustc="rustc 1.95")}),
    ("wasm-compile", "warn", "resource", "reinstall", {"tools": BROKEN}),
    ("compute", "warn", "resource", "synapsed[compute]", {"computing": WITHOUT}),
    ("compute", "warn", "resource", "pytorch.org", {"computing": Computing(torch="2.13.0+cpu")}),
    ("compute-device", "fail", "config", "compute.device", {"loaded": with_card("cuda:3")}),
    ("compute-memory", "warn", "resource", "MemoryMax", {"memory_limit": GIB}),
    ("compute-server", "fail", "config", "compute.server", {"computing": SILENT}),
    ("training-probe", "fail", "config", "training.probe", {"computing": UNREAD}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "verdict", "source", "word", "fault"), FAULTS)
def test_one_fault_is_found_by_its_check_alone(
    name: str, verdict: str, source: str, word: str, fault: dict[str, Any]
) -> None:
    found = wrong(change(**fault))
    # Without peers, the bootstrap check may fail as well; nothing else speaks up.
    assert set(found) == {name}
    assert (found[name].verdict, found[name].source) == (verdict, source)
    assert word in found[name].remedy


def test_every_check_is_tried_by_a_fault() -> None:
    assert {check.name for check in examine(HEALTHY)} - {fault[0] for fault in FAULTS} == set()


def test_each_source_leads_its_own_way(tmp_path: Path) -> None:
    ways = {
        source: check.remedy
        for _, _, source, _, fault in FAULTS
        for check in wrong(change(**fault)).values()
    }
    assert set(ways) == {"config", "network", "resource", "algorithm"}
    # config: the very place that sets the key now
    path = tmp_path / "config.toml"
    path.write_text('[net]\nmdns = true\n\n[store]\nquota = "1 TiB"\n')
    in_file = wrong(change(loaded=load(path, {}), bootstrap={}))["disk"].remedy
    assert in_file.startswith("set store.quota to ")
    assert in_file.endswith(f"in {path}:5")
    by_variable = load(path, {"SYNAPSED_STORE__QUOTA": "2 TiB"})
    assert wrong(change(loaded=by_variable))["disk"].remedy.endswith("in SYNAPSED_STORE__QUOTA")
    assert wrong(change(loaded=loaded(quota=1 << 50)))["disk"].remedy.endswith("/etc/synapsed.toml")
    # and following it clears the issue
    assert "disk" not in wrong(change(loaded=loaded(quota=80 * GIB)))
    # algorithm: never asks the owner to set anything
    for name in ("tasks", "loop", "monitoring"):
        fault = next(fault for fault in FAULTS if fault[0] == name)[4]
        assert wrong(change(**fault))[name].remedy.startswith("report it to the developers with ")


def test_a_ledger_that_is_followed_passes() -> None:
    checks = {check.name: check for check in examine(change(**ledger_with()))}
    assert checks["ledger"].message == "genesis d7f07ef0d7f07ef0, at index 9"
    assert checks["council"].message == "it ratifies; 3 of 4 seats must sign"
    without = msgspec.structs.replace(change(**ledger_with()), live=None, daemon_pid=None)
    assert set(wrong(without)) == {"daemon"}


def test_a_machine_without_a_card_that_never_computes_is_in_order() -> None:
    facts = change(gpus=[], computing=Computing(missing=["torch"]))
    assert set(wrong(facts)) == {"gpu"}
    said = next(check for check in examine(facts) if check.name == "compute")
    assert "synapsed[compute]" in said.message


def test_more_memory_than_there_is_is_not_promised() -> None:
    asked = {"SYNAPSED_NET__BOOTSTRAP": ADDRESS, "SYNAPSED_COMPUTE__MEMORY": "64 GiB"}
    facts = change(gpus=[], loaded=load(None, asked))
    assert wrong(facts)["compute-memory"].source == "config"


def test_no_liar_moves_the_clock_check() -> None:
    assert wrong(change(clock_offsets=[0.0, 0.1, -0.1, 1e9, -1e9])) == {}
    assert wrong(change(clock_offsets=[1e9])) == {}  # one peer is no evidence


def test_without_a_daemon_nothing_live_is_claimed() -> None:
    facts = msgspec.structs.replace(HEALTHY, live=None, daemon_pid=None)
    assert set(wrong(facts)) == {"daemon"}
    assert worst(examine(facts)) == "warn"


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    paths = find(tmp_path / "home", None, {})
    paths.create()
    keys.create(paths.identity)
    return paths


def test_facts_of_this_machine(home: Paths) -> None:
    facts = gather(home, {"SYNAPSED_NET__LISTEN": "/ip4/127.0.0.1/tcp/0"})
    assert facts.identity_error == facts.store_error == facts.socket_error == ""
    assert facts.config_problems == facts.busy_ports == []
    assert facts.folder_mode == 0o700
    assert facts.disk_free > 0
    assert facts.memory_limit > 1 << 20
    assert facts.now > RELEASED
    sound = {"identity", "folder", "config", "control-socket", "store", "clock", "listening"}
    assert sound & set(wrong(facts)) == set()


def test_facts_see_real_faults(home: Paths) -> None:
    home.identity.chmod(0o644)
    home.config_file.write_text("[net]\nlisen = 1\n")
    home.socket.write_text("not a socket")
    home.data.chmod(0o777)
    found = wrong(gather(home, {}))
    for name, text in (
        ("identity", "mode 0644"),
        ("config", "config.toml:2: net.lisen"),
        ("control-socket", "is not a socket"),
        ("folder", "0777"),
    ):
        assert found[name].verdict == "fail"
        assert text in found[name].message


def test_facts_see_a_genesis_that_was_changed_or_is_anothers(home: Paths) -> None:
    payload = genesis()  # of the network `test`
    home.genesis.write_text(founding.dump(payload))
    other = wrong(gather(home, {}))["ledger"]
    assert "'test'" in other.message
    assert 'network = "test"' in other.remedy
    facts = gather(home, {"SYNAPSED_NETWORK": "test"})
    assert facts.genesis == founding.genesis_hash(payload).hex()
    assert "ledger" not in wrong(facts)
    home.genesis.write_text(founding.dump(payload).replace("1000", "1001", 1))
    changed = wrong(gather(home, {"SYNAPSED_NETWORK": "test"}))["ledger"]
    assert (changed.verdict, "founder" in changed.remedy) == ("fail", True)
    home.genesis.unlink()
    home.ledger.touch()
    assert "init --genesis" in wrong(gather(home, {}))["ledger"].remedy


def test_facts_of_nothing_at_all(tmp_path: Path) -> None:
    found = wrong(gather(find(tmp_path / "none", None, {}), {}))
    assert found["identity"].remedy == "`synapsed init` makes one"
    assert "cannot write in" in found["store"].message


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_seen_unless_it_is_ours(home: Paths, busy: int) -> None:
    env = {"SYNAPSED_NET__LISTEN": f"/ip4/127.0.0.1/tcp/{busy},/ip6/::1/tcp/0,/dns/localhost/tcp/1"}
    assert gather(home, env).busy_ports == [f"/ip4/127.0.0.1/tcp/{busy}"]
    with Lock(home.lock):
        facts = gather(home, env)
        assert facts.daemon_pid == os.getpid()
        assert facts.busy_ports == []


def test_the_store_is_measured_as_it_lies_on_disk(home: Paths) -> None:
    home.store.mkdir()
    with (home.store / "sparse").open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(1 << 40)
    assert 8192 <= gather(home, {}).store_used < 1 << 20
