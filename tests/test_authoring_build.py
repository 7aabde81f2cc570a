"""From a source to a module: the same bytes everywhere, in each language that there is a compiler
of."""

import hashlib
import os
import subprocess

import pytest

from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits, ModuleRefusedError, inspect
from synapsed.authoring import build, skeleton, tools
from synapsed.authoring.apart import BuildFailedError
from synapsed.authoring.build import NotBuiltError, OtherBytesError, UnreadableError
from synapsed.authoring.check import check
from synapsed.authoring.languages import LANGUAGES, UnknownLanguageError, language_of
from synapsed.authoring.tidy import NotAModuleError, sections, tidy
from synapsed.authoring.tools import MissingToolError
from tests.authoring_kit import SOURCES, WAT, a_jail, need, question

RUST = """
#![no_std]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { core::arch::wasm32::unreachable() }
#[no_mangle] pub extern "C" fn reserve(_: usize) -> usize { 0 }
#[no_mangle] pub extern "C" fn run(_: usize, _: usize) -> i32 { 0 }
"""


def test_there_is_an_example_in_each_language():
    assert {language_of(source).name for source in SOURCES} == set(LANGUAGES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_an_example_equals_the_reference_and_is_the_same_anywhere(
    source, tmp_path, monkeypatch
):
    language = language_of(source)
    need(language.name)
    slot = SLOTS[source.stem]
    async with a_jail(tmp_path / "jail") as jail:
        built, module, text = await build.build(source, slot, jail)
        assert built.size == len(module) < 4096
        assert built.language == language.name
        inspect(module, ModuleLimits())
        found = await check(question(module, slot.name), jail)
        assert found.findings == ()
        assert found.rows >= 5_000
        elsewhere = tmp_path / "a folder elsewhere"
        elsewhere.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
        monkeypatch.setenv("USER", "somebody")
        (elsewhere / f"another{source.suffix}").write_bytes(text)
        again = await build.rebuild(module, elsewhere / f"another{source.suffix}", slot, jail)
    assert again.module_hash == built.module_hash == hashlib.sha256(module).hexdigest()
    prelude = skeleton.prelude(text.decode())
    assert prelude == skeleton.prelude(skeleton.skeleton(slot, language.name))


async def test_another_source_is_told_from_this_one(tmp_path):
    slot = SLOTS["peer_scoring"]
    async with a_jail(tmp_path / "jail") as jail:
        _, module, text = await build.build(WAT, slot, jail)
        other = tmp_path / "other.wat"
        other.write_bytes(text.replace(b"i64.const 86400", b"i64.const 86401"))
        with pytest.raises(OtherBytesError, match="makes module"):
            await build.rebuild(module, other, slot, jail)


@pytest.mark.parametrize("slot", SLOTS)
async def test_a_new_source_compiles_and_answers(slot, tmp_path):
    source = tmp_path / "new.wat"
    source.write_text(skeleton.skeleton(SLOTS[slot], "wat"))
    async with a_jail(tmp_path / "jail") as jail:
        _, module, _ = await build.build(source, SLOTS[slot], jail)
        found = await check(question(module, slot, rows=500), jail)
    # It leaves the answer as it finds it: whatever that is, it is not the reference's.
    assert {"wrong", "breaks permuted"} <= {finding.code for finding in found.findings}


@pytest.mark.parametrize("language", ["rust", "assemblyscript", "c", "zig"])
async def test_a_new_source_answers_nothing_but_zero(language, tmp_path):
    """So that all that its author has to do is to answer something better."""
    need(language)
    slot = SLOTS["tile_assignment"]
    source = tmp_path / f"new{LANGUAGES[language].suffix}"
    source.write_text(skeleton.skeleton(slot, language))
    async with a_jail(tmp_path / "jail") as jail:
        _, module, _ = await build.build(source, slot, jail)
        found = await check(question(module, slot.name, rows=500), jail)
    assert {finding.code for finding in found.findings} == {"wrong", "breaks nobody waits"}
    assert "is 0, and should be" in found.findings[0].text


async def test_a_source_that_reads_a_file_of_the_host_is_refused(tmp_path):
    need("rust")
    (tmp_path / "secret").write_text("hidden words")
    source = tmp_path / "thief.rs"
    source.write_text(f'{RUST}\npub static S: &str = include_str!("{tmp_path}/secret");')
    async with a_jail(tmp_path / "jail") as jail:
        with pytest.raises(BuildFailedError, match="Permission denied") as caught:
            await build.build(source, SLOTS["peer_scoring"], jail)
    assert "hidden words" not in str(caught.value)
    source.write_text(RUST)
    async with a_jail(tmp_path / "jail") as jail:
        built, _, _ = await build.build(source, SLOTS["peer_scoring"], jail)
    assert built.size < 1024


async def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch):
    need("rust")
    source = tmp_path / "fine.rs"
    source.write_text(RUST)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    async with a_jail(tmp_path / "jail") as jail:
        with pytest.raises(BuildFailedError, match=r"nothing can be built in .*no such folder"):
            await build.build(source, SLOTS["peer_scoring"], jail)


