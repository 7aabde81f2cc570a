"""upgrade slots|new|build|check|propose|ls|show|status|mode|accept|refuse|rollback|replay."""

import json
import re
from pathlib import Path

import msgspec
import pytest
import trio

from protocols.cid import cid_of, cid_text, parse_cid
from protocols.draw import Draw
from protocols.slots.closed_list import SLOTS
from synapsed.authoring.question import Checked
from synapsed.cli.upgradeauthor import BuiltInfo, Slots
from synapsed.cli.upgradeshow import Shown
from synapsed.control import ledgermodels
from synapsed.control import upgrademodels as said
from tests.control_book import NodeBook
from tests.control_fixtures import daemon_fixture, origin_fixture, run_cli  # noqa: F401
from tests.ledger_book import MEMBERS
from tests.test_cli_commands import same_shape
from tests.upgrade_book import change
from tests.upgrades_kit import constant

SLOT = "eviction"
ABSENT = cid_text(cid_of(b"nobody has this"))
NASTY = ";; \x1b]0;owned\x07 mine\n"
WORDS = ("--risks", "it may be\nslow", "--benefits", "fewer holes", "--unchecked")
"""What these modules answer makes no sense, which the check would say each time."""


class Listed(msgspec.Struct):
    upgrades: list[said.UpgradeInfo]


@pytest.fixture(name="built", scope="module")
def built_fixture(tmp_path_factory) -> dict[str, Path]:
    """Folders of `upgrade build`, by what their modules answer to every row."""
    top, found = tmp_path_factory.mktemp("built"), {}
    for number in (1, 2):
        source = top / f"{number}.wat"
        source.write_bytes(NASTY.encode() + constant(number))
        folder = top / str(number)
        ran = run_cli("upgrade", "build", str(source), "--slot", SLOT, "-o", str(folder), "--json")
        assert ran.code == 0, ran
        same_shape(ran, BuiltInfo)
        found[str(number)] = folder
    return found


async def propose(daemon, folder: Path, *arguments: str) -> str:
    ran = await daemon.run("upgrade", "propose", str(folder), *WORDS, *arguments, "--json")
    done = same_shape(ran, ledgermodels.Submitted)
    assert done.index is not None
    return done.subject


async def shown(daemon, name: str) -> Shown:
    return same_shape(await daemon.run("upgrade", "show", name, "--json"), Shown)


async def status(daemon, slot: str = SLOT) -> said.SlotStatus:
    return same_shape(await daemon.run("upgrade", "status", slot, "--json"), said.SlotStatus)


# -- for authors --------------------------------------------------------------------------------


def test_slots_are_named_where_users_look_for_them():
    found = same_shape(run_cli("upgrade", "slots", "--json"), Slots)
    assert [each.name for each in found.slots] == list(SLOTS)
    listed = run_cli("upgrade", "slots").out
    for name, slot in SLOTS.items():
        assert re.search(rf"\n{name} +{slot.abi} +{slot.risk.word} ", listed)
        one = same_shape(run_cli("upgrade", "slots", name, "--json"), said.SlotInfo)
        assert one.invariants
        assert len(one.outputs) == len(slot.outputs)
        plain = run_cli("upgrade", "slots", name).out
        assert all(column.name in plain for column in (*slot.context, *slot.outputs))
    typo = run_cli("upgrade", "slots", "peer_scorin", "--json")
    assert (typo.code, typo.json["error"]) == (1, "no-such-name")
    assert "did you mean 'peer_scoring'" in typo.json["remedy"]
    assert "tile_assignment" in typo.json["remedy"]


