"""A learner: trains from the groups' newest versions, sends what it learned, applies what comes.

    Resumed      the worker has these versions loaded               -> Say, Train
    Paused       the worker is gone, or is to rest
    Heard        a message, whose blobs are on our disk             -> Say, Apply, GiveBack, CatchUp
    Trained      the steps are done                                 -> Train, Encode
    Encoded      the deltas are on our disk                         -> Say, Train
    Applied, NotApplied, CaughtUp, NotCaughtUp    what the worker, or the driver, was asked for
    Routed       our region's aggregator is another, or none        -> Say
    Tick         time passes                                        -> Say, Encode, GiveBack

Rules of this file:
1. One claim for each receiver: the deltas of all groups that it is to have, signed once.
2. What is sent is what changed since the last that was sent (the worker's rule: delta = ref -
   local + e, then ref = local; by a result, base = new, local = new + local - ref, ref = new). So
   what is not sent is in the next delta; only what was encoded and refused is given back to e.
3. It sends one delta for a group and round. The first steps of the next it trains while the round
   is open (`ahead`), then it waits for the rounds' records; for one slow group it waits LAG
   patiences and no longer: it goes on with the others.
4. Results are applied in order, by records alone (following.py).
5. An aggregator that keeps silent costs one bounded wait: then the primary has it directly.
"""

from collections.abc import Mapping

import msgspec

from protocols.effects import Blame, Emit
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.claims import Claim, Made, claim_message
from protocols.learn.following import BadRoundError, Following, Seating
from protocols.learn.learner_ports import (
    Applied,
    Apply,
    CatchUp,
    CaughtUp,
    Effects,
    Encode,
    Encoded,
    Event,
    GiveBack,
    LearnerSettings,
    NotApplied,
    NotCaughtUp,
    Paused,
    Resumed,
    Routed,
    Silent,
    State,
    Train,
    Trained,
)
from protocols.learn.messages import (
    Acked,
    Ask,
    Held,
    Here,
    Mark,
    Push,
    Records,
    Refused,
    Said,
    Watch,
)
from protocols.learn.outbox import Outbox, Sent
from protocols.learn.primaries import Primaries
from protocols.learn.round_ports import WATCH_MS, Heard, Say, Tick
from protocols.plan import MILLE, Phase

LAG = 2
"""Patiences of the plan that the slowest group is waited for, once another has advanced."""
HELD = 2
"""Patiences of the plan for which an aggregator that has our delta may take to have it acked: it
waits for its region, and the primary may have to be found."""
LATE = 130
"""Hundredths of a group's last interval between rounds, after which a learner asks for news."""
SIGNATURE = bytes(64)


