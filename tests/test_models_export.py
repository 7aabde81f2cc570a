"""Export is byte for byte, all or nothing; a held model opens where it is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.errors import NotHeldError
from synapsed.models import (
    DestinationError,
    Imported,
    IncompleteError,
    NotAModelManifestError,
    export_model,
    held_path,
    held_tiles,
    import_model,
    list_models,
    model_state,
    remove_model,
)
from synapsed.store import DamagedError, DiskFullError, Store
from tests.store_kit import QUOTA, check_store, model_folder, same_folders


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", QUOTA)
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "my model", shards=2)


@pytest.fixture
def model(store: Store, folder: Path) -> Imported:
    return import_model(store, folder)


def _largest(store: Store, model: Imported):
    return store.file(max(model.manifest.files, key=lambda ref: ref.size).root)


def test_every_byte_comes_back(store: Store, folder: Path, model: Imported) -> None:
    seen: list[tuple[int, int]] = []
    dest = folder.parent / "out"
    export_model(store, model.cid, dest, lambda *step: seen.append(step))
    assert same_folders(folder, dest)
    assert seen[-1][0] == seen[-1][1] == sum(ref.size for ref in model.manifest.files)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["my model", "out", "store"]
    (folder.parent / "empty").mkdir()
    export_model(store, model.cid, folder.parent / "empty")
    assert same_folders(folder, folder.parent / "empty")


def test_it_overwrites_nothing(store: Store, folder: Path, model: Imported) -> None:
    out = folder.parent / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (folder.parent / "file").write_text("mine")
    (folder.parent / "link").symlink_to(folder)
    for dest in (out, folder.parent / "file", folder.parent / "link", Path("/"), out / "a" / "b"):
        with pytest.raises(DestinationError):
            export_model(store, model.cid, dest)
    assert (out / "mine.txt").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_model_held_in_part_says_what_lacks(store: Store, folder: Path, model: Imported) -> None:
    held = _largest(store, model)
    held.drop(1, 3)
    (ref,) = [ref for ref in model.manifest.files if ref.root == held.root]
    lacks = ref.size - held.held_bytes
    for use in (
        lambda: export_model(store, model.cid, folder.parent / "out"),
        lambda: held_path(store, model.cid),
    ):
        with pytest.raises(IncompleteError, match="model pull") as caught:
            use()
        assert f"{ref.path} ({lacks} of {ref.size} bytes)" in caught.value.message
    store.remove_file(held.root)
    with pytest.raises(IncompleteError, match=rf"all {ref.size} bytes"):
        export_model(store, model.cid, folder.parent / "out")
    assert not (folder.parent / "out").exists()
    state = model_state(store, model.cid)
    assert not state.complete
    assert state.held == state.size - ref.size


def test_damage_is_found_on_the_way_and_nothing_appears(
    store: Store, folder: Path, model: Imported
) -> None:
    held = _largest(store, model)
    with held.path.open("r+b") as raw:
        raw.seek(held.layout.leaf_span(2)[0] + 3)
        raw.write(b"XXXX")
    with pytest.raises(DamagedError, match="pull the model again"):
        export_model(store, model.cid, folder.parent / "out")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["my model", "store"]
    assert held.missing() == [(2, 3)]
    import_model(store, folder)
    export_model(store, model.cid, folder.parent / "out")
    assert same_folders(folder, folder.parent / "out")


def test_a_full_disk_leaves_nothing(
    store: Store, folder: Path, model: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no room"):
        export_model(store, model.cid, folder.parent / "out")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["my model", "store"]


def test_a_held_model_is_a_folder_of_links(store: Store, folder: Path, model: Imported) -> None:
    path = held_path(store, model.cid)
    assert path.is_relative_to(store.root)
    assert same_folders(folder, path)
    assert all(file.is_symlink() for file in path.rglob("*.*") if not file.is_dir())
    assert held_path(store, model.cid) == path
    (path / "config.json").unlink()
    assert same_folders(folder, held_path(store, model.cid))
    used = sum(file.lstat().st_size for file in path.rglob("*") if file.is_symlink())
    assert used < 3000
    remove_model(store, model.cid)
    assert not path.exists()
    assert list(store.root.glob("models/*")) == []


def test_only_models_are_exported(store: Store, model: Imported, tmp_path: Path) -> None:
    with pytest.raises(NotAModelManifestError, match="of one expert"):
        export_model(store, model.experts["layer0.expert0"], tmp_path / "out")
    with pytest.raises(NotHeldError):
        export_model(store, b"\x01\x71\x12\x20" + b"x" * 32, tmp_path / "out")


def test_which_tiles_are_here(store: Store, model: Imported) -> None:
    (run,) = held_tiles(store, model.cid)
    count = sum(store.file(ref.root).layout.tile_count for ref in model.manifest.files)
    assert run == (0, count)
    held = _largest(store, model)
    at = [ref.root for ref in model.manifest.files].index(held.root)
    first = sum(store.file(r.root).layout.tile_count for r in model.manifest.files[:at])
    tile = held.layout.tile_of_leaf(2)
    held.drop(2, 3)
    assert held_tiles(store, model.cid) == [
        (0, first + tile),
        (first + tile + 1, count - first - tile - 1),
    ]
    store.remove_file(held.root)
    assert held_tiles(store, model.cid) == []  # no header, no numbers
    assert len(list_models(store)) == 1
    check_store(store)