def test_a_source_is_begun_built_and_refused_where_it_is_wrong(tmp_path):
    source = tmp_path / "mine.wat"
    begun = run_cli("upgrade", "new", SLOT, "--language", "wat", "-o", str(source))
    assert (begun.code, begun.err) == (0, "")
    again = run_cli("upgrade", "new", SLOT, "--language", "wat", "-o", str(source), "--json")
    assert (again.code, again.json["error"]) == (1, "conflict")
    printed = run_cli("upgrade", "new", SLOT, "--language", "wat").out
    assert printed == source.read_text()
    folder = tmp_path / "out"
    ran = run_cli("upgrade", "build", str(source), "--slot", SLOT, "-o", str(folder))
    assert ran.code == 0
    assert f"synapsectl upgrade check {folder}" in ran.out
    assert {each.name for each in folder.iterdir()} == {"build.json", "module.wasm", "module.wat"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    wrong = tmp_path / "wrong.wat"
    wrong.write_text("(module (func $x (unknown)))")
    for arguments, code, words in (
        (("build", str(source), "--slot", SLOT, "-o", str(other)), 1, "with other things in it"),
        (("build", str(source), "--slot", SLOT, "-o", str(source)), 1, "is a file"),
        (("build", str(source), "--slot", "nope"), 1, "there is no slot"),
        (("build", str(source)), 2, "--slot"),
        (("build", str(tmp_path / "none.wat"), "--slot", SLOT), 1, "cannot read"),
        (("build", str(other / "thesis.txt"), "--slot", SLOT), 2, "ends? in one of"),
        (("build", str(wrong), "--slot", SLOT, "-o", str(tmp_path / "w")), 1, "unknown"),
        (("new", SLOT, "--language", "cobol"), 2, "none of rust"),
        (("check", str(other)), 1, "upgrade build"),
        (("check", str(source)), 2, "give --slot"),
        (("check", str(folder), "--incumbent", str(tmp_path / "none")), 1, "cannot read"),
        (("propose", str(other), *WORDS), 1, "upgrade build SOURCE"),
        (("propose", str(folder)), 2, "--risks"),
        (("propose", str(folder), *WORDS, "--expires", "soon"), 2, "--expires"),
        (("propose", str(folder), *WORDS, "--risks", " "), 2, "--risks"),
        (("propose", str(folder), *WORDS, "--fuel", str(1 << 50)), 2, "17179869184"),
        (("show", "x", "--source", "--difference"), 2, "give one of them"),
        (("replay", SLOT, "--version", "1", "--proposal", "x"), 2, "give one of them"),
        (("mode", "perhaps"), 2, "perhaps"),
        (("status", "nope"), 1, "there are peer_scoring"),
    ):
        ran = run_cli("upgrade", *arguments, SYNAPSED_HOME=str(tmp_path))
        assert (ran.code, ran.out) == (code, ""), (arguments, ran)
        assert re.search(words, ran.err), (arguments, ran.err)
        assert len(ran.err.splitlines()) <= 2, (arguments, ran.err)
        assert "\N{REPLACEMENT CHARACTER}" not in ran.err, (arguments, ran.err)
    assert not (tmp_path / "w").exists(), "half a build was left"


def test_a_check_finds_what_is_wrong_and_whether_the_source_makes_it(built, tmp_path):
    folder = built["1"]
    few = ("--rows", "2000", "--seed", "a seed")
    ran = run_cli("upgrade", "check", str(folder), *few, "--json")
    found = msgspec.convert(ran.json, Checked)
    assert (ran.json["passed"], ran.json["sound"]) == (False, False)
    assert (ran.code, found.seed, found.slot) == (1, "a seed", SLOT)
    assert found.disagreements > 1000
    plain = run_cli("upgrade", "check", str(folder / "module.wasm"), *few, "--slot", SLOT)
    assert plain.code == 1
    assert plain.out.startswith("fail ")
    equal = run_cli(
        *("upgrade", "check", str(folder), *few, "--incumbent", str(folder / "module.wasm")),
        *("--changed", "--rebuild", str(folder / "module.wat")),
    )
    assert "pass its source makes exactly these bytes" in equal.out
    other = run_cli(
        *("upgrade", "check", str(folder), *few, "--json"),
        *("--rebuild", str(built["2"] / "module.wat")),
    )
    assert (other.code, other.json["error"]) == (1, "other-module")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "module.wasm").write_bytes(b"\0asm\1\0\0\0")
    changed = run_cli("upgrade", "check", str(broken), "--json")
    assert (changed.code, changed.json["error"]) == (1, "not-built")
    assert "build the source again" in changed.json["remedy"]


# -- from a proposal to its end -------------------------------------------------------------------


