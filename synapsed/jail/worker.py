"""The node's end of one running worker: requests out, replies in, one at a time."""

import array
import contextlib
import os
import socket
import time
from typing import Never

import msgspec
import trio

from synapsed.jail import spawn, wire
from synapsed.jail.arena import Arena
from synapsed.jail.errors import JailDiedError, JailRestingError, JailSlowError
from synapsed.jail.layers import Layers
from synapsed.jail.moment import soon_readable

START_S = 20.0
"""Until a worker is ready: 0.2 s on an idle machine, and it need not be idle."""
CALL_CPU_S = 1.0
"""Of processor time for one call, whatever its fuel: a machine may be slow, but not so slow."""
SPENT = 0.9
"""Part of that which counts as all of it: an idle machine's clock is a little ahead of it."""
CALL_WALLS = 4
"""Times as long on the clock: a machine with other things to do is no fault of a module."""
FAIR_SHARE = 0.75
"""Of its processor time that a call must have had before its module is blamed for not ending: well
below SPENT, for the node's look at the worker's clock begins a moment after the call."""
GRACE_S = 1.0
"""From the last alarm, which stops what runs WebAssembly, to the end of the process."""
YIELD_S = 0.005
"""Of such waiting after which the event loop has its turn."""
LAST_WORDS_S = 0.1
"""For a process that is ending by itself to say why."""
LOAD_S = 10.0
"""To take in native code: a millisecond for 1 MiB."""


