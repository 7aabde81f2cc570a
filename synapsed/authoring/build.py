"""From one source file to a module, and back: whether a source makes a module.

A built folder holds `module.wasm`, the source, and `build.json`, which says what they are.
"""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from protocols.errors import LimitError, MalformedError, MismatchError, NotHeldError
from protocols.slots.abi import Slot
from synapsed.authoring import apart
from synapsed.authoring.languages import LANGUAGES, OUTPUT, Language, language_of
from synapsed.authoring.tidy import tidy

MAX_SOURCE = 1 << 20
"""Bytes: a policy is some hundred lines, and people are to read it before they vote."""
MAX_MODULE = 1 << 20
DESCRIPTION = "build.json"


class UnreadableError(NotHeldError):
    """A file that is not there or cannot be read."""

    code = "unreadable"


class SourceTooLargeError(LimitError):
    """More than people read."""

    code = "source-too-large"


class NotBuiltError(MalformedError):
    """A folder that `upgrade build` did not make, or that was changed since."""

    code = "not-built"


class OtherBytesError(MismatchError):
    """A source that makes another module than is claimed."""

    code = "other-module"


class Assembler(Protocol):
    """What turns WebAssembly's text into bytes, in a process of its own: the jail."""

    async def wat(self, text: bytes) -> bytes: ...


class Built(msgspec.Struct, frozen=True):
    """A module and what it was built from."""

    slot: str
    abi: int
    language: str
    source: str
    """The name of the source's file."""
    tools: tuple[str, ...]
    """Names and versions."""
    source_hash: str
    """SHA-256 of the file's bytes, as module_hash is of the module's; hexadecimal."""
    module_hash: str
    size: int
    seconds: float
    log: str
    """What the compiler said: warnings."""


async def build(
    source: Path, slot: Slot, jail: Assembler, *, allow_weaker: bool = False
) -> tuple[Built, bytes, bytes]:
    """Compile a source for a slot: (what came of it, the module, the source's bytes). Raises
    UnreadableError, SourceTooLargeError, MissingToolError, BuildFailedError, ..."""
    language = language_of(source)
    text = read(source, MAX_SOURCE)
    began = time.monotonic()
    module, tools, log = await compile_source(text, language, slot, jail, allow_weaker=allow_weaker)
    return (
        Built(
            slot=slot.name,
            abi=slot.abi,
            language=language.name,
            source=language.source,
            tools=tools,
            source_hash=hashlib.sha256(text).hexdigest(),
            module_hash=hashlib.sha256(module).hexdigest(),
            size=len(module),
            seconds=round(time.monotonic() - began, 3),
            log=log,
        ),
        module,
        text,
    )


async def compile_source(
    text: bytes, language: Language, slot: Slot, jail: Assembler, *, allow_weaker: bool = False
) -> tuple[bytes, tuple[str, ...], str]:
    """(the module, the tools, what they said)."""
    if language.tool is None:
        return tidy(await jail.wat(text)), ("wat",), ""
    tool = await trio.to_thread.run_sync(language.tool)
    options = language.options(slot.limits.memory_pages)
    try:
        with tempfile.TemporaryDirectory(
            prefix="synapsed-build-", ignore_cleanup_errors=True
        ) as at:
            (Path(at) / language.source).write_bytes(text)
            log = await apart.run(tool, options, Path(at), allow_weaker=allow_weaker)
            return tidy(read(Path(at) / OUTPUT, MAX_MODULE)), (tool.said,), log
    except OSError as error:
        raise apart.BuildFailedError(
            f"nothing can be built in {tempfile.gettempdir()}: {error.strerror}",
            remedy="make room there, or name another folder with TMPDIR",
        ) from error


async def rebuild(
    module: bytes, source: Path, slot: Slot, jail: Assembler, *, allow_weaker: bool = False
) -> Built:
    """Whether the source makes exactly this module. OtherBytesError where it makes another."""
    built, found, _ = await build(source, slot, jail, allow_weaker=allow_weaker)
    if found != module:
        raise OtherBytesError(
            f"{source.name} makes module {built.module_hash[:16]} with {', '.join(built.tools)}, "
            f"and not {hashlib.sha256(module).hexdigest()[:16]}",
            remedy="compare the compilers' versions with those that the manifest names",
        )
    return built


def write(folder: Path, built: Built, module: bytes, text: bytes) -> None:
    """Make the folder that `upgrade propose` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUT).write_bytes(module)
    (folder / built.source).write_bytes(text)
    description = msgspec.json.format(msgspec.json.encode(built), indent=1)
    (folder / DESCRIPTION).write_bytes(description + b"\n")


def load(folder: Path) -> tuple[Built, bytes, bytes]:
    """What `write` left: (description, module, source). Raises UnreadableError, NotBuiltError."""
    described = read(folder / DESCRIPTION, MAX_SOURCE)
    try:
        built = msgspec.json.decode(described, type=Built)
    except msgspec.DecodeError as error:
        raise NotBuiltError(
            f"{folder / DESCRIPTION} describes no module: {error}",
            remedy="make the folder with: synapsectl upgrade build",
        ) from error
    language = LANGUAGES.get(built.language)
    if language is None or built.source != language.source:
        raise NotBuiltError(f"{folder} names the source {built.source!r} in {built.language!r}")
    module, text = read(folder / OUTPUT, MAX_MODULE), read(folder / built.source, MAX_SOURCE)
    hashes = (hashlib.sha256(module).hexdigest(), hashlib.sha256(text).hexdigest())
    if hashes != (built.module_hash, built.source_hash):
        raise NotBuiltError(
            f"{folder} was changed since it was built", remedy="build the source again"
        )
    return built, module, text


def read(file: Path, most: int) -> bytes:
    """A file of at most so many bytes. Raises UnreadableError, SourceTooLargeError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise UnreadableError(f"cannot read {file}: {error.strerror}") from error
    if len(data) > most:
        raise SourceTooLargeError(f"{file.name} has more than {most >> 10} KiB")
    return data
