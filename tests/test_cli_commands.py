"""Every command of synapsectl, as a process of its own, against a served node."""

import json
import re
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from protocols.cid import cid_text
from synapsed.cli import main as cli_main
from synapsed.cli.peers import Pings
from synapsed.control import models
from tests.control_fixtures import (  # noqa: F401
    CLI,
    big_fixture,
    daemon_fixture,
    origin_fixture,
    run_cli,
)
from tests.control_node import FRIEND, write_model

PROSE = {"was", "is", "lists", "drives", "made"}
"""What follows the word synapsectl in prose, where no command is meant."""

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"


IN_TEST_CLI_LEDGER = {
    ("council",),
    ("reputation",),
    ("params",),
    *(("proposal", name) for name in ("create", "ls", "show", "vote", "approve", "watch")),
    *(("ledger", name) for name in ("show", "verify", "export", "proof", "note")),
    *(("genesis", name) for name in ("seat", "new", "show")),
    *(("human", name) for name in ("new", "show", "sign")),
}
"""Commands that test_cli_ledger.py runs."""

IN_TEST_CLI_UPGRADE = {
    *(("upgrade", name) for name in ("slots", "new", "build", "check", "propose", "ls", "show")),
    *(("upgrade", name) for name in ("status", "mode", "accept", "refuse", "rollback", "replay")),
}
"""Commands that test_cli_upgrade.py runs."""

IN_TEST_CLI_LEARN = {
    ("generate",),
    *(("model", name) for name in ("new", "eval")),
    *(
        ("train", name)
        for name in ("propose", "join", "leave", "ls", "status", "checkpoint", "audit")
    ),
}
"""Commands that test_cli_learn.py runs."""


class Metric(msgspec.Struct):
    name: str
    labels: dict[str, str]
    value: float


class Metrics(msgspec.Struct):
    metrics: list[Metric]


class Script(msgspec.Struct):
    shell: str
    script: str


# What `--json` prints is one struct each: scripts count on these.
READS = {
    ("status",): models.Status,
    ("peers",): models.Peers,
    ("peers", "--all"): models.Peers,
    ("ping", FRIEND, "--count", "2"): Pings,
    ("ping", FRIEND[:14]): Pings,
    ("connect", f"/ip4/10.0.0.2/tcp/4817/p2p/{FRIEND}"): models.PeerInfo,
    ("model", "ls"): models.Models,
    ("model", "ls", "--all"): models.Models,
    ("announcements",): models.Announcements,
    ("announcements", "--kind", "kernel"): models.Announcements,
    ("events",): models.Events,
    ("limits",): models.Limits,
    ("limits", "--upload", "20 Mbit/s"): models.Limits,
    ("doctor",): models.DoctorReport,
    ("config", "show"): models.ConfigReport,
    ("gc",): models.GcResult,
    ("scrub",): models.ScrubResult,
    ("job", "ls"): models.Jobs,
    ("metrics",): Metrics,
    ("completion", "fish"): Script,
}


def same_shape(ran, kind: type) -> object:
    """The output decoded as `kind`; nothing more stands in it and nothing is left out."""
    value = msgspec.convert(ran.json, kind)
    assert msgspec.to_builtins(value) == ran.json
    return value


async def test_every_reading_command_has_json_of_one_shape(daemon):
    limiter = trio.CapacityLimiter(2)

    async def check(arguments: tuple[str, ...], kind: type) -> None:
        async with limiter:
            ran = await daemon.run(*arguments, "--json")
            assert (ran.code, ran.err) == (0, ""), arguments
            same_shape(ran, kind)

    async with trio.open_nursery() as nursery:
        for arguments, kind in READS.items():
            nursery.start_soon(check, arguments, kind)


