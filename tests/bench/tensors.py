"""Opening and verifying a 128 MB expert, against safetensors, torch and sha256.

Both sides do equal work in turns within one run: *opening* is to open the file and list its
tensors; *verifying* is to hash what one mapping holds, pages resident. `first_tensor_ratio` is
opening and getting one tensor without a copy, since we map a file only then.
"""

import gc
import hashlib
import importlib.util
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from protocols.tensors.safetensors_header import make_safetensors_header
from protocols.tensors.tensorblock import (
    BlockTree,
    Layout,
    file_root,
    hash_run,
    section_node,
    verify_run,
)
from synapsed.hashing import HASHER
from synapsed.store.tensors import open_tensorblock

REACH = {"open_ratio": "<= 1.2", "verify_ratio": "<= 0.5"}

EXPERT = [(f"layer4.expert7.{part}", "BF16", [5208, 4096]) for part in ("gate", "up", "down")]
"""A SwiGLU expert of 128 MB: 3 * 5208 * 4096 * 2 bytes."""

MANY = [(f"layer{i // 32}.expert{i % 32}.weight", "BF16", [256, 256]) for i in range(1024)]
"""The same bytes as 1,024 small tensors, where opening is parsing: 134 MB."""

OPENINGS = 400
PASSES = 9

Timed = Callable[[], object]


def write(path: Path, tensors: list[tuple[str, str, list[int]]]) -> None:
    """A safetensors file of random bytes."""
    header = make_safetensors_header(tensors, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        for _, _, (rows, columns) in tensors:
            file.write(os.urandom(rows * columns * 2))


def interleaved(rounds: int, *sides: Timed) -> list[float]:
    """Median seconds of each side, all taken in turns."""
    times: list[list[float]] = [[] for _ in sides]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for side, taken in zip(sides, times, strict=True):
                began = perf_counter()
                side()
                taken.append(perf_counter() - began)
    finally:
        gc.enable()
    return [median(taken) for taken in times]


def opening(path: Path) -> dict[str, float]:
    """Open and list, with us and with the library."""
    from safetensors import safe_open

    def ours() -> list[str]:
        with open_tensorblock(path) as tensors:
            return tensors.names()

    def theirs() -> list[str]:
        with safe_open(path, "np") as tensors:
            return list(tensors.keys())

    if sorted(ours()) != sorted(theirs()):
        raise AssertionError("the two sides do not do the same")
    our_s, their_s = interleaved(OPENINGS, ours, theirs)
    return {"ratio": our_s / their_s, "open_us": our_s * 1e6, "safe_open_us": their_s * 1e6}


def reading(path: Path) -> dict[str, float]:
    """Open and get one tensor; open and read every page once, with torch's own ways beside it."""
    import numpy
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    saved = path.with_suffix(".pt")
    torch.save(load_file(path), saved)

    def ours() -> int:
        with open_tensorblock(path) as tensors:
            return sum(int(tensors.array(n).view(numpy.uint64).max()) > 0 for n in tensors.names())

    def library() -> int:
        return touch(load_file(path))

    def torch_mapped() -> int:
        return touch(torch.load(saved, mmap=True, weights_only=True))

    def torch_copied() -> int:
        return touch(torch.load(saved, weights_only=True))

    def touch(tensors: dict[str, torch.Tensor]) -> int:
        arrays = (tensor.view(torch.uint16).numpy() for tensor in tensors.values())
        return sum(int(array.view(numpy.uint64).max()) > 0 for array in arrays)

    name = EXPERT[0][0]

    def first() -> object:
        with open_tensorblock(path) as tensors:
            return tensors.array(name)

    def library_first() -> object:
        with safe_open(path, "pt") as tensors:
            return tensors.get_tensor(name)

    first_s, library_first_s = interleaved(OPENINGS, first, library_first)
    names = ("read_ms", "read_safetensors_ms", "read_torch_mmap_ms", "read_torch_load_ms")
    seconds = interleaved(PASSES, ours, library, torch_mapped, torch_copied)
    out = {name: value * 1e3 for name, value in zip(names, seconds, strict=True)}
    return {"first_tensor_ratio": first_s / library_first_s, **out}


def verifying(path: Path) -> dict[str, float]:
    """Every leaf and the whole tree against the root, and sha256 of the same mapped bytes."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = memoryview(mapping)
    layout = Layout.of_kind("safetensors", len(data), data)
    root = root_of_data(layout, data)
    digest = hashlib.sha256(data).digest()

    def ours() -> None:
        if root_of_data(layout, data) != root:
            raise AssertionError("the file does not verify")

    def theirs() -> None:
        if hashlib.sha256(data).digest() != digest:
            raise AssertionError("the file does not verify")

    hashes = hash_run(HASHER, layout, 0, layout.leaf_count, data)
    tree = BlockTree(HASHER, layout, nodes_of(layout, hashes), lambda i: of(layout, hashes, i))
    lo, hi = layout.leaves_of_tile(layout.tile_count // 2)
    start, stop = layout.run_span(lo, hi)
    proof = tree.prove(lo, hi)

    def one_tile() -> None:
        found = hash_run(HASHER, layout, lo, hi, data[start:stop])
        verify_run(HASHER, layout, root, lo, hi, leaf_hashes=found, proof=proof)

    our_s, their_s, tile_s = interleaved(PASSES, ours, theirs, one_tile)
    return {
        "verify_ratio": our_s / their_s,
        "verify_ms": our_s * 1e3,
        "sha256_ms": their_s * 1e3,
        "verify_tile_us": tile_s * 1e6,
        "tile_proof_hashes": len(proof),
    }


def of(layout: Layout, hashes: bytes, index: int) -> bytes:
    """The leaf hashes of one section."""
    section = layout.sections[index]
    return hashes[32 * section.first_leaf : 32 * section.end_leaf]


def nodes_of(layout: Layout, hashes: bytes) -> list[bytes]:
    """All section nodes."""
    return [section_node(HASHER, s, of(layout, hashes, s.index)) for s in layout.sections]


def root_of_data(layout: Layout, data: memoryview) -> bytes:
    """The root, from nothing but the bytes and their layout."""
    hashes = hash_run(HASHER, layout, 0, layout.leaf_count, data)
    return file_root(HASHER, layout.size, nodes_of(layout, hashes))


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """The bench's fields; those of REACH, and what they were made of."""
    out: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory() as folder:
        expert, many = Path(folder, "expert.safetensors"), Path(folder, "many.safetensors")
        write(expert, EXPERT)
        say("opening an expert of 128 MB, 3 tensors")
        opened = opening(expert)
        out["open_ratio"] = opened.pop("ratio")
        say("verifying it")
        verified = verifying(expert)
        out["verify_ratio"] = verified.pop("verify_ratio")
        out.update(opened)
        out.update(verified)
        write(many, MANY)
        say("opening 134 MB of 1,024 tensors")
        out["open_many_ratio"] = opening(many)["ratio"]
        if importlib.util.find_spec("torch"):
            say("reading every page, mapped, with safetensors and with torch")
            out.update(reading(expert))
    return out
