"""Hostile modules of every kind that was measured or thought of, and what must become of each.

refused    before anything compiles it
invalid    by the compiler, which lives
killed     the compiler's process ended: too much time or memory
trap, fuel, deadline, memory, answer     what the call fails with
answered   it runs to its end, and only its answer has changed
"""

from collections.abc import Callable, Iterator

import msgspec
from wasmtime import wat2wasm

from protocols.slots.abi import Limits
from protocols.slots.wasm_module import MAGIC
from tests import wasm_kit as kit
from tests.jail_kit import ADDER, TOY

FEW = Limits(fuel=10_000_000, fuel_per_row=0, memory_pages=64)
MUCH = Limits(fuel=1 << 60, fuel_per_row=0, memory_pages=64)
"""So much fuel that only the deadline is left."""


class Kind(msgspec.Struct, frozen=True):
    """One hostile module, made when it is needed: some have a megabyte."""

    name: str
    make: Callable[[], bytes]
    ends: frozenset[str]
    limits: Limits = FEW
    inspected: bool = True
    """Else it is given to the compiler as if the inspection had a hole."""


def _kind(name: str, ends: str, make: Callable[[], bytes], limits: Limits = FEW) -> Kind:
    return Kind(name, make, frozenset(ends.split()), limits)


def _wat(text: str) -> Callable[[], bytes]:
    return lambda: bytes(wat2wasm(text))


def _exported(memory: str = '(memory (export "memory") 4 64)', more: str = "") -> str:
    """A whole module with another memory, or with more in it."""
    return f"""(module {memory}
      (func (export "reserve") (param i32) (result i32) i32.const 1024)
      (func (export "run") (param i32 i32) (result i32) i32.const 0) {more})"""


def _run(code: str, more: str = "", reserve: str = "i32.const 1024") -> Callable[[], bytes]:
    return lambda: kit.text(run=code, more=more, reserve=reserve)


LOOP = "(loop $l (br $l)) i32.const 0"


def _malformed() -> Iterator[Kind]:
    yield _kind("nothing at all", "refused", lambda: b"")
    yield _kind("zeros", "refused", lambda: bytes(1000))
    yield _kind("the text of a module", "refused", lambda: b"(module)")
    yield _kind("a component", "refused", lambda: b"\0asm\x0d\0\x01\0")
    yield _kind("another version", "refused", lambda: b"\0asm\x02\0\0\0" + kit.build()[8:])
    yield _kind("a native program", "refused", lambda: b"\x7fELF" + bytes(500))
    yield _kind("cut off", "refused", lambda: ADDER[:-9])
    yield _kind("a section beyond the end", "refused", lambda: kit.build(tail=b"\x0b\xff\x7f"))
    yield _kind(
        "sections out of order", "refused", lambda: kit.build(tail=kit.section(kit.TYPE, b"\0"))
    )
    yield _kind("a section twice", "refused", lambda: kit.build(tail=kit.section(kit.CODE, b"\0")))
    yield _kind("an unknown section", "refused", lambda: kit.build(tail=kit.section(99, b"\0")))
    yield _kind(
        "a number of 33 bits", "refused", lambda: kit.build({kit.FUNCTION: b"\xff\xff\xff\xff\x1f"})
    )
    yield _kind("an endless number", "refused", lambda: kit.build({kit.FUNCTION: b"\x80" * 1000}))
    yield _kind(
        "four billion functions stated",
        "refused",
        lambda: kit.build({kit.FUNCTION: kit.u(2**32 - 1)}),
    )
    yield _kind(
        "four billion locals",
        "refused",
        lambda: kit.with_run(b"\x41\0", b"\x01" + kit.u(2**32 - 1) + bytes([kit.I32])),
    )
    yield _kind("bodies missing", "refused", lambda: kit.build({kit.CODE: None}))
    yield _kind(
        "a name that is no UTF-8", "refused", lambda: kit.build(tail=kit.section(0, b"\2\xff\xfe"))
    )
    yield _kind("a megabyte and a byte", "refused", lambda: MAGIC + bytes(1 << 20))
    yield _kind(
        "a million empty sections",
        "refused",
        lambda: kit.build(tail=kit.section(0, b"\0") * 300_000),
    )
    yield _kind("types that do not match", "invalid", lambda: kit.with_run(b"\x42\0"))
    yield _kind("blocks that do not close", "invalid", lambda: kit.with_run(b"\x02\x40\x41\0"))
    yield _kind("an unknown instruction", "invalid", lambda: kit.with_run(b"\xff\x41\0"))
    yield _kind("a branch to nowhere", "invalid", lambda: kit.with_run(b"\x0c\x63\x41\0"))