def test_no_command_is_forgotten():
    """Each command is in READS or in a test below."""
    below = {
        ("model", "show"),
        ("model", "import"),
        ("model", "pull"),
        ("model", "export"),
        ("model", "pin"),
        ("model", "unpin"),
        ("model", "rm"),
        ("announce", "adapter"),
        ("announce", "kernel"),
        ("announce", "proposal"),
        ("withdraw",),
        ("pause",),
        ("resume",),
        ("job", "cancel"),
    }
    read = {
        arguments[:2] if arguments[0] in ("model", "job", "config") else arguments[:1]
        for arguments in READS
    }
    below |= IN_TEST_CLI_LEDGER | IN_TEST_CLI_UPGRADE | IN_TEST_CLI_LEARN
    import typer.main

    found = set()
    group = typer.main.get_command(cli_main.app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= {(name, each) for each in inner} if inner else {(name,)}
    assert found == read | below
    # The manual's table names parts of a group as `model pin MODEL`, and kinds as `a|b`.
    manual = DOCUMENT.read_text().replace("\\|", "|")
    named = {("announce", "adapter"), ("announce", "kernel"), ("announce", "proposal")}
    for words in found - named:
        assert f"`{' '.join(words)}" in manual, words
    assert "`announce adapter|kernel|proposal FILE`" in manual


async def test_the_life_of_a_model(daemon, big, tmp_path):
    source = write_model(tmp_path / "mixture")
    ran = await daemon.run("model", "import", str(source), "--name", "tiny", "--json")
    imported = same_shape(ran, models.ImportResult)
    assert (imported.name, imported.files, imported.experts) == ("tiny", 2, 4)

    shown = same_shape(await daemon.run("--json", "model", "show", "tiny"), models.ModelDetail)
    assert shown.model.cid == imported.cid
    by_prefix = await daemon.run("model", "show", imported.cid[:20], "--json")
    assert by_prefix.json == json.loads(msgspec.json.encode(shown))

    pulled = await daemon.run("model", "pull", cid_text(big), "--json")
    pulled = same_shape(pulled, models.PullResult)
    assert pulled.size >= pulled.fetched > 4 << 20  # config.json was here already

    out = tmp_path / "out"
    exported = await daemon.run("model", "export", "big", str(out), "--json")
    assert same_shape(exported, models.ExportResult).files == 2
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "big" / name).read_bytes()

    unpinned = await daemon.run("model", "unpin", "tiny", "--json")
    assert not same_shape(unpinned, models.ModelInfo).pinned
    pinned = await daemon.run("model", "pin", "tiny", "--json")
    assert same_shape(pinned, models.ModelInfo).pinned
    removed = await daemon.run("model", "rm", "tiny", "--json")
    assert same_shape(removed, models.Removed).cid == imported.cid
    gone = await daemon.run("model", "show", "tiny", "--json")
    assert (gone.code, gone.json["error"]) == (1, "no-such-name")


async def test_one_expert_and_a_detached_pull(daemon, big):
    cid = cid_text(big)
    part = await daemon.run("model", "pull", cid, "--expert", "layer0.expert1", "--json")
    assert same_shape(part, models.PullResult).fetched < 2 << 20
    daemon.node.gate.allow(0)
    started = await daemon.run("model", "pull", cid, "--detach", "--json")
    job = same_shape(started, models.JobStarted).job
    listed = same_shape(await daemon.run("job", "ls", "--json"), models.Jobs).jobs
    assert [(each.id, each.detached) for each in listed] == [(job, True)]
    assert "pull" in (await daemon.run("job", "ls")).out
    cancelled = await daemon.run("job", "cancel", str(job), "--json")
    assert same_shape(cancelled, models.JobInfo).id == job


async def test_announcing_and_withdrawing(daemon, tmp_path):
    folder = write_model(tmp_path / "adapter")
    base = "bafyrei" + "a" * 51 + "a"
    manifest = folder / "adapter.toml"
    manifest.write_text(
        f'name = "polite"\nbase = "{base}"\nrank = 8\nalpha = 16\n'
        'target_modules = ["q_proj"]\nfile = "model.safetensors"\n'
    )
    ran = await daemon.run("announce", "adapter", str(manifest), "--json")
    adapter = same_shape(ran, models.AnnouncementInfo)
    assert (adapter.kind, adapter.own, adapter.body["rank"]) == ("adapter", True, 8)

    (folder / "swiglu.c").write_text("void swiglu(void) {}")
    kernel = {
        "name": "fast swiglu",
        "operation": "swiglu",
        "architecture": "x86-64-v3",
        "language": "c",
        "file": "swiglu.c",
        "benchmarks": [
            {"metric": "time", "unit": "ms", "workload": "4096", "value": 1.5, "baseline": 2.0}
        ],
    }
    (folder / "kernel.json").write_text(json.dumps(kernel))
    ran = await daemon.run("announce", "kernel", str(folder / "kernel.json"), "--json")
    assert same_shape(ran, models.AnnouncementInfo).body["value"] == 1500

    proposal = b'{"title": "more light", "text": "why not"}'
    ran = await daemon.run("announce", "proposal", "-", "--json", stdin=proposal)
    assert same_shape(ran, models.AnnouncementInfo).body == {"title": "more light"}

    listed = await daemon.run("announcements", "--json")
    kinds = [each.kind for each in same_shape(listed, models.Announcements).announcements]
    assert kinds == ["adapter", "kernel", "proposal"]
    ran = await daemon.run("withdraw", adapter.id[:24], "--json")
    assert same_shape(ran, models.AnnouncementInfo).id == adapter.id
    left = await daemon.run("announcements", "--kind", "adapter", "--json")
    assert left.json == {"announcements": []}


