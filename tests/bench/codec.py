"""`codec`: encoding and decoding a 4 MiB tile, MB of fp32 a second on one core.

Beside them in the same run, in turns: torch's own conversion of the tile to int8 and back (one
pass, no scale, nothing packed), and a copy of it. The tile is noise whose rows differ in size, a
hundredfold, since a learner's rows do. `x_` is fp32's bytes over the delta's, everything counted.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from protocols.learn.delta import NAMES
from synapsed.computeworker.codecs import DEFAULT, Settings, decode, encode

REACH = {"encode_vs_int8": ">= 0.01", "decode_vs_int8": ">= 0.02"}
"""Of the slowest codec that results may have, against torch's conversion, which writes a byte for
each value without a scale and runs at 45 GB/s from a cache: so 450 and 900 MB/s."""

ELEMENTS = 1 << 20
COLUMNS = 1024
TIMES = 40
MB = 4 * ELEMENTS / 1e6
RESULTS = ("int8", "two-bit", "ternary", "one-bit")

VARIANTS: dict[str, tuple[str, Settings]] = {
    **{name: (name, DEFAULT) for name in NAMES},
    "ternary-wide": ("ternary", replace(DEFAULT, dead_zone=1.5, block_bits=12)),
}

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float]:
    """Lower quartiles of rounds in which each way has its turn, in time of this thread alone."""
    torch.set_num_threads(1)
    tile = noise()
    whole = tile.to(torch.int8)
    sides: dict[str, Callable[[], object]] = {
        "copy": tile.clone,
        "int8 by torch": lambda: tile.to(torch.int8),
        "fp32 by torch": lambda: whole.to(torch.float32),
    }
    fields: dict[str, float] = {}
    for label, (name, chosen) in VARIANTS.items():
        data = encode(name, [tile], chosen, [COLUMNS])
        sides[f"encode {label}"] = lambda n=name, c=chosen: encode(n, [tile], c, [COLUMNS])
        sides[f"decode {label}"] = lambda d=data: decode(d, [ELEMENTS])
        fields[f"x_{label}"] = 4 * ELEMENTS / len(data)
    speeds = {side: MB / seconds for side, seconds in in_turns(sides).items()}
    say(", ".join(f"{side} {speed:,.0f}" for side, speed in speeds.items()))
    encodes = min(speeds[f"encode {name}"] for name in RESULTS)
    decodes = min(speeds[f"decode {name}"] for name in RESULTS)
    return {
        "encode_vs_int8": encodes / speeds["int8 by torch"],
        "decode_vs_int8": decodes / speeds["fp32 by torch"],
        "encode_vs_copy": encodes / speeds["copy"],
        "decode_vs_copy": decodes / speeds["copy"],
        **{f"{side.replace(' ', '_')}_mbs": speed for side, speed in speeds.items()},
        **fields,
    }


def noise() -> torch.Tensor:
    """A tile of COLUMNS a row."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(ELEMENTS // COLUMNS, COLUMNS, generator=generator)
    sizes = 10 ** (torch.rand(ELEMENTS // COLUMNS, 1, generator=generator) * 2 - 6)
    return (values * sizes).reshape(-1)


def in_turns(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of this core's time that each takes, as their lower quartile."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(TIMES):
        for side, work in sides.items():
            began = time.thread_time()
            work()
            times[side].append(time.thread_time() - began)
    return {side: statistics.quantiles(taken[2:], n=4)[0] for side, taken in times.items()}
