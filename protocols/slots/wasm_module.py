"""Foreign WebAssembly, looked at before anything compiles it.

What is checked here is everything but the instructions: they are validated by the compiler, in a
process that may be killed. Compilers have been made to take minutes and gigabytes by small files,
so a module's shape is bounded first, by counting and without allocating what the bytes claim.

The format is that of the WebAssembly core specification 2.0, chapter 5, less what a slot has no
use for: imports, a start function, more than one memory or table, references, vectors, threads.
"""

from collections.abc import Callable

import msgspec

from protocols.errors import MalformedError
from protocols.slots.wasm_reader import Reader, ShapeError

MAGIC = b"\0asm\x01\0\0\0"

PAGE = 1 << 16
MEMORY_EXPORT, RESERVE_EXPORT, RUN_EXPORT = "memory", "reserve", "run"
LINKER_CONSTANTS = frozenset({"__data_end", "__heap_base"})
"""What rustc's linker exports whether one wants it or not: two numbers that never change."""

I32, I64, F32, F64, FUNCREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x70
NUMBERS = frozenset({I32, I64, F32, F64})
Signature = tuple[bytes, bytes]
"""Of a function: the types of what it takes and of what it gives."""
EXPORTS: dict[str, Signature] = {
    RESERVE_EXPORT: (bytes([I32]), bytes([I32])),
    RUN_EXPORT: (bytes([I32, I32]), bytes([I32])),
}


class ModuleRefusedError(MalformedError):
    """Bytes that are not a module which may run here."""

    code = "module-refused"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the module is refused: {reason}",
            remedy="docs/slots.md says what a module may hold",
        )
        self.reason = reason


class ModuleLimits(msgspec.Struct, frozen=True):
    """Bounds of a module's shape. Ordinary modules of a slot have 1 to 30 KB and 3 to 100
    functions; these hold the worst compilation below what the compiler's process is allowed."""

    size: int = 1 << 20
    """Bytes: what a proposal may ask every peer to fetch."""
    functions: int = 20_000
    """A compiler takes some tens of microseconds for the smallest: CosmWasm's bound."""
    body: int = 64 << 10
    """Bytes of one function: register allocation grows faster than its input."""
    locals: int = 1_000
    """Of one function; each is a slot of its stack frame."""
    memory_pages: int = 512
    """Of 64 KiB that a memory may declare as its maximum."""
    types: int = 1_000
    parameters: int = 100
    results: int = 16
    globals: int = 1_000
    table: int = 10_000
    """Elements of the one table, and of all element segments."""
    segments: int = 1_000
    """Of elements, and of data."""
    customs: int = 64
    """Sections that mean nothing to a runtime: names, and what wrote the module."""


class Inspected(msgspec.Struct, frozen=True):
    """The shape of a module that may be compiled."""

    size: int
    functions: int
    largest_body: int
    most_locals: int
    memory_pages: int
    """At the beginning."""
    memory_pages_most: int
    table: int
    data: int
    """Bytes of its data segments."""


def inspect(module: bytes, limits: ModuleLimits) -> Inspected:
    """The shape of a module. Raises ModuleRefusedError, which says what is wrong and where."""
    if len(module) > limits.size:
        raise ModuleRefusedError(f"{len(module)} bytes, {limits.size} are the most")
    if module[: len(MAGIC)] != MAGIC:
        raise ModuleRefusedError("it does not begin as WebAssembly 1 does")
    try:
        return _Inspection(module, limits).run()
    except ShapeError as error:
        raise ModuleRefusedError(error.message) from None