async def test_pause_and_resume(daemon, big):
    paused = await daemon.run("pause", "--json")
    assert same_shape(paused, models.Paused).paused
    refused = await daemon.run("model", "pull", cid_text(big), "--json")
    assert (refused.code, refused.json["error"]) == (5, "paused")
    resumed = await daemon.run("resume", "--json")
    assert not same_shape(resumed, models.Paused).paused


async def test_limits_reach_the_node(daemon):
    changed = await daemon.run("limits", "--upload", "2.5 MB/s", "--max-pulls", "4", "--json")
    assert (changed.json["upload"], changed.json["max_pulls"]) == (2_500_000, 4)
    unlimited = await daemon.run("limits", "--upload", "0")
    assert "unlimited" in unlimited.out
    wrong = await daemon.run("limits", "--upload", "fast", "--json")
    assert (wrong.code, wrong.json["error"]) == (2, "usage")
    assert "--upload" in wrong.json["message"]


async def test_following_events_prints_json_lines(daemon):
    command = [*CLI, "events", "-f", "--kind", "m.", "--json", "--socket", str(daemon.socket)]
    lines = b""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    with trio.fail_after(60):
        while len(daemon.node.bus._readers) < 2:  # the daemon's own, and this one
            await trio.sleep(0.01)
        daemon.node.bus.emit("other.kind")
        for number in range(3):
            daemon.node.bus.emit("m.tick", number=number)
        while lines.count(b"\n") < 3:
            lines += await process.stdout.receive_some()
    process.terminate()
    await process.wait()
    await process.stdout.aclose()
    events = [msgspec.json.decode(line, type=models.EventInfo) for line in lines.splitlines()]
    assert [(event.kind, event.fields["number"]) for event in events] == [
        ("m.tick", 0),
        ("m.tick", 1),
        ("m.tick", 2),
    ]


async def test_what_people_see_fits_eighty_columns_and_is_clean(daemon, tmp_path, big):
    write_model(tmp_path / "mixture")
    await daemon.run("model", "import", str(tmp_path / "mixture"), "--name", "a" * 60)
    daemon.node.bus.emit("peer.connected", agent="\x1b]0;owned\x07")
    await daemon.run("announce", "proposal", "-", stdin=b'{"title": "t"}')
    limiter = trio.CapacityLimiter(2)

    async def check(*arguments: str) -> None:
        async with limiter:
            ran = await daemon.run(*arguments, COLUMNS="80")
        assert (ran.code, ran.err) == (0, ""), (arguments, ran.err)
        assert ran.out.strip(), arguments
        assert "\x1b" not in ran.out, arguments
        for line in ran.out.replace(str(daemon.folder), "~").splitlines():
            # An event is one line, however long; so that grep finds it whole.
            assert len(line) <= 80 or arguments == ("events",), (arguments, line)

    async with trio.open_nursery() as nursery:
        for arguments in (
            ("status",),
            ("peers", "--all"),
            ("model", "ls"),
            ("model", "ls", "--all"),
            ("model", "show", "a" * 60),
            ("announcements",),
            ("limits",),
            ("doctor",),
            ("config", "show", "--origin"),
            ("gc",),
            ("job", "ls"),
            ("events",),
            ("--help",),
            ("model", "--help"),
            ("model", "pull", "--help"),
        ):
            nursery.start_soon(check, *arguments)


async def test_in_a_pipe_a_row_is_one_line(daemon, tmp_path):
    name = "a" * 100
    await daemon.run("model", "import", str(write_model(tmp_path / "mixture")), "--name", name)
    listed = await daemon.run("model", "ls")
    assert [name in line for line in listed.out.splitlines()] == [False, True]


