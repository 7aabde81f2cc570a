"""Experts are found by the names that libraries give their tensors."""

import sys
from pathlib import Path

import pytest

from protocols.cid import cid_of
from protocols.manifest import ExpertManifest, TensorRef, decode_manifest, encode_manifest
from synapsed.models import UnknownPartError, experts, import_model, sections_of
from synapsed.models.experts import expert_name, expert_of
from synapsed.store import Store
from tests.store_kit import QUOTA, model_folder, moe_tensors

NAMES = {
    "model.layers.4.block_sparse_moe.experts.7.w1.weight": "layer4.expert7",
    "model.layers.0.mlp.experts.127.gate_proj.weight": "layer0.expert127",
    "model.layers.60.mlp.experts.255.down_proj.weight_scale_inv": "layer60.expert255",
    "model.language_model.layers.3.mlp.experts.1.up_proj.weight": "layer3.expert1",
    "model.layers.9.feed_forward.experts.0.up_proj.weight": "layer9.expert0",
    "decoder.block.3.layer.2.mlp.experts.expert_5.wi.weight": "decoder.layer3.expert5",
    "encoder.block.1.layer.1.mlp.experts.expert_0.wo.weight": "encoder.layer1.expert0",
    "model.decoder.layers.3.ffn.experts.expert_12.fc1.weight": "decoder.layer3.expert12",
    "thinker.model.layers.2.mlp.experts.3.gate_proj.weight": "thinker.layer2.expert3",
    "transformer.h.5.mlp.experts.2.w2.weight": "layer5.expert2",
}
NOBODY = [
    "model.embed_tokens.weight",
    "model.layers.4.self_attn.q_proj.weight",
    "model.layers.4.block_sparse_moe.gate.weight",
    "model.layers.4.mlp.shared_experts.gate_proj.weight",
    "model.layers.4.mlp.shared_expert.gate_proj.weight",
    "model.layers.4.mlp.experts.gate_up_proj",  # fused: all experts in one tensor
    "model.layers.x.mlp.experts.1.w1.weight",
    "model.layers.4.mlp.experts.7",
    "experts.7.w1.weight",
    "a" * 10_000,
    "layers.1." * 1_000_000,
    "a." * 200 + "layers.4.mlp.experts.7.w1.weight",
]


@pytest.mark.parametrize(("tensor", "name"), NAMES.items())
def test_an_experts_tensor(tensor: str, name: str) -> None:
    key = expert_of(tensor)
    assert key is not None
    assert expert_name(key) == name
    part = ExpertManifest(model=cid_of(b"m"), name=name, tensors=_ONE, depends_on=())
    assert decode_manifest(encode_manifest(part)) == part


_ONE = (TensorRef(file=0, section=1),)


@pytest.mark.parametrize("tensor", NOBODY, ids=lambda name: name[:40])
def test_nobodys_tensor(tensor: str) -> None:
    assert expert_of(tensor) is None


@pytest.mark.parametrize("shards", [1, 3])
def test_the_experts_of_an_imported_model(tmp_path: Path, shards: int) -> None:
    store = Store.open(tmp_path / "s", QUOTA)
    done = import_model(store, model_folder(tmp_path / "model", moe_tensors(), shards))
    wanted = {f"layer{layer}.expert{n}" for layer in range(2) for n in range(4)}
    assert set(done.experts) == wanted
    for name, cid in done.experts.items():
        part = decode_manifest(store.get_block(cid))
        assert isinstance(part, ExpertManifest)
        assert (part.name, part.model) == (name, done.cid)
        tensors = {_tensor(store, done.manifest, ref) for ref in part.tensors}
        layer, number = name.removeprefix("layer").split(".expert")
        base = f"model.layers.{layer}.block_sparse_moe.experts.{number}"
        assert tensors == {f"{base}.{w}.weight" for w in ("w1", "w2", "w3")}
    places = sections_of(store, done.cid, ["layer1.expert2"])
    part = experts(store, done.cid)["layer1.expert2"]
    assert sorted((file, s) for file in places for s in places[file]) == [
        (ref.file, ref.section) for ref in part.tensors
    ]
    store.close()


def _tensor(store: Store, manifest, ref) -> str:
    return store.file(manifest.files[ref.file].root).layout.sections[ref.section].name


def test_parts_by_name(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", QUOTA)
    done = import_model(store, model_folder(tmp_path / "model"))
    (file,) = [n for n, ref in enumerate(done.manifest.files) if ref.layout == "safetensors"]
    names = [s.name for s in store.file(done.manifest.files[file].root).layout.sections]
    assert sections_of(store, done.cid, [], ["lm_head.weight"]) == {
        file: [names.index("lm_head.weight")]
    }
    assert sections_of(store, done.cid) == {}
    for parts in (["layer9.expert0"], []), ([], ["no.such"]), ([], ["__metadata__"]), ([], [""]):
        with pytest.raises(UnknownPartError):
            sections_of(store, done.cid, *parts)
    store.close()


def test_made_up_names_make_no_flood_of_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each expert's manifest is a file of 200 bytes, and takes 4 KB of the disk."""
    monkeypatch.setattr(sys.modules[expert_of.__module__], "MAX_EXPERTS", 7)
    store = Store.open(tmp_path / "store", QUOTA)
    few = import_model(store, model_folder(tmp_path / "few", moe_tensors(1, 7)))
    many = import_model(store, model_folder(tmp_path / "many", moe_tensors(2, 4)))
    assert len(few.experts) == 7
    assert many.experts == {}
    store.close()
