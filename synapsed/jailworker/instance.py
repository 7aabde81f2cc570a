"""One instance of a module, called through arrays that are made once.

The fields of wasmtime's C structures are what wasmtime-py's own bindings declare; only the calls
are made directly, because `Func.__call__` converts and allocates for ten times as long.
"""

import ctypes
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from protocols.slots import wasm_module

_POINTER = ctypes.c_void_p
_call = ctypes.CFUNCTYPE(
    _POINTER, _POINTER, _POINTER, _POINTER, ctypes.c_size_t, _POINTER, ctypes.c_size_t, _POINTER
)(("wasmtime_func_call", ffi.dll))
_set_fuel = ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_uint64)(
    ("wasmtime_context_set_fuel", ffi.dll)
)
_get_fuel = ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER)(("wasmtime_context_get_fuel", ffi.dll))
_set_deadline = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_uint64)(
    ("wasmtime_context_set_epoch_deadline", ffi.dll)
)
_data = ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER)(("wasmtime_memory_data", ffi.dll))
_data_size = ctypes.CFUNCTYPE(ctypes.c_size_t, _POINTER, _POINTER)(
    ("wasmtime_memory_data_size", ffi.dll)
)

_OF = {wasmtime.TrapCode.OUT_OF_FUEL: "fuel", wasmtime.TrapCode.INTERRUPT: "deadline"}

TABLE_ELEMENTS = wasm_module.ModuleLimits().table


class CallFailedError(Exception):
    """The call ended without an answer, and the instance is not to be used again."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Instance:
    """A store with one instance in it."""

    def __init__(
        self, engine: wasmtime.Engine, module: wasmtime.Module, memory: int, fuel: int
    ) -> None:
        self.memory = memory
        self.calls = self.bytes = 0
        """That it has answered, and of their blocks."""
        self._store = store = wasmtime.Store(engine)
        store.set_limits(
            memory_size=memory, table_elements=TABLE_ELEMENTS, instances=1, tables=1, memories=1
        )
        store.set_fuel(fuel)
        store.set_epoch_deadline(1)
        try:
            made = wasmtime.Instance(store, module, [])
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise CallFailedError("memory", f"no instance: {error}") from error
        exports = made.exports(store)
        reserve, run, memory_ = (exports[name] for name in ("reserve", "run", "memory"))
        if not (
            isinstance(reserve, wasmtime.Func)
            and isinstance(run, wasmtime.Func)
            and isinstance(memory_, wasmtime.Memory)
        ):
            raise CallFailedError("trap", "it exports something else than it was inspected for")
        self._reserve, self._run = _pointer(reserve._func), _pointer(run._func)
        self._memory = _pointer(memory_._memory)
        self._exports = exports  # they own what the pointers point to
        self._context = ctypes.cast(store._context(), _POINTER)
        self._arguments = (ffi.wasmtime_val_t * 2)()
        self._result = (ffi.wasmtime_val_t * 1)()
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._left = ctypes.c_uint64()
        for each in self._arguments:
            each.kind = ffi.WASMTIME_I32
        self._first, self._second = (each.of for each in self._arguments)
        self._given = self._result[0].of
        self._at = tuple(
            _pointer(each) for each in (self._arguments, self._result, self._trap, self._left)
        )

    def call(self, block: int, size: int, answer: int, fuel: int) -> int:
        """Run it on `size` bytes at the address `block`, and put the last `answer` bytes of what
        it leaves there; what it used of its fuel. Raises CallFailedError."""
        context, memory = self._context, self._memory
        _set_fuel(context, fuel)
        _set_deadline(context, 1)
        self._first.i32 = size
        place = self._invoke(self._reserve, 1) & 0xFFFFFFFF
        if place % 8 or place + size > _data_size(context, memory):
            raise CallFailedError("memory", f"reserve({size}) gave {place}: no room for the block")
        ctypes.memmove(_data(context, memory) + place, block, size)
        self._first.i32, self._second.i32 = place, size
        returned = self._invoke(self._run, 2)
        if returned:
            raise CallFailedError("answer", f"run returned {returned}")
        # Its memory may have grown, and moved, but never shrinks.
        skip = size - answer
        ctypes.memmove(block + skip, _data(context, memory) + place + skip, answer)
        _get_fuel(context, self._at[3])
        return fuel - self._left.value

    def _invoke(self, function: _POINTER, arguments: int) -> int:
        given, result, trap, _ = self._at
        error = _call(self._context, function, given, arguments, result, 1, trap)
        if error or self._trap:
            raise self._failure(error)
        return int(self._given.i32)

    def _failure(self, error: int | None) -> CallFailedError:
        if error:
            pointer = ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t))
            return CallFailedError("trap", str(wasmtime.WasmtimeError._from_ptr(pointer)))
        trap = wasmtime.Trap._from_ptr(self._trap)
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        kind = _OF.get(trap.trap_code, "trap") if trap.trap_code else "trap"
        lines = [line.strip() for line in trap.message.splitlines() if line.strip()]
        return CallFailedError(kind, lines[-1] if lines else "it trapped")


def _pointer(thing: Any) -> ctypes.c_void_p:
    return ctypes.cast(ctypes.pointer(thing), _POINTER)
