"""Error feedback: what an encoding left out is added to what is encoded next.

Without it, coarse codecs lose the same small values every round; with it, all of them arrive, some
rounds later (F. Seide et al. 2014; S. P. Karimireddy et al., "Error feedback fixes SignSGD", 2019).
A learner has one for each group, the primary one for its results. It goes on through refused and
lost deltas: what nobody acknowledged is taken back and comes with the next one.
"""

from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from protocols.plan import Phase
from synapsed.computeworker import codecs
from synapsed.computeworker.codecs import Settings

BLOCK_BITS = 12
"""log2 of the ternary elements that share a scale: one scale for 4,096 of them costs next to
nothing, and tiles of one tensor are even enough."""
HUNDRED = 100


def settings_of(phase: Phase) -> Settings:
    """What the encoder chooses in a phase, both ways."""
    if not phase.zone:
        return codecs.DEFAULT
    return Settings(block_bits=BLOCK_BITS, dead_zone=phase.zone / HUNDRED)


class Feedback:
    """What was not sent yet of one group; `residual` is fp32, one a tile."""

    def __init__(self, residual: Sequence[Tensor]) -> None:
        self.residual = list(residual)
        self._sent: bytes | None = None

    @classmethod
    def nothing(cls, tiles: Sequence[int], device: str | torch.device = "cpu") -> "Feedback":
        """For tiles of so many elements."""
        return cls([torch.zeros(count, device=device) for count in tiles])

    def encode(
        self, codec: str, values: Sequence[Tensor], settings: Settings = codecs.DEFAULT
    ) -> bytes:
        """The delta of `values` and of what was left; keeps what this one leaves.

        Where it raises, what was left is of no more use.
        """
        for kept, value in zip(self.residual, values, strict=True):
            kept.add_(value)
        self._sent = codecs.encode_off(codec, self.residual, settings)
        return self._sent

    def without(self, base: Sequence[Tensor]) -> list[Tensor]:
        """Where a learner goes on from: the base, moved by what it learned and did not send yet.

        Otherwise it would learn the same again while that waits, and all of it would arrive.
        """
        return [value - kept for value, kept in zip(base, self.residual, strict=True)]

    def take_back(self) -> None:
        """The last delta did not arrive and never will: keep what it said, too."""
        if self._sent is not None:
            said = self._decode(self._sent)
            self.residual = [kept + one for kept, one in zip(self.residual, said, strict=True)]
            self._sent = None

    def save(self) -> bytes:
        """As a safetensors file, for a learner that pauses."""
        return save({str(at): tile.cpu() for at, tile in enumerate(self.residual)})

    @classmethod
    def load(cls, data: bytes, device: str | torch.device = "cpu") -> "Feedback":
        """What `save` wrote. What was sent last counts as arrived."""
        tiles = load(data)
        return cls([tiles[str(at)].to(device) for at in range(len(tiles))])

    def _decode(self, delta: bytes) -> list[Tensor]:
        device = self.residual[0].device if self.residual else "cpu"
        return codecs.decode(delta, [tile.numel() for tile in self.residual], device)
