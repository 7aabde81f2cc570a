"""The inner optimiser: AdamW, layer by layer.

torch's own, fused, one for each layer, so that the gate is passed between two of them: one call for
a whole model of some billion parameters takes seconds. Elementwise throughout: the same numbers in
the same order on one machine.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from synapsed.computeworker.outer import BETA1, BETA2, EPSILON

CLIP = 1.0
"""Largest norm of a step's gradient, as in DiLoCo and in the training of most language models."""
FIRST, SECOND, STEP = "exp_avg", "exp_avg_sq", "step"
"""torch's names for the moments."""


class Inner:
    """AdamW over a module's parameters."""

    def __init__(self, module: Any, rate: float, decay: float) -> None:
        named = [list(layer.parameters()) for layer in module.model.layers]
        inside = {id(parameter) for layer in named for parameter in layer}
        rest = [each for each in module.parameters() if id(each) not in inside]
        self.parameters: list[nn.Parameter] = [*rest, *(each for layer in named for each in layer)]
        self._optimisers = [
            torch.optim.AdamW(
                some, lr=rate, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=decay, fused=True
            )
            for some in (rest, *named)
        ]

    def set_rate(self, rate: float) -> None:
        """Of the steps from now on."""
        for optimiser in self._optimisers:
            optimiser.param_groups[0]["lr"] = rate

    def clip(self) -> float:
        """Shorten the gradient to CLIP; the norm that it had."""
        return float(nn.utils.clip_grad_norm_(self.parameters, CLIP))

    def step(self, passage: Callable[[], None]) -> None:
        """Move the parameters by their gradients."""
        for optimiser in self._optimisers:
            optimiser.step()
            passage()

    def drop_gradients(self) -> None:
        """Forget them, and give their memory back."""
        for parameter in self.parameters:
            parameter.grad = None

    def save(self) -> dict[str, Tensor]:
        """The moments; nothing before the first step."""
        found: dict[str, Tensor] = {}
        for at, parameter, state in self._states():
            if state:
                found[f"first.{at}"] = state[FIRST].to("cpu")
                found[f"second.{at}"] = state[SECOND].to("cpu")
                found[f"step.{at}"] = state[STEP].to("cpu").reshape(1)
                assert found[f"first.{at}"].shape == parameter.shape
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """What `save` gave. Raises KeyError, ValueError if it was another model's."""
        for optimiser in self._optimisers:
            optimiser.state.clear()
        if not any(name.startswith("first.") for name in tensors):
            return
        for at, parameter, _ in self._states():
            first, second = tensors[f"first.{at}"], tensors[f"second.{at}"]
            if first.shape != parameter.shape or second.shape != parameter.shape:
                raise ValueError("moments of other parameters")
            optimiser = self._owner(parameter)
            on_card = parameter.is_cuda
            optimiser.state[parameter] = {
                STEP: tensors[f"step.{at}"].reshape(()).to(parameter.device if on_card else "cpu"),
                FIRST: first.to(parameter.device).clone(),
                SECOND: second.to(parameter.device).clone(),
            }

    def forget(self) -> None:
        """Begin again, without moments."""
        self.load({})
        self.drop_gradients()

    def _states(self) -> list[tuple[int, nn.Parameter, dict[str, Tensor]]]:
        return [
            (at, parameter, self._owner(parameter).state.get(parameter, {}))
            for at, parameter in enumerate(self.parameters)
        ]

    def _owner(self, parameter: nn.Parameter) -> torch.optim.AdamW:
        for optimiser in self._optimisers:
            if any(parameter is each for each in optimiser.param_groups[0]["params"]):
                return optimiser
        raise AssertionError("a parameter without its optimiser")
