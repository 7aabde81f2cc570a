"""What no pinned manifest reaches is collected, and nothing else (A12)."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.manifest import (
    AdapterManifest,
    ExpertManifest,
    Manifest,
    ModelManifest,
    TensorRef,
    encode_manifest,
)
from protocols.peerid import peer_id_of
from protocols.tensors.tensorblock import SUBTILE
from synapsed.store import Runs, Store
from synapsed.store.reasons import WATCHED
from tests.store_kit import QUOTA, Made, check_store, made, made_flat, reopened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", QUOTA)
    yield store
    store.close()


@pytest.fixture
def files(tmp_path: Path, store: Store) -> list[Made]:
    """Three complete files: a model's two, and an adapter's."""
    files = [
        made(tmp_path, seed=1),
        made_flat(tmp_path, 3 * SUBTILE),
        made(tmp_path, {"lora": 99}, seed=2),
    ]
    for file in files:
        file.feed(file.begin(store))
    return files


def _put(store: Store, manifest: Manifest) -> bytes:
    return store.put_block(encode_manifest(manifest))


def _model(store: Store, *files: Made, depends_on: tuple[bytes, ...] = ()) -> bytes:
    refs = tuple(
        type(file.ref)(
            path=f"file{number}", size=file.ref.size, root=file.ref.root, layout=file.ref.layout
        )
        for number, file in enumerate(files)
    )
    return _put(store, ModelManifest(name="m", description="", files=refs, depends_on=depends_on))


def _adapter(store: Store, base: bytes, file: Made) -> bytes:
    return _put(
        store,
        AdapterManifest(
            name="lora",
            description="",
            base=base,
            target_modules=("q_proj",),
            target_experts=(),
            rank=8,
            alpha_milli=16_000,
            file=file.ref,
            author=peer_id_of(b"k" * 32),
            approved_by_human=False,
            depends_on=(),
        ),
    )


def _roots(store: Store) -> set[bytes]:
    return {held.root for held in store.files()}


def test_a_pinned_model_stays_and_the_unpinned_goes(store: Store, files: list[Made]) -> None:
    kept, lost = _model(store, files[0]), _model(store, files[1])
    store.pin(kept, "test")
    before = store.quota.used
    report = store.gc()
    assert (report.blocks, report.files, report.leaves) == (1, 2, 0)
    assert report.freed == before - store.quota.used > 0
    assert store.list_blocks() == [kept]
    assert _roots(store) == {files[0].ref.root}
    assert not store.has_block(lost)
    assert store.gc().freed == 0
    store.unpin(kept)
    assert store.gc().files == 1
    assert store.quota.used == 0
    assert list((store.root / "files").iterdir()) == []


def test_pins_outlive_a_restart(store: Store, files: list[Made]) -> None:
    kept = _model(store, files[0])
    store.pin(kept, "test")
    again = reopened(store)
    again.gc()
    assert _roots(again) == {files[0].ref.root}
    again.close()


def test_a_file_of_two_models_goes_with_the_last(store: Store, files: list[Made]) -> None:
    one, both = _model(store, files[0]), _model(store, files[0], files[1])
    store.pin(one, "test")
    store.pin(both, "test")
    store.unpin(both)
    store.gc()
    assert _roots(store) == {files[0].ref.root}


def test_an_adapter_keeps_its_base_and_not_the_other_way_round(
    store: Store, files: list[Made]
) -> None:
    base = _model(store, files[0])
    derived = _model(store, files[1], depends_on=(base,))
    adapter = _adapter(store, derived, files[2])
    store.pin(adapter, "test")
    assert store.gc().files == 0
    assert set(store.list_blocks()) == {base, derived, adapter}
    store.unpin(adapter)
    store.pin(base, "test")
    assert store.gc().files == 2
    assert store.list_blocks() == [base]


def test_a_pinned_expert_keeps_its_tensors_only(store: Store, files: list[Made]) -> None:
    model = _model(store, files[0], files[1])
    expert = _put(
        store,
        ExpertManifest(
            model=model,
            name="layer0.expert0",
            tensors=(TensorRef(file=0, section=1), TensorRef(file=0, section=4)),
            depends_on=(),
        ),
    )
    store.pin(expert, "test")
    report = store.gc()
    assert report.files == 2
    assert report.leaves == 21
    held = store.file(files[0].ref.root)
    # The header, "a" (3 sub-tiles) and "c" (1); "b" and "d" are gone.
    assert held.have == Runs([(0, 4), (5, 6)])
    assert set(store.list_blocks()) == {model, expert}
    check_store(store)
    store.pin(model, "test")
    files[0].feed(held)
    assert store.gc().leaves == 0


def test_of_a_watched_model_only_the_headers_stay(store: Store, files: list[Made]) -> None:
    model = _model(store, files[0], files[1])
    store.pin(model, WATCHED)
    report = store.gc()
    assert store.list_blocks() == [model]
    assert _roots(store) == {files[0].ref.root}  # the flat file has no header
    assert store.file(files[0].ref.root).have == Runs([(0, 1)])
    assert report.files == 2
    store.unpin(model, WATCHED)
    assert store.gc().files == 1
    assert store.quota.used == 0


def test_what_manifests_take_of_the_quota(store: Store, files: list[Made]) -> None:
    model = _model(store, files[0], files[1])
    adapter = _adapter(store, model, files[2])
    assert store.reached_bytes([adapter]) == store.quota.used
    lora = store.file(files[2].ref.root)
    rest = lora.held_bytes + lora.fixed_bytes + store.block_size(adapter)
    assert store.reached_bytes([model]) == store.quota.used - rest
    assert store.reached_bytes([]) == 0


def test_experts_live_as_long_as_their_model(store: Store, files: list[Made]) -> None:
    model = _model(store, files[0])
    part = ExpertManifest(
        model=model, name="layer0.expert1", tensors=(TensorRef(file=0, section=1),), depends_on=()
    )
    expert = _put(store, part)
    store.pin(model, "test")
    assert expert in (store.gc(), store.list_blocks())[1]
    store.unpin(model)
    store.gc()
    assert store.list_blocks() == []


def test_a_pin_may_come_before_its_manifest(store: Store, files: list[Made]) -> None:
    model = _model(store, files[0])
    data = store.get_block(model)
    store.delete_block(model)
    store.pin(model, "pulling")
    store.put_block(data)
    store.gc()
    assert _roots(store) == {files[0].ref.root}


def test_work_under_way_is_spared(store: Store, files: list[Made]) -> None:
    model = _model(store, files[1])
    with store.keeping() as keep:
        keep.add(files[0].ref.root)
        keep.add(model)
        assert store.gc().files == 1
        assert _roots(store) == {files[0].ref.root, files[1].ref.root}
        assert store.list_blocks() == [model]
    assert store.gc().files == 2


def test_only_what_was_named_is_looked_at(store: Store, files: list[Made]) -> None:
    store.gc(only=[files[0].ref.root])
    assert _roots(store) == {files[1].ref.root, files[2].ref.root}


def test_blocks_that_are_no_manifests_can_be_pinned(store: Store) -> None:
    kept, lost = store.put_block(b"\xa0"), store.put_block(b"\x80")
    store.pin(kept, "test")
    store.gc()
    assert store.list_blocks() == [kept]
    assert not store.has_block(lost)


def test_a_name_that_is_to_be_kept_waits_for_a_collection_and_beginning_to_keep_does_not(
    store: Store, files: list[Made]
) -> None:
    """Between learning a root and holding its file no collection can slip in; and the event
    loop, which begins to keep, must not stand still for a collection of thousands of files."""
    collecting, go_on, kept = threading.Event(), threading.Event(), threading.Event()
    detach = store.detach_file

    def slow(root: bytes) -> tuple[int, list[Path]]:
        collecting.set()
        assert go_on.wait(10)
        return detach(root)

    store.detach_file = slow  # type: ignore[method-assign]
    collection = threading.Thread(target=store.gc)
    collection.start()
    assert collecting.wait(10)
    with store.keeping() as keep:
        adding = threading.Thread(target=lambda: (keep.add(files[0].ref.root), kept.set()))
        adding.start()
        assert not kept.wait(0.1)
        go_on.set()
        assert kept.wait(10)
        collection.join()
        assert store.file(files[0].ref.root) is None  # it was collected before, wholly
        adding.join()


def test_what_is_kept_is_spared(store: Store, files: list[Made]) -> None:
    root = files[0].ref.root
    with store.keeping() as keep:
        keep.add(root)
        store.gc()
        assert store.file(root).complete