async def test_models_of_others_are_listed_only_where_asked_for(daemon, origin, big, tmp_path):
    """Their manifests come here to be looked after; nothing of them is held."""
    daemon.node.store.put_block(origin.get_block(big))
    unknown = daemon.node.announce_shard("bafyrei" + "b" * 51 + "a")
    daemon.node.announce_shard(cid_text(big))
    empty = await daemon.run("model", "ls")
    assert "synapsectl model ls --all" in empty.out
    assert (await daemon.run("model", "ls", "--json")).json == {"models": []}

    await daemon.run("model", "import", str(write_model(tmp_path / "ours")), "--name", "zebra")
    assert len((await daemon.run("model", "ls")).out.splitlines()) == 2
    every = (await daemon.run("model", "ls", "--all")).out.splitlines()
    rows = [line.split() for line in every]
    assert rows[0] == ["MODEL", "NAME", "SIZE", "HELD", "EXPERTS", "HOLDERS", "PINNED"]
    # Ours first, then others' by name, then those of which only the id is known.
    assert [row[1] for row in rows[1:]] == ["zebra", "big", "?"]
    assert rows[1][4:] == ["100", "%", "4", "0", "imported"]
    assert rows[2][4:] == ["0.0", "%", "0", "1", "no"]  # its config.json is ours, too
    assert rows[3] == [unknown[:16], "?", "?", "-", "?", "1", "no"]
    known = await daemon.run("model", "ls", "--all", "--json")
    assert {model["name"] for model in known.json["models"]} == {"zebra", "big"}


async def test_announcements_say_what_they_are_about(daemon, origin, big):
    daemon.node.store.put_block(origin.get_block(big))
    daemon.node.announce_shard(cid_text(big))
    await daemon.run("announce", "proposal", "-", stdin=b'{"title": "more light"}')
    listed = await daemon.run("announcements")
    assert "  big  " in listed.out
    assert "  more light  " in listed.out
    for subject in ("big", cid_text(big)[:12], cid_text(big)):
        found = await daemon.run("announcements", "--subject", subject, "--json")
        assert [entry["kind"] for entry in found.json["announcements"]] == ["shard"], subject


async def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(daemon, tmp_path):
    await daemon.run("model", "import", str(write_model(tmp_path / "MiniLM-L6")))
    for nearly in ("minilm", "MiniLM-L66"):
        ran = await daemon.run("model", "show", nearly)
        assert ran.code == 1
        assert "did you mean 'MiniLM-L6'?" in ran.err


