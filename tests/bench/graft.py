"""Grafting a function onto a module: its `run` becomes one that we wrote around the old one.

So that modules which are wrong, or dear, in some way that we know can be made of any module,
whatever language it was written in.
"""

from protocols.slots.abi import Slot
from synapsed.authoring.layout import Place, places
from synapsed.authoring.sample import answered
from synapsed.authoring.tidy import MAGIC, leb, section, sections, unsigned
from synapsed.jail.jail import Jail

FUNCTION, GLOBAL, EXPORT, CODE = 3, 6, 7, 10
RUN = b"\x03run\x00"
MUTABLE_ZERO = b"\x7f\x01\x41\x00\x0b"
"""An i32 global that can be set."""


async def graft(base: bytes, body: str, jail: Jail) -> bytes:
    """The module with `body` as its `run`: WAT of what stands in a function of (param $block i32)
    (param $bytes i32) (result i32), where $old is the `run` of before and $state a new global."""
    found = dict(sections(base))
    old = _exported(found[EXPORT])
    functions, _ = unsigned(found[FUNCTION], 0)
    globals_, _ = unsigned(found.get(GLOBAL, b"\0"), 0)
    entry = await _assembled(body, old, functions, globals_, jail)
    kind = _kinds(found[FUNCTION])[old]
    changed = {
        FUNCTION: _appended(found[FUNCTION], leb(kind)),
        GLOBAL: _appended(found.get(GLOBAL, b"\0"), MUTABLE_ZERO),
        EXPORT: found[EXPORT].replace(RUN + leb(old), RUN + leb(functions)),
        CODE: _appended(found[CODE], entry),
    }
    return MAGIC + b"".join(
        section(number, changed.get(number, found.get(number, b"")))
        for number in (1, 3, 4, 5, 6, 7, 9, 12, 10, 11)
        if number in found or number in changed
    )


async def _assembled(body: str, old: int, functions: int, globals_: int, jail: Jail) -> bytes:
    """The new function's entry in a code section, assembled among dummies so that all numbers
    are those that it will have."""
    dummies = "".join(
        f"(func {'$old' if at == old else ''} (param i32 i32) (result i32) (i32.const 0))"
        for at in range(functions)
    )
    states = "(global (mut i32) (i32.const 0))" * globals_
    text = (
        f"(module (memory 1) {states} (global $state (mut i32) (i32.const 0)) {dummies}"
        f" (func (param $block i32) (param $bytes i32) (result i32) {body}))"
    )
    code = dict(sections(await jail.wat(text.encode())))[CODE]
    count, at = unsigned(code, 0)
    for _ in range(count - 1):
        size, at = unsigned(code, at)
        at += size
    return code[at:]


def _exported(exports: bytes) -> int:
    at = exports.index(RUN) + len(RUN)
    return unsigned(exports, at)[0]


def _kinds(functions: bytes) -> list[int]:
    count, at = unsigned(functions, 0)
    found = []
    for _ in range(count):
        kind, at = unsigned(functions, at)
        found.append(kind)
    return found


def _appended(body: bytes, item: bytes) -> bytes:
    count, at = unsigned(body, 0)
    return leb(count + 1) + body[at:] + item


# -- pieces of a body ------------------------------------------------------------------------

LOCALS = """
    (local $rows i32) (local $at i32) (local $left i32) (local $cell i32)
    (local $hash i64) (local $value i64)
    (local $done i32)
"""
CALL = "(local.set $done (call $old (local.get $block) (local.get $bytes)))"
DONE = "(local.get $done)"


def count(slot: Slot, table: int) -> str:
    """The number of rows of a table, i32."""
    at = 8 * (1 + len(slot.context) + table)
    return f"(i32.wrap_i64 (i64.load offset={at} (local.get $block)))"


def rows(slot: Slot) -> str:
    """$rows becomes the number of rows that are answered."""
    return f"(local.set $rows {count(slot, slot.tables.index(answered(slot)))})"


def each_row(slot: Slot, body: str) -> str:
    """Do something for $at from 0 to the last row that is answered."""
    return f"""
    {rows(slot)}
    (local.set $at (i32.const 0))
    (block $end
      (loop $next
        (br_if $end (i32.ge_u (local.get $at) (local.get $rows)))
        {body}
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    """


def cell(slot: Slot, place: Place) -> str:
    """Where row $at of a column lies, i32."""
    words = f"(i32.add (i32.const {place.first}) (local.get $at))"
    for table, times in enumerate(place.each):
        if times:
            product = f"(i32.mul (i32.const {times}) {count(slot, table)})"
            words = f"(i32.add {words} {product})"
    return f"(i32.add (local.get $block) (i32.shl {words} (i32.const 3)))"


def hashed(slot: Slot) -> str:
    """$hash becomes a number that depends on all columns of row $at."""
    columns = [place for place in places(slot)[0] if place.name.startswith(f"{slot.answers}_")]
    steps = ["(local.set $hash (i64.const 0))"]
    for place in columns:
        steps.append(
            "(local.set $hash (i64.mul (i64.const 0x9E3779B97F4A7C15)"
            f" (i64.xor (local.get $hash) (i64.load {cell(slot, place)}))))"
            "(local.set $hash (i64.xor (local.get $hash)"
            " (i64.shr_u (local.get $hash) (i64.const 29))))"
        )
    return "\n".join(steps)


def burn(steps: int) -> str:
    """Do nothing, for about four units of fuel a step."""
    if steps <= 0:
        return ""
    return f"""
    (local.set $left (i32.const {steps}))
    (block $out
      (loop $burning
        (br_if $out (i32.eqz (local.get $left)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $burning)))
    """