class Learner:
    """The machine."""

    def __init__(
        self, settings: LearnerSettings, seats: Seating, sign: Sign, verify: Verify, epoch: int
    ) -> None:
        self._set = settings
        self._sign = sign
        self.primaries = Primaries(settings.model, seats, epoch)
        """Its `epoch` is the ledger's: the driver moves it, and says Tick."""
        self._epoch = epoch
        self.groups = {
            number: Following(settings.model, number, settings.realm, seats, verify)
            for number in settings.groups
        }
        self.state: State = "paused"
        self._seq = 0
        self._phase: Phase = settings.plan.phases[0]
        self._done = 0
        """Steps of the next round that are trained already."""
        self._began_from: dict[int, int] = {}
        """Each group's open round when the last of the steps began."""
        self._passed: set[int] = set()
        """Groups that were left out of the last deltas: never twice in a row."""
        self._out = Outbox()
        self._sent: dict[int, int] = {}
        """The round of the newest delta of each group."""
        self._aggregator: bytes | None = None
        self._moved_at: int | None = None
        """Since when there is a group that could be encoded, while others are waited for."""
        self._watch_at = 0
        self._ask_at: dict[int, int] = {}
        self._asked: set[int] = set()
        """Groups of which nothing came by itself for long."""
        self._far_at: dict[int, int] = {}
        """When a record was last asked for that says which version to take."""
        self._news_at: dict[int, int] = {}
        self._interval: dict[int, int] = {}
        """Between a group's last two rounds."""
        self._turn = 0

    def handle(self, event: Event, now_ms: int) -> Effects:
        """What follows from `event` at `now_ms` (of a clock that never runs backwards)."""
        return [*self._new_epoch(now_ms), *self._told(event, now_ms), *self._go_on(now_ms)]

    def _new_epoch(self, now_ms: int) -> Effects:
        """A new epoch has other replicas, who know nobody that watches."""
        if self._epoch == self.primaries.epoch:
            return []
        self._epoch = self.primaries.epoch
        if self.state == "paused":
            return []
        return [*(it for group in self.groups for it in self._where(group)), *self._watch(now_ms)]

    def _told(self, event: Event, now_ms: int) -> Effects:
        effects: Effects = []
        match event:
            case Resumed(versions):
                effects = self._resume(versions, now_ms)
            case Heard(peer, message):
                effects = self._heard(peer, message, now_ms)
            case Encoded():
                effects = self._encoded(event, now_ms)
            case Applied(group, number, head):
                effects = self._applied(group, number, head)
            case Routed(aggregator):
                effects = self._routed(aggregator, now_ms)
            case Tick():
                effects = self._tick(now_ms)
            case _:
                self._note(event)
        return effects

    def _note(self, event: Paused | Trained | NotApplied | CaughtUp | NotCaughtUp) -> None:
        match event:
            case Paused():
                self.state = "paused"
                for following in self.groups.values():
                    following.not_applied()
            case Trained(seq) if seq == self._seq and self.state in ("ahead", "training"):
                self.state = "waiting" if self.state == "ahead" else "trained"
            case Trained():
                pass
            case NotApplied(group):
                self.groups[group].not_applied()
            case CaughtUp(group, number, head):
                self.groups[group].reset(number, head)
            case NotCaughtUp(group):
                self.groups[group].skipping = None

    # -- the work -----------------------------------------------------------------------------

    def _resume(self, versions: Mapping[int, tuple[int, bytes]], now_ms: int) -> Effects:
        for group, (number, head) in versions.items():
            self.groups[group].reset(number, head)
        self.state, self._moved_at, self._done = "idle", None, 0
        return self._watch(now_ms)

    def _go_on(self, now_ms: int) -> Effects:
        effects = self._apply_next()
        if self.state == "trained" and self._may_encode():
            return [*effects, self._encode()]
        if self.state in ("idle", "waiting") and self._settled(now_ms):
            return [*effects, self._train()]
        if self.state == "idle" and self._begin() > 0:
            self.state, self._done = "ahead", self._begin()
            return [*effects, self._order(self._done)]
        return effects

    def _begin(self) -> int:
        """Look at the next round's phase; how many of its steps are trained before it is open."""
        self._phase = self._set.plan.phase_of(min(it.number for it in self.groups.values()))
        return self._phase.steps * self._set.ahead // MILLE

    def _train(self) -> Train:
        """What is left of the round's steps."""
        if self.state == "idle":
            self._begin()
            self._done = 0
        self.state, self._moved_at = "training", None
        self._began_from = {group: it.number for group, it in self.groups.items()}
        return self._order(max(1, self._phase.steps - self._done))

    def _order(self, steps: int) -> Train:
        self._seq += 1
        return Train(self._seq, steps, self._phase.steps == 1, self._phase)

    def _encode(self) -> Encode:
        self.state = "encoding"
        return Encode(self._seq, self._in_step(), self._phase.up, self._phase)

    def _in_step(self) -> tuple[int, ...]:
        """The groups that are ready, but for those whose round closed while we trained, if others'
        did not: sent now, their next delta would come a whole training before everybody's, and the
        others' after; then each round would wait for us, and we for it. They miss one turn, and
        what was learned is in their next delta."""
        ready = [group for group in self.groups if self._ready(group)]
        moved = {it for it in ready if self.groups[it].number != self._began_from.get(it)}
        passed = moved - self._passed if len(moved) < len(ready) else set()
        self._passed = passed
        return tuple(group for group in ready if group not in passed)

    def _ready(self, group: int) -> bool:
        """Whether a delta for its open round may be made: none was, and we have the base."""
        following = self.groups[group]
        if following.applying is not None or following.skipping is not None or following.behind:
            return False
        return self._sent.get(group, -1) < following.number

    @property
    def _applying(self) -> bool:
        return any(following.applying is not None for following in self.groups.values())

    def _may_encode(self) -> bool:
        return not self._applying and any(self._ready(group) for group in self.groups)

    def _settled(self, now_ms: int) -> bool:
        """Whether to go on: all groups are ready, or some are and the others had their time."""
        if self._applying:
            return False
        ready = sum(self._ready(group) for group in self.groups)
        if ready == len(self.groups):
            return True
        if ready == 0:
            self._moved_at = None
            return False
        if self._moved_at is None:
            self._moved_at = now_ms
        return now_ms >= self._moved_at + LAG * self._set.plan.patience_ms

    def _encoded(self, event: Encoded, now_ms: int) -> Effects:
        if event.seq != self._seq or self.state != "encoding":
            return []
        self.state = "idle"
        made = [
            Made(group, self.groups[group].number, self.groups[group].head, blob.digest, blob.size)
            for group, blob in sorted(event.made.items())
        ]
        for one in made:
            self._sent[one.group] = one.number
        return self._send_out(made, now_ms)

    # -- sending ------------------------------------------------------------------------------

    def _send_out(self, made: list[Made], now_ms: int) -> Effects:
        by: dict[bytes | None, list[Made]] = {}
        for one in made:
            to = self._aggregator or self.primaries.of(one.group)
            by.setdefault(to, []).append(one)
        effects: Effects = []
        for to, its in by.items():
            claim = self._claim(its)
            for one in its:
                self._out.add(Sent(claim, one, to, now_ms, self._wait(to)))
            effects += self._push(claim, to, tuple(one.group for one in its))
        return effects

    def _push(self, claim: Claim, to: bytes | None, groups: tuple[int, ...]) -> list[Say]:
        if to is None:
            return [where for group in groups for where in self._where(group)]
        return [Say(to, Push(said=claim, groups=groups, relay=to == self._aggregator))]

    def _claim(self, made: list[Made]) -> Claim:
        claim = Claim(
            model=self._set.model,
            learner=self._set.me,
            steps=self._phase.steps,
            made=tuple(made),
            signature=SIGNATURE,
        )
        signature = self._sign(claim_message(self._set.realm, claim))
        return msgspec.structs.replace(claim, signature=signature)

    def _wait(self, to: bytes | None) -> int:
        relayed = to is not None and to == self._aggregator
        return self._set.relay_ms if relayed else self._set.ack_ms

    def _where(self, group: int) -> list[Say]:
        return [Say(to, where) for to, where in self.primaries.ask(group)]

    def _resend(self, sent: Sent, to: bytes | None, now_ms: int) -> Effects:
        sent.again(to, now_ms, self._wait(to))
        return [*self._push(sent.claim, to, (sent.made.group,))]

    def _give_back(self, sent: Sent) -> Effects:
        """It reaches nobody; if its round is still open, another may be sent for it."""
        group, number = sent.made.group, sent.made.number
        self._out.done(group, sent.made.digest)
        if self._sent.get(group) == number:
            self._sent[group] = number - 1
        return [GiveBack(group, sent.made.digest)]

    # -- what is said to us -------------------------------------------------------------------

    def _heard(self, peer: bytes, message: Said, now_ms: int) -> Effects:
        effects: Effects = []
        if isinstance(message, Held):
            self._held(peer, message, now_ms)
        if not isinstance(message, Acked | Refused | Records | Here):
            return effects
        if message.model != self._set.model or message.group not in self.groups:
            return effects
        try:
            match message:
                case Acked(group=group, digest=digest):
                    self._acked(peer, group, digest)
                case Refused():
                    effects = self._was_refused(peer, message, now_ms)
                case Records():
                    effects = self._records(peer, message, now_ms)
                case Here():
                    effects = self._here(peer, message, now_ms)
        except MalformedError as error:
            effects = [Blame(peer, Fault.MALFORMED, f"learning: {error}")]
        return effects

    def _held(self, peer: bytes, said: Held, now_ms: int) -> None:
        digests = set(said.digests)
        for sent in self._out:
            if sent.made.digest in digests and sent.to == peer and not sent.held:
                sent.held, sent.at = True, now_ms
                sent.wait_ms = self._set.relay_ms + HELD * self._set.plan.patience_ms

    def _acked(self, peer: bytes, group: int, digest: bytes) -> None:
        sent = self._out.find(group, digest)
        if sent is not None and self._may_answer(peer, sent):
            self._out.done(group, digest)

    def _may_answer(self, peer: bytes, sent: Sent) -> bool:
        return peer == sent.to or peer in self.primaries.replicas(sent.made.group)

    def _was_refused(self, peer: bytes, said: Refused, now_ms: int) -> Effects:
        sent = self._out.find(said.group, said.digest)
        if sent is None or not self._may_answer(peer, sent):
            return []
        effects: Effects = []
        match said.reason:
            case "duplicate":
                self._out.done(said.group, said.digest)  # taken before, in a sum or directly
            case "stale" | "malformed":
                effects = self._give_back(sent)
            case "base":
                effects = self._on_wrong_base(sent, said, now_ms)
            case "not-leading" | "not-here":
                hint = said.hint
                known = hint in self.primaries.replicas(said.group)
                if known and hint not in (peer, sent.to):
                    effects = self._resend(sent, hint, now_ms)
                effects = [*effects, *self._where(said.group)]
            case "full" | "overlap":
                if peer == self._aggregator:
                    # As good as silent: it cannot sum, or nobody takes its sums.
                    effects = self._resend(sent, self.primaries.of(said.group), now_ms)
                    effects = [*effects, Silent(peer)] if said.reason == "full" else effects
        return effects

    def _on_wrong_base(self, sent: Sent, said: Refused, now_ms: int) -> Effects:
        """It takes ours no more, or (a primary that has just begun) does not know it yet."""
        following = self.groups[said.group]
        following.known = max(following.known, said.number)
        asked = self._ask(said.group, now_ms) if following.behind else []
        return [*asked, *self._give_back(sent)] if said.number >= sent.made.number else asked

    def _records(self, peer: bytes, message: Records, now_ms: int) -> Effects:
        following = self.groups[message.group]
        skipping = following.skipping
        new = following.hear(message)
        effects: Effects = []
        for record in new:
            for entry in record.round.inputs:
                if entry.learner == self._set.me:
                    self._out.done(message.group, entry.digest)
        target = following.skipping
        if target is not None and target is not skipping:
            effects.append(CatchUp(message.group, target.round.number + 1, target.round.head))
        elif self._too_far(message, now_ms) and not new:
            # The newest record says which version to take.
            newest = max(message.number - 1, 0)
            ask = Ask(model=self._set.model, group=message.group, number=newest)
            effects.append(Say(peer, ask))
        self._rest(message.group, now_ms, new=bool(new))
        if new and message.group in self._asked:
            # Whoever we watch should have told us: it is gone, or was started anew.
            effects += [*self._where(message.group), *self._watch(now_ms)]
        self._asked.discard(message.group)
        return effects

    def _too_far(self, message: Records, now_ms: int) -> bool:
        """Whether we are behind all results that are kept; looked at now and then."""
        following, group = self.groups[message.group], message.group
        if not following.behind or message.oldest <= following.number:
            return False
        asked = self._far_at.get(group)
        if asked is not None and now_ms < asked + self._set.ask_ms:
            return False
        self._far_at[group] = now_ms
        return True

    def _rest(self, group: int, now_ms: int, *, new: bool) -> None:
        """Look again in a while."""
        if new:
            before, self._news_at[group] = self._news_at.get(group), now_ms
            if before is not None:
                self._interval[group] = now_ms - before
        self._ask_at[group] = now_ms + self._set.ask_ms

    def _look(self, group: int, now_ms: int) -> Effects:
        """Ask, where something is known to be lacking, or no round came for twice the usual."""
        usual = self._interval.get(group, 0) * LATE // 100
        quiet_until = self._news_at.get(group, 0) + usual
        if self.groups[group].behind or now_ms >= quiet_until:
            self._asked.add(group)
            return self._ask(group, now_ms)
        self._ask_at[group] = quiet_until
        return []

    def _here(self, peer: bytes, said: Here, now_ms: int) -> Effects:
        self.groups[said.group].known = max(self.groups[said.group].known, said.number)
        if not self.primaries.hear(peer, said):
            return []
        primary = self.primaries.of(said.group)
        effects: Effects = []
        for sent in self._out.of(said.group):
            if sent.to not in (self._aggregator, primary):
                effects += self._resend(sent, primary, now_ms)
        return [*effects, *(self._watch(now_ms) if self._aggregator is None else [])]

    # -- results ------------------------------------------------------------------------------

    def _apply_next(self) -> Effects:
        if self.state in ("paused", "encoding"):
            return []
        effects: Effects = []
        for group, following in self.groups.items():
            try:
                decided = following.next_round()
            except BadRoundError as error:
                effects += self._unsound(group, error)
                continue
            if decided is not None:
                effects.append(Apply(decided))
        return effects

    def _applied(self, group: int, number: int, head: bytes) -> Effects:
        following = self.groups[group]
        try:
            following.applied(number, head)
        except BadRoundError as error:
            return self._unsound(group, error)
        effects: Effects = []
        for sent in self._out.of(group):
            if sent.made.number < following.number - 1:
                effects += self._give_back(sent)
        return effects

    def _unsound(self, group: int, error: BadRoundError) -> Effects:
        """Take a whole version in place of one that does not lead on."""
        following = self.groups[group]
        record = following.newest
        if record is None:
            return []
        following.skipping = record
        told = Emit("learn.bad-round", {"group": group, "why": str(error)})
        return [told, CatchUp(group, record.round.number + 1, record.round.head)]

    # -- time, and ways -----------------------------------------------------------------------

    def _routed(self, aggregator: bytes | None, now_ms: int) -> Effects:
        if aggregator == self._aggregator:
            return []
        old, self._aggregator = self._aggregator, aggregator
        effects: Effects = []
        for sent in self._out:
            if sent.to == old and old is not None:
                effects += self._resend(sent, self.primaries.of(sent.made.group), now_ms)
        return [*effects, *self._watch(now_ms)]

    def _watch(self, now_ms: int) -> Effects:
        """Be sent rounds by the aggregator, or by each group's primary."""
        self._watch_at = now_ms + WATCH_MS // 3
        by: dict[bytes, list[Mark]] = {}
        for group, following in sorted(self.groups.items()):
            to = self._aggregator or self.primaries.of(group)
            if to is not None:
                by.setdefault(to, []).append(Mark(group, following.number))
            self._rest(group, now_ms, new=False)
        watches = [(to, Watch(model=self._set.model, marks=tuple(its))) for to, its in by.items()]
        return [Say(to, watch) for to, watch in watches]

    def _ask(self, group: int, now_ms: int) -> Effects:
        """For the rounds that we lack, one source after another."""
        self._ask_at[group] = now_ms + self._set.ask_ms
        sources = list(dict.fromkeys([*self.primaries.replicas(group), self._aggregator]))
        known = [peer for peer in sources if peer is not None and peer != self._set.me]
        if not known:
            return []
        self._turn += 1
        number = self.groups[group].number
        ask = Ask(model=self._set.model, group=group, number=number)
        return [Say(known[self._turn % len(known)], ask)]

    def _tick(self, now_ms: int) -> Effects:
        effects: Effects = []
        for sent in self._out:
            if sent.due <= now_ms:
                effects += self._overdue(sent, now_ms)
        if self.state != "paused":
            for group, at in list(self._ask_at.items()):
                if at <= now_ms:
                    effects += self._look(group, now_ms)
            if self._watch_at <= now_ms:
                effects += self._watch(now_ms)
        return effects

    def _overdue(self, sent: Sent, now_ms: int) -> Effects:
        group = sent.made.group
        primary = self.primaries.of(group)
        if sent.to is not None and sent.to == self._aggregator:
            silent: Effects = [] if sent.held else [Silent(sent.to)]
            return [*silent, *self._resend(sent, primary, now_ms)]
        # The primary may be another by now: who leads is asked beside sending again.
        return [*self._resend(sent, primary, now_ms), *self._where(group)]

    @property
    def next_wake(self) -> int | None:
        """When a Tick is wanted, in ms of the same clock."""
        times = [] if self._out.due is None else [self._out.due]
        if self.state != "paused":
            times += [self._watch_at, *self._ask_at.values()]
            waits = self.state in ("idle", "waiting") and not self._applying
            if self._moved_at is not None and waits:
                times.append(self._moved_at + LAG * self._set.plan.patience_ms)
        return min(times, default=None)
