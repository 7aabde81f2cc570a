"""Rounds of one tile group, at each of its replicas: what is taken, when a round closes.

    Heard            a message, whose blobs are on our disk     -> Say, Propose
    Led, Followed    the group's log has a primary              -> Say
    Committed        the next body of the log                   -> Say, Aggregate, and as Aggregated
    Declined         the log did not take a proposal
    Aggregated       what Aggregate made: our round             -> Propose
                     somebody else's is right                   -> Say, Save, Advance, Fold, Release
                     it is not                                  -> Lied, Distrust
    NotAggregated    it could not
    Tick             time passes                                -> Aggregate, Say

One of these runs beside the log of each replica (replica.py), and folds what is committed
(roundlog.py). The primary's also offers deltas to the log (intake.py), decides when a round closes
(grace.py) and has it aggregated; every replica computes what is committed itself (folding.py,
judging.py), endorses it (endorsing.py), and gives records to whoever watches (telling.py).

Rules of this file:
1. A learner is told Acked when its delta is committed, and not before: so it is on two of three
   disks. The same delta again is Acked again.
2. A round is one body of the log: it is committed as one or not at all, and nobody is told of it
   before. Its record goes out when two replicas have signed it.
3. Nothing that matters is kept here alone: a successor folds the same log, has every delta that
   was acknowledged, and goes on with the open round.
4. What is for another base than ours is refused with the right one named; what comes for the
   round that was closed last is carried into the next.
5. A round is folded when it was computed here and is right, or when its record is here, which says
   so; until then what stands behind it in the log waits. One that is wrong changes nothing.
6. Who signs or writes what is wrong is distrusted: the log follows it no more (replica.py).
7. No round closes before the one before it has its record: so what may have to be computed again,
   and what a successor finds undecided, is one round.
"""

from protocols.effects import Blame, Emit
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.claims import Endorsement, Round, round_message
from protocols.learn.endorsing import Recall
from protocols.learn.folding import Folding
from protocols.learn.judging import (
    part_of,
    round_of,
    state_after,
)
from protocols.learn.messages import (
    Ask,
    Blob,
    Endorse,
    Here,
    Push,
    Records,
    Refused,
    Said,
    Watch,
    Where,
)
from protocols.learn.replica_ports import NO_TERM, Term
from protocols.learn.round_ports import (
    AGAIN_LATEST_MS,
    AGAIN_MS,
    RETRY_MS,
    Aggregate,
    Aggregated,
    Committed,
    Declined,
    Effects,
    Event,
    Followed,
    Heard,
    Installed,
    Led,
    NotAggregated,
    Propose,
    RoundsSettings,
    Say,
    Tick,
)
from protocols.learn.roundlog import (
    Closed,
    Pending,
    Taken,
    encode_body,
)