async def test_a_proposal_says_what_it_is_and_what_happens_next(daemon, built):
    ran = await daemon.run(
        *("upgrade", "propose", str(built["1"]), *WORDS, "--text", "Because."),
        *("--description", "Answers one.", "--changed", "999000", "--fuel", "5000"),
    )
    assert (ran.code, ran.err) == (0, "")
    cid = re.search(r"proposal +(baf\w+)", ran.out)[1]
    assert "ratified  at index 1" in ran.out
    assert f"a vote of 10 s, `synapsectl proposal vote {cid[:16]} yes`" in ran.out
    assert "in shadow, then for 10, 50 and 100 %, each 1 d at least" in ran.out
    assert "human key" not in ran.out, "its risk is medium"
    found = await shown(daemon, cid[:12])
    record, manifest = found.record, found.manifest
    assert (record.slot, record.version, record.native) == (SLOT, 1, False)
    assert (record.limits.fuel, record.risks) == (5000, "it may be\nslow")
    assert record.limits.memory_pages == SLOTS[SLOT].limits.memory_pages
    assert record.previous == 64 * "0"
    assert found.replaces.native
    assert (found.upgrade.state, found.upgrade.risk) == ("open", "medium")
    assert manifest.changed
    assert [(each.metric, each.value) for each in manifest.evidence] == [
        ("changed-answers", 999_000.0)
    ]
    assert manifest.source.text.encode() == (built["1"] / "module.wat").read_bytes()
    plain = (await daemon.run("upgrade", "show", SLOT)).out
    for words in (
        r"risk +medium: replacing eviction is of class medium",
        r"risks +it may be\nrisks +slow\nbenefits +fewer holes",
        r"version +1, in place of native",
        r"claims +to answer otherwise than what it replaces",
        r"evidence +changed-answers 999000 ppm",
        r"says +Answers one\.",
        r"\nBecause\.\n",
        rf"upgrade show {cid[:16]} --source",
    ):
        assert re.search(words, plain), (words, plain)
    listed = same_shape(await daemon.run("upgrade", "ls", "--json"), Listed).upgrades
    assert [each.proposal for each in listed] == [cid]
    assert (await daemon.run("upgrade", "ls", "--slot", "peer_scoring")).out.startswith("no upgr")
    announced = [each for each in daemon.node.catalog.values() if each.kind == "upgrade"]
    assert [each.body["slot"] for each in announced] == [SLOT]


async def test_what_the_check_finds_is_found_before_it_is_proposed(daemon, built):
    words = [each for each in WORDS if each != "--unchecked"]
    ran = await daemon.run("upgrade", "propose", str(built["1"]), *words, "--json")
    assert (ran.code, ran.json["error"]) == (1, "unsound")
    assert "wrong: " in ran.json["message"]
    assert "--unchecked" in ran.json["remedy"]
    assert f"upgrade check {built['1']}" in ran.json["remedy"]
    assert await _ls(daemon) == []
    assert daemon.node.catalog == {}


async def test_sources_of_others_do_nothing_to_the_terminal(daemon, built):
    await propose(daemon, built["1"], "--title", "a title")
    for arguments in (("--source",), ()):
        ran = await daemon.run("upgrade", "show", SLOT, *arguments)
        assert not set("\x1b\x07\u202e") & set(ran.out), arguments
    printed = (await daemon.run("upgrade", "show", SLOT, "--source")).out
    assert printed.startswith(";; \ufffd]0;owned\ufffd mine\n")
    raw = (await daemon.run("upgrade", "show", SLOT, "--json")).json
    assert raw["manifest"]["source"]["text"].startswith(NASTY)
    # Whatever somebody else's manifest names as the source, it need not have been built from it.
    cid = theirs(daemon, built["2"], ";; \u202egnitirw\r\x9b2J\n".encode())
    assert cid_of(b"") != cid
    printed = (await daemon.run("upgrade", "show", cid, "--source")).out
    assert printed.startswith(";; \ufffdgnitirw")
    assert not set("\x9b\r\u202e") & set(printed)


def theirs(daemon, folder: Path, text: bytes, **fields) -> str:
    """An upgrade that somebody else proposes, and holds."""
    module = (folder / "module.wasm").read_bytes()
    manifest, described = daemon.node.elsewhere.publish(module, text)
    plain = {
        "slot": SLOT,
        "module": described.module_hash,
        "size": len(module),
        "source": described.source_hash,
        "manifest": manifest,
    }
    book = NodeBook(daemon.node)
    what = change(book, **(plain | fields))
    return cid_text(book.propose(MEMBERS[1], what, title=f"theirs {what.module.hex()[:8]}"))


