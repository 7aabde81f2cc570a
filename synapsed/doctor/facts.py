"""Gathering what the doctor looks at on this machine, with a running daemon or without one.

Blocking, up to seconds: a daemon calls it from a thread. What only a running daemon knows comes
in as `Live`.
"""

import errno
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from protocols.errors import SynapseError
from synapsed import keys
from synapsed.authoring import tools as toolchains
from synapsed.config import load as configload
from synapsed.config.addresses import Address
from synapsed.config.options import Config, Loaded
from synapsed.doctor import compute
from synapsed.doctor.report import Facts, Live, Tools
from synapsed.jail import compiling
from synapsed.jail.layers import Layers, detect
from synapsed.ledger import genesis
from synapsed.paths import Paths
from synapsed.process import lock
from synapsed.process import metrics as process_metrics

TOOL_TIMEOUT_S = 20.0
"""For one call of a foreign program; a first compilation on a slow disk takes a few seconds."""

_UNIT_FOLDERS = (
    "~/.config/systemd/user",
    "/etc/systemd/user",
    "/etc/systemd/system",
    "/usr/lib/systemd/user",
    "/usr/lib/systemd/system",
)

_TEST_MODULE = """\
#![no_std]
#[panic_handler] fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[no_mangle] pub extern "C" fn add(a: i32, b: i32) -> i32 { a + b }
"""


def gather(paths: Paths, env: Mapping[str, str], live: Live | None = None) -> Facts:
    """The facts about `paths` under `env`."""
    loaded, problems = _config(paths, env)
    identity_error, identity_remedy = _identity(paths)
    pid = lock.holder(paths.lock)
    layers = detect()
    genesis_hash, genesis_error, genesis_remedy = _genesis(paths, loaded.config)
    return Facts(
        now=time.time(),
        daemon_pid=pid,
        live=live,
        identity_error=identity_error,
        identity_remedy=identity_remedy,
        folder=str(paths.data),
        folder_mode=stat.S_IMODE(paths.data.stat().st_mode) if paths.data.exists() else 0o700,
        config_problems=problems,
        loaded=loaded,
        store_error=_writable(paths.data),
        disk_free=_disk_free(paths.data),
        store_used=live.store_used if live else _folder_size(paths.store),
        busy_ports=[] if pid is not None or problems else _busy(loaded.config.net.listen),
        socket_error=_socket_error(paths, loaded.config),
        open_file_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        memory_limit=_memory_limit(),
        systemd_unit=_systemd_unit(),
        systemd_running=Path("/run/systemd/system").is_dir(),
        landlock_abi=layers.landlock,
        seccomp=layers.seccomp,
        no_new_privs=layers.no_new_privs,
        jail_error=_jail_error(layers),
        gpus=_gpus(),
        genesis=genesis_hash,
        genesis_error=genesis_error,
        genesis_remedy=genesis_remedy,
        ledger_there=paths.ledger.exists(),
        tools=_tools(paths.data),
        computing=compute.look(loaded.config),
    )


def _config(paths: Paths, env: Mapping[str, str]) -> tuple[Loaded, list[str]]:
    file = paths.config_file if paths.config_file.exists() else None
    try:
        return configload.load(file, env), []
    except configload.ConfigError as error:
        return Loaded(Config(), {}, file), [str(problem) for problem in error.problems]


def _identity(paths: Paths) -> tuple[str, str]:
    try:
        keys.load(paths.identity)
    except SynapseError as error:
        return error.message, error.remedy
    return "", ""


def _genesis(paths: Paths, config: Config) -> tuple[str, str, str]:
    """(hash, what is wrong, the remedy) of the genesis file; all empty where there is none."""
    if not paths.genesis.exists():
        return "", "", ""
    try:
        payload = genesis.load(paths.genesis)
    except SynapseError as error:
        return "", error.message, error.remedy or "get the file from a founder again"
    named = genesis.network_of(payload)
    if named != config.network:
        return (
            "",
            f"{paths.genesis} founds {named!r}, and the configuration says {config.network!r}",
            f'set network = "{named}" in the configuration, or use another home folder',
        )
    return genesis.genesis_hash(payload).hex(), "", ""


