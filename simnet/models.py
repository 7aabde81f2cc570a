"""The models of a scenario: a published one from a Python package, a folder, or one made up."""

import filecmp
import importlib.util
import json
import random
from pathlib import Path

from protocols.tensors.safetensors_header import LENGTH_BYTES, make_safetensors_header
from protocols.tensors.tensorblock import FLAT, SAFETENSORS, Layout
from simnet.scenario import ModelSource
from simnet.scenarioload import ScenarioError

MIB = 1 << 20
EXPERTS = 4
"""Experts of a made model: enough that one is a small part of the whole."""

ROW = 1024
"""Bytes of one row of a made tensor: 512 half-precision numbers."""


def model_folder(name: str, source: ModelSource, scenario: Path, work: Path, seed: int) -> Path:
    """The folder with the model's files; made ones are written below `work`."""
    if source.package:
        return _of_package(name, source.package)
    if source.folder:
        folder = (scenario.parent / source.folder).resolve()
        if not folder.is_dir():
            raise ScenarioError(f"models.{name}.folder: there is no folder {folder}")
        return folder
    folder = work / name
    make_model(folder, int(source.made * MIB), seed)
    return folder


def _of_package(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ScenarioError(
            f"models.{name}.package: {package} is not installed",
            remedy=f"pip install {package.replace('_', '-')} (the extra `demo` has it)",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def make_model(folder: Path, size: int, seed: int) -> None:
    """Write a model of about `size` bytes: a small mixture of experts of seeded random bytes."""
    draw = random.Random(seed)  # noqa: S311 - a seed is a reproduction
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "made", "experts": EXPERTS}))
    rows = max(1, size // (EXPERTS + 1) // ROW)
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(EXPERTS)]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(make_safetensors_header([(name, "F16", [rows, ROW // 2]) for name in names]))
        for _ in names:
            file.write(draw.randbytes(rows * ROW))


def tile_sizes(folder: Path) -> list[int]:
    """Bytes of every tile of a model, in the order that shard announcements number them."""
    sizes: list[int] = []
    for path in sorted(files_of(folder), key=lambda path: path.relative_to(folder).as_posix()):
        size = path.stat().st_size
        kind = SAFETENSORS if path.suffix == ".safetensors" else FLAT
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            prefix = start + file.read(int.from_bytes(start, "little")) if kind != FLAT else b""
        layout = Layout.of_kind(kind, size, prefix)
        for tile in range(layout.tile_count):
            begin, end = layout.run_span(*layout.leaves_of_tile(tile))
            sizes.append(end - begin)
    return sizes


def size_of(folder: Path) -> int:
    """Bytes of a model's files."""
    return sum(path.stat().st_size for path in files_of(folder))


def files_of(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def differences(original: Path, exported: Path) -> list[str]:
    """What an export got wrong: files missing, added, or with other bytes. Empty: `cmp` equal."""
    wanted = {path.relative_to(original) for path in files_of(original)}
    found = {path.relative_to(exported) for path in files_of(exported)}
    wrong = [f"{path} is missing" for path in sorted(wanted - found)]
    wrong += [f"{path} was added" for path in sorted(found - wanted)]
    wrong += [
        f"{path} differs"
        for path in sorted(wanted & found)
        if not filecmp.cmp(original / path, exported / path, shallow=False)
    ]
    return wrong
