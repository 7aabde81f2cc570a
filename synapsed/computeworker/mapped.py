"""Models to generate with: transformers' modules over mapped files, without a copy.

The module is built on the meta device, and each parameter replaced by a view of its file's mapping.
The experts of a layer, which transformers fuses and files mostly do not, become a module of our
own (experts.py) that keeps one view for each matrix. So an expert is read from the disk when a
token is routed to it, and never otherwise.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from synapsed.compute.errors import BadModelError
from synapsed.computeworker.device import Device
from synapsed.computeworker.experts import CardShelf, Expert, MappedExperts, Shelf
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.kinds import CONFIG, MAX_CONFIG, Place, build, place_of, read_config
from synapsed.computeworker.tokens import Tokens, tokens_of


@dataclass
class Model:
    """One that is open."""

    config: Any
    module: Any
    """transformers' own class, whose forward takes `input_ids`."""
    tokens: Tokens
    device: Device
    shelf: Shelf
    parameters: int
    bytes: int
    copied: int

    @property
    def context(self) -> int:
        """Tokens that it was made for."""
        return int(self.config.max_position_embeddings)


def open_model(files: ModelFiles, device: Device) -> Model:
    """Map it. Raises BadModelError, UnknownKindError, DiskError, OutOfMemoryError."""
    config = config_of(files)
    tokens = tokens_of(files, config)
    module = build(config)
    parts, copied = _parts(files)
    for file in files.safetensors.values():
        file.read_only_what_is_asked_for()
    shelf = CardShelf(files, device) if device.card else Shelf(files)
    for at, layer in enumerate(module.model.layers):
        prefix = f"model.layers.{at}.mlp.experts"
        experts = _experts(prefix, layer.mlp.experts, parts)
        layer.mlp.experts = MappedExperts(layer.mlp.experts.act_fn, experts, shelf)
    files.will_need(parts.values())  # what is left, each token needs
    _bind(module, config, parts, device)
    module.model.rotary_emb.to(device.torch)
    module.eval()
    total = sum(
        info.stop - info.start
        for file in files.safetensors.values()
        for info in file.header.tensors
    )
    width = next(module.parameters()).dtype.itemsize
    return Model(config, module, tokens, device, shelf, total // width, total, copied)


def config_of(files: ModelFiles) -> Any:
    """A model's. Raises BadModelError."""
    data = files.read(CONFIG, MAX_CONFIG)
    if data is None:
        raise BadModelError(
            f"a model without {CONFIG}", remedy="import the folder with all of its files"
        )
    return read_config(data)


Parts = dict[Place, Tensor]


def _parts(files: ModelFiles) -> tuple[Parts, int]:
    """All tensors by their places, and the bytes of those that had to be copied."""
    parts: Parts = {}
    copied = 0
    for mapped in files.safetensors.values():
        for info in mapped.header.tensors:
            value, moved = mapped.tensor(info)
            place = place_of(info.name)
            if place in parts:
                raise BadModelError(f"two tensors are {info.name[:80]!r}")
            parts[place] = value
            copied += value.nbytes if moved else 0
    kinds = {value.dtype for value in parts.values()}
    if len(kinds) != 1:
        raise BadModelError(
            f"weights of several types: {', '.join(sorted(map(str, kinds)))}",
            remedy="save the model in one",
        )
    return parts, copied


def _take(parts: Parts, place: Place, shape: torch.Size) -> Tensor:
    value = parts.pop(place, None)
    named = f"{place.parameter}{f'[{place.expert}].{place.part}' if place.expert >= 0 else ''}"
    if value is None:
        raise BadModelError(
            f"the model has no tensor {named}", remedy="pull or import all of its files"
        )
    if value.shape != shape:
        raise BadModelError(f"{named} is {list(value.shape)}, and {CONFIG} says {list(shape)}")
    return value


def _experts(prefix: str, fused: Any, parts: Parts) -> list[Expert]:
    """A layer's, from either layout."""
    both, down = f"{prefix}.gate_up_proj", f"{prefix}.down_proj"
    if Place(both) in parts:
        first = _take(parts, Place(both), fused.gate_up_proj.shape)
        last = _take(parts, Place(down), fused.down_proj.shape)
        return list(zip(first, last, strict=True))
    number, width, hidden = fused.gate_up_proj.shape
    half, whole = torch.Size((width // 2, hidden)), fused.down_proj.shape[1:]
    return [
        (
            _take(parts, Place(both, "gate", expert), half),
            _take(parts, Place(both, "up", expert), half),
            _take(parts, Place(down, "down", expert), whole),
        )
        for expert in range(number)
    ]


def _bind(module: Any, config: Any, parts: Parts, device: Device) -> None:
    """Put what is left in place of the module's parameters."""
    for name, parameter in list(module.named_parameters()):
        owner = module.get_submodule(name.rpartition(".")[0])
        tied = name == "lm_head.weight" and config.tie_word_embeddings
        if tied and Place(name) not in parts:
            continue
        value = device.up(_take(parts, Place(name), parameter.shape))
        setattr(owner, name.rpartition(".")[2], nn.Parameter(value, requires_grad=False))
    if config.tie_word_embeddings and module.lm_head.weight.is_meta:
        module.lm_head.weight = module.model.embed_tokens.weight
    if parts:
        raise BadModelError(f"a tensor that {CONFIG} has no place for: {next(iter(parts))}")
