"""pol: 50 planted checkpoints of the tiny mixture of experts, judged as a council member judges.

One model is trained on Shakespeare; at four moments of that, checkpoints are planted: better ones
(trained on, a half or a twentieth as far, the mean of two learners'), worse ones (the contrary of a
twentieth of what was learned, noise, trained on noise, an expert lost, a step a thousand times too
long) and equal ones (the same bytes, experts under other numbers, values rounded to bfloat16,
trained at next to no rate).

Each is judged by the real rule: its proposal is opened on a ledger of four members and voted for,
the beacon draws its sample, the compute worker evaluates parent and child on that, members file
verdicts, and the outcome says. `wrong`: worse or equal ones that are accepted, better ones that
are not. What each is worth on the whole evaluation set is measured beside it: a planted class that
it does not bear out fails the bench.

Beside the 50: children that were trained on the evaluation set itself, with and without a member's
private text (`overfit_*`).

Every decision is kept in bench-out/pol: a bench that was ended goes on where it was.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import trio
from safetensors.torch import load_file, save_file

from protocols.learn.proof import holds, nanonats, overfits
from protocols.ledger.entries import Interval, Outcome, Verdict
from protocols.ledger.training import seed_of
from synapsed.compute.compute import Compute
from synapsed.compute.keeper import ComputeSettings
from synapsed.computeworker.newmodel import CONFIGS, published
from synapsed.training.scoring import CHILD, PARENT, Pair, Text, compare
from tests.ledger_book import MEMBERS, Book
from tests.training_book import checkpoint, drawn, ends, network, opened, voted

REACH = {"wrong": "<= 2", "decisions": ">= 50"}

TEXT = Path("tests") / "data" / "shakespeare.txt"
KEPT = Path("bench-out") / "pol"
CONTEXT, BATCH = 64, 8
WINDOWS, MARGIN = 512, 1000
"""Of the evaluation set's 1,742, and millionths of a nat."""
STAGES = (200, 500, 900, 1400)
RATE, FINER = 2e-3, 6e-4
"""AdamW's, of the parents, and of what is planted as better: at a parent's own rate the loss of a
model that has learned for long goes up and down."""
SEED = 11
EVALUATION, PROBE = 0.8, 0.9
"""Where in the text each begins; what is before is trained on."""

Weights = dict[str, torch.Tensor]
Say = Callable[[str], None]


class Planted(NamedTuple):
    """One checkpoint."""

    name: str
    parent: str
    what: str
    """better, worse or equal."""


# -- what is planted ---------------------------------------------------------------------------


class Trainer:
    """Trains the tiny model, from any weights."""

    def __init__(self, text: bytes) -> None:
        config = CONFIGS["tiny-moe"]()
        torch.manual_seed(SEED)
        from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

        self.module = MixtralForCausalLM(config)
        self.first = self.weights()
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()

    def weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def learned(
        self, begin: Weights, steps: int, seed: int, rate: float = RATE, text: Any = None
    ) -> Weights:
        """The weights after so many steps of AdamW."""
        text = self.text if text is None else text
        self.module.load_state_dict(begin)
        chance = torch.Generator().manual_seed(seed)
        outer = torch.optim.AdamW(self.module.parameters(), lr=rate, weight_decay=0.01)
        for _ in range(steps):
            at = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=chance)
            rows = torch.stack([text[one : one + CONTEXT + 1] for one in at])
            out = self.module(input_ids=rows[:, :-1], use_cache=False)
            loss = torch.nn.functional.cross_entropy(out.logits.transpose(1, 2), rows[:, 1:])
            (loss + 0.01 * out.aux_loss).backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            outer.step()
            outer.zero_grad()
        return self.weights()


def mixed(one: Weights, other: Weights, part: float) -> Weights:
    """`part` of the way from one to the other."""
    return {name: value + part * (other[name] - value) for name, value in one.items()}


def noisy(begin: Weights, seed: int, part: float) -> Weights:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: value + part * value.std() * torch.randn(value.shape, generator=chance)
        for name, value in begin.items()
    }


def without_expert(begin: Weights) -> Weights:
    """The first layer's first expert says nothing any more."""
    name = next(name for name in begin if name.endswith("experts.down_proj"))
    lost = begin[name].clone()
    lost[0] = 0
    return begin | {name: lost}


def renumbered(begin: Weights) -> Weights:
    """The same experts under other numbers: the same function, summed in another order."""
    changed = dict(begin)
    for name, value in begin.items():
        if "experts." in name or name.endswith("mlp.gate.weight"):
            changed[name] = value.flip(0).contiguous()
    return changed


def rounded(begin: Weights) -> Weights:
    return {name: value.bfloat16().float() for name, value in begin.items()}


