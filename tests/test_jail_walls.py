"""The walls of the jail, tried natively from the inside, and what is said where one is missing."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio

from protocols.slots.wasm_module import ModuleLimits
from synapsed.jail import layers, seccomp, spawn
from synapsed.jail.errors import WeakJailError
from synapsed.jail.layers import Layers
from tests import jail_probe
from tests.jail_kit import ADDER, TOY, jailed, right, toy

HERE = layers.detect()
PROBE = Path(jail_probe.__file__)


async def probe(folder: Path, put_on: str) -> dict[str, str]:
    """What a process behind these walls got, by attempt."""
    canary = folder / "canary"
    canary.write_text("unharmed")
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as abstract:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        abstract.bind(f"\0jail-canary-{port}")
        abstract.listen()
        ours, theirs = spawn.pair()
        null = os.open(os.devnull, os.O_RDWR)
        with ours, theirs:
            command = [str(PROBE), put_on, str(canary), str(port)]
            child = spawn.Child(command, (theirs.fileno(), null, null))
            os.close(null)
            await child.ended()
            said = ours.recv(1 << 16) if child.status == 0 else b"{}"
            story = child.story()
            child.close()
    assert child.status == 0, story
    found: dict[str, str] = json.loads(said)
    return found


def unharmed(folder: Path) -> bool:
    """Whether nothing was changed there."""
    names = [each.name for each in folder.iterdir()]
    return names == ["canary"] and (folder / "canary").read_text() == "unharmed"


@pytest.mark.skipif(bool(HERE.missing), reason=f"this kernel lacks {HERE.missing}")
async def test_behind_all_walls_nothing_can_be_reached(tmp_path: Path) -> None:
    found = await probe(tmp_path, HERE.text())
    assert len(found) > 60
    assert not [name for name, outcome in found.items() if outcome == jail_probe.GOT]
    assert unharmed(tmp_path)


@pytest.mark.skipif(not HERE.seccomp, reason="this kernel has no seccomp")
async def test_seccomp_alone_holds_as_much(tmp_path: Path) -> None:
    found = await probe(tmp_path, "rlimits,no_new_privs,seccomp")
    assert len(found) > 60
    assert not [name for name, outcome in found.items() if outcome == jail_probe.GOT]
    assert unharmed(tmp_path)


@pytest.mark.skipif(HERE.landlock < 6, reason="this kernel's Landlock knows no scopes")
async def test_landlock_alone_keeps_files_ports_and_signals_away(tmp_path: Path) -> None:
    found = await probe(tmp_path, "rlimits,no_new_privs,landlock")
    assert set(found) == set(jail_probe.LANDLOCKED)
    assert not [name for name, outcome in found.items() if outcome == jail_probe.GOT]
    assert unharmed(tmp_path)


async def test_without_walls_the_probe_gets_through(tmp_path: Path) -> None:
    """Else it would prove nothing."""
    found = await probe(tmp_path, "")
    got = {name for name, outcome in found.items() if outcome == jail_probe.GOT}
    assert got >= set(jail_probe.LANDLOCKED) - {"open by openat2", "open by the old open", "unlink"}
    assert not unharmed(tmp_path)


@pytest.mark.parametrize("name", ["no_new_privs", "landlock", "seccomp"])
async def test_where_a_layer_is_missing_it_is_named_and_the_owner_asked(
    tmp_path: Path, name: str
) -> None:
    weaker = msgspec.structs.replace(HERE, **{name: 0 if name == "landlock" else False})
    with jailed(tmp_path, layers=weaker) as (jail, _):
        with pytest.raises(WeakJailError, match=name) as caught:
            await jail.compile(ADDER, ModuleLimits())
        assert name in caught.value.missing
        assert "--allow-weaker-jail" in caught.value.remedy


async def test_the_owner_may_accept_a_weaker_jail(tmp_path: Path) -> None:
    """Without Landlock and without seccomp, as on a kernel that has neither."""
    weaker = Layers(rlimits=True, no_new_privs=HERE.no_new_privs, landlock=0, seccomp=False)
    with jailed(tmp_path, layers=weaker, allow_weaker=True) as (jail, _):
        module = await jail.compile(ADDER, ModuleLimits())
        batch = toy(5, jail)
        await jail.call(module, batch, TOY.limits)
        assert right(batch)


def test_looking_at_the_layers_changes_nothing() -> None:
    assert layers.detect() == layers.detect()
    assert Path("/proc/self/status").read_text().count("Seccomp:\t0")


@pytest.mark.parametrize("machine", seccomp.CALLS)
def test_the_filter_lets_through_what_is_listed_and_nothing_else(machine: str) -> None:
    """Every number, by reading the filter as the kernel does."""
    architecture, _, calls = seccomp.CALLS[machine]
    allowed = {
        number
        for number in range(1024)
        if _verdict(seccomp.program(machine), architecture, number) == ALLOW
    }
    assert allowed == set(calls.values())
    assert _verdict(seccomp.program(machine), architecture, 2**30 + 1) == KILL
    assert _verdict(seccomp.program(machine), 0x40000003, 1) == KILL


def test_only_memory_that_counts_can_be_had() -> None:
    """Shared memory, and stacks that grow, are in no limit that a process has."""
    architecture, _, calls = seccomp.CALLS["x86_64"]
    program = seccomp.program("x86_64")
    private, shared, grows, anonymous = 0x02, 0x01, 0x100, 0x20
    verdicts = {
        flags: _verdict(program, architecture, calls["mmap"], flags | anonymous)
        for flags in (private, shared, shared | private, private | grows, 0)
    }
    assert [flags for flags, verdict in verdicts.items() if verdict == ALLOW] == [private]


ALLOW, KILL = 0x7FFF0000, 0x80000000


def _verdict(program: bytes, architecture: int, number: int, fourth: int = 0x22) -> int:
    """A reading of the few operations that the filter has."""
    rows = list(seccomp.ROW.iter_unpack(program))
    at, word = 0, 0
    while True:
        code, yes, no, value = rows[at]
        at += 1
        if code == 0x20:
            word = {0: number, 4: architecture, 40: fourth}[value]
        elif code == 0x54:
            word &= value
        elif code in (0x15, 0x35):
            at += yes if (word == value if code == 0x15 else word >= value) else no
        else:
            assert code == 0x06
            return int(value)


FEW_ADDRESSES = """
import resource, sys, trio
from pathlib import Path
from protocols.slots.wasm_module import ModuleLimits
from synapsed.jail.errors import JailDiedError
from tests import jail_kit
async def main():
    with jail_kit.jailed(Path(sys.argv[1])) as (jail, told):
        module = await jail.compile(jail_kit.ADDER, ModuleLimits())
        try:
            await jail.call(module, jail_kit.toy(1, jail), jail_kit.TOY.limits)
        except JailDiedError as error:
            print(error.module, error)
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
trio.run(main)
"""


def test_where_the_owner_allows_too_few_addresses_no_module_is_blamed(tmp_path: Path) -> None:
    said = subprocess.check_output([sys.executable, "-c", FEW_ADDRESSES, str(tmp_path)], text=True)
    assert said.startswith("None")
    assert "ulimit -v" in said


NODE = """
import sys, trio
from pathlib import Path
from protocols.slots.wasm_module import ModuleLimits
from tests import jail_kit, wasm_kit
async def main():
    with jail_kit.jailed(Path(sys.argv[1])) as (jail, told):
        spinning = wasm_kit.text(run="(loop $l (br $l)) i32.const 0")
        module = await jail.compile(spinning, ModuleLimits())
        limits = jail_kit.Limits(1 << 60, 0, 64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: jail.call(module, jail_kit.toy(1, jail), limits, seconds=60))
            while not told:
                await trio.sleep(0.01)
            await trio.sleep(0.2)
            print(told[0][1]["pid"], flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


async def test_a_worker_dies_with_a_killed_node_even_while_a_module_spins(tmp_path: Path) -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    with node, node.stdout:
        pid = int(await trio.to_thread.run_sync(node.stdout.readline))
        assert _runs(pid)
        node.kill()
        until = time.monotonic() + 60
        while _runs(pid) and time.monotonic() < until:
            await trio.sleep(0.02)
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