class Rounds(Folding):
    """The machine."""

    def __init__(
        self, settings: RoundsSettings, sign: Sign, verify: Verify, recall: Recall, now_ms: int
    ) -> None:
        super().__init__(settings, sign, verify, recall, now_ms)
        self._sign = sign
        self._term = NO_TERM
        self._tag = 0

    @property
    def oldest(self) -> int:
        """The first round whose result is still on our disk: the driver moves it."""
        return self._telling.oldest

    @oldest.setter
    def oldest(self, number: int) -> None:
        self._telling.oldest = number

    @property
    def leading(self) -> bool:
        """Whether we are the primary."""
        return self._intake.primary == self._set.me

    def turn(self, settings: RoundsSettings, now_ms: int) -> None:
        """Another epoch, in which we are one of the three: who leads it is not known yet, and what
        has no record is signed anew."""
        self._set = settings
        self._endorsing.turn(settings.epoch, settings.replicas)
        self._intake.turn(settings)
        self._lead(NO_TERM, None, now_ms)
        self._again_at = now_ms

    def handle(self, event: Event, now_ms: int) -> Effects:
        """What follows from `event` at `now_ms` (of a clock that never runs backwards)."""
        effects: Effects = []
        match event:
            case Heard(peer, message):
                effects = self._heard(peer, message, now_ms)
            case Led(term):
                effects = self._lead(term, self._set.me, now_ms)
            case Followed(term, primary):
                effects = self._lead(term, primary, now_ms)
            case Committed():
                self._queue.append(event)
                effects = self._drain(now_ms)
            case Installed(state, index):
                effects = self._installed(state, index, now_ms)
            case Declined(tag):
                self._declined(tag, now_ms)
            case Aggregated():
                effects = self._aggregated(event, now_ms)
            case NotAggregated():
                effects = self._not_aggregated(event, now_ms)
            case Tick():
                effects = self._repeat(now_ms)
        return effects + self._may_close(now_ms)

    # -- what is said to us -------------------------------------------------------------------

    def screen(self, peer: bytes, push: Push) -> Refused | None:
        """As Intake has it: before the bytes of a push are fetched."""
        del peer
        return self._intake.screen(push)

    def _heard(self, peer: bytes, message: Said, now_ms: int) -> Effects:
        effects: Effects = []
        try:
            match message:
                case Push():
                    effects = self._pushed(peer, message, now_ms)
                case Endorse():
                    effects = self._endorsed(peer, message)
                case Records():
                    effects = self._adopt(message, now_ms)
                case Watch():
                    effects = [*self._telling.watch(peer, message, now_ms)]
                case Ask():
                    effects = [Say(peer, self._telling.records(message.number))]
                case Where():
                    effects = [Say(peer, self._here())]
                case _:
                    pass
        except MalformedError as error:
            effects = [Blame(peer, Fault.MALFORMED, f"learning: {error}")]
        return effects

    def _pushed(self, peer: bytes, push: Push, now_ms: int) -> Effects:
        answers, found = self._intake.pushed(peer, push, now_ms)
        if found is None:
            return [*answers]
        body = Taken(group=self._set.group, said=push.said)
        return [self._propose(body, (Blob(found.made.digest, found.made.size),), found)]

    def _propose(
        self, body: Taken | Closed, blobs: tuple[Blob, ...], of: Pending | Round
    ) -> Propose:
        self._tag += 1
        self._tags[self._tag] = of
        return Propose(encode_body(body), blobs, self._tag)

    def _declined(self, tag: int, now_ms: int) -> None:
        """Whoever made the offer makes it again; a round is aggregated again."""
        found = self._tags.pop(tag, None)
        if isinstance(found, Round):
            self._parts, self._not_before = None, now_ms + RETRY_MS
        elif found is not None:
            self._intake.declined(found)

    def _here(self) -> Here:
        return Here(
            model=self._set.model,
            group=self._set.group,
            term=self._term,
            primary=self._intake.primary,
            number=self.log.number,
        )

    # -- the log ------------------------------------------------------------------------------

    def _lead(self, term: Term, primary: bytes | None, now_ms: int) -> Effects:
        self._term = term
        self._intake.primary = primary
        self._intake.leading = self.leading
        self._intake.clear()
        self._tags.clear()
        self._parts = None
        self._not_before = self._judged_at = now_ms
        self._closing.led(now_ms)
        self._again_ms = AGAIN_MS
        return self._say_again(now_ms) if self.leading else []

    # -- records ------------------------------------------------------------------------------

    def _endorsed(self, peer: bytes, said: Endorse) -> Effects:
        known = self._endorsing.record(said.number)
        if known is not None:
            lacks = peer in self._endorsing.others and self._endorsing.lacks(peer, known)
            return [Say(peer, self._telling.records(said.number, most=1))] if lacks else []
        record = self._endorsing.endorsed(peer, said)
        return [] if record is None else [*self._recorded(record), *self._folded()]

    def _adopt(self, message: Records, now_ms: int) -> Effects:
        effects: Effects = []
        for record in message.records:
            if record.round.model == self._set.model and record.round.group == self._set.group:
                effects += self._adopt_one(record, now_ms)
        return effects

    # -- closing ------------------------------------------------------------------------------

    @property
    def _closes(self) -> bool:
        """Rule 7, and whether it is for us to close the open round."""
        idle = self._parts is None and not self._queue
        last = self.log.last
        proven = last is None or last.number not in self._endorsing.open
        return self.leading and idle and proven

    def _may_close(self, now_ms: int) -> Effects:
        if not self._closes or now_ms < self._not_before:
            return []
        due = self._closing.due(now_ms)
        if due is None or now_ms < due:
            return []
        self._parts = tuple(part_of(it) for it in self._closing.usable())
        self._ticket += 1
        before = state_after(self.log.last)
        plan, number, head = self._set.plan, self.log.number, self.log.head
        return [Aggregate(self._ticket, number, head, self._parts, plan, before)]

    def _aggregated(self, made: Aggregated, now_ms: int) -> Effects:
        if made.ticket != self._ticket:
            return []
        if self._asked is not None:
            return self._compared(made, now_ms)
        if self._parts is None or not self.leading:
            return []
        bad = set(made.bad) | (self._closing.bad & self.log.digests)
        decided = round_of(self._set, self.log, self._parts, made, bad=bad, plan=self._set.plan)
        body = Closed(
            round=decided,
            by=Endorsement(self._set.me, self._sign(round_message(self._set.realm, decided))),
            dropped=tuple(sorted(bad)),
            spread=self._closing.spread(),
        )
        return [self._propose(body, (made.result,), decided)]

    def _not_aggregated(self, failed: NotAggregated, now_ms: int) -> Effects:
        if failed.ticket != self._ticket:
            return []
        if self._asked is not None:
            return self._not_judged(failed, now_ms)
        if self._parts is None:
            return []
        told = Emit("learn.not-aggregated", {"group": self._set.group, "why": failed.why})
        self._parts = None
        fewer = self._closing.cannot_use(failed.bad)
        self._not_before = now_ms + (0 if fewer else RETRY_MS)
        return [told]

    # -- time ---------------------------------------------------------------------------------

    def _repeat(self, now_ms: int) -> Effects:
        self._telling.expire(now_ms)
        effects: Effects = []
        if self._judged is not None and self._asked is None and now_ms >= self._not_before:
            effects += self._compute(self._judged, now_ms)
        return effects + (self._say_again(now_ms) if now_ms >= self._again_at else [])

    def _say_again(self, now_ms: int) -> Effects:
        """What had no effect: our signatures, and, for what we cannot decide, the question."""
        self._again_at = now_ms + self._again_ms
        self._again_ms = min(2 * self._again_ms, AGAIN_LATEST_MS)
        said: list[Said] = [*self._endorsing.again()]
        if self._judged is not None:
            number = self._judged.round.number
            said.append(Ask(model=self._set.model, group=self._set.group, number=number))
        return [Say(peer, one) for one in said for peer in self._endorsing.others]

    @property
    def next_wake(self) -> int | None:
        """When a Tick is wanted, in ms of the same clock."""
        times: list[int] = []
        if self._endorsing.open or self._judged is not None:
            times.append(self._again_at)
        if self._judged is not None and self._asked is None:
            times.append(self._not_before)
        times += self._telling.watchers.values()
        if self._closes:
            due = self._closing.wake()
            times += [] if due is None else [max(due, self._not_before)]
        return min(times, default=None)
