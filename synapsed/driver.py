"""Performs what the protocol machines ask for: their effects, in order, one after another.

The machines (protocols/) decide and touch nothing; `handle(event, now)` gives a list of
effects, and whoever called it submits that list here:

    Save            -> a table of the store       Emit   -> the event bus
    Publish, Send   -> the network                Blame  -> the peer ledger
    anything else   -> whoever registered for it with `on`

One driver belongs to one machine, so that one machine's slow peer holds up no other. Of a list
in which a `Save` failed, nothing leaves the machine any more: what we could not remember, we
do not say.
"""

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.errors import SynapseError
from synapsed import supervise
from synapsed.ports import Table

log = logging.getLogger(__name__)

E = TypeVar("E")
Performer = Callable[[Any], Awaitable[None] | None]

BREATH = 32
"""Effects performed before others get their turn: 32 saves take about 1 ms."""
BACKLOG = 256
"""Lists of effects that may wait before `keep_up` waits, too: 4 MB of the largest announcements."""
PERFORM_TIMEOUT = 5.0
"""Seconds for one effect: a gossip that takes longer has come apart, and is asked for later."""


class Driver:
    """Submit effects from anywhere in the trio thread; `run` performs them."""

    def __init__(
        self,
        name: str,
        *,
        tables: Mapping[str, Table],
        emit: supervise.Emit,
        blame: Callable[[bytes, str, str], None],
    ) -> None:
        self._name = name
        self._tables = tables
        self._emit = emit
        self._blame = blame
        self._performers: dict[type, Performer] = {}
        self._queue: deque[Sequence[object]] = deque()
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._moved = trio.Event()

    def on(self, kind: type[E], perform: Callable[[E], Awaitable[None] | None]) -> None:
        """Have effects of `kind` performed by `perform`, which may be async."""
        self._performers[kind] = perform

    def submit(self, effects: Sequence[object]) -> None:
        """Have one machine's answer to one event performed, behind what was submitted before."""
        if effects:
            self._queue.append(effects)
            self._wake.set()
            if self._idle.is_set():
                self._idle = trio.Event()

    async def settle(self) -> None:
        """Wait until everything submitted so far, and meanwhile, has been performed."""
        await self._idle.wait()

    async def keep_up(self) -> None:
        """Wait while too much waits here: who takes in more than we can carry out slows down."""
        while len(self._queue) > BACKLOG:
            await self._moved.wait()

    async def run(self) -> None:
        """Perform effects until cancelled."""
        done = 0
        while True:
            while self._queue:
                effects = self._queue.popleft()
                saved = True
                for effect in effects:
                    if saved or not isinstance(effect, Publish | Send):
                        saved = await self._perform(effect) and saved
                    done += 1
                    if done % BREATH == 0:
                        await trio.lowlevel.checkpoint()
                self._moved.set()
                self._moved = trio.Event()
            self._idle.set()
            await self._wake.wait()
            self._wake = trio.Event()

    async def _perform(self, effect: object) -> bool:
        """False only for a Save that failed."""
        match effect:
            case Save():
                return self._save(effect)
            case Emit(kind, fields):
                self._emit(kind, **fields)
            case Blame(peer, fault, why):
                self._blame(peer, fault, why)
            case _:
                await self._perform_other(effect)
        return True

    def _save(self, save: Save) -> bool:
        table = self._tables[save.table]
        try:
            if save.value is None:
                table.delete(save.key)
            else:
                table.put(save.key, save.value)
        except SynapseError as error:
            log.error("%s: cannot save: %s", self._name, error)
            self._emit("store.failed", table=save.table, error=error.code, message=str(error))
            return False
        return True

    async def _perform_other(self, effect: object) -> None:
        what = type(effect).__name__
        try:
            with trio.fail_after(PERFORM_TIMEOUT):
                result = self._performers[type(effect)](effect)
                if inspect.isawaitable(result):
                    await result
        except SynapseError as error:
            log.warning("%s: %s failed: %s", self._name, what, error)
        except trio.TooSlowError:
            log.warning("%s: %s took more than %g s", self._name, what, PERFORM_TIMEOUT)