def _writable(folder: Path) -> str:
    """Why nothing can be written in `folder`, tried with a file; empty if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"cannot write in {folder}: {error.strerror}"
    return ""


def _disk_free(folder: Path) -> int:
    """Bytes that an ordinary user may still write; 0 where there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _folder_size(folder: Path) -> int:
    """Bytes on disk below `folder`: holes of partly held files do not count."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # a file that was being replaced
    return total


def _busy(addresses: tuple[Address, ...]) -> list[str]:
    """Those of our own addresses on which something else listens already."""
    busy = []
    for address in addresses:
        _, kind, host, _, port = address.split("/")[:5]
        if kind not in ("ip4", "ip6") or port == "0":
            continue
        family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, int(port)))
                sock.listen(1)  # with SO_REUSEADDR only listening tells
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    busy.append(str(address))
    return busy


def _socket_error(paths: Paths, config: Config) -> str:
    try:
        path = paths.socket_at(config.control.socket)
        status = path.lstat()
    except SynapseError as error:
        return str(error)
    except OSError:
        return ""  # no daemon has made one yet
    if not stat.S_ISSOCK(status.st_mode):
        return f"{path} is not a socket"
    if status.st_uid != os.geteuid():
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & 0o077:
        return f"{path} can be used by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _memory_limit() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cgroup = process_metrics.read_cgroup()
    return min(machine, cgroup.memory_limit or machine) if cgroup else machine


def _systemd_unit() -> str:
    for folder in _UNIT_FOLDERS:
        unit = Path(folder).expanduser() / "synapsed.service"
        if unit.exists():
            return str(unit)
    return ""


def _jail_error(layers: Layers) -> str:
    """Why a child of the jail could not do its smallest task here; empty where it could."""

    async def smallest() -> None:
        await compiling.translate(b"(module)", layers)

    try:
        trio.run(smallest)
    except SynapseError as error:
        return error.message
    return ""


def _gpus() -> list[str]:
    """Names from NVIDIA's driver, or the device files; without loading any library of theirs."""
    names = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    devices = sorted(Path("/dev").glob("nvidia[0-9]*")) + sorted(Path("/dev").glob("kfd"))
    return names or [str(device) for device in devices]


def _tools(data: Path) -> Tools:
    ollama = shutil.which("ollama") or ""
    try:
        # The one that `upgrade build` takes, which need not be the first on PATH.
        builder = toolchains.rustc()
    except SynapseError:
        builder = None
    return Tools(
        rustc=_first_line("rustc", "--version") if builder is None else builder.said,
        wasm_target=builder is not None,
        compile_error="" if builder is None else _compile_error(builder),
        ollama=ollama,
        ollama_models=_ollama_models() if ollama else [],
        workspace_error=_writable(data),
    )


def _output(*command: str, path: str | None = None) -> str | None:
    """What a program prints; None where it is missing, fails or takes too long. `path` is where it
    finds others."""
    env = None if path is None else os.environ | {"PATH": path}
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list of programs
            command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=True, env=env
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _first_line(*command: str) -> str:
    return (_output(*command) or "").partition("\n")[0]


def _compile_error(builder: toolchains.Tool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, module = Path(folder) / "add.rs", Path(folder) / "add.wasm"
        source.write_text(_TEST_MODULE)
        command = (*builder.command, "--target", toolchains.TARGET, "--crate-type", "cdylib", "-O")
        _output(*command, "-o", str(module), str(source), path=builder.path)
        if module.exists() and module.read_bytes().startswith(b"\0asm"):
            return ""
    return "rustc has the target, but does not build a module of three lines"


def _ollama_models() -> list[str]:
    lines = (_output("ollama", "list") or "").splitlines()[1:]  # below the column heads
    return [line.split()[0] for line in lines if line.strip()]
