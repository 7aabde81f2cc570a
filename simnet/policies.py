"""Modules for a world's upgrades, written out in WebAssembly's text: no toolchain is needed.

A policy is one expression per answer: what a row is worth, of its columns (`{rank}`), of the
context (`{wanted}`) and of numbers. The rest of the module is made from the slot's definition.
"""

from collections.abc import Mapping
from pathlib import Path

from protocols.slots.abi import WORD, Slot
from synapsed.authoring import build
from synapsed.authoring.skeleton import skeleton
from synapsed.jail.jail import Jail

_LOOP = """\
    (local $at i32) (local $end i32) (local $stride i32)
    (if (i64.ne (i64.load (local.get $block)) (i64.const {abi})) (then (return (i32.const 1))))
    {before}
    (local.set $stride (i32.shl (i32.wrap_i64 (i64.load offset={rows} (local.get $block)))
      (i32.const 3)))
    (local.set $at (i32.add (local.get $block) (i32.const {first})))
    (local.set $end (i32.add (local.get $at) (local.get $stride)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
{stores}
      (local.set $at (i32.add (local.get $at) (i32.const {word})))
      (br $next)))
"""


class Columns(dict[str, str]):
    """Name -> the expression that reads it, of the row at $at."""

    def __init__(self, slot: Slot) -> None:
        (table,) = slot.tables
        super().__init__(
            {
                each.name: f"(i64.load offset={WORD * (1 + at)} (local.get $block))"
                for at, each in enumerate(slot.context)
            }
        )
        self.update({each.name: f"(i64.load {_cell(at)})" for at, each in enumerate(table.columns)})


def _cell(column: int) -> str:
    """Where the row at $at has its value in a column; the answer's columns stand behind."""
    return f"(i32.add (local.get $at) (i32.mul (local.get $stride) (i32.const {column})))"


def policy(slot: Slot, answers: Mapping[str, str], before: str = "") -> str:
    """The text of a module for a slot of one table; `before` is what each call begins with."""
    columns, (table,) = Columns(slot), slot.tables
    first = 1 + len(slot.context)
    stores = [
        f"      (i64.store {_cell(at)} {answers[output.name].format_map(columns)})"
        for at, output in enumerate(slot.outputs, len(table.columns))
    ]
    loop = _LOOP.format(
        abi=slot.abi,
        before=before.format_map(columns),
        rows=WORD * first,
        first=WORD * (first + 1),
        stores="\n".join(stores),
        word=WORD,
    )
    head = f"    (if (i64.ne (i64.load (local.get $block)) (i64.const {slot.abi}))"
    blank = skeleton(slot, "wat")
    begins = blank.index(head)
    ends = blank.index("\n", begins) + 1
    memory = f'(memory (export "memory") 1 {slot.limits.memory_pages})'
    assert memory in blank
    # A check allows three quarters of the memory that a call may take.
    smaller = f'(memory (export "memory") 1 {slot.limits.memory_pages // 2})'
    return (blank[:begins] + loop + blank[ends:]).replace(memory, smaller)


async def build_policy(text: str, slot: Slot, jail: Jail, folder: Path) -> build.Built:
    """Build a text as `synapsectl upgrade build` does, into a folder that can be proposed."""
    source = folder.with_suffix(".wat")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    built, module, kept = await build.build(source, slot, jail)
    build.write(folder, built, module, kept)
    return built
