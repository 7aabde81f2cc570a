"""Bugs in the ledger's validity and fold: votes, risk, quotas, credits, guilt, elections."""

from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Change, Mutant

CHANGES = "protocols/ledger/possible.py"
ELECTION = "protocols/ledger/election.py"
LEDGER = "protocols/ledger/fold.py"
PARAMS = "protocols/ledger/params.py"
QUOTA = "protocols/ledger/quota.py"
STATE = "protocols/ledger/state.py"
SUBMISSIONS = "protocols/ledger/submissions.py"
SYSTEM = "protocols/ledger/system.py"
VOTES = "protocols/ledger/votes.py"
VOTING = "protocols/ledger/voting.py"


def _mutant(name: str, drops: str, file: str, old: str, new: str, *areas: str) -> Mutant:
    """`areas` are test files, tests/test_ledger_AREA.py, tried one after another."""
    catchers = tuple(NamedTests((f"tests/test_ledger_{area}.py",)) for area in areas)
    return Mutant(name, drops, (Change(file, old, new),), catchers)


VOTE_MUTANTS = (
    _mutant(
        "tie-accepts",
        "a tie rejects",
        VOTING,
        '    if yes == no:\n        return Decision(False, "tie")\n',
        "",
        "votes",
    ),
    _mutant(
        "weight-at-the-wrong-index",
        "weight is reputation as it stood when the proposal was opened",
        VOTES,
        "        take = state.own(poll.proposal).take\n",
        "        own = state.own(poll.proposal)\n"
        "        own.weights = state.weights\n"
        "        take = own.take\n",
        "votes",
        "earning",
    ),
    _mutant(
        "weight-per-identity",
        "splitting an identity gains nothing: weight is linear in reputation",
        VOTING,
        "        weight = self.weights.points[voter]\n        before",
        "        weight = self.weights.points[voter] + 1\n        before",
        "votes",
    ),
    _mutant(
        "vote-replay-accepted",
        "an older vote played again changes nothing",
        VOTES,
        "        if number <= proposal.number_of(voter):",
        "        if number < 0:",
        "votes",
    ),
    _mutant(
        "vote-unverified",
        "each vote is signed by its voter",
        VOTES,
        "    if not verify_many(signed):",
        "    if not signed:",
        "votes",
    ),
    _mutant(
        "vote-after-the-close",
        "votes count until the ledger's time of the close",
        VOTES,
        "    if state.time >= found.terms.closes_at:",
        "    if state.time > found.terms.lapses_at:",
        "votes",
    ),
    _mutant(
        "vote-for-another-epoch",
        "a vote names the epoch in which its proposal was opened",
        VOTES,
        "    if epoch != found.terms.epoch:",
        "    if epoch > found.terms.epoch:",
        "votes",
    ),
    _mutant(
        "quorum-of-what-was-voted",
        "an outcome needs a quorum of all weight",
        VOTING,
        "* MILLE < terms.quorum * total:",
        "* MILLE < terms.quorum * (yes + no):",
        "votes",
    ),
    Mutant(
        "terms-of-the-close",
        "quorum and threshold are fixed when a proposal opens",
        (
            Change(
                SYSTEM,
                "from collections.abc import Callable, Iterator\n",
                "from collections.abc import Callable, Iterator\n\nimport msgspec\n",
            ),
            Change(
                SYSTEM,
                "    decision = decided(proposal, state.time, len(approvals))\n",
                "    quorum = state.params[f'quorum.{proposal.terms.risk.word}']\n"
                "    proposal.terms = msgspec.structs.replace(proposal.terms, quorum=quorum)\n"
                "    decision = decided(proposal, state.time, len(approvals))\n",
            ),
        ),
        (NamedTests(("tests/test_ledger_votes.py",)),),
    ),
)
RISK_MUTANTS = (
    _mutant(
        "risk-of-the-least",
        "a change is as risky as the riskiest that it touches",
        PARAMS,
        "    return max((REGISTRY[name].risk for name in names)",
        "    return min((REGISTRY[name].risk for name in names)",
        "proposals",
    ),
    _mutant(
        "human-keys-at-low-risk",
        "who names human keys changes what is critical",
        CHANGES,
        "        return Risk.CRITICAL",
        "        return Risk.LOW",
        "proposals",
    ),
    _mutant(
        "approval-not-needed",
        "high and critical changes need signatures of human keys",
        VOTING,
        "    if fetchable and approving >= terms.approvals:",
        "    if fetchable:",
        "proposals",
    ),
    _mutant(
        "approval-by-anybody",
        "an approving key is named on the ledger",
        VOTES,
        "    if approval.key not in state.humans.values():",
        "    if not state.humans:",
        "proposals",
    ),
    _mutant(
        "approval-unverified",
        "an approval is signed by its key",
        VOTES,
        "    if not verify(approval.key, message, approval.signature):",
        "    if not message:",
        "proposals",
    ),
)
QUOTA_MUTANTS = (
    _mutant(
        "quota-not-enforced",
        "an author's submissions of a day are bounded",
        SUBMISSIONS,
        "    if not left(standing, state.day, state.params):",
        "    if left(standing, state.day, state.params) < 0:",
        "quota",
    ),
    _mutant(
        "trusted-for-ever",
        "five failures in a row make a newcomer again",
        QUOTA,
        "    trusted = standing.trusted and failures < params",
        "    trusted = standing.trusted or failures > params",
        "quota",
    ),
    _mutant(
        "successes-not-in-a-row",
        "three successes in a row are needed",
        QUOTA,
        "    return Standing(standing.day, standing.used, 0, failures, trusted)",
        "    return Standing(standing.day, standing.used, standing.successes, failures, trusted)",
        "quota",
    ),
    _mutant(
        "work-not-needed",
        "a newcomer pays with a proof of work",
        SUBMISSIONS,
        "        if proves(state.realm, subject, said.work, bits):",
        "        if bits < 64:",
        "work",
    ),
    _mutant(
        "submission-replay-accepted",
        "a submission is on the ledger once",
        SUBMISSIONS,
        "    if known is not None and name in known:",
        "    if known is None and name:",
        "quota",
        "fold",
    ),
    _mutant(
        "submission-unsigned",
        "a submission is signed by its author",
        SUBMISSIONS,
        "    check_submission(state.realm, said, unsigned, verify)\n",
        "",
        "genesis",
    ),
    _mutant(
        "submission-expired",
        "a submission is refused when it has expired by the ledger's time",
        SUBMISSIONS,
        "    if said.expires <= state.time:",
        "    if said.expires < 0:",
        "quota",
        "fold",
    ),
)
CREDIT_MUTANTS = (
    _mutant(
        "credit-minted-twice",
        "each contribution is credited once",
        SYSTEM,
        "    if changes and execution.earns and execution.author not in state.banned:",
        "    for _ in range(2 if changes and execution.earns else 0):",
        "earning",
    ),
    _mutant(
        "self-dealing-earns",
        "what an author's own weight decides earns nothing",
        SYSTEM,
        "    earns = passes_without(proposal, terms.author)",
        "    earns = proposal is not None",
        "earning",
    ),
    _mutant(
        "leader-may-write-anything",
        "what the ledger itself says is byte for byte what its state yields",
        SYSTEM,
        "    if entry != expected:",
        "    if type(entry) is not type(expected):",
        "earning",
        "proposals",
    ),
)
GUILT_MUTANTS = (
    _mutant(
        "guilt-believed",
        "a proof of guilt is verified by everybody who folds it",
        SUBMISSIONS,
        "        seat = check_guilt(state.realm, council, proof, verify)",
        "        seat = council.seats[proof.seat]",
        "guilt",
    ),
    _mutant(
        "guilty-keeps-its-seat",
        "guilt costs the seat at the next epoch",
        SYSTEM,
        "    elected = elect(beacon, list(sitting), weights, state.banned,",
        "    elected = elect(beacon, list(sitting), weights, (),",
        "guilt",
        "epochs",
    ),
    _mutant(
        "guilty-keeps-its-weight",
        "guilt costs the reputation",
        SUBMISSIONS,
        "    state.reweigh({guilty: 0}, index)\n",
        "",
        "guilt",
    ),
)
EPOCH_MUTANTS = (
    _mutant(
        "beacon-ignores-reveals",
        "the beacon comes of what members revealed",
        ELECTION,
        "    for seat in sorted(secrets):",
        "    for seat in sorted(secrets)[:0]:",
        "epochs",
    ),
    _mutant(
        "reveal-without-commitment",
        "a member reveals what it committed to",
        SUBMISSIONS,
        "candidate.commitment != commitment_to(body.secret):",
        "not candidate.commitment:",
        "epochs",
    ),
    _mutant(
        "seats-changed-unbounded",
        "fewer than a third of the seats change at once",
        ELECTION,
        "budget=max(1, (len(sitting) - 1) // 3))",
        "budget=len(sitting))",
        "epochs",
    ),
    _mutant(
        "latency-by-the-farthest",
        "a latency class is the median of what the council measured",
        ELECTION,
        "    return latency_class(sorted(measured)[middle])",
        "    return latency_class(max(measured))",
        "epochs",
    ),
    _mutant(
        "epoch-too-early",
        "an epoch ends when its time is over",
        SYSTEM,
        "    if state.time >= epoch_ends_at(state):\n        yield epoch_entry(state)",
        "    if state.time > state.epoch_started:\n        yield epoch_entry(state)",
        "epochs",
    ),
    _mutant(
        "tick-falls",
        "the ledger's time rises",
        SYSTEM,
        "        if entry.time < state.time + least_rise(state):",
        "        if entry.time < 0:",
        "fold",
    ),
    _mutant(
        "tick-of-the-past-is-timely",
        "a member acknowledges a tick only near its own clock, before it and after",
        LEDGER,
        '        return abs(time - unix_ms) <= self.params["council.skew_ms"]',
        '        return time - unix_ms <= self.params["council.skew_ms"]',
        "fold",
    ),
)

MUTANTS = (
    *VOTE_MUTANTS,
    *RISK_MUTANTS,
    *QUOTA_MUTANTS,
    *CREDIT_MUTANTS,
    *GUILT_MUTANTS,
    *EPOCH_MUTANTS,
)