async def test_a_rollout_is_followed_from_the_shadow_to_being_in_force_and_undone(daemon, built):
    book = NodeBook(daemon.node)
    cid = await propose(daemon, built["1"])
    async with daemon.node.following():
        book.accept(cid)
        assert (await shown(daemon, cid)).upgrade.state == "due"
        book.later(book.state.params["execute.delay_ms"])
        with trio.fail_after(60):
            while (await status(daemon)).rollout.candidate.why_not:
                await trio.sleep(0.05)
        one = await status(daemon)
        assert (one.duty in ("coin", "shadow"), one.rollout.permille) == (True, 0)
        listed = (await daemon.run("upgrade", "ls")).out
        assert re.search(rf"{cid[:16]} +eviction +1 +shadow ", listed)
        book.stage(SLOT)
        book.stage(SLOT, gain=20_000)
        found = await shown(daemon, cid)
        assert (found.upgrade.state, found.upgrade.permille) == ("stage", 500)
        assert [each.permille for each in found.stages] == [0, 100, 500]
        assert (found.stages[1].low, found.stages[1].high, found.stages[1].reports) == (
            *(0.02, 0.02),
            3,
        )
        plain = (await daemon.run("upgrade", "show", cid)).out
        assert re.search(r"10 % +\d+ +20\S+ \S+ +.+ +\+2\.00 to \+2\.00 % +3 +0\n", plain)
        assert re.search(r"50 % +\d+ +20\S+ \S+ +under way +- +0 +0\n", plain)
        book.stage(SLOT)
        book.stage(SLOT)
        assert (await status(daemon)).current.number == 1
    found = await shown(daemon, cid)
    assert (found.upgrade.state, len(found.stages)) == ("settled", 4)
    assert (await status(daemon)).former[-1].native

    async with daemon.http() as http:
        module = await http.get(f"/v1/upgrades/slots/{SLOT}/module")
        native = await http.get("/v1/upgrades/slots/peer_scoring/module")
    assert module.content == (built["1"] / "module.wasm").read_bytes()
    assert (native.status_code, native.json()["error"]) == (404, "unknown")

    second = await propose(daemon, built["2"])
    found = await shown(daemon, second)
    assert (found.replaces.number, found.record.version) == (1, 2)
    assert [line for line in found.difference if line.startswith(("+ ", "- "))] == [
        "-      (i64.store (local.get $out) (i64.const 1))",
        "+      (i64.store (local.get $out) (i64.const 2))",
    ]
    assert "+      (i64.store" in (await daemon.run("upgrade", "show", second, "--difference")).out
    book.begin(second)
    book.stage(SLOT)
    book.stage(SLOT, gain=-300_000)
    found = await shown(daemon, second)
    assert (found.upgrade.state, found.upgrade.reason) == ("rolled-back", "worse")
    assert (await status(daemon)).current.module == (await shown(daemon, cid)).record.module
    over = await daemon.run("upgrade", "accept", second, "--json")
    assert (over.code, over.json["error"]) == (1, "not-open")

    back = await daemon.run("upgrade", "rollback", SLOT, "--json")
    third = same_shape(back, ledgermodels.Submitted).subject
    found = await shown(daemon, third)
    assert (found.record.native, found.record.version, found.upgrade.title) == (
        *(True, 4),
        "Bring back the native reference of eviction",
    )
    assert "is its own" not in (await daemon.run("upgrade", "show", third)).err
    none = await daemon.run("upgrade", "show", third, "--source", "--json")
    assert none.code == 0
    none = await daemon.run("upgrade", "show", third, "--source")
    assert (none.code, "daemon's own reference" in none.err) == (1, True)
    book.settle(third, SLOT)
    states = {each["proposal"]: each["state"] for each in await _ls(daemon)}
    assert states == {third: "settled", second: "rolled-back", cid: "replaced"}
    found = await shown(daemon, second)
    assert [each.permille for each in found.stages] == [0, 100]
    assert (found.stages[1].high, found.upgrade.reason) == (-0.3, "worse")
    assert (await shown(daemon, cid)).upgrade.state == "replaced"
    # What was voted out is no way back: it would have to go through the stages again.
    to = await daemon.run("upgrade", "rollback", SLOT, "--to", "3", "--json")
    assert (to.code, to.json["error"]) == (1, "unknown"), to.json


