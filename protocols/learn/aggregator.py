"""A region's aggregator: many learners' deltas become one sum, and one result goes out to many.

    Heard        a message, whose blobs are on our disk         -> Say, Combine, Release
    Combined     what Combine made                              -> Save, Say
    NotCombined  it could not                                   -> Say
    Restored     sums of our own disk, after a start
    Tick         time passes                                    -> Combine, Say, Release

Rules of this file:
1. The sum is what the stated rule makes of what it names, and of nothing else: the robust mean of
   its inputs, and what the sum before left out (`carry`), encoded by the phase's `up` codec; what
   that leaves out is named, too. So anybody can make each of them again, and nothing is lost for
   good by encoding twice. Of one learner alone its own delta is passed on.
2. The signed claims and their deltas are kept for KEEP_MS, so that anybody can (audit.py).
3. A learner is told Held at once, and Acked when the primary acknowledged the sum; what the
   primary refuses is refused to the learners whose deltas are in it.
4. A learner that comes after its region's sum has left is in the next one; whoever asks us for
   more than we can do is refused, and goes to another aggregator or straight to the primary.
5. Rounds are passed on by their records alone (relay.py).
"""

import msgspec

from protocols.effects import Blame
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.aggregator_ports import (
    MAX_TRIES,
    SUM_ACK_MS,
    AggregatorSettings,
    Combine,
    Combined,
    Effects,
    Event,
    NotCombined,
    Restored,
)
from protocols.learn.batch import Batch, Batches
from protocols.learn.claims import Carried, Claim, Made, Sum, check_signed, claim_message
from protocols.learn.following import Seating
from protocols.learn.keeping import Keeping
from protocols.learn.messages import (
    Acked,
    Ask,
    Blob,
    Held,
    Here,
    Prove,
    Push,
    Reason,
    Records,
    Refused,
    Said,
    Stage,
    Watch,
)
from protocols.learn.primaries import Primaries
from protocols.learn.relay import Relay, Relays
from protocols.learn.round_ports import WATCH_MS, Heard, Part, Say, Tick


