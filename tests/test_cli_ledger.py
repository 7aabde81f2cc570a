"""proposal, council, reputation, params, ledger, genesis and human, as processes of their own."""

import re
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
import trio

from protocols.cid import cid_of, cid_text, parse_cid
from protocols.ledger.entries import NO, YES, Note, encode_entry
from protocols.ledger.signing import batch
from protocols.peerid import peer_id_text
from synapsed import keys
from synapsed.__main__ import main as synapsed
from synapsed.cli.genesis import FounderInfo, GenesisInfo
from synapsed.cli.human import HumanKeyInfo
from synapsed.cli.ledger import Newest
from synapsed.control import ledgermodels as said
from synapsed.ledger import genesis as founding
from tests.control_fixtures import (  # noqa: F401
    CLI,
    daemon_fixture,
    origin_fixture,
    run_cli,
)
from tests.ledger_book import MEMBERS, NETWORK, STRANGER
from tests.test_cli_commands import same_shape

ABSENT = cid_text(cid_of(b"nobody has this"))


async def create(daemon, *arguments: str) -> said.Submitted:
    ran = await daemon.run("proposal", "create", *arguments, "--json")
    assert (ran.code, ran.err) == (0, ""), ran
    return same_shape(ran, said.Submitted)


def others_vote(daemon, cid: str, choice: int = YES) -> None:
    book, proposal = daemon.node.there, parse_cid(cid)
    votes = [book.ballot(member, proposal, choice) for member in MEMBERS[1:]]
    daemon.node.ratify(encode_entry(batch(votes)))


async def test_a_parameter_from_the_proposal_to_being_in_force(daemon):
    """What a swarm does with it, at one daemon: the other members' votes come from the test."""
    ran = await daemon.run(
        "proposal", "create", "--set", "limits.upload=40 Mbit/s", "--text", "Two\nlines."
    )
    assert ran.code == 0
    cid = re.search(r"proposal +(baf\w+)", ran.out)[1]
    assert "ratified  at index 1" in ran.out
    assert f"synapsectl proposal vote {cid[:16]} yes" in ran.out

    voted = await daemon.run("proposal", "vote", cid[:12], "yes", "--json")
    assert same_shape(voted, said.Submitted).kind == "vote"
    listed = (await daemon.run("proposal", "ls")).out.splitlines()
    assert listed[1].split() == [
        *(cid[:16], "Set", "limits.upload=40", "Mbit/s", "medium", "open"),
        *("25", "%", "0", "%", "yes"),
    ]
    others_vote(daemon, cid)
    shown = (await daemon.run("proposal", "show", cid[:16])).out
    assert "sets      limits.upload to 40 Mbit/s, from " in shown
    assert "medium: limits.upload is of class medium" in shown
    assert "100 % of 4000 by 4; a quorum is 40 %" in shown
    assert "yes, weight 1000" in shown
    assert "\nTwo\nlines.\n" in shown
    assert re.search(r"this daemon +yes +1000", shown)

    daemon.node.later(10_000)
    waiting = (await daemon.run("proposal", "show", cid)).out
    assert re.search(r"in force +from 20", waiting)
    daemon.node.later(5_000)
    shown = (await daemon.run("proposal", "show", cid)).out
    index = re.search(r"in force +since index (\d+)", shown)[1]
    assert "3 of 4 signed in epoch 1, term 3" in shown
    param = same_shape(await daemon.run("params", "limits.upload", "--json"), said.ParamInfo)
    assert (param.value, param.index, param.proposal) == (5_000_000, int(index), cid)
    plain = (await daemon.run("params", "limits.upload")).out
    assert "40 Mbit/s" in plain
    assert "certificate  3 of 4 signed in epoch 1, term 3, at index" in plain
    assert "used here    20 Mbit/s, by /etc/config.toml:3" in plain
    again = await daemon.run("proposal", "vote", cid, "no", "--json")
    assert (again.code, again.json["error"]) == (1, "not-open")


