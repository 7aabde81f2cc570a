"""Which tensors of a checkpoint are one expert: by their names, as the libraries write them.

    model.layers.4.block_sparse_moe.experts.7.w1.weight            Mixtral, PhiMoE
    model.layers.4.mlp.experts.7.gate_proj.weight                  Qwen, DeepSeek, OLMoE
    model.layers.4.feed_forward.experts.7.up_proj.weight           Jamba
    decoder.block.3.layer.2.mlp.experts.expert_7.wi.weight         Switch Transformers
    decoder.layers.3.ffn.experts.expert_7.fc1.weight               NLLB-MoE

Shared experts and routers belong to no expert. Checkpoints that fuse the experts of a layer
into one tensor (gpt-oss, Llama 4) have none here: their parts are tensors, not experts.

The manifests follow from the model's alone, so that every daemon that has the headers knows
them by the same names and content ids.
"""

import re
from collections.abc import Iterable, Sequence

from protocols.manifest import MAX_TENSORS, ExpertManifest, ModelManifest, TensorRef
from protocols.tensors.tensorblock import Layout

_TENSOR = re.compile(
    r"(?P<before>(?:[A-Za-z_][A-Za-z0-9_]*\.)*?)"
    r"(?:layers|layer|blocks|block|h)\.(?P<layer>\d{1,6})\."
    r"(?:[A-Za-z0-9_]+\.)*?experts\.(?:expert_)?(?P<expert>\d{1,6})\."
)
_USUAL = {"model", "transformer", "backbone", "language_model"}
"""Parts in front of the layers that say nothing; what else stands there is part of the name."""

MAX_TENSOR_NAME = 512
"""Characters; known names have up to 100. The pattern's time grows with their square."""
MAX_TOWER = 64
"""Characters in front of `layer4.expert7`, so that it fits a manifest's names."""

MAX_EXPERTS = 1 << 15
"""Of a model; the largest published has 23,000. Each has a manifest, which is a file."""

ExpertKey = tuple[str, int, int]


def expert_of(tensor: str) -> ExpertKey | None:
    """(tower or "", layer, expert) of a tensor's name; None where it is no expert's."""
    found = _TENSOR.match(tensor) if len(tensor) <= MAX_TENSOR_NAME else None
    if found is None:
        return None
    before = [part.lower() for part in found["before"].split(".") if part]
    tower = "_".join(part for part in before if part not in _USUAL).lstrip("_")
    if len(tower) > MAX_TOWER:
        return None
    return tower, int(found["layer"]), int(found["expert"])


def expert_name(key: ExpertKey) -> str:
    """`layer4.expert7`, or `decoder.layer3.expert7` where a model has several towers."""
    tower, layer, expert = key
    return f"{tower}." * bool(tower) + f"layer{layer}.expert{expert}"


def experts_of(
    cid: bytes, model: ModelManifest, layouts: Sequence[Layout | None]
) -> list[ExpertManifest]:
    """The experts of the model `cid`, by tower, layer and number.

    `layouts` are those of the manifest's files, None where a header is not here yet.
    """
    tensors: dict[ExpertKey, list[TensorRef]] = {}
    for file, (ref, layout) in enumerate(zip(model.files, layouts, strict=True)):
        if layout is None or ref.layout != "safetensors":
            continue
        for section in layout.sections[1:]:
            key = expert_of(section.name)
            if key is not None:
                tensors.setdefault(key, []).append(TensorRef(file=file, section=section.index))
    if len(tensors) > MAX_EXPERTS:
        return []  # names that are made up: a checkpoint has no more
    return [_manifest(cid, key, tensors[key]) for key in sorted(tensors) if _fits(tensors[key])]


def _fits(tensors: Sequence[TensorRef]) -> bool:
    return len(tensors) <= MAX_TENSORS


def _manifest(cid: bytes, key: ExpertKey, tensors: Iterable[TensorRef]) -> ExpertManifest:
    # Files and sections were walked in order, which is the order that a manifest has.
    return ExpertManifest(model=cid, name=expert_name(key), tensors=tuple(tensors), depends_on=())