class _Inspection:
    """One module, section by section."""

    def __init__(self, module: bytes, limits: ModuleLimits) -> None:
        self._module, self._limits = module, limits
        self._types: list[Signature] = []
        self._functions: list[int] = []
        self._globals: list[tuple[int, bool]] = []
        self._memory: tuple[int, int] | None = None
        self._table = 0
        self._tables = 0
        self._elements = 0
        self._exports: set[str] = set()
        self._bodies = 0
        self._largest_body = 0
        self._most_locals = 0
        self._data = 0
        self._data_count: int | None = None
        self._segments = 0
        self._customs = 0

    def run(self) -> Inspected:
        reader = Reader(self._module, len(MAGIC), len(self._module))
        last = 0
        while reader.at < reader.end:
            number = reader.byte()
            section = reader.part(reader.u32())
            if number == 0:
                self._custom(section)
                continue
            place = _ORDER.get(number)
            if place is None:
                raise section.refuse(f"a section of the unknown kind {number}")
            if place <= last:
                raise section.refuse(f"the section {_NAMES[number]} twice, or in a wrong place")
            last = place
            _SECTIONS[number](self, section)
            section.done(f"the section {_NAMES[number]}")
        return self._result()

    def _result(self) -> Inspected:
        if self._bodies != len(self._functions):
            raise ModuleRefusedError(
                f"{len(self._functions)} functions are declared, and {self._bodies} have a body"
            )
        if self._data_count not in (None, self._segments):
            raise ModuleRefusedError("its count of data segments is wrong")
        missing = {MEMORY_EXPORT, *EXPORTS} - self._exports
        if missing:
            raise ModuleRefusedError(f"it does not export {', '.join(sorted(missing))}")
        if self._memory is None:
            raise ModuleRefusedError("it has no memory")
        return Inspected(
            size=len(self._module),
            functions=len(self._functions),
            largest_body=self._largest_body,
            most_locals=self._most_locals,
            memory_pages=self._memory[0],
            memory_pages_most=self._memory[1],
            table=self._table,
            data=self._data,
        )

    def _custom(self, section: Reader) -> None:
        self._customs += 1
        if self._customs > self._limits.customs:
            raise section.refuse(f"more than {self._limits.customs} custom sections")
        section.name()

    def _type_section(self, section: Reader) -> None:
        for _ in range(section.count(self._limits.types, "types")):
            if section.byte() != 0x60:
                raise section.refuse("a type that is not a function's")
            takes = self._numbers(section, self._limits.parameters, "parameters")
            gives = self._numbers(section, self._limits.results, "results")
            self._types.append((takes, gives))

    def _numbers(self, section: Reader, most: int, what: str) -> bytes:
        part = section.part(section.count(most, what))
        found = part.data[part.at : part.end]
        if not NUMBERS.issuperset(found):
            raise section.refuse(f"{what} that are not numbers: no references, no vectors")
        return found

    def _import_section(self, section: Reader) -> None:
        if section.count(1, "imports"):
            raise section.refuse(
                f"it imports {section.name()!r}.{section.name()!r}, and nothing is offered"
            )

    def _function_section(self, section: Reader) -> None:
        types = len(self._types)
        functions = self._functions
        for _ in range(section.count(self._limits.functions, "functions")):
            kind = section.u32()
            if kind >= types:
                raise section.refuse(f"a function of the unknown type {kind}")
            functions.append(kind)

    def _table_section(self, section: Reader) -> None:
        self._tables = section.count(1, "tables")
        for _ in range(self._tables):
            if section.byte() != FUNCREF:
                raise section.refuse("a table of something else than functions")
            least, most = self._bounds(section, "table")
            if max(least, most or 0) > self._limits.table:
                raise section.refuse(
                    f"a table of {max(least, most or 0)} elements, "
                    f"{self._limits.table} are the most"
                )
            self._table = least

    def _memory_section(self, section: Reader) -> None:
        if section.count(1, "memories") != 1:
            raise section.refuse("a section of memories without one")
        least, most = self._bounds(section, "memory")
        if most is None:
            raise section.refuse("a memory without a maximum")
        if most > self._limits.memory_pages:
            raise section.refuse(
                f"a memory of up to {most} pages, {self._limits.memory_pages} are the most"
            )
        self._memory = least, most

    def _bounds(self, section: Reader, what: str) -> tuple[int, int | None]:
        flags = section.byte()
        if flags > 1:
            raise section.refuse(f"a {what} that is shared, of 64 bits or of odd pages")
        least = section.u32()
        most = section.u32() if flags else None
        if most is not None and most < least:
            raise section.refuse(f"a {what} of at least {least} and at most {most}")
        return least, most

    def _global_section(self, section: Reader) -> None:
        for _ in range(section.count(self._limits.globals, "globals")):
            kind, changes = section.byte(), section.byte()
            if kind not in NUMBERS or changes > 1:
                raise section.refuse("a global that is not a number")
            self._constant(section)
            self._globals.append((kind, bool(changes)))

    def _constant(self, section: Reader) -> None:
        """An expression that is known before anything runs; its types are the compiler's work."""
        while True:
            operation = section.byte()
            if operation == 0x0B:
                return
            reads = _CONSTANT.get(operation)
            if reads is None:
                raise section.refuse(f"operation {operation:#x} in a constant")
            reads(section)

    def _export_section(self, section: Reader) -> None:
        most = 1 + len(EXPORTS) + len(LINKER_CONSTANTS)
        for _ in range(section.count(most, "exports")):
            name, kind, index = section.name(), section.byte(), section.u32()
            if name in self._exports:
                raise section.refuse(f"it exports {name!r} twice")
            if not self._is_expected(name, kind, index):
                raise section.refuse(
                    f"it exports {name!r}, which it should not, or as something else"
                )
            self._exports.add(name)

    def _is_expected(self, name: str, kind: int, index: int) -> bool:
        if name == MEMORY_EXPORT:
            return kind == 2 and index == 0 and self._memory is not None
        if name in LINKER_CONSTANTS:
            is_global = kind == 3 and index < len(self._globals)
            return is_global and self._globals[index] == (I32, False)
        if kind != 0 or index >= len(self._functions):
            return False
        return EXPORTS.get(name) == self._types[self._functions[index]]

    def _start_section(self, section: Reader) -> None:
        raise section.refuse("a start function: nothing runs before it is called")

    def _element_section(self, section: Reader) -> None:
        for _ in range(section.count(self._limits.segments, "element segments")):
            flags = section.u32()
            if flags > 7:
                raise section.refuse(f"an element segment of the unknown kind {flags}")
            self._element_head(section, flags)
            entries = section.count(self._limits.table, "elements")
            self._elements += entries
            if self._elements > self._limits.table:
                raise section.refuse(f"more than {self._limits.table} elements")
            for _ in range(entries):
                if flags & 4:
                    self._constant(section)
                elif section.u32() >= len(self._functions):
                    raise section.refuse("an element that is no function")

    def _element_head(self, section: Reader, flags: int) -> None:
        if not flags & 1:  # active: it names a table and a place in it
            table = section.u32() if flags & 2 else 0
            if table >= self._tables:
                raise section.refuse("elements for a table that is not there")
            self._constant(section)
        if flags & 3:
            kind = section.byte()
            if kind != (FUNCREF if flags & 4 else 0):
                raise section.refuse("elements that are not functions")

    def _data_count_section(self, section: Reader) -> None:
        self._data_count = section.u32()

    def _code_section(self, section: Reader) -> None:
        self._bodies = section.count(self._limits.functions, "bodies")
        for _ in range(self._bodies):
            size = section.u32()
            if size > self._limits.body:
                raise section.refuse(
                    f"a function of {size} bytes, {self._limits.body} are the most"
                )
            self._largest_body = max(self._largest_body, size)
            self._body(section.part(size))

    def _body(self, body: Reader) -> None:
        found = 0
        for _ in range(body.count(self._limits.locals, "groups of locals")):
            found += body.u32()
            if found > self._limits.locals:
                raise body.refuse(f"{found} locals, {self._limits.locals} are the most")
            if body.byte() not in NUMBERS:
                raise body.refuse("a local that is not a number")
        self._most_locals = max(self._most_locals, found)
        if body.at >= body.end or body.data[body.end - 1] != 0x0B:
            raise body.refuse("a function without an end")

    def _data_section(self, section: Reader) -> None:
        self._segments = section.count(self._limits.segments, "data segments")
        for _ in range(self._segments):
            flags = section.u32()
            if flags > 2:
                raise section.refuse(f"a data segment of the unknown kind {flags}")
            if flags == 2 and section.u32() != 0:
                raise section.refuse("data for a memory that is not there")
            if flags != 1:
                self._constant(section)
            size = section.u32()
            section.skip(size)
            self._data += size


