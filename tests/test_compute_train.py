"""Local training: by seed, exact in what is shared, and never in the way of a round."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from protocols.plan import Phase, Plan
from synapsed.compute import wire
from synapsed.compute.errors import (
    BadDataError,
    BadDeltaError,
    BadHeadError,
    BadModelError,
    DivergedError,
)
from synapsed.computeworker import codecs, kinds, outer, robust, rounds
from synapsed.computeworker.device import Device
from synapsed.computeworker.evaluate import losses_of
from synapsed.computeworker.files import ModelFiles, write_blob
from synapsed.computeworker.gate import CancelledError, Gate, Task
from synapsed.computeworker.groups import cut, head_of, read_version, values_of_model
from synapsed.computeworker.mapped import open_model
from synapsed.computeworker.tokens import ByteTokens
from synapsed.computeworker.train import Training
from synapsed.computeworker.trainable import sequences_at_once
from tests.compute_kit import PLAN, TEXT, Files, files_of, moe_config, small_moe, text_file

GRADIENT, LOCAL = PLAN.phases


def _given(files: Files) -> tuple[wire.ModelFile, ...]:
    return tuple(wire.ModelFile(name, str(path)) for name, path in files)


class Learner:
    """A training, and what the node would have beside it."""

    def __init__(self, folder: Path, files: Files, plan: Plan = PLAN, **options: Any) -> None:
        self.folder = folder
        wanted: dict[str, Any] = {"versions": {}, "seed": 1, "step": 0, "state": ""} | options
        text = folder / "text.txt"
        if not text.exists():
            text.write_bytes(TEXT)
        self.gate = Gate()
        self.training = Training(
            wire.LoadTraining(
                1,
                b"t",
                _given(files),
                wanted["versions"],
                str(text),
                plan,
                wanted["seed"],
                wanted["step"],
                wanted["state"],
            ),
            Device("cpu", 0, 1),
            self.gate,
            Task(),
        )

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(range(len(self.training.groups)))

    def train(self, steps: int, phase: Phase = LOCAL) -> tuple[float, ...]:
        return self.training.train(wire.Train(2, b"t", steps, phase), Task()).losses

    def encode(self, phase: Phase = LOCAL) -> dict[int, wire.Blob]:
        asked = wire.Encode(3, b"t", self.groups, phase, str(self.folder / "deltas"))
        return self.training.encode(asked, Task())

    def copy(self) -> torch.Tensor:
        """The copy that is trained, flat."""
        return torch.cat(
            [value for group in self.groups for value in self.training._now(group)]
        ).clone()

    def base(self) -> torch.Tensor:
        return self._all("base")

    def left(self) -> torch.Tensor:
        """What its deltas have not said."""
        return torch.cat([v for each in self.training._standing for v in each.left()])

    def _all(self, name: str) -> torch.Tensor:
        return torch.cat([v for each in self.training._standing for v in getattr(each, name)])


class Primary:
    """All groups' rounds, from files to files."""

    def __init__(self, folder: Path, files: Files, plan: Plan = PLAN) -> None:
        self.folder, self.plan = str(folder), plan
        groups = tuple(range(len(cut(ModelFiles(_given(files)).headers(), plan.group_bytes))))
        asked = wire.Cut(1, _given(files), plan.group_bytes, groups, self.folder)
        passage = Gate().passage(Task())
        self.passage = passage
        self.versions = {each.group: each for each in rounds.make_versions(asked, passage)}
        self.states: dict[int, str] = dict.fromkeys(groups, "")

    def round(self, number: int, deltas: list[dict[int, wire.Blob]]) -> dict[int, wire.Aggregated]:
        """One round of every group."""
        done = {}
        for group, before in self.versions.items():
            inputs = tuple(wire.Given(each[group].path, 1) for each in deltas)
            asked = wire.Aggregate(
                4, self.plan, number, group, before.path, self.states[group], inputs, self.folder
            )
            made = rounds.aggregate(asked, self.passage)
            assert made.state is not None
            self.versions[group], self.states[group] = made.version, made.state.path
            done[group] = made
        return done


