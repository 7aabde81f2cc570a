"""The outer step: what a primary makes of a round's aggregate, and what everybody adds.

    result = encode(-rate * (g + momentum * v) + what results left out so far),
    v <- momentum * v + g                                               (Nesterov, as in DiLoCo)

where g is the aggregate of pseudo-gradients (base - local). With one inner step a round the g are
gradients, and AdamW runs here instead (Kingma & Ba 2015; Loshchilov & Hutter 2019).

Results are authoritative: a result is a delta like any other and everybody adds its decoded
values, exactly. The state behind it (v, AdamW's moments, what results left out) is a pure function
of the group's committed chain: of each round's inputs, in their order, and the plan. So each of a
group's three replicas makes every round itself, from its own copies, and signs only what came out
to the bit; and each has the state, which a round names by its sha256, when the primary is gone. A
primary that has it not, and finds nobody who has, starts from nothing, and says so: the next
rounds lose some momentum and what the results had left out, no round is wrong.

For that, only single elementwise operations are used here: nothing that a library may fuse or add
in another order, so that a CPU and a GPU agree to the bit.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from protocols.plan import MILLE, Plan
from synapsed.computeworker.decoded import Decoded
from synapsed.computeworker.feedback import Feedback, settings_of

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
"""AdamW's, at learners and at the primary alike. 0.99 instead of 0.999: runs here have some
hundred steps between changes of everything."""
MAGIC = b"SYNOUTR1"
_HEAD = struct.Struct("<8sQIII")


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
        for v, g in zip(self.velocity, mean, strict=True):
            v.mul_(momentum).add_(g)
            update.append((v * momentum).add_(g).mul_(-rate))
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

    def parts(self) -> list[bytes | memoryview]:
        """Its bytes, the same on every machine, since they are named by their hash:

            magic (8)  steps (8)  tiles of velocity, second, left (4 each)  elements (8 each)
            their values, fp32

        Numbers are little-endian.
        """
        kinds = (self.velocity, self.second, self.left.residual)
        tiles = [tile for kind in kinds for tile in kind]
        head = _HEAD.pack(MAGIC, self.steps, *(len(kind) for kind in kinds))
        sizes = struct.pack(f"<{len(tiles)}Q", *(tile.numel() for tile in tiles))
        return [head, sizes, *(_bytes_of(tile) for tile in tiles)]

    def save(self) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts())

    @classmethod
    def load(cls, data: bytes | bytearray, device: str | torch.device = "cpu") -> "Outer":
        """What `parts` wrote; a bytearray becomes its memory. Raises ValueError."""
        if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
            raise ValueError("no state of an outer optimiser")
        steps: int
        counts: list[int]
        _, steps, *counts = _HEAD.unpack_from(data)
        at = _HEAD.size + 8 * sum(counts)
        if len(data) < at:
            raise ValueError("a state that is cut off")
        sizes = struct.unpack_from(f"<{sum(counts)}Q", data, _HEAD.size)
        if len(data) != at + 4 * sum(sizes):
            raise ValueError("a state of another size than it says")
        own = data if isinstance(data, bytearray) else bytearray(data)
        values = torch.frombuffer(own, dtype=torch.float32, offset=at)
        tiles = [tile.to(device) for tile in torch.split(values, list(sizes))] if sizes else []
        velocity, second = tiles[: counts[0]], tiles[counts[0] : counts[0] + counts[1]]
        return cls(velocity, second, Feedback(tiles[counts[0] + counts[1] :]), steps)


def _bytes_of(tile: Tensor) -> memoryview:
    values: Any = tile.cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(values)


def apply(base: Sequence[Tensor], result: bytes) -> list[Tensor]:
    """The version after: w + decoded value, one exact product and one rounded sum for each."""
    said = Decoded.read(result, [tile.numel() for tile in base], base[0].device)
    return [said.added(at, w) for at, w in enumerate(base)]
