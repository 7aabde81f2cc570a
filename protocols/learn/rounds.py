"""Rounds of one tile group, at each of its replicas: what is taken, when a round closes.

    Heard            a message, whose blobs are on our disk     -> Say, Propose
    Led, Followed    the group's log has a primary              -> Say
    Committed        the next body of the log                   -> Say, Save, Advance, Release
    Declined         the log did not take a proposal
    Aggregated       what Aggregate made                        -> Propose
    NotAggregated    it could not
    Tick             time passes                                -> Aggregate, Say

One of these runs beside the log of each replica (replica.py), and folds what is committed
(roundlog.py). The primary's also offers deltas to the log, decides when a round closes (grace.py)
and has it aggregated; every replica endorses what is committed (endorsing.py), and gives records
to whoever watches.

Rules of this file:
1. A learner is told Acked when its delta is committed, and not before: so it is on two of three
   disks. The same delta again is Acked again.
2. A round is one body of the log: it is committed as one or not at all, and nobody is told of it
   before. Its record goes out when two replicas have signed it.
3. Nothing that matters is kept here alone: a successor folds the same log, has every delta that
   was acknowledged, and goes on with the open round.
4. What is for another base than ours is refused with the right one named; what comes for the
   round that was closed last is carried into the next.
5. Who pushes what is bounded before its bytes are fetched: `screen`.
"""

from protocols.codec import encode
from protocols.effects import Blame, Emit, Save
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.claims import (
    Claim,
    Input,
    Made,
    Record,
    Round,
    Sum,
    check_signed,
)
from protocols.learn.closing import Closing
from protocols.learn.endorsing import Endorsing, Recall
from protocols.learn.messages import (
    MAX_NAMED,
    Acked,
    Ask,
    Blob,
    Endorse,
    Here,
    Push,
    Reason,
    Records,
    Refused,
    Said,
    Watch,
    Where,
)
from protocols.learn.replica_ports import NO_TERM, Term
from protocols.learn.round_ports import (
    AGAIN_MS,
    KEEP_ROUNDS,
    MAX_FAN_IN,
    RETRY_MS,
    TABLE,
    Advance,
    Aggregate,
    Aggregated,
    Committed,
    Declined,
    Effects,
    Event,
    Followed,
    Heard,
    Led,
    NotAggregated,
    Part,
    Propose,
    Release,
    RoundsSettings,
    Say,
    Tick,
    record_key,
)
from protocols.learn.roundlog import (
    Closed,
    Pending,
    RoundLog,
    Standing,
    Taken,
    decode_body,
    encode_body,
    pending_of,
)
from protocols.learn.telling import Telling


