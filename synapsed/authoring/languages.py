"""How a source becomes WebAssembly: fixed options, so that the same source and the same version
of the compiler give the same bytes in anybody's folder.

Each source is one file, which the compiler is called for as SOURCE_NAME in a folder of its own;
no build script runs, and no package is fetched.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from protocols.errors import RefusedError
from synapsed.authoring import tools
from synapsed.authoring.tools import Tool

STEM = "module"
OUTPUT = f"{STEM}.wasm"
PAGE = 1 << 16
STACK = 1 << 16
"""Bytes: policies are loops over columns; what recurses deeper than this is not one."""


class UnknownLanguageError(RefusedError):
    """A source in none of the languages."""

    code = "unknown-language"


class Language(msgspec.Struct, frozen=True):
    """One way to write a module."""

    name: str
    suffix: str
    tool: Callable[[], Tool] | None
    """None: it is assembled by what runs modules, and needs nothing else."""
    options: Callable[[int], tuple[str, ...]]
    """What the compiler is called with, for a memory of at most so many pages."""

    @property
    def source(self) -> str:
        """What the source is called where it is compiled."""
        return STEM + self.suffix


def _rust(pages: int) -> tuple[str, ...]:
    links = (f"--max-memory={pages * PAGE}", f"-zstack-size={STACK}", "--strip-all")
    codegen = (
        "opt-level=3",
        "lto=fat",
        "codegen-units=1",
        "panic=abort",
        "strip=symbols",
        "overflow-checks=off",
        "linker=rust-lld",
        *(f"link-arg={each}" for each in links),
    )
    return (
        *("--edition", "2021", "--crate-name", STEM, "--crate-type", "cdylib"),
        *("--target", tools.TARGET),
        *(word for each in codegen for word in ("-C", each)),
        *(f"{STEM}.rs", "-o", OUTPUT),
    )


def _assemblyscript(pages: int) -> tuple[str, ...]:
    return (
        *(f"{STEM}.ts", "-O3", "--converge", "--noAssert", "--runtime", "stub"),
        *("--use", "abort=", "--maximumMemory", str(pages), "-o", OUTPUT),
    )


def _c(pages: int) -> tuple[str, ...]:
    return (
        *("cc", "-target", "wasm32-freestanding", "-std=c11", "-O2", "-g0", "-nostdlib"),
        *("-fno-ident", "-Wl,--no-entry", "-Wl,--strip-all"),
        *(f"-Wl,--max-memory={pages * PAGE}", f"-Wl,-z,stack-size={STACK}"),
        *(f"{STEM}.c", "-o", OUTPUT),
    )


def _zig(pages: int) -> tuple[str, ...]:
    return (
        *("build-exe", "-target", "wasm32-freestanding", "-O", "ReleaseFast", "-fstrip"),
        *("-fsingle-threaded", "-fno-entry", "-rdynamic", f"--max-memory={pages * PAGE}"),
        *("--stack", str(STACK), "--name", STEM, f"{STEM}.zig"),
    )


LANGUAGES = {
    each.name: each
    for each in (
        Language(name="rust", suffix=".rs", tool=tools.rustc, options=_rust),
        Language(name="assemblyscript", suffix=".ts", tool=tools.asc, options=_assemblyscript),
        Language(name="wat", suffix=".wat", tool=None, options=lambda _: ()),
        Language(name="c", suffix=".c", tool=tools.zig, options=_c),
        Language(name="zig", suffix=".zig", tool=tools.zig, options=_zig),
    )
}


def language_of(source: Path) -> Language:
    """By the name's end. Raises UnknownLanguageError."""
    for each in LANGUAGES.values():
        if source.suffix == each.suffix:
            return each
    known = ", ".join(f"{each.suffix} ({each.name})" for each in LANGUAGES.values())
    raise UnknownLanguageError(
        f"{source.name} is in no language that modules are built from",
        remedy=f"its name is to end in one of {known}",
    )
