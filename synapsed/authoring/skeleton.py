"""The beginning of a source in each language: how a batch is read, written out for one slot.

What stands between the two marks is made from the slot's definition, so that an author counts no
offsets; the rest is the author's. A test holds the examples to it.

    python -m synapsed.authoring.skeleton FILE...     renew that part, after a slot's definition
                                                      has changed; SLOT.SUFFIX is a file's name
"""

import sys
from collections.abc import Callable
from pathlib import Path

from protocols.errors import NotHeldError
from protocols.slots.abi import Slot
from protocols.slots.closed_list import SLOTS
from synapsed.authoring.languages import language_of
from synapsed.authoring.layout import Place, head, places

BEGIN = "begin of what synapsectl made from the slot"
END = "end of what synapsectl made from the slot"


class NoSkeletonError(NotHeldError):
    """A language that there is no beginning in."""

    code = "no-skeleton"


def skeleton(slot: Slot, language: str) -> str:
    """A whole source that compiles, and answers 0 to everything. Raises NoSkeletonError."""
    writer = _WRITERS.get(language)
    if writer is None:
        raise NoSkeletonError(
            f"there is no beginning of a source in {language}",
            remedy=f"there are {', '.join(_WRITERS)}; docs/slots.md has the layout",
        )
    return writer(slot)


def prelude(text: str) -> str:
    """What stands between the marks of a source; "" where there are none."""
    if BEGIN not in text or END not in text:
        return ""
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def _head(slot: Slot, mark: str) -> list[str]:
    return [
        f"{mark} The slot {slot.name}, ABI {slot.abi}: {slot.text}",
        f"{mark} docs/slots.md says what the columns mean and what every implementation keeps.",
        "",
    ]


def _rust(slot: Slot) -> str:
    columns, outputs = places(slot)

    def rows(table: int) -> str:
        return f"self.{slot.tables[table].name}_rows()"

    lines = [*_head(slot, "//"), "#![no_std]", ""]
    lines += [f"// -- {BEGIN} --", _RUST_HEAD, f"pub const ABI: i64 = {slot.abi};", ""]
    lines += ["#[allow(dead_code)]", "impl Batch {"]
    for name, text, at in head(slot):
        kind, cast = ("usize", " as usize") if name.endswith("_rows") else ("i64", "")
        lines += [
            f"    /// {text}",
            f"    pub fn {name}(&self) -> {kind} {{ self.word({at}){cast} }}",
        ]
    for place in columns:
        lines += [
            f"    /// {place.text}",
            f"    pub fn {place.name}(&self) -> &'static [i64] {{"
            f" self.column({place.sum(rows)}, {_rust_rows(slot, place)}) }}",
        ]
    for place in outputs:
        lines += [
            f"    /// {place.text}",
            f"    pub fn {place.name}(&self) -> &'static mut [i64] {{"
            f" self.column({place.sum(rows)}, self.{slot.answers}_rows()) }}",
        ]
    lines += ["}", f"// -- {END} --", "", "fn answer(batch: &Batch) {"]
    for place in outputs:
        lines += [f"    for value in batch.{place.name}() {{", "        *value = 0;", "    }"]
    return "\n".join([*lines, "}", ""])


def _rust_rows(slot: Slot, place: Place) -> str:
    table = next(t.name for t in slot.tables if place.name.startswith(f"{t.name}_"))
    return f"self.{table}_rows()"


_RUST_HEAD = """\
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { core::arch::wasm32::unreachable() }

static mut ROOM: usize = 0;
static mut SIZE: usize = 0;

/// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
#[no_mangle]
pub extern "C" fn reserve(bytes: usize) -> usize {
    unsafe {
        if bytes > SIZE {
            let end = core::arch::wasm32::memory_size(0) << 16;
            if ROOM + SIZE != end { ROOM = end; SIZE = 0; }
            let pages = (bytes - SIZE + 65535) >> 16;
            if core::arch::wasm32::memory_grow(0, pages) == usize::MAX { return 0; }
            SIZE += pages << 16;
        }
        ROOM
    }
}

/// Fills the answer in; 0 says that it is there.
#[no_mangle]
pub extern "C" fn run(block: usize, _bytes: usize) -> i32 {
    let batch = Batch(block as *mut i64);
    if batch.word(0) != ABI { return 1; }
    answer(&batch);
    0
}

/// A view on the block, which lies there until the call's end and longer.
pub struct Batch(*mut i64);

impl Batch {
    fn word(&self, at: usize) -> i64 { unsafe { *self.0.add(at) } }
    fn column(&self, at: usize, rows: usize) -> &'static mut [i64] {
        unsafe { core::slice::from_raw_parts_mut(self.0.add(at), rows) }
    }
}
"""


