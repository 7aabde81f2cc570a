"""The rollout of an accepted upgrade: who runs it in which stage, and when it goes on or back.

    0 ‰       shadow: it is fetched, compiled and run beside the incumbent, and answers nothing
    100, 500  a cohort tosses a coin for each operation between it and the incumbent
    1000      everybody runs it, and still gives the incumbent one operation in eight
    settled   the incumbent is kept for the way back

The cohort. Each reputed identity has a place in an order that (beacon, proposal) draws; a stage's
cohort are the first ceil(p n) of n, at least LEAST_COHORT. The beacon is that of the epoch in
which the rollout begins, which nobody knew who wrote the proposal; the order stays for the whole
rollout, so that each cohort holds the one before.

The rule (`ruling`). Each of the cohort that is heard reports one gain: how much better the slot's
goal is with the candidate, paired with the incumbent within one daemon. Of e expected reporters a
third may lie. Of m sorted gains, m at least two thirds of e, the least and the greatest are
dropped, and the ends of what is left are the interval [low, high]:

    at the upper end   (e - 1) // 3 are dropped
    at the lower end   as many, or e // 3 where more than twice that have reported: what a whole
                       third says against an upgrade does not hold it up, either

The upgrade goes back where high < -margin, and on where low >= -margin; between, it waits for
more reports, and goes back after `upgrade.patience` stages of waiting. Reports of traps or failure
by more than a third of e take it back at once.

- A third of liars carries nothing. Where every honest gain is good enough, no third makes the rule
  say "back", and where every one is worse none makes it say "on", also where honest reporters are
  silent: for either, more reports have to be lies. And where every honest gain is good enough and
  they all report, no third keeps it from going on.
- Where all report and fewer than a third lie, the median of the honest gains is in the interval:
  of the honest, at most (e - 1) // 3 lies sort below the lower half or above the upper (the
  reduction of Dolev et al., "Reaching approximate agreement in the presence of faults", JACM 1986).
- Where nobody lies, it covers the median of what daemons gain with probability
  1 - P(B <= below) - P(B <= above), B binomial of m and 1/2, and `below` and `above` the numbers
  dropped, without any assumption on how gains are distributed (order statistics: David and
  Nagaraja, "Order Statistics", 3rd ed. 2003, section 7.1): 38 % for 3 of 3, 66 % for 10, 93 % for
  30, 99.9 % for 100 (`coverage`). What a small cohort lets pass, the later ones look at again.

What this cannot do: a small cohort drawn from many may by chance hold more liars than a third,
though all members do not (of 10 out of 100, a third of whom lie, in four draws of ten). Those can
take a good upgrade back, and it is proposed again under another draw; they cannot make a bad one
settle, for before that everybody is heard (of more than MAX_HEARD, a sample in which a quarter of
liars becomes a third once in 80,000 draws). More than a third that keep silent hold it up until it
goes back: what so many daemons cannot or will not run does not go on.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from protocols.changes import NATIVE, NO_LIMITS, CallLimits, UpgradeChange
from protocols.ledger.entries import Report, Row, StageEvent, StageReason

STAGES = (0, 100, 500, 1000)
"""Thousandths of the reputed members."""
SHADOW, FIRST, FULL = STAGES[0], STAGES[1], STAGES[-1]
LEAST_COHORT = 3
"""With fewer, one daemon's bad day is all that is measured."""
MAX_HEARD = 512
"""Of a cohort that report, the first in the order: above it the interval hardly narrows, and
reports would fill the ledger (a stage of 100,000 daemons: 30 MB)."""
MAX_OTHERS = 1024
"""Reports of failure and refusal from outside of those that are kept in a stage."""
MAX_REPORTS = 4
"""Of one identity in a stage: the last one counts."""
MAX_FORMER = 3
"""Versions of a slot that were in force before and are still known, for the way back."""
EIGHT = 8
"""Operations among which the coin divides: 4 for the candidate in a stage,"""
HALF, PROBATION = 4, 7
"""... and 7 when everybody runs it: what behaves until then is still measured."""
EVERYBODY = (1 << 63) - 1
NOBODY = -1
MILLE = 1000
PPM_PER_MILLE = 1000


class Version(Row, frozen=True):
    """One version of a slot."""

    number: int
    module: bytes
    """sha256 of its bytes; changes.NATIVE for the daemon's own reference."""
    size: int
    abi: int
    """0 for the reference."""
    limits: CallLimits
    manifest: bytes
    """CID of its UpgradeManifest; empty for the reference."""
    proposal: bytes
    """That brought these bytes; empty where none did."""
    index: int
    """Of the entry that put it in force, or began its rollout; 0 from the beginning on."""

    @property
    def native(self) -> bool:
        """Whether it is the daemon's own reference."""
        return self.module == NATIVE


