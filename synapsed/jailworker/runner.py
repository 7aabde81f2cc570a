"""Modules on batches, one call after another, until the node closes the socket.

A call costs the node two context switches and this process a handful of foreign calls through
arrays that are made once; what the module is given and what it answers stay in the arena.
"""

import ctypes
import mmap
import os
import socket
import threading
import time
from collections.abc import Iterator

import wasmtime
from wasmtime import _ffi as ffi

from synapsed.jail import lockdown, wire
from synapsed.jailworker.engine import engine
from synapsed.jailworker.instance import CallFailedError, Instance

BOUNDS = lockdown.Bounds(
    address_space=128 << 30,
    data=896 << 20,
    cpu_s=0,
    file_size=1 << 16,
)
"""Each memory reserves 4 GiB of addresses, and only what it writes to is bounded by `data`: all
modules that a node keeps loaded, at 32 MiB each, with the interpreter."""

RETIRED_CALLS, RETIRED_BYTES = 1000, 8 << 20
"""An instance is replaced by a fresh one after so many calls, or blocks of so many bytes in all.
What a module counts in its memory is then forgotten long before a check of it is over, so that
none behaves for a check's length and otherwise ever after."""


def run(layers: str) -> None:
    """Serve the node."""
    with socket.socket(fileno=wire.SOCKET_FD) as node, mmap.mmap(wire.IN_FD, 0) as arena:
        runner = Runner(node, arena)
        lockdown.confine(layers, BOUNDS)
        threading.Thread(target=runner.tick, name="ticker", daemon=True).start()
        lockdown.seal(layers, threads=True)
        runner.serve()


class Runner:
    """What is loaded, and what runs."""

    def __init__(self, node: socket.socket, arena: mmap.mmap) -> None:
        self._node = node
        self._arena_size = len(arena)
        self._arena = ctypes.addressof(ctypes.c_char.from_buffer(arena))
        self._engine = engine()
        self._modules: dict[bytes, wasmtime.Module] = {}
        self._instances: dict[bytes, Instance] = {}
        self._running = 0
        """The number of the call that runs."""
        self._began = 0
        # Held under the interpreter's lock, so that an alarm never hits the call after its own.
        self._interrupt = ctypes.PyDLL(ffi.dll._name).wasmtime_engine_increment_epoch
        self._interrupt.argtypes = [ctypes.c_void_p]
        self._interrupt.restype = None

    def tick(self) -> None:
        """The other thread: the node's alarms, each about one call. One that comes after its call
        has ended does nothing to the next."""
        pointer = ctypes.cast(self._engine.ptr(), ctypes.c_void_p)
        clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        while len(data := os.read(wire.OUT_FD, wire.ALARM_SIZE)) == wire.ALARM_SIZE:
            number, may_spend, kind = wire.read_alarm(data)
            spent = time.clock_gettime_ns(clock) - self._began
            if number == self._running and (kind == wire.NOW or spent >= may_spend):
                self._interrupt(pointer)
        os._exit(0)

    def serve(self) -> None:
        """Answer requests in their order."""
        wire.say(wire.Ready())
        for request, files in self._requests():
            if isinstance(request, wire.Call):
                wire.say(self._call(request))
            elif isinstance(request, wire.Load):
                wire.say(self._load(request, files))
            else:
                self._instances.pop(request.module, None)
                self._modules.pop(request.module, None)
                wire.say(wire.Done(request.number))

    def _requests(self) -> Iterator[tuple[wire.Request, list[int]]]:
        data = b""
        files: list[int] = []
        room = socket.CMSG_SPACE(ctypes.sizeof(ctypes.c_int))
        while True:
            part, ancillary, _, _ = self._node.recvmsg(wire.MAX_MESSAGE, room)
            if not part:
                return
            files += [int.from_bytes(found, "little") for _, _, found in ancillary]
            data += part
            while len(data) >= 4 and len(data) >= 4 + (size := wire.HEAD.unpack_from(data)[0]):
                yield wire.requests.decode(data[4 : 4 + size]), files
                data = data[4 + size :]

    def _load(self, request: wire.Load, files: list[int]) -> wire.Reply:
        code = _read(files.pop(), request.size)
        try:
            self._modules[request.module] = wasmtime.Module.deserialize(self._engine, code)
        except wasmtime.WasmtimeError as error:
            return wire.Failed(request.number, "stale", str(error)[: wire.MAX_TEXT])
        return wire.Done(request.number)

    def _call(self, request: wire.Call) -> wire.Reply:
        module = self._modules.get(request.module)
        if module is None:
            return wire.Failed(request.number, "unloaded", "it is not loaded")
        end = request.at + request.size
        if end > self._arena_size or request.answer > request.size:
            return wire.Failed(request.number, "arena", "the block is not in the arena")
        instance = None if request.fresh else self._instances.pop(request.module, None)
        self._began = began = time.thread_time_ns()
        self._running = request.number
        try:
            if instance is None or instance.memory != request.memory:
                instance = Instance(self._engine, module, request.memory, request.fuel)
            fuel = instance.call(
                self._arena + request.at, request.size, request.answer, request.fuel
            )
        except CallFailedError as error:
            return wire.Failed(request.number, error.kind, error.text[: wire.MAX_TEXT])
        finally:
            self._running = 0
        instance.calls += 1
        instance.bytes += request.size
        spent = instance.calls >= RETIRED_CALLS or instance.bytes >= RETIRED_BYTES
        if not request.fresh and not spent:
            self._instances[request.module] = instance
        return wire.Done(request.number, fuel, time.thread_time_ns() - began)


def _read(fd: int, size: int) -> bytearray:
    found = bytearray()
    while len(found) < size and (part := os.read(fd, size - len(found))):
        found += part
    os.close(fd)
    return found