def _assemblyscript(slot: Slot) -> str:
    columns, outputs = places(slot)

    def rows(table: int) -> str:
        return f"{slot.tables[table].name}_rows"

    lines = [*_head(slot, "//"), f"// -- {BEGIN} --", f"const ABI: i64 = {slot.abi};", _AS_HEAD]
    for name, text, _ in head(slot):
        kind = "i32" if name.endswith("_rows") else "i64"
        lines += [f"/** {text} */", f"let {name}: {kind} = 0;"]
    for place in (*columns, *outputs):
        lines += [f"/** Where it begins. {place.text} */", f"let {place.name}: usize = 0;"]
    lines += ["", "/** Fills the answer in; 0 says that it is there. */"]
    lines += ["export function run(block: usize, bytes: i32): i32 {"]
    lines += ["  if (load<i64>(block) != ABI) return 1;"]
    for name, _, at in head(slot):
        cast = "<i32>" if name.endswith("_rows") else ""
        lines.append(f"  {name} = {cast}load<i64>(block, {8 * at});")
    for place in (*columns, *outputs):
        lines.append(f"  {place.name} = block + 8 * <usize>({place.sum(rows)});")
    lines += ["  answer();", "  return 0;", "}", f"// -- {END} --", "", "function answer(): void {"]
    lines.append(f"  for (let at = 0; at < {slot.answers}_rows; at++) {{")
    for place in outputs:
        lines.append(f"    put({place.name}, at, 0);")
    return "\n".join([*lines, "  }", "}", ""])


_AS_HEAD = """\
let room: usize = 0;
let size: usize = 0;

/** Room for a block of so many bytes: at the end of memory, which grows where it is too small. */
export function reserve(bytes: usize): usize {
  if (bytes > size) {
    const end = <usize>memory.size() << 16;
    if (room + size != end) {
      room = end;
      size = 0;
    }
    const pages = (bytes - size + 65535) >> 16;
    if (memory.grow(<i32>pages) < 0) return 0;
    size += pages << 16;
  }
  return room;
}

/** Row `at` of a column. */
// @ts-ignore: decorator
@inline
function get(column: usize, at: i32): i64 {
  return load<i64>(column + (<usize>at << 3));
}

// @ts-ignore: decorator
@inline
function put(column: usize, at: i32, value: i64): void {
  store<i64>(column + (<usize>at << 3), value);
}
"""


def _c(slot: Slot) -> str:
    columns, outputs = places(slot)

    def rows(table: int) -> str:
        return f"{slot.tables[table].name}_rows"

    lines = [*_head(slot, "//"), f"// -- {BEGIN} --", _C_HEAD, f"enum {{ ABI = {slot.abi} }};", ""]
    for name, text, _ in head(slot):
        kind = "u32" if name.endswith("_rows") else "i64"
        lines += [f"// {text}", f"static {kind} {name};"]
    for place in columns:
        lines += [f"// {place.text}", f"static const i64 *{place.name};"]
    for place in outputs:
        lines += [f"// {place.text}", f"static i64 *{place.name};"]
    lines += [
        "",
        "static void answer(void);",
        "",
        "// Fills the answer in; 0 says that it is there.",
    ]
    lines += ['__attribute__((export_name("run"))) int run(i64 *block, u32 bytes) {']
    lines += ["    (void)bytes;", "    if (block[0] != ABI) return 1;"]
    for name, _, at in head(slot):
        cast = "(u32)" if name.endswith("_rows") else ""
        lines.append(f"    {name} = {cast}block[{at}];")
    for place in (*columns, *outputs):
        lines.append(f"    {place.name} = block + {place.sum(rows)};")
    lines += [
        "    answer();",
        "    return 0;",
        "}",
        f"// -- {END} --",
        "",
        "static void answer(void) {",
    ]
    lines.append(f"    for (u32 at = 0; at < {slot.answers}_rows; at++) {{")
    for place in outputs:
        lines.append(f"        {place.name}[at] = 0;")
    return "\n".join([*lines, "    }", "}", ""])


_C_HEAD = """\
typedef long long i64;
typedef unsigned long long u64;
typedef unsigned u32;

static u32 room, size;

// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
__attribute__((export_name("reserve"))) u32 reserve(u32 bytes) {
    if (bytes > size) {
        u32 end = (u32)__builtin_wasm_memory_size(0) << 16;
        if (room + size != end) {
            room = end;
            size = 0;
        }
        u32 pages = (bytes - size + 65535) >> 16;
        if (__builtin_wasm_memory_grow(0, pages) == (__SIZE_TYPE__)-1) return 0;
        size += pages << 16;
    }
    return room;
}
"""