_NAMES = {
    1: "type",
    2: "import",
    3: "function",
    4: "table",
    5: "memory",
    6: "global",
    7: "export",
    8: "start",
    9: "element",
    10: "code",
    11: "data",
    12: "data count",
}
_ORDER = {number: at for at, number in enumerate((1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11), 1)}

_SECTIONS: dict[int, Callable[[_Inspection, Reader], None]] = {
    1: _Inspection._type_section,
    2: _Inspection._import_section,
    3: _Inspection._function_section,
    4: _Inspection._table_section,
    5: _Inspection._memory_section,
    6: _Inspection._global_section,
    7: _Inspection._export_section,
    8: _Inspection._start_section,
    9: _Inspection._element_section,
    10: _Inspection._code_section,
    11: _Inspection._data_section,
    12: _Inspection._data_count_section,
}


def _nothing(_: Reader) -> None:
    """An operation without an operand."""


_CONSTANT: dict[int, Callable[[Reader], object]] = {
    0x41: lambda at: at.signed(32),
    0x42: lambda at: at.signed(64),
    0x43: lambda at: at.skip(4),
    0x44: lambda at: at.skip(8),
    0x23: Reader.u32,  # global.get
    0xD2: Reader.u32,  # ref.func
    0x6A: _nothing,
    0x6B: _nothing,
    0x6C: _nothing,
    0x7C: _nothing,
    0x7D: _nothing,
    0x7E: _nothing,
}
"""What may stand in a constant: numbers, other globals, functions, and sums of integers."""
