"""The processor or the card, and how much of it may be used.

On a card, a copy from ordinary memory is staged by the driver and waits for it; one from pinned
memory runs beside the computation. So whatever goes up passes two pinned buffers in turn: while
one is copied, the other is filled from the file's mapping.
"""

import os
import resource
import threading
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from synapsed.compute.errors import ComputeError

STAGE = 16 << 20
"""Bytes of one pinned buffer: a copy of 0.6 ms at 25 GB/s, long against the cost of starting it."""

AHEAD = 2
"""Halves of layers that may be queued on a card."""


class Device:
    """Where models are, and the way there."""

    def __init__(self, name: str, memory: int, threads: int) -> None:
        """Raises ComputeError for a device that is not there."""
        self.threads = threads or max(1, (os.cpu_count() or 2) // 2)
        torch.set_num_threads(self.threads)
        if not name:
            name = "cuda:0" if torch.cuda.is_available() else "cpu"
        try:
            self.torch = torch.device(name)
        except RuntimeError as error:
            raise ComputeError(f"{name!r} is no device: {str(error)[:200]}") from None
        if self.torch.type not in ("cpu", "cuda"):
            raise ComputeError(f"computing on {name!r} is not supported", remedy="cpu or cuda")
        self.card = self.torch.type == "cuda"
        if self.card and not torch.cuda.is_available():
            raise ComputeError(
                f"{name}: torch sees no card here",
                remedy="install its driver, or set compute.device to cpu",
            )
        # Where a card has no deterministic way, torch warns; on a processor there always is one.
        torch.use_deterministic_algorithms(True, warn_only=self.card)
        # ... which would fill all fresh memory, too: we read nothing that we did not write.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - mypy
        self._limit(memory)
        self._staging = threading.Lock()
        self._stage: list[Tensor] = []
        self._free: list[torch.cuda.Event] = []
        self._begun: deque[torch.cuda.Event] = deque()
        self.talk = _stream(self.torch) if self.card else None
        """Of those who generate: the card's scheduler takes its kernels first."""

    def _limit(self, memory: int) -> None:
        if self.card:
            index = self.torch.index or 0
            torch.cuda.set_device(index)
            total = torch.cuda.get_device_properties(index).total_memory
            if memory:
                torch.cuda.set_per_process_memory_fraction(min(1.0, memory / total), index)
            return
        if memory:
            # Private writable memory: mapped models belong to the page cache and do not count.
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            soft = _own_memory() + memory
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    @property
    def name(self) -> str:
        """For people."""
        if self.card:
            return f"{self.torch} ({torch.cuda.get_device_name(self.torch)})"
        return "cpu"

    def held(self) -> int:
        """Bytes of the card's memory that are taken."""
        return torch.cuda.memory_reserved(self.torch) if self.card else 0

    def free(self) -> int:
        """Bytes of the card that this process may still take."""
        free, total = torch.cuda.mem_get_info(self.torch)
        fraction = torch.cuda.get_per_process_memory_fraction(self.torch)
        return max(0, min(free, int(fraction * total) - self.held()))

    def up(self, value: Tensor) -> Tensor:
        """A tensor on the device; itself where that is the processor."""
        if not self.card:
            return value
        there = torch.empty(value.shape, dtype=value.dtype, device=self.torch)
        self.fill(there, value)
        return there

    def fill(self, there: Tensor, value: Tensor) -> None:
        """Copy a contiguous tensor from the processor's memory into one of the same kind."""
        if not self.card:
            there.copy_(value)
            return
        source, target = (
            one.detach().reshape(-1).view(torch.uint8) for one in (value, there.contiguous())
        )
        with self._staging:
            for at, (buffer, free) in zip(
                range(0, len(source), STAGE), self._buffers(), strict=False
            ):
                part = source[at : at + STAGE]
                free.synchronize()  # what was in it is on the card
                buffer[: len(part)].copy_(part)
                target[at : at + len(part)].copy_(buffer[: len(part)], non_blocking=True)
                free.record()

    def down(self, value: Tensor) -> Tensor:
        """A tensor in the processor's memory; itself where it is there."""
        return value.detach().to("cpu")

    def pace(self) -> None:
        """Do not get more than AHEAD pieces of work ahead of the card: what is queued there runs
        before anything that somebody asks for meanwhile."""
        if self.card:
            self._begun.append(_event())
            self._begun[-1].record()
            if len(self._begun) > AHEAD:
                self._begun.popleft().synchronize()

    def settle(self) -> None:
        """Wait until the card has done what it was given."""
        if self.card:
            torch.cuda.current_stream(self.torch).synchronize()

    def _buffers(self) -> Iterator[tuple[Tensor, torch.cuda.Event]]:
        if not self._stage:
            for _ in range(2):
                self._stage.append(torch.empty(STAGE, dtype=torch.uint8, pin_memory=True))
                self._free.append(_event())
        while True:
            yield from zip(self._stage, self._free, strict=True)


def _own_memory() -> int:
    """Bytes that RLIMIT_DATA counts now: what torch takes before it does anything."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmData"].split()[0]) << 10


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
