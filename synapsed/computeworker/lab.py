"""A training of several learners under one primary in one process, and the dense one beside it.

For the benches that choose and measure the plan: the model, its tiles, AdamW, error feedback,
codecs, aggregation and the outer step are those that daemons use; what is missing is the network.
A learner reads at step s what the dense training reads as its part of the batch of step s, so both
have seen the same tokens.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protocols.learn.delta import DeltaError
from protocols.learn.partition import Group
from protocols.plan import MILLE, MILLION, Phase, Plan
from synapsed.compute import wire
from synapsed.computeworker import codecs, newmodel, outer, robust
from synapsed.computeworker.adamw import Inner
from synapsed.computeworker.data import batch_of, window_count
from synapsed.computeworker.device import Device
from synapsed.computeworker.evaluate import losses_of
from synapsed.computeworker.feedback import Feedback, settings_of
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.groups import cut, values_of_model
from synapsed.computeworker.mapped import config_of
from synapsed.computeworker.outer import Outer
from synapsed.computeworker.sums import summed
from synapsed.computeworker.trainable import Spot, spots, trainable

HELD = 10
"""One of so many bytes of the text, its end, is what losses are measured on."""
SEEDS = 1000
"""Learners' seeds of one run's seed."""

Values = list[Tensor]
Lie = Callable[[int, Values, "Learner"], bytes]
"""(round, what was honestly learned, who) -> the delta that a liar sends instead."""


class Text(NamedTuple):
    """Bytes as tokens."""

    learned: Tensor
    held: Tensor

    @classmethod
    def of(cls, path: Path) -> "Text":
        """A file's first nine tenths, and its last."""
        tokens = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        held = len(tokens) // HELD
        return cls(tokens[:-held], tokens[-held:])


def _nothing() -> None:
    """No inference waits here."""


class Copy:
    """The model's parameters on one machine, and AdamW over them."""

    def __init__(self, kind: str, seed: int, plan: Plan, device: Device) -> None:
        with tempfile.TemporaryDirectory() as folder:
            newmodel.new_model(kind, folder, seed)
            paths = sorted(Path(folder).iterdir())
            files = ModelFiles([wire.ModelFile(path.name, str(path)) for path in paths])
            self.groups: list[Group] = cut(files.headers(), plan.group_bytes)
            self.module: Any = trainable(config_of(files), device)
            self._spots: list[Spot] = [
                spot for group in spots(self.module, files, self.groups) for spot in group
            ]
            first = [value for group in self.groups for value in values_of_model(group, files)]
            self.set([value.clone() for value in first])
        self.inner = Inner(self.module, plan.rate / MILLION, plan.decay / MILLE)

    @property
    def sizes(self) -> list[int]:
        """Elements of each tile, through all groups."""
        return [spot.count for spot in self._spots]

    def values(self) -> Values:
        """Every tile's."""
        return [spot.value().clone() for spot in self._spots]

    def set(self, values: Values) -> None:
        """Take these."""
        with torch.no_grad():
            for spot, value in zip(self._spots, values, strict=True):
                spot.value().copy_(value)

    def step(self, batch: Tensor, rate: float) -> None:
        """One of AdamW, as learners do it."""
        self.module.train()
        self.inner.drop_gradients()
        out = self.module(input_ids=batch[:, :-1], use_cache=False, output_router_logits=True)
        loss = nn.functional.cross_entropy(out.logits.transpose(1, 2), batch[:, 1:].contiguous())
        whole = loss + self.module.config.router_aux_loss_coef * out.aux_loss
        whole.backward()
        self.inner.clip()
        self.inner.set_rate(rate)
        self.inner.step(_nothing)

    def loss(self, text: Text, context: int) -> float:
        """Nats per token of all that was held back."""
        self.module.eval()
        numbers = range(window_count(text.held, context))
        each = losses_of(self.module, text.held, context, numbers, _nothing)
        return sum(each) / len(each)


class Learner:
    """One of them: its copy, what it reads, and what it did not send yet."""

    def __init__(self, copy: Copy, number: int, seed: int) -> None:
        self.copy = copy
        self.seed = seed * SEEDS + number
        self.left = Feedback.nothing(copy.sizes)

    def batch(self, text: Text, step: int, plan: Plan) -> Tensor:
        """What it reads at that step."""
        return batch_of(text.learned, self.seed, step, plan.batch, plan.context)


class Sent(NamedTuple):
    """What a round sent: each learner's deltas, and the result, of the whole model as one group."""

    steps: int
    deltas: list[bytes]
    result: bytes
    shares: list[int]
    """Of what the primary got: each delta, or each region's sum."""
    sums: tuple[bytes, ...] = ()


