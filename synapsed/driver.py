"""Performs what the protocol machines ask for: their effects, in order, one after another.

The machines (protocols/) decide and touch nothing; `handle(event, now)` gives a list of
effects, and whoever called it submits that list here:

    Save            -> a table of the store       Emit   -> the event bus
    Publish, Send   -> the network                Blame  -> the peer ledger
    anything else   -> whoever registered for it with `on`

One driver belongs to one machine, so that one machine's slow peer holds up no other. Of a list
in which a `Save` failed, nothing leaves the machine any more: what we could not remember, we
do not say. A machine that signs must not even go on without it: with `save_together`, the saves
that stand together in a list are one transaction, tried again until it is done, and whatever was
submitted behind it waits. Such a transaction is synced before anything more is sent, of its own
list or of a later one: what a machine has decided is on disk before anybody can see it in what it
says. Until something is sent, the sync can wait, and one does for all.
"""

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import trio

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.errors import SynapseError
from synapsed.ports import Table
from synapsed.process import supervise

log = logging.getLogger(__name__)

E = TypeVar("E")
Performer = Callable[[Any], Awaitable[None] | None]
SaveTogether = Callable[[Sequence[Save], bool], None]

BREATH = 32
"""Effects performed before others get their turn: 32 saves take about 1 ms."""
BACKLOG = 256
"""Lists of effects that may wait before `keep_up` waits, too: 4 MB of the largest announcements."""
PERFORM_TIMEOUT = 5.0
"""Seconds for one effect: a gossip that takes longer has come apart, and is asked for later."""
SAVE_AGAIN = 1.0
"""Seconds until a transaction that failed is tried again: an owner who frees a full disk waits
no longer, and one commit a second costs nothing."""


class Driver:
    """Submit effects from anywhere in the trio thread; `run` performs them."""

    def __init__(
        self,
        name: str,
        *,
        tables: Mapping[str, Table],
        emit: supervise.Emit,
        blame: Callable[[bytes, str, str], None],
        save_together: SaveTogether | None = None,
    ) -> None:
        """`save_together` makes all of its saves (there may be none), or raises SynapseError and
        none; durable, with all before them, where its second argument says so."""
        self._name = name
        self._tables = tables
        self._save_together = save_together
        self.stalled = ""
        """Why a transaction cannot be done now, if so: nothing behind it is performed."""
        self._emit = emit
        self._blame = blame
        self._performers: dict[type, Performer] = {}
        self._queue: deque[Sequence[object]] = deque()
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._moved = trio.Event()
        self._done = 0
        self._unsynced = False

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

    @property
    def waiting(self) -> bool:
        """Whether anything is yet to be performed."""
        return bool(self._queue)

    async def settle(self) -> None:
        """Wait until everything submitted so far, and meanwhile, has been performed."""
        await self._idle.wait()

    async def keep_up(self) -> None:
        """Wait while too much waits here: who takes in more than we can carry out slows down."""
        while len(self._queue) > BACKLOG:
            await self._moved.wait()

    async def run(self) -> None:
        """Perform effects until cancelled."""
        while True:
            await self.drain()
            await self._wake.wait()
            self._wake = trio.Event()

    async def drain(self) -> None:
        """Perform what was submitted, and what is meanwhile. For who has no `run` running."""
        while self._queue:
            await self._perform_all(self._queue.popleft())
            self._moved.set()
            self._moved = trio.Event()
        self._idle.set()

    async def _perform_all(self, effects: Sequence[object]) -> None:
        if self._save_together is not None:
            for saves, others, leaves in _stretches(effects):
                if saves or (leaves and self._unsynced):
                    await self._save_all(saves, durable=leaves)
                for effect in others:
                    await self._perform(effect)
                    await self._breathe()
            return
        saved = True
        for effect in effects:
            if saved or not _leaves(effect):
                saved = await self._perform(effect) and saved
            await self._breathe()

    async def _breathe(self) -> None:
        self._done += 1
        if self._done % BREATH == 0:
            await trio.lowlevel.checkpoint()

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

    async def _save_all(self, saves: list[Any], *, durable: bool) -> None:
        """Return once all of `saves` are made, however long that takes."""
        assert self._save_together is not None
        while True:
            try:
                self._save_together(saves, durable)
            except SynapseError as error:
                if not self.stalled:
                    self._tell_failed(error)
                self.stalled = str(error)
                await trio.sleep(SAVE_AGAIN)
            else:
                break
        self._unsynced = not durable
        if self.stalled:
            self.stalled = ""
            log.warning("%s: saving works again", self._name)
            self._emit("store.recovered", name=self._name)

    def _save(self, save: Save) -> bool:
        table = self._tables[save.table]
        try:
            if save.value is None:
                table.delete(save.key)
            else:
                table.put(save.key, save.value)
        except SynapseError as error:
            self._tell_failed(error)
            return False
        return True

    def _tell_failed(self, error: SynapseError) -> None:
        log.error("%s: cannot save: %s", self._name, error)
        self._emit("store.failed", name=self._name, error=error.code, message=str(error))

    async def _perform_other(self, effect: object) -> None:
        what = type(effect).__name__
        try:
            result = self._performers[type(effect)](effect)
            if inspect.isawaitable(result):
                with trio.fail_after(PERFORM_TIMEOUT):
                    await result
        except SynapseError as error:
            log.warning("%s: %s failed: %s", self._name, what, error)
        except trio.TooSlowError:
            log.warning("%s: %s took more than %g s", self._name, what, PERFORM_TIMEOUT)


def _leaves(effect: object) -> bool:
    """Whether others hear of it."""
    return isinstance(effect, Publish | Send)


def _stretches(effects: Sequence[object]) -> Iterator[tuple[list[Save], list[object], bool]]:
    """The saves that can be made at once, what stands among them, and whether any of that leaves.

    Saves stay in order, and before everything that follows them. What stays here (an event, a
    ratified run) may come after saves that stand behind it; what leaves may not.
    """
    saves: list[Save] = []
    others: list[object] = []
    leaves = False
    for effect in effects:
        if isinstance(effect, Save):
            if leaves:
                yield saves, others, True
                saves, others, leaves = [], [], False
            saves.append(effect)
        else:
            leaves = leaves or _leaves(effect)
            others.append(effect)
    if saves or others:
        yield saves, others, leaves
