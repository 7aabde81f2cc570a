"""`slot-call`: what a call through the jail costs, beside the Python reference and beside wasmtime
within the process.

The module is the Rust example of the slot peer_scoring, built by `synapsectl upgrade build`; the
batch has 10,000 rows that lie in shared memory already. In-process means the same engine, the same
instance, the same one copy in and answer out: only the other process is missing.
"""

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from protocols.draw import Draw
from protocols.slots.abi import WASM_PAGE, WORD, Batch, Slot
from protocols.slots.peer_scoring import SLOT
from protocols.slots.wasm_module import ModuleLimits
from synapsed.jail.jail import Jail

REACH = {"vs_python": ">= 6", "vs_inline": "<= 2.2"}

MODULE = Path("tests/vectors/peer_scoring.wasm")
ROWS = 10_000
ROUNDS = 500
"""Of which the first tenth warms up."""
REFERENCE_EVERY = 10
"""The reference takes long, and varies little."""

WIDE = msgspec.structs.replace(
    SLOT, tables=(msgspec.structs.replace(SLOT.tables[0], most_rows=ROWS),)
)
"""The slot with room for as many rows as are asked for here."""

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float]:
    """Lower quartiles of rounds in which each way has its turn: what other programs take of the
    machine is nobody's cost here."""
    with tempfile.TemporaryDirectory(prefix="slot-call-") as folder:
        return trio.run(_measure, Path(folder), say)


async def _measure(folder: Path, say: Say) -> dict[str, float]:
    jail = Jail(folder, lambda *_, **__: None, allow_weaker=False)
    try:
        wasm = MODULE.read_bytes()
        module = await jail.compile(wasm, ModuleLimits())
        batch, smallest = batch_of(WIDE, ROWS, jail), batch_of(WIDE, 1, jail)
        inline = Inline(wasm, batch)
        times: dict[str, list[float]] = {"python": [], "worker": [], "inline": [], "smallest": []}
        for at in range(ROUNDS):
            for name, one in (("worker", batch), ("smallest", smallest)):
                began = time.perf_counter()
                await jail.call(module, one, SLOT.limits)
                times[name].append(time.perf_counter() - began)
            answer = batch.answer("keep"), batch.answer("gossip")
            began = time.perf_counter()
            inline.call()
            times["inline"].append(time.perf_counter() - began)
            if at % REFERENCE_EVERY == 0:
                began = time.perf_counter()
                WIDE.reference(batch)
                times["python"].append(time.perf_counter() - began)
                if answer != (batch.answer("keep"), batch.answer("gossip")):
                    raise AssertionError("the module does not answer as its reference does")
    finally:
        jail.close()
    found = {
        name: statistics.quantiles(each[len(each) // 10 :], n=4)[0] * 1e6
        for name, each in times.items()
    }
    say(", ".join(f"{name} {value:.0f} µs" for name, value in found.items()))
    return {
        "vs_python": found["python"] / found["worker"],
        "vs_inline": found["worker"] / found["inline"],
        "call_us": found["smallest"],
        "batch_us": found["worker"],
        "inline_us": found["inline"],
        "python_us": found["python"],
    }


def batch_of(slot: Slot, rows: int, jail: Jail) -> Batch:
    """A batch like real ones, in the jail's shared memory."""
    whole = SLOT.tables[0].most_rows
    parts = [
        SLOT.generate(Draw(f"slot-call {at}".encode()), min(whole, rows - at))
        for at in range(0, rows, whole)
    ]
    batch = Batch.new(slot, parts[0].context, [rows], jail.room(slot.words([rows]) * WORD))
    for column in slot.tables[0].columns:
        values = [value for part in parts for value in part.column(slot.answers, column.name)]
        batch.column(slot.answers, column.name)[:] = (
            memoryview((ctypes.c_int64 * rows)(*values)).cast("B").cast("q")
        )
    return batch


class Inline:
    """The module in this process, called on the same batch."""

    def __init__(self, wasm: bytes, batch: Batch) -> None:
        import wasmtime

        from synapsed.jailworker.engine import engine
        from synapsed.jailworker.instance import Instance

        ready = engine()
        self._fuel = SLOT.limits.fuel_of(batch.total_rows)
        self._instance = Instance(
            ready, wasmtime.Module(ready, wasm), SLOT.limits.memory_pages * WASM_PAGE, self._fuel
        )
        self._batch = batch
        self._at = ctypes.addressof(ctypes.c_char.from_buffer(batch.block))
        self._answer = sum(batch.output(each.name).nbytes for each in batch.slot.outputs)

    def call(self) -> None:
        """Fill the batch's answer in."""
        self._instance.call(self._at, self._batch.block.nbytes, self._answer, self._fuel)
