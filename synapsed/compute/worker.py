"""The node's end of one running worker: requests out, replies in, many at once."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from synapsed.compute import wire
from synapsed.compute.errors import BY_CODE, ComputeError, DiedError
from synapsed.compute.process import Process

READ = 64 << 10
"""Bytes of one read."""

Replies = trio.MemoryReceiveChannel[wire.Reply]


class GoneError(Exception):
    """Internal: the worker is not to be spoken to any more."""


class Worker:
    """Numbers requests and hands each its replies. `run` moves the bytes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._number = 0
        self._waiting: dict[int, trio.MemorySendChannel[wire.Reply]] = {}
        self._put, self._take = trio.open_memory_channel[bytes](math.inf)
        self.ready = trio.Event()
        """It said its first word, or it never will."""
        self.settled = trio.Event()
        """It knows what it may use, or it never will."""
        self.gone: ComputeError | None = None
        """Why nobody is answered any more."""
        self.hung = ""
        """How it hung, where it was ended for that."""
        self.over = trio.Event()
        """Its process is gone, with all that it held."""

    async def run(self) -> None:
        """Read and write until the worker says nonsense or nothing more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            await self._read()
            nursery.cancel_scope.cancel()

    def end(self, reason: ComputeError) -> None:
        """Tell all who wait that they wait in vain."""
        if self.gone is None:
            self.gone = reason
        waiting, self._waiting = self._waiting, {}
        for channel in waiting.values():
            channel.close()
        self.ready.set()
        self.settled.set()

    def check(self) -> None:
        """Raise the ComputeError that ended it, if something did."""
        if self.gone is not None:  # a copy: many may raise it, each with a trace of its own
            raise type(self.gone)(self.gone.message, remedy=self.gone.remedy)

    def tell(self, message: wire.Request) -> None:
        """Say something that is not answered."""
        self._put.send_nowait(wire.frame(message))

    def number(self) -> int:
        """The next request's."""
        self._number += 1
        return self._number

    @asynccontextmanager
    async def asked(self, request: wire.Request) -> AsyncIterator[Replies]:
        """The replies to a request. Whoever leaves before the last one cancels it."""
        self.check()
        # Bounded by MAX_TOKENS pieces of one answer: the worker never waits for a slow reader.
        put, take = trio.open_memory_channel[wire.Reply](math.inf)
        self._waiting[request.number] = put
        try:
            self.tell(request)
            yield take
        finally:
            if self._waiting.pop(request.number, None) is not None and self.gone is None:
                self.tell(wire.Cancel(request.number))
            put.close()
            take.close()

    async def next(self, replies: Replies) -> wire.Reply:
        """The next of a request's replies. Raises the ComputeError that it is or that came."""
        try:
            reply = await replies.receive()
        except trio.EndOfChannel:
            self.check()
            raise DiedError("the compute worker answered no more") from None
        if isinstance(reply, wire.Failed):
            raise BY_CODE.get(reply.code, ComputeError)(reply.message, remedy=reply.remedy)
        return reply

    async def _write(self) -> None:
        async for data in self._take:
            rest = memoryview(data)
            while rest:
                try:
                    sent = self.process.socket.send(rest)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.process.socket.fileno())
                except OSError:
                    return  # the reader sees the end
                else:
                    rest = rest[sent:]

    async def _read(self) -> None:
        data = bytearray()
        while True:
            while len(data) >= wire.HEAD.size:
                size = wire.HEAD.unpack_from(data)[0]
                if size > wire.MAX_MESSAGE:
                    return
                if len(data) < wire.HEAD.size + size:
                    break
                body = bytes(data[wire.HEAD.size : wire.HEAD.size + size])
                del data[: wire.HEAD.size + size]
                try:
                    self._heard(wire.replies.decode(body))
                except (msgspec.DecodeError, GoneError):
                    return
            part = await self._some()
            if not part:
                return
            data += part

    async def _some(self) -> bytes:
        while True:
            try:
                return self.process.socket.recv(READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.process.socket.fileno())
            except OSError:
                return b""

    def _heard(self, reply: wire.Reply) -> None:
        if isinstance(reply, wire.Ready):
            if self.process.pid == 0:
                try:
                    self.process.adopt(reply.pid, ours=False)
                except DiedError as error:
                    raise GoneError from error
            self.ready.set()
            return
        channel = self._waiting.get(reply.number)
        if channel is None:
            return  # cancelled meanwhile
        channel.send_nowait(reply)
        if not isinstance(reply, wire.Piece):
            del self._waiting[reply.number]
            channel.close()