class Rounds:
    """The machine."""

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
        )
        self._term = NO_TERM
        self._primary: bytes | None = None
        self._telling = Telling(settings.model, self.log, self._endorsing)
        self._answers: dict[bytes, dict[bytes, None]] = {}
        """Who waits for an answer to which delta that is proposed, by digest."""
        self._coming: dict[tuple[int, bytes], bytes] = {}
        """(round, learner) of what is proposed and not committed, and its digest."""
        self._closing = Closing(settings.plan, self.log, now_ms)
        self._ticket = self._tag = 0
        self._tags: dict[int, Pending | None] = {}
        """What was proposed: a delta, or (None) a round."""
        self._parts: tuple[Part, ...] | None = None
        """What is being aggregated, or proposed as a round."""
        self._not_before = now_ms
        self._again_at = now_ms
        self._kept: list[tuple[bytes, ...]] = []

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
        return self._primary == self._set.me

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
            case Committed(body, tag):
                self._tags.pop(-1 if tag is None else tag, None)
                effects = self._committed(body, now_ms)
            case Declined(tag):
                self._declined(tag, now_ms)
            case Aggregated():
                effects = self._aggregated(event)
            case NotAggregated():
                effects = self._not_aggregated(event, now_ms)
            case Tick():
                effects = self._repeat(now_ms)
        return effects + self._may_close(now_ms)

    # -- what is said to us -------------------------------------------------------------------

    def screen(self, peer: bytes, push: Push) -> Refused | None:
        """Why a delta of ours in `push` is refused without a look at its bytes; None: fetch them,
        and say Heard. Raises BadClaimError where the message is not what it says."""
        del peer
        found = self._found(push)
        reason: str | None = "not-here"
        if found is not None:
            if self.leading and (self.log.has(found) or self._is_coming(found)):
                return None  # it is answered as before
            reason = self._why_not(push.said, found)
        if reason is not None:
            return self._refused(found, reason)
        check_signed(self._set.realm, push.said, self._verify)
        return None

    def _why_not(self, said: Claim | Sum, found: Pending) -> str | None:
        if not self.leading:
            return "not-leading"
        if found.made.size > self._set.max_delta:
            return "malformed"
        if not self._may(said):
            return "full"
        return self.log.why_not(found) or self._crossing(found)

    def _found(self, push: Push) -> Pending | None:
        if push.said.model != self._set.model or self._set.group not in push.groups:
            return None
        return pending_of(push.said, self._set.group)

    def _may(self, said: Claim | Sum) -> bool:
        if isinstance(said, Claim):
            return self._set.may_learn(said.learner)
        return len(said.inputs) <= MAX_FAN_IN and self._set.may_aggregate(said.aggregator)

    def _is_coming(self, found: Pending) -> bool:
        number, digest = found.made.number, found.made.digest
        return all(self._coming.get((number, learner)) == digest for learner in found.learners)

    def _crossing(self, found: Pending) -> Reason | None:
        """Whether something that is on its way through the log stands against it."""
        if not any((found.made.number, learner) in self._coming for learner in found.learners):
            return None
        return "duplicate" if found.weight == 1 else "overlap"

    def _refused(self, found: Pending | None, reason: str) -> Refused:
        learners: tuple[bytes, ...] = ()
        if found is not None and reason == "overlap":
            number, seen = found.made.number, self.log.seen_of(found.made.number)
            learners = tuple(
                learner
                for learner in found.learners
                if learner in seen or (number, learner) in self._coming
            )
        return Refused(
            model=self._set.model,
            group=self._set.group,
            number=self.log.number,
            base=self.log.head,
            digest=bytes(32) if found is None else found.made.digest,
            reason=reason,  # type: ignore[arg-type]  # why_not gives Reasons
            hint=None if self.leading else self._primary,
            learners=learners[:MAX_NAMED],
        )

    def _heard(self, peer: bytes, message: Said, now_ms: int) -> Effects:
        effects: Effects = []
        try:
            match message:
                case Push():
                    effects = self._pushed(peer, message, now_ms)
                case Endorse():
                    effects = self._endorsed(peer, message)
                case Records():
                    effects = self._adopt(message)
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
        refused = self.screen(peer, push)
        if refused is not None:
            return [Say(peer, refused)]
        found = self._found(push)
        assert found is not None
        if self.log.has(found):
            return [Say(peer, self._acked(found.made))]
        digest = found.made.digest
        self._answers.setdefault(digest, {})[peer] = None
        if self._is_coming(found):
            return []
        for learner in found.learners:
            self._coming[(found.made.number, learner)] = digest
        self._closing.came(found, now_ms)
        body = Taken(group=self._set.group, said=push.said)
        return [self._propose(body, (Blob(digest, found.made.size),), found)]

    def _propose(
        self, body: Taken | Closed, blobs: tuple[Blob, ...], of: Pending | None
    ) -> Propose:
        self._tag += 1
        self._tags[self._tag] = of
        return Propose(encode_body(body), blobs, self._tag)

    def _declined(self, tag: int, now_ms: int) -> None:
        """Whoever made the offer makes it again; a round is aggregated again."""
        if tag not in self._tags:
            return
        found = self._tags.pop(tag)
        if found is None:
            self._parts, self._not_before = None, now_ms + RETRY_MS
            return
        self._answers.pop(found.made.digest, None)
        self._forget_coming(found)

    def _forget_coming(self, found: Pending) -> None:
        for learner in found.learners:
            self._coming.pop((found.made.number, learner), None)

    def _acked(self, made: Made) -> Acked:
        return Acked(
            model=self._set.model, group=self._set.group, number=made.number, digest=made.digest
        )

    def _here(self) -> Here:
        return Here(
            model=self._set.model,
            group=self._set.group,
            term=self._term,
            primary=self._primary,
            number=self.log.number,
        )

    # -- the log ------------------------------------------------------------------------------

    def _lead(self, term: Term, primary: bytes | None, now_ms: int) -> Effects:
        self._term, self._primary = term, primary
        self._answers.clear()
        self._coming.clear()
        self._tags.clear()
        self._parts = None
        self._not_before = now_ms
        self._closing.led(now_ms)
        return self._endorse_again(now_ms) if self.leading else []

    def _committed(self, data: bytes, now_ms: int) -> Effects:
        body = decode_body(data)
        if isinstance(body, Taken):
            return self._taken(body)
        changed = self.log.apply(body)
        if isinstance(body, Standing):
            return [] if body.last is None else self._decided(body.last, None)
        if not changed:
            return []
        self._closing.closed(now_ms)
        self._parts = None
        inputs = tuple(entry.digest for entry in body.round.inputs)
        self._kept.append((*inputs, *body.dropped))
        return [*self._decided(body.round, body.state), *self._release()]

    def _taken(self, body: Taken) -> Effects:
        found = pending_of(body.said, self._set.group)
        if found is None:
            return []
        self._forget_coming(found)
        waiting = self._answers.pop(found.made.digest, {})
        self.log.apply(body)
        if self.log.has(found):
            return [Say(peer, self._acked(found.made)) for peer in waiting]
        refused = self._refused(found, self.log.why_not(found) or "stale")
        return [Say(peer, refused) for peer in waiting]

    def _decided(self, decided: Round, state: Blob | None) -> Effects:
        endorse, record = self._endorsing.committed(decided)
        effects: Effects = [Advance(decided, state)]
        if endorse is not None:
            effects += [Say(peer, endorse) for peer in self._endorsing.others]
        return effects + (self._recorded(record) if record is not None else [])

    def _release(self) -> Effects:
        if len(self._kept) <= KEEP_ROUNDS:
            return []
        old = tuple(digest for digest in self._kept.pop(0) if digest not in self.log.pending)
        return [Release(old)] if old else []

    # -- records ------------------------------------------------------------------------------

    def _endorsed(self, peer: bytes, said: Endorse) -> Effects:
        known = self._endorsing.record(said.number)
        if known is not None:
            signed = {one.replica for one in known.by}
            return [] if peer in signed else [Say(peer, self._telling.records(said.number, most=1))]
        record = self._endorsing.endorsed(peer, said)
        return [] if record is None else self._recorded(record)

    def _adopt(self, message: Records) -> Effects:
        effects: Effects = []
        for record in message.records:
            if record.round.model == self._set.model and record.round.group == self._set.group:
                adopted = self._endorsing.adopt(record)
                effects += [] if adopted is None else self._recorded(adopted)
        return effects

    def _recorded(self, record: Record) -> Effects:
        number = record.round.number
        key = record_key(self._set.model, self._set.group, number)
        return [
            Save(TABLE, key, encode(record)),
            *self._telling.tell(number),
            Emit(
                "learn.round",
                {
                    "group": self._set.group,
                    "number": number,
                    "inputs": len(record.round.inputs),
                    "bytes": record.round.size,
                },
            ),
        ]

    # -- closing ------------------------------------------------------------------------------

    def _may_close(self, now_ms: int) -> Effects:
        if not self.leading or self._parts is not None or now_ms < self._not_before:
            return []
        due = self._closing.due(now_ms)
        if due is None or now_ms < due:
            return []
        self._parts = tuple(
            Part(it.source, Blob(it.made.digest, it.made.size), it.weight, it.is_sum)
            for it in self._closing.usable()
        )
        self._ticket += 1
        return [Aggregate(self._ticket, self.log.number, self.log.head, self._parts)]

    def _aggregated(self, made: Aggregated) -> Effects:
        if made.ticket != self._ticket or self._parts is None or not self.leading:
            return []
        bad = set(made.bad) | (self._closing.bad & self.log.pending.keys())
        used = [
            Input(part.source, part.blob.digest, share, part.weight if part.is_sum else 0)
            for part, share in zip(self._parts, made.shares, strict=True)
            if part.blob.digest not in bad
        ]
        spread = self._closing.spread()
        decided = Round(
            model=self._set.model,
            group=self._set.group,
            number=self.log.number,
            epoch=self._set.epoch,
            parent=self.log.head,
            head=made.head,
            result=made.result.digest,
            size=made.result.size,
            inputs=tuple(used),
        )
        dropped = tuple(sorted(bad))
        body = Closed(round=decided, dropped=dropped, spread=spread, state=made.state)
        blobs = (made.result,) if made.state is None else (made.result, made.state)
        return [self._propose(body, blobs, None)]

    def _not_aggregated(self, failed: NotAggregated, now_ms: int) -> Effects:
        if failed.ticket != self._ticket or self._parts is None:
            return []
        self._parts = None
        fewer = self._closing.cannot_use(failed.bad)
        self._not_before = now_ms + (0 if fewer else RETRY_MS)
        return [Emit("learn.not-aggregated", {"group": self._set.group, "why": failed.why})]

    # -- time ---------------------------------------------------------------------------------

    def _repeat(self, now_ms: int) -> Effects:
        self._telling.expire(now_ms)
        return self._endorse_again(now_ms) if now_ms >= self._again_at else []

    def _endorse_again(self, now_ms: int) -> Effects:
        self._again_at = now_ms + AGAIN_MS
        said = self._endorsing.again()
        return [Say(peer, one) for one in said for peer in self._endorsing.others]

    @property
    def next_wake(self) -> int | None:
        """When a Tick is wanted, in ms of the same clock."""
        times: list[int] = []
        if self._endorsing.open:
            times.append(self._again_at)
        times += self._telling.watchers.values()
        if self.leading and self._parts is None:
            due = self._closing.wake()
            times += [] if due is None else [max(due, self._not_before)]
        return min(times, default=None)
