"""ledger export, verify and proof: the audit trail, checked by who trusts nobody (contract E8)."""

import os
import random
from pathlib import Path

import pytest
import trio

from protocols.ledger.entries import Note
from synapsed.cli.ledger import Newest
from synapsed.cli.offline import Proven, Verified
from synapsed.control import ledgermodels as said
from synapsed.ledger import genesis as founding
from tests.control_fixtures import (  # noqa: F401
    daemon_fixture,
    origin_fixture,
    run_cli,
)
from tests.ledger_book import MEMBERS
from tests.test_cli_commands import same_shape


@pytest.fixture(name="trail")
async def trail_fixture(daemon, tmp_path: Path) -> Path:
    """A folder with the exported ledger of two epochs, its genesis, and a proof of each epoch."""
    node = daemon.node
    for number in range(8):
        author = MEMBERS[number % 4]
        node.ratify(node.there.submission(author, Note(text=f"note {number}")))
    node.later(400_000)
    assert node.there.state.epoch == 2
    for number in range(8, 14):
        author = MEMBERS[number % 4]
        node.ratify(node.there.submission(author, Note(text=f"note {number}")))
    folder = tmp_path / "trail"
    folder.mkdir()
    (folder / "genesis.toml").write_text(founding.dump(node.there.payloads[0]))
    exported = await daemon.run("ledger", "export", str(folder / "ledger"), "--json")
    assert (exported.code, exported.err) == (0, "")
    size = (folder / "ledger").stat().st_size
    assert exported.json == {"path": str(folder / "ledger"), "size": size}
    for index in (3, node.there.state.head.index - 2):
        proved = await daemon.run("ledger", "proof", str(index), str(folder / f"{index}.proof"))
        assert "wrote" in proved.out
    return folder


def verify(trail: Path, *arguments: str, home: str = "/nowhere/at/all"):
    return run_cli("ledger", "verify", *arguments, "--json", SYNAPSED_HOME=home)


async def test_an_exported_ledger_is_verified_without_a_daemon(daemon, trail):
    state = daemon.node.there.state
    known = ("--genesis", str(trail / "genesis.toml"))
    found = same_shape(verify(trail, str(trail / "ledger"), *known), Verified)
    assert (found.network, found.index, found.epochs) == ("test", state.head.index, 2)
    assert (found.hash, found.digest) == (state.head.hash.hex(), state.digest().hex())
    assert found.genesis_known
    assert found.certificates == 2
    alone = same_shape(verify(trail, str(trail / "ledger")), Verified)
    assert not alone.genesis_known
    plain = run_cli("ledger", "verify", str(trail / "ledger"), SYNAPSED_HOME="/nowhere/at/all")
    assert f"pass the ledger of test is whole, to index {state.head.index}" in plain.out
    assert "no genesis to compare with" in plain.out
    running = same_shape(await daemon.run("ledger", "verify", "--json"), Verified)
    assert running.hash == found.hash


async def test_a_homes_own_genesis_is_what_counts(daemon, trail, tmp_path):
    home = tmp_path / "other-home"
    home.mkdir()
    (home / "genesis.toml").write_bytes((trail / "genesis.toml").read_bytes())
    assert same_shape(verify(trail, str(trail / "ledger"), home=str(home)), Verified).genesis_known
    other = tmp_path / "other.toml"
    genesis = founding.load(trail / "genesis.toml")
    changed = genesis.replace(b"alice", b"alicf")
    other.write_text(founding.dump(changed))
    refused = verify(trail, str(trail / "ledger"), "--genesis", str(other))
    assert (refused.code, refused.json["error"]) == (1, "wrong-genesis")
    proof = next(trail.glob("*.proof"))
    refused = verify(trail, "--proof", str(proof), "--genesis", str(other))
    assert (refused.code, refused.json["error"]) == (1, "wrong-genesis")


@pytest.mark.parametrize("seed", range(12))
async def test_one_changed_byte_is_found_and_named(trail, seed):
    data = bytearray((trail / "ledger").read_bytes())
    at = random.Random(seed).randrange(len(data))
    data[at] ^= 1 << seed % 8
    (trail / "ledger").write_bytes(data)
    refused = verify(trail, str(trail / "ledger"))
    assert refused.code == 1
    assert refused.json["error"] in ("broken-archive", "wrong-network")


@pytest.mark.parametrize("cut", [0, 1, 23, 30, 500, -1])
async def test_a_ledger_that_is_cut_off_or_goes_on_is_found(trail, cut):
    data = (trail / "ledger").read_bytes()
    (trail / "ledger").write_bytes(data[:cut])
    refused = verify(trail, str(trail / "ledger"))
    assert (refused.code, refused.json["error"]) == (1, "broken-archive")
    (trail / "ledger").write_bytes(data + b"x")
    assert verify(trail, str(trail / "ledger")).json["error"] == "broken-archive"