def _zig(slot: Slot) -> str:
    columns, outputs = places(slot)

    def rows(table: int) -> str:
        return f"self.{slot.tables[table].name}_rows()"

    lines = [*_head(slot, "//"), f"// -- {BEGIN} --", f"const ABI: i64 = {slot.abi};", _ZIG_HEAD]
    for name, text, at in head(slot):
        lines.append(f"    /// {text}")
        if name.endswith("_rows"):
            lines.append(
                f"    fn {name}(self: Batch) usize {{ return @intCast(self.block[{at}]); }}"
            )
        else:
            lines.append(f"    fn {name}(self: Batch) i64 {{ return self.block[{at}]; }}")
    for place in (*columns, *outputs):
        lines += [
            f"    /// {place.text}",
            f"    fn {place.name}(self: Batch) [*]i64 {{ return self.block + {place.sum(rows)}; }}",
        ]
    lines += ["};", f"// -- {END} --", "", "fn answer(batch: Batch) void {"]
    lines.append(f"    for (0..batch.{slot.answers}_rows()) |at| {{")
    for place in outputs:
        lines.append(f"        batch.{place.name}()[at] = 0;")
    return "\n".join([*lines, "    }", "}", ""])


_ZIG_HEAD = """
var room: usize = 0;
var size: usize = 0;

/// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
export fn reserve(bytes: usize) usize {
    if (bytes > size) {
        const end = @wasmMemorySize(0) << 16;
        if (room + size != end) {
            room = end;
            size = 0;
        }
        const pages = (bytes - size + 65535) >> 16;
        if (@wasmMemoryGrow(0, pages) < 0) return 0;
        size += pages << 16;
    }
    return room;
}

/// Fills the answer in; 0 says that it is there.
export fn run(block: [*]i64, bytes: usize) i32 {
    _ = bytes;
    if (block[0] != ABI) return 1;
    answer(.{ .block = block });
    return 0;
}

const Batch = struct {
    block: [*]i64,
"""


def _wat(slot: Slot) -> str:
    columns, outputs = places(slot)

    def rows(table: int) -> str:
        return f"{slot.tables[table].name} rows"

    lines = [*_head(slot, ";;"), f";; -- {BEGIN} --"]
    lines += [";; Words of 8 bytes from the block's beginning:", f";;   0: the ABI, {slot.abi}"]
    lines += [f";;   {at}: {name}, {text}" for name, text, at in head(slot)]
    lines += [
        f";;   {place.sum(rows)}: {place.name}, {place.text}" for place in (*columns, *outputs)
    ]
    lines += [f";; -- {END} --", _wat_module(slot)]
    return "\n".join(lines)


def _wat_module(slot: Slot) -> str:
    return f"""\
(module
  (memory (export "memory") 1 {slot.limits.memory_pages})
  (global $room (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))

  ;; Room for a block of so many bytes: at the end of memory, which grows where it is too small.
  (func (export "reserve") (param $bytes i32) (result i32)
    (local $pages i32) (local $end i32)
    (if (i32.gt_u (local.get $bytes) (global.get $size))
      (then
        (local.set $end (i32.shl (memory.size) (i32.const 16)))
        (if (i32.ne (i32.add (global.get $room) (global.get $size)) (local.get $end))
          (then
            (global.set $room (local.get $end))
            (global.set $size (i32.const 0))))
        (local.set $pages
          (i32.shr_u
            (i32.add (i32.sub (local.get $bytes) (global.get $size)) (i32.const 65535))
            (i32.const 16)))
        (if (i32.lt_s (memory.grow (local.get $pages)) (i32.const 0))
          (then (return (i32.const 0))))
        (global.set $size
          (i32.add (global.get $size) (i32.shl (local.get $pages) (i32.const 16))))))
    (global.get $room))

  ;; Fills the answer in; 0 says that it is there.
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (if (i64.ne (i64.load (local.get $block)) (i64.const {slot.abi})) (then (return (i32.const 1))))
    (i32.const 0)))
"""


_WRITERS: dict[str, Callable[[Slot], str]] = {
    "rust": _rust,
    "assemblyscript": _assemblyscript,
    "wat": _wat,
    "c": _c,
    "zig": _zig,
}


def main(files: list[str]) -> None:
    """Renew the made part of these sources."""
    for file in map(Path, files):
        text = file.read_text()
        made = prelude(skeleton(SLOTS[file.stem], language_of(file).name))
        file.write_text(text.replace(prelude(text), made))


if __name__ == "__main__":
    main(sys.argv[1:])
