"""Compiling in a process that ends with it, because nothing else can stop a compiler."""

import importlib.metadata
import os
import socket

import msgspec
import trio

from protocols.slots.wasm_module import ModuleRefusedError
from synapsed.jail import spawn, wire
from synapsed.jail.errors import JailDiedError, JailSlowError
from synapsed.jail.layers import Layers

VERSION = importlib.metadata.version("wasmtime")
"""Of the runtime: native code is good for one version only."""

WALL_S = 5.5
"""For one module on the clock, above the 5 s of processor time that its process has."""
ENOUGH_CPU_S = 3.0
"""Of processor time after which too long is the module's own fault: twice what the slowest honest
module of the largest size takes."""


class CompilerDiedError(ModuleRefusedError):
    """It took more than a module may, or broke the compiler: never the node."""

    code = "module-uncompilable"


async def compile_module(module: bytes, layers: Layers) -> bytes:
    """Native code for a module that was inspected. Raises ModuleRefusedError where that is final,
    JailError where it is not."""
    return await _once("compile", module, layers)


async def translate(text: bytes, layers: Layers) -> bytes:
    """The module that WAT stands for. Raises as `compile_module` does."""
    return await _once("wat", text, layers)


async def _once(mode: str, data: bytes, layers: Layers) -> bytes:
    """Have a child make something of `data`."""
    ours, theirs = spawn.pair()
    given = os.memfd_create("jail-in", os.MFD_CLOEXEC)
    made = os.memfd_create("jail-out", os.MFD_CLOEXEC)
    with ours:
        try:
            os.pwrite(given, data, 0)
            with theirs:
                child = spawn.Child(
                    ["-m", "synapsed.jailworker", mode, layers.text()],
                    (theirs.fileno(), given, made),
                )
            try:
                return await _result(child, ours, made)
            finally:
                await child.stop()
                child.close()
        finally:
            os.close(given)
            os.close(made)


async def _result(child: spawn.Child, ours: socket.socket, made: int) -> bytes:
    with trio.move_on_after(WALL_S) as patience:
        await child.ended()
    if patience.cancelled_caught:
        await child.stop()
        if child.cpu_s < ENOUGH_CPU_S:
            raise JailSlowError(
                f"a compiler had {child.cpu_s:.1f} s of processor time in {WALL_S} s",
                remedy="try again when this machine has less to do",
            )
        raise CompilerDiedError(f"compiling it took more than {WALL_S} s")
    how = child.story()
    frames = _frames(ours)
    if not frames:
        raise JailDiedError(None, f"a compiler could not begin: it {how}")
    try:
        reply = wire.replies.decode(frames[1])
    except (IndexError, msgspec.DecodeError):
        raise CompilerDiedError(f"compiling it takes too much: the compiler {how}") from None
    if isinstance(reply, wire.Failed):
        raise ModuleRefusedError(reply.text)
    return os.pread(made, os.fstat(made).st_size, 0)


def _frames(ours: socket.socket) -> list[bytes]:
    """What a child that has ended had said: that it was ready, and an answer."""
    try:
        data = ours.recv(2 * wire.MAX_MESSAGE)
    except OSError:
        return []
    found = []
    while len(data) >= wire.HEAD.size:
        end = wire.HEAD.size + wire.HEAD.unpack_from(data)[0]
        found.append(data[wire.HEAD.size : end])
        data = data[end:]
    return found
