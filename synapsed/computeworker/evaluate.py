"""How well a model predicts a text: mean nats per token, window by window.

Always the same windows together in one batch, in the order asked for: equal weights give equal
losses to the last bit, so that a change that changes nothing scores exactly 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from synapsed.compute.errors import BadDataError
from synapsed.computeworker.data import window_count, windows_of

TOKENS_AT_ONCE = 2048
"""Of one batch: 8 MB of logits for a vocabulary of 1,000; the gate is passed between batches."""
MAX_LOGITS = 1 << 28
"""Values of a batch's logits, for large vocabularies."""


def losses_of(
    module: Any,
    text: Tensor,
    context: int,
    numbers: Sequence[int],
    passage: Callable[[], None],
) -> list[float]:
    """Of the windows `numbers`, by a module of transformers'. Raises BadDataError for a window that
    the text does not have."""
    count = window_count(text, context)
    if any(number >= count for number in numbers):
        raise BadDataError(f"a window beyond the text's {count} of {context} tokens")
    vocabulary = module.config.vocab_size
    device = module.model.embed_tokens.weight.device
    each = max(1, min(TOKENS_AT_ONCE, MAX_LOGITS // vocabulary) // context)
    found: list[float] = []
    for at in range(0, len(numbers), each):
        passage()
        found += _losses(module, windows_of(text, context, list(numbers[at : at + each])), device)
    return found


@torch.inference_mode()
def _losses(module: Any, windows: Tensor, device: torch.device) -> list[float]:
    there = windows.to(device)
    out = module(input_ids=there[:, :-1], use_cache=False, output_router_logits=False)
    each = torch.nn.functional.cross_entropy(
        out.logits.float().flatten(0, 1), there[:, 1:].flatten(), reduction="none"
    )
    values: list[float] = each.to(torch.float64).view(len(windows), -1).mean(dim=1).tolist()
    return values