async def _ls(daemon) -> list[dict]:
    return (await daemon.run("upgrade", "ls", "--json")).json["upgrades"]


# -- the owner's say ------------------------------------------------------------------------------


async def test_an_owner_who_wants_to_be_asked_is_asked_and_obeyed(daemon, built):
    book = NodeBook(daemon.node)
    ran = await daemon.run("upgrade", "mode", "ask", "--json")
    modes = same_shape(ran, said.Modes).modes
    assert {each.mode for each in modes} == {"ask"}
    off = await daemon.run("upgrade", "mode", "off", "--slot", "peer_scoring")
    assert re.search(r"peer_scoring +off +upgrade mode", off.out)
    cid = await propose(daemon, built["1"])
    book.begin(cid)
    asked = (await daemon.run("upgrade", "status")).out
    assert f"`synapsectl upgrade show {cid[:16]}`, then `accept` or `refuse` it" in asked
    assert (await status(daemon)).rollout.candidate.why_not == "asking"
    plain = (await daemon.run("upgrade", "show", SLOT)).out
    assert f"synapsectl upgrade accept {cid[:16]}" in plain
    async with daemon.node.following():
        refused = same_shape(
            await daemon.run("upgrade", "refuse", SLOT, "--json"), said.UpgradeWord
        )
        assert (refused.said, refused.reported, refused.why_not) == ("refuse", True, "refused")
        with trio.fail_after(60):
            while not (reports := (await status(daemon)).rollout.reports):
                await trio.sleep(0.05)
        assert [(each.status, each.own) for each in reports] == [("refused", True)]
        accepted = await daemon.run("upgrade", "accept", cid)
        assert accepted.out.startswith("accepted: version 1 of eviction\n")
        with trio.fail_after(60):
            while (await status(daemon)).rollout.candidate.why_not:
                await trio.sleep(0.05)
    ran = await daemon.run("upgrade", "mode", "config", "--json")
    assert {(each.mode, each.origin) for each in same_shape(ran, said.Modes).modes} == {
        ("auto", "config")
    }


async def test_refusals_say_what_to_do(daemon, built):
    question = await daemon.run("proposal", "create", "--title", "a question", "--json")
    question = question.json["subject"]
    first = await propose(daemon, built["1"])
    twice = await daemon.run("upgrade", "propose", str(built["1"]), *WORDS, "--json")
    assert (twice.code, twice.json["error"]) == (1, "replayed")
    pinned = {pin.cid for pin in daemon.node.store.pins() if pin.reason == "published"}
    assert parse_cid((await shown(daemon, first)).record.manifest) in pinned
    withdrawn = daemon.node.upgrade_catalog.withdrawn
    assert withdrawn == [], "what another proposal still needs was withdrawn"
    NodeBook(daemon.node).begin(first)
    for arguments, code, error, words in (
        (("show", "nothing"), 1, "no-such-name", "upgrade ls"),
        (("show", ABSENT), 1, "unknown", "upgrade ls"),
        (("show", question), 1, "unknown", "proposal show"),
        (("accept", question), 1, "unknown", "proposal show"),
        (("rollback", "peer_scoring"), 1, "conflict", "upgrade status"),
        (("rollback", SLOT, "--to", "7"), 1, "unknown", "0 is the native reference"),
        (("replay", SLOT, "--version", "7"), 1, "unknown", "--proposal"),
        (("replay", "peer_scoring", "--proposal", first), 1, "conflict", ""),
        (("propose", str(built["2"]), *WORDS), 1, "clash", "settled or rolled back"),
    ):
        ran = await daemon.run("upgrade", *arguments, "--json")
        assert (ran.code, ran.json["error"]) == (code, error), (arguments, ran)
        assert words in ran.json["remedy"], (arguments, ran)
    daemon.node.book = None
    for arguments in (("ls",), ("status",), ("mode", "ask"), ("rollback", SLOT)):
        ran = await daemon.run("upgrade", *arguments, "--json")
        assert (ran.code, ran.json["error"]) == (1, "no-genesis"), arguments
        assert "init --genesis" in ran.json["remedy"]


