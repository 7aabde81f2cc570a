"""Writes deltas.json beside it: what docs/deltas.md means.

    python -m tests.vectors.make_deltas

Values are written as the hex of their fp32 bits, most significant first.
"""

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import torch

from protocols.learn.delta import parse
from protocols.learn.deltaread import decode_reference
from synapsed.computeworker.codecs import DEFAULT, encode, inflate
from tests.test_learn_codecs import GAPS_REFUSED, REFUSED

HERE = Path(__file__).parent
TILES = ([0.5, -0.25, 0.0, 1e-3, -3.0], [i % 7 * 0.125 - 0.375 for i in range(70)], [0.0] * 40)
CHOICES = {
    "fp32": DEFAULT,
    "int8": DEFAULT,
    "two-bit": replace(DEFAULT, block_bits=5),
    "ternary": replace(DEFAULT, block_bits=5, saving=1.0),
    "one-bit": replace(DEFAULT, block_bits=6),
    "top-k": replace(DEFAULT, block_bits=5, top=1 / 16),
    "low-rank": replace(DEFAULT, rank=2),
    "ternary as gaps": replace(DEFAULT, block_bits=5, dead_zone=1.6),
    "int8 as zstd": replace(DEFAULT, saving=0.0),
}


def hexes(values: list[float]) -> list[str]:
    return [struct.pack(">f", value).hex() for value in values]


def accepted() -> list[dict[str, object]]:
    tiles = [torch.tensor(tile) for tile in TILES]
    sizes = [len(tile) for tile in TILES]
    rows = []
    for name, chosen in CHOICES.items():
        data = encode(name.split(" as ")[0], tiles, chosen)
        values = decode_reference(parse(data, sizes), inflate)
        rows.append(
            {
                "name": name,
                "settings": asdict(chosen),
                "delta": data.hex(),
                "values": [hexes(tile) for tile in values],
            }
        )
    return rows


def main() -> None:
    refused = [(blob, error.code) for blob, error in REFUSED]
    refused += [(blob, "delta-gaps") for blob in GAPS_REFUSED]
    value = {
        "about": "values are fp32 bits, most significant first; `tiles` is what was encoded",
        "tiles": [hexes(list(tile)) for tile in TILES],
        "deltas": accepted(),
        "refused": [{"elements": 128, "delta": b.hex(), "refusal": code} for b, code in refused],
    }
    (HERE / "deltas.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