async def test_an_entry_is_proven_without_the_others(daemon, trail):
    known = ("--genesis", str(trail / "genesis.toml"))
    for file in sorted(trail.glob("*.proof")):
        index = int(file.stem)
        found = same_shape(verify(trail, "--proof", str(file), *known), Proven)
        detail = daemon.node.view.entry(index)
        assert (found.entry.index, found.entry.hash) == (index, detail.entry.hash)
        assert found.entry.summary == detail.entry.summary
        assert found.certificate.epoch == detail.entry.epoch
        assert len(found.certificate.signers) == 3
        plain = run_cli("ledger", "verify", "--proof", str(file), *known)
        assert f"pass entry {index} of the ledger of test is ratified" in plain.out
        for seed in range(4):
            data = bytearray(file.read_bytes())
            data[random.Random(seed).randrange(len(data))] ^= 1
            bad = trail / "bad"
            bad.write_bytes(data)
            assert verify(trail, "--proof", str(bad), *known).code == 1
    other = verify(trail, "--proof", str(trail / "ledger"), *known)
    assert "without --proof" in other.json["remedy"]
    other = verify(trail, str(file), *known)
    assert "given by --proof" in other.json["remedy"]
    file.write_bytes(file.read_bytes()[:-1])
    cut = verify(trail, "--proof", str(file), *known)
    assert "cut off" in cut.json["message"]
    assert "ledger proof INDEX" in cut.json["remedy"]
    without = verify(trail, "--proof", str(file))
    assert (without.code, without.json["error"]) == (1, "no-genesis")
    assert "--genesis" in without.json["remedy"]


async def test_an_exported_ledger_is_shown_without_a_daemon(daemon, trail):
    ran = run_cli("ledger", "show", "--file", str(trail / "ledger"), "--last", "3", "--json")
    found, there = same_shape(ran, Newest), daemon.node.view.entries(-3, 3)
    assert (found.head, found.entries) == (there.head, there.entries)
    one = run_cli("ledger", "show", "3", "--file", str(trail / "ledger"), "--json")
    assert same_shape(one, said.EntryDetail) == daemon.node.view.entry(3)
    zero = run_cli("ledger", "show", "0", "--file", str(trail / "ledger"))
    assert "founds test: 4 seats, 2 human keys" in zero.out
    missing = run_cli("ledger", "show", "--file", str(trail / "none"), "--json")
    assert (missing.code, missing.json["error"]) == (1, "unreadable")


async def test_nothing_is_overwritten_and_nothing_half_written_stays(daemon, trail, monkeypatch):
    again = await daemon.run("ledger", "export", str(trail / "ledger"), "--json")
    assert (again.code, again.json["error"]) == (1, "conflict")
    nowhere = await daemon.run("ledger", "export", str(trail / "no" / "where"), "--json")
    assert (nowhere.code, nowhere.json["error"]) == (1, "conflict")
    unknown = await daemon.run("ledger", "proof", "999", str(trail / "new"), "--json")
    assert (unknown.code, unknown.json["error"]) == (1, "unknown")

    async def torn():
        yield b"synapse ledger export 1\n"
        raise OSError("the disk is gone")

    monkeypatch.setattr(daemon.node, "ledger_export", torn)
    half = await daemon.run("ledger", "export", str(trail / "half"), "--json")
    assert half.code == 3
    assert not [name for name in os.listdir(trail) if name.endswith(".part") or name == "half"]
    (await daemon.run("ledger", "show")).out  # noqa: B018 - the daemon lives


async def test_a_large_ledger_is_exported_piece_by_piece(daemon, tmp_path):
    """What the client has not taken is not made: the export waits for its reader."""
    made, closed = 0, False

    async def endless():
        nonlocal made, closed
        try:
            while True:
                made += 1
                yield bytes(64 << 10)
        finally:
            closed = True

    daemon.node.ledger_export = endless
    stream = await daemon.connect()
    await stream.send_all(b"GET /v1/ledger/export HTTP/1.1\r\nhost: d\r\n\r\n")
    head = await stream.receive_some(4096)
    assert b"application/octet-stream" in head
    with trio.fail_after(60):
        while not made:
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)  # until the socket's buffers are full
    assert made < 100
    await stream.aclose()
    with trio.fail_after(60):
        while not closed:
            await trio.sleep(0.01)


async def test_options_that_would_be_ignored_are_refused(trail):
    both = run_cli("ledger", "verify", str(trail / "ledger"), "--proof", str(trail / "3.proof"))
    assert both.code == 2
    assert "one at a time" in both.err
    grows = run_cli("ledger", "show", "--file", str(trail / "ledger"), "--follow")
    assert grows.code == 2
    assert "does not grow" in grows.err