async def test_what_the_compiler_says_is_shown(tmp_path):
    need("rust")
    source = tmp_path / "broken.rs"
    source.write_text(RUST + "fn x( {")
    async with a_jail(tmp_path / "jail") as jail:
        with pytest.raises(BuildFailedError, match="this file contains an unclosed delimiter"):
            await build.build(source, SLOTS["peer_scoring"], jail)


async def test_broken_text_is_refused_by_name(tmp_path):
    source = tmp_path / "broken.wat"
    source.write_text("(module (func (i32.nonsense)))")
    async with a_jail(tmp_path / "jail") as jail:
        with pytest.raises(ModuleRefusedError, match="nonsense"):
            await build.build(source, SLOTS["peer_scoring"], jail)


async def test_a_source_that_is_not_there_or_of_no_language(tmp_path):
    async with a_jail(tmp_path / "jail") as jail:
        with pytest.raises(UnreadableError, match="No such file"):
            await build.build(tmp_path / "no.wat", SLOTS["peer_scoring"], jail)
        with pytest.raises(UnknownLanguageError, match=r"\.rs \(rust\)"):
            await build.build(tmp_path / "x.py", SLOTS["peer_scoring"], jail)


async def test_a_built_folder_is_believed_by_its_hashes(tmp_path):
    async with a_jail(tmp_path / "jail") as jail:
        built, module, text = await build.build(WAT, SLOTS["peer_scoring"], jail)
    folder = tmp_path / "built"
    build.write(folder, built, module, text)
    assert build.load(folder) == (built, module, text)
    (folder / "module.wasm").write_bytes(module + b"\0")
    with pytest.raises(NotBuiltError, match="changed since"):
        build.load(folder)
    (folder / "build.json").write_text('{"slot": 1}')
    with pytest.raises(NotBuiltError, match="describes no module"):
        build.load(folder)
    with pytest.raises(UnreadableError):
        build.load(tmp_path / "nowhere")


# -- compilers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "package"),
    [
        (tools.rustc, "libstd-rust-dev-wasm32"),
        (tools.asc, "npm install assemblyscript"),
        (tools.zig, "pip install ziglang"),
    ],
)
def test_a_missing_compiler_is_named_with_its_package(find, package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "DEBIAN", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingToolError, match=package):
        find()


def test_a_rustc_without_the_target_is_passed_over(tmp_path, monkeypatch):
    """One that comes first on PATH and cannot compile for WebAssembly hides none that can."""
    need("rust")
    fake = tmp_path / "rustc"
    fake.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert subprocess.run(["rustc"], capture_output=True, text=True, check=True).stdout
    found = tools.rustc()
    assert found.command != (str(fake),)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "DEBIAN", str(tmp_path))
    with pytest.raises(MissingToolError, match="no rustc here has the target"):
        tools.rustc()


# -- what a compiler leaves in a module ------------------------------------------------------


def test_names_and_places_do_not_stay_in_a_module():
    custom = b"\0\x09\x04nameabcd"
    exports = b"\x07\x14\x02\x03run\x00\x00\x0a__heap_end\x03\x00"
    module = b"\0asm\x01\0\0\0" + exports + custom
    found = dict(sections(tidy(module)))
    assert found == {7: b"\x01\x03run\x00\x00"}
    assert tidy(tidy(module)) == tidy(module)


@pytest.mark.parametrize("module", [b"", b"\0asm\x02\0\0\0", b"\0asm\x01\0\0\0\x01\x05ab"])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(NotAModuleError):
        tidy(module)