async def test_other_kinds_of_proposal(daemon, tmp_path):
    question = await create(daemon, "--title", "Shall we meet?", "--text", "In spring.")
    key = run_cli("human", "new", str(tmp_path / "carol.key"), "--json").json["key"]
    person = await create(daemon, "--add-human", f"carol={key}")
    manifest = tmp_path / "proposal.toml"
    manifest.write_text(
        'kind = "parameter"\ntitle = "Two at once"\n'
        'changes = [{name = "quota.newcomer", value = 30}, {name = "quota.trusted", value = 300}]\n'
    )
    both = await create(daemon, str(manifest))
    found = [
        same_shape(
            await daemon.run("proposal", "show", each.subject, "--json"), said.ProposalDetail
        )
        for each in (question, person, both)
    ]
    assert [(each.proposal.kind, each.proposal.risk) for each in found] == [
        ("text", "low"),
        ("human-key", "critical"),
        ("parameter", "high"),
    ]
    assert found[0].text == "In spring."
    assert found[1].change == {"kind": "human-key", "action": "add", "name": "carol", "key": key}
    assert found[1].proposal.title == "Add the human key carol"
    assert [change.name for change in found[2].changes] == ["quota.newcomer", "quota.trusted"]
    assert found[1].proposal.approvals_needed == 2
    ran = await daemon.run("proposal", "create", "--adopt", f"adapter={ABSENT}", "--json")
    adopted = same_shape(ran, said.Submitted)
    shown = (await daemon.run("proposal", "show", adopted.subject)).out
    assert "fetchable  say 0 members, 0 not; 3 must" in shown
    assert re.search(rf"what +adapter\nmanifest +{ABSENT}\n", shown)