class Region:
    """An aggregator: learners' deltas become one."""

    def __init__(self) -> None:
        self._left: Values | None = None

    def sum(self, inputs: Sequence[Values], phase: Phase) -> bytes:
        """What it passes on; what that leaves out comes with the next one."""
        made = summed(inputs, [1] * len(inputs), self._left, phase)
        self._left = codecs.decode(made.left, [value.numel() for value in inputs[0]])
        return made.delta


class Lab:
    """N learners and their primary, straight or through regions' aggregators; the model is one
    group."""

    def __init__(
        self,
        plan: Plan,
        text: Text,
        *,
        seed: int,
        learners: int,
        rule: robust.Rule = robust.DEFAULT,
        lies: Mapping[int, Lie] | None = None,
        kind: str = "tiny-moe",
        regions: int = 0,
    ) -> None:
        """`regions`: among so many aggregators the learners are dealt out; 0: there are none."""
        device = Device("cpu", 0, 1)
        self.plan = plan
        self.text = text
        self.learners = [
            Learner(Copy(kind, seed, plan, device), number, seed) for number in range(learners)
        ]
        self.base = self.learners[0].copy.values()
        self.sizes = self.learners[0].copy.sizes
        self.round = 0
        self.step = 0
        if regions and learners % regions:
            raise ValueError(f"{learners} learners in {regions} regions alike")
        self._outer = Outer.start(self.sizes)
        self._rule: robust.Rule = rule
        self._lies = lies or {}
        self._regions = [Region() for _ in range(regions)]

    @property
    def parameters(self) -> int:
        """Values that are trained."""
        return sum(self.sizes)

    def begin_at(self, values: Values, step: int) -> None:
        """Go on from a checkpoint, with nobody's moments."""
        self.base = [value.clone() for value in values]
        self.step = step

    def run_round(self) -> Sent:
        """All learners' local steps, the aggregate of what they sent, and what everybody adds."""
        phase = self.plan.phase_of(self.round)
        deltas = [self._learn(number, one) for number, one in enumerate(self.learners)]
        sums = self._summed(deltas, phase)
        good = self._decoded(sums or deltas)
        counts = [len(self.learners) // len(sums)] * len(good) if sums else None
        found = robust.aggregate(good, counts, rule=self._rule)
        result = self._outer.step(self.plan, self.round, found.mean, self.base)
        self.base = outer.apply(self.base, result)
        self.round += 1
        self.step += phase.steps
        return Sent(phase.steps, deltas, result, found.shares, tuple(sums))

    def _summed(self, deltas: Sequence[bytes], phase: Phase) -> list[bytes]:
        count = len(self._regions)
        return [
            region.sum(self._decoded(deltas[number::count]), phase)
            for number, region in enumerate(self._regions)
        ]

    def _decoded(self, deltas: Sequence[bytes]) -> list[Values]:
        good: list[Values] = []
        for delta in deltas:
            try:
                good.append(codecs.decode(delta, self.sizes))
            except DeltaError:
                continue  # refused, as by any primary
        return good

    def _learn(self, number: int, one: Learner) -> bytes:
        phase = self.plan.phase_of(self.round)
        start = one.left.without(self.base)
        one.copy.set(start)
        for step in range(self.step, self.step + phase.steps):
            one.copy.step(one.batch(self.text, step, self.plan), self.plan.rate_of(self.round))
        changed = [old - new for old, new in zip(start, one.copy.values(), strict=True)]
        lie = self._lies.get(number)
        if lie is not None:
            return lie(self.round, changed, one)
        return one.left.encode(phase.up, changed, settings_of(phase))

    def loss(self) -> float:
        """Of the version that everybody has."""
        copy = self.learners[0].copy
        copy.set(self.base)
        return copy.loss(self.text, self.plan.context)


class Dense:
    """The same training with every gradient sent in fp32 at every step: the mean of the learners'
    gradients is the gradient of their batches as one."""

    def __init__(self, plan: Plan, text: Text, *, seed: int, learners: int) -> None:
        self.plan = plan
        self.text = text
        self.copy = Copy("tiny-moe", seed, plan, Device("cpu", 0, 1))
        self._readers = [Learner(self.copy, number, seed) for number in range(learners)]
        self.step = 0

    def run(self, rates: Sequence[float]) -> None:
        """One step at each of these rates."""
        for rate in rates:
            parts = [one.batch(self.text, self.step, self.plan) for one in self._readers]
            self.copy.step(torch.cat(parts), rate)
            self.step += 1

    def state(self) -> dict[str, Tensor]:
        """What it needs to go on from here twice."""
        values = {f"value.{at}": value for at, value in enumerate(self.copy.values())}
        moments = {name: value.clone() for name, value in self.copy.inner.save().items()}
        return {**values, **moments, "at": torch.tensor([self.step])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.copy.set([state[f"value.{at}"] for at in range(len(self.copy.sizes))])
        self.copy.inner.load(dict(state))
        self.step = int(state["at"][0])

    def loss(self) -> float:
        """Of the text that was held back."""
        return self.copy.loss(self.text, self.plan.context)