def _outside() -> Iterator[Kind]:
    imported = '(module (import "{}" "{}" ({})) (memory (export "memory") 1 2))'
    for where, what, kind in (
        ("env", "abort", "func"), ("wasi_snapshot_preview1", "fd_write", "func"),
        ("env", "memory", "memory 1"), ("env", "table", "table 1 funcref"),
        ("env", "global", "global i32"),
    ):  # fmt: skip
        yield _kind(f"imports {where}.{what}", "refused", _wat(imported.format(where, what, kind)))
    yield _kind("no run", "refused", _wat('(module (memory (export "memory") 1 2))'))
    yield _kind("more exports", "refused", _wat(_exported(more='(func (export "more"))')))
    yield _kind(
        "its table exported", "refused", _wat(_exported(more='(table (export "table") 1 funcref)'))
    )
    yield _kind("a start function", "refused", _wat(_exported(more="(func $s) (start $s)")))
    yield _kind(
        "a start function that loops",
        "refused",
        _wat(_exported(more="(func $s (loop $l (br $l))) (start $s)")),
    )
    memory = '(memory (export "memory") {})'
    yield _kind("a memory without end", "refused", _wat(_exported(memory.format("1"))))
    yield _kind("4 GB of memory", "refused", _wat(_exported(memory.format("65536 65536"))))
    yield _kind("shared memory", "refused", _wat(_exported(memory.format("1 2 shared"))))
    yield _kind("memory of 64 bits", "refused", _wat(_exported(memory.format("i64 1 2"))))
    yield _kind("two memories", "refused", _wat(_exported(more="(memory 1 2)")))
    yield _kind("more memory than its limit", "memory", _wat(_exported(memory.format("65 500"))))
    yield _kind("a huge table", "refused", _wat(_exported(more="(table 10000000 funcref)")))
    yield _kind("many tables", "refused", _wat(_exported(more="(table 9 funcref)" * 1000)))
    yield _kind("a table of foreign things", "refused", _wat(_exported(more="(table 1 externref)")))
    yield _kind(
        "a million elements",
        "refused",
        _wat(_exported(more=f"(table 9 funcref) (elem func {'0 ' * 100_000})")),
    )
    yield _kind(
        "elements beyond the table",
        "memory",
        _wat(_exported(more="(table 1 funcref) (elem (i32.const 9) func 0)")),
    )
    yield _kind(
        "data beyond the memory",
        "memory",
        _wat(_exported(more='(data (i32.const 0x7fffffff) "x")')),
    )


