"""Bugs in how checkpoints are judged, and in who earns by them."""

from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Change, Mutant

EVIDENCE = "protocols/learn/evidence.py"
PROOF = "protocols/learn/proof.py"
TRAINING = "protocols/ledger/training.py"


def _mutant(name: str, drops: str, file: str, old: str, new: str, area: str) -> Mutant:
    """`area` is a test file, tests/test_AREA.py."""
    return Mutant(name, drops, (Change(file, old, new),), (NamedTests((f"tests/test_{area}.py",)),))


JUDGING_MUTANTS = (
    _mutant(
        "checkpoint-by-a-majority",
        "more than two thirds of the seats must find a checkpoint better",
        TRAINING,
        "    needed = len(entry.seats) * 2 // 3 + 1\n",
        "    needed = len(entry.seats) // 2 + 1\n",
        "ledger_training",
    ),
    _mutant(
        "checkpoint-by-any-council",
        "a checkpoint is judged by the council whose beacon draws its sample, and no other",
        TRAINING,
        "    council = state.council_of(terms.drawn)\n"
        "    return council is not None and council.seat_of(member) is not None\n",
        "    return state.council.seat_of(member) is not None\n",
        "ledger_training",
    ),
    _mutant(
        "sample-known-before",
        "the sample is drawn by a beacon whose secrets are hidden when a checkpoint is proposed",
        TRAINING,
        "    return state.epoch + (1 if state.time < begins else 2)\n",
        "    return state.epoch + 1\n",
        "ledger_training",
    ),
    _mutant(
        "verdict-above-its-interval",
        "nobody finds more than its own interval shows",
        TRAINING,
        "    if said.holds and said.interval.low < state.trainings[change.training].margin:\n",
        "    if said.holds and said.interval.low < 0:\n",
        "ledger_training",
    ),
    _mutant(
        "judged-by-another-plan",
        "a checkpoint is judged by the plan that was in force when it was proposed",
        TRAINING,
        "        state.trainings[change.training].index < terms.index\n",
        "        state.trainings[change.training].index > 0\n",
        "ledger_training",
    ),
    _mutant(
        "gain-by-the-loudest",
        "what is remembered of a gain is within what honest members measured",
        TRAINING,
        "    middle = (len(intervals) - 1) // 2\n",
        "    middle = len(intervals) - 1\n",
        "ledger_training",
    ),
    _mutant(
        "mean-for-interval",
        "a checkpoint holds by its interval's lower end, not by its mean",
        PROOF,
        "    return found != NO_INTERVAL and found.low >= margin\n",
        "    return found != NO_INTERVAL and found.mean >= margin\n",
        "learn_proof",
    ),
    _mutant(
        "unpaired-losses",
        "windows are compared pair by pair",
        PROOF,
        "    squares = sum(gain * gain for gain in gains)\n",
        "    squares = sum(b * b + a * a for b, a in zip(parent, child, strict=True))\n",
        "learn_proof",
    ),
)

EARNING_MUTANTS = (
    _mutant(
        "contributor-carries-itself",
        "nobody earns by a checkpoint that its own vote and verdict carried",
        TRAINING,
        "    return 2 * holds > len(others) and passes_without(proposal, who)\n",
        "    return 2 * holds > len(others)\n",
        "ledger_training",
    ),
    _mutant(
        "half-credits-lost",
        "parts of a credit are kept until they make a whole one",
        TRAINING,
        "        amount = after // MILLE - before // MILLE\n",
        '        amount = CREDITS["training"] * share.permille // MILLE\n',
        "ledger_training",
    ),
    _mutant(
        "dataset-earns-twice",
        "a dataset is adopted, and earns, once",
        TRAINING,
        "        state.datasets = {**state.datasets, change.manifest: index}\n",
        "",
        "ledger_training",
    ),
    _mutant(
        "rounds-count-twice",
        "evidence begins where the parent ended",
        EVIDENCE,
        "    if began not in (NO_ROUNDS, heads_digest(model, span.begins)):\n",
        "    if began is None:\n",
        "learn_evidence",
    ),
    _mutant(
        "rounds-by-the-dozen",
        "a group's rounds together count for its part of the model",
        EVIDENCE,
        " // whole // (end.number - begin.number)\n",
        " // whole // max(1, end.number - begin.number - 999)\n",
        "learn_evidence",
    ),
    _mutant(
        "aggregator-pockets-its-region",
        "without the sum behind it an aggregator's share is nobody's",
        EVIDENCE,
        " if each.of else [each.learner]:\n",
        " or [each.learner]:\n",
        "learn_evidence",
    ),
)

MUTANTS = (*JUDGING_MUTANTS, *EARNING_MUTANTS)
