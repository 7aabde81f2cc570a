"""`peer`: a round of ours beside a round of hivemind's averager, the same 64 MiB on four peers.

hivemind (1.1.12, from PyPI) has an environment of its own below bench-out/, made when it is not
there: its protobuf and its numpy exclude ours. Its round is DecentralizedAverager's by 8 bits, from
the moment when its group has formed: finding each other is not counted. Ours is the whole round of
four training daemons (averaging.py) but the training: every delta is on the disks of two replicas
at least before it counts, the round is signed by two of them, and every peer ends with the same
bits.

Both run in turns in one network namespace that has nothing but a loopback; bytes are those of its
counter, so everything is counted: headers of TCP and of libp2p, both directions, retransmissions.
`vs_8bit_step` holds what an inner step of ours costs, at H steps a round, against averaging by 8
bits at every step.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocols.plan import MILLE, Phase, Plan
from synapsed.compute.environment import MEMORY
from tests.bench.peers import scratch

REACH = {"vs_8bit_round": ">= 5", "vs_8bit_step": ">= 50", "seconds_ratio": "<= 1.0"}

PEERS = 4
ELEMENTS, TENSORS = 1 << 20, 16
ROUNDS = 7
"""Of which the first warms up, on both sides."""
STEPS = 15
ZONE = 200
PLAN = Plan(
    phases=(Phase(1 << 20, STEPS, "ternary", "ternary", MILLE, ZONE),),
    group_bytes=16 << 20,
    batch=1,
    context=2,
    rate=0,
    decay=0,
    outer_rate=MILLE,
    outer_momentum=0,
    learners=PEERS,
    patience_ms=10_000,
)
"""A late phase, as learn-wan has it; four groups, of which each peer leads one."""
PINS = Path(__file__).parent / "hivemind.txt"
SCRIPT = Path(__file__).parent / "averaging_hivemind.py"
INSTALL_S, INNER_S = 1800.0, 900.0

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float]:
    """Both in turns, in a network of their own. Medians of rounds."""
    python = environment(say)
    inner = [sys.executable, "-m", "tests.bench.peer", str(python)]
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    command = [*alone, 'ip link set lo up && exec "$@"', "sh", *inner]
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Ours compute in a thread, and not in the worker: so as in the worker. Theirs have it, too.
    single |= MEMORY
    done = subprocess.run(
        command, stdout=subprocess.PIPE, timeout=INNER_S, check=True, env=os.environ | single
    )
    found = json.loads(done.stdout.splitlines()[-1])
    say(json.dumps(found))
    theirs, ours = (
        {field: statistics.median(row[field] for row in found[side]) for field in ("bytes", "s")}
        for side in ("hivemind", "ours")
    )
    paired = zip(found["ours"], found["hivemind"], strict=True)
    return {
        "vs_8bit_round": theirs["bytes"] / ours["bytes"],
        "vs_8bit_step": theirs["bytes"] / ours["bytes"] * STEPS,
        "seconds_ratio": statistics.median(one["s"] / other["s"] for one, other in paired),
        "seconds": ours["s"],
        "hivemind_seconds": theirs["s"],
        "mib": ours["bytes"] / 2**20,
        "hivemind_mib": theirs["bytes"] / 2**20,
        "hivemind_error": found["error"],
        "error_after_rounds": found["our_error"],
        "rounds": float(ROUNDS - 1),
        "steps": float(STEPS),
        "different_versions": float(found["different"]),
    }


def environment(say: Say) -> Path:
    """hivemind's Python, with everything pinned; made once."""
    folder = scratch() / "hivemind"
    python, stamp = folder / "venv/bin/python", folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != PINS.read_text():
        say("hivemind's environment is made, once")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--requirement", PINS]
        subprocess.run(command, check=True, timeout=INSTALL_S)
        stamp.write_text(PINS.read_text())
    return python


class Hivemind:
    """The four peers of the other side."""

    def __init__(self, python: Path) -> None:
        self._peers: list[subprocess.Popen[str]] = []
        try:
            self._start(python)
        except BaseException:
            self.end()
            raise

    def _start(self, python: Path) -> None:
        first: list[str] = []
        for number in range(PEERS):
            arguments = ["8bit", str(number), str(ELEMENTS), str(TENSORS), *first]
            peer = subprocess.Popen(
                [python, "-I", "-W", "ignore", SCRIPT, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._peers.append(peer)
            first = first or [self._read(peer)["address"]]
            if number:
                self._read(peer)

    @staticmethod
    def _read(peer: subprocess.Popen[str]) -> dict[str, Any]:
        assert peer.stdout is not None
        found: dict[str, Any] = json.loads(peer.stdout.readline())
        return found

    def ask(self, order: str) -> list[dict[str, Any]]:
        """Every peer's answer."""
        for peer in self._peers:
            assert peer.stdin is not None
            peer.stdin.write(f"{order}\n")
            peer.stdin.flush()
        return [self._read(peer) for peer in self._peers]

    def end(self) -> None:
        """With the processes that each began: its DHT's, its averager's, and libp2p's daemon."""
        for peer in self._peers:
            os.killpg(peer.pid, signal.SIGKILL)
            peer.wait()


def loopback() -> int:
    """Bytes that went over it so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def inner(python: Path) -> dict[str, Any]:
    """What runs in the network of its own."""
    from tests.bench.averaging import Swarm, values

    with tempfile.TemporaryDirectory(prefix="peer-", dir=scratch()) as folder:
        swarm = Swarm(Path(folder), ELEMENTS, TENSORS, PLAN)
        swarm.ready()
        hivemind = Hivemind(python)
        rows: dict[str, list[dict[str, float]]] = {"ours": [], "hivemind": []}
        error = 0.0
        try:
            for _ in range(ROUNDS):
                stages = [said["stage"] for said in hivemind.ask("ready")]
                assert stages == ["AWAITING_TRIGGER"] * PEERS, stages
                before = loopback()
                said = hivemind.ask("go")
                seconds = max(one["seconds"] for one in said)
                rows["hivemind"].append({"bytes": loopback() - before, "s": seconds})
                assert all(one["peers"] == PEERS for one in said), said
                error = max(one["error"] for one in said)
                before = loopback()
                rows["ours"].append({"s": swarm.go(), "bytes": loopback() - before})
        finally:
            hivemind.end()
        heads, _, after = swarm.end()
        noise = [values(seed, ELEMENTS, TENSORS) for seed in range(PEERS)]
    import torch

    mean = torch.cat([torch.stack(list(parts)).mean(0) for parts in zip(*noise, strict=True)])
    wanted = -sum(mean.roll(-ELEMENTS * number) for number in range(ROUNDS))
    return {
        **{side: row[1:] for side, row in rows.items()},
        "error": error,
        "our_error": float((after - wanted).norm() / wanted.norm()),
        "different": len({tuple(each) for each in heads}) - 1,
    }


if __name__ == "__main__":
    print(json.dumps(inner(Path(sys.argv[1]))))
