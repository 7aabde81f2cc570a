"""For tests that compute: small models written without torch, and one compute server for all."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import trio

from protocols.plan import Phase, Plan
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed.compute.compute import Compute
from synapsed.compute.keeper import ComputeSettings

TEXT = (
    b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    b"age of foolishness, it was the epoch of belief, it was the epoch of incredulity.\n"
) * 40

PLAN = Plan(
    phases=(Phase(2, 1, "int8", "int8"), Phase(1000, 5, "two-bit", "int8")),
    group_bytes=256 << 10,
    batch=4,
    context=32,
    rate=3000,
    decay=10,
    outer_rate=700,
    outer_momentum=500,
    learners=1,
    patience_ms=1000,
)

Files = list[tuple[str, Path]]


@cache
def server() -> Path:
    """The socket of a compute server that lives as long as this process: torch is imported once."""
    folder = Path(tempfile.mkdtemp(prefix="synapsed-compute-"))
    child = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-m",
            "synapsed.computeworker",
            "serve",
            folder / "s",
            str(os.getpid()),
        ],
        stdout=subprocess.PIPE,
    )
    atexit.register(child.kill)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.stdout.close()
    return folder / "s"


@asynccontextmanager
async def computing(
    events: list[tuple[str, dict[str, Any]]] | None = None, **settings: Any
) -> AsyncIterator[Compute]:
    """A node's side with workers forked by `server`."""

    def emit(kind: str, **fields: Any) -> None:
        if events is not None:
            events.append((kind, fields))

    wanted = {"threads": 1, "device": "cpu", "server": server()} | settings
    compute = Compute(emit, ComputeSettings(**wanted))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute.run)
        yield compute
        nursery.cancel_scope.cancel()


def files_of(folder: Path) -> Files:
    """A folder's files as a manifest would name them."""
    return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.*"))


def text_file(folder: Path, text: bytes = TEXT) -> Path:
    """Something to read."""
    path = folder / "text.txt"
    path.write_bytes(text)
    return path


def moe_config(kind: str = "mixtral", **fields: Any) -> dict[str, Any]:
    """A small mixture of experts that reads bytes."""
    sizes = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
    }
    sizes["num_local_experts" if kind == "mixtral" else "num_experts"] = 8
    return sizes | fields


Arrays = dict[str, "numpy.typing.NDArray[numpy.float32]"]


def moe_tensors(config: dict[str, Any], seed: int = 5, *, fused: bool = False) -> Arrays:
    """Weights as checkpoints of that kind have them, or with the experts of a layer in one."""
    random = numpy.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    mixtral = config["model_type"] == "mixtral"
    experts = config["num_local_experts" if mixtral else "num_experts"]

    def some(*shape: int) -> "numpy.typing.NDArray[numpy.float32]":
        return (random.standard_normal(shape) * 0.1).astype(numpy.float32)

    found: Arrays = {
        "model.embed_tokens.weight": some(256, hidden),
        "model.norm.weight": 1 + some(hidden),
        "lm_head.weight": some(256, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name in "qkvo":
            found[f"{at}.self_attn.{name}_proj.weight"] = some(hidden, hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{name}.weight"] = 1 + some(hidden)
        if not mixtral:
            for name in ("q_norm", "k_norm"):
                found[f"{at}.self_attn.{name}.weight"] = 1 + some(hidden)
        moe = f"{at}.{'block_sparse_moe' if mixtral and not fused else 'mlp'}"
        found[f"{moe}.gate.weight"] = 5 * some(experts, hidden)
        both, down = some(experts, 2 * inner, hidden), some(experts, hidden, inner)
        if fused:
            found |= {f"{moe}.experts.gate_up_proj": both, f"{moe}.experts.down_proj": down}
            continue
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        for expert in range(experts):
            parts = (both[expert, :inner], both[expert, inner:], down[expert])
            for name, part in zip(names, parts, strict=True):
                found[f"{moe}.experts.{expert}.{name}.weight"] = part
    return found


def write_moe(
    folder: Path,
    config: dict[str, Any],
    tensors: Arrays,
    *,
    dtype: str = "F32",
    shards: int = 1,
) -> Files:
    """A model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    for shard in range(shards):
        some = names[shard::shards]
        header = make_safetensors_header(
            ((name, dtype, tensors[name].shape) for name in some), {"format": "pt"}
        )
        path = folder / (
            "model.safetensors"
            if shards == 1
            else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        )
        path.write_bytes(header + b"".join(_bytes(tensors[name], dtype) for name in some))
    if shards > 1:
        index = {
            "metadata": {},
            "weight_map": {
                name: f"model-{at % shards + 1:05}-of-{shards:05}.safetensors"
                for at, name in enumerate(names)
            },
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files_of(folder)


def _bytes(values: "numpy.typing.NDArray[numpy.float32]", dtype: str) -> bytes:
    if dtype == "BF16":  # its upper half
        return (values.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()
    return values.tobytes()


def small_moe(folder: Path, kind: str = "mixtral", **options: Any) -> Files:
    """One with default sizes."""
    config = moe_config(kind)
    fused = options.pop("fused", False)
    return write_moe(folder, config, moe_tensors(config, fused=fused), **options)


def by_group(versions: Sequence[Any]) -> dict[int, Any]:
    """Versions, by their groups."""
    return {version.group: version for version in versions}
