"""tests/vectors/manifests.json: bytes and names of manifests, checked by an encoder of its own.

`python -m tests.test_manifest_vectors` writes the file again; the format changing is a new
version of the protocol, so do not do that lightly.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocols.cid import cid_of, cid_text
from protocols.errors import SynapseError
from protocols.manifest import decode_manifest, encode_manifest
from tests.test_manifest_rules import ADAPTER, EVERY, MODEL, UPGRADE, _change, _file

PATH = Path(__file__).parent / "vectors" / "manifests.json"
LINK = bytes.fromhex("01711220")


def _cbor(value: Any) -> bytes:
    """DAG-CBOR as its specification has it: links are tag 42, keys in order of length, then bytes.

    Byte strings that read as a CID are links (protocols/codec.py, rule 3).
    """

    def head(major: int, count: int) -> bytes:
        for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
            if count < (24 if size == 1 else 1 << (4 * size)) and size == 1:
                return bytes((major << 5 | count,))
            if count < 1 << (8 * size):
                return bytes((major << 5 | code,)) + count.to_bytes(size, "big")
        raise ValueError(count)

    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes) and value.startswith(LINK) and len(value) == 36:
        return b"\xd8\x2a" + head(2, 37) + b"\0" + value
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
        return head(5, len(pairs)) + b"".join(_cbor(k) + _cbor(v) for k, v in pairs)
    return head(4, len(value)) + b"".join(map(_cbor, value))


def _shown(value: Any) -> Any:
    """JSON for people and other implementations: byte strings as {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list | tuple) else value


def _meant(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: _meant(one) for key, one in value.items()}
    return [_meant(one) for one in value] if isinstance(value, list) else value


VECTORS = json.loads(PATH.read_text()) if PATH.exists() else {"good": [], "refused": []}


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda v: v["value"]["kind"])
def test_vectors_are_the_specification_s(vector: dict[str, Any]) -> None:
    data = _cbor(_meant(vector["value"]))
    assert data.hex() == vector["bytes"]
    cid = LINK + hashlib.sha256(data).digest()
    assert "b" + base64.b32encode(cid).decode().lower().rstrip("=") == vector["cid"]


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda v: v["value"]["kind"])
def test_vectors_are_ours(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    manifest = decode_manifest(data)
    plain = msgspec.to_builtins(manifest, builtin_types=(bytes,))
    assert _shown(plain) == vector["value"]
    assert encode_manifest(manifest) == data
    assert cid_text(cid_of(data)) == vector["cid"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["why"])
def test_vectors_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(SynapseError) as caught:
        decode_manifest(bytes.fromhex(vector["bytes"]))
    assert caught.value.code == vector["code"]


def test_there_is_a_vector_of_each_kind() -> None:
    kinds = {vector["value"]["kind"] for vector in VECTORS["good"]}
    assert kinds == {
        "model", "expert", "adapter", "kernel", "upgrade", "dataset", "proposal",
    }  # fmt: skip
    assert len(VECTORS["refused"]) >= 6


def _refused() -> dict[str, bytes]:
    model = encode_manifest(MODEL)
    return {
        "a path that escapes": _change(MODEL, files=[_file("../x")]),
        "a pickle": _change(MODEL, files=[_file("pytorch_model.bin")]),
        "a file twice": _change(MODEL, files=[_file("a"), _file("a")]),
        "an unknown field": _change(MODEL, more=1),
        "an unknown kind": _change(MODEL, kind="song"),
        "a pattern for a module": _change(ADAPTER, target_modules=[".*"]),
        "a module of two megabytes": _change(UPGRADE, module=_file("m.wasm", size=1 << 21)),
        "an absurd rank": _change(ADAPTER, rank=200_000),
        "a longer length than needed": b"\xb8\x05" + model[1:],
        "bytes behind the end": model + b"\0",
    }


def _write() -> None:
    good = []
    for manifest in EVERY:
        data = encode_manifest(manifest)
        plain = msgspec.to_builtins(manifest, builtin_types=(bytes,))
        good.append({"cid": cid_text(cid_of(data)), "bytes": data.hex(), "value": _shown(plain)})
    refused = []
    for why, data in _refused().items():
        with pytest.raises(SynapseError) as caught:
            decode_manifest(data)
        refused.append({"why": why, "code": caught.value.code, "bytes": data.hex()})
    PATH.write_text(json.dumps({"good": good, "refused": refused}, indent=1) + "\n")


if __name__ == "__main__":
    _write()