async def test_the_daemon_is_found_by_its_home_or_its_config(daemon, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    missing = await daemon.run("status", "--json", SYNAPSED_HOME=nowhere)
    assert (missing.code, missing.json["error"]) == (3, "no-daemon")
    assert nowhere in missing.json["message"]
    found = await daemon.run(
        "--home", str(daemon.folder), "status", "--json", SYNAPSED_HOME=nowhere
    )
    assert found.code == 0
    found = await daemon.run("status", "--socket", str(daemon.socket), SYNAPSED_HOME=nowhere)
    assert found.code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text(f'[control]\nsocket = "{daemon.socket}"\n')
    assert (await daemon.run("status", SYNAPSED_HOME=str(other))).code == 0
    found = await daemon.run(
        "status", SYNAPSED_HOME=nowhere, SYNAPSED_CONTROL__SOCKET=str(daemon.socket)
    )
    assert found.code == 0


async def test_the_daemon_is_found_from_where_its_environment_is_not(daemon, tmp_path):
    """systemd's daemon has its socket in the session's folder; cron knows only the home."""
    data, run = tmp_path / "data" / "synapsed", tmp_path / "run" / "synapsed"
    env = {
        "SYNAPSED_HOME": "",
        "XDG_DATA_HOME": str(data.parent),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    for folder in (data, run):
        folder.mkdir(parents=True)
        folder.parent.chmod(0o700)
    missing = await daemon.run("status", "--json", **env, XDG_RUNTIME_DIR=str(run.parent))
    assert missing.code == 3
    assert str(run) in missing.json["message"]
    (data / "control.sock").symlink_to(daemon.socket)
    assert (await daemon.run("status", **env, XDG_RUNTIME_DIR=str(run.parent))).code == 0
    assert (await daemon.run("status", **env, XDG_RUNTIME_DIR="")).code == 0


async def test_config_is_shown_without_a_daemon(tmp_path):
    ran = run_cli("config", "show", "--json", SYNAPSED_HOME=str(tmp_path))
    assert (ran.code, ran.err) == (0, "")
    assert same_shape(ran, models.ConfigReport).entries
    (tmp_path / "config.toml").write_text('network = "two words"\n')
    ran = run_cli("config", "show", "--json", SYNAPSED_HOME=str(tmp_path))
    assert (ran.code, ran.json["error"]) == (2, "bad-config")


async def test_doctor_works_without_a_daemon_and_fails_where_a_check_fails(daemon, tmp_path):
    alone = await daemon.run("doctor", "--json", SYNAPSED_HOME=str(tmp_path / "nowhere"))
    report = same_shape(alone, models.DoctorReport)
    assert alone.code == int(any(check.verdict == "fail" for check in report.checks)) == 1
    assert len(report.checks) >= 10
    plain = await daemon.run("doctor")
    assert plain.code == 0
    assert "forward port 4817" in plain.out


def test_doctor_examines_a_daemon_that_does_not_answer_from_outside(tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen(5)
        ran = run_cli("doctor", "--timeout", "0.5", "--json", SYNAPSED_HOME=str(tmp_path))
    names = {check.name for check in same_shape(ran, models.DoctorReport).checks}
    assert {"daemon", "control-socket", "disk"} <= names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_scripts(shell):
    script = run_cli("completion", shell)
    assert script.code == 0
    assert "synapsectl" in script.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.out.encode(), check=True)


def test_completion_completes():
    """What bash asks, with the words typed so far, is answered with our commands."""
    ran = run_cli(
        _SYNAPSECTL_COMPLETE="complete_bash", COMP_WORDS="synapsectl model p", COMP_CWORD="2"
    )
    assert set(ran.out.split()) == {"pull", "pin"}


async def test_completion_knows_names_and_ids(daemon, origin, big, tmp_path):
    node = daemon.node
    await daemon.run("model", "import", str(write_model(tmp_path / "mixture")))
    await daemon.run("model", "import", str(tmp_path / "mixture"), "--name", "two words")
    other = node.announce_shard("bafyrei" + "b" * 51 + "a")
    await daemon.run("announce", "proposal", "-", stdin=b'{"title": "t"}')
    own = (await daemon.run("announcements", "--kind", "proposal", "--json")).json
    node.gate.allow(0)
    job = (await daemon.run("model", "pull", cid_text(big), "--detach", "--json")).json["job"]
    held = (await daemon.run("model", "show", "mixture", "--json")).json["model"]["cid"]

    async def complete(*words: str, home: str = "") -> set[str]:
        ran = await daemon.run(
            _SYNAPSECTL_COMPLETE="complete_bash",
            COMP_WORDS=" ".join(("synapsectl", *words)),
            COMP_CWORD=str(len(words)),
            **({"SYNAPSED_HOME": home} if home else {}),
        )
        assert ran.err == ""
        return set(ran.out.split())

    assert await complete("model", "show") == {"show"}
    assert await complete("model", "show", "mix") == {"mixture"}
    assert await complete("model", "rm", held[:20]) == {held}
    assert await complete("model", "pull", "bafyreibb") == {other}
    assert "layer0.expert1" in await complete("model", "pull", "mixture", "--expert", "lay")
    assert await complete("ping", FRIEND[:12]) >= {FRIEND}
    assert await complete("withdraw", "baf") == {own["announcements"][0]["id"]}
    assert await complete("job", "cancel", str(job)) == {str(job)}
    assert await complete(
        "--home", str(daemon.folder), "model", "show", "mix", home="/nowhere"
    ) == {"mixture"}
    assert await complete("model", "show", "mix", home="/nowhere/at/all") == set()


def test_every_command_that_a_remedy_names_is_there():
    import typer.main

    commands = typer.main.get_command(cli_main.app).commands
    root = Path(cli_main.__file__).parent.parent
    named = set()
    for file in [*root.rglob("*.py"), DOCUMENT, *DOCUMENT.parent.parent.glob("*.md")]:
        named |= set(re.findall(r"synapsectl ((?:[a-z]+ ?)+)", file.read_text()))
    checked = 0
    for words in (each.split() for each in sorted(named)):
        group = commands.get(words[0])
        if group is None:
            assert words[0] in PROSE, words
            continue
        inner = getattr(group, "commands", None)
        assert inner is None or words[1] in inner, words
        checked += 1
    assert checked >= 20


def test_version_and_help():
    assert run_cli("--version").out.startswith("synapsectl ")
    assert "--json" in run_cli("peers", "--help").out


def test_start_is_quick():
    """`status` without a daemon makes all the imports of a real one: 0.3 s of CPU here."""
    best = min(_cpu_of("status", "--socket", "/nowhere/at/all") for _ in range(3))
    assert best < 0.6


def _cpu_of(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*CLI, *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 3
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_needs_no_http_client():
    program = (
        "import sys; sys.argv = ['synapsectl', '--help']\n"
        "from synapsed.cli.main import main\n"
        "main(); print('\\n', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"httpx", "trio", "libp2p", "torch", "fastapi"}
    assert Path(cli_main.__file__).name == "main.py"
