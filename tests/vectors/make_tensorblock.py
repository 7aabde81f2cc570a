"""Writes tensorblock.json and tensorblock_headers.json beside it: what docs/tensorblock.md means.

    python -m tests.vectors.make_tensorblock

The bytes of a file are its `prefix` (hex), then byte i of the rest is i mod 251.
"""

import json
from pathlib import Path

from protocols.tensors.safetensors_header import make_safetensors_header
from protocols.tensors.tensorblock import (
    SUBTILE,
    TILE,
    BlockTree,
    Layout,
    Section,
    file_root,
    hash_run,
    section_node,
)
from synapsed import hashing
from synapsed.hashing import HASHER
from tests.test_tensorblock_header import GOOD, REFUSED

HERE = Path(__file__).parent
PERIOD = 251
LONGEST_HEADER = 300

FLAT_SIZES = (0, 1, SUBTILE, SUBTILE + 1, TILE, TILE + 5 * SUBTILE + 3)
TENSORS: dict[str, list[tuple[str, str, list[int]]]] = {
    "no tensors": [],
    "one scalar": [("scalar", "F64", [])],
    "an expert": [
        ("expert.gate", "F32", [1024, 300]),
        ("expert.bias", "F32", [0]),
        ("expert.down", "BF16", [700_001]),
        ("expert.scale", "U8", [11]),
    ],
    "two tiles and a bit": [("w", "I8", [2, TILE + 7]), ("z", "BOOL", [0, 4])],
}


def rest(length: int) -> bytes:
    """The bytes behind a prefix."""
    period = bytes(range(PERIOD))
    return (period * (length // PERIOD + 1))[:length]


def section_vector(section: Section, node: bytes) -> dict[str, object]:
    fields = ("name", "start", "length", "first_leaf", "leaves", "first_tile", "tiles")
    return {**{field: getattr(section, field) for field in fields}, "node": node.hex()}


def file_vector(name: str, kind: str, prefix: bytes, length: int) -> dict[str, object]:
    data = prefix + rest(length)
    layout = Layout.of_kind(kind, len(data), data)
    count = layout.leaf_count
    hashes = hash_run(HASHER, layout, 0, count, data) if count else b""

    def of(index: int) -> bytes:
        section = layout.sections[index]
        return hashes[32 * section.first_leaf : 32 * section.end_leaf]

    nodes = [section_node(HASHER, section, of(section.index)) for section in layout.sections]
    tree = BlockTree(HASHER, layout, nodes, of)
    ends = sorted({0, 1, count // 3, count // 2, count - 1, count})
    runs = [(lo, hi) for lo in ends for hi in ends if 0 <= lo < hi <= count]
    return {
        "name": name,
        "layout": kind,
        "size": len(data),
        "prefix": prefix.hex(),
        "sections": list(map(section_vector, layout.sections, nodes)),
        "leaves": [hashes[at : at + 32].hex() for at in range(0, len(hashes), 32)],
        "root": file_root(HASHER, len(data), nodes).hex(),
        "proofs": [
            {"lo": lo, "hi": hi, "proof": [value.hex() for value in tree.prove(lo, hi)]}
            for lo, hi in runs
        ],
    }


def tensorblock() -> dict[str, object]:
    """The tree: single hashes, then whole files."""
    left, right = HASHER.leaf(b""), HASHER.leaf(b"abc")
    files = [file_vector(f"flat, {size} bytes", "flat", b"", size) for size in FLAT_SIZES]
    for name, tensors in TENSORS.items():
        header = make_safetensors_header(tensors, {"format": "pt"}, align=8)
        length = max([0, *(int(stop) for stop in _stops(header))])
        files.append(file_vector(name, "safetensors", header, length))
    return {
        "about": "a file is `prefix`, then byte i of the rest is i mod 251",
        "contexts": {
            "leaf": hashing.LEAF_CONTEXT,
            "node": hashing.NODE_CONTEXT,
            "section": hashing.SECTION_CONTEXT,
            "file": hashing.FILE_CONTEXT,
        },
        "leaf of nothing": left.hex(),
        "leaf of abc": right.hex(),
        "node of those": HASHER.node(left, right).hex(),
        "files": files,
    }


def _stops(header: bytes) -> list[int]:
    entries = json.loads(header[8:])
    return [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]


def headers() -> dict[str, object]:
    """Headers, each for a file with four bytes of data, and the code of their refusal."""
    refused = [
        {"name": name, "header": text.hex(), "refusal": error.code}
        for name, (text, error) in REFUSED.items()
        if len(text) <= LONGEST_HEADER
    ]
    return {
        "about": "the JSON part, for a file with 4 bytes of data behind it; null is accepted",
        "headers": [{"name": "good", "header": GOOD.hex(), "refusal": None}, *refused],
    }


def main() -> None:
    for name, value in (("tensorblock", tensorblock()), ("tensorblock_headers", headers())):
        (HERE / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
