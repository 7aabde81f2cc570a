"""tests/vectors/tensorblock*.json: the spec, our code and the vectors say the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.tensors.safetensors_header import HeaderError, parse_safetensors_header
from protocols.tensors.tensorblock import Layout
from tests.test_tensorblock_tree import Block, spec_hash, spec_root

HERE = Path(__file__).parent / "vectors"
VECTORS = json.loads((HERE / "tensorblock.json").read_text())
HEADERS = json.loads((HERE / "tensorblock_headers.json").read_text())


def vector_data(vector: dict[str, Any]) -> bytes:
    prefix = bytes.fromhex(vector["prefix"])
    return prefix + bytes(i % 251 for i in range(vector["size"] - len(prefix)))


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda v: v["name"])
def test_vectors_are_the_specification_s(vector: dict[str, Any]) -> None:
    data = vector_data(vector)
    spans = [(s["start"], s["start"] + s["length"]) for s in vector["sections"]]
    assert spec_root([data[a:b] for a, b in spans]).hex() == vector["root"]
    leaves = [data[at : min(at + 262144, b)] for a, b in spans for at in range(a, b, 262144)]
    assert [spec_hash("leaf", leaf).hex() for leaf in leaves] == vector["leaves"]


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda v: v["name"])
def test_vectors_are_ours(vector: dict[str, Any]) -> None:
    data = vector_data(vector)
    layout = Layout.of_kind(vector["layout"], len(data), data)
    for section, expected in zip(layout.sections, vector["sections"], strict=True):
        assert all(getattr(section, key) == expected[key] for key in expected if key != "node")
    block = Block(layout, bytes.fromhex("".join(vector["leaves"])))
    assert [node.hex() for node in block.nodes] == [s["node"] for s in vector["sections"]]
    assert block.root.hex() == vector["root"]
    assert vector["proofs"] or not layout.leaf_count
    for run in vector["proofs"]:
        lo, hi = run["lo"], run["hi"]
        assert [value.hex() for value in block.tree.prove(lo, hi)] == run["proof"]
        block.verify(lo, hi, block.run(lo, hi), [bytes.fromhex(v) for v in run["proof"]])


def test_single_hashes_of_the_vectors() -> None:
    assert VECTORS["leaf of abc"] == spec_hash("leaf", b"abc").hex()
    left, right = bytes.fromhex(VECTORS["leaf of nothing"]), bytes.fromhex(VECTORS["leaf of abc"])
    assert VECTORS["node of those"] == spec_hash("node", left + right).hex()
    assert VECTORS["contexts"]["file"] == "synapse tensorblock v1 file"


def test_there_are_headers_of_every_refusal() -> None:
    codes = {vector["refusal"] for vector in HEADERS["headers"]} - {None}
    every = {error.code for error in HeaderError.__subclasses__()}
    assert every - codes == {"header-truncated", "header-too-large"}


@pytest.mark.parametrize("vector", HEADERS["headers"], ids=lambda v: v["name"])
def test_header_vectors(vector: dict[str, Any]) -> None:
    text = bytes.fromhex(vector["header"])
    prefix = len(text).to_bytes(8, "little") + text
    code = None
    try:
        parse_safetensors_header(prefix, len(prefix) + 4)
    except HeaderError as error:
        code = error.code
    assert code == vector["refusal"]