REFERENCE = Version(0, NATIVE, 0, 0, NO_LIMITS, b"", b"", 0)
"""What every slot begins with."""


class Filed(Row, frozen=True):
    """An identity's last report in a stage."""

    status: Literal["ready", "measured", "failed", "refused"]
    pairs: int
    gain: int
    calls: int
    traps: int
    disagreements: int
    fuel: int
    count: int
    """How many it has made in this stage."""

    @property
    def bad(self) -> bool:
        """Whether it tells of a module that does not do its work."""
        return self.status == "failed" or self.traps > 0


Reports = tuple[tuple[bytes, Filed], ...]
"""By rising identity."""


class StageRecord(Row, frozen=True):
    """A stage that is over, as the entry that ended it has it (contract B19)."""

    permille: int
    index: int
    """Of the entry that opened it."""
    opened_at: int
    ended_at: int
    low: int
    high: int
    reports: int
    traps: int


class Rollout(Row, frozen=True):
    """An upgrade on its way, in its present stage."""

    candidate: Version
    author: bytes
    earns: bool
    """Whether its author gets the credits when it settles."""
    beacon: bytes
    permille: int
    index: int
    """Of the entry that opened the stage."""
    opened_at: int
    members: int
    """Reputed identities at the opening."""
    running: int
    """The last place in the order of those that run it in this stage,"""
    heard: int
    """... and of those whose reports count (in shadow: of the first cohort)."""
    expected: int
    """How many those were at the opening."""
    reports: Reports
    """Of those that are heard."""
    others: Reports
    """Failures and refusals elsewhere: everybody sees them, and nothing is decided by them."""
    stages: tuple[StageRecord, ...]

    @property
    def proposal(self) -> bytes:
        """That it carries out."""
        return self.candidate.proposal

    @property
    def dropped(self) -> int:
        """Greatest gains that are left out, and least ones, or one less (see `dropped`)."""
        return dropped(0, self.expected)[1]

    @property
    def quorum(self) -> int:
        """Reports without which nothing is decided by what they measured: two thirds."""
        return max(1, -(-2 * self.expected // 3))


class Ended(Row, frozen=True):
    """How the last rollout of a slot ended."""

    version: int
    proposal: bytes
    event: StageEvent
    reason: StageReason
    index: int
    stages: tuple[StageRecord, ...]


class SlotState(Row, frozen=True):
    """One slot, as the ledger has it."""

    slot: str
    current: Version
    """What answers where no rollout says otherwise: the incumbent."""
    former: tuple[Version, ...]
    """What was in force before, the newest last."""
    highest: int
    """The highest version number ever."""
    rollout: Rollout | None
    ended: Ended | None


def untouched(slot: str) -> SlotState:
    """A slot that no upgrade ever touched."""
    return SlotState(slot, REFERENCE, (), 0, None, None)


def version_of(change: UpgradeChange, proposal: bytes, index: int) -> Version:
    """What an upgrade brings."""
    return Version(
        change.version,
        change.module,
        change.size,
        change.abi,
        change.limits,
        change.manifest,
        proposal,
        index,
    )


# -- who runs it -------------------------------------------------------------------------------


def place(beacon: bytes, proposal: bytes, identity: bytes) -> int:
    """An identity's place in a rollout's order: 63 bits, so that two have hardly ever the same."""
    drawn = hashlib.sha256(b"synapse upgrade cohort" + beacon + proposal + identity).digest()
    return int.from_bytes(drawn[:8], "big") >> 1


class Cohort(msgspec.Struct, frozen=True):
    """Of one stage: see Rollout."""

    members: int
    running: int
    heard: int
    expected: int


def cohort(beacon: bytes, proposal: bytes, members: Iterable[bytes], permille: int) -> Cohort:
    """Of the reputed `members`, those of a stage."""
    places = sorted(place(beacon, proposal, each) for each in members)
    count = len(places)
    share = permille or FIRST  # in shadow, those say whether it is ready who run it next
    size = min(count, max(LEAST_COHORT, -(-share * count // MILLE)))
    heard = min(size, MAX_HEARD)
    running = EVERYBODY if permille == FULL else places[size - 1] if size else NOBODY
    return Cohort(
        count,
        NOBODY if permille == SHADOW else running,
        NOBODY if not heard else EVERYBODY if heard == count else places[heard - 1],
        heard,
    )


class Duty(msgspec.Struct, frozen=True):
    """What a daemon does with a slot.

    none    the version in force answers
    shadow  ... and the candidate runs beside it
    coin    `coin` says which of the two answers an operation
    all     the candidate answers
    """

    kind: Literal["none", "shadow", "coin", "all"]
    of_eight: int
    """Operations of eight that are the candidate's."""


NONE, IN_SHADOW, ALL = Duty("none", 0), Duty("shadow", 0), Duty("all", EIGHT)


def duty(state: SlotState, identity: bytes, reputed: bool) -> Duty:
    """What the daemon of `identity` does. Who has no reputation is not heard, and runs it from
    the stage of everybody on."""
    rollout = state.rollout
    if rollout is None:
        return NONE
    if not reputed:
        return ALL if rollout.permille == FULL else NONE
    if place(rollout.beacon, rollout.proposal, identity) > rollout.running:
        return IN_SHADOW
    return Duty("coin", PROBATION if rollout.permille == FULL else HALF)


def is_heard(rollout: Rollout, identity: bytes) -> bool:
    """Whether a reputed identity's reports count in this stage."""
    return place(rollout.beacon, rollout.proposal, identity) <= rollout.heard


def coin(proposal: bytes, operation: bytes, of_eight: int = HALF) -> bool:
    """Whether the candidate answers an operation: the same wherever one is known by its id."""
    drawn = hashlib.sha256(b"synapse upgrade coin" + proposal + operation).digest()
    return drawn[0] % EIGHT < of_eight


# -- reports -----------------------------------------------------------------------------------


def filed(report: Report, count: int) -> Filed:
    """A report as it is kept, its author's `count`th in the stage."""
    return Filed(
        report.status,
        report.pairs,
        report.gain,
        report.calls,
        report.traps,
        report.disagreements,
        report.fuel,
        count,
    )


def report_of(rollout: Rollout, identity: bytes) -> Filed | None:
    """An identity's last report in this stage."""
    return dict(rollout.reports).get(identity) or dict(rollout.others).get(identity)


def with_report(reports: Reports, identity: bytes, report: Filed) -> Reports:
    """In the place of its author's former one."""
    return tuple(sorted({**dict(reports), identity: report}.items()))


# -- the rule ----------------------------------------------------------------------------------


class Ruling(msgspec.Struct, frozen=True):
    """How a stage ends."""

    event: Literal["open", "settle", "rollback"]
    permille: int
    """Of the stage that begins: FULL for what is in force everywhere."""
    reason: StageReason
    low: int = 0
    high: int = 0


def dropped(reports: int, expected: int) -> tuple[int, int]:
    """How many of so many gains are left out, the least and the greatest."""
    few, third = max(0, expected - 1) // 3, expected // 3
    return (third if reports > 2 * third else few), few


def interval(gains: Sequence[int], expected: int) -> tuple[int, int] | None:
    """Both ends of what is left; None where fewer than two thirds of `expected` are there."""
    below, above = dropped(len(gains), expected)
    if 3 * len(gains) < 2 * expected or len(gains) <= below + above:
        return None
    ordered = sorted(gains)
    return ordered[below], ordered[len(gains) - 1 - above]


def coverage(reports: int, expected: int) -> float:
    """With what probability the interval covers the median gain, where nobody lies."""
    ends = dropped(reports, expected)
    if reports <= sum(ends):
        return 0.0
    outside = sum(math.comb(reports, few) for end in ends for few in range(end + 1))
    return 1 - outside / (1 << reports)


def ruling(
    rollout: Rollout, reports: Sequence[Filed], time: int, params: Mapping[str, int]
) -> Ruling | None:
    """How the present stage ends at the ledger's `time`, by the `reports` that count; None
    while it goes on."""
    gains = [each.gain for each in reports if each.status == "measured"]
    found = interval(gains, rollout.expected)
    low, high = found or (0, 0)
    if 3 * sum(each.bad for each in reports) > rollout.expected:
        return Ruling("rollback", FULL, "failing", low, high)
    waited, stage_ms = time - rollout.opened_at, params["upgrade.stage_ms"]
    if waited < stage_ms:
        return None
    if rollout.permille == SHADOW:
        ready = sum(each.status == "ready" for each in reports)
        said = Ruling("open", FIRST, "ready") if ready >= rollout.quorum else None
    else:
        said = None if found is None else _by_gain(rollout, low, high, params["upgrade.margin"])
    if said is None and waited >= params["upgrade.patience"] * stage_ms:
        return Ruling("rollback", FULL, "undecided", low, high)
    return said


def _by_gain(rollout: Rollout, low: int, high: int, margin: int) -> Ruling | None:
    least = -margin * PPM_PER_MILLE
    if high < least:
        return Ruling("rollback", FULL, "worse", low, high)
    if low < least:
        return None
    if rollout.permille == FULL:
        return Ruling("settle", FULL, "no-worse", low, high)
    return Ruling("open", STAGES[STAGES.index(rollout.permille) + 1], "no-worse", low, high)