def planted(trainer: Trainer) -> Iterator[tuple[Planted, Callable[[], Weights]]]:
    """All of them, parents first, each with how it is made."""
    made: dict[str, Weights] = {"parent 0": trainer.first}

    def base(stage: int, before: int) -> Weights:
        name = f"parent {stage}"
        if name not in made:
            made[name] = kept(
                name, lambda: trainer.learned(made[f"parent {before}"], stage - before, stage)
            )
        return made[name]

    noise = torch.randint(32, 127, (100_000,), generator=torch.Generator().manual_seed(SEED))
    yield (
        Planted("better from nothing", "parent 0", "better"),
        lambda: trainer.learned(trainer.first, 100, 1),
    )
    before = 0
    for stage in STAGES:
        begin, seed = base(stage, before), 10 * stage
        parent = f"parent {stage}"
        further = trainer_memo(trainer, begin, 120, seed)
        other = trainer_memo(trainer, begin, 120, seed + 1)
        for what, name, make in (
            ("better", "trained on", further),
            ("better", "a twentieth as far", lambda b=begin, f=further: mixed(b, f(), 0.05)),
            ("better", "half as far", lambda b=begin, f=further: mixed(b, f(), 0.5)),
            ("better", "mean of two", lambda f=further, o=other: mixed(f(), o(), 0.5)),
            ("worse", "contrary", lambda b=begin, f=further: mixed(b, f(), -0.05)),
            ("worse", "noise", lambda b=begin, s=seed: noisy(b, s, 0.05)),
            ("worse", "trained on noise",
             lambda b=begin, s=seed: trainer.learned(b, 10, s, text=noise)),
            ("worse", "without an expert", lambda b=begin: without_expert(b)),
            ("equal", "the same", lambda b=begin: b),
            ("equal", "renumbered", lambda b=begin: renumbered(b)),
            ("equal", "rounded", lambda b=begin: rounded(b)),
            ("equal", "trained at no rate",
             lambda b=begin, s=seed: trainer.learned(b, 20, s, rate=1e-8)),
        ):  # fmt: skip
            yield Planted(f"{name} {stage}", parent, what), make
        before = stage
    last = base(STAGES[-1], STAGES[-2])
    wild = trainer_memo(trainer, last, 120, 10 * STAGES[-1])
    yield (
        Planted("a thousand times too far", f"parent {STAGES[-1]}", "worse"),
        lambda: mixed(last, wild(), 1000.0),
    )


def trainer_memo(trainer: Trainer, begin: Weights, steps: int, seed: int) -> Callable[[], Weights]:
    found: list[Weights] = []

    def learned() -> Weights:
        if not found:
            found.append(
                kept(f"learned {seed}", lambda: trainer.learned(begin, steps, seed, FINER))
            )
        return found[0]

    return learned


def kept(name: str, make: Callable[[], Weights]) -> Weights:
    """Weights that were made once, also in a run before."""
    path = KEPT / f"{name}.weights"
    if not path.exists():
        part = path.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in make().items()}, part)
        part.rename(path)
    return load_file(path)


def written(name: str, weights: Weights) -> list[tuple[str, Path]]:
    """A model's files, as they are published."""
    folder = KEPT / name
    folder.mkdir(exist_ok=True)
    tensors = {key: value.contiguous() for key, value in published(weights).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(CONFIGS["tiny-moe"]().to_json_string())
    return [(each, folder / each) for each in ("config.json", "model.safetensors")]


# -- how it is judged --------------------------------------------------------------------------


async def judged(compute: Compute, pair: Pair, text: Text, name: str) -> tuple[Outcome, Interval]:
    """What the ledger says of a child that four members evaluate."""
    book = network()
    opened(book, windows=WINDOWS, margin=MARGIN)
    cid = voted(book, checkpoint(book, name))
    drawn(book, cid)
    seed = seed_of(book.state, cid)
    assert seed is not None
    found = await compare(compute, pair, text, windows=WINDOWS, seed=seed)
    verdicts(book, cid, found)
    (outcome,) = ends(book)
    return outcome, found


def verdicts(book: Book, cid: bytes, found: Interval) -> None:
    """Of members with machines alike: the worker is deterministic, so all measure the same."""
    good = holds(found, MARGIN)
    for member in MEMBERS:
        said = Verdict(proposal=cid, claim="improved", holds=good, interval=found)
        book.submit(member, said)


async def on_all(compute: Compute, pair: Pair, text: Text) -> int:
    """Millionths of a nat by which a child is better on all windows of a text."""
    await compute.open_model(PARENT, pair.parent)
    count = (await compute.evaluate(PARENT, text.path, text.context, ())).windows
    found = []
    for key, files in ((PARENT, pair.parent), (CHILD, pair.child)):
        await compute.open_model(key, files)
        losses: list[float] = []
        for at in range(0, count, 1024):
            these = range(at, min(at + 1024, count))
            losses += (await compute.evaluate(key, text.path, text.context, these)).losses
        await compute.close_model(key)
        found.append(nanonats(losses))
    return (sum(found[0]) - sum(found[1])) // count // 1000


def borne_out(what: str, gain: int) -> bool:
    """Whether a checkpoint is what it was planted as."""
    if what == "equal":
        return abs(gain) < MARGIN
    return gain >= 2 * MARGIN if what == "better" else gain < 0


class Decisions(dict[str, Any]):
    """By checkpoint; on disk as soon as one is made."""

    def __init__(self) -> None:
        self._path = KEPT / "decisions.json"
        super().__init__(json.loads(self._path.read_text()) if self._path.exists() else {})

    def __setitem__(self, name: str, decision: Any) -> None:
        super().__setitem__(name, decision)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self, indent=1) + "\n")
        part.rename(self._path)