WRONG = [
    (("create",), "--title for words"),
    (("create", "--set", "limits.upload"), "NAME=VALUE"),
    (("create", "--set", "limits.uplod=1"), "synapsectl params lists them"),
    (("create", "--set", "limits.upload=fast"), "is not a number with a unit"),
    (("create", "--set", "work.bits=1.5"), "is not a whole number of bits"),
    (("create", "--set", "quorum.low=half"), "neither a whole number nor a percentage"),
    (("create", "--add-human", "carol=12D3"), "NAME=z6Mk"),
    (("create", "--set", "quorum.low=200 %"), "quorum.low = 200 % is not between 0.1 % and 100 %"),
    (("create", "--set", "work.bits=41"), "is not between 0 bits and 40 bits"),
    (("create", "--set", "limits.upload=0"), "limits.upload is 0 B/s already"),
    (("create", "--set", "work.bits=1", "--set", "work.bits=2"), "work.bits is given twice"),
    (("create", "--adopt", "adapter"), "KIND=CID"),
    (("create", "--adopt", "adapter=xyz"), "is no CID in full"),
    (("create", "--adopt", f"banana={ABSENT}"), "adapter, dataset, expert, kernel, model can"),
    (("create", "--title", "x", "--link", "nope"), "is no CID in full"),
    (("create", "--set", "work.bits=1", "--adopt", "adapter=b"), "two proposals"),
    (("create", "p.toml", "--title", "x"), "FILE says it all"),
    (("vote", ABSENT, "maybe"), "maybe"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
async def test_wrong_usage_says_what_would_be_right(daemon, arguments, words):
    ran = await daemon.run("proposal", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err.replace("`", ""), ran.err
    assert len(ran.err.splitlines()) == 2


async def test_refusals_have_their_exit_codes(daemon):
    cid = (await create(daemon, "--set", "work.bits=5")).subject
    daemon.node.me = STRANGER
    for arguments, code, error in (
        (("proposal", "vote", cid, "yes"), 5, "no-weight"),
        (("proposal", "vote", ABSENT, "yes"), 1, "unknown"),
        (("proposal", "vote", "nothing", "yes"), 1, "no-such-name"),
        (("proposal", "show", "nothing"), 1, "no-such-name"),
        (("proposal", "create", "--title", "x", "--link", ABSENT), 1, "artefact-unavailable"),
        (("proposal", "create", "--set", "council.seats=65"), 2, "usage"),
        (("ledger", "show", "99"), 1, "unknown"),
        (("ledger", "note", "x" * 1025), 1, "invalid"),
        (("params", "limits.uplod"), 1, "no-such-name"),
        (("reputation", "12D3nobody"), 1, "no-such-name"),
    ):
        ran = await daemon.run(*arguments, "--json")
        assert (ran.code, ran.json["error"]) == (code, error), (arguments, ran)
    daemon.node.me = MEMBERS[0]
    for number in range(19):
        await daemon.run("ledger", "note", f"note {number}")
    ran = await daemon.run("ledger", "note", "one more", "--json")
    assert (ran.code, ran.json["error"]) == (5, "daily-quota")


async def test_what_was_sent_and_is_not_ratified_in_time_is_named(daemon):
    daemon.node.stuck = True
    ran = await daemon.run("proposal", "create", "--title", "Meet?", "--timeout", "3", "--json")
    assert (ran.code, ran.json["error"]) == (4, "timed-out"), ran
    cid = re.search(r"it was sent \((baf\w+)\)", ran.json["message"])[1]
    assert f"synapsectl proposal show {cid}" in ran.json["remedy"]
    sent = await daemon.run("proposal", "create", "--title", "And eat?", "--no-wait")
    assert sent.out.splitlines()[-1].startswith("once it is ratified, `synapsectl proposal vote")
    ran = await daemon.run("ledger", "note", "kept", "--timeout", "3")
    assert ran.code == 4
    assert "the council may ratify it yet" in " ".join(ran.err.split())
    assert "synapsectl ledger show" in ran.err


async def test_a_council_that_ratifies_nothing_is_warned_of(daemon):
    daemon.node.silence = ["nothing is ratified since yesterday"]
    ran = await daemon.run("council")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "warn nothing is ratified since yesterday"


async def test_our_own_peer_id_may_be_shortened_too(daemon):
    status = (await daemon.run("status", "--json")).json
    ran = await daemon.run("reputation", status["peer_id"][:20], "--json")
    assert ran.code == 0, ran
    assert ran.json["peer_id"] == status["peer_id"]


async def test_without_a_genesis_the_remedy_is_named(daemon):
    daemon.node.book = None
    for arguments in (("council",), ("ledger", "show"), ("proposal", "ls"), ("params",)):
        ran = await daemon.run(*arguments)
        assert ran.code == 1
        assert "synapsed init --genesis FILE" in ran.err
    status = await daemon.run("status")
    assert status.code == 0
    assert "none: this daemon was given no genesis" in status.out


async def test_watching_tells_each_change_and_the_end(daemon):
    cid = (await create(daemon, "--title", "watched")).subject
    command = [*CLI, "proposal", "watch", cid, "--json", "--socket", str(daemon.socket)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    lines = b""

    async def until(count: int) -> None:
        nonlocal lines
        while lines.count(b"\n") < count:
            lines += await process.stdout.receive_some()

    with trio.fail_after(30):
        await until(1)
        others_vote(daemon, cid, NO)
        await until(2)
        daemon.node.later(10_000)
        await until(3)
        code = await process.wait()
    await process.stdout.aclose()
    infos = [msgspec.json.decode(line, type=said.ProposalInfo) for line in lines.splitlines()]
    assert [(info.state, info.no) for info in infos] == [
        ("open", 0),
        ("open", 3000),
        ("rejected", 3000),
    ]
    assert code == 1
    over = await daemon.run("proposal", "watch", cid)
    assert over.code == 1
    assert "rejected  yes 0  no 3000" in over.out


async def test_approving_with_a_key_file_here_or_a_signature_from_elsewhere(daemon, tmp_path):
    cid = (await create(daemon, "--set", "work.bits=5")).subject
    file = tmp_path / "alice.key"
    made = same_shape(run_cli("human", "new", str(file), "--json"), HumanKeyInfo)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert same_shape(run_cli("human", "show", str(file), "--json"), HumanKeyInfo) == made
    refused = await daemon.run("proposal", "approve", cid[:12], "--key", str(file), "--json")
    assert (refused.code, refused.json["error"]) == (5, "not-a-human-key")

    ledger = same_shape(
        await daemon.run("proposal", "show", cid, "--json"), said.ProposalDetail
    ).ledger
    assert ledger == str(daemon.node.there.state.realm)
    there = run_cli("human", "sign", cid, "--key", str(file), "--ledger", ledger, "--json")
    signed = same_shape(there, said.ApprovalRequest)
    assert signed.key == made.key
    assert keys.load_human(file).text == made.key
    daemon.node.there.state.humans = {
        **daemon.node.there.state.humans,
        "carol": keys.load_human(file).public_key,
    }
    ran = await daemon.run(
        "proposal", "approve", cid, "--key", signed.key, "--signature", signed.signature, "--json"
    )
    assert same_shape(ran, said.Submitted).kind == "approval"
    again = await daemon.run("proposal", "approve", cid, "--key", str(file), "--json")
    assert (again.code, again.json["error"]) == (1, "replayed")
    shown = (await daemon.run("proposal", "show", cid)).out
    assert "approved by  carol; 1 human key must" in shown
    assert re.search(rf"carol +{made.key}", shown)


async def test_a_human_key_file_is_never_replaced_and_must_be_ours(tmp_path):
    file = tmp_path / "alice.key"
    assert run_cli("human", "new", str(file)).code == 0
    before = file.read_bytes()
    again = run_cli("human", "new", str(file), "--json")
    assert (again.code, again.json["error"]) == (1, "bad-human-key")
    assert file.read_bytes() == before
    file.chmod(0o644)
    opened = run_cli("human", "show", str(file), "--json")
    assert (opened.code, opened.json["error"]) == (1, "bad-human-key")
    assert "chmod 600" in opened.json["remedy"]
    missing = run_cli("human", "show", str(tmp_path / "none"), "--json")
    assert (missing.code, missing.json["error"]) == (1, "no-human-key")
    identity = tmp_path / "home" / "identity.key"
    keys.create(identity)
    other = run_cli("human", "show", str(identity), "--json")
    assert (other.code, other.json["error"]) == (1, "bad-human-key")
    half = run_cli("human", "sign", "bafy", "--key", str(file), "--network", NETWORK, "--json")
    assert (half.code, half.json["error"]) == (2, "usage")


async def test_ticks_are_left_out_and_kinds_can_be_chosen(daemon):
    await daemon.run("ledger", "note", "before")
    for _ in range(30):
        daemon.node.later(2_000)
    head = daemon.node.there.state.head.index
    shown = same_shape(await daemon.run("ledger", "show", "--last", "1", "--json"), Newest)
    assert [entry.summary for entry in shown.entries] == ["before"]
    assert (shown.head, shown.left_out, shown.looked_from) == (head, head - 1, 1)
    plain = await daemon.run("ledger", "show")
    ticks = f"{head - 1} ticks left out (--ticks shows them), from index 0 on"
    assert plain.out.splitlines()[-1] == ticks
    every = same_shape(await daemon.run("ledger", "show", "--ticks", "--json"), Newest)
    assert [entry.index for entry in every.entries] == list(range(head - 19, head + 1))
    assert every.left_out == 0
    founding = same_shape(await daemon.run("ledger", "show", "--kind", "genesis", "--json"), Newest)
    assert [entry.kind for entry in founding.entries] == ["genesis"]
    none = await daemon.run("ledger", "show", "--kind", "banana")
    assert (none.code, "no entries of kind 'banana'" in none.out) == (0, True)


async def test_the_ledger_is_shown_and_followed(daemon):
    for text in ("first", "second"):
        noted = await daemon.run("ledger", "note", text, "--json")
        assert same_shape(noted, said.Submitted).index is not None
    shown = same_shape(await daemon.run("ledger", "show", "--json"), Newest)
    assert [entry.summary for entry in shown.entries[1:]] == ["first", "second"]
    last = same_shape(await daemon.run("ledger", "show", "--last", "1", "--json"), Newest)
    assert [entry.index for entry in last.entries] == [2]
    one = same_shape(await daemon.run("ledger", "show", "2", "--json"), said.EntryDetail)
    assert one.entry.body["text"] == "second"
    plain = (await daemon.run("ledger", "show", "2")).out
    assert f"author       {peer_id_text(MEMBERS[0].identity)}" in plain
    assert '\n  "text": "second"\n' in plain
    assert "certificate  3 of 4 signed" in plain

    command = [
        *CLI,
        "ledger",
        "show",
        "-f",
        "--last",
        "1",
        "--json",
        "--socket",
        str(daemon.socket),
    ]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    lines = b""
    with trio.fail_after(30):
        while lines.count(b"\n") < 1:
            lines += await process.stdout.receive_some()
        for number in range(3):
            author = MEMBERS[1 + number]
            daemon.node.ratify(daemon.node.there.submission(author, Note(text=f"n{number}")))
        while lines.count(b"\n") < 4:
            lines += await process.stdout.receive_some()
    process.terminate()
    await process.wait()
    await process.stdout.aclose()
    entries = [msgspec.json.decode(line, type=said.EntryInfo) for line in lines.splitlines()]
    assert [entry.index for entry in entries] == [2, 3, 4, 5]


async def test_council_and_reputation_as_people_see_them(daemon):
    await daemon.run("ledger", "note", "something to sign")
    same_shape(await daemon.run("council", "--json"), said.CouncilInfo)
    plain = (await daemon.run("council")).out
    assert "quorum       3 of 4 seats" in plain
    assert "tolerates    1 of 4 that lie or are down; 3 must be up" in plain
    assert "this daemon  holds seat 0" in plain
    assert "leads" in plain
    every = same_shape(await daemon.run("reputation", "--json"), said.Reputations)
    assert [each.reputation for each in every.reputations] == [1000] * 4
    own = same_shape(await daemon.run("reputation", "--own", "--json"), said.ReputationInfo)
    assert own.own
    assert own.peer_id == peer_id_text(MEMBERS[0].identity)
    stranger = peer_id_text(STRANGER.identity)
    one = same_shape(await daemon.run("reputation", stranger, "--json"), said.ReputationInfo)
    assert (one.reputation, one.trust) == (0, "newcomer")
    plain = (await daemon.run("reputation", stranger)).out
    assert "20 of 20 submissions left today" in plain
    assert "6 bits with each submission" in plain


async def test_screens_fit_eighty_columns(daemon, tmp_path):
    cid = (await create(daemon, "--set", "limits.upload=40 Mbit/s", "--title", "t" * 128)).subject
    await daemon.run("proposal", "vote", cid, "yes")
    others_vote(daemon, cid)
    await daemon.run("ledger", "note", "\x1b]0;owned\x07" + "n" * 200)
    limiter = trio.CapacityLimiter(2)

    async def check(*arguments: str) -> None:
        async with limiter:
            ran = await daemon.run(*arguments, COLUMNS="80")
        assert (ran.code, ran.err) == (0, ""), (arguments, ran.err)
        assert "\x1b" not in ran.out, arguments
        for line in ran.out.replace(str(daemon.folder), "~").splitlines():
            # What its author wrote is one line, and a signature is.
            whole = line.startswith(("title", "what ", "  "))
            assert len(line) <= 80 or whole, (arguments, line)

    async with trio.open_nursery() as nursery:
        for arguments in (
            ("status",),
            ("proposal", "ls"),
            ("proposal", "show", cid),
            ("council",),
            ("reputation",),
            ("reputation", "--own"),
            ("params",),
            ("params", "council.tick_ms"),
            ("ledger", "show"),
            ("ledger", "show", "1"),
            ("proposal", "create", "--help"),
            ("genesis", "new", "--help"),
        ):
            nursery.start_soon(check, *arguments)


async def test_completion_knows_proposals_and_parameters(daemon):
    cid = (await create(daemon, "--title", "a question")).subject

    async def complete(*words: str) -> set[str]:
        ran = await daemon.run(
            _SYNAPSECTL_COMPLETE="complete_bash",
            COMP_WORDS=" ".join(("synapsectl", *words)),
            COMP_CWORD=str(len(words)),
        )
        assert ran.err == ""
        return set(ran.out.split())

    assert await complete("proposal", "show", "baf") == {cid}
    assert await complete("params", "limits.u") == {"limits.upload"}
    assert "limits.upload" in await complete("proposal", "create", "--set", "limits.u")
    assert await complete("proposal", "vo") == {"vote"}


# -- founding


def founded(tmp_path: Path, count: int = 4) -> tuple[list[Path], list[str]]:
    """Homes with an identity each, and their lines."""
    homes, lines = [], []
    for number in range(count):
        home = tmp_path / f"home{number}"
        assert synapsed(["init", "--home", str(home), "--network", "ours"]) == 0
        ran = run_cli("genesis", "seat", "--name", f"n{number}", SYNAPSED_HOME=str(home))
        assert (ran.code, ran.err) == (0, "")
        homes.append(home)
        lines.append(ran.out.strip())
    return homes, lines


def test_founding_a_network_without_any_daemon(tmp_path, capsys):
    homes, lines = founded(tmp_path)
    again = run_cli("genesis", "seat", "--name", "n0", "--json", SYNAPSED_HOME=str(homes[0]))
    seat = same_shape(again, FounderInfo)
    assert seat.line == lines[0]
    assert seat.peer_id == keys.load(homes[0] / "identity.key").text

    human = run_cli("human", "new", str(tmp_path / "alice.key"), "--json").json["key"]
    collected, file = tmp_path / "members", tmp_path / "genesis.toml"
    collected.write_text("# who signed up\n\n" + "\n".join(lines[1:]) + "\n")
    voter = peer_id_text(STRANGER.identity)
    ran = run_cli(
        *("genesis", "new", str(file), "--network", "ours", "--json"),
        *("--member", lines[0], "--member", str(collected)),
        *("--human", f"alice={human}", "--grant", f"{voter}=250"),
        *("--param", "vote.window_ms=1 h", "--param", "limits.upload=8 Mbit/s"),
    )
    made = same_shape(ran, GenesisInfo)
    assert [each.name for each in sorted(made.seats, key=lambda each: each.name)] == [
        f"n{number}" for number in range(4)
    ]
    assert made.humans == {"alice": human}
    assert made.reputation == {voter: 250}
    assert made.parameters["vote.window_ms"] == 3_600_000
    assert made.parameters["limits.upload"] == 1_000_000
    payload = founding.load(file)
    assert founding.genesis_hash(payload).hex() == made.hash

    shown = run_cli("genesis", "show", str(file), COLUMNS="80")
    assert "4 seats: 1 may lie or be down, 3 must be up" in shown.out
    assert made.hash in shown.out
    for home in homes:
        assert synapsed(["init", "--home", str(home), "--genesis", str(file)]) == 0
    assert made.hash in capsys.readouterr().out
    own = run_cli("genesis", "show", "--json", SYNAPSED_HOME=str(homes[2]))
    assert same_shape(own, GenesisInfo).hash == made.hash


def test_a_genesis_that_was_edited_or_is_another_is_refused(tmp_path, capsys):
    homes, lines = founded(tmp_path)
    file, other = tmp_path / "genesis.toml", tmp_path / "other.toml"
    members = [part for line in lines for part in ("--member", line)]
    for path, extra in ((file, ()), (other, ("--param", "work.bits=1"))):
        assert run_cli("genesis", "new", str(path), "--network", "ours", *members, *extra).code == 0
    twice = run_cli("genesis", "new", str(file), "--network", "ours", *members, "--json")
    assert (twice.code, twice.json["error"]) == (1, "conflict")
    edited = tmp_path / "edited.toml"
    edited.write_text(file.read_text().replace("reputation = 1000", "reputation = 9000", 1))
    shown = run_cli("genesis", "show", str(edited), "--json")
    assert (shown.code, shown.json["error"]) == (1, "bad-genesis")
    assert "compare" in shown.json["remedy"]
    home = str(homes[0])
    assert synapsed(["init", "--home", home, "--genesis", str(file)]) == 0
    assert synapsed(["init", "--home", home, "--genesis", str(edited)]) != 0
    assert synapsed(["init", "--home", home, "--genesis", str(other)]) != 0
    assert "another genesis" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--member", "/nowhere/at/all"), "no line of genesis seat"),
        (("--member", "12D3KooWnonsense"), "names no founding member"),
        (("--param", "work.bits=many"), "is not a whole number of bits"),
        (("--param", "work.bit=1"), "there is no parameter 'work.bit'; did you mean 'work.bits'?"),
        (("--param", "foo=1"), "there is no parameter 'foo'; there are: limits.upload, "),
        (("--param", "work.bits=41"), "work.bits = 41 bits is not between 0 bits and 40 bits"),
        (("--param", "work.bits=4", "--param", "work.bits=5"), "work.bits is given twice"),
        (("--network", "bad name!"), "up to 63 lower-case letters"),
        (("--human", "alice"), "NAME=z6Mk"),
        (("--grant", "12D3KooW=5"), "not the peer id"),
        (("--grant", "5"), "is not a whole number"),
    ],
)
def test_what_is_wrong_with_a_founding_is_said(tmp_path, arguments, words):
    _, lines = founded(tmp_path, 1)
    ran = run_cli(
        *("genesis", "new", str(tmp_path / "g.toml"), "--network", "ours"),
        *("--member", lines[0], *arguments),
    )
    assert ran.code in (1, 2)
    assert words in ran.err.replace("`", "")
    assert not (tmp_path / "g.toml").exists()


def test_a_founder_is_named_once_and_a_council_that_bears_nobody_is_warned_of(tmp_path):
    _, lines = founded(tmp_path, 1)
    file = str(tmp_path / "g.toml")
    twice = run_cli(*("genesis", "new", file, "--network", "ours"), *(2 * ("--member", lines[0])))
    assert twice.code == 2
    assert re.search(r"the founder 12D3KooW\w+ is given twice", twice.err)
    alone = run_cli("genesis", "new", file, "--network", "ours", "--member", lines[0])
    assert alone.code == 0
    assert "warn one seat that is down stops this council" in alone.out


def test_a_seat_needs_an_identity_and_a_daemon_that_is_stopped(tmp_path):
    ran = run_cli("genesis", "seat", "--json", SYNAPSED_HOME=str(tmp_path))
    assert (ran.code, ran.json["error"]) == (1, "no-identity")
    missing = run_cli("genesis", "show", "--json", SYNAPSED_HOME=str(tmp_path))
    assert (missing.code, missing.json["error"]) == (1, "bad-genesis")
