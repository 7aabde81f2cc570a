"""Bugs in what upgrades may be, and in the rule by which they go on and back."""

from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Change, Mutant

ENTRIES = "protocols/ledger/upgrades.py"
ROLLOUT = "protocols/ledger/rollout.py"
SUBMISSIONS = "protocols/ledger/submissions.py"


def _mutant(name: str, drops: str, file: str, old: str, new: str, area: str) -> Mutant:
    """`area` is a test file, tests/test_upgrade_AREA.py."""
    catcher = NamedTests((f"tests/test_upgrade_{area}.py",))
    return Mutant(name, drops, (Change(file, old, new),), (catcher,))


RULE_MUTANTS = (
    _mutant(
        "upgrade-by-the-worst-word",
        "no third of liars holds up an upgrade, or carries its way back",
        ROLLOUT,
        "    return ordered[below], ordered[len(gains) - 1 - above]",
        "    return ordered[0], ordered[-1]",
        "rule",
    ),
    _mutant(
        "upgrade-by-few",
        "a stage is decided by two thirds of those expected",
        ROLLOUT,
        "    if 3 * len(gains) < 2 * expected or len(gains) <= below + above:",
        "    if len(gains) <= below + above:",
        "rule",
    ),
    _mutant(
        "upgrade-undone-by-a-third",
        "a third that reports failure does not undo an upgrade",
        ROLLOUT,
        "    if 3 * sum(each.bad for each in reports) > rollout.expected:",
        "    if 3 * sum(each.bad for each in reports) >= rollout.expected:",
        "rule",
    ),
    _mutant(
        "upgrade-without-end",
        "what is not decided for long goes back",
        ROLLOUT,
        '    if said is None and waited >= params["upgrade.patience"] * stage_ms:',
        "    if said is None and waited < 0:",
        "rule",
    ),
    _mutant(
        "upgrade-cohort-by-proposal-alone",
        "nobody who writes a proposal knows who runs it first",
        ROLLOUT,
        'b"synapse upgrade cohort" + beacon + proposal + identity',
        'b"synapse upgrade cohort" + proposal + identity',
        "rule",
    ),
    _mutant(
        "upgrade-unmeasured-at-last",
        "what behaves until everybody runs it is measured then",
        ROLLOUT,
        '    return Duty("coin", PROBATION if rollout.permille == FULL else HALF)',
        '    return ALL if rollout.permille == FULL else Duty("coin", HALF)',
        "rule",
    ),
)
RECORD_MUTANTS = (
    _mutant(
        "council-code-replaceable",
        "consensus, identity, cryptography and council code are never replaced",
        "protocols/ledger/possible.py",
        "    if protected(change.slot):",
        "    if not change.slot:",
        "proposals",
    ),
    _mutant(
        "upgrade-fast-forward",
        "a version is the highest ever and one more",
        ENTRIES,
        "    if change.version > slot.highest + 1:",
        "    if change.version > slot.highest + 1000:",
        "proposals",
    ),
    _mutant(
        "upgrade-mix-and-match",
        "an upgrade names the module that it replaces",
        ENTRIES,
        "    if change.previous != slot.current.module:\n        raise",
        "    if not change.previous:\n        raise",
        "proposals",
    ),
    _mutant(
        "upgrade-frozen",
        "an upgrade that expired does not begin",
        ENTRIES,
        "    lapsed = change.expires <= state.time\n",
        "    lapsed = False\n",
        "proposals",
    ),
    _mutant(
        "upgrade-competitors",
        "one upgrade of a slot at a time",
        ENTRIES,
        "        and not _waits(state, change.slot)\n",
        "",
        "proposals",
    ),
    _mutant(
        "upgrade-by-any-verdict",
        "an upgrade must be found sound, not only fetchable",
        SUBMISSIONS,
        "    if body.claim != proposal.terms.claim:",
        '    if body.claim not in ("fetchable", "sound"):',
        "proposals",
    ),
    _mutant(
        "upgrade-rollback-by-number",
        "the way back is a new, higher version",
        ENTRIES,
        '        version=number + 1 if said.event == "rollback" else number,',
        "        version=number,",
        "rollout",
    ),
    _mutant(
        "upgrade-reports-of-anybody",
        "only those drawn for a stage are heard",
        ENTRIES,
        '    if not heard and body.status in ("ready", "measured"):',
        '    if not heard and body.status == "nothing":',
        "reports",
    ),
    _mutant(
        "upgrade-reports-of-strangers",
        "a report takes reputation",
        ENTRIES,
        "    if not state.reputation_of(said.author):",
        "    if not said.author:",
        "reports",
    ),
    _mutant(
        "upgrade-reports-of-other-stages",
        "a report counts in its own stage",
        ENTRIES,
        "    if body.stage < slot.rollout.permille:",
        "    if body.stage < 0:",
        "reports",
    ),
    _mutant(
        "upgrade-reports-of-the-guilty",
        "who is proven guilty is heard no more",
        ENTRIES,
        "    return [each for who, each in rollout.reports if who not in state.banned]",
        "    return [each for who, each in rollout.reports]",
        "reports",
    ),
)

MUTANTS = (*RULE_MUTANTS, *RECORD_MUTANTS)