async def test_what_is_not_here_is_fetched_or_missed_by_name(daemon, built):
    """An upgrade of somebody else's: nobody gives it first, and then somebody does."""
    text = (built["1"] / "module.wat").read_bytes()
    cid = theirs(daemon, built["1"], text)
    away = daemon.node.elsewhere.away
    away.update(daemon.node.elsewhere.held)
    missing = await daemon.run("upgrade", "show", cid)
    assert "warn its manifest is not here: nobody has it" in missing.out
    found = await daemon.run("upgrade", "show", cid, "--source", "--json")
    assert found.json["manifest_why_not"].startswith("nobody has it")
    source = await daemon.run("upgrade", "show", cid, "--source")
    assert (source.code, "nobody has it" in source.err) == (1, True)
    away.clear()
    assert (await shown(daemon, cid)).manifest.source.text.encode() == text


async def test_a_manifest_of_something_else_is_not_shown_as_an_upgrades(daemon, built):
    """Mix and match: the record names one module, and the manifest's is another one."""
    cid = theirs(daemon, built["1"], b"text", module=bytes(31) + b"x")
    found = await shown(daemon, cid)
    assert found.manifest is None
    assert "another upgrade's" in found.manifest_why_not


async def test_recorded_batches_are_replayed(daemon, built):
    slot, recorder = SLOTS[SLOT], daemon.node.upgrade_service.recorder
    empty = await daemon.run("upgrade", "replay", SLOT)
    assert (empty.code, empty.out.startswith("nothing was recorded yet")) == (0, True)
    for number in range(3):
        batch = slot.generate(Draw(bytes([number])), 20)
        slot.reference(batch)
        recorder.keep(SLOT, bytes(batch.block.cast("B")))
    same = same_shape(await daemon.run("upgrade", "replay", SLOT, "--json"), said.Replayed)
    assert (same.batches, same.changed, same.traps, same.module) == (3, 0, 0, "")
    cid = await propose(daemon, built["1"])
    other = await daemon.run("upgrade", "replay", SLOT, "--proposal", cid, "--json")
    other = same_shape(other, said.Replayed)
    assert (other.batches, other.traps) == (3, 0)
    assert (other.changed > 0, other.fuel > 0) == (True, True)
    assert "batches" in (await daemon.run("upgrade", "replay", SLOT, "--proposal", SLOT)).out


# -- how it looks --------------------------------------------------------------------------------


async def test_screens_fit_eighty_columns(daemon, built):
    book = NodeBook(daemon.node)
    cid = await propose(daemon, built["1"], "--title", "t" * 128)
    book.begin(cid)
    book.stage(SLOT)
    limiter = trio.CapacityLimiter(2)

    async def check(*arguments: str) -> None:
        async with limiter:
            ran = await daemon.run("upgrade", *arguments, COLUMNS="80")
        assert (ran.code, ran.err) == (0, ""), (arguments, ran.err)
        for line in ran.out.splitlines():
            # What its author wrote is one line, and so is what is to be copied.
            whole = line.startswith(("title", "fuel", "what", "keeps", "goal", "module", "warn"))
            assert len(line) <= 80 or whole or "`" in line, (arguments, line)

    async with trio.open_nursery() as nursery:
        for arguments in (
            *(("ls",), ("status",), ("status", SLOT), ("mode",), ("slots",)),
            *(("show", cid), ("check", "--help"), ("propose", "--help")),
        ):
            nursery.start_soon(check, *arguments)


async def test_completion_knows_slots_and_upgrades(daemon, built):
    cid = await propose(daemon, built["1"])

    async def offered(*words: str) -> str:
        typed = {"_SYNAPSECTL_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        ran = await daemon.run(
            **{**typed, "_TYPER_COMPLETE_ARGS": " ".join(("synapsectl", "upgrade", *words))}
        )
        return ran.out

    assert "eviction" in await offered("rollback", "ev")
    assert cid in await offered("show", "baf")
    assert "eviction" in await offered("show", "ev")


def test_json_of_a_source_is_one_line(tmp_path):
    found = run_cli("upgrade", "new", SLOT, "--language", "c", "--json")
    assert json.loads(found.out)["language"] == "c"
