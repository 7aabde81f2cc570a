"""Folders become models: what is taken, what is refused, and that a failure leaves nothing."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from protocols.cid import cid_of
from protocols.errors import MalformedError, SynapseError
from protocols.manifest import (
    FileRef,
    Manifest,
    PickleRefusedError,
    UnknownDependencyError,
    check_base,
    decode_manifest,
)
from protocols.tensors.safetensors_header import (
    HeaderError,
    HeaderTruncatedError,
    OffsetHoleError,
    OffsetOutOfFileError,
    OverlappingOffsetsError,
)
from synapsed.models import (
    dependencies,
    import_artefact,
    import_model,
    list_models,
    model_state,
    remove_model,
)
from synapsed.models.folder import IndexMismatchError, LinkRefusedError, NotAModelError
from synapsed.store import QuotaExceededError, Store
from tests.store_kit import QUOTA, check_store, model_folder, reopened, safetensors
from tests.test_manifest_rules import ADAPTER, KERNEL


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", QUOTA)
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "my-model", shards=2)


def nothing_left(store: Store) -> bool:
    on_disk = [*(store.root / "files").iterdir(), *(store.root / "blocks").glob("*/*")]
    return not (on_disk or store.files() or store.list_blocks() or store.pins())


def test_a_folder_becomes_a_pinned_model(store: Store, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = import_model(store, folder, progress=lambda *step: seen.append(step))
    paths = [ref.path for ref in done.manifest.files]
    assert paths == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
    assert done.manifest.name == "my-model"
    assert decode_manifest(store.get_block(done.cid)) == done.manifest
    for ref in done.manifest.files:
        held = store.file(ref.root)
        assert held.complete
        data = b"".join(held.read(n, n + 1) for n in range(held.layout.leaf_count))
        assert data == (folder / ref.path).read_bytes()
    assert [pin.cid for pin in store.pins()] == [done.cid]
    assert [step[0] for step in seen] == sorted(step[0] for step in seen)
    assert seen[-1][0] == seen[-1][1] == 2 * sum(ref.size for ref in done.manifest.files)
    check_store(store)
    state = model_state(store, done.cid)
    assert state.complete
    assert state.held == state.size
    assert state.pinned == ["imported"]
    assert state.experts == 8
    assert store.gc().files == 0


def test_the_same_folder_gives_the_same_name(store: Store, folder: Path, tmp_path: Path) -> None:
    first = import_model(store, folder)
    used = store.quota.used
    assert import_model(store, folder).cid == first.cid
    assert store.quota.used == used
    other = Store.open(tmp_path / "other", QUOTA)
    assert import_model(other, folder).cid == first.cid
    assert import_model(other, folder, "another name").cid != first.cid
    assert len(list_models(other)) == 2
    other.close()


def test_known_bytes_need_no_room(store: Store, folder: Path) -> None:
    import_model(store, folder)
    store.quota.limit = store.quota.used + 3000
    import_model(store, folder, "again")
    check_store(store)


def test_one_file_is_a_model_too(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(safetensors({"a": 100}))
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    done = import_model(store, tmp_path / "tiny.safetensors")
    assert done.manifest.name == "tiny"
    assert [ref.layout for ref in done.manifest.files] == ["safetensors"]
    done = import_model(store, tmp_path / "tiny.gguf")
    assert [ref.layout for ref in done.manifest.files] == ["flat"]


def test_tools_folders_and_pickles_are_passed_over(store: Store, folder: Path) -> None:
    for name in (".git", ".cache", "__pycache__"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("x")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (folder / "optimizer").write_bytes(b"PK\x03\x04data.pkl")
    (folder / "sneaky.json").write_bytes(b"\x80\x04\x95.")
    (folder / ".gitattributes").write_text("x")
    done = import_model(store, folder)
    assert done.skipped == ["optimizer", "pytorch_model.bin", "sneaky.json"]
    paths = [ref.path for ref in done.manifest.files]
    assert ".gitattributes" in paths
    assert not any(path.startswith((".git/", ".cache", "__pycache__")) for path in paths)
    assert not set(done.skipped) & set(paths)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "x.pkl", "plain"])
def test_pickles_alone_are_refused(store: Store, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(b"\x80\x04\x95os.system")
    for path in (folder, folder / name):
        with pytest.raises(PickleRefusedError, match="convert it to safetensors"):
            import_model(store, path)
    assert nothing_left(store)


def test_a_pickle_that_is_called_safetensors_is_no_header(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(HeaderError):
        import_model(store, tmp_path / "m.safetensors")


def _outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("key")
    (folder / "link.json").symlink_to(folder.parent / "secret")


def _upwards(folder: Path) -> None:
    (folder.parent / "secret").write_text("key")
    (folder / "1_Pooling" / "link.json").symlink_to("../../secret")


def _dangling(folder: Path) -> None:
    (folder / "link.json").symlink_to("/nonexistent/x")


def _to_a_folder(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)


@pytest.mark.parametrize("link", [_outside, _upwards, _dangling, _to_a_folder])
def test_links_out_are_refused(store: Store, folder: Path, link: Callable[[Path], None]) -> None:
    link(folder)
    with pytest.raises(LinkRefusedError, match="cp -rL"):
        import_model(store, folder)
    assert nothing_left(store)


def test_links_inside_are_files(store: Store, folder: Path) -> None:
    (folder / "alias.json").symlink_to("config.json")
    refs = {ref.path: ref.root for ref in import_model(store, folder).manifest.files}
    assert refs["alias.json"] == refs["config.json"]


def test_what_is_no_file_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(NotAModelError, match="neither"):
        import_model(store, folder)
    with pytest.raises(NotAModelError, match="neither"):
        import_model(store, folder / "pipe")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAModelError, match=r"no \.safetensors"):
        import_model(store, tmp_path / "empty")
    with pytest.raises(SynapseError, match="No such file"):
        import_model(store, tmp_path / "absent")
    assert nothing_left(store)


def test_names_that_are_no_text_are_refused(store: Store, folder: Path) -> None:
    name = os.fsencode(folder) + b"/bad-\xff.json"
    with open(name, "wb") as file:
        file.write(b"{}")
    with pytest.raises(MalformedError, match="surrogate"):
        import_model(store, folder)
    os.unlink(name)
    (folder / "line\nbreak.json").write_text("{}")
    with pytest.raises(MalformedError, match="control"):
        import_model(store, folder)


GOOD = safetensors({"a": 1000, "b": 2000})


def _header(data: bytes, **offsets: list[int]) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, span in offsets.items():
        header[name]["data_offsets"] = span
        header[name]["shape"] = [span[1] - span[0]]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", HeaderTruncatedError),
        (GOOD[:7], HeaderTruncatedError),
        (GOOD[:60], HeaderTruncatedError),
        (GOOD[:-1], OffsetOutOfFileError),
        (GOOD + b"x", OffsetHoleError),
        (_header(GOOD, a=[0, 1500]), OverlappingOffsetsError),
        (_header(GOOD, a=[0, 900]), OffsetHoleError),
        (_header(GOOD, b=[1000, 9000]), OffsetOutOfFileError),
        (b"\xff" * 100, HeaderError),
        ((1 << 20).to_bytes(8, "little") + b"[" * (1 << 20), HeaderError),
    ],
)
def test_lying_safetensors_leave_nothing(
    store: Store, folder: Path, data: bytes, error: type[SynapseError]
) -> None:
    (folder / "zzz-last.safetensors").write_bytes(data)
    with pytest.raises(error):
        import_model(store, folder)
    assert nothing_left(store)
    assert list((store.root / "tmp").iterdir()) == []


def test_a_sharded_model_must_be_whole(store: Store, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    shard = next(iter(good["weight_map"].values()))
    for wrong, why in (
        ({"weight_map": good["weight_map"] | {"more.weight": shard}}, "does not have"),
        ({"weight_map": good["weight_map"] | {"x": "model-9.safetensors"}}, "is not there"),
        ({"weight_map": good["weight_map"] | {"x": "../model.safetensors"}}, "is not there"),
        ({"weight_map": 7}, "not an index"),
        ([], "not an index"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(IndexMismatchError, match=why):
            import_model(store, folder)
    index.write_text("[" * 100_000)
    with pytest.raises(IndexMismatchError):
        import_model(store, folder)
    index.write_text(json.dumps(good))
    (folder / shard).unlink()
    with pytest.raises(IndexMismatchError, match="is not there"):
        import_model(store, folder)
    assert nothing_left(store)


def test_a_quota_that_is_too_small_writes_nothing(store: Store, folder: Path) -> None:
    store.quota.limit = 500_000
    with pytest.raises(QuotaExceededError, match=r"raise store\.quota"):
        import_model(store, folder)
    assert nothing_left(store)
    assert store.quota.used == 0


def test_a_quota_that_the_experts_do_not_fit_leaves_nothing(store: Store, folder: Path) -> None:
    done = import_model(store, folder)
    room = store.quota.used - len(store.get_block(done.experts["layer1.expert3"]))
    remove_model(store, done.cid)
    store.quota.limit = room
    with pytest.raises(QuotaExceededError):
        import_model(store, folder)
    assert nothing_left(store)


def test_an_adapter_and_a_kernel(store: Store, folder: Path, tmp_path: Path) -> None:
    base = import_model(store, folder).cid
    lora, kernel = tmp_path / "adapter_model.safetensors", tmp_path / "swiglu.cpp"
    lora.write_bytes(safetensors({"a": 100}))
    kernel.write_text("int main;")

    def adapter_of(base: bytes) -> Callable[[FileRef], Manifest]:
        return lambda ref: msgspec.structs.replace(ADAPTER, file=ref, base=base, depends_on=())

    cid, manifest = import_artefact(
        store, lora, "safetensors", adapter_of(base), reason="published"
    )
    assert decode_manifest(store.get_block(cid)) == manifest
    assert store.file(manifest.file.root).complete
    check_base(manifest, base)
    made, _ = import_artefact(
        store,
        kernel,
        "flat",
        lambda ref: msgspec.structs.replace(KERNEL, file=ref),
        reason="published",
    )
    assert {pin.cid for pin in store.pins()} == {base, cid, made}
    assert store.gc().freed == 0
    lora.write_bytes(safetensors({"b": 100}))
    with pytest.raises(UnknownDependencyError):
        import_artefact(store, lora, "safetensors", adapter_of(cid_of(b"x")), reason="published")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(PickleRefusedError):
        import_artefact(store, tmp_path / "x.bin", "flat", adapter_of(base), reason="published")
    assert store.gc().freed == 0


def test_a_quota_that_another_took_meanwhile_leaves_nothing(store: Store, folder: Path) -> None:
    def shrink(done: int, total: int) -> None:
        if done > 0.8 * total:
            store.quota.limit = store.quota.used

    with pytest.raises(QuotaExceededError):
        import_model(store, folder, progress=shrink)
    assert nothing_left(store)
    assert store.quota.used == 0


def test_a_file_that_changes_meanwhile_is_refused(store: Store, folder: Path) -> None:
    target = folder / "model-00002-of-00002.safetensors"
    data = target.read_bytes()

    def change(done: int, total: int) -> None:
        if done > total // 2:
            target.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(MalformedError, match="changed while it was imported"):
        import_model(store, folder, progress=change)
    assert nothing_left(store)

    def cut(done: int, total: int) -> None:
        if done > total // 2:
            target.write_bytes(data[:-1])

    target.write_bytes(data)
    with pytest.raises(MalformedError, match="became shorter"):
        import_model(store, folder, progress=cut)
    assert nothing_left(store)


class Stop(BaseException):
    """As trio.Cancelled is: no error of ours."""


def test_a_stopped_import_goes_on_or_is_collected(store: Store, folder: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 0.8 * total:
            raise Stop

    with pytest.raises(Stop):
        import_model(store, folder, progress=stop)
    store = reopened(store)
    assert store.files() != []
    check_store(store)
    copied = sum(held.held_bytes for held in store.files())
    assert copied > 0
    done = import_model(store, folder)
    assert model_state(store, done.cid).complete
    remove_model(store, done.cid)
    assert nothing_left(store)
    with pytest.raises(Stop):
        import_model(store, folder, progress=stop)
    store.gc()
    assert nothing_left(store)
    store.close()


def test_dependencies_must_be_here(store: Store, folder: Path) -> None:
    with pytest.raises(UnknownDependencyError):
        import_model(store, folder, depends_on=[cid_of(b"absent")])
    assert nothing_left(store)
    base = import_model(store, folder, "base").cid
    tune = import_model(store, folder, "tune", depends_on=[base])
    assert dependencies(store, tune.cid) == [base, tune.cid]
    expert = tune.experts["layer0.expert0"]
    assert dependencies(store, expert) == [base, tune.cid, expert]
    store.delete_block(base)
    with pytest.raises(UnknownDependencyError, match="is not held"):
        dependencies(store, expert)


def test_removing_a_model_frees_what_only_it_had(store: Store, folder: Path) -> None:
    one = import_model(store, folder, "one")
    two = import_model(store, folder, "two")
    size = sum(ref.size for ref in one.manifest.files)
    assert remove_model(store, one.cid) < 5000
    assert [state.cid for state in list_models(store)] == [two.cid]
    assert remove_model(store, two.cid) > size
    assert nothing_left(store)
