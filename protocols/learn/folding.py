"""What is committed, as each replica folds it: a round only when it is known to be right.

The log (replica.py) gives bodies in one order to all; whoever wrote them may lie. Deltas are looked
at, rounds are computed (judging.py); what stands behind a round that is not decided here waits. The
rules are those of rounds.py, 5 and 6.
"""

from collections import deque

from protocols.codec import encode
from protocols.effects import Emit, Save
from protocols.envelope import Sign, Verify
from protocols.errors import LimitError, MalformedError, SynapseError
from protocols.learn.claims import (
    NOTHING,
    BadClaimError,
    Record,
    Round,
    check_signed,
    round_message,
)
from protocols.learn.closing import Closing
from protocols.learn.endorsing import Endorsing, Recall
from protocols.learn.intake import Intake
from protocols.learn.judging import difference, misfit, parts_of, round_of, state_after
from protocols.learn.round_ports import (
    AGAIN_MS,
    KEEP_ROUNDS,
    LACK_WAIT_MS,
    RETRY_MS,
    TABLE,
    Advance,
    Aggregate,
    Aggregated,
    Committed,
    Contradicted,
    Distrust,
    Effects,
    Fold,
    Lied,
    NotAggregated,
    Part,
    Release,
    RoundsSettings,
    Say,
    record_key,
)
from protocols.learn.roundlog import (
    Closed,
    Pending,
    RoundLog,
    Standing,
    Taken,
    decode_body,
)
from protocols.learn.telling import Telling
from protocols.peerid import peer_id_text, public_key_of

GIVEN_UP = 16
"""Rounds that are remembered for having been given up."""


