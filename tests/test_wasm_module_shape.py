"""Foreign bytes are refused for what they are, before anything compiles them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import Config, Engine, Module, WasmtimeError

from protocols.slots.wasm_module import MAGIC, Inspected, ModuleLimits, ModuleRefusedError, inspect
from tests import wasm_kit as kit
from tests.jail_kit import ADDER
from tests.steps import at_most

LIMITS = ModuleLimits()


def look(module: bytes) -> Inspected:
    return inspect(module, LIMITS)


def refused(module: bytes) -> str:
    with pytest.raises(ModuleRefusedError) as caught:
        look(module)
    return caught.value.reason


def test_the_smallest_module_and_a_real_one_pass() -> None:
    assert look(kit.build()) == Inspected(
        size=len(kit.build()), functions=2, largest_body=4, most_locals=0,
        memory_pages=1, memory_pages_most=64, table=0, data=0,
    )  # fmt: skip
    assert look(ADDER).most_locals == 2


def test_linkers_pad_their_numbers_and_export_two_constants() -> None:
    constant = bytes([kit.I32, 0]) + kit.ZERO
    padded = kit.build(
        {
            kit.FUNCTION: kit.u(2, width=5) + kit.u(0, width=5) + kit.u(1, width=5),
            kit.GLOBAL: kit.vector(constant, constant),
            kit.EXPORT: kit.vector(
                kit.export("memory", 2, 0), kit.export("reserve", 0, 0), kit.export("run", 0, 1),
                kit.export("__data_end", 3, 0), kit.export("__heap_base", 3, 1),
            ),
        }
    )  # fmt: skip
    assert look(padded).functions == 2


SHAPES = {
    "does not begin": [
        b"",
        b"\0asm",
        b"\0asm\x02\0\0\0",
        b"(module)",
        b"\0asm\x0d\0\x01\0" + b"\0" * 8,
        b"\x7fELF" + b"\0" * 60,
    ],
    "are the most": [
        MAGIC + b"\0" * LIMITS.size,
        kit.with_functions(20_000),
        kit.build({kit.TYPE: kit.u(1001) + kit.signature(b"", b"") * 1001}),
        kit.build({kit.TYPE: kit.vector(kit.signature(bytes([kit.I32] * 101), b""))}),
        kit.with_run(b"\x41\0", b"\x01" + kit.u(1001) + bytes([kit.I32])),
        kit.with_run(b"\x41\0", b"\x02" + (kit.u(600) + bytes([kit.I32])) * 2),
        kit.with_run(b"\x41\0", b"\x02" + kit.u(1) + bytes([kit.I32]) + kit.u((1 << 32) - 1)),
        kit.with_run(kit.table_of_branches(70_000)),
        kit.build({kit.TABLE: kit.vector(bytes([kit.FUNCREF, 0]) + kit.u(10_001))}),
        kit.build({kit.TABLE: kit.vector(*[bytes([kit.FUNCREF, 0, 1])] * 2)}),
        kit.build({kit.MEMORY: kit.vector(*[b"\x01\x01\x40"] * 2)}),
        kit.build({kit.MEMORY: kit.vector(b"\x01" + kit.u(513) + kit.u(513))}),
        kit.build({kit.MEMORY: kit.vector(b"\x01" + kit.u(65536) + kit.u(65536))}),
    ],
    "without a maximum": [kit.build({kit.MEMORY: kit.vector(b"\x00\x01")})],
    "shared, of 64 bits": [
        kit.build({kit.MEMORY: kit.vector(bytes([flags, 1, 64]))}) for flags in (2, 3, 4, 5, 8, 9)
    ],
    "at least 9 and at most 8": [kit.build({kit.MEMORY: kit.vector(b"\x01\x09\x08")})],
    "it imports 'env'.'f'": [
        kit.build({kit.IMPORT: kit.vector(kit.name("env") + kit.name("f") + b"\0\0")})
    ],
    "start function": [kit.build({kit.START: b"\1"})],
    "does not export reserve, run": [
        kit.build({kit.EXPORT: kit.vector(kit.export("memory", 2, 0))})
    ],
    "it exports 'more'": [
        kit.build({kit.EXPORT: kit.SECTIONS[kit.EXPORT].replace(b"\3run", b"\4more")})
    ],
    "something else": [
        kit.build({kit.EXPORT: kit.vector(kit.export("run", 0, 0))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("reserve", 0, 1))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("run", 0, 2))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("run", 2, 0))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("memory", 0, 0))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("memory", 2, 1))}),
        kit.build({kit.EXPORT: kit.vector(kit.export("__heap_base", 3, 0))}),
        kit.build({kit.TABLE: kit.vector(bytes([kit.EXTERNREF, 0, 1]))}),
    ],
    "exports 'run' twice": [
        kit.build({kit.EXPORT: kit.vector(*[kit.export("run", 0, 1)] * 2)}),
    ],
    "a wrong place": [
        kit.build(tail=kit.section(kit.TYPE, b"\0")),
        kit.build(tail=kit.section(kit.CODE, b"\0")),
        kit.build(tail=kit.section(kit.DATA_COUNT, b"\0")),
    ],
    "the unknown kind": [
        kit.build(tail=kit.section(13, b"\0")),
        kit.build(tail=kit.section(14, b"")),
        kit.build(tail=kit.section(0x80, b"")),
        kit.build({kit.DATA: kit.vector(b"\x03" + kit.ZERO + b"\0")}),
        kit.build({kit.ELEMENT: kit.vector(b"\x08")}),
    ],
    "bytes too many": [kit.build({kit.FUNCTION: b"\x02\0\1\0"})],
    "bytes are stated": [kit.build(tail=b"\x0b\x7f"), kit.build()[:-1]],
    "more than 32 bits": [
        kit.build({kit.FUNCTION: b"\xff\xff\xff\xff\x1f"}),
        kit.build({kit.FUNCTION: b"\x82\x80\x80\x80\x80\x00\0\1"}),
        kit.build({kit.GLOBAL: b"\x01\x7f\0\x41\xff\xff\xff\xff\x5f\x0b"}),
    ],
    "more than 64 bits": [
        kit.build({kit.GLOBAL: b"\x01\x7e\0\x42" + b"\x80" * 9 + b"\x02\x0b"}),
        kit.build({kit.GLOBAL: b"\x01\x7e\0\x42" + b"\x80" * 10 + b"\x00\x0b"}),
    ],
    "in the middle": [
        kit.build({kit.FUNCTION: b"\x80"}),
        kit.build({kit.GLOBAL: b"\x01\x7f\0\x41\0"}),
    ],
    "20000 functions in": [kit.build({kit.FUNCTION: kit.u(20_000)})],
    "have a body": [
        kit.build({kit.CODE: None}),
        kit.build({kit.CODE: kit.vector(kit.body(b"\x41\0"))}),
    ],
    "unknown type": [kit.build({kit.FUNCTION: kit.vector(b"\0", b"\x02")})],
    "not UTF-8": [kit.build(tail=kit.section(0, b"\x02\xff\xfe"))],
    "custom sections": [kit.build(tail=kit.section(0, b"\1x") * 65)],
    "not numbers": [
        kit.build({kit.TYPE: kit.vector(kit.signature(bytes([kind]), b""))})
        for kind in (kit.V128, kit.FUNCREF, kit.EXTERNREF, 0x40, 0x6E)
    ],
    "not a function's": [kit.build({kit.TYPE: kit.vector(b"\x5f\0")})],
    "local that is not": [kit.with_run(b"\x41\0", bytes([1, 1, kit.V128]))],
    "without an end": [
        kit.build({kit.CODE: kit.vector(kit.body(b"\x41\0"), b"\x03\0\x41\0")}),
        kit.build({kit.CODE: kit.vector(kit.body(b"\x41\0"), b"\x01\0")}),
    ],
    "in a constant": [
        kit.build({kit.GLOBAL: b"\x01\x7f\0\x10\0\x0b"}),
        kit.build({kit.DATA: kit.vector(b"\0\x20\0\x0b\0")}),
    ],
    "not a number": [kit.build({kit.GLOBAL: b"\x01\x7b\0" + kit.ZERO})],
    "not there": [
        kit.build({kit.ELEMENT: kit.vector(b"\0" + kit.ZERO + b"\1\0")}),
        kit.build({kit.DATA: kit.vector(b"\x02\x01" + kit.ZERO + b"\0")}),
    ],
    "no function": [
        kit.build(
            {
                kit.TABLE: kit.vector(bytes([kit.FUNCREF, 0, 1])),
                kit.ELEMENT: kit.vector(b"\0" + kit.ZERO + b"\1\x09"),
            }
        )
    ],
    "count of data segments": [kit.build({kit.DATA_COUNT: b"\x05"})],
}  # fmt: skip


@pytest.mark.parametrize("reason", SHAPES)
def test_a_broken_shape_is_refused_with_its_reason(reason: str) -> None:
    for module in SHAPES[reason]:
        assert reason in refused(module)


def test_a_module_without_memory_is_refused() -> None:
    assert "'memory'" in refused(kit.build({kit.MEMORY: None}))


def test_stricter_limits_refuse_what_the_usual_ones_take() -> None:
    strict = msgspec.structs.replace(LIMITS, body=40)
    with pytest.raises(ModuleRefusedError, match="40 are the most"):
        inspect(ADDER, strict)


def test_a_count_costs_no_more_than_its_bytes() -> None:
    """Claims of billions are refused in as many steps as there are bytes."""
    with at_most(lines=10_000):
        refused(kit.build({kit.ELEMENT: kit.u(999) + b"\0" + kit.ZERO + kit.u((1 << 32) - 1)}))
        refused(kit.build({kit.TYPE: kit.u(1000) + b"\x60" + kit.u((1 << 32) - 1)}))


ENGINE = Engine(Config())


@given(st.data())
def test_whatever_is_done_to_a_module_only_the_typed_error_comes(data: st.DataObject) -> None:
    """And what the inspection lets through exports what it should, where it compiles at all."""
    module = bytearray(data.draw(st.sampled_from([kit.build(), ADDER])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(module) - 1))
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            module[at] = data.draw(st.integers(0, 255))
        elif kind == 1:
            del module[at]
        else:
            module.insert(at, data.draw(st.integers(0, 255)))
    try:
        look(bytes(module))
    except ModuleRefusedError:
        return
    try:
        compiled = Module(ENGINE, bytes(module))
    except WasmtimeError:
        return
    assert not compiled.imports
    assert {each.name for each in compiled.exports} >= {"memory", "reserve", "run"}