def _apply(learner: Learner, done: dict[int, wire.Aggregated]) -> None:
    for group, made in done.items():
        learner.training.apply(group, made.result.path, made.version.head)


@pytest.mark.parametrize("kind", ["mixtral", "olmoe"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_copy_is_the_model_and_its_versions_are_the_tiles(
    tmp_path: Path, kind: str, fused: bool
) -> None:
    files = small_moe(tmp_path / "m", kind, fused=fused)
    learner = Learner(tmp_path, files)
    mapped = open_model(ModelFiles(_given(files)), Device("cpu", 0, 1))
    text = ByteTokens().encode(TEXT)
    with learner.training.at_base(Task()) as module:
        own = losses_of(module, text, 32, range(8), lambda: None)
    assert own == pytest.approx(
        losses_of(mapped.module, text, 32, range(8), lambda: None), rel=1e-6
    )
    primary = Primary(tmp_path / "v", files)
    assert [primary.versions[group].head for group in learner.groups] == learner.training.heads()
    assert learner.training.parameters == mapped.parameters


def test_a_seed_decides_all_steps_and_another_reads_other_text(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    a, b, c = (Learner(tmp_path, files, seed=seed) for seed in (1, 1, 2))
    losses = [each.train(6) for each in (a, b, c)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(a.copy(), b.copy())
    assert not torch.equal(a.copy(), c.copy())
    assert a.train(30)[-1] < losses[0][0] - 1  # it learns
    assert [each.digest for each in b.encode().values()] != [
        each.digest for each in c.encode().values()
    ]


def test_learners_of_a_round_end_with_the_same_versions_to_the_bit(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learners = [Learner(tmp_path, files, seed=seed) for seed in (1, 2, 3)]
    primary = Primary(tmp_path / "r", files)
    first: float | None = None
    for number in range(5):
        phase = PLAN.phase_of(number)
        losses = [learner.train(phase.steps, phase) for learner in learners]
        first = first or losses[0][0]
        done = primary.round(number, [learner.encode(phase) for learner in learners])
        for learner in learners:
            _apply(learner, done)
        heads = [done[group].version.head for group in learners[0].groups]
        assert all(learner.training.heads() == heads for learner in learners)
        assert all(torch.equal(each.copy(), each.base() - each.left()) for each in learners)
        assert all(each.left().any() == (phase.steps > 1) for each in learners)
        assert all(sum(made.shares) > 900 for made in done.values())
    assert losses[0][-1] < first - 0.5
    late = Learner(
        tmp_path, files, versions={group: each.path for group, each in primary.versions.items()}
    )
    assert late.training.heads() == heads


def test_steps_that_were_done_while_a_round_was_open_are_kept(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)
    learner.train(3)
    done = primary.round(2, [learner.encode()])
    taken = learner.copy()
    learner.train(2)
    ahead = learner.copy() - taken
    assert ahead.abs().max() > 0
    _apply(learner, done)
    assert torch.equal(learner.copy(), learner.base() - learner.left() + ahead)
    # The next delta has them, and what the first encoding left; not the first steps again.
    done = primary.round(3, [learner.encode()])
    _apply(learner, done)
    assert torch.equal(learner.copy(), learner.base() - learner.left())


def test_what_nobody_took_comes_with_the_next_delta(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    plan = Plan(
        phases=(Phase(1, 4, "fp32", "fp32"),),
        **{name: getattr(PLAN, name) for name in PLAN.__struct_fields__ if name != "phases"},
    )
    exact = plan.phases[0]
    learner = Learner(tmp_path, files, plan)
    before = learner.copy()
    learner.train(2, exact)
    learner.encode(exact)
    learner.training.take_back(learner.groups)
    learner.train(2, exact)
    second = learner.encode(exact)
    for group in learner.groups:
        sizes = [tile.count for tile in learner.training.groups[group].tiles]
        said = torch.cat(codecs.decode(Path(second[group].path).read_bytes(), sizes))
        now = torch.cat(learner.training._now(group))
        start = sum(each.elements for each in learner.training.groups[:group])
        expected = before[start : start + said.numel()] - now
        assert torch.allclose(said, expected, atol=1e-6)
        assert said.abs().max() > 1e-4


def test_a_result_that_leads_elsewhere_moves_nothing(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)
    learner.train(2)
    done = primary.round(2, [learner.encode()])[0]
    base, copy = learner.base(), learner.copy()
    with pytest.raises(BadHeadError):
        learner.training.apply(0, done.result.path, bytes(32))
    junk = write_blob(str(tmp_path), [b"SYD1 and then nonsense"])
    with pytest.raises(BadDeltaError):
        learner.training.apply(0, junk.path, done.version.head)
    with pytest.raises(BadHeadError):
        learner.training.replace(0, done.version.path, bytes(32))
    with pytest.raises(BadModelError):
        learner.training.replace(1, done.version.path, done.version.head)
    with pytest.raises(BadDataError, match="group 99"):
        learner.training.apply(99, done.result.path, done.version.head)
    assert torch.equal(learner.base(), base)
    assert torch.equal(learner.copy(), copy)
    learner.training.replace(0, done.version.path, done.version.head)
    assert learner.training.heads()[0] == done.version.head


def test_a_training_goes_on_after_a_pause_as_if_there_had_been_none(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)
    for number in (2, 3):
        learner.train(4)
        _apply(learner, primary.round(number, [learner.encode()]))
    state = str(tmp_path / "state")
    learner.training.save(state)
    versions = {group: each.path for group, each in primary.versions.items()}
    resumed = Learner(tmp_path, files, versions=versions, state=state)
    fresh = Learner(tmp_path, files, versions=versions, step=8)
    assert resumed.training.step == 8
    losses = learner.train(4)
    assert resumed.train(4) == losses
    assert {g: b.digest for g, b in resumed.encode().items()} == {
        g: b.digest for g, b in learner.encode().items()
    }
    fresh.train(4)  # the same text, without AdamW's moments and what was left
    assert fresh.training.step == learner.training.step == 12
    assert not torch.equal(fresh.copy(), learner.copy())
    other = small_moe(tmp_path / "o", "olmoe")
    with pytest.raises(BadModelError, match="not the state"):
        Learner(tmp_path, other, state=state)
    Path(state).write_bytes(b"junk")
    with pytest.raises(BadModelError, match="delete it"):
        Learner(tmp_path, files, state=state)


def test_a_training_that_runs_away_says_so_and_is_back_at_its_base(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner = Learner(tmp_path, files)
    learner.train(1)
    with torch.no_grad():
        learner.training.module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 1"):
        learner.train(1)
    assert torch.equal(learner.copy(), learner.base())
    assert len(learner.train(2)) == 2
    with torch.no_grad():
        learner.training.module.model.norm.weight.fill_(float("inf"))
    with pytest.raises(DivergedError):
        learner.encode()
    assert torch.equal(learner.copy(), learner.base())


def test_a_cancelled_training_stops_and_goes_on_later(tmp_path: Path) -> None:
    learner = Learner(tmp_path, small_moe(tmp_path / "m"))
    task = Task()

    def cancel(*_: object) -> None:
        task.cancelled = True

    hook = learner.training.module.lm_head.register_forward_hook(cancel)
    with pytest.raises(CancelledError):
        learner.training.train(wire.Train(2, b"t", 50, LOCAL), task)
    hook.remove()
    assert learner.training.step == 0
    assert len(learner.train(2)) == 2


def test_inputs_that_are_no_deltas_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)
    learner.train(2)
    good = learner.encode()
    junk = {group: write_blob(str(tmp_path), [os.urandom(200)]) for group in learner.groups}
    base = primary.versions[0].path
    rounds.check_delta(wire.CheckDelta(1, base, good[0].path))
    with pytest.raises(BadDeltaError):
        rounds.check_delta(wire.CheckDelta(1, base, junk[0].path))
    with pytest.raises(BadDeltaError):  # another group's
        rounds.check_delta(wire.CheckDelta(1, base, good[1].path))
    alone = Primary(tmp_path / "a", files).round(2, [good])
    mixed = primary.round(2, [junk, good, junk])
    for group in learner.groups:
        assert mixed[group].bad == (0, 2)
        assert mixed[group].shares == (0, *alone[group].shares, 0)
        assert mixed[group].result.digest == alone[group].result.digest
    with pytest.raises(BadDeltaError, match="none of 1"):
        primary.round(3, [junk])


def test_a_round_is_not_made_from_an_outer_state_that_was_cut_off(tmp_path: Path) -> None:
    """Whoever begins from nothing must say so, by giving none."""
    files = small_moe(tmp_path / "m")
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)
    learner.train(2)
    first = primary.round(2, [learner.encode()])
    _apply(learner, first)
    learner.train(2)
    deltas = [learner.encode()]
    states, versions = dict(primary.states), dict(primary.versions)
    kept = primary.round(3, deltas)
    whole = Path(states[0]).read_bytes()
    primary.states, primary.versions = dict.fromkeys(states, ""), dict(versions)
    fresh = primary.round(3, deltas)
    for cut_off in (b"", whole[:100]):
        Path(states[0]).write_bytes(cut_off)
        primary.states, primary.versions = dict(states), dict(versions)
        with pytest.raises(BadModelError):
            primary.round(3, deltas)
    assert fresh[0].result.digest != kept[0].result.digest


def test_an_outer_state_without_momentum_is_half_as_large_and_as_good(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    plain = msgspec.structs.replace(PLAN, outer_momentum=0)
    learner, primary = Learner(tmp_path, files, plain), Primary(tmp_path / "r", files, plain)
    sizes = [tile.count for tile in learner.training.groups[0].tiles]
    beside = outer.Outer.start(sizes)
    for number in (2, 3, 4):
        learner.train(2)
        deltas = learner.encode()
        _, base = read_version(primary.versions[0].path)
        mean = robust.aggregate([codecs.decode(Path(deltas[0].path).read_bytes(), sizes)]).mean
        result = beside.step(plain, number, mean, base)
        done = primary.round(number, [deltas])
        assert Path(done[0].result.path).read_bytes() == result
        _apply(learner, done)
    kept = Path(primary.states[0]).read_bytes()
    assert b"velocity" not in kept
    assert len(kept) < 0.6 * len(beside.save())


def test_a_regions_sum_is_the_same_for_whoever_repeats_it(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learners = [Learner(tmp_path, files, seed=seed) for seed in (1, 2, 3)]
    for learner in learners:
        learner.train(2)
    deltas = [learner.encode()[0] for learner in learners]
    primary = Primary(tmp_path / "r", files)
    base = primary.versions[0].path

    def combined(paths: list[str], folder: str, carry: str = "") -> wire.Combined:
        given = tuple(wire.Given(path, 1) for path in paths)
        asked = wire.Combine(1, PLAN, 2, base, given, carry, str(tmp_path / folder))
        return rounds.combine(asked, primary.passage)

    paths = [delta.path for delta in deltas]
    found = combined(paths, "a")
    assert found.delta.digest == combined(paths, "b").delta.digest
    junk = write_blob(str(tmp_path), [os.urandom(300)]).path
    assert combined([*paths[:1], junk, *paths[1:]], "c").bad == (1,)

    def values(*blobs: wire.Blob) -> torch.Tensor:
        sizes = [tile.count for tile in learners[0].training.groups[0].tiles]
        each = [codecs.decode(Path(blob.path).read_bytes(), sizes) for blob in blobs]
        return sum(torch.cat(tiles) for tiles in each)  # type: ignore[return-value]

    # What a sum leaves out comes with the next one: together they say twice the mean.
    after = combined(paths, "e", carry=found.left.path)
    assert after.delta.digest == combined(paths, "f", carry=found.left.path).delta.digest
    twice = values(found.delta, after.delta, after.left)
    mean = values(found.delta, found.left)
    assert torch.allclose(twice, 2 * mean, atol=0.02 * float(mean.abs().max()))
    assert values(found.left).abs().max() > 0
    with pytest.raises(BadDeltaError):
        combined(paths, "g", carry=junk)

    def same(one: str, other: str) -> bool:
        return rounds.compare(wire.Compare(1, base, one, other)).same

    assert same(found.delta.path, combined(paths, "d").delta.path)
    assert not same(found.delta.path, paths[0])
    assert not same(junk, junk)


def test_a_checkpoint_has_its_parents_shape_and_its_versions_values(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m", dtype="BF16", shards=2)
    learner, primary = Learner(tmp_path, files), Primary(tmp_path / "r", files)

    def write(folder: Path) -> Files:
        versions = {group: each.path for group, each in primary.versions.items()}
        asked = wire.WriteModel(5, _given(files), PLAN.group_bytes, versions, str(folder))
        rounds.write_model(asked, primary.passage)
        return files_of(folder)

    for (name, path), (_, parent) in zip(write(tmp_path / "same"), files, strict=True):
        assert path.read_bytes() == parent.read_bytes(), name
    learner.train(4)
    _apply(learner, primary.round(2, [learner.encode()]))
    child = write(tmp_path / "child")
    assert [name for name, _ in child] == [name for name, _ in files]
    model = ModelFiles(_given(child))
    for group in learner.training.groups:
        for value, exact in zip(
            values_of_model(group, model),
            learner.training._standing[group.number].base,
            strict=True,
        ):
            assert torch.equal(value, exact.to(torch.bfloat16).to(torch.float32))
    escaping = (wire.ModelFile("../evil", str(tmp_path / "text.txt")), *_given(files))
    with pytest.raises(BadModelError, match="evil"):
        rounds.write_model(
            wire.WriteModel(5, escaping, PLAN.group_bytes, {}, str(tmp_path / "x")), primary.passage
        )


def test_a_change_that_changes_nothing_scores_exactly_nothing(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    learner = Learner(tmp_path, files)
    learner.train(3)
    text = ByteTokens().encode(TEXT)
    found = []
    for _ in range(2):
        with learner.training.at_base(Task()) as module:
            found.append(losses_of(module, text, 32, range(40), lambda: None))
        learner.train(1)
    assert found[0] == found[1]


def test_parts_of_a_batch_come_to_the_same_gradient(tmp_path: Path) -> None:
    """Large models read a batch in parts, so that nobody waits for the whole of it."""
    files = small_moe(tmp_path / "m")
    whole, parts = Learner(tmp_path, files), Learner(tmp_path, files)
    assert whole.training._at_once == PLAN.batch
    parts.training._at_once = 1
    for learner in (whole, parts):  # the routers' balance is that of a part
        learner.training.module.config.router_aux_loss_coef = 0.0
    assert parts.train(1, GRADIENT) == pytest.approx(whole.train(1, GRADIENT), rel=1e-5)
    for one, other in zip(
        whole.training._inner.parameters, parts.training._inner.parameters, strict=True
    ):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6)
    large = moe_config(hidden_size=2048, intermediate_size=2048, num_experts_per_tok=8)
    config = kinds.read_config(json.dumps(large).encode())
    assert sequences_at_once(config, 32, 512, Device("cpu", 0, 1)) == 1


def test_a_versions_file_says_which_tiles_it_has(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    primary = Primary(tmp_path / "r", files)
    version = primary.versions[0]
    tiles, values = read_version(version.path)
    assert head_of(tiles, values) == version.head
    with pytest.raises(BadModelError, match="no version"):
        read_version(str(dict(files)["model.safetensors"]))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"x" * PLAN.context)
    with pytest.raises(BadDataError, match="one sequence"):
        Learner(tmp_path, small_moe(tmp_path / "m"))
    text_file(tmp_path, b"x" * (PLAN.context + 1))
    assert Learner(tmp_path, files_of(tmp_path / "m")).train(1)
