"""New models, for tests, for the demo and for a network's first training."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.models.mixtral.configuration_mixtral import MixtralConfig

from synapsed.compute.errors import UnknownKindError
from synapsed.computeworker.files import write_whole
from synapsed.computeworker.kinds import CONFIG, KINDS

ALIGN = 4096
"""Where the values begin: a page, so that their mapping is aligned."""


def tiny_config() -> Any:
    """A mixture of experts of 262,976 parameters that reads bytes and learns in minutes."""
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        router_aux_loss_coef=0.01,
        output_router_logits=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        architectures=["MixtralForCausalLM"],
        dtype="float32",
    )
    config._experts_implementation = "eager"
    return config


CONFIGS = {"tiny-moe": tiny_config}


def new_model(kind: str, folder: str, seed: int) -> None:
    """Write `config.json` and `model.safetensors` with fresh weights. Raises UnknownKindError."""
    make = CONFIGS.get(kind)
    if make is None:
        raise UnknownKindError(
            f"there is no kind of new model {kind[:32]!r}", remedy=f"known are {', '.join(CONFIGS)}"
        )
    config = make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = KINDS[config.model_type][1](config)
    data = _padded(save(published(model.state_dict()), {"format": "pt"}))
    write_whole(str(Path(folder) / "model.safetensors"), [data])
    write_whole(str(Path(folder) / CONFIG), [config.to_json_string().encode()])


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named and cut as checkpoints of Mixtral have them: three matrices an expert."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        layer = name.removesuffix(".mlp.experts.gate_up_proj")
        if layer != name:
            for expert, both in enumerate(value):
                before = f"{layer}.block_sparse_moe.experts.{expert}"
                half = both.shape[0] // 2
                found[f"{before}.w1.weight"] = both[:half].clone()
                found[f"{before}.w3.weight"] = both[half:].clone()
            continue
        layer = name.removesuffix(".mlp.experts.down_proj")
        if layer != name:
            for expert, one in enumerate(value):
                found[f"{layer}.block_sparse_moe.experts.{expert}.w2.weight"] = one.clone()
            continue
        found[name.replace(".mlp.", ".block_sparse_moe.")] = value
    return found


def _padded(data: bytes) -> bytes:
    """A safetensors file again, with spaces behind its JSON up to ALIGN."""
    length = int.from_bytes(data[:8], "little")
    room = -(8 + length) % ALIGN
    text = data[8 : 8 + length] + b" " * room
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