class Aggregator:
    """The machine."""

    def __init__(
        self, settings: AggregatorSettings, seats: Seating, sign: Sign, verify: Verify, epoch: int
    ) -> None:
        self._set = settings
        self._sign = sign
        self._verify = verify
        self.primaries = Primaries(settings.model, seats, epoch)
        relays = {
            group: Relay(settings.model, group, settings.realm, seats, verify)
            for group in settings.groups
        }
        self._relays = Relays(settings.model, relays, self.primaries, settings.nearest)
        self._batches = Batches(settings.plan)
        self._tickets: dict[int, Batch] = {}
        self._ticket = 0
        self._learners: dict[bytes, int] = {}
        """Whom we serve, and until when they count."""
        self._kept = Keeping(settings.model)
        self._last: dict[int, Sum] = {}
        """Of each group, the last sum that was acknowledged: what it left is carried on."""
        self._epoch = epoch

    def handle(self, event: Event, now_ms: int) -> Effects:
        """What follows from `event` at `now_ms` (of a clock that never runs backwards)."""
        effects = self._new_epoch(now_ms)
        match event:
            case Heard(peer, message):
                effects += self._heard(peer, message, now_ms)
            case Combined():
                effects += self._combined(event, now_ms)
            case NotCombined(ticket, bad):
                effects += self._not_combined(ticket, bad)
            case Restored(kept):
                self._kept.restore(kept)
            case Tick():
                effects += self._tick(now_ms)
        return [*effects, *self._combine_due(now_ms)]

    def _new_epoch(self, now_ms: int) -> Effects:
        if self._epoch == self.primaries.epoch:
            return []
        self._epoch = self.primaries.epoch
        return [*self._relays.turned(now_ms)]

    # -- learners' deltas ---------------------------------------------------------------------

    def screen(self, peer: bytes, push: Push, now_ms: int) -> list[Refused]:
        """What of a Push is refused without a look at its bytes; empty: fetch them, and say Heard.
        Raises BadClaimError."""
        said = push.said
        if not isinstance(said, Claim) or said.learner != peer:
            return []  # nobody's but the learner's own: it is not heard of
        made = [one for one in said.made if one.group in push.groups]
        reasons = [(one, self._why_not(said, one, now_ms)) for one in made]
        refused = [self._refused(one, reason) for one, reason in reasons if reason is not None]
        if not refused:
            check_signed(self._set.realm, said, self._verify)
        return refused

    def _why_not(self, claim: Claim, made: Made, now_ms: int) -> Reason | None:
        relay = self._relays.of(made.group)
        reason: Reason | None = None
        if relay is None or claim.model != self._set.model:
            reason = "not-here"
        elif made.size > self._set.max_delta:
            reason = "malformed"
        elif relay.number is not None and made.number < relay.number - 1:
            reason = "stale"
        elif relay.number == made.number and relay.base != made.base:
            reason = "base"
        elif not (self._serves(claim, now_ms) and self._batches.has_room(claim, made)):
            reason = "full"
        return reason

    def _serves(self, claim: Claim, now_ms: int) -> bool:
        if not self._set.able():
            return False
        crowded = len(self._learners) >= self._set.fan_in
        if crowded and self._learners.get(claim.learner, 0) <= now_ms:
            return False
        return self._set.may_learn(claim.learner)

    def _refused(self, made: Made, reason: Reason) -> Refused:
        relay = self._relays.of(made.group)
        return Refused(
            model=self._set.model,
            group=made.group,
            number=(relay.number if relay else None) or 0,
            base=(relay.base if relay else None) or made.base,
            digest=made.digest,
            reason=reason,
            hint=self.primaries.of(made.group),
        )

    def _heard(self, peer: bytes, message: Said, now_ms: int) -> Effects:
        effects: Effects = []
        try:
            match message:
                case Push(said=Claim()):
                    effects = self._pushed(peer, message, now_ms)
                case Acked():
                    effects = self._acked(peer, message)
                case Refused():
                    effects = self._was_refused(peer, message, now_ms)
                case Here():
                    effects = self._here(peer, message, now_ms)
                case Records():
                    effects = self._records(message)
                case Watch():
                    effects = [*self._relays.watched(peer, message, now_ms)]
                case Ask():
                    effects = [*self._relays.asked(peer, message)]
                case Prove():
                    effects = self._prove(peer, message)
                case _:
                    pass
        except MalformedError as error:
            return [Blame(peer, Fault.MALFORMED, f"learning: {error}")]
        return effects

    def _pushed(self, peer: bytes, push: Push, now_ms: int) -> Effects:
        claim = push.said
        if not isinstance(claim, Claim) or claim.learner != peer:
            return []
        refused = self.screen(peer, push, now_ms)
        no = {one.group for one in refused}
        if no:
            check_signed(self._set.realm, claim, self._verify)
        self._serve(peer, now_ms)
        effects: Effects = [Say(peer, one) for one in refused]
        taken = [it for it in claim.made if it.group in push.groups and it.group not in no]
        if taken:
            digests = tuple(made.digest for made in taken)
            held = Held(model=self._set.model, number=taken[0].number, digests=digests)
            effects.append(Say(peer, held))
        for made in taken:
            effects += self._take(claim, made, now_ms)
        return effects

    def _serve(self, peer: bytes, now_ms: int) -> None:
        for gone in [it for it, until in self._learners.items() if until <= now_ms]:
            del self._learners[gone]
        if peer in self._learners or len(self._learners) < self._set.fan_in:
            self._learners[peer] = now_ms + WATCH_MS

    def _take(self, claim: Claim, made: Made, now_ms: int) -> Effects:
        known = self._batches.take(claim, made, now_ms)
        if known is None:
            return []
        if known.claims[claim.learner][1].digest != made.digest:
            return [Say(claim.learner, self._refused(made, "duplicate"))]
        return [Say(claim.learner, self._ack(made))] if known.state == "done" else []

    def _ack(self, made: Made) -> Acked:
        return Acked(
            model=self._set.model, group=made.group, number=made.number, digest=made.digest
        )

    # -- sums ---------------------------------------------------------------------------------

    def _combine_due(self, now_ms: int) -> Effects:
        effects: Effects = []
        for batch in self._batches:
            if batch.is_open and self._batches.due(batch, now_ms) <= now_ms:
                effects += self._combine(batch, now_ms)
        return effects

    def _combine(self, batch: Batch, now_ms: int) -> Effects:
        if len(batch.claims) == 1:
            ((claim, _),) = batch.claims.values()
            return self._send(batch, claim, now_ms)
        batch.state = "combining"
        self._ticket += 1
        self._tickets[self._ticket] = batch
        parts = tuple(
            Part(learner, Blob(made.digest, made.size), 1)
            for learner, (_, made) in sorted(batch.claims.items())
        )
        batch.before = self._last.get(batch.group)
        left = None if batch.before is None else batch.before.left
        return [
            Combine(
                self._ticket,
                batch.group,
                batch.number,
                batch.base,
                parts,
                self._set.plan.phase_of(batch.number).up,
                None if left is None else Blob(left.digest, left.size),
            )
        ]

    def _combined(self, made: Combined, now_ms: int) -> Effects:
        batch = self._tickets.pop(made.ticket, None)
        if batch is None or batch.state != "combining":
            return []
        effects = self._drop_bad(batch, made.bad)
        its = Made(batch.group, batch.number, batch.base, made.blob.digest, made.blob.size)
        unsigned = Sum(
            model=self._set.model,
            aggregator=self._set.me,
            made=its,
            inputs=batch.inputs(),
            carry=None if batch.before is None else batch.before.left,
            left=None if made.left is None else Carried(made.left.digest, made.left.size),
            signature=bytes(64),
        )
        signature = self._sign(claim_message(self._set.realm, unsigned))
        said = msgspec.structs.replace(unsigned, signature=signature)
        effects += self._keep(batch, said, now_ms)
        return [*effects, *self._stage(its), *self._send(batch, said, now_ms)]

    def _stage(self, its: Made) -> Effects:
        """To the replica in our region, if there is one that follows."""
        near = self._set.nearest(self.primaries.replicas(its.group))
        if near is None or near in (self._set.me, self.primaries.of(its.group)):
            return []
        blob = Blob(its.digest, its.size)
        return [Say(near, Stage(model=self._set.model, group=its.group, blob=blob))]

    def _keep(self, batch: Batch, said: Sum, now_ms: int) -> Effects:
        claims = tuple(claim for _, (claim, _) in sorted(batch.claims.items()))
        before = batch.before if said.carry is not None else None
        return [*self._kept.keep(said, before, claims, now_ms)]

    def _not_combined(self, ticket: int, bad: tuple[bytes, ...]) -> Effects:
        batch = self._tickets.pop(ticket, None)
        if batch is None:
            return []
        effects = self._drop_bad(batch, bad)
        return [*effects, *self._dissolve(batch, "full")]

    def _drop_bad(self, batch: Batch, bad: tuple[bytes, ...]) -> Effects:
        return [
            Say(learner, self._refused(batch.claims.pop(learner)[1], "malformed"))
            for learner in bad
            if learner in batch.claims
        ]

    def _dissolve(self, batch: Batch, reason: Reason) -> Effects:
        """Its learners go their own ways."""
        self._batches.remove(batch)
        return [
            Say(learner, self._refused(made, reason)) for learner, (_, made) in batch.claims.items()
        ]

    def _send(self, batch: Batch, said: Sum | Claim, now_ms: int) -> Effects:
        batch.state, batch.said = "sent", said
        return self._push(batch, now_ms)

    def _push(self, batch: Batch, now_ms: int) -> Effects:
        batch.to, batch.at = self.primaries.of(batch.group), now_ms
        if batch.to is None or batch.said is None:
            return []
        return [Say(batch.to, Push(said=batch.said, groups=(batch.group,)))]

    # -- what replicas say --------------------------------------------------------------------

    def _batch_of(self, peer: bytes, group: int, digest: bytes) -> Batch | None:
        return self._batches.sent(group, digest) if self._replica(peer, group) else None

    def _replica(self, peer: bytes, group: int) -> bool:
        return peer in self.primaries.replicas(group)

    def _acked(self, peer: bytes, said: Acked) -> Effects:
        batch = self._batch_of(peer, said.group, said.digest)
        if batch is None:
            return []
        batch.state = "done"
        if isinstance(batch.said, Sum):
            self._last[batch.group] = batch.said
        return [Say(learner, self._ack(made)) for learner, (_, made) in batch.claims.items()]

    def _was_refused(self, peer: bytes, said: Refused, now_ms: int) -> Effects:
        batch = self._batch_of(peer, said.group, said.digest)
        effects: Effects = []
        if batch is None:
            return effects
        match said.reason:
            case "overlap":
                effects = self._overlapped(batch, said.learners, now_ms)
            case "not-leading" | "not-here":
                effects += [Say(to, where) for to, where in self.primaries.ask(said.group)]
            case "base" | "stale" | "full" | "malformed" | "duplicate":
                self._batches.remove(batch)
                effects += [
                    Say(learner, msgspec.structs.replace(said, digest=made.digest, learners=()))
                    for learner, (_, made) in batch.claims.items()
                ]
        return effects

    def _overlapped(self, batch: Batch, learners: tuple[bytes, ...], now_ms: int) -> Effects:
        """Of these another delta, or this one by another way, was taken before: without them. Only
        the primary knows which, so they are not told Acked."""
        gone = batch.without(learners)
        if not gone:
            return self._dissolve(batch, "full")
        effects: Effects = [
            Say(learner, self._refused(made, "duplicate")) for learner, made in gone
        ]
        if batch.claims:
            return [*effects, *self._combine(batch, now_ms)]
        self._batches.remove(batch)
        return effects

    def _here(self, peer: bytes, said: Here, now_ms: int) -> Effects:
        if not self.primaries.hear(peer, said):
            return []
        effects: Effects = [*self._relays.watch(now_ms)]
        for batch in self._batches:
            if batch.group == said.group and batch.state == "sent":
                effects += self._push(batch, now_ms)
        return effects

    # -- rounds, and what is asked ------------------------------------------------------------

    def _records(self, message: Records) -> Effects:
        effects: Effects = [*self._relays.hear(message)]
        relay = self._relays.of(message.group)
        if relay is not None and relay.number is not None:
            self._batches.forget(message.group, relay.number - 1)
        return effects

    def _prove(self, peer: bytes, message: Prove) -> Effects:
        proof = self._kept.proof(message.digest)
        return [] if proof is None else [Say(peer, proof)]

    # -- time ---------------------------------------------------------------------------------

    def _tick(self, now_ms: int) -> Effects:
        effects: Effects = [*self._relays.tick(now_ms)]
        for batch in self._batches:
            if batch.state != "sent" or batch.at + SUM_ACK_MS > now_ms:
                continue
            batch.tries += 1
            if batch.tries > MAX_TRIES:
                effects += self._dissolve(batch, "full")
                continue
            effects += self._push(batch, now_ms)
            effects += [Say(to, where) for to, where in self.primaries.ask(batch.group)]
        return [*effects, *self._kept.forget(now_ms)]

    def next_wake(self, now_ms: int) -> int | None:
        """When a Tick is wanted, in ms of the same clock."""
        times = [self._relays.due] if self._relays.due else []
        for batch in self._batches:
            if batch.is_open:
                times.append(self._batches.due(batch, now_ms))
            elif batch.state == "sent":
                times.append(batch.at + SUM_ACK_MS)
        times += [] if self._kept.due is None else [self._kept.due]
        return min(times, default=None)
