"""One module, or one text, in a process that ends with it."""

import os
from collections.abc import Callable

import wasmtime

from synapsed.jail import lockdown, wire
from synapsed.jailworker.engine import engine

BOUNDS = lockdown.Bounds(
    address_space=960 << 20,
    data=960 << 20,
    cpu_s=5,
    file_size=wire.MAX_ARTEFACT,
)
"""Five seconds hold the worst module within `ModuleLimits` that is not made to be slow: 1.3 s for
1 MiB. With two cores shared by eight programs that is half a minute of the clock."""


def compile_module(layers: str) -> None:
    """Native code of the module on IN, to OUT."""
    ready = engine()
    _once(layers, lambda data: bytes(wasmtime.Module(ready, data).serialize()))


def translate(layers: str) -> None:
    """The module that the text on IN stands for, to OUT."""
    _once(layers, lambda data: bytes(wasmtime.wat2wasm(data)))


def _once(layers: str, make: Callable[[bytes], bytes]) -> None:
    lockdown.confine(layers, BOUNDS)
    lockdown.seal(layers)
    wire.say(wire.Ready())
    wire.say(_answer(make))


def _answer(make: Callable[[bytes], bytes]) -> wire.Reply:
    try:
        made = make(_read_all(wire.IN_FD))
    except wasmtime.WasmtimeError as error:
        return wire.Failed(0, "refused", " ".join(str(error).split())[: wire.MAX_TEXT])
    if len(made) > wire.MAX_ARTEFACT:
        return wire.Failed(0, "refused", f"it becomes {len(made)} bytes of native code")
    rest = memoryview(made)
    while rest:
        rest = rest[os.write(wire.OUT_FD, rest) :]
    return wire.Done(0)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)
