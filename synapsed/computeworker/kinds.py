"""The architectures that this worker runs, and where each tensor of a checkpoint belongs in them.

`transformers` defines the modules. It fuses the experts of a layer into two parameters,
`gate_up_proj` (experts, 2 * width, hidden) and `down_proj` (experts, hidden, width), while
checkpoints keep three matrices for each expert, or the fused ones. A `Place` says which part of
which parameter a checkpoint's tensor is; each is contiguous, so tiles are slices of it either way.

A configuration is a stranger's: only these kinds, no code of its own, and bounds on all sizes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM
from transformers.models.olmoe.configuration_olmoe import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeForCausalLM

from synapsed.compute.errors import BadModelError, UnknownKindError

CONFIG = "config.json"
MAX_CONFIG = 1 << 20
BOUNDS = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 18,
    "num_hidden_layers": 512,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1 << 12,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "num_experts_per_tok": 4096,
    "max_position_embeddings": 1 << 24,
}
"""Some sixteen times what the largest published model has: modules are built before tensors are
compared with them."""

KINDS: dict[str, tuple[Any, Any]] = {
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "olmoe": (OlmoeConfig, OlmoeForCausalLM),
}

Part = Literal["whole", "gate", "up", "down"]
_EXPERT = re.compile(
    r"(?P<layer>model\.layers\.\d+)\.(?:block_sparse_moe|mlp)\.experts\.(?P<expert>\d+)\."
    r"(?P<matrix>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight"
)
_PARTS: dict[str, Part] = {
    "w1": "gate",
    "w3": "up",
    "w2": "down",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}


@dataclass(frozen=True)
class Place:
    """Which part of which parameter."""

    parameter: str
    part: Part = "whole"
    expert: int = -1

    def of(self, parameter: Tensor) -> Tensor:
        """That part of it. Raises IndexError for an expert that it does not have."""
        if self.part == "whole":
            return parameter
        one = parameter[self.expert]
        if self.part == "down":
            return one
        half = one.shape[0] // 2
        return one[:half] if self.part == "gate" else one[half:]


def place_of(name: str) -> Place:
    """Where a checkpoint's tensor belongs."""
    found = _EXPERT.fullmatch(name)
    if found is None:
        return Place(name.replace(".block_sparse_moe.", ".mlp."))
    part = _PARTS[found["matrix"]]
    fused = "down_proj" if part == "down" else "gate_up_proj"
    return Place(f"{found['layer']}.mlp.experts.{fused}", part, int(found["expert"]))


def read_config(data: bytes) -> Any:
    """A checkpoint's configuration. Raises BadModelError, UnknownKindError."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise BadModelError(f"{CONFIG} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadModelError(f"{CONFIG} is not an object")
    kind = fields.get("model_type")
    if kind not in KINDS:
        raise UnknownKindError(
            f"a model of the kind {str(kind)[:40]!r}", remedy=f"known are {', '.join(KINDS)}"
        )
    _check_bounds(fields)
    try:
        config = KINDS[kind][0].from_dict(fields)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadModelError(f"{CONFIG} makes no model: {str(error)[:300]}") from None
    # The only one that touches no weights but those of the experts that were chosen.
    config._experts_implementation = "eager"
    return config


def _check_bounds(fields: Mapping[str, Any]) -> None:
    for name, most in BOUNDS.items():
        value = fields.get(name)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise BadModelError(f"{CONFIG}: {name} is {str(value)[:40]}, not from 1 to {most}")


def build(config: Any) -> Any:
    """The module of a configuration, on the meta device: no memory but for what is no parameter.

    Raises BadModelError."""
    try:
        with torch.device("meta"):
            model = KINDS[config.model_type][1](config)
        # Its table of frequencies follows from the configuration and stands in no checkpoint.
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config=config)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise BadModelError(f"{CONFIG} makes no model: {str(error)[:300]}") from None
    return model
