"""Text, token by token."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from synapsed.computeworker.gate import Task
from synapsed.computeworker.mapped import Model

KEPT = 0.5
"""Part of the context that is read again when it is full: generating goes on without end."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: at temperature 0 always the likeliest, else by chance from `seed`."""

    temperature: float
    seed: int


def generate(
    model: Model, prompt: str, tokens: int, sampling: Sampling, task: Task
) -> Iterator[str]:
    """The pieces that go on from `prompt`; the same for the same seed, on one machine. Raises
    CancelledError between two tokens."""
    model.shelf.forget()
    stream = model.tokens.stream()
    ends = model.config.eos_token_id
    last = {ends} if isinstance(ends, int) else set(ends or ())
    for token in _tokens(model, model.tokens.prompt(prompt), tokens, sampling, task):
        if token in last:
            break
        if piece := stream.push(token):
            yield piece
    if rest := stream.end():
        yield rest


def _tokens(
    model: Model, known: list[int], count: int, sampling: Sampling, task: Task
) -> Iterator[int]:
    random = torch.Generator().manual_seed(sampling.seed)
    known = known[-model.context :]
    fresh, cache = known, DynamicCache(config=model.config)
    for _ in range(count):
        task.check()
        if len(known) > model.context:  # each token's place is part of what was cached
            known = known[-max(1, int(model.context * KEPT)) :]
            fresh, cache = known, DynamicCache(config=model.config)
        token = _choose(_logits(model, fresh, cache), sampling.temperature, random)
        yield token
        known = [*known, token]
        fresh = [token]


@torch.inference_mode()
def _logits(model: Model, fresh: list[int], cache: DynamicCache) -> Tensor:
    """Of the next token, in the processor's memory."""
    ids = torch.tensor([fresh], device=model.device.torch)
    with torch.cuda.stream(model.device.talk):  # does nothing without a card
        out = model.module(
            input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            output_router_logits=False,
        )
        logits: Tensor = out.logits[0, -1].float().cpu()
    return logits


def _choose(logits: Tensor, temperature: float, random: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(chances, 1, generator=random))
