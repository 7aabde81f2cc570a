"""What the tests of the store and of models share: made models, and files fed by hand."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from protocols.manifest import FileRef, Layout
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed.store import HeldFile, Store
from synapsed.store.shape import shape_of_file

QUOTA = 1 << 30
KIB = 1 << 10

TENSORS = {"a": 600 * KIB, "b": 300, "empty": 0, "c": 256 * KIB, "d": 5 << 20}
"""Of 3, 1, 0, 1 and 20 sub-tiles; with the header 26, in 6 sections."""


class Events(list):
    """Collects what a store tells: (kind, fields)."""

    def __call__(self, kind: str, **fields: object) -> None:
        self.append((kind, fields))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]


def quiet(*_: object) -> None:
    """For progress that nobody watches."""


def safetensors(tensors: Mapping[str, int], seed: int = 1, align: int = 8) -> bytes:
    """A safetensors file of U8 tensors with the given sizes, of seeded bytes."""
    header = make_safetensors_header([(n, "U8", [s]) for n, s in tensors.items()], align=align)
    return header + random.Random(seed).randbytes(sum(tensors.values()))


class Made:
    """A file's bytes, and all that a puller would be told of it."""

    def __init__(self, data: bytes, layout: Layout, folder: Path) -> None:
        path = folder / "made"
        path.write_bytes(data)
        self.data = data
        self.shape, self.hashes = shape_of_file(path, layout, quiet)
        self.ref = FileRef(path="made", size=len(data), root=self.shape.root, layout=layout)
        path.unlink()

    @property
    def leaves(self) -> int:
        return self.shape.layout.leaf_count

    def begin(self, store: Store) -> HeldFile:
        """Hold it in `store`: header and leaf hashes only."""
        held = store.create(self.ref, self.shape.header or None, self.shape.nodes)
        for section in held.layout.sections:
            at, end = section.first_leaf, section.end_leaf
            held.put_leaf_hashes(section.index, self.hashes[at * HASH_BYTES : end * HASH_BYTES])
        return held

    def bytes_of(self, lo: int, hi: int) -> bytes:
        start, stop = self.shape.layout.run_span(lo, hi)
        return self.data[start:stop]

    def feed(self, held: HeldFile, lo: int = 0, hi: int | None = None) -> None:
        """Write the leaves [lo, hi), one after another, and commit."""
        for leaf in range(lo, self.leaves if hi is None else hi):
            held.write(leaf, self.bytes_of(leaf, leaf + 1))
        held.commit()


def made(folder: Path, tensors: Mapping[str, int] = TENSORS, seed: int = 1) -> Made:
    return Made(safetensors(tensors, seed), "safetensors", folder)


def made_flat(folder: Path, size: int, seed: int = 1) -> Made:
    return Made(random.Random(seed).randbytes(size), "flat", folder)


def reopened(store: Store, events: Callable[..., None] = quiet) -> Store:
    """The same store after a restart of the daemon."""
    limit = store.quota.limit
    store.close()
    return Store.open(store.root, limit, on_event=events)


def check_store(store: Store) -> None:
    """Whatever is on record can be read and verifies, and the quota counts what there is."""
    found = store.scrub()
    assert found.bad_leaves == []
    assert found.bad_blocks == []
    counted = sum(len(store.get_block(cid)) for cid in store.list_blocks())
    for held in store.files():
        tree = (len(held.nodes) + held.layout.leaf_count) * HASH_BYTES
        counted += held.held_bytes + len(held.header) + tree
    assert store.quota.used == counted


def moe_tensors(layers: int = 2, experts: int = 4, size: int = 3000) -> dict[str, int]:
    """Tensor sizes of a small Mixtral-like model."""
    tensors = {"model.embed_tokens.weight": 300 * KIB, "lm_head.weight": 300 * KIB}
    for layer in range(layers):
        base = f"model.layers.{layer}"
        tensors[f"{base}.self_attn.q_proj.weight"] = size
        tensors[f"{base}.block_sparse_moe.gate.weight"] = 64
        for expert in range(experts):
            for part in ("w1", "w2", "w3"):
                tensors[f"{base}.block_sparse_moe.experts.{expert}.{part}.weight"] = size
    return tensors


def model_folder(folder: Path, tensors: Mapping[str, int] | None = None, shards: int = 1) -> Path:
    """A Hugging Face model folder with config, tokenizer, a subfolder, and shards."""
    tensors = moe_tensors() if tensors is None else tensors
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "made"}))
    (folder / "tokenizer.json").write_text(json.dumps({"vocab": ["a", "b"]}))
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "empty.txt").write_bytes(b"")
    names = list(tensors)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return folder
    where = {}
    for number in range(shards):
        mine = {name: tensors[name] for name in names[number::shards]}
        shard = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        (folder / shard).write_bytes(safetensors(mine, seed=number))
        where |= dict.fromkeys(mine, shard)
    index = {"metadata": {"total_size": sum(tensors.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def same_folders(one: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same bytes."""

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return contents(one) == contents(other)
