"""model new|eval, generate, train propose|join|status|leave|checkpoint, and their paths."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from protocols.changes import CheckpointChange, ExclusionChange, Share, TrainingChange
from protocols.cid import cid_of, cid_text
from protocols.peerid import peer_id_text
from synapsed.cli import common
from synapsed.cli.learnchange import learning_rows
from synapsed.compute import errors
from synapsed.control import ledgermodels, problems
from synapsed.control import models as shapes
from synapsed.control.entryview import change_shown
from synapsed.training import said
from synapsed.training.errors import BadTextError, CannotLearnError
from synapsed.training.opening import plan_of
from synapsed.training.planwords import phases_in_words, plan_in_words
from tests.control_fixtures import daemon_fixture, origin_fixture  # noqa: F401
from tests.control_learning import PIECES
from tests.ledger_book import MEMBERS
from tests.test_cli_commands import same_shape

MODEL = cid_text(cid_of(b"a lineage"))


@pytest.fixture(name="text")
def text_fixture(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("To be, or not to be")
    return path


async def test_a_model_is_made(daemon):
    made = same_shape(
        await daemon.run("model", "new", "tiny-moe", "--name", "toy", "--seed", "3", "--json"),
        shapes.ImportResult,
    )
    assert made.name == "toy"
    assert daemon.node.asked_to_learn == [said.NewModelRequest(kind="tiny-moe", seed=3, name="toy")]
    wrong = await daemon.run("model", "new", "huge", "--json")
    assert (wrong.code, wrong.json["remedy"]) == (1, "there is tiny-moe")


async def test_text_comes_as_it_is_written_and_moves_no_cursor(daemon):
    ran = await daemon.run("generate", MODEL, "Once", "--seed", "5", "--temperature", "0")
    assert ran.code == 0
    assert ran.out == "".join(PIECES).replace("\x1b", "\N{REPLACEMENT CHARACTER}") + "\n"
    (asked,) = daemon.node.asked_to_learn
    assert (asked.prompt, asked.seed, asked.temperature) == ("Once", 5, 0)
    found = same_shape(await daemon.run("generate", MODEL, "Once", "--json"), said.Generated)
    assert found.text == "".join(PIECES)


async def test_pieces_are_events_of_their_own(daemon):
    async with (
        daemon.http() as http,
        http.stream("POST", f"/v1/models/{MODEL}/generate", json={"prompt": "x"}) as answer,
    ):
        lines = [line async for line in answer.aiter_lines()]
    assert answer.headers["content-type"] == "text/event-stream"
    kinds = [line for line in lines if line.startswith("event: ")]
    assert kinds == ["event: piece"] * len(PIECES) + ["event: result"]


async def test_what_goes_wrong_is_said_before_the_first_piece_and_after_it(daemon):
    broken = await daemon.run("generate", MODEL, "break", "--json")
    assert (broken.code, broken.json["error"]) == (1, "cannot-learn")
    daemon.node.paused = True
    paused = await daemon.run("generate", MODEL, "x", "--json")
    assert paused.json["error"] == "compute-paused"
    assert "synapsectl resume" in paused.json["remedy"]


async def test_a_model_is_measured(daemon, text):
    arguments = ("model", "eval", MODEL, "--data", str(text), "--windows", "8")
    found = same_shape(await daemon.run(*arguments, "--json"), said.Evaluated)
    assert found.windows == 8
    plain = (await daemon.run(*arguments)).out
    assert "2.2500 nats a token" in plain
    assert "2.2000 to 2.3000" in plain


async def test_one_joins_sees_how_it_goes_and_leaves(daemon, text):
    before = await daemon.run("train", "join", MODEL, "--data", str(text), "--json")
    assert (before.code, before.json["error"]) == (1, "no-training")
    assert (await daemon.run("train", "status")).out.splitlines()[-1].startswith("no trainings")
    daemon.node.open_training(MODEL)
    gone = await daemon.run("train", "join", MODEL, "--data", str(text) + "x", "--json")
    assert gone.json["error"] == "unknown"
    joined = same_shape(
        await daemon.run("train", "join", MODEL, "--data", str(text), "--every", "20", "--json"),
        said.TrainingSaid,
    )
    assert joined.joined
    (asked,) = daemon.node.asked_to_learn
    assert (asked.data, asked.checkpoint_every) == (str(text), 20)
    status = same_shape(await daemon.run("train", "status", "--json"), said.TrainStatus)
    assert [each.loss for each in status.trainings] == [2.5]
    table = (await daemon.run("train", "status")).out
    assert "2.5000" in table
    assert "1/1" in table
    detail = (await daemon.run("train", "status", MODEL)).out
    assert "H=15 up=two-bit down=two-bit" in detail
    assert " 2.1 " in detail
    assert "0.0345" in detail
    left = same_shape(await daemon.run("train", "leave", MODEL, "--json"), said.TrainingSaid)
    assert not left.joined
    twice = await daemon.run("train", "leave", MODEL, "--json")
    assert twice.json["error"] == "not-joined"


async def test_trainings_are_listed_with_their_plans_in_words(daemon):
    none = await daemon.run("train", "ls")
    assert none.out.startswith("no trainings")
    daemon.node.open_training(MODEL)
    found = same_shape(await daemon.run("train", "ls", "--json"), said.TrainStatus)
    assert [each.learners for each in found.trainings] == [5]
    titles, row, plan = (await daemon.run("train", "ls")).out.splitlines()
    assert titles.split() == ["TRAINING", "NAME", "HEAD", "VERSION", "LEARNERS", "HERE"]
    assert row.split() == [MODEL[:16], "toy", "the", "first", "7", "5", "1/1", "served"]
    assert len(row) <= 80
    assert plan == f"{MODEL[:16]}: 4 steps a round, ternary"


@pytest.mark.parametrize("name", ["toy", MODEL[:12], MODEL])
async def test_a_training_is_named_although_its_model_is_not_here(daemon, name):
    daemon.node.open_training(MODEL)
    assert MODEL in (await daemon.run("train", "status", name)).out
    missing = await daemon.run("train", "status", "toys", "--json")
    assert (missing.code, missing.json["error"]) == (1, "no-such-name")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PausedError(), 5),
        (errors.RestingError("it died"), 5),
        (errors.OutOfMemoryError("too little"), 5),
        (errors.NotInstalledError("no torch"), 1),
        (errors.BadDataError("too short"), 1),
        (CannotLearnError("learned already"), 1),
        (BadTextError("no text"), 1),
    ],
)
async def test_a_join_that_is_refused_exits_as_the_manual_says(
    daemon, text, monkeypatch, error, code
):
    daemon.node.open_training(MODEL)

    async def refuse(_request, _report):
        raise error

    monkeypatch.setattr(daemon.node, "train_join", refuse)
    ran = await daemon.run("train", "join", MODEL, "--data", str(text), "--json")
    assert (ran.code, ran.json["error"]) == (code, error.code)
    assert problems.status_of(error) != 500  # which would be a defect of ours
    assert ran.json["remedy"] == error.remedy


def test_who_ends_the_waiting_is_told_what_goes_on():
    assert "train leave" in common._AFTER_INTERRUPT["join"]


def test_a_plan_is_told_in_words():
    def phase(rounds, steps, up="ternary", down="ternary", rate=1000):
        return said.PhaseSaid(rounds=rounds, steps=steps, up=up, down=down, rate=rate)

    plan = plan_of(
        said.PlanSaid(
            phases=[
                phase(15, 4),
                phase(210, 4, rate=500),
                phase(1, 15, up="two-bit", down="int8"),
            ],
            learners=3,
        )
    )
    assert phases_in_words(plan) == (
        "4 steps a round, ternary; from round 225 15 steps, two-bit up, int8 down"
    )
    assert plan_in_words(plan).endswith(
        "8 x 64 tokens a step, rate 0.004; a round waits for 3 learners"
    )
    assert phases_in_words(plan_of(said.PlanSaid(phases=[phase(1, 1)]))).startswith("a gradient")


def test_what_a_proposal_would_do_is_told_in_words_and_units():
    lineage, child = cid_of(b"a lineage"), cid_of(b"child")
    opened = TrainingChange(
        model=lineage, plan=plan_of(None), evaluation=cid_of(b"text"), windows=64, margin=2000
    )
    rows = dict(learning_rows("training", change_shown(opened)))
    assert rows["plan"] == plan_in_words(plan_of(None))
    assert rows["groups"] == "of 2.1 MB at most"
    assert rows["judged by"] == f"64 windows of {cid_text(cid_of(b'text'))}"
    assert rows["better by"].startswith("0.002 nats a token")
    made = CheckpointChange(
        training=lineage,
        parent=lineage,
        manifest=child,
        evidence=cid_of(b"rounds"),
        heads=bytes(32),
        shares=(Share(MEMBERS[0].identity, 300), Share(MEMBERS[1].identity, 700)),
    )
    rows = learning_rows("checkpoint", change_shown(made))
    assert rows[2] == ("checkpoint", cid_text(child))
    who = peer_id_text(MEMBERS[1].identity)[:18]
    assert next(line for name, line in rows if name == "learned by") == f"{who}, 70.0 %"
    assert learning_rows("text", {}) is None


async def test_a_training_is_proposed_by_a_plan_from_a_file(daemon, text, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'learners = 3\n[[phases]]\nrounds = 1\nsteps = 15\nup = "two-bit"\ndown = "int8"\n'
    )
    arguments = ("train", "propose", MODEL, "--evaluation", str(text), "--plan", str(plan))
    done = same_shape(await daemon.run(*arguments, "--json"), ledgermodels.Submitted)
    assert done.subject is not None
    ((_, asked, wait),) = daemon.node.asked_to_learn
    assert wait
    assert asked.plan.learners == 3
    assert asked.plan.phases[0].down == "int8"
    assert f"proposal vote {done.subject[:16]} yes" in (await daemon.run(*arguments)).out


@pytest.mark.parametrize(
    ("plan", "code", "names"),
    [
        ("learners = 0", "invalid", "learners"),
        (
            '[[phases]]\nrounds = 1\nsteps = 0\nup = "int8"\ndown = "int8"',
            "invalid",
            "phases[0].steps",
        ),
        (
            '[[phases]]\nrounds = 1\nsteps = 5\nup = "int9"\ndown = "int8"',
            "invalid",
            "plan.phases[0].up",
        ),
        (
            '[[phases]]\nrounds = 1\nsteps = 1\nup = "top-k"\ndown = "int8"',
            "bad-plan",
            "gradients",
        ),
        ("lerners = 4", "invalid", "lerners"),
        ("phases = []", "invalid", "phases"),
    ],
)
async def test_a_wrong_plan_is_refused_by_name(daemon, text, tmp_path, plan, code, names):
    path = tmp_path / "plan.toml"
    path.write_text(plan)
    arguments = ("train", "propose", MODEL, "--evaluation", str(text), "--plan", str(path))
    ran = await daemon.run(*arguments, "--json")
    assert ran.json["error"] == code
    assert names in ran.json["message"]
    assert daemon.node.asked_to_learn == []


async def test_a_checkpoint_is_proposed(daemon):
    daemon.node.open_training(MODEL)
    found = same_shape(
        await daemon.run("train", "checkpoint", MODEL, "--text", "better", "--no-wait", "--json"),
        said.CheckpointSaid,
    )
    assert (found.parent, found.round) == (MODEL, 7)
    ((asked, wait),) = daemon.node.asked_to_learn
    assert (asked.description, wait) == ("better", False)
    assert found.proposal in (await daemon.run("train", "checkpoint", MODEL)).out


def test_the_manuals_plan_is_one():
    manual = (Path(__file__).parents[1] / "docs" / "learning.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", manual, re.DOTALL)
    given = msgspec.convert(tomllib.loads(text), said.PlanSaid)
    assert None not in msgspec.structs.astuple(given)  # every field of a plan is shown
    plan = plan_of(given)
    assert [phase.steps for phase in plan.phases] == [4, 8]
    assert plan.phases[1].rate == 250


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("training/{}/propose", {"evaluation": "{}", "windows": 31}),
        ("training/{}/propose", {"evaluation": "{}", "margin": 0}),
        ("models/{}/evaluate", {"data": "{}", "windows": -1}),
        ("models/{}/generate", {"prompt": "x", "max_tokens": 0}),
        ("models/{}/generate", {"prompt": "x", "temperature": 11}),
        ("models/{}/generate", {"prompt": "x", "seed": -1}),
    ],
)
async def test_what_nobody_could_do_is_refused_at_the_door(daemon, text, path, asked):
    asked = {key: str(text) if value == "{}" else value for key, value in asked.items()}
    async with daemon.http() as http:
        answer = await http.post(f"/v1/{path.format(MODEL)}", json=asked)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    assert list(asked)[-1] in answer.json()["message"]
    assert daemon.node.asked_to_learn == []


@pytest.mark.parametrize(
    "words",
    [
        ("train", "propose", MODEL, "--evaluation", "x", "--windows", "31"),
        ("train", "propose", MODEL, "--evaluation", "x", "--margin", "0"),
        ("model", "new", "tiny-moe", "--seed", "-1"),
        ("model", "new", "tiny-moe", "--seed", "9223372036854775808"),
        ("generate", MODEL, "x", "--seed", "9223372036854775808"),
    ],
)
async def test_a_wrong_number_is_wrong_usage(daemon, words):
    ran = await daemon.run(*words)
    assert ran.code == 2
    assert words[-2] in ran.err
    assert daemon.node.asked_to_learn == []


@pytest.mark.parametrize(
    ("round_", "code", "words"),
    [("0", 0, "right: its inputs make"), ("1", 1, "WRONG: head, inputs"), ("9", 5, "no record")],
)
async def test_a_round_is_audited(daemon, round_, code, words):
    daemon.node.open_training(MODEL)
    asked = ("train", "audit", MODEL, "--group", "2", "--round", round_)
    ran = await daemon.run(*asked)
    assert ran.code == code
    assert words in ran.out
    assert daemon.node.asked_to_learn == [said.AuditRequest(group=2, round=int(round_))]
    told = await daemon.run(*asked, "--json")
    assert told.code == code
    assert msgspec.json.decode(told.out, type=said.AuditSaid).epoch == 3


def test_an_exclusion_is_told_in_words():
    change = ExclusionChange(
        training=cid_of(b"model"),
        accused=MEMBERS[0].identity,
        epoch=7,
        case=cid_of(b"case"),
        evidence=cid_of(b"evidence"),
    )
    rows = learning_rows("exclusion", change_shown(change))
    assert ("accused", peer_id_text(MEMBERS[0].identity)) in rows
    text = " ".join(value for _, value in rows)
    assert "epoch 7" in text
    assert "8 epochs" in text
    assert "50 %" in text
