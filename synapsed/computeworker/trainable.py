"""A module to train: fp32 parameters, and where each tile of the model's files is in them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from protocols.learn.partition import Group
from synapsed.compute.errors import BadModelError
from synapsed.computeworker.device import Device
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.kinds import Place, build, place_of

PIECE = 400_000_000
"""Operations of one thread in some 25 ms, at the 16 billion a second that were measured for
matrices of a small model."""


@dataclass(frozen=True)
class Spot:
    """A tile: elements [start, start + count) of a part of a parameter."""

    parameter: nn.Parameter
    place: Place
    start: int
    count: int

    def value(self) -> Tensor:
        """Its values, one-dimensional, where they are."""
        return self._of(self.parameter.data)

    def gradient(self) -> Tensor:
        """Their gradient; zeros where there is none."""
        if self.parameter.grad is None:
            return torch.zeros(self.count, device=self.parameter.device)
        return self._of(self.parameter.grad)

    def _of(self, whole: Tensor) -> Tensor:
        # A part is contiguous, so this is a view.
        return self.place.of(whole).view(-1)[self.start : self.start + self.count]


def trainable(config: Any, device: Device) -> Any:
    """A module whose parameters are zeros, on the device. Raises BadModelError."""
    module: Any = build(config)
    for name, parameter in list(module.named_parameters()):
        owner = module.get_submodule(name.rpartition(".")[0])
        empty = torch.zeros(parameter.shape, dtype=torch.float32, device=device.torch)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(empty))
    if config.tie_word_embeddings:
        module.lm_head.weight = module.model.embed_tokens.weight
    module.model.rotary_emb.to(device.torch)
    return module


def sequences_at_once(config: Any, batch: int, context: int, device: Device) -> int:
    """So many that half a layer on them, forward or backward, is done in PIECE operations: whoever
    generates waits for one such piece at most. A card is quick enough for all."""
    if device.card:
        return batch
    hidden: int = config.hidden_size
    attention = 4 * hidden * hidden + 2 * context * hidden
    experts: int = 3 * hidden * config.intermediate_size * config.num_experts_per_tok
    # A product and a sum for each weight, and twice that on the way back.
    each = 4 * max(attention, experts) * context
    return max(1, min(batch, PIECE * device.threads // each))


def spots(module: Any, files: ModelFiles, groups: list[Group]) -> list[list[Spot]]:
    """Each group's tiles. Raises BadModelError unless the files are the module, all of it."""
    parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
    places = _places(parameters, files)
    return [
        [Spot(*places[tile.file, tile.section], tile.start, tile.count) for tile in group.tiles]
        for group in groups
    ]


def _places(
    parameters: dict[str, nn.Parameter], files: ModelFiles
) -> dict[tuple[int, int], tuple[nn.Parameter, Place]]:
    found: dict[tuple[int, int], tuple[nn.Parameter, Place]] = {}
    missing = {name: parameter.numel() for name, parameter in parameters.items()}
    taken: set[Place] = set()
    for number, mapped in files.safetensors.items():
        for section, info in enumerate(mapped.header.tensors, start=1):
            place = place_of(info.name)
            parameter = parameters.get(place.parameter)
            if parameter is None or place in taken:
                raise BadModelError(f"the configuration has no place for {info.name[:80]!r}")
            try:
                shape = place.of(parameter.data).shape
            except IndexError:
                raise BadModelError(f"an expert too many: {info.name[:80]!r}") from None
            if shape != info.shape:
                raise BadModelError(
                    f"{info.name[:80]!r} is {list(info.shape)}, in the model {list(shape)}"
                )
            taken.add(place)
            missing[place.parameter] -= shape.numel()
            found[number, section] = parameter, place
    short = next((name for name, left in missing.items() if left), None)
    if short is not None:
        raise BadModelError(f"the files do not have all of {short}", remedy="pull all of them")
    return found
