"""model new|eval, generate, train propose|join|status|leave|checkpoint, and their paths."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from protocols.cid import cid_of, cid_text
from synapsed.control import ledgermodels
from synapsed.control import models as shapes
from synapsed.training import said
from synapsed.training.opening import plan_of
from tests.control_fixtures import daemon_fixture, origin_fixture  # noqa: F401
from tests.control_learning import PIECES
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
    assert (broken.code, broken.json["error"]) == (5, "cannot-learn")
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
        ("learners = 0", "cannot-learn", "learners"),
        (
            '[[phases]]\nrounds = 1\nsteps = 0\nup = "int8"\ndown = "int8"',
            "cannot-learn",
            "phases[0].steps",
        ),
        (
            '[[phases]]\nrounds = 1\nsteps = 5\nup = "int9"\ndown = "int8"',
            "invalid",
            "plan.phases[0].up",
        ),
        ("lerners = 4", "invalid", "lerners"),
        ("phases = []", "cannot-learn", "phases"),
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