class _BrokenError(Exception):
    """It is not to be spoken to any more; `silent` where it said nothing at all."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


def _slow(seconds: float) -> JailSlowError:
    return JailSlowError(
        f"a call was ended before it had its {seconds:.1f} s of processor time",
        remedy="this machine has too much to do, or stood still: the next call is tried as ever",
    )


class Worker:
    """One process that runs modules. Every method but `close` raises JailDiedError, once the
    process is gone: it ended, spoke nonsense or did not stop when told to."""

    def __init__(self, arena: Arena, layers: Layers) -> None:
        self.loaded: dict[bytes, None] = {}
        """Modules that it holds, the one used longest ago first."""
        self._socket, theirs = spawn.pair()
        self._alarm, alarmed = spawn.pair()
        alarmed.setblocking(True)
        self._number = 0
        self._data = b""
        self._held = 0.0
        """Seconds of waiting here since the event loop had its turn."""
        try:
            with theirs, alarmed:
                self.child = spawn.Child(
                    ["-m", "synapsed.jailworker", "run", layers.text()],
                    (theirs.fileno(), arena.fd, alarmed.fileno()),
                )
        except (JailDiedError, OSError):
            self._socket.close()
            self._alarm.close()
            raise

    async def started(self) -> None:
        """Wait until it has locked itself in."""
        why = "it did not get ready"
        try:
            with trio.move_on_after(START_S):
                reply = await self._reply()
                if isinstance(reply, wire.Ready):
                    return
        except _BrokenError as error:
            why = str(error)
        await self._break(None, why)

    async def load(self, module: bytes, code: bytes) -> wire.Done | wire.Failed:
        """Give it a module's native code."""
        fd = os.memfd_create("jail-code", os.MFD_CLOEXEC)
        try:
            os.pwrite(fd, code, 0)
            request = wire.Load(self._next(), module, len(code))
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            with contextlib.suppress(OSError):  # the end of the process is seen by the reader
                self._socket.sendmsg([wire.frame(request)], passed)
        finally:
            os.close(fd)
        reply = await self._answer(module, LOAD_S)
        if isinstance(reply, wire.Done):
            self.loaded[module] = None
        return reply

    async def drop(self, module: bytes) -> None:
        """Have it forget a module."""
        self._send(wire.Drop(self._next(), module))
        await self._answer(module, LOAD_S)
        del self.loaded[module]

    async def call(
        self,
        module: bytes,
        place: tuple[int, int, int],
        fuel: int,
        memory: int,
        *,
        fresh: bool,
        seconds: float,
    ) -> wire.Done | wire.Failed:
        """Run a module on the block at `place`: where it begins, its size, that of its answer. It
        has so many `seconds` of processor time."""
        self._send(wire.Call(self._next(), module, *place, fuel, memory, fresh))
        return await self._answer(module, seconds)

    def close(self) -> None:
        """Kill it, wait for that, and forget it. After that it writes nowhere any more."""
        self.child.kill()
        self.child.reap()
        with contextlib.suppress(RuntimeError):  # no event loop, so nobody waits either
            trio.lowlevel.notify_closing(self._socket.fileno())
        self._socket.close()
        self._alarm.close()
        self.child.close()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _send(self, request: wire.Request) -> None:
        """All of it at once: the worker has read all that came before."""
        with contextlib.suppress(OSError):  # the end of the process is seen by the reader
            self._socket.send(wire.frame(request))

    async def _answer(self, module: bytes, seconds: float) -> wire.Done | wire.Failed:
        """The reply to what was just sent."""
        try:
            reply = self._at_once()
            if reply is None:
                reply = await self._in_time(seconds)
        except _BrokenError as error:
            await self._break(module, str(error))
        if isinstance(reply, wire.Ready) or reply.number != self._number:
            await self._break(module, "it answered what it was not asked")
        return reply

    def _at_once(self) -> wire.Reply | None:
        """The reply to a small call, without giving the event loop its turn: that takes longer
        than the call."""
        if self._held > YIELD_S:
            return None
        began = time.perf_counter()
        soon = soon_readable(self._socket.fileno())
        self._held += time.perf_counter() - began
        return self._receive() if soon else None

    async def _in_time(self, seconds: float) -> wire.Reply:
        """The reply to a call that may take so many seconds of processor time. JailSlowError where
        it ended for the clock's sake alone: the machine was frozen, or had other things to do."""
        began = self.child.spent()
        try:
            reply = await self._before_alarms(seconds)
        except _BrokenError as error:
            if not error.silent or self.child.spent() - began >= FAIR_SHARE * seconds:
                raise
            await self.child.stop()
            raise _slow(seconds) from None
        late = isinstance(reply, wire.Failed) and reply.kind == "deadline"
        if late and self.child.spent() - began < FAIR_SHARE * seconds:
            raise _slow(seconds)
        return reply

    async def _before_alarms(self, seconds: float) -> wire.Reply:
        for alarm in (*[wire.IF_SPENT] * (CALL_WALLS - 1), wire.NOW, None):
            with trio.move_on_after(GRACE_S if alarm is None else seconds) as patience:
                reply = await self._reply()
            if not patience.cancelled_caught:
                return reply
            if alarm is not None:
                with contextlib.suppress(OSError):
                    self._alarm.send(wire.alarm(self._number, alarm, seconds * SPENT))
        raise _BrokenError("it did not stop when it was told to", silent=True)

    async def _reply(self) -> wire.Reply:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket.fileno())
            except trio.ClosedResourceError:
                raise JailRestingError("the jail was closed under this call") from None
            self._held = 0.0
            reply = self._receive()
            if reply is not None:
                return reply

    def _receive(self) -> wire.Reply | None:
        """What has arrived, if that is a whole message. There is only ever one, so what comes
        after it is nonsense."""
        try:
            part = self._socket.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        self._data += part
        body = len(self._data) - wire.HEAD.size
        size = wire.HEAD.unpack_from(self._data)[0] if body >= 0 else wire.MAX_MESSAGE
        if not part or size > wire.MAX_MESSAGE or body > size:
            raise _BrokenError("it broke off")
        if body < size:
            return None
        data, self._data = self._data, b""
        try:
            reply: wire.Reply = wire.replies.decode(data[wire.HEAD.size :])
        except msgspec.DecodeError as error:
            raise _BrokenError(f"it spoke nonsense: {error}") from None
        return reply

    async def _break(self, module: bytes | None, why: str) -> Never:
        with trio.move_on_after(LAST_WORDS_S):
            await self.child.ended()
        await self.child.stop()
        raise JailDiedError(module, f"{why}; the process {self.child.story()}")