def _texts() -> tuple[bytes, Text, Text]:
    text = TEXT.read_bytes()
    cuts = [int(part * len(text)) for part in (EVALUATION, PROBE)]
    parts = text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]
    for name, part in zip(("evaluation", "probe"), parts[1:], strict=True):
        (KEPT / f"{name}.txt").write_bytes(part)
    return (
        parts[0],
        Text(KEPT / "evaluation.txt", CONTEXT),
        Text(KEPT / "probe.txt", CONTEXT),
    )


async def _measure(say: Say, decisions: Decisions) -> None:
    train, evaluation, probe = _texts()
    trainer = Trainer(train)
    compute = Compute(lambda *_, **__: None, ComputeSettings(threads=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute.run)
        for each, make in planted(trainer):
            if each.name in decisions:
                continue
            pair = _pair(trainer, each, make)
            began = time.monotonic()
            outcome, found = await judged(compute, pair, evaluation, each.name)
            took = time.monotonic() - began
            gain = await on_all(compute, pair, evaluation)
            decisions[each.name] = {
                "what": each.what, "accepted": outcome.accepted, "gain": gain, "seconds": took,
                "interval": [found.low, found.mean, found.high],
            }  # fmt: skip
            say(f"{each.name} ({each.what}, {gain}): {found}: {outcome.reason}")
        await _overfitted(say, decisions, trainer, compute, (evaluation, probe))
        nursery.cancel_scope.cancel()


def _pair(trainer: Trainer, each: Planted, make: Callable[[], Weights]) -> Pair:
    parent = trainer.first if each.parent == "parent 0" else load_file(
        KEPT / f"{each.parent}.weights"
    )  # fmt: skip
    return Pair(written("a parent", parent), written("a child", make()))


async def _overfitted(
    say: Say,
    decisions: Decisions,
    trainer: Trainer,
    compute: Compute,
    texts: tuple[Text, Text],
) -> None:
    """Children of the last parent that learned the evaluation set by heart."""
    evaluation, probe = texts
    known = torch.frombuffer(bytearray(evaluation.path.read_bytes()), dtype=torch.uint8).long()
    parent = load_file(KEPT / f"parent {STAGES[-1]}.weights")
    for part in (8, 32):
        name = f"overfitted to 1/{part}"
        if name in decisions:
            continue
        text = known[: len(known) // part]
        child = trainer.learned(parent, 300, part, text=text)
        pair = Pair(written("a parent", parent), written("a child", child))
        on = Text(KEPT / "known.txt", CONTEXT)
        on.path.write_bytes(bytes(text.byte().numpy()))
        scored = {}
        for where, each in (("known", on), ("evaluation", evaluation), ("probe", probe)):
            await compute.open_model(PARENT, pair.parent)
            count = (await compute.evaluate(PARENT, each.path, CONTEXT, ())).windows
            wanted = min(WINDOWS, count)
            scored[where] = await compare(compute, pair, each, windows=wanted, seed=b"o%d" % part)
        decisions[name] = {
            "what": "overfitted",
            "better_on_known": holds(scored["known"], MARGIN),
            "worse_on_probe": overfits(scored["probe"]),
            "means": {where: each.mean for where, each in scored.items()},
        }
        say(f"{name}: {scored}")


def measure(say: Say) -> dict[str, Any]:
    """The bench's fields."""
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    decisions = Decisions()
    trio.run(_measure, say, decisions)
    judged_ = {name: each for name, each in decisions.items() if each["what"] != "overfitted"}
    false = [name for name, each in judged_.items() if not borne_out(each["what"], each["gain"])]
    if false:
        raise AssertionError(f"planted otherwise than was meant: {', '.join(false)}")
    wrong = [
        name for name, each in judged_.items() if each["accepted"] is not (each["what"] == "better")
    ]
    for name in wrong:
        say(f"wrong: {name}: {judged_[name]}")
    counts = {
        f"{what}_accepted": sum(
            each["accepted"] for each in judged_.values() if each["what"] == what
        )
        for what in ("better", "equal", "worse")
    }
    gains = [each["gain"] for each in judged_.values() if each["what"] == "better"]
    widths = [each["interval"][2] - each["interval"][0] for each in judged_.values()]
    overfitted = [each for each in decisions.values() if each["what"] == "overfitted"]
    return {
        "wrong": len(wrong),
        "decisions": len(judged_),
        **counts,
        "least_gain_accepted": min(
            (each["gain"] for each in judged_.values() if each["accepted"]), default=0
        ),
        "least_gain_planted": min(gains),
        "median_width": statistics.median(widths),
        "decision_s": round(statistics.median(each["seconds"] for each in judged_.values()), 2),
        "overfit_taken_for_better": sum(each["better_on_known"] for each in overfitted),
        "overfit_found_by_probe": sum(each["worse_on_probe"] for each in overfitted),
    }
