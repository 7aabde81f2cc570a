"""A module without what its compiler left in it: names of places and tools, exports of its own.

What is voted on is a hash of bytes, so that everything that says where and by what it was compiled
would make two builds of one source differ.
"""

from collections.abc import Iterator

from protocols.errors import MalformedError

MAGIC = b"\0asm\x01\0\0\0"
KEPT = frozenset({b"memory", b"reserve", b"run"})
"""What the daemon calls: compilers export their stack pointers and heaps as well."""

_CUSTOM, _EXPORT = 0, 7
_MAX_LEB = 5


class NotAModuleError(MalformedError):
    """Bytes that are no WebAssembly module."""

    code = "not-a-module"


def tidy(module: bytes) -> bytes:
    """The same module without custom sections, exporting only what a slot's module does."""
    parts = [MAGIC]
    for kind, body in sections(module):
        if kind == _CUSTOM:
            continue
        parts.append(section(kind, _exports(body) if kind == _EXPORT else body))
    return b"".join(parts)


def sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    """Each section's number and contents. Raises NotAModuleError."""
    if module[: len(MAGIC)] != MAGIC:
        raise NotAModuleError("a module begins with \\0asm and version 1")
    at = len(MAGIC)
    while at < len(module):
        kind = module[at]
        size, at = unsigned(module, at + 1)
        if at + size > len(module):
            raise NotAModuleError(f"section {kind} goes beyond the module's end")
        yield kind, module[at : at + size]
        at += size


def section(kind: int, body: bytes) -> bytes:
    """A section as it stands in a module."""
    return bytes([kind]) + leb(len(body)) + body


def _exports(body: bytes) -> bytes:
    count, at = unsigned(body, 0)
    kept = []
    for _ in range(count):
        began = at
        length, at = unsigned(body, at)
        name = body[at : at + length]
        _, at = unsigned(body, at + length + 1)
        if name in KEPT:
            kept.append(body[began:at])
    return leb(len(kept)) + b"".join(kept)


def unsigned(data: bytes, at: int) -> tuple[int, int]:
    """A LEB128 number of up to 32 bits, and where what follows begins. Raises NotAModuleError."""
    value = 0
    for count in range(_MAX_LEB):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << 7 * count
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise NotAModuleError("a number that does not end")


def leb(value: int) -> bytes:
    """LEB128, as short as it can be."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