class Folding:
    """Of one group at one replica: the part of Rounds that follows the log."""

    def __init__(
        self, settings: RoundsSettings, sign: Sign, verify: Verify, recall: Recall, now_ms: int
    ) -> None:
        self._set = settings
        self._verify = verify
        self.log = RoundLog(settings.group, settings.genesis)
        self._endorsing = Endorsing(
            settings.realm,
            settings.me,
            settings.epoch,
            settings.replicas,
            sign=sign,
            verify=verify,
            recall=recall,
            check=settings.check,
        )
        self._telling = Telling(settings.model, self.log, self._endorsing)
        self._closing = Closing(settings.plan, self.log, now_ms)
        self._intake = Intake(settings, self.log, self._closing, verify)
        self._tags: dict[int, Pending | Round] = {}
        """What was proposed here: a delta, or a round."""
        self._ticket = 0
        self._parts: tuple[Part, ...] | None = None
        """What is being aggregated here, or proposed as a round."""
        self._queue: deque[Committed] = deque()
        """What is committed and not folded yet."""
        self._judged: Closed | None = None
        """What stands first in it, and is being computed,"""
        self._judged_at = 0
        """... and since when."""
        self._asked: Aggregate | None = None
        """How; None: it is to be tried again."""
        self._given_up: dict[int, Round] = {}
        """What nobody could compute, by number."""
        self._index = 0
        """Up to which entry of the log all is folded,"""
        self._fold_at: int | None = None
        """... and the round whose record was the last."""
        self._not_before = now_ms
        self._again_at = now_ms
        self._again_ms = AGAIN_MS
        self._kept: list[tuple[bytes, ...]] = []

    # -- the log ------------------------------------------------------------------------------

    def _drain(self, now_ms: int) -> Effects:
        """Fold what is committed, as far as it is decided."""
        effects: Effects = []
        while self._queue and self._judged is None:
            entry = self._queue[0]
            effects += self._look_at(entry, now_ms)
            if self._judged is None:
                self._done(entry)
        return effects + self._folded()

    def _done(self, entry: Committed) -> None:
        self._queue.popleft()
        self._index = max(self._index, entry.index)
        ours = self._tags.pop(-1 if entry.tag is None else entry.tag, None)
        if isinstance(ours, Round):
            self._parts = None  # whatever came of it

    def _look_at(self, entry: Committed, now_ms: int) -> Effects:
        """Whatever a primary may have written."""
        try:
            body = decode_body(entry.body)
            if isinstance(body, Closed):
                return self._judge(entry, body, now_ms)
            if isinstance(body, Taken):
                return [*self._intake.taken(body, ours=entry.tag in self._tags)]
        except (MalformedError, LimitError) as error:
            return self._wrong(entry.writer, str(error))
        return self._wrong(entry.writer, "a whole state, as an entry")

    def _installed(self, state: bytes, index: int, now_ms: int) -> Effects:
        """A whole state, which need not be ours: what it says stands in a record and in claims."""
        try:
            standing = decode_body(state)
            if not isinstance(standing, Standing):
                raise BadClaimError("an entry in place of a group's state")
            if standing.last is None and standing.head != self._set.genesis:
                raise BadClaimError("a group's state without a round, and another first version")
            for said in standing.pending:
                check_signed(self._set.realm, said, self._verify)
            self.log.apply(standing)
        except (MalformedError, LimitError) as error:
            return [Contradicted(str(error))]
        self._index = index
        self._closing.led(now_ms)
        if standing.last is None:
            return []
        return self._proven(standing.last)

    def _proven(self, record: Record) -> Effects:
        """The record of what a state begins with."""
        known = self._endorsing.record(record.round.number)
        if known is not None and not difference(known.round, record.round):
            self._endorsing.adopt(known)
            return [Advance(record.round)]
        try:
            self._endorsing.check(record)
        except BadClaimError as error:
            return [Contradicted(str(error))]
        except SynapseError:
            # Of an epoch that is not known here: we go along, and sign nothing until a round of
            # this group is proven to us.
            self._endorsing.mute = True
            return [Advance(record.round)]
        self._endorsing.adopt(record)
        return [Advance(record.round), *self._recorded(record)]

    def _release(self) -> Effects:
        if len(self._kept) <= KEEP_ROUNDS:
            return []
        old = tuple(digest for digest in self._kept.pop(0) if digest not in self.log.digests)
        return [Release(old)] if old else []

    # -- whether a round is right ---------------------------------------------------------------

    def _judge(self, entry: Committed, closed: Closed, now_ms: int) -> Effects:
        """An end of a round is committed: ours, one that a record decides, or to be computed."""
        made = closed.round
        if not self.log.ends(made) or made.model != self._set.model:
            # Of an honest primary's log only what it took over may hold a second end.
            return [] if entry.writer is None else self._wrong(entry.writer, "it ends no round")
        ours = None if entry.tag is None else self._tags.get(entry.tag)
        if ours == made:
            return self._right(closed, now_ms)
        known = self._endorsing.record(made.number)
        if known is not None:
            return self._decided_by(known, closed, now_ms)
        message = round_message(self._set.realm, made)
        if not self._verify(public_key_of(closed.by.replica), message, closed.by.signature):
            return self._wrong(entry.writer, "a round that nobody signed")
        why = misfit(self.log, closed)
        if why is not None:
            return self._wrong(closed.by.replica, why)
        self._judged, self._judged_at = closed, now_ms
        self._again_ms, self._again_at = AGAIN_MS, now_ms + AGAIN_MS
        return self._compute(closed, now_ms)

    def _compute(self, closed: Closed, now_ms: int) -> Effects:
        plan = self._set.plan_of(closed.round.plan)
        if plan is None and self._waited_enough(now_ms):
            return self._never(closed, "a round by no plan of the training", now_ms)
        if plan is None:
            self._not_before = now_ms + RETRY_MS
            return []  # the ledger brings it, or the others' record does without
        self._ticket += 1
        fresh = closed.round.before == NOTHING
        self._asked = Aggregate(
            self._ticket,
            self.log.number,
            self.log.head,
            parts_of(self.log, closed),
            plan,
            None if fresh else state_after(self.log.last),
            judging=True,
        )
        return [self._asked]

    def _compared(self, made: Aggregated, now_ms: int) -> Effects:
        closed, asked = self._judged, self._asked
        assert closed is not None
        assert asked is not None
        self._settle()
        if set(made.bad) != set(closed.dropped):
            effects = self._wrong(closed.by.replica, "it drops what is good, or keeps what is not")
        else:
            ours = round_of(self._set, self.log, asked.parts, made, bad=made.bad, plan=asked.plan)
            wrong = difference(closed.round, ours)
            if not wrong:
                effects = self._right(closed, now_ms)
            else:
                self._not_before = now_ms + RETRY_MS  # where it was we who were wrong
                effects = [
                    Lied(closed.round, closed.by),
                    *self._wrong(closed.by.replica, f"another {wrong} than its inputs make"),
                ]
        self._done(self._queue[0])
        return effects + self._drain(now_ms)

    def _not_judged(self, failed: NotAggregated, now_ms: int) -> Effects:
        """It could not be computed now (a paused worker: for long); or never, by anybody, and then
        it is wrong."""
        asked, closed, self._asked = self._asked, self._judged, None
        assert asked is not None
        assert closed is not None
        self._not_before = now_ms + RETRY_MS
        if failed.lacking and self._waited_enough(now_ms):
            return self._never(closed, "a round from a state that nobody has", now_ms)
        if not {part.blob.digest for part in asked.parts} <= set(failed.bad):
            return []
        return self._never(closed, "a round of nothing that can be used", now_ms)

    def _waited_enough(self, now_ms: int) -> bool:
        """Who hears no primary may be cut off, and knows nothing of what others have."""
        heard = self._intake.primary is not None
        return heard and now_ms >= self._judged_at + LACK_WAIT_MS

    def _never(self, closed: Closed, why: str, now_ms: int) -> Effects:
        """It cannot be computed by anybody, as far as we can tell."""
        self._given_up[closed.round.number] = closed.round
        while len(self._given_up) > GIVEN_UP:
            del self._given_up[min(self._given_up)]
        self._settle()
        self._done(self._queue[0])
        return [*self._wrong(closed.by.replica, why), *self._drain(now_ms)]

    def _settle(self) -> None:
        self._judged = self._asked = None

    def _right(self, closed: Closed, now_ms: int) -> Effects:
        """Computed here: fold it, and sign it."""
        made = closed.round
        effects = self._advance(closed, now_ms)
        endorse, to, record = self._endorsing.right(made, closed.by)
        self._again_ms, self._again_at = AGAIN_MS, now_ms + AGAIN_MS
        if endorse is not None:
            effects += [Say(peer, endorse) for peer in to]
        return effects + (self._recorded(record) if record is not None else [])

    def _decided_by(self, record: Record, closed: Closed, now_ms: int) -> Effects:
        """Two replicas have signed that round, and so it is right, whether we can compute it or
        not; or another, and then this is none: the right one stands behind it in the log."""
        if difference(record.round, closed.round):
            return self._wrong(None, "another round than two replicas signed")
        return [*self._advance(closed, now_ms), *self._recorded(self._endorsing.adopt(record))]

    def _advance(self, closed: Closed, now_ms: int) -> Effects:
        self.log.apply(closed)
        self._closing.closed(now_ms)
        self._parts = None
        inputs = tuple(entry.digest for entry in closed.round.inputs)
        self._kept.append((*inputs, *closed.dropped))
        return [Advance(closed.round), *self._release()]

    def _wrong(self, who: bytes | None, why: str) -> Effects:
        """It changes nothing, and whose doing it is leads us no more."""
        name = "" if who is None else peer_id_text(who)
        number = self.log.number
        told = Emit(
            "learn.wrong-result",
            {"group": self._set.group, "number": number, "primary": name, "why": why},
        )
        return [told] if who is None or who == self._set.me else [told, Distrust(who)]

    # -- records ------------------------------------------------------------------------------

    def _adopt_one(self, record: Record, now_ms: int) -> Effects:
        """A record from elsewhere: of what we signed alone, could not decide, or gave up. What is
        not known to be right or wrong here proves nothing. Raises BadClaimError."""
        number = record.round.number
        judged = self._judged is not None and self._judged.round.number == number
        mine = self._endorsing.open.get(number) or self._given_up.get(number)
        if (mine is None and not judged) or self._endorsing.record(number) is not None:
            return []
        try:
            self._endorsing.check(record)
        except MalformedError:
            raise
        except SynapseError:
            return []
        if judged:
            return self._proven_elsewhere(record, now_ms)
        assert mine is not None
        return self._held_against(record, mine)

    def _proven_elsewhere(self, record: Record, now_ms: int) -> Effects:
        closed = self._judged
        assert closed is not None
        self._settle()
        self._done(self._queue[0])
        effects = self._decided_by(record, closed, now_ms)
        return effects + self._drain(now_ms)

    def _held_against(self, record: Record, mine: Round) -> Effects:
        same, folded = not difference(record.round, mine), mine.number in self._endorsing.open
        if same and folded:
            return [*self._recorded(self._endorsing.adopt(record)), *self._folded()]
        if same or folded:
            return [Contradicted("two replicas signed what our log has otherwise")]
        return []  # another than what we gave up

    def _recorded(self, record: Record) -> Effects:
        number = record.round.number
        key = record_key(self._set.model, self._set.group, number)
        self._fold_at = number
        return [
            Save(TABLE, key, encode(record)),
            *self._telling.tell(number),
            Emit(
                "learn.recorded",
                {
                    "group": self._set.group,
                    "number": number,
                    "inputs": len(record.round.inputs),
                    "bytes": record.round.size,
                },
            ),
        ]

    def _folded(self) -> Effects:
        """What stands behind a record need not stay in the log."""
        last = self.log.last
        if last is None or self._fold_at != last.number:
            return []
        self._fold_at = None
        record = self._endorsing.record(last.number)
        assert record is not None, "a record that was just made"
        return [Fold(self._index, self.log.standing(record))]
