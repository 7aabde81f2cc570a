"""A layer's experts as views of a file's mapping, fetched when a token is routed to them.

The kernel is told what is needed instead of guessing it (files.py), so what becomes resident is
what a prompt touches: reading around a fault, as it would by itself, brings up to 8 MiB of others.

On a card all but the experts are copied there at once; an expert, when a token first needs it, and
those used longest ago make room for it.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from synapsed.computeworker.device import Device
from synapsed.computeworker.files import ModelFiles

CARD_SHARE = 0.6
"""Of a card's free memory, for experts: the rest is for activations and the tokens' cache."""

Expert = tuple[Tensor, ...]
"""(gate, up, down), or (gate and up in one, down) as files that fuse have it."""


class Shelf:
    """Where experts lie: in the files' mappings."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._asked: set[int] = set()

    def forget(self) -> None:
        """Ask for everything again: what was read some time ago may have been evicted since."""
        self._asked.clear()

    def fetch(self, experts: Sequence[Expert]) -> None:
        """Start to read those that were not asked for lately, all at once."""
        for expert in experts:
            name = expert[0].data_ptr()
            if name not in self._asked:
                self._asked.add(name)
                self._files.will_need(expert)

    def take(self, expert: Expert) -> Expert:
        """Its matrices, to compute with."""
        return expert


class CardShelf(Shelf):
    """Some of them on the card, the one used longest ago first."""

    def __init__(self, files: ModelFiles, device: Device) -> None:
        super().__init__(files)
        self._device = device
        self._turn = threading.Lock()
        self._there: OrderedDict[int, Expert] = OrderedDict()
        self._bytes = 0
        self._budget = int(device.free() * CARD_SHARE)

    def fetch(self, experts: Sequence[Expert]) -> None:
        """Those that are not on the card."""
        super().fetch([one for one in experts if one[0].data_ptr() not in self._there])

    def take(self, expert: Expert) -> Expert:
        """Its matrices on the card."""
        with self._turn:  # generating and evaluating are threads of their own
            found = self._taken(expert)
        for matrix in found:
            # Its memory is not given to others while this thread's stream may still read it.
            matrix.record_stream(torch.cuda.current_stream(matrix.device))
        return found

    def _taken(self, expert: Expert) -> Expert:
        name = expert[0].data_ptr()
        found = self._there.get(name)
        if found is None:
            size = sum(matrix.nbytes for matrix in expert)
            while self._there and self._bytes + size > self._budget:
                _, old = self._there.popitem(last=False)
                self._bytes -= sum(matrix.nbytes for matrix in old)
            found = tuple(self._device.up(matrix) for matrix in expert)
            self._device.settle()  # another thread's stream would not wait for the copies
            self._there[name] = found
            self._bytes += size
        self._there.move_to_end(name)
        return found


class MappedExperts(nn.Module):
    """A layer's experts, each as its matrices are in the file."""

    def __init__(self, act_fn: Any, experts: list[Expert], shelf: Shelf) -> None:
        super().__init__()
        self._act = act_fn
        self._experts = experts
        self._shelf = shelf

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """`hidden` (tokens, width), `chosen` and `weights` (tokens, k): the sum, for each token,
        of what its experts make of it. As in transformers' eager implementation."""
        total = torch.zeros_like(hidden)
        numbers: list[int] = torch.unique(chosen).tolist()
        self._shelf.fetch([self._experts[number] for number in numbers])
        for number in numbers:
            rows, column = torch.where(chosen == number)
            some = hidden[rows]
            *first, down = self._shelf.take(self._experts[number])
            if len(first) == 2:
                gate, up = (nn.functional.linear(some, matrix) for matrix in first)
            else:
                gate, up = nn.functional.linear(some, first[0]).chunk(2, dim=-1)
            made = nn.functional.linear(self._act(gate) * up, down)
            total.index_add_(0, rows, (made * weights[rows, column, None]).to(total.dtype))
        return total
