"""Modules for tests: built byte by byte, so that every rule of the format can be broken, and from
text where the instructions matter."""

import struct

from wasmtime import wat2wasm

from protocols.slots.wasm_module import MAGIC

I32, I64, F32, F64, V128, FUNCREF, EXTERNREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F
TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT = (
    range(1, 13)
)
ORDER = (TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, DATA_COUNT, CODE)
ORDER = (*ORDER, DATA)
END = 0x0B
ZERO = bytes([0x41, 0, END])
"""The constant 0, of 32 bits."""


def u(value: int, *, width: int = 0) -> bytes:
    """Unsigned LEB128, padded to `width` bytes as linkers do."""
    found = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        more = value or len(found) + 1 < width
        found.append(byte | (0x80 if more else 0))
        if not more:
            return bytes(found)


def vector(*items: bytes) -> bytes:
    return u(len(items)) + b"".join(items)


def name(text: str) -> bytes:
    return u(len(text.encode())) + text.encode()


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + u(len(body)) + body


def signature(takes: bytes, gives: bytes) -> bytes:
    return b"\x60" + u(len(takes)) + takes + u(len(gives)) + gives


def export(text: str, kind: int, index: int) -> bytes:
    return name(text) + bytes([kind]) + u(index)


def body(code: bytes, locals_: bytes = b"\0") -> bytes:
    inside = locals_ + code + bytes([END])
    return u(len(inside)) + inside


EIGHT = b"\x41\x08"
SECTIONS = {
    TYPE: vector(signature(bytes([I32]), bytes([I32])), signature(bytes([I32] * 2), bytes([I32]))),
    FUNCTION: vector(b"\0", b"\1"),
    MEMORY: vector(b"\x01\x01\x40"),
    EXPORT: vector(export("memory", 2, 0), export("reserve", 0, 0), export("run", 0, 1)),
    CODE: vector(body(EIGHT), body(b"\x41\0")),
}
"""The smallest module that may run: room at 8, and an answer that is whatever was there."""


def build(changes: dict[int, bytes | None] | None = None, *, tail: bytes = b"") -> bytes:
    """That module with other sections; None takes one away."""
    sections = SECTIONS | (changes or {})
    parts = [
        section(number, content)
        for number in ORDER
        if (content := sections.get(number)) is not None
    ]
    return MAGIC + b"".join(parts) + tail


def with_functions(count: int, code: bytes = b"\x41\0", locals_: bytes = b"\0") -> bytes:
    """That module with `count` more functions, all alike."""
    kinds = u(count + 2) + b"\0\1" + b"\0" * count
    bodies = u(count + 2) + body(EIGHT) + body(b"\x41\0") + body(code, locals_) * count
    return build({FUNCTION: kinds, CODE: bodies})


def with_run(code: bytes, locals_: bytes = b"\0") -> bytes:
    """That module with another body of `run`."""
    return build({CODE: vector(body(EIGHT), body(code, locals_))})


def table_of_branches(targets: int) -> bytes:
    """A function's code: one br_table with so many targets."""
    return b"\x02\x40" + b"\x20\0" + b"\x0e" + u(targets) + b"\0" * (targets + 1) + b"\x0b\x41\0"


def f64(value: float) -> bytes:
    return b"\x44" + struct.pack("<d", value)


HEAD = """(module (memory (export "memory") 4 64) (table 4 4 funcref)
  (type $void (func))
  (func (export "reserve") (param $size i32) (result i32) {reserve})
  {more}
  (func (export "run") (param $block i32) (param $size i32) (result i32)
    (local $i i32) (local $n i32) {run}))"""


def text(run: str = "i32.const 0", reserve: str = "i32.const 1024", more: str = "") -> bytes:
    """A module from text: what `reserve` and `run` do."""
    return bytes(wat2wasm(HEAD.format(run=run, reserve=reserve, more=more)))


GROW = """
  (if (i32.gt_u (i32.add (local.get $size) (i32.const 1024))
                (i32.shl (memory.size) (i32.const 16)))
    (then (drop (memory.grow (i32.add (i32.const 1)
                                      (i32.shr_u (local.get $size) (i32.const 16)))))))
  i32.const 1024"""
"""A `reserve` that makes room for anything."""

ADDER = """
  (local.set $n (i32.shl (i32.wrap_i64 (i64.load offset=16 (local.get $block))) (i32.const 3)))
  (local.set $block (i32.add (local.get $block) (i32.const 24)))
  (block $out (loop $again
    (br_if $out (i32.ge_u (local.get $i) (local.get $n)))
    (i64.store
      (i32.add (local.get $block) (i32.add (local.get $i) (i32.shl (local.get $n) (i32.const 1))))
      (i64.add (i64.load (i32.add (local.get $block) (local.get $i)))
               (i64.load (i32.add (local.get $block) (i32.add (local.get $i) (local.get $n))))))
    (local.set $i (i32.add (local.get $i) (i32.const 8)))
    (br $again)))
  i32.const 0"""
"""A `run` for the toy slot of tests.jail_kit: sum = a + b."""
