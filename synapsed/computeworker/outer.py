"""The outer step: what a primary makes of a round's aggregate, and what everybody adds.

    result = encode(-rate * (g + momentum * v) + what results left out so far),
    v <- momentum * v + g                                               (Nesterov, as in DiLoCo)

where g is the aggregate of pseudo-gradients (base - local). With one inner step a round the g are
gradients, and AdamW runs here instead (Kingma & Ba 2015; Loshchilov & Hutter 2019).

Only results are authoritative: a result is a delta like any other and everybody adds its decoded
values, exactly. The state behind it (v, AdamW's moments, what results left out) is a pure function
of the group's committed chain: of each round's inputs, in their order, and the plan. Whoever has a
round's inputs could compute the same state and the same bytes of the result; the replicas do not do
so yet, and endorse what their primary made. A successor starts from nothing, which is allowed: the
next rounds lose some momentum and what the results had left out, no round is wrong.

For that, only single elementwise operations are used here: nothing that a library may fuse or add
in another order, so that a CPU and a GPU agree to the bit.
"""

import json
import math
from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from protocols.learn.plan import MILLE, Plan
from synapsed.computeworker import codecs
from synapsed.computeworker.feedback import Feedback, settings_of

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
"""AdamW's, at learners and at the primary alike. 0.99 instead of 0.999: runs here have some
hundred steps between changes of everything."""
ABOUT = "about"


class Outer:
    """One group's state, after so many rounds."""

    def __init__(
        self,
        velocity: Sequence[Tensor],
        second: Sequence[Tensor],
        left: Feedback,
        steps: int = 0,
    ) -> None:
        self.velocity = list(velocity)
        """Nesterov's; AdamW's first moments while `steps` > 0."""
        self.second = list(second)
        """AdamW's second moments; empty unless it has run."""
        self.left = left
        self.steps = steps
        """AdamW steps so far; 0 with Nesterov."""

    @classmethod
    def start(cls, tiles: Sequence[int], device: str | torch.device = "cpu") -> "Outer":
        """Nothing behind it; for tiles of so many elements."""
        return cls(
            [torch.zeros(count, device=device) for count in tiles],
            [],
            Feedback.nothing(tiles, device),
        )

    def step(
        self, plan: Plan, number: int, mean: Sequence[Tensor], base: Sequence[Tensor]
    ) -> bytes:
        """Round `number`'s result. `mean` is robust.aggregate's, `base` the version before."""
        phase = plan.phase_of(number)
        if phase.steps == 1:
            update = self._adamw(plan, plan.rate_of(number), mean, base)
        else:
            update = self._nesterov(plan, mean)
        return self.left.encode(phase.down, update, settings_of(phase))

    def _nesterov(self, plan: Plan, mean: Sequence[Tensor]) -> list[Tensor]:
        if self.steps:
            self.velocity = [torch.zeros_like(tile) for tile in self.velocity]
            self.second, self.steps = [], 0
        rate, momentum = plan.outer_rate / MILLE, plan.outer_momentum / MILLE
        update = []
        for at, g in enumerate(mean):
            v = self.velocity[at] * momentum
            v = v + g
            self.velocity[at] = v
            ahead = v * momentum
            ahead = ahead + g
            update.append(ahead * -rate)
        return update

    def _adamw(
        self, plan: Plan, rate: float, mean: Sequence[Tensor], base: Sequence[Tensor]
    ) -> list[Tensor]:
        if not self.steps:
            self.velocity = [torch.zeros_like(tile) for tile in self.velocity]
            self.second = [torch.zeros_like(tile) for tile in self.velocity]
        self.steps += 1
        decay = plan.decay / MILLE
        first_scale = 1 / (1 - BETA1**self.steps)
        second_scale = 1 / math.sqrt(1 - BETA2**self.steps)
        update = []
        for at, (g, w) in enumerate(zip(mean, base, strict=True)):
            first = self.velocity[at] * BETA1
            first = first + g * (1 - BETA1)
            second = self.second[at] * BETA2
            second = second + (g * g) * (1 - BETA2)
            self.velocity[at], self.second[at] = first, second
            below = torch.sqrt(second) * second_scale
            move = (first * first_scale) / (below + EPSILON)
            move = move + w * decay
            update.append(move * -rate)
        return update

    def save(self) -> bytes:
        """As a safetensors file: what a replica keeps beside the version."""
        tensors = {f"velocity.{at}": tile.cpu() for at, tile in enumerate(self.velocity)}
        tensors |= {f"second.{at}": tile.cpu() for at, tile in enumerate(self.second)}
        tensors |= {f"left.{at}": tile.cpu() for at, tile in enumerate(self.left.residual)}
        return save(tensors, {ABOUT: json.dumps({"steps": self.steps})})

    @classmethod
    def load(cls, data: bytes, device: str | torch.device = "cpu") -> "Outer":
        """What `save` wrote, on this replica's own disk."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        steps = json.loads(header["__metadata__"][ABOUT])["steps"]
        tensors = load(data)

        def those(name: str) -> list[Tensor]:
            count = sum(key.startswith(name + ".") for key in tensors)
            return [tensors[f"{name}.{at}"].to(device) for at in range(count)]

        return cls(those("velocity"), those("second"), Feedback(those("left")), steps)


def apply(base: Sequence[Tensor], result: bytes) -> list[Tensor]:
    """The version after: w + decoded value, one exact product and one rounded sum for each."""
    values = codecs.decode(result, [tile.numel() for tile in base], base[0].device)
    return [w + value for w, value in zip(base, values, strict=True)]
