"""The worker's life: started with the first request, ended by `pause`, by the end of `run`, or by a
fault, and then started again for the next request; one that dies again and again is given a rest.
"""

import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import trio

from synapsed.compute import wire
from synapsed.compute.environment import NEEDED
from synapsed.compute.errors import (
    ComputeError,
    DiedError,
    NotInstalledError,
    PausedError,
    RestingError,
)
from synapsed.compute.process import Process, start_forked, start_fresh
from synapsed.compute.watchdog import hanging
from synapsed.compute.worker import Worker

log = logging.getLogger(__name__)

START_S = 120.0
"""Until a worker is ready: 3 s on an idle machine, a minute where eight start on two cores."""
GRACE_S = 0.3
"""From `pause` to SIGKILL: for a driver to let go of the card in its own way. With what the kernel
needs to free the memory, it stays within the second that was promised."""
RESTS_S = (0.0, 1.0, 5.0, 30.0, 300.0)
"""Before a worker is started after so many deaths in a row; the last one for all further ones."""
CALM_S = 120.0
"""A worker that lived so long ends the row."""

State = Literal["off", "starting", "running", "paused", "resting"]
R = TypeVar("R", bound=msgspec.Struct)
Emit = Callable[..., None]


class ComputeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the machine may be used. 0 and empty: the worker decides."""

    threads: int = 0
    """Of the processor; 0: half the cores, at least 1."""
    memory: int = 0
    """Bytes of the card, or of private memory where there is none; 0: as much as there is."""
    device: str = ""
    """`cpu`, `cuda`, `cuda:1`; empty: the first card if there is one."""
    server: Path | None = None
    """Socket of a compute server that forks workers; None: start them fresh (process.py)."""


class ComputeStatus(msgspec.Struct, frozen=True):
    """For people."""

    state: State
    pid: int = 0
    deaths: int = 0
    """In a row."""
    last_death: str = ""


class Keeper:
    """Has a worker for whoever asks. `run` it."""

    def __init__(self, emit: Emit, settings: ComputeSettings | None = None) -> None:
        self.settings = settings or ComputeSettings()
        self._emit = emit
        self._nursery: trio.Nursery | None = None
        self._running = trio.Event()
        self._worker: Worker | None = None
        self._paused = False
        self._closing = False
        self._deaths = 0
        self._last_death = ""
        self._began = 0.0
        self._rest_until = 0.0

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the worker until cancelled; then none is left."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._running.set()
                await trio.sleep_forever()
        finally:
            self._nursery, self._running = None, trio.Event()

    def closing(self) -> None:
        """The daemon stops: no worker is started any more, and however the one that there is ends
        is no death (a service's processes are all told to end at once)."""
        self._closing = True

    def status(self) -> ComputeStatus:
        """What the worker is up to."""
        worker = self._worker
        state: State = "off"
        if self._paused:
            state = "paused"
        elif worker is not None:
            state = "running" if worker.settled.is_set() else "starting"
        elif time.monotonic() < self._rest_until:
            state = "resting"
        pid = worker.process.pid if worker else 0
        return ComputeStatus(state, pid, self._deaths, self._last_death)

    @property
    def paused(self) -> bool:
        """Whether the owner wants the machine for something else."""
        return self._paused

    async def pause(self) -> None:
        """End the worker, and with it all that it holds of the card, within a second. Requests
        that are under way raise PausedError, and so do all others until `resume`."""
        self._paused = True
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end(PausedError())
            worker.tell(wire.Stop(worker.number()))
            with trio.move_on_after(GRACE_S):
                await worker.over.wait()
            worker.process.kill()
            await worker.over.wait()
        self._emit("compute.paused")

    def resume(self) -> None:
        """Compute again; the worker starts with the next request."""
        if self._paused:
            self._paused = False
            self._deaths, self._rest_until = 0, 0.0
            self._emit("compute.resumed")

    async def _ask_of(self, worker: Worker, request: wire.Request, kind: type[R]) -> R:
        async with worker.asked(request) as replies:
            reply = await worker.next(replies)
        if not isinstance(reply, kind):
            raise ComputeError(f"the compute worker answered {type(reply).__name__}")
        return reply

    # -- the worker ----------------------------------------------------------------------------

    async def _ready(self) -> Worker:
        """A worker that listens."""
        if self._paused:
            raise PausedError
        if self._closing:
            raise _stopping()
        await self._running.wait()
        worker = self._worker or self._start()
        await worker.settled.wait()
        worker.check()
        return worker

    def _start(self) -> Worker:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise NotInstalledError(f"computing needs {', '.join(missing)}")
        now = time.monotonic()
        if now < self._rest_until:
            raise RestingError(
                f"{self._deaths} compute workers died in a row; the next starts in "
                f"{self._rest_until - now:.0f} s: {self._last_death}",
                remedy="`synapsectl doctor` looks at memory and at the card",
            )
        assert self._nursery is not None, "run() is running"
        self._worker, self._began = Worker(self._process()), now
        self._nursery.start_soon(self._keep, self._worker)
        return self._worker

    def _process(self) -> Process:
        server = self.settings.server
        return start_fresh(self.settings.threads or 1) if server is None else start_forked(server)

    async def _keep(self, worker: Worker) -> None:
        """Bring it up, move its bytes until it ends, and remember how it did."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduce, worker)
                nursery.start_soon(self._watch, worker)
                await worker.run()
                nursery.cancel_scope.cancel()
            worker.process.kill()  # where it spoke nonsense
            await worker.process.ended()
            if (worker.gone is None or worker.hung) and not self._closing:
                self._died(worker)
        finally:
            if self._worker is worker:
                self._worker = None
            worker.end(_stopping())
            worker.process.close()
            worker.over.set()

    async def _introduce(self, worker: Worker) -> None:
        """Tell it what it may use, once it listens."""
        with trio.move_on_after(START_S):
            await worker.ready.wait()
        settings = self.settings
        request = wire.Settings(worker.number(), settings.threads, settings.memory, settings.device)
        try:
            if not worker.ready.is_set():
                worker.hung = f"it was not ready within {START_S:.0f} s"
                raise DiedError(f"the compute worker hangs: {worker.hung}")
            await self._ask_of(worker, request, wire.Done)
        except ComputeError as error:
            worker.end(error)
            worker.process.kill()
            return
        self._emit("compute.started", pid=worker.process.pid)
        worker.settled.set()

    async def _watch(self, worker: Worker) -> None:
        """End it once it hangs: whoever waits is told at once, and it may take the kernel a while
        to be rid of it. With the next request another one starts."""
        await worker.ready.wait()  # a driver may hang while it looks for the card
        worker.hung = await hanging(worker)
        worker.end(DiedError(f"the compute worker hangs: {worker.hung}"))
        worker.process.kill()

    def _died(self, worker: Worker) -> None:
        now = time.monotonic()
        self._deaths = 1 if now - self._began > CALM_S else self._deaths + 1
        self._rest_until = now + RESTS_S[min(self._deaths - 1, len(RESTS_S) - 1)]
        story = worker.process.story()
        self._last_death = f"it hung: {worker.hung}" if worker.hung else story
        error = DiedError(f"the compute worker died: {self._last_death}")
        worker.end(error)
        log.warning("%s", error)
        hung = bool(worker.hung)
        self._emit("compute.died", deaths=self._deaths, how=self._last_death, hung=hung)


def _stopping() -> DiedError:
    return DiedError("the daemon stops", remedy="start it again")