def _features() -> Iterator[Kind]:
    for name, more in {
        "vectors": "(func (drop (v128.const i64x2 0 0)))",
        "relaxed vectors": "(func (param i32) (drop (i8x16.relaxed_swizzle"
        " (v128.const i64x2 0 0) (v128.const i64x2 0 0))))",
        "tail calls": "(func $f (return_call $f))",
        "exceptions": "(tag $t) (func (throw $t))",
        "garbage collection": "(type $s (struct (field i32)))"
        " (func (drop (struct.new_default $s)))",
        "atomics": "(func (drop (i32.atomic.load (i32.const 0))))",
        "references to foreign things": "(func (param externref))",
        "typed references": "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "wide arithmetic": "(func (param i64) (result i64 i64) (i64.mul_wide_s (local.get 0)"
        " (local.get 0)))",
    }.items():
        yield _kind(name, "refused invalid", _wat(_exported(more=more)))


def _compile_bombs() -> Iterator[Kind]:
    branches = kit.table_of_branches
    nested = "(block " * 3000 + ")" * 3000
    yield _kind("a million functions", "refused", lambda: _functions(200_000))
    yield _kind("100,000 functions", "refused", lambda: kit.with_functions(100_000))
    yield _kind(
        "as many functions as may be", "answered killed", lambda: kit.with_functions(19_900)
    )
    yield _kind(
        "as many functions with as much as fits",
        "answered killed",
        lambda: kit.with_functions(15_000, b"\x20\0\x20\0\x6a\x1a" * 6 + b"\x41\0"),
    )
    yield _kind("a br_table of 113 KB", "refused", lambda: kit.with_run(branches(113_000)))
    yield _kind("a br_table of 600 KB", "refused", lambda: kit.with_run(branches(600_000)))
    yield _kind(
        "br_tables of 60 KB, 16 of them",
        "answered killed",
        lambda: kit.with_functions(16, branches(60_000)),
    )
    yield _kind(
        "small br_tables everywhere",
        "answered killed",
        lambda: kit.with_functions(1000, branches(1000)),
    )
    yield _kind("40,000 locals", "refused", _locals(40_000))
    yield _kind("1,000 locals, all alive", "answered killed", _alive)
    yield _kind(
        "1,000 locals in each of 900 functions",
        "answered killed",
        lambda: kit.with_functions(900, _mixed(900), _of(999)),
    )
    yield _kind("blocks 3,000 deep", "answered invalid", _run(f"{nested} i32.const 0"))
    yield _kind(
        "30,000 blocks deep",
        "answered invalid killed",
        lambda: kit.with_run(b"\x02\x40" * 16_000 + b"\x0b" * 16_000 + b"\x41\0"),
    )
    yield _kind(
        "a tower of ifs",
        "answered invalid killed",
        lambda: kit.with_run(b"\x20\0\x04\x40" * 10_000 + b"\x0b" * 10_000 + b"\x41\0"),
    )
    yield _kind(
        "one long sum",
        "answered killed",
        lambda: kit.with_run(b"\x41\0" + b"\x20\0\x6a" * 20_000 + b"\x1a\x41\0"),
    )
    yield _kind(
        "a long sum of fractions",
        "answered killed",
        lambda: kit.with_run(kit.f64(0.1) + (kit.f64(0.1) + b"\xa3") * 6_000 + b"\x1a\x41\0"),
    )
    yield _kind(
        "a stack of 20,000 values",
        "answered killed",
        lambda: kit.with_run(b"\x20\0" * 20_000 + b"\x6a" * 19_999 + b"\x1a\x41\0"),
    )
    yield _kind("locals that meet behind a switch, 27 KB", "killed", _meeting(1, 500, 5_000))
    yield _kind("locals that meet behind a switch, 68 KB", "refused", _meeting(1, 2_000, 20_000))
    yield _kind("locals that meet behind a switch, 63 KB", "killed", _meeting(1, 2_000, 18_000))
    yield _kind("locals that meet, 14 times", "killed", _meeting(14, 2_000, 18_000))
    yield _kind("branches into one another", "fuel killed", _web)
    yield _kind(
        "a megabyte of bulk operations",
        "answered trap fuel killed",
        lambda: kit.with_functions(10, b"\x41\0\x41\0\x41\0\xfc\x0b\0" * 7_000 + b"\x41\0"),
    )


def _uninspected() -> Iterator[Kind]:
    """What wasmtime itself has no bound for: only the kernel's limits are left."""
    for name, ends, make in (
        ("100,000 functions", "compiled killed", lambda: kit.with_functions(100_000)),
        ("999,000 functions", "killed", lambda: kit.with_functions(999_000)),
        ("a br_table bomb of 113 KB", "killed", _meeting(1, 2_000, 60_000)),
        ("a br_table bomb of 600 KB", "killed", _meeting(6, 2_000, 60_000)),
        ("a function of a megabyte", "killed compiled",
         lambda: kit.with_run(b"\x41\0" + b"\x20\0\x6a" * 330_000 + b"\x1a\x41\0")),
    ):  # fmt: skip
        yield Kind(f"{name}, not inspected", make, frozenset(ends.split()), inspected=False)


def _functions(count: int) -> bytes:
    return kit.build({kit.FUNCTION: kit.u(count) + b"\0" * count})


def _locals(count: int) -> Callable[[], bytes]:
    return lambda: kit.with_run(b"\x41\0", b"\x01" + kit.u(count) + bytes([kit.I32]))


def _of(count: int) -> bytes:
    return b"\x01" + kit.u(count) + bytes([kit.I32])


def _mixed(count: int) -> bytes:
    """Code in which so many locals live across a loop."""
    code = b"\x03\x40"
    for at in range(0, count, 8):
        code += b"\x20" + kit.u(at) + b"\x20" + kit.u(count - at) + b"\x6a\x21" + kit.u(at)
    return code + b"\x20\0\x0d\0\x0b\x41\0"


def _alive() -> bytes:
    code = b"\x03\x40"
    for at in range(1000):
        code += b"\x20" + kit.u(at) + b"\x20" + kit.u((at * 7 + 3) % 1000) + b"\x73"
        code += b"\x21" + kit.u((at * 13 + 1) % 1000)
    return kit.with_run(code * 1 + b"\x20\2\x0d\0\x0b\x41\0", _of(998))


def _meeting(functions: int, depth: int, targets: int) -> Callable[[], bytes]:
    """A switch into nested blocks, each of which changes one of 900 locals that all are read at
    the end: every block is a place where every local may have come from anywhere."""
    code = b"\x02\x40" * depth
    for at in range(1, 901):
        code += b"\x20\0\x41" + kit.u(at % 60) + b"\x6a\x21" + kit.u(at)
    code += b"\x20\0\x0e" + kit.u(targets)
    code += b"".join(kit.u(at % depth) for at in range(targets + 1))
    for at in range(depth):
        code += b"\x0b\x20\0\x21" + kit.u(1 + at % 900)
    for at in range(1, 901):
        code += b"\x20" + kit.u(at) + b"\x20\0\x6a\x21\0"
    return lambda: kit.with_functions(functions, code + b"\x41\0", _of(900))


def _web() -> bytes:
    """Nested loops that branch to every one around them."""
    depth = 90
    code = b"\x03\x40" * depth
    for level in range(depth):
        code += b"".join(b"\x20\1\x0d" + kit.u(to) for to in range(depth - level))
        code += b"\x0b"
    return kit.with_run(code + b"\x41\0")


def _running() -> Iterator[Kind]:
    yield _kind("an endless loop", "fuel", _run(LOOP))
    yield _kind("an endless loop with endless fuel", "deadline", _run(LOOP), MUCH)
    yield _kind("an endless loop in reserve", "fuel", _run("i32.const 0", reserve=LOOP))
    yield _kind(
        "endless work with memory",
        "deadline",
        _run("""
        (loop $l (i64.store (i32.and (local.get $i) (i32.const 0x3fff8)) (i64.const -1))
          (local.set $i (i32.add (local.get $i) (i32.const 8))) (br $l)) i32.const 0"""),
        MUCH,
    )
    yield _kind(
        "memory.grow without end",
        "fuel answered",
        _run("(loop $l (drop (memory.grow (i32.const 1))) (br $l)) i32.const 0"),
    )
    yield _kind(
        "memory.grow by all at once",
        "answered",
        _run("(drop (memory.grow (i32.const 65000))) i32.const 0"),
    )
    yield _kind(
        "memory.grow, and every page touched",
        "answered",
        _run("""(loop $l (drop (memory.grow (i32.const 1)))
                  (memory.fill (i32.const 0) (i32.const 1) (i32.shl (memory.size) (i32.const 16)))
                  (local.set $i (i32.add (local.get $i) (i32.const 1)))
                  (br_if $l (i32.lt_u (local.get $i) (i32.const 100)))) i32.const 0"""),
        MUCH,
    )
    yield _kind(
        "table.grow without end",
        "fuel",
        _run("(loop $l (drop (table.grow (ref.null func) (i32.const 1000))) (br $l)) i32.const 0"),
    )
    yield _kind("memory.fill without end", "fuel", _fill(FEW), FEW)
    yield _kind("memory.fill without end, endless fuel", "deadline", _fill(MUCH), MUCH)
    yield _kind(
        "memory.copy without end",
        "deadline",
        _run("""
        (loop $l (memory.copy (i32.const 0) (i32.const 9) (i32.const 200000)) (br $l))
        i32.const 0"""),
        MUCH,
    )
    yield _kind(
        "recursion",
        "trap",
        _run("(call $f)", "(func $f (result i32) (i32.add (call $f) (i32.const 1)))"),
    )
    yield _kind(
        "recursion with a large frame",
        "trap",
        lambda: kit.with_run(b"\x20\0\x20\1\x10\1" + b"\x20\5\x6a", _of(999)),
    )
    yield _kind(
        "recursion through the table",
        "trap",
        _run(
            "(call_indirect (type $f) (i32.const 0))",
            """(type $f (func (result i32))) (elem (i32.const 0) $g)
        (func $g (type $f) (i32.add (call_indirect (type $f) (i32.const 0)) (i32.const 1)))""",
        ),
    )
    for name, code in {
        "unreachable": "unreachable",
        "a division by zero": "(i32.div_u (i32.const 1) (local.get $i))",
        "a division that overflows": "(i32.div_s (i32.const 0x80000000) (i32.const -1))",
        "a fraction too large": "(i32.trunc_f64_u (f64.const 1e300))",
        "a load beyond the memory": "(i32.load (i32.const -4))",
        "a load by the largest offset": "(i32.load offset=0xffffffff (i32.const -1))",
        "a store beyond the memory": "(i64.store (i32.const 0x7ffffff8) (i64.const 1)) i32.const 0",
        "a fill beyond the memory":
            "(memory.fill (i32.const 8) (i32.const 1) (i32.const -16)) i32.const 0",
        "a call of nothing": "(call_indirect (result i32) (i32.const 1))",
        "a call beyond the table": "(call_indirect (result i32) (i32.const 99))",
        "a call of another type":
            "(table.set (i32.const 0) (ref.func $v)) (call_indirect (result i32) (i32.const 0))",
    }.items():  # fmt: skip
        yield _kind(name, "trap", _run(code, "(func $v) (elem declare func $v)"))
    for name, place in {
        "beyond its memory": "0x3ffff0",
        "before its memory": "-8",
        "at an odd place": "1027",
        "at the very end": "0x40000",
    }.items():
        yield _kind(f"room {name}", "memory", _run("i32.const 0", reserve=f"i32.const {place}"))
    for number in (1, -1, 0x7FFFFFFF):
        yield _kind(f"run returns {number}", "answer", _run(f"i32.const {number}"))
    yield _kind(
        "all its memory overwritten",
        "answered",
        _run(
            "(memory.fill (i32.const 0) (i32.const 0xee) (i32.shl (memory.size) (i32.const 16)))"
            " i32.const 0"
        ),
    )
    yield _kind(
        "its memory moved while it runs",
        "answered",
        _run(
            "(drop (memory.grow (i32.const 60))) (i64.store (local.get $block) (i64.const 99))"
            " i32.const 0"
        ),
    )
    yield _kind("no answer written", "answered", _run("i32.const 0"))
    yield _kind(
        "it remembers what it did",
        "answered",
        _run(
            "(global.set $n (i32.add (global.get $n) (i32.const 1))) i32.const 0",
            "(global $n (mut i32) (i32.const 0))",
        ),
    )


def _fill(_: Limits) -> Callable[[], bytes]:
    return _run(
        "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 200000)) (br $l)) i32.const 0"
    )


def kinds() -> list[Kind]:
    """All of them."""
    return [
        *_malformed(), *_outside(), *_features(), *_compile_bombs(), *_uninspected(),
        *_running(),
        _kind("one that means well", "answered", lambda: ADDER, TOY.limits),
    ]  # fmt: skip
